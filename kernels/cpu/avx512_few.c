/* Few rows of x, AVX-512. 64 bytes of codes are 256 codes: those in bits 2p and 2p + 1 of the bytes, p = 0 .. 3, are 64
 * that meet activations 4i + p. So each 256 activations are laid out once as four planes of 64, and the bytes need no
 * shuffling: lanes are columns, and are added up where a row ends. Floats: sixteen words of four bytes are sixteen
 * planes of sixteen, activations 16i + q.
 */
#include "avx512.h"

enum { OUTPUTS = 4 }; /* rows of the weight at once, at most, so that a load of activations serves several */

#define BYTES_FIT ((size_t)1 << 20) /* whose sums, times 64, are an int32: BYTES_FIT / 64 * (4 * 64 * 3 * 127) < 2^31 */

void avx512_planes_of_bytes(const float *x, size_t words, void *prepared) {
    /* In each 16 bytes: those of plane 0, of plane 1, ... */
    const __m128i by_plane = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (size_t word = 0; word < words; word += 16, x += 256) {
        __m128i rows[16];
        __m512i planes[4];
        for (int i = 0; i < 16; i++) {
            __m512i integers = _mm512_cvtps_epi32(_mm512_loadu_ps(x + 16 * i));
            rows[i] = _mm_shuffle_epi8(_mm512_cvtsepi32_epi8(integers), by_plane);
        }
        transpose(rows, planes);
        for (size_t p = 0; p < 4; p++)
            store((char *)prepared + word * 16 + p * 64, planes[p]);
    }
}

void avx512_planes_of_floats(const float *x, size_t words, void *prepared) {
    for (size_t word = 0; word < words; word += 16, x += 256)
        for (size_t q = 0; q < 16; q += 4) {
            __m128i rows[16];
            __m512i planes[4];
            for (size_t i = 0; i < 16; i++)
                rows[i] = _mm_loadu_si128((const void *)(x + 16 * i + q));
            transpose(rows, planes);
            for (size_t p = 0; p < 4; p++)
                store((float *)prepared + word * 16 + (q + p) * 16, planes[p]);
        }
}

