/* Many rows of x, not quantised, NEON. A panel holds, for every column, 16 codes as floats; four columns and 4 rows of
 * x are 64 multiply-adds, which take one lane of activations for all rows of the weight, and 20 loads, with 16 sums, 4
 * registers of activations and one of codes.
 */
#include "neon.h"
#include "parts.h"

enum { X_ROWS = 4 };

void neon_floats(const float *x, size_t words, void *prepared) {
    memcpy(prepared, x, words * WORD_CODES * sizeof *x);
}

/* The two bits of a code, shifted to the top of a word, are the sign and the highest bit of the exponent of a float:
 * 0, +2.0 or -2.0. */
void neon_unpack_a16(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                     void *panel) {
    const uint32x4_t mask = vdupq_n_u32(0xC0000000);
    prefetch_tile(next, row_bytes, rows, bytes);
    for (size_t row = 0; row < rows; row += 4)
        for (size_t word = 0; 4 * word < bytes; word += 4) {
            uint32x4_t words[4];
            uint32_t *to = (uint32_t *)panel + word * WORD_CODES * NEON_ROWS + row;
            load_words(codes + row * row_bytes + 4 * word, row_bytes, rows - row, bytes - 4 * word, words);
            for (int w = 0; w < 4; w++)
#pragma GCC unroll 16
                for (int q = 0; q < 16; q++, to += NEON_ROWS)
                    vst1q_u32(to, vandq_u32(vshlq_u32(words[w], vdupq_n_s32(30 - 2 * q)), mask));
        }
}

INLINE float32x4_t multiply_add_lane(float32x4_t sum, float32x4_t t, float32x4_t x, int lane) {
    switch (lane) {
    case 0: sum = vfmaq_laneq_f32(sum, t, x, 0); break;
    case 1: sum = vfmaq_laneq_f32(sum, t, x, 1); break;
    case 2: sum = vfmaq_laneq_f32(sum, t, x, 2); break;
    default: sum = vfmaq_laneq_f32(sum, t, x, 3);
    }
    BARRIER(sum);
    return sum;
}

/* Columns first <= i < end, multiples of 16. */
INLINE void run(const float *panel, const float *x, size_t stride, size_t rows, size_t first, size_t end,
                float *sums) {
    float32x4_t s[X_ROWS][4];
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++)
            s[r][g] = vdupq_n_f32(0);
    for (size_t i = first; i < end; i += 4) {
        float32x4_t activations[X_ROWS];
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++)
            activations[r] = vld1q_f32(x + r * stride + i);
#pragma GCC unroll 4
        for (size_t lane = 0; lane < 4; lane++)
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                float32x4_t t = vld1q_f32(panel + (i + lane) * NEON_ROWS + 4 * g);
#pragma GCC unroll 4
                for (size_t r = 0; r < rows; r++)
                    s[r][g] = multiply_add_lane(s[r][g], t, activations[r], (int)lane);
            }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            float *to = sums + r * NEON_ROWS + 4 * g;
            vst1q_f32(to, vaddq_f32(vld1q_f32(to), s[r][g]));
        }
}

void neon_multiply_a16(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                       void *sums) {
    first *= WORD_CODES, end *= WORD_CODES, stride /= sizeof(float);
#define OF_PART(part, done)                                                                                            \
    run(panel, (const float *)prepared + done * stride, stride, part, first, end, (float *)sums + done * NEON_ROWS)
    IN_PARTS(rows, X_ROWS, OF_PART)
#undef OF_PART
}
