/* What the files for x86-64 with AVX2 share. Only they are compiled for it; sets.c asks before it uses them. */
#ifndef TERNFMT_CPU_AVX2_H
#define TERNFMT_CPU_AVX2_H

#include "contract.h"

#include <immintrin.h>
#include <string.h>

/* avx2_few.c */
void avx2_planes_of_bytes(const float *x, size_t words, void *prepared);
void avx2_planes_of_floats(const float *x, size_t words, void *prepared);
void avx2_stream_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                    size_t stride, size_t rows, void *sums);
void avx2_stream_a16(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                     size_t stride, size_t rows, void *sums);

/* avx2_many_a8.c */
#define AVX2_A8_WORDS 64 /* of a chunk */
void avx2_unpack_a8(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                    void *panel);
void avx2_multiply_a8(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                      void *sums);

/* avx2_many_a16.c */
#define AVX2_A16_WORDS 16
void avx2_floats(const float *x, size_t words, void *prepared);
void avx2_unpack_a16(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                     void *panel);
void avx2_multiply_a16(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                       void *sums);

/* avx2_probe.c */
double avx2_probe_int8(size_t steps);
double avx2_probe_float(size_t steps);
void avx2_probe_read(const void *data, size_t bytes, size_t streams);

#define AVX2_ROWS 16 /* of a tile: two registers of eight */

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *address) { return _mm256_loadu_si256(address); }
INLINE void store(void *address, __m256i value) { _mm256_storeu_si256(address, value); }

/* Up to 32 bytes; the others are 0. */
INLINE __m256i load_part(const uint8_t *bytes, size_t count) {
    uint8_t buffer[32] = {0};
    if (count >= 32)
        return load(bytes);
    memcpy(buffer, bytes, count);
    return load(buffer);
}

/* Lane i of words[j] and lane j of words[i] change places: 8 x 8 values of four bytes. */
INLINE void transpose(__m256i words[8]) {
    __m256i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(words[i], words[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(words[i], words[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        words[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        words[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

/* Words first .. first + 7 of eight rows, a register a word, a lane a row. Rows past the last repeat it. */
INLINE void load_words(const uint8_t *codes, size_t row_bytes, size_t rows, size_t first, size_t bytes,
                       __m256i words[8]) {
    const size_t start = 4 * first, left = bytes - start;
#pragma GCC unroll 8
    for (size_t row = 0; row < 8; row++) {
        const uint8_t *at = codes + (row < rows ? row : rows - 1) * row_bytes + start;
        words[row] = left >= 32 ? load(at) : load_part(at, left);
    }
    transpose(words);
}

/* The bytes of a tile that is unpacked next; a chunk of it is a few lines of each row. */
INLINE void prefetch_tile(const uint8_t *next, size_t row_bytes, size_t rows, size_t bytes) {
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)next + row * row_bytes + i, _MM_HINT_T0);
}

#endif
