/* Few rows of x, NEON. 16 bytes of codes are 64 codes: those in bits 2p and 2p + 1 of the bytes, p = 0 .. 3, are 16
 * that meet activations 4i + p. So each 64 activations are laid out once as four planes of 16, and the bytes need no
 * shuffling. Floats: four words of four bytes are sixteen planes of four, activations 16i + q. Four rows of the weight
 * at once share what is loaded of x, and their sums end in the four lanes of a register.
 */
#include "neon.h"

enum { OUTPUTS = 4 };

#define BYTES_FIT ((size_t)1 << 18) /* whose sums, times 64, are an int32: BYTES_FIT / 16 * (16 * 64 * 127) < 2^31 */

void neon_planes_of_bytes(const float *x, size_t words, void *prepared) {
    for (size_t word = 0; word < words; word += 4, x += 64) {
        int8_t bytes[64];
        for (int i = 0; i < 64; i++)
            bytes[i] = (int8_t)x[i];
        int8x16x4_t planes = vld4q_s8(bytes);
        for (int p = 0; p < 4; p++)
            vst1q_s8((int8_t *)prepared + word * 16 + p * 16, planes.val[p]);
    }
}

void neon_planes_of_floats(const float *x, size_t words, void *prepared) {
    for (size_t word = 0; word < words; word += 4, x += 64)
        for (size_t q = 0; q < 16; q += 4) {
            uint32x4_t planes[4];
            for (size_t i = 0; i < 4; i++)
                planes[i] = vreinterpretq_u32_f32(vld1q_f32(x + 16 * i + q));
            transpose(planes);
            for (size_t p = 0; p < 4; p++)
                vst1q_f32((float *)prepared + word * 16 + (q + p) * 4, vreinterpretq_f32_u32(planes[p]));
        }
}

/* The two topmost bits of a byte, and nothing below, are 64 times the code, in two's complement. A shift brings the
 * next code there, that of the plane before. */
INLINE void step_a8(uint8x16_t words[OUTPUTS], const char *x, size_t stride, size_t rows, int32x4_t sums[][OUTPUTS]) {
    const uint8x16_t mask = vdupq_n_u8(0xC0);
#pragma GCC unroll 4
    for (int p = 3; p >= 0; p--) {
        int8x16_t t[OUTPUTS];
#pragma GCC unroll 4
        for (int j = 0; j < OUTPUTS; j++) {
            t[j] = vreinterpretq_s8_u8(vandq_u8(words[j], mask));
            words[j] = vshlq_n_u8(words[j], 2);
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            int8x16_t activations = vld1q_s8((const int8_t *)x + r * stride + 16 * p);
#pragma GCC unroll 4
            for (int j = 0; j < OUTPUTS; j++)
                sums[r][j] = dot(sums[r][j], t[j], activations);
        }
    }
}

/* The sums of the lanes of four registers. */
INLINE int32x4_t sums_of_lanes(const int32x4_t v[OUTPUTS]) {
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

/* The products of four rows of the weight, divided by 64 before they can overflow, to sums[r * count] and what follows,
 * `left` of them at most. */
INLINE void rows_a8(const uint8_t *const codes[OUTPUTS], size_t bytes, const char *x, size_t stride, size_t rows,
                    size_t left, int32_t *sums, size_t count) {
    int32x4_t totals[NEON_FEW], lanes[NEON_FEW][OUTPUTS];
    for (size_t r = 0; r < rows; r++)
        totals[r] = vdupq_n_s32(0);
    for (size_t i = 0; i < bytes;) {
        const size_t end = smaller(i + BYTES_FIT, bytes);
        uint8x16_t words[OUTPUTS];
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++)
            lanes[r][0] = lanes[r][1] = lanes[r][2] = lanes[r][3] = vdupq_n_s32(0);
        for (; i + 16 <= end; i += 16) {
#pragma GCC unroll 4
            for (int j = 0; j < OUTPUTS; j++)
                words[j] = vld1q_u8(codes[j] + i);
            step_a8(words, x + 4 * i, stride, rows, lanes);
        }
        if (i < end) {
            for (int j = 0; j < OUTPUTS; j++)
                words[j] = load_part(codes[j] + i, end - i);
            step_a8(words, x + 4 * i, stride, rows, lanes);
            i = end;
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 4
            for (int j = 0; j < OUTPUTS; j++)
                lanes[r][j] = vshrq_n_s32(lanes[r][j], 6);
            totals[r] = vaddq_s32(totals[r], sums_of_lanes(lanes[r]));
        }
    }
    for (size_t r = 0; r < rows; r++)
        memcpy(sums + r * count, &totals[r], smaller(OUTPUTS, left) * sizeof *sums);
}

