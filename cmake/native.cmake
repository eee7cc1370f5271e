# How native code is compiled: the two extension modules, and the program that checks the kernels without Python.

# C11. Portable: no -march and no -ffast-math. A fused multiply-add rounds once where definitions round twice.
# TERNFMT_SANITIZE lists sanitizers: address,undefined or thread.
function(ternfmt_native_options target)
  set_target_properties(
    ${target} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF C_VISIBILITY_PRESET hidden)
  if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
    target_compile_options(${target} PRIVATE -O3 -ffp-contract=off -Wall -Wextra)
  endif()
  if(TERNFMT_SANITIZE)
    target_compile_options(${target} PRIVATE -g -O1 -fsanitize=${TERNFMT_SANITIZE} -fno-sanitize-recover=undefined)
    target_link_options(${target} PRIVATE -fsanitize=${TERNFMT_SANITIZE})
  endif()
endfunction()

# The files of an instruction set, compiled with OPTIONS for it, and TERNFMT_<SET> for the table that lists them: where
# the processor is of the kind PROCESSOR, and the compiler has the options and the intrinsics USES of HEADER; else a
# warning. The table asks the machine before a file is used. TUNING is for GCC alone; what others make of a file is as
# right, and they refuse options that they do not know. TERNFMT_EMULATE compiles sets that have EMULATED options with
# these instead, and replaces their instructions by others.
function(ternfmt_add_set target set)
  cmake_parse_arguments(arg "" "PROCESSOR;HEADER" "OPTIONS;TUNING;EMULATED;USES;SOURCES" ${ARGN})
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(${arg_PROCESSOR})$")
    return()
  endif()
  if(TERNFMT_EMULATE AND arg_EMULATED)
    set(arg_OPTIONS -DTERNFMT_EMULATE ${arg_EMULATED})
    set(arg_USES)
  elseif(CMAKE_C_COMPILER_ID STREQUAL GNU)
    list(APPEND arg_OPTIONS ${arg_TUNING})
  endif()
  string(REPLACE ";" " " CMAKE_REQUIRED_FLAGS "${arg_OPTIONS}")
  string(TOUPPER TERNFMT_${set} macro)
  string(TOUPPER ${macro}_FOR_${target} compiles) # targets want different things of a set
  list(TRANSFORM arg_USES PREPEND "(void)")
  list(JOIN arg_USES "; " uses)
  if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
    check_c_source_compiles("#include <${arg_HEADER}>\nint main(void) { ${uses}; return 0; }" ${compiles})
  endif()
  if(${compiles})
    target_sources(${target} PRIVATE ${arg_SOURCES})
    target_compile_definitions(${target} PRIVATE ${macro})
    set_source_files_properties(${arg_SOURCES} PROPERTIES COMPILE_OPTIONS "${arg_OPTIONS}")
  else()
    message(WARNING "${set}: left out, because ${CMAKE_C_COMPILER} cannot compile it (${CMAKE_REQUIRED_FLAGS})")
  endif()
endfunction()

include(CheckCSourceCompiles)
