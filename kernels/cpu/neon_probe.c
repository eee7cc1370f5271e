/* What the processor can do at most, for benchmarks to compare with: the instructions of the inner loops alone, on
 * registers. Sixteen sums, so that none waits for itself; they are used, so that the compiler keeps the instructions.
 */
#include "neon.h"

enum { SUMS = 16 };

double neon_probe_int8(size_t steps) {
    const int8x16_t operand = vdupq_n_s8((int8_t)steps);
    int32x4_t s[SUMS];
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++)
        s[i] = vdupq_n_s32(i);
    for (size_t step = 0; step < steps; step++)
#pragma GCC unroll 16
        for (int i = 0; i < SUMS; i++)
            s[i] = dot(s[i], operand, operand);
#pragma GCC unroll 16
    for (int i = 1; i < SUMS; i++)
        s[0] = vaddq_s32(s[0], s[i]);
    volatile int32_t kept = vgetq_lane_s32(s[0], 0);
    (void)kept;
    return SUMS * 16.0 * (double)steps;
}

/* Sums stay near 1: numbers that are subnormal, infinite or NaN may be slower. */
double neon_probe_float(size_t steps) {
    const float32x4_t operand = vdupq_n_f32(1e-10f / (float)(steps + 1));
    float32x4_t s[SUMS];
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++)
        s[i] = vdupq_n_f32(1 + (float)i);
    for (size_t step = 0; step < steps; step++)
#pragma GCC unroll 16
        for (int i = 0; i < SUMS; i++)
            s[i] = multiply_add(s[i], operand, operand);
#pragma GCC unroll 16
    for (int i = 1; i < SUMS; i++)
        s[0] = vaddq_f32(s[0], s[i]);
    volatile float kept = vgetq_lane_f32(s[0], 0);
    (void)kept;
    return SUMS * 4.0 * (double)steps;
}

void neon_probe_read(const void *data, size_t bytes, size_t streams) {
    uint8x16_t s[4];
    for (int i = 0; i < 4; i++)
        s[i] = vdupq_n_u8(0);
    for (size_t i = 0, part = bytes / streams; i + 64 <= part; i += 64)
        for (const uint8_t *at = data, *end = at + streams * part; at < end; at += part)
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                s[j] = veorq_u8(s[j], vld1q_u8(at + i + 16 * j));
    for (int i = 1; i < 4; i++)
        s[0] = veorq_u8(s[0], s[i]);
    volatile uint8_t kept = vgetq_lane_u8(s[0], 0);
    (void)kept;
}
