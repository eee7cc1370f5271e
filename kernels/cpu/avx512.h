/* What the files for x86-64 with AVX-512 share. Only they are compiled for it; sets.c asks before they are used.
 *
 * No machine with AVX-512 was at hand: they have never run on one. Every test ran on an emulation of their
 * instructions (`make emulate`, which defines TERNFMT_EMULATE), and what GCC makes of the loops was read.
 */
#ifndef TERNFMT_CPU_AVX512_H
#define TERNFMT_CPU_AVX512_H

#include "contract.h"

#include <string.h>

#ifdef TERNFMT_EMULATE
#include "emulate.h"
#define BARRIER(value) (void)0
#else
#include <immintrin.h>
#define BARRIER(value) __asm__("" : "+v"(value))
#endif

/* avx512_few.c */
#define AVX512_FEW_A8 8
#define AVX512_FEW_A16 4
void avx512_planes_of_bytes(const float *x, size_t words, void *prepared);
void avx512_planes_of_floats(const float *x, size_t words, void *prepared);
void avx512_stream_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                      size_t stride, size_t rows, void *sums);
void avx512_stream_a16(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                       size_t stride, size_t rows, void *sums);

/* avx512_many_a8.c */
#define AVX512_A8_WORDS 16 /* of a chunk: the words of a line, and of a step of the planes of activations */
void avx512_unpack_a8(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                      void *panel);
void avx512_multiply_a8(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                        void *sums);

/* avx512_many_a16.c */
#define AVX512_A16_WORDS 4
void avx512_floats(const float *x, size_t words, void *prepared);
void avx512_unpack_a16(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                       void *panel);
void avx512_multiply_a16(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first,
                         size_t end, void *sums);

/* avx512_probe.c */
double avx512_probe_int8(size_t steps);
double avx512_probe_float(size_t steps);
void avx512_probe_read(const void *data, size_t bytes, size_t streams);

#define AVX512_ROWS 64 /* of a tile: four registers of sixteen */

#define INLINE static inline __attribute__((always_inline))

INLINE __m512i load(const void *address) { return _mm512_loadu_si512(address); }
INLINE void store(void *address, __m512i value) { _mm512_storeu_si512(address, value); }

/* A barrier after each: GCC 12 reorders the sums of whole loops, and moves or spills them. */
INLINE __m512i dot(__m512i sum, __m512i codes, __m512i x) {
    sum = _mm512_dpbusd_epi32(sum, codes, x);
    BARRIER(sum);
    return sum;
}

INLINE __m512 multiply_add(__m512 a, __m512 b, __m512 sum) {
    sum = _mm512_fmadd_ps(a, b, sum);
    BARRIER(sum);
    return sum;
}

/* Up to 64 bytes; the others are 0, and are not read. */
INLINE __m512i load_part(const uint8_t *bytes, size_t count) {
    return count >= 64 ? load(bytes) : _mm512_maskz_loadu_epi8(((__mmask64)1 << count) - 1, bytes);
}

/* Sixteen rows of four values of four bytes: a register a column, a lane a row. Row i goes to element i % 4 of quarter
 * i / 4, so that only elements within a quarter change places. */
INLINE void transpose(const __m128i rows[16], __m512i columns[4]) {
    __m512i a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_castsi128_si512(rows[i]);
        a[i] = _mm512_inserti32x4(a[i], rows[i + 4], 1);
        a[i] = _mm512_inserti32x4(a[i], rows[i + 8], 2);
        a[i] = _mm512_inserti32x4(a[i], rows[i + 12], 3);
    }
    __m512i low01 = _mm512_unpacklo_epi32(a[0], a[1]), high01 = _mm512_unpackhi_epi32(a[0], a[1]);
    __m512i low23 = _mm512_unpacklo_epi32(a[2], a[3]), high23 = _mm512_unpackhi_epi32(a[2], a[3]);
    columns[0] = _mm512_unpacklo_epi64(low01, low23);
    columns[1] = _mm512_unpackhi_epi64(low01, low23);
    columns[2] = _mm512_unpacklo_epi64(high01, high23);
    columns[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* Four words of sixteen rows of codes, of which `bytes` bytes are left. Rows past the last are 0. */
INLINE void load_words(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, __m512i words[4]) {
    __m128i pieces[16];
    if (rows >= 16 && bytes >= 16)
#pragma GCC unroll 16
        for (size_t row = 0; row < 16; row++)
            pieces[row] = _mm_loadu_si128((const void *)(codes + row * row_bytes));
    else
        for (size_t row = 0; row < 16; row++) {
            __mmask16 mask = (__mmask16)((1 << smaller(bytes, 16)) - 1);
            pieces[row] = row < rows ? _mm_maskz_loadu_epi8(mask, codes + row * row_bytes) : _mm_setzero_si128();
        }
    transpose(pieces, words);
}

/* The bytes of a tile that is unpacked next; a chunk of it is a line of each row, or two. */
INLINE void prefetch_tile(const uint8_t *next, size_t row_bytes, size_t rows, size_t bytes) {
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)next + row * row_bytes + i, _MM_HINT_T0);
}

#endif
