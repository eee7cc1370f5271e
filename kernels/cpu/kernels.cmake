# The kernels, for the extension module here and for the program in tests/kernels/cpu/check.
find_package(Threads REQUIRED)

function(ternfmt_add_kernels target)
  macro(files list)
    set(${list} ${ARGN})
    list(TRANSFORM ${list} PREPEND ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/)
  endmacro()
  files(shared matmul.c few.c many.c pool.c sets.c scalar.c)
  files(avx2 avx2_few.c avx2_many_a8.c avx2_many_a16.c avx2_probe.c avx2_rows.c)
  files(avx512 avx512_few.c avx512_many_a8.c avx512_many_a16.c avx512_probe.c avx512_rows.c)
  files(avxvnni avxvnni_few.c avxvnni_many_a8.c avxvnni_probe.c avxvnni_rows.c) # and what avx2 has
  files(neon neon_few.c neon_many_a8.c neon_many_a16.c neon_probe.c neon_rows.c)
  target_sources(${target} PRIVATE ${shared})
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_FUNCTION_LIST_DIR})
  target_link_libraries(${target} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  ternfmt_add_set(
    ${target} avx2
    PROCESSOR x86_64|AMD64
    HEADER immintrin.h
    OPTIONS -mavx2 -mfma -mf16c
    TUNING -fno-tree-reassoc
    USES "_mm256_abs_epi8(_mm256_setzero_si256())" "_mm256_cvtph_ps(_mm_setzero_si128())"
         "_mm256_fmadd_ps(_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps())"
    SOURCES ${avx2})
  ternfmt_add_set(
    ${target} avxvnni
    PROCESSOR x86_64|AMD64
    HEADER immintrin.h
    OPTIONS -mavx2 -mfma -mf16c -mavxvnni
    TUNING -fno-tree-reassoc
    EMULATED -mavx2 -mfma -mf16c -O1 -Wno-psabi
    USES "_mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256())"
    SOURCES ${avxvnni})
  ternfmt_add_set(
    ${target} avx512
    PROCESSOR x86_64|AMD64
    HEADER immintrin.h
    OPTIONS -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
    EMULATED -mavx2 -mfma -mf16c -O1 -Wno-psabi
    USES "_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512())"
         "__builtin_cpu_supports(\"avx512vnni\")"
    SOURCES ${avx512})
  ternfmt_add_set(
    ${target} neon
    PROCESSOR aarch64|arm64
    HEADER arm_neon.h
    OPTIONS -march=armv8.2-a+dotprod
    TUNING -fno-schedule-insns # which lengthens lives until sums are spilled
    USES "vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(0), vdupq_n_s8(0))"
    SOURCES ${neon})
endfunction()
