/* Many rows of x, int8, AVX2. A panel holds 16 rows of the weight, one to a lane of four bytes: step (w, p) is the
 * codes in bits 2p and 2p + 1 of the four bytes of word w, and meets four activations that lie side by side in the
 * planes of avx2_few.c, broadcast to all lanes. A step of 6 rows of x is 12 vpmaddubsw and 12 vpaddw, with 12 sums, 2
 * registers of codes, one of activations and one product in the 16 registers. On Zen 3, on registers alone, 1.65 such
 * pairs a cycle were the most; two would fill the vector ports.
 */
#include "avx2_dot.h"
#include "parts.h"

enum { X_ROWS = 6, STEP_BYTES = 4 * AVX2_ROWS };

#define WORDS_FIT 16 /* whose sums are an int16: 4 * WORDS_FIT * (2 * 2 * 127) < 2^15 */

/* XOR 10 makes a code t + 2, and subtracting 1 in every field t + 1: 0, 1 or 2. No field of valid codes borrows, and a
 * byte does not borrow from the next; pad lanes, the last of a row, may be anything. */
void avx2_unpack_a8(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                    void *panel) {
    const __m256i mask = _mm256_set1_epi8(3);
    prefetch_tile(next, row_bytes, rows, bytes);
    for (size_t word = 0; 4 * word < bytes; word += 8)
        for (size_t half = 0; half < AVX2_ROWS; half += 8) {
            size_t from = half < rows ? half : rows - 1;
            __m256i words[8], *to = (__m256i *)panel + 8 * word + half / 8;
            load_words(codes + from * row_bytes, row_bytes, rows - from, word, bytes, words);
#pragma GCC unroll 8
            for (int w = 0; w < 8; w++, to += 8) {
                __m256i t = _mm256_xor_si256(words[w], _mm256_set1_epi8((char)0xAA));
                t = _mm256_sub_epi8(t, _mm256_set1_epi8(0x55));
                store(to, _mm256_and_si256(t, mask));
                store(to + 2, _mm256_and_si256(_mm256_srli_epi16(t, 2), mask));
                store(to + 4, _mm256_and_si256(_mm256_srli_epi16(t, 4), mask));
                store(to + 6, _mm256_and_si256(_mm256_srli_epi16(t, 6), mask));
            }
        }
}

/* Words first <= w < end, at most WORDS_FIT, in int16; then pairs of lanes belong to one row of the weight. */
INLINE void run(const char *panel, const char *x, size_t stride, size_t rows, size_t first, size_t end, int32_t *sums) {
    __m256i s[X_ROWS][2];
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
        s[r][0] = s[r][1] = _mm256_setzero_si256();
    for (size_t word = first; word < end; word++) {
        const char *codes = panel + 4 * STEP_BYTES * word, *at = x + 128 * (word / 8) + 4 * (word % 8);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            __m256i low = load(codes + p * STEP_BYTES), high = load(codes + p * STEP_BYTES + 32);
#pragma GCC unroll 6
            for (size_t r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, at + r * stride + 32 * p, 4);
                add_two_products(s[r], low, high, _mm256_set1_epi32(four));
            }
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            int32_t *to = sums + r * AVX2_ROWS + 8 * half;
            store(to, _mm256_add_epi32(load(to), wide_sums(s[r][half])));
        }
}

void avx2_multiply_a8(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                      void *sums) {
#define OF_PART(part, done)                                                                                            \
    for (size_t word = first; word < end; word += WORDS_FIT)                                                           \
    run(panel, (const char *)prepared + done * stride, stride, part, word, smaller(word + WORDS_FIT, end),             \
        (int32_t *)sums + done * AVX2_ROWS)
    IN_PARTS(rows, X_ROWS, OF_PART)
#undef OF_PART
}