/* Sums of the lanes of four registers. */
INLINE __m128i sums_of_lanes(const __m512i v[4]) {
    __m512i low = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i high = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

INLINE __m128 sums_of_floats(const __m512 v[4]) {
    __m512 low = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 high = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    __m512i a = _mm512_castps_si512(low), b = _mm512_castps_si512(high);
    __m512 s = _mm512_add_ps(_mm512_castsi512_ps(_mm512_unpacklo_epi64(a, b)),
                             _mm512_castsi512_ps(_mm512_unpackhi_epi64(a, b)));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(s), _mm256_castsi256_ps(_mm512_extracti64x4_epi64(
                                                               _mm512_castps_si512(s), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* XOR 10 makes every code t + 2, an unsigned 1, 2 or 3, what vpdpbusd takes beside signed activations. */
INLINE __m512i unsigned_codes(__m512i codes) { return _mm512_xor_si512(codes, _mm512_set1_epi8((char)0xAA)); }

/* One row of x. Codes are masked where they lie, not shifted: the sums of plane p are 4^p times too large. */
INLINE void step_of_one(__m512i codes, const char *x, __m512i sums[4]) {
    codes = unsigned_codes(codes);
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
        __m512i t = _mm512_and_si512(codes, _mm512_set1_epi8((char)(3 << 2 * p)));
        sums[p] = dot(sums[p], t, load(x + 64 * p));
    }
}

/* One row of x and one of the weight: one stream of bytes. Eight sums, so that additions do not wait for each other. */
INLINE __m512i row_of_one(const uint8_t *codes, size_t bytes, const char *x) {
    __m512i total = _mm512_setzero_si512();
    for (size_t i = 0; i < bytes;) {
        const size_t end = smaller(i + BYTES_FIT, bytes);
        __m512i s[2][4];
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++)
            s[0][p] = s[1][p] = _mm512_setzero_si512();
        for (; i + 128 <= end; i += 128) {
            step_of_one(load(codes + i), x + 4 * i, s[0]);
            step_of_one(load(codes + i + 64), x + 4 * i + 256, s[1]);
        }
        for (; i < end; i += 64)
            step_of_one(load_part(codes + i, end - i), x + 4 * i, s[0]);
        total = _mm512_add_epi32(total, _mm512_add_epi32(s[0][0], s[1][0]));
#pragma GCC unroll 3
        for (int p = 1; p < 4; p++)
            total = _mm512_add_epi32(total, _mm512_srai_epi32(_mm512_add_epi32(s[0][p], s[1][p]), 2 * p));
    }
    return total;
}

/* Rows of the weight in fours, so that lanes are added up for four at a time; past the last row, that row again. */
static void stream_of_one(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                          int32_t *sums) {
    for (size_t i = 0; i < count; i += 4) {
        __m512i lanes[4];
        int32_t four[4];
        for (size_t j = 0; j < 4; j++)
            lanes[j] = row_of_one(codes + smaller(i + j, count - 1) * row_bytes, bytes, prepared);
        _mm_storeu_si128((void *)four, sums_of_lanes(lanes));
        memcpy(sums + i, four, smaller(4, count - i) * sizeof *four);
    }
}

/* Several rows of x: codes are decoded once for all of them. A step of 8 rows of x and 2 of the weight is 64
 * vpdpbusd, 34 loads, 6 shifts and 10 XORs and ANDs, with 16 sums, 2 registers of codes, 2 of one plane of them and
 * one of activations; 5 rows of x and 4 of the weight are 80, with 20 sums. */
INLINE void step_a8(__m512i *words, const char *x, size_t stride, size_t rows, size_t outputs, __m512i *sums) {
    const __m512i mask = _mm512_set1_epi8(3);
#pragma GCC unroll 4
    for (size_t j = 0; j < outputs; j++)
        words[j] = unsigned_codes(words[j]);
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
        __m512i t[OUTPUTS];
#pragma GCC unroll 4
        for (size_t j = 0; j < outputs; j++)
            t[j] = _mm512_and_si512(p ? _mm512_srli_epi16(words[j], 2 * p) : words[j], mask);
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) {
            __m512i activations = load(x + r * stride + 64 * p);
            BARRIER(activations); /* else they are loaded for each row of the weight */
#pragma GCC unroll 4
            for (size_t j = 0; j < outputs; j++)
                sums[r * outputs + j] = dot(sums[r * outputs + j], t[j], activations);
        }
    }
}

/* The two topmost bits of a word are the sign and the highest bit of the exponent of a float: 0, +2.0 or -2.0. A shift
 * brings the next code there, that of the plane before. */
INLINE void step_a16(__m512i *words, const char *x, size_t stride, size_t rows, size_t outputs, __m512 *sums) {
    const __m512i mask = _mm512_set1_epi32((int)0xC0000000);
#pragma GCC unroll 4
    for (int q = 15; q >= 0; q--) {
        __m512 t[OUTPUTS];
#pragma GCC unroll 4
        for (size_t j = 0; j < outputs; j++) {
            t[j] = _mm512_castsi512_ps(_mm512_and_si512(words[j], mask));
            words[j] = _mm512_slli_epi32(words[j], 2);
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            __m512 activations = _mm512_loadu_ps((const float *)(x + r * stride) + 16 * q);
            BARRIER(activations);
#pragma GCC unroll 4
            for (size_t j = 0; j < outputs; j++)
                sums[r * outputs + j] = multiply_add(t[j], activations, sums[r * outputs + j]);
        }
    }
}

