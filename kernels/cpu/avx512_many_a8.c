/* Many rows of x, int8, AVX-512. A panel holds 64 rows of the weight, one to a lane of four bytes of four registers:
 * step (w, p) is the codes in bits 2p and 2p + 1 of the four bytes of word w, and meets four activations that lie side
 * by side in the planes of avx512_few.c, broadcast to all lanes. A step of 6 rows of x is 24 vpdpbusd, 4 loads of codes
 * and 6 broadcasts, with 24 sums, 4 registers of codes and one of activations in the 32 registers.
 */
#include "avx512.h"
#include "parts.h"

enum { X_ROWS = 6, STEP_BYTES = 4 * AVX512_ROWS };

/* XOR 10 makes every code t + 2, an unsigned 1, 2 or 3. */
void avx512_unpack_a8(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                      void *panel) {
    const __m512i mask = _mm512_set1_epi8(3), flip = _mm512_set1_epi8((char)0xAA);
    prefetch_tile(next, row_bytes, rows, bytes);
    for (size_t row = 0; row < rows; row += 16)
        for (size_t word = 0; 4 * word < bytes; word += 4) {
            __m512i words[4];
            char *to = (char *)panel + 4 * STEP_BYTES * word + 4 * row;
            load_words(codes + row * row_bytes + 4 * word, row_bytes, rows - row, bytes - 4 * word, words);
#pragma GCC unroll 4
            for (int w = 0; w < 4; w++, to += 4 * STEP_BYTES) {
                __m512i t = _mm512_xor_si512(words[w], flip);
                store(to, _mm512_and_si512(t, mask));
                store(to + STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(t, 2), mask));
                store(to + 2 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(t, 4), mask));
                store(to + 3 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(t, 6), mask));
            }
        }
}

INLINE void run(const char *panel, const char *x, size_t stride, size_t rows, size_t first, size_t end,
                int32_t *sums) {
    __m512i s[X_ROWS][4];
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++)
            s[r][g] = load(sums + r * AVX512_ROWS + 16 * g);
    for (size_t word = first; word < end; word++) {
        const char *codes = panel + 4 * STEP_BYTES * word, *at = x + 4 * word;
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            __m512i t[4];
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++)
                t[g] = load(codes + p * STEP_BYTES + 64 * g);
#pragma GCC unroll 6
            for (size_t r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, at + r * stride + 64 * p, 4);
                __m512i activations = _mm512_set1_epi32(four);
#pragma GCC unroll 4
                for (int g = 0; g < 4; g++)
                    s[r][g] = dot(s[r][g], t[g], activations);
            }
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++)
            store(sums + r * AVX512_ROWS + 16 * g, s[r][g]);
}

void avx512_multiply_a8(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                        void *sums) {
#define OF_PART(part, done)                                                                                            \
    run(panel, (const char *)prepared + done * stride, stride, part, first, end, (int32_t *)sums + done * AVX512_ROWS)
    IN_PARTS(rows, X_ROWS, OF_PART)
#undef OF_PART
}
