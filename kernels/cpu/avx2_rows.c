/* Loops over rows of floats, AVX2: those of rows.h, with instructions for float16; and the table of the set. */
#include "avx2_dot.h"
#include "rows.h"

#include <cpuid.h>

#ifndef TERNFMT_VNNI
#define NAME "avx2"
#define DOT_FEATURES ""
#else
#define NAME "avxvnni"
#define DOT_FEATURES " avxvnni"
#endif

/* Features that __builtin_cpu_supports does not know in every compiler. The system saves what they use if it does for
 * AVX2, about which it is asked. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c >> 29 & 1;
}

static bool has_dot(void) {
#if defined TERNFMT_VNNI && !defined TERNFMT_EMULATE
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
#else
    return true;
#endif
}

static bool supported(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() && has_dot();
}

static void widen(const void *values, Dtype dtype, ptrdiff_t stride, size_t count, float *to) {
    size_t i = 0;
    if (dtype == FLOAT16 && stride == 1)
        for (; i + 8 <= count; i += 8)
            _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)((const uint16_t *)values + i))));
    widen_row((const char *)values + (ptrdiff_t)(i * dtype_bytes(dtype)), dtype, stride, count - i, to + i);
}

static void narrow(const float *values, size_t count, Dtype dtype, void *to) {
    size_t i = 0;
    if (dtype == FLOAT16)
        for (; i + 8 <= count; i += 8)
            _mm_storeu_si128((void *)((uint16_t *)to + i), _mm256_cvtps_ph(_mm256_loadu_ps(values + i), 0));
    narrow_row(values + i, count - i, dtype, (char *)to + i * dtype_bytes(dtype));
}

const Kernels avx2_kernels = {
    .name = NAME,
    .features = "avx2 fma f16c" DOT_FEATURES,
    .supported = supported,
    .words_multiple = 8,
    .widen = widen,
    .narrow = narrow,
    ROW_KERNELS,
    .stream_a8 = {.most = 16, .word_bytes = 16, .offset = 2, .prepare = avx2_planes_of_bytes,
                  .multiply = avx2_stream_a8},
    .stream_a16 = {.most = 8, .word_bytes = 64, .factor = 0.5f, .prepare = avx2_planes_of_floats,
                   .multiply = avx2_stream_a16},
    .tiles_a8 = {.rows = AVX2_ROWS, .words = AVX2_A8_WORDS, .block = 192,
                 .panel_bytes = AVX2_A8_WORDS * AVX2_ROWS * WORD_CODES, .word_bytes = 16, .offset = 1,
                 .prepare = avx2_planes_of_bytes, .unpack = avx2_unpack_a8, .multiply = avx2_multiply_a8},
    .tiles_a16 = {.rows = AVX2_ROWS, .words = AVX2_A16_WORDS, .block = 192,
                  .panel_bytes = 4 * AVX2_A16_WORDS * AVX2_ROWS * WORD_CODES, .word_bytes = 64, .factor = 0.5f,
                  .prepare = avx2_floats, .unpack = avx2_unpack_a16, .multiply = avx2_multiply_a16},
    .probe_int8 = avx2_probe_int8,
    .probe_float = avx2_probe_float,
    .probe_read = avx2_probe_read,
};
