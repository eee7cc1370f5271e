/* What the files for AArch64 with the dot products of int8 (ARMv8.2 dotprod) share. Only they are compiled for it;
 * sets.c asks before they are used. They were tested under qemu (`make emulate`), and never timed.
 */
#ifndef TERNFMT_CPU_NEON_H
#define TERNFMT_CPU_NEON_H

#include "contract.h"

#include <arm_neon.h>
#include <string.h>

/* neon_few.c */
#define NEON_FEW 4
void neon_planes_of_bytes(const float *x, size_t words, void *prepared);
void neon_planes_of_floats(const float *x, size_t words, void *prepared);
void neon_stream_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                    size_t stride, size_t rows, void *sums);
void neon_stream_a16(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                     size_t stride, size_t rows, void *sums);

/* neon_many_a8.c */
#define NEON_A8_WORDS 64 /* of a chunk */
void neon_unpack_a8(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                    void *panel);
void neon_multiply_a8(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                      void *sums);

/* neon_many_a16.c */
#define NEON_A16_WORDS 16
void neon_floats(const float *x, size_t words, void *prepared);
void neon_unpack_a16(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                     void *panel);
void neon_multiply_a16(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                       void *sums);

/* neon_probe.c */
double neon_probe_int8(size_t steps);
double neon_probe_float(size_t steps);
void neon_probe_read(const void *data, size_t bytes, size_t streams);

#define NEON_ROWS 16 /* of a tile: four registers of four */

#define INLINE static inline __attribute__((always_inline))
#define BARRIER(value) __asm__("" : "+w"(value))

/* A barrier after each: GCC 12 would reorder the sums of whole loops. */
INLINE int32x4_t dot(int32x4_t sum, int8x16_t codes, int8x16_t x) {
    sum = vdotq_s32(sum, codes, x);
    BARRIER(sum);
    return sum;
}

INLINE float32x4_t multiply_add(float32x4_t sum, float32x4_t a, float32x4_t b) {
    sum = vfmaq_f32(sum, a, b);
    BARRIER(sum);
    return sum;
}

/* Up to 16 bytes; the others are 0. */
INLINE uint8x16_t load_part(const uint8_t *bytes, size_t count) {
    uint8_t buffer[16] = {0};
    if (count >= 16)
        return vld1q_u8(bytes);
    memcpy(buffer, bytes, count);
    return vld1q_u8(buffer);
}

/* Lane i of words[j] and lane j of words[i] change places: 4 x 4 values of four bytes. */
INLINE void transpose(uint32x4_t words[4]) {
    uint32x4x2_t a = vzipq_u32(words[0], words[2]), b = vzipq_u32(words[1], words[3]);
    uint32x4x2_t low = vzipq_u32(a.val[0], b.val[0]), high = vzipq_u32(a.val[1], b.val[1]);
    words[0] = low.val[0], words[1] = low.val[1], words[2] = high.val[0], words[3] = high.val[1];
}

/* Four words of four rows of codes, of which `bytes` bytes are left: a register a word, a lane a row. Rows past the
 * last repeat it. */
INLINE void load_words(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, uint32x4_t words[4]) {
    for (size_t row = 0; row < 4; row++)
        words[row] = vreinterpretq_u32_u8(load_part(codes + (row < rows ? row : rows - 1) * row_bytes, bytes));
    transpose(words);
}

/* The bytes of a tile that is unpacked next; a chunk of it is a few lines of each row. */
INLINE void prefetch_tile(const uint8_t *next, size_t row_bytes, size_t rows, size_t bytes) {
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < bytes; i += 64)
            __builtin_prefetch(next + row * row_bytes + i);
}

#endif
