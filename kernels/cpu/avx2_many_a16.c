/* Many rows of x, not quantised, AVX2. A panel holds, for every column, 16 codes as floats; a step of 6 rows of x is 12
 * multiply-adds with an activation broadcast to all lanes: both ports that have them, every cycle, with 12 sums, 2
 * registers of codes and one of activations. What else would add floats was measured on Zen 3 and is no faster:
 * vpermilps, which could look up sums of two activations, shares the ports of vfmadd.
 */
#include "avx2.h"
#include "parts.h"

enum { X_ROWS = 6 };

void avx2_floats(const float *x, size_t words, void *prepared) {
    memcpy(prepared, x, words * WORD_CODES * sizeof *x);
}

/* The two bits of a code, shifted to the top of a word, are the sign and the highest bit of the exponent of a float:
 * 0, +2.0 or -2.0. */
void avx2_unpack_a16(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                     void *panel) {
    const __m256i mask = _mm256_set1_epi32((int)0xC0000000);
    prefetch_tile(next, row_bytes, rows, bytes);
    for (size_t word = 0; 4 * word < bytes; word += 8)
        for (size_t half = 0; half < AVX2_ROWS; half += 8) {
            size_t from = half < rows ? half : rows - 1;
            __m256i words[8], *to = (__m256i *)panel + 32 * word + half / 8;
            load_words(codes + from * row_bytes, row_bytes, rows - from, word, bytes, words);
#pragma GCC unroll 8
            for (int w = 0; w < 8; w++)
#pragma GCC unroll 16
                for (int q = 0; q < 16; q++, to += 2)
                    store(to, _mm256_and_si256(_mm256_slli_epi32(words[w], 30 - 2 * q), mask));
        }
}

INLINE void run(const float *panel, const float *x, size_t stride, size_t rows, size_t first, size_t end, float *sums) {
    __m256 s[X_ROWS][2];
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
        s[r][0] = s[r][1] = _mm256_setzero_ps();
    for (size_t i = first; i < end; i++) {
        __m256 low = _mm256_load_ps(panel + i * AVX2_ROWS), high = _mm256_load_ps(panel + i * AVX2_ROWS + 8);
#pragma GCC unroll 6
        for (size_t r = 0; r < rows; r++) {
            __m256 activation = _mm256_broadcast_ss(x + r * stride + i);
            s[r][0] = _mm256_fmadd_ps(low, activation, s[r][0]);
            s[r][1] = _mm256_fmadd_ps(high, activation, s[r][1]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            float *to = sums + r * AVX2_ROWS + 8 * half;
            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), s[r][half]));
        }
}

void avx2_multiply_a16(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                       void *sums) {
    first *= WORD_CODES, end *= WORD_CODES, stride /= sizeof(float);
#define OF_PART(part, done)                                                                                            \
    run(panel, (const float *)prepared + done * stride, stride, part, first, end, (float *)sums + done * AVX2_ROWS)
    IN_PARTS(rows, X_ROWS, OF_PART)
#undef OF_PART
}
