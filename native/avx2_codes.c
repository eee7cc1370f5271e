/* Pack, unpack and assign for x86-64 with AVX2. A run that does not fill the last step is copied to a step of zeros. */
#include "avx2.h"

#include <string.h>

#define STEP 64 /* weights: one cache line of codes, 16 packed bytes */

/* 64 codes, a byte each -> 16 bytes. Multiply-add folds neighbours: c0 + 4 c1, then (c0 + 4 c1) + 16 (c2 + 4 c3).
 *
 *   bytes    c0 c1 c2 c3 ...         32-bit lanes   c0 | c1 << 2 | c2 << 4 | c3 << 6
 */
static __m128i fold(__m256i first, __m256i second) {
    const __m256i by_4 = _mm256_set1_epi16(0x0401), by_16 = _mm256_set1_epi32(0x00100001);
    __m256i a = _mm256_madd_epi16(_mm256_maddubs_epi16(first, by_4), by_16);
    __m256i b = _mm256_madd_epi16(_mm256_maddubs_epi16(second, by_4), by_16);
    __m256i both = _mm256_packus_epi32(a, b); /* low halves of a and b | their high halves */
    both = _mm256_packus_epi16(both, both);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
}

/* Valid codes plus 1 are 0, 1, 2: the largest of all, unsigned, tells. */
static __m256i pack_step(const int8_t *codes, uint8_t *packed, __m256i largest) {
    const __m256i low_bits = _mm256_set1_epi8(3), one = _mm256_set1_epi8(1);
    __m256i a = load(codes), b = load(codes + 32);
    _mm_storeu_si128((__m128i *)packed, fold(_mm256_and_si256(a, low_bits), _mm256_and_si256(b, low_bits)));
    return _mm256_max_epu8(largest, _mm256_max_epu8(_mm256_add_epi8(a, one), _mm256_add_epi8(b, one)));
}

bool avx2_pack(const int8_t *codes, size_t count, uint8_t *packed) {
    __m256i largest = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + STEP <= count; i += STEP)
        largest = pack_step(codes + i, packed + i / CODES_PER_BYTE, largest);
    if (i < count) {
        int8_t last[STEP] = {0};
        uint8_t bytes[STEP / CODES_PER_BYTE];
        memcpy(last, codes + i, count - i);
        largest = pack_step(last, bytes, largest);
        memcpy(packed + i / CODES_PER_BYTE, bytes, packed_bytes(count - i));
    }
    __m256i wrong = _mm256_subs_epu8(largest, _mm256_set1_epi8(2));
    return _mm256_testz_si256(wrong, wrong);
}

/* A nibble holds two codes: two table look-ups give them, and interleaving puts them side by side. */
static void unpack_step(const uint8_t *packed, int8_t *codes) {
    const __m256i first_of = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, -2, -1, 0, 1, -2, -1, 0, 1, -2, -1, 0, 1, -2, -1));
    const __m256i second_of = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, -2, -2, -2, -2, -1, -1, -1, -1));
    const __m256i nibble = _mm256_set1_epi8(0x0F);
    /* Bytes 0-7 and 8-15 go to a half each, where unpacking leaves them. */
    __m256i bytes = _mm256_permute4x64_epi64(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)packed)), 0x50);
    __m256i low = _mm256_and_si256(bytes, nibble), high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
    __m256i pairs_low =
        _mm256_unpacklo_epi8(_mm256_shuffle_epi8(first_of, low), _mm256_shuffle_epi8(second_of, low));
    __m256i pairs_high =
        _mm256_unpacklo_epi8(_mm256_shuffle_epi8(first_of, high), _mm256_shuffle_epi8(second_of, high));
    __m256i a = _mm256_unpacklo_epi16(pairs_low, pairs_high), b = _mm256_unpackhi_epi16(pairs_low, pairs_high);
    _mm256_storeu_si256((__m256i *)codes, _mm256_permute2x128_si256(a, b, 0x20));
    _mm256_storeu_si256((__m256i *)(codes + 32), _mm256_permute2x128_si256(a, b, 0x31));
}

void avx2_unpack(const uint8_t *packed, size_t count, int8_t *codes) {
    size_t i = 0;
    for (; i + STEP <= count; i += STEP)
        unpack_step(packed + i / CODES_PER_BYTE, codes + i);
    if (i < count) {
        uint8_t bytes[STEP / CODES_PER_BYTE] = {0};
        int8_t last[STEP];
        memcpy(bytes, packed + i / CODES_PER_BYTE, packed_bytes(count - i));
        unpack_step(bytes, last);
        memcpy(codes + i, last, count - i);
    }
}

/* Codes of all planes, a byte a weight, from a compare with every threshold. A code is negated by flipping its high
 * bit where its low bit is set. `words` are the weights as they are: their sign bit decides. */
