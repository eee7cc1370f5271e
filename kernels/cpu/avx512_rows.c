/* Loops over rows of floats, AVX-512: those of rows.h, with instructions for float16; and the table of the set. */
#include "avx512.h"
#include "rows.h"

static bool has_avx512(void) {
#ifdef TERNFMT_EMULATE
    return true;
#else
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
#endif
}

static void widen(const void *values, Dtype dtype, ptrdiff_t stride, size_t count, float *to) {
    size_t i = 0;
    if (dtype == FLOAT16 && stride == 1)
        for (; i + 16 <= count; i += 16)
            _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)((const uint16_t *)values + i))));
    widen_row((const char *)values + (ptrdiff_t)(i * dtype_bytes(dtype)), dtype, stride, count - i, to + i);
}

static void narrow(const float *values, size_t count, Dtype dtype, void *to) {
    size_t i = 0;
    if (dtype == FLOAT16)
        for (; i + 16 <= count; i += 16)
            _mm256_storeu_si256((void *)((uint16_t *)to + i),
                                _mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
    narrow_row(values + i, count - i, dtype, (char *)to + i * dtype_bytes(dtype));
}

const Kernels avx512_kernels = {
    .name = "avx512vnni",
    .features = "avx512f avx512bw avx512dq avx512vl avx512vnni",
    .supported = has_avx512,
    .words_multiple = 16,
    .widen = widen,
    .narrow = narrow,
    ROW_KERNELS,
    .stream_a8 = {.most = AVX512_FEW_A8, .word_bytes = 16, .offset = 2, .prepare = avx512_planes_of_bytes,
                  .multiply = avx512_stream_a8},
    .stream_a16 = {.most = AVX512_FEW_A16, .word_bytes = 64, .factor = 0.5f, .prepare = avx512_planes_of_floats,
                   .multiply = avx512_stream_a16},
    .tiles_a8 = {.rows = AVX512_ROWS, .words = AVX512_A8_WORDS, .block = 192,
                 .panel_bytes = AVX512_A8_WORDS * AVX512_ROWS * WORD_CODES, .word_bytes = 16, .offset = 2,
                 .prepare = avx512_planes_of_bytes, .unpack = avx512_unpack_a8, .multiply = avx512_multiply_a8},
    .tiles_a16 = {.rows = AVX512_ROWS, .words = AVX512_A16_WORDS, .block = 192,
                  .panel_bytes = 4 * AVX512_A16_WORDS * AVX512_ROWS * WORD_CODES, .word_bytes = 64, .factor = 0.5f,
                  .prepare = avx512_floats, .unpack = avx512_unpack_a16, .multiply = avx512_multiply_a16},
    .probe_int8 = avx512_probe_int8,
    .probe_float = avx512_probe_float,
    .probe_read = avx512_probe_read,
};
