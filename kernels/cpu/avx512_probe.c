/* What the processor can do at most, for benchmarks to compare with: the instructions of the inner loops alone, on
 * registers. Twelve sums, so that none waits for itself; they are used, so that the compiler keeps the instructions.
 */
#include "avx512.h"

enum { SUMS = 12 };

double avx512_probe_int8(size_t steps) {
    const __m512i operand = _mm512_set1_epi32((int)steps);
    __m512i s[SUMS];
    for (int i = 0; i < SUMS; i++)
        s[i] = _mm512_set1_epi32(i);
    for (size_t step = 0; step < steps; step++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            s[i] = dot(s[i], operand, operand);
    for (int i = 1; i < SUMS; i++)
        s[0] = _mm512_add_epi32(s[0], s[i]);
    volatile int32_t kept = _mm_cvtsi128_si32(_mm512_castsi512_si128(s[0]));
    (void)kept;
    return SUMS * 64.0 * (double)steps;
}

/* Sums stay near 1: numbers that are subnormal, infinite or NaN may be slower. */
double avx512_probe_float(size_t steps) {
    const __m512 operand = _mm512_set1_ps(1e-10f / (float)(steps + 1));
    __m512 s[SUMS];
    for (int i = 0; i < SUMS; i++)
        s[i] = _mm512_set1_ps(1 + (float)i);
    for (size_t step = 0; step < steps; step++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            s[i] = multiply_add(operand, operand, s[i]);
    for (int i = 1; i < SUMS; i++)
        s[0] = _mm512_add_ps(s[0], s[i]);
    volatile float kept = _mm_cvtss_f32(_mm512_castps512_ps128(s[0]));
    (void)kept;
    return SUMS * 16.0 * (double)steps;
}

void avx512_probe_read(const void *data, size_t bytes, size_t streams) {
    __m512i s[4];
    for (int i = 0; i < 4; i++)
        s[i] = _mm512_setzero_si512();
    for (size_t i = 0, part = bytes / streams; i + 256 <= part; i += 256)
        for (const char *at = data, *end = at + streams * part; at < end; at += part)
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                s[j] = _mm512_xor_si512(s[j], load(at + i + 64 * j));
    for (int i = 1; i < 4; i++)
        s[0] = _mm512_xor_si512(s[0], s[i]);
    volatile int32_t kept = _mm_cvtsi128_si32(_mm512_castsi512_si128(s[0]));
    (void)kept;
}
