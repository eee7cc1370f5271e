/* Many rows of x, int8, NEON. A panel holds 16 rows of the weight, one to a lane of four bytes of four registers: step
 * (w, p) is the codes in bits 2p and 2p + 1 of the four bytes of word w, as int8, and meets four activations that lie
 * side by side in the planes of neon_few.c. A register of these serves four words, a lane each: sdot takes one lane for
 * all rows of the weight. Four words of a plane and 4 rows of x are 64 sdot and 20 loads, with 16 sums, 4 registers of
 * activations and one of codes in the 32 registers.
 */
#include "neon.h"
#include "parts.h"

enum { X_ROWS = 4, STEP_BYTES = 4 * NEON_ROWS };

/* Shifts, first left, then right with the sign, bring a code of two bits to a byte. */
INLINE int8x16_t code_of_plane(uint8x16_t word, int p) {
    int8x16_t top = vreinterpretq_s8_u8(vshlq_u8(word, vdupq_n_s8((int8_t)(6 - 2 * p))));
    return vshrq_n_s8(top, 6);
}

void neon_unpack_a8(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                    void *panel) {
    prefetch_tile(next, row_bytes, rows, bytes);
    for (size_t row = 0; row < rows; row += 4)
        for (size_t word = 0; 4 * word < bytes; word += 4) {
            uint32x4_t words[4];
            int8_t *to = (int8_t *)panel + 4 * STEP_BYTES * word + 4 * row;
            load_words(codes + row * row_bytes + 4 * word, row_bytes, rows - row, bytes - 4 * word, words);
#pragma GCC unroll 4
            for (int w = 0; w < 4; w++)
#pragma GCC unroll 4
                for (int p = 0; p < 4; p++, to += STEP_BYTES)
                    vst1q_s8(to, code_of_plane(vreinterpretq_u8_u32(words[w]), p));
        }
}

INLINE int32x4_t dot_lane(int32x4_t sum, int8x16_t codes, int8x16_t x, int lane) {
    switch (lane) {
    case 0: sum = vdotq_laneq_s32(sum, codes, x, 0); break;
    case 1: sum = vdotq_laneq_s32(sum, codes, x, 1); break;
    case 2: sum = vdotq_laneq_s32(sum, codes, x, 2); break;
    default: sum = vdotq_laneq_s32(sum, codes, x, 3);
    }
    BARRIER(sum);
    return sum;
}

/* Four words, which begin where the planes do. */
INLINE void step_of_four(const int8_t *panel, const int8_t *x, size_t stride, size_t rows, int32x4_t s[][4]) {
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
        int8x16_t activations[X_ROWS];
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++)
            activations[r] = vld1q_s8(x + r * stride + 16 * p);
#pragma GCC unroll 4
        for (int w = 0; w < 4; w++)
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                int8x16_t t = vld1q_s8(panel + (4 * w + p) * STEP_BYTES + 16 * g);
#pragma GCC unroll 4
                for (size_t r = 0; r < rows; r++)
                    s[r][g] = dot_lane(s[r][g], t, activations[r], w);
            }
    }
}

/* One word, at the ends of groups that are no multiple of four words. */
INLINE void step_of_one(const int8_t *panel, const int8_t *x, size_t stride, size_t rows, int32x4_t s[][4]) {
    for (int p = 0; p < 4; p++)
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, x + r * stride + 16 * p, 4);
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                int8x16_t t = vld1q_s8(panel + p * STEP_BYTES + 16 * g);
                s[r][g] = dot(s[r][g], t, vreinterpretq_s8_s32(vdupq_n_s32(four)));
            }
        }
}

INLINE void run(const int8_t *panel, const int8_t *x, size_t stride, size_t rows, size_t first, size_t end,
                int32_t *sums) {
    int32x4_t s[X_ROWS][4];
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++)
            s[r][g] = vld1q_s32(sums + r * NEON_ROWS + 4 * g);
    for (size_t word = first; word < end;) {
        const int8_t *codes = panel + 4 * STEP_BYTES * word, *at = x + 64 * (word / 4) + 4 * (word % 4);
        if (word % 4 == 0 && end - word >= 4) {
            step_of_four(codes, at, stride, rows, s);
            word += 4;
        } else {
            step_of_one(codes, at, stride, rows, s);
            word++;
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++)
            vst1q_s32(sums + r * NEON_ROWS + 4 * g, s[r][g]);
}

void neon_multiply_a8(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                      void *sums) {
#define OF_PART(part, done)                                                                                            \
    run(panel, (const int8_t *)prepared + done * stride, stride, part, first, end, (int32_t *)sums + done * NEON_ROWS)
    IN_PARTS(rows, X_ROWS, OF_PART)
#undef OF_PART
}