/* AT_ONCE rows of the weight at a time, past the last row that row again; the compiler unrolls them and ROWS. */
#define STREAM(NAME, STEP, LANES, ZERO, SUMS_OF, STORE, TYPE, X_BYTES, AT_ONCE, ROWS)                                  \
    static void NAME(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,         \
                     size_t stride, TYPE *sums) {                                                                      \
        for (size_t i = 0; i < count; i += AT_ONCE) {                                                                  \
            const uint8_t *rows[AT_ONCE];                                                                              \
            const char *x = prepared;                                                                                  \
            LANES lanes[(ROWS * AT_ONCE + 3) / 4 * 4];                                                                 \
            TYPE found[(ROWS * AT_ONCE + 3) / 4 * 4];                                                                  \
            __m512i words[AT_ONCE];                                                                                    \
            size_t byte = 0;                                                                                           \
            for (size_t j = 0; j < AT_ONCE; j++)                                                                       \
                rows[j] = codes + smaller(i + j, count - 1) * row_bytes;                                               \
            for (size_t j = 0; j < sizeof lanes / sizeof *lanes; j++)                                                  \
                lanes[j] = ZERO();                                                                                     \
            for (; byte + 64 <= bytes; byte += 64, x += X_BYTES) {                                                     \
                for (size_t j = 0; j < AT_ONCE; j++)                                                                   \
                    words[j] = load(rows[j] + byte);                                                                   \
                STEP(words, x, stride, ROWS, AT_ONCE, lanes);                                                          \
            }                                                                                                          \
            if (byte < bytes) {                                                                                        \
                for (size_t j = 0; j < AT_ONCE; j++)                                                                   \
                    words[j] = load_part(rows[j] + byte, bytes - byte);                                                \
                STEP(words, x, stride, ROWS, AT_ONCE, lanes);                                                          \
            }                                                                                                          \
            for (size_t j = 0; j < sizeof lanes / sizeof *lanes; j += 4)                                               \
                STORE((void *)(found + j), SUMS_OF(lanes + j));                                                        \
            for (size_t r = 0; r < ROWS; r++)                                                                          \
                memcpy(sums + r * count + i, found + r * AT_ONCE, smaller(AT_ONCE, count - i) * sizeof *found);        \
        }                                                                                                              \
    }

#define STREAM_A8(NAME, AT_ONCE, ROWS)                                                                                 \
    STREAM(NAME, step_a8, __m512i, _mm512_setzero_si512, sums_of_lanes, _mm_storeu_si128, int32_t, 256, AT_ONCE, ROWS)
#define STREAM_A16(NAME, ROWS)                                                                                         \
    STREAM(NAME, step_a16, __m512, _mm512_setzero_ps, sums_of_floats, _mm_storeu_ps, float, 1024, OUTPUTS, ROWS)

STREAM_A8(stream_a8_2, 4, 2)
STREAM_A8(stream_a8_3, 4, 3)
STREAM_A8(stream_a8_4, 4, 4)
STREAM_A8(stream_a8_5, 4, 5)
STREAM_A8(stream_a8_6, 2, 6)
STREAM_A8(stream_a8_7, 2, 7)
STREAM_A8(stream_a8_8, 2, 8)
STREAM_A16(stream_a16_1, 1)
STREAM_A16(stream_a16_2, 2)
STREAM_A16(stream_a16_3, 3)
STREAM_A16(stream_a16_4, 4)

void avx512_stream_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                      size_t stride, size_t rows, void *sums) {
    switch (rows) {
    case 1: stream_of_one(codes, row_bytes, count, bytes, prepared, sums); break;
    case 2: stream_a8_2(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 3: stream_a8_3(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 4: stream_a8_4(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 5: stream_a8_5(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 6: stream_a8_6(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 7: stream_a8_7(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    default: stream_a8_8(codes, row_bytes, count, bytes, prepared, stride, sums);
    }
}

void avx512_stream_a16(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                       size_t stride, size_t rows, void *sums) {
    switch (rows) {
    case 1: stream_a16_1(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 2: stream_a16_2(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    case 3: stream_a16_3(codes, row_bytes, count, bytes, prepared, stride, sums); break;
    default: stream_a16_4(codes, row_bytes, count, bytes, prepared, stride, sums);
    }
}