/* The two topmost bits of a word are the sign and the highest bit of the exponent of a float: 0, +2.0 or -2.0. A shift
 * brings the next code there, that of the plane before. */
INLINE void step_a16(uint32x4_t words[OUTPUTS], const char *x, size_t stride, size_t rows,
                     float32x4_t sums[][OUTPUTS]) {
    const uint32x4_t mask = vdupq_n_u32(0xC0000000);
#pragma GCC unroll 4
    for (int q = 15; q >= 0; q--) {
        float32x4_t t[OUTPUTS];
#pragma GCC unroll 4
        for (int j = 0; j < OUTPUTS; j++) {
            t[j] = vreinterpretq_f32_u32(vandq_u32(words[j], mask));
            words[j] = vshlq_n_u32(words[j], 2);
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            float32x4_t activations = vld1q_f32((const float *)(x + r * stride) + 4 * q);
#pragma GCC unroll 4
            for (int j = 0; j < OUTPUTS; j++)
                sums[r][j] = multiply_add(sums[r][j], t[j], activations);
        }
    }
}

INLINE void rows_a16(const uint8_t *const codes[OUTPUTS], size_t bytes, const char *x, size_t stride, size_t rows,
                     size_t left, float *sums, size_t count) {
    float32x4_t lanes[NEON_FEW][OUTPUTS];
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
        lanes[r][0] = lanes[r][1] = lanes[r][2] = lanes[r][3] = vdupq_n_f32(0);
    for (size_t i = 0; i < bytes; i += 16) {
        uint32x4_t words[OUTPUTS];
#pragma GCC unroll 4
        for (int j = 0; j < OUTPUTS; j++)
            words[j] = vreinterpretq_u32_u8(load_part(codes[j] + i, bytes - i));
        step_a16(words, x + 16 * i, stride, rows, lanes);
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++) {
        float32x4_t four = vpaddq_f32(vpaddq_f32(lanes[r][0], lanes[r][1]), vpaddq_f32(lanes[r][2], lanes[r][3]));
        memcpy(sums + r * count, &four, smaller(OUTPUTS, left) * sizeof *sums);
    }
}

/* Rows of the weight in fours; past the last row, that row again. The compiler unrolls each number of rows of x. */
#define STREAM(NAME, ROWS_OF, TYPE)                                                                                    \
    void NAME(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *x, size_t stride,        \
              size_t rows, void *sums) {                                                                               \
        for (size_t i = 0; i < count; i += OUTPUTS) {                                                                  \
            TYPE *to = (TYPE *)sums + i;                                                                               \
            const uint8_t *four[OUTPUTS];                                                                              \
            for (size_t j = 0; j < OUTPUTS; j++)                                                                       \
                four[j] = codes + smaller(i + j, count - 1) * row_bytes;                                               \
            switch (rows) {                                                                                            \
            case 1: ROWS_OF(four, bytes, x, stride, 1, count - i, to, count); break;                                   \
            case 2: ROWS_OF(four, bytes, x, stride, 2, count - i, to, count); break;                                   \
            case 3: ROWS_OF(four, bytes, x, stride, 3, count - i, to, count); break;                                   \
            default: ROWS_OF(four, bytes, x, stride, 4, count - i, to, count);                                         \
            }                                                                                                          \
        }                                                                                                              \
    }

STREAM(neon_stream_a8, rows_a8, int32_t)
STREAM(neon_stream_a16, rows_a16, float)
