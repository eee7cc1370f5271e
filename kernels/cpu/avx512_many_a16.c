/* Many rows of x, not quantised, AVX-512. A panel holds, for every column, 64 codes as floats; a step of 6 rows of x is
 * 24 multiply-adds with an activation broadcast to all lanes, 4 loads of codes and 6 broadcasts, with 24 sums, 4
 * registers of codes and one of activations.
 */
#include "avx512.h"
#include "parts.h"

enum { X_ROWS = 6 };

void avx512_floats(const float *x, size_t words, void *prepared) {
    memcpy(prepared, x, words * WORD_CODES * sizeof *x);
}

/* The two bits of a code, shifted to the top of a word, are the sign and the highest bit of the exponent of a float:
 * 0, +2.0 or -2.0. */
void avx512_unpack_a16(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                       void *panel) {
    const __m512i mask = _mm512_set1_epi32((int)0xC0000000);
    prefetch_tile(next, row_bytes, rows, bytes);
    for (size_t row = 0; row < rows; row += 16)
        for (size_t word = 0; 4 * word < bytes; word += 4) {
            __m512i words[4];
            float *to = (float *)panel + word * WORD_CODES * AVX512_ROWS + row;
            load_words(codes + row * row_bytes + 4 * word, row_bytes, rows - row, bytes - 4 * word, words);
#pragma GCC unroll 4
            for (int w = 0; w < 4; w++)
#pragma GCC unroll 16
                for (int q = 0; q < 16; q++, to += AVX512_ROWS)
                    store(to, _mm512_and_si512(_mm512_slli_epi32(words[w], 30 - 2 * q), mask));
        }
}

INLINE void run(const float *panel, const float *x, size_t stride, size_t rows, size_t first, size_t end,
                float *sums) {
    __m512 s[X_ROWS][4];
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++)
            s[r][g] = _mm512_setzero_ps();
    for (size_t i = first; i < end; i++) {
        __m512 t[4];
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++)
            t[g] = _mm512_loadu_ps(panel + i * AVX512_ROWS + 16 * g);
#pragma GCC unroll 6
        for (size_t r = 0; r < rows; r++) {
            __m512 activation = _mm512_set1_ps(x[r * stride + i]);
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++)
                s[r][g] = multiply_add(t[g], activation, s[r][g]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            float *to = sums + r * AVX512_ROWS + 16 * g;
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), s[r][g]));
        }
}

void avx512_multiply_a16(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first,
                         size_t end, void *sums) {
    first *= WORD_CODES, end *= WORD_CODES, stride /= sizeof(float);
#define OF_PART(part, done)                                                                                            \
    run(panel, (const float *)prepared + done * stride, stride, part, first, end, (float *)sums + done * AVX512_ROWS)
    IN_PARTS(rows, X_ROWS, OF_PART)
#undef OF_PART
}
