/* vpdpbusd alone, on registers: twelve sums, so that none waits for itself; they are used, so that the compiler keeps
 * the instructions. The other limits are those of avx2_probe.c.
 */
#include "avxvnni.h"

#include "avx2_dot.h"

enum { SUMS = 12 };

double avxvnni_probe_int8(size_t steps) {
    const __m256i operand = _mm256_set1_epi32((int)steps);
    __m256i s[SUMS];
    for (int i = 0; i < SUMS; i++)
        s[i] = _mm256_set1_epi32(i);
    for (size_t step = 0; step < steps; step++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            s[i] = add_products(s[i], operand, operand);
    for (int i = 1; i < SUMS; i++)
        s[0] = _mm256_add_epi32(s[0], s[i]);
    volatile int32_t kept = _mm256_extract_epi32(s[0], 0);
    (void)kept;
    return SUMS * 32.0 * (double)steps;
}
