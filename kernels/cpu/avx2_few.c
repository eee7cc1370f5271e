/* Few rows of x, AVX2. 32 bytes of codes are 128 codes: those in bits 2p and 2p + 1 of the bytes, p = 0 .. 3, are 32
 * that meet activations 4i + p. So each 128 activations are laid out once as four planes of 32, and the bytes need no
 * shuffling. Floats: eight words of four bytes are sixteen planes of eight, activations 16i + q.
 */
#include "avx2.h"

#define RUN 8 /* steps; their sums fit an int16: 4 * RUN * (2 * 3 * 127) < 2^15 */

/* Eight floats that are integers, as int8, natural order: 128 of them to four registers. */
INLINE __m256i bytes_of(const float *x) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_loadu_ps(x)), _mm256_cvtps_epi32(_mm256_loadu_ps(x + 8)));
    __m256i b =
        _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_loadu_ps(x + 16)), _mm256_cvtps_epi32(_mm256_loadu_ps(x + 24)));
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
}

void avx2_planes_of_bytes(const float *x, size_t words, void *prepared) {
    /* In each 16 bytes: those of plane 0, of plane 1, ...; then the two halves' dwords of a plane side by side. */
    const __m256i by_plane = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5,
                                              9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i beside = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t word = 0; word < words; word += 8, x += 128) {
        __m256i a[4], *to = (__m256i *)((char *)prepared + word * 16);
        for (int i = 0; i < 4; i++)
            a[i] = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(bytes_of(x + 32 * i), by_plane), beside);
        __m256i even01 = _mm256_unpacklo_epi64(a[0], a[1]), odd01 = _mm256_unpackhi_epi64(a[0], a[1]);
        __m256i even23 = _mm256_unpacklo_epi64(a[2], a[3]), odd23 = _mm256_unpackhi_epi64(a[2], a[3]);
        store(to, _mm256_permute2x128_si256(even01, even23, 0x20));
        store(to + 1, _mm256_permute2x128_si256(odd01, odd23, 0x20));
        store(to + 2, _mm256_permute2x128_si256(even01, even23, 0x31));
        store(to + 3, _mm256_permute2x128_si256(odd01, odd23, 0x31));
    }
}

void avx2_planes_of_floats(const float *x, size_t words, void *prepared) {
    for (size_t word = 0; word < words; word += 8, x += 128)
        for (int half = 0; half < 16; half += 8) {
            __m256i a[8];
            for (int i = 0; i < 8; i++)
                a[i] = load(x + 16 * i + half);
            transpose(a);
            for (int q = 0; q < 8; q++)
                store((float *)prepared + word * 16 + 8 * (half + q), a[q]);
        }
}