INLINE __m256i negate16(__m256i codes, __m256i words) {
    __m256i high = _mm256_slli_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0x55)), 1);
    return _mm256_xor_si256(codes, _mm256_and_si256(high, _mm256_srai_epi16(words, 15)));
}

INLINE __m256i codes16(const uint16_t *weights, const Grid *grid, int count) {
    const uint16_t *floors = grid->floors;
    const __m256i no_sign = _mm256_set1_epi16(0x7FFF);
    __m256i a = load(weights), b = load(weights + 16), codes_a = _mm256_setzero_si256(), codes_b = codes_a;
    for (int j = 0; j < count; j++) {
        __m256i floor = _mm256_set1_epi16((short)floors[j]), change = _mm256_set1_epi16(grid->changes[j]);
        __m256i above_a = _mm256_cmpgt_epi16(_mm256_and_si256(a, no_sign), floor);
        __m256i above_b = _mm256_cmpgt_epi16(_mm256_and_si256(b, no_sign), floor);
        codes_a = _mm256_xor_si256(codes_a, _mm256_and_si256(above_a, change));
        codes_b = _mm256_xor_si256(codes_b, _mm256_and_si256(above_b, change));
    }
    __m256i bytes = _mm256_packus_epi16(negate16(codes_a, a), negate16(codes_b, b));
    return _mm256_permute4x64_epi64(bytes, 0xD8);
}

INLINE __m256i codes32(const uint32_t *weights, const Grid *grid, int count) {
    const uint32_t *floors = grid->floors;
    const __m256i no_sign = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i words[4], codes[4];
    for (int v = 0; v < 4; v++) {
        words[v] = load(weights + 8 * v);
        codes[v] = _mm256_setzero_si256();
    }
    for (int j = 0; j < count; j++) {
        __m256i floor = _mm256_set1_epi32((int)floors[j]), change = _mm256_set1_epi32(grid->changes[j]);
        for (int v = 0; v < 4; v++) {
            __m256i above = _mm256_cmpgt_epi32(_mm256_and_si256(words[v], no_sign), floor);
            codes[v] = _mm256_xor_si256(codes[v], _mm256_and_si256(above, change));
        }
    }
    __m256i signs_a = _mm256_packs_epi32(words[0], words[1]), signs_b = _mm256_packs_epi32(words[2], words[3]);
    __m256i a = negate16(_mm256_packs_epi32(codes[0], codes[1]), signs_a);
    __m256i b = negate16(_mm256_packs_epi32(codes[2], codes[3]), signs_b);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
}

INLINE void store_planes(__m256i a, __m256i b, int planes, size_t at,
                                                               uint8_t *const packed[]) {
    const __m256i low_bits = _mm256_set1_epi8(3);
    for (int p = 0; p < planes; p++) {
        __m128i bytes = fold(_mm256_and_si256(_mm256_srli_epi16(a, 2 * p), low_bits),
                             _mm256_and_si256(_mm256_srli_epi16(b, 2 * p), low_bits));
        _mm_storeu_si128((__m128i *)(packed[p] + at), bytes);
    }
}

/* One plane has one threshold: with both known the compiler unrolls the loops above away. */
#define ASSIGN(NAME, WORD, CODES)                                                                                  \
    INLINE void NAME##_run(                                                  \
        const WORD *weights, size_t count, const Grid *grid, int thresholds, int planes, uint8_t *const packed[]) { \
        size_t i = 0;                                                                                              \
        for (; i + STEP <= count; i += STEP)                                                                       \
            store_planes(CODES(weights + i, grid, thresholds), CODES(weights + i + STEP / 2, grid, thresholds),    \
                         planes, i / CODES_PER_BYTE, packed);                                                      \
        if (i < count) {                                                                                           \
            WORD last[STEP] = {0};                                                                                 \
            uint8_t bytes[PLANES_MAX][STEP / CODES_PER_BYTE];                                                      \
            uint8_t *const to[PLANES_MAX] = {bytes[0], bytes[1], bytes[2], bytes[3]};                              \
            memcpy(last, weights + i, (count - i) * sizeof *last);                                                 \
            store_planes(CODES(last, grid, thresholds), CODES(last + STEP / 2, grid, thresholds), planes, 0, to);  \
            for (int p = 0; p < planes; p++)                                                                       \
                memcpy(packed[p] + i / CODES_PER_BYTE, bytes[p], packed_bytes(count - i));                         \
        }                                                                                                          \
    }                                                                                                              \
    void avx2_##NAME(const WORD *weights, size_t count, const Grid *grid, uint8_t *const packed[]) {               \
        if (grid->count == 1 && grid->planes == 1)                                                                 \
            NAME##_run(weights, count, grid, 1, 1, packed);                                                        \
        else                                                                                                       \
            NAME##_run(weights, count, grid, grid->count, grid->planes, packed);                                   \
    }

ASSIGN(assign16, uint16_t, codes16)
ASSIGN(assign32, uint32_t, codes32)