/* Sums of the lanes of four registers. */
INLINE __m128i sums_of_lanes(const __m256i v[4]) {
    __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

INLINE __m128 sums_of_floats(const __m256 v[4]) {
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

/* XOR 10 makes every code t + 2, an unsigned 1, 2 or 3, what vpmaddubsw takes beside signed activations. Its sums of
 * two, at most 762, are added in int16 for RUN steps, and then in int32. */
INLINE void step_a8(__m256i codes, const __m256i *x, size_t stride, size_t rows, __m256i sums[][2]) {
    const __m256i mask = _mm256_set1_epi8(3);
    codes = _mm256_xor_si256(codes, _mm256_set1_epi8((char)0xAA));
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
        __m256i t = _mm256_and_si256(p ? _mm256_srli_epi16(codes, 2 * p) : codes, mask);
#pragma GCC unroll 2
        for (size_t r = 0; r < rows; r++) {
            __m256i product = _mm256_maddubs_epi16(t, *(const __m256i *)((const char *)(x + p) + r * stride));
            sums[r][p % 2] = _mm256_add_epi16(sums[r][p % 2], product);
        }
    }
}

/* One row of the weight: lanes whose sums are those of each row of x. */
INLINE void row_a8(const uint8_t *codes, size_t bytes, const char *x, size_t stride, size_t rows, __m256i *sums) {
#pragma GCC unroll 2
    for (size_t r = 0; r < rows; r++)
        sums[r] = _mm256_setzero_si256();
    for (size_t i = 0; i < bytes; i += RUN * 32) {
        __m256i narrow[2][2];
#pragma GCC unroll 2
        for (size_t r = 0; r < rows; r++)
            narrow[r][0] = narrow[r][1] = _mm256_setzero_si256();
        if (bytes - i >= RUN * 32) /* without a branch that the processor could guess wrong */
#pragma GCC unroll 8
            for (size_t j = i; j < i + RUN * 32; j += 32)
                step_a8(load(codes + j), (const void *)(x + 4 * j), stride, rows, narrow);
        else
            for (size_t j = i; j < bytes; j += 32)
                step_a8(load_part(codes + j, bytes - j), (const void *)(x + 4 * j), stride, rows, narrow);
#pragma GCC unroll 2
        for (size_t r = 0; r < rows; r++) {
            __m256i sum = _mm256_add_epi16(narrow[r][0], narrow[r][1]);
            sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
        }
    }
}

/* Bits 2q and 2q + 1 of a word, shifted to its top, are the sign and the highest bit of the exponent of a float: 0,
 * +2.0 or -2.0. Four sums a row of x, so that additions do not wait for each other. */
INLINE void row_a16(const uint8_t *codes, size_t bytes, const char *x, size_t stride, size_t rows, __m256 *sums) {
    const __m256i mask = _mm256_set1_epi32((int)0xC0000000);
    __m256 s[FEW_MAX][4];
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
        s[r][0] = s[r][1] = s[r][2] = s[r][3] = _mm256_setzero_ps();
    for (size_t i = 0; i < bytes; i += 32, x += 512) {
        __m256i word = load_part(codes + i, bytes - i);
#pragma GCC unroll 16
        for (int q = 0; q < 16; q++) {
            __m256 t = _mm256_castsi256_ps(_mm256_and_si256(q < 15 ? _mm256_slli_epi32(word, 30 - 2 * q) : word, mask));
#pragma GCC unroll 4
            for (size_t r = 0; r < rows; r++)
                s[r][q % 4] = _mm256_fmadd_ps(t, _mm256_load_ps((const float *)(x + r * stride) + 8 * q), s[r][q % 4]);
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
        sums[r] = _mm256_add_ps(_mm256_add_ps(s[r][0], s[r][1]), _mm256_add_ps(s[r][2], s[r][3]));
}

/* Rows of the weight in fours, so that lanes are added up for four at a time; ROWS is what the compiler unrolls. */
#define STREAM(NAME, ROW, SUMS, SUMS_OF, STORE, TYPE, ROWS)                                                            \
    static void NAME(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,         \
                     size_t stride, TYPE *sums) {                                                                      \
        for (size_t i = 0; i < count; i += 4) {                                                                        \
            SUMS lanes[ROWS][4];                                                                                       \
            for (size_t j = 0; j < 4; j++) { /* past the last row, that row again */                                   \
                SUMS row[ROWS];                                                                                        \
                ROW(codes + smaller(i + j, count - 1) * row_bytes, bytes, prepared, stride, ROWS, row);                \
                for (size_t r = 0; r < ROWS; r++)                                                                      \
                    lanes[r][j] = row[r];                                                                              \
            }                                                                                                          \
            for (size_t r = 0; r < ROWS; r++) {                                                                        \
                TYPE four[4];                                                                                          \
                STORE((void *)four, SUMS_OF(lanes[r]));                                                                \
                memcpy(sums + r * count + i, four, smaller(4, count - i) * sizeof *four);                              \
            }                                                                                                          \
        }                                                                                                              \
    }

STREAM(stream_a8_1, row_a8, __m256i, sums_of_lanes, _mm_storeu_si128, int32_t, 1)
STREAM(stream_a8_2, row_a8, __m256i, sums_of_lanes, _mm_storeu_si128, int32_t, 2)
STREAM(stream_a16_1, row_a16, __m256, sums_of_floats, _mm_storeu_ps, float, 1)
STREAM(stream_a16_2, row_a16, __m256, sums_of_floats, _mm_storeu_ps, float, 2)
STREAM(stream_a16_3, row_a16, __m256, sums_of_floats, _mm_storeu_ps, float, 3)
STREAM(stream_a16_4, row_a16, __m256, sums_of_floats, _mm_storeu_ps, float, 4)

void avx2_stream_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                    size_t stride, size_t rows, void *sums) {
    (rows == 1 ? stream_a8_1 : stream_a8_2)(codes, row_bytes, count, bytes, prepared, stride, sums);
}

void avx2_stream_a16(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                     size_t stride, size_t rows, void *sums) {
    switch (rows) {
    case 1: stream_a16_1(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 2: stream_a16_2(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 3: stream_a16_3(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    default: stream_a16_4(codes, row_bytes, count, bytes, prepared, stride, sums);
    }
}
