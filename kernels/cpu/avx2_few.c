/* Few rows of x, AVX2. 32 bytes of codes are 128 codes: those in bits 2p and 2p + 1 of the bytes, p = 0 .. 3, are 32
 * that meet activations 4i + p. So each 128 activations are laid out once as four planes of 32, and the bytes need no
 * shuffling. Floats: eight words of four bytes are sixteen planes of eight, activations 16i + q.
 *
 * A GROUP of rows of the weight takes turns at a part of their columns, so that x, which for many columns is larger
 * than the first level of the cache, comes into it once a group. The next group is prefetched meanwhile: the processor
 * does not foresee short pieces of several rows. With few enough rows of x memory may bind: then rows of the weight are
 * read whole, as streams; pieces of them, of which few.c prefetches the next, are read as they come.
 */
#include "avx2_dot.h"

enum {
    GROUP = 8,
    A8_ROWS = 8, /* of x that have their sums in registers */
    A16_ROWS = 4,
    A8_PART = 8, /* steps of 32 bytes that are a part: sums fit an int16, 4 * A8_PART * (2 * 3 * 127) < 2^15 */
    A16_PART = 4,
    STREAMED_ROWS = 4,    /* of x, up to which the weight is read as streams */
    STREAMS = 4,          /* for one row of x; for more two, whose sums fit the registers */
    FOURS_ROWS = 2,       /* of x, up to which products of four times a code have sums of their own ... */
    FOURS_PART = 4,       /* ... in parts of so many steps: 2 * FOURS_PART * (2 * 4 * 3 * 127) < 2^15 */
    STREAMS_AHEAD = 2048, /* bytes, beside what the processor foresees */
};

/* 32 floats that are integers, as int8, natural order. */
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

/* XOR 10 makes every code t + 2, an unsigned 1, 2 or 3, what vpmaddubsw takes beside signed activations. One register
 * of codes serves all rows of x. */
INLINE __m256i unsigned_codes(__m256i codes) { return _mm256_xor_si256(codes, _mm256_set1_epi8((char)0xAA)); }

/* Bits 2p and 2p + 1 of each byte. */
INLINE __m256i field(__m256i codes, int p) {
    return _mm256_and_si256(p ? _mm256_srli_epi16(codes, 2 * p) : codes, _mm256_set1_epi8(3));
}

INLINE void step_a8(__m256i codes, const char *x, size_t stride, size_t rows, __m256i sums[]) {
    codes = unsigned_codes(codes);
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
        const __m256i t = field(codes, p);
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) {
            sums[r] = add_products(sums[r], t, load(x + r * stride + 32 * p));
            BARRIER(sums[r]);
        }
    }
}

/* A part of one row of the weight, added to lanes[r] for each row of x. */
INLINE void part_a8(const uint8_t *codes, size_t bytes, size_t ahead, const char *x, size_t stride, size_t rows,
                    __m256i lanes[][GROUP]) {
    __m256i sums[A8_ROWS];
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++)
        sums[r] = _mm256_setzero_si256();
    if (bytes == 32 * A8_PART)
#pragma GCC unroll 8
        for (size_t i = 0; i < 32 * A8_PART; i += 32) {
            if (i % 64 == 0)
                _mm_prefetch((const char *)codes + ahead + i, _MM_HINT_T0);
            step_a8(load(codes + i), x + 4 * i, stride, rows, sums);
        }
    else
        for (size_t i = 0; i < bytes; i += 32)
            step_a8(load_part(codes + i, bytes - i), x + 4 * i, stride, rows, sums);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++)
        lanes[r][0] = _mm256_add_epi32(lanes[r][0], wide_sums(sums[r]));
}

/* A step of streams. Where registers suffice for twice the sums, fields 1 and 3 are not shifted to the end: they are
 * multiplied as four times the code, and what comes of them is added up by itself. */
INLINE void step_of_streams(const __m256i codes[], size_t streams, const char *x, size_t stride, size_t rows,
                            __m256i sums[][STREAMS], __m256i fours[][STREAMS]) {
#pragma GCC unroll 4
    for (size_t s = 0; s < streams; s++) {
        const __m256i t = unsigned_codes(codes[s]), upper = _mm256_srli_epi16(t, 4);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            const bool four = rows <= FOURS_ROWS && p % 2;
            const __m256i of_plane = four ? _mm256_and_si256(p == 1 ? t : upper, _mm256_set1_epi8(4 * 3)) : field(t, p);
#pragma GCC unroll 4
            for (size_t r = 0; r < rows; r++) {
                __m256i *sum = four ? &fours[r][s] : &sums[r][s];
                *sum = add_products(*sum, of_plane, load(x + r * stride + 32 * p));
                BARRIER(*sum);
            }
        }
    }
}

/* Bytes of a row of the weight that are a part of a stream. */
INLINE size_t streamed_part(size_t rows) { return 32 * (rows <= FOURS_ROWS ? FOURS_PART : A8_PART); }

/* A part of a row of each stream, added to totals. */
INLINE void part_of_streams(const uint8_t *const rows_of[], size_t streams, size_t at, size_t bytes, const char *x,
                            size_t stride, size_t rows, __m256i totals[][STREAMS]) {
    const size_t part = streamed_part(rows), together = rows <= FOURS_ROWS ? part : 32;
    __m256i sums[STREAMED_ROWS][STREAMS], fours[STREAMED_ROWS][STREAMS], codes[STREAMS];
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (size_t s = 0; s < streams; s++)
            sums[r][s] = fours[r][s] = _mm256_setzero_si256();
    if (bytes == part)
#pragma GCC unroll 1
        for (size_t i = 0; i < part; i += together)
#pragma GCC unroll 4
            for (size_t j = i; j < i + together; j += 32) {
#pragma GCC unroll 4
                for (size_t s = 0; s < streams; s++) {
                    _mm_prefetch((const char *)rows_of[s] + at + j + STREAMS_AHEAD, _MM_HINT_T0);
                    codes[s] = load(rows_of[s] + at + j);
                }
                step_of_streams(codes, streams, x + 4 * (at + j), stride, rows, sums, fours);
            }
    else
        for (size_t i = at; i < at + bytes; i += 32) {
#pragma GCC unroll 4
            for (size_t s = 0; s < streams; s++)
                codes[s] = load_part(rows_of[s] + i, at + bytes - i);
            step_of_streams(codes, streams, x + 4 * i, stride, rows, sums, fours);
        }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (size_t s = 0; s < streams; s++) {
            if (rows <= FOURS_ROWS)
                sums[r][s] = add_a_quarter(sums[r][s], fours[r][s]);
            totals[r][s] = _mm256_add_epi32(totals[r][s], wide_sums(sums[r][s]));
        }
}

/* Up to STREAMED_ROWS rows of x. The weight is read in a few parts side by side: the processor looks ahead in each, and
 * has more from memory under way than for one. Where rows do not divide, the last is done again. */
INLINE void streams_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const char *x, size_t stride,
                       size_t streams, size_t rows, int32_t *sums) {
    const size_t run = streamed_part(rows), part = ceil_div(count, streams);
    for (size_t first = 0; first < part; first++) {
        const uint8_t *rows_of[STREAMS];
        __m256i totals[STREAMED_ROWS][STREAMS];
        int32_t of_rows[STREAMED_ROWS][STREAMS];
#pragma GCC unroll 4
        for (size_t s = 0; s < streams; s++)
            rows_of[s] = codes + smaller(s * part + first, count - 1) * row_bytes;
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (size_t s = 0; s < STREAMS; s++)
                totals[r][s] = _mm256_setzero_si256();
        for (size_t i = 0; i < bytes; i += run)
            part_of_streams(rows_of, streams, i, smaller(run, bytes - i), x, stride, rows, totals);
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            const __m128i four = sums_of_lanes(totals[r]);
            memcpy(of_rows[r], &four, sizeof four);
#pragma GCC unroll 4
            for (size_t s = 0; s < streams; s++)
                sums[r * count + smaller(s * part + first, count - 1)] = of_rows[r][s];
        }
    }
}

/* Up to STREAMED_ROWS rows of x, and of GROUP rows of the weight or more up to A8_PART whole steps each, so that sums
 * fit an int16. Where GROUP does not divide, some are done again. */
INLINE void pieces_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const char *x, size_t stride,
                      size_t rows, int32_t *sums) {
    __m256i mask = _mm256_set1_epi8(3), flip = _mm256_set1_epi8((char)0xAA);
    BARRIER(mask); /* else they are made anew for every row */
    BARRIER(flip);
    for (size_t i = 0; i < count; i += GROUP) {
        const size_t first = smaller(i, count - GROUP);
        __m256i lanes[STREAMED_ROWS][GROUP];
#pragma GCC unroll 1
        for (size_t j = 0; j < GROUP; j++) {
            const uint8_t *row = codes + (first + j) * row_bytes;
            __m256i of_row[STREAMED_ROWS];
#pragma GCC unroll 4
            for (size_t r = 0; r < rows; r++)
                of_row[r] = _mm256_setzero_si256();
#pragma GCC unroll 1
            for (size_t at = 0; at < bytes; at += 32) {
                const __m256i t = _mm256_xor_si256(load(row + at), flip);
#pragma GCC unroll 4
                for (int p = 0; p < 4; p++) {
                    const __m256i of_plane = _mm256_and_si256(p ? _mm256_srli_epi16(t, 2 * p) : t, mask);
#pragma GCC unroll 4
                    for (size_t r = 0; r < rows; r++)
                        of_row[r] = add_products(of_row[r], of_plane, load(x + r * stride + 4 * at + 32 * p));
                }
            }
#pragma GCC unroll 4
            for (size_t r = 0; r < rows; r++)
                lanes[r][j] = of_row[r];
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 8
            for (size_t j = 0; j < GROUP; j++)
                lanes[r][j] = wide_sums(lanes[r][j]);
            store(sums + r * count + first, _mm256_set_m128i(sums_of_lanes(lanes[r] + 4), sums_of_lanes(lanes[r])));
        }
    }
}

/* A group of `count` rows of the weight; past the last, that row again. */
INLINE void group_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const char *x, size_t stride,
                     size_t rows, int32_t *sums, size_t sums_stride) {
    const size_t part = 32 * A8_PART, ahead = GROUP * row_bytes;
    __m256i lanes[A8_ROWS][GROUP];
    memset(lanes, 0, rows * sizeof *lanes);
    for (size_t i = 0; i < bytes; i += part)
        for (size_t j = 0; j < GROUP; j++) {
            const uint8_t *row = codes + smaller(j, count - 1) * row_bytes;
            part_a8(row + i, smaller(part, bytes - i), ahead, x + 4 * i, stride, rows, (void *)&lanes[0][j]);
        }
    for (size_t r = 0; r < rows; r++) {
        __m128i eight[2] = {sums_of_lanes(lanes[r]), sums_of_lanes(lanes[r] + 4)};
        memcpy(sums + r * sums_stride, eight, smaller(GROUP, count) * sizeof *sums);
    }
}

/* Bits 2q and 2q + 1 of a word, shifted to its top, are the sign and the highest bit of the exponent of a float: 0,
 * +2.0 or -2.0. Two rows of the weight share what is loaded of x. There are eight sums, or six, so that additions do
 * not wait for each other: `chains` for each pair of rows. */
INLINE void step_a16(__m256i even, __m256i odd, const char *x, size_t stride, size_t rows, size_t chains,
                     __m256 sums[][2][4]) {
    const __m256i mask = _mm256_set1_epi32((int)0xC0000000);
#pragma GCC unroll 16
    for (int q = 0; q < 16; q++) {
        __m256 t = _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(even, 30 - 2 * q), mask));
        __m256 u = _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(odd, 30 - 2 * q), mask));
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            __m256 values = _mm256_load_ps((const float *)(x + r * stride) + 8 * q);
            __m256 *of_even = &sums[r][0][q % chains], *of_odd = &sums[r][1][q % chains];
            *of_even = _mm256_fmadd_ps(t, values, *of_even);
            *of_odd = _mm256_fmadd_ps(u, values, *of_odd);
            BARRIER(*of_even);
            BARRIER(*of_odd);
        }
    }
}

/* Some steps of two rows of the weight, added to lanes[r][0] and lanes[r][1]. */
INLINE void part_a16(const uint8_t *even, const uint8_t *odd, size_t bytes, size_t ahead, const char *x, size_t stride,
                     size_t rows, __m256 lanes[][GROUP]) {
    const size_t chains = rows == 1 ? 4 : rows == 2 ? 2 : 1;
    __m256 sums[A16_ROWS][2][4];
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (size_t c = 0; c < chains; c++)
            sums[r][0][c] = sums[r][1][c] = _mm256_setzero_ps();
    for (size_t i = 0; i < bytes; i += 32, x += 512) {
        _mm_prefetch((const char *)even + ahead + i, _MM_HINT_T0);
        _mm_prefetch((const char *)odd + ahead + i, _MM_HINT_T0);
        step_a16(load_part(even + i, bytes - i), load_part(odd + i, bytes - i), x, stride, rows, chains, sums);
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
#pragma GCC unroll 4
            for (size_t c = 0; c < chains; c++)
                lanes[r][j] = _mm256_add_ps(lanes[r][j], sums[r][j][c]);
}

INLINE void group_a16(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const char *x, size_t stride,
                      size_t rows, float *sums, size_t sums_stride) {
    const size_t part = rows <= 2 ? bytes : 32 * A16_PART, ahead = GROUP * row_bytes;
    __m256 lanes[A16_ROWS][GROUP];
    memset(lanes, 0, rows * sizeof *lanes);
    for (size_t i = 0; i < bytes; i += part)
        for (size_t j = 0; j < GROUP; j += 2) {
            const uint8_t *even = codes + smaller(j, count - 1) * row_bytes + i;
            const uint8_t *odd = codes + smaller(j + 1, count - 1) * row_bytes + i;
            part_a16(even, odd, smaller(part, bytes - i), ahead, x + 16 * i, stride, rows, (void *)&lanes[0][j]);
        }
    for (size_t r = 0; r < rows; r++) {
        __m128 eight[2] = {sums_of_floats(lanes[r]), sums_of_floats(lanes[r] + 4)};
        memcpy(sums + r * sums_stride, eight, smaller(GROUP, count) * sizeof *sums);
    }
}

/* For each group of rows of the weight, the rows of x in parts of about the same size; the compiler unrolls each. */
#define CASE(GROUP_OF, ROWS)                                                                                           \
    case ROWS: GROUP_OF(codes, row_bytes, count - i, bytes, x, stride, ROWS, to, count); break;

#define STREAMED(OF, ROWS)                                                                                             \
    case ROWS: streams_a8(codes, row_bytes, count, bytes, prepared, stride, OF, ROWS, sums); return;

#define PIECES(ROWS)                                                                                                   \
    case ROWS: pieces_a8(codes, row_bytes, count, bytes, prepared, stride, ROWS, sums); return;

void avx2_stream_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                    size_t stride, size_t rows, void *sums) {
    /* Pieces of half a row at most, such as groups of columns; whole rows, however short they are, go as streams. */
    if (bytes <= 32 * A8_PART && bytes % 32 == 0 && 2 * bytes <= row_bytes && count >= GROUP)
        switch (rows) {
            PIECES(1)
            PIECES(2)
            PIECES(3)
            PIECES(4)
        }
    switch (rows) {
        STREAMED(4, 1)
        STREAMED(2, 2)
        STREAMED(2, 3)
        STREAMED(2, 4)
    }
    for (size_t i = 0; i < count; i += GROUP, codes += GROUP * row_bytes)
        for (size_t parts = ceil_div(rows, A8_ROWS), done = 0, part; parts; parts--, done += part) {
            const char *x = (const char *)prepared + done * stride;
            int32_t *to = (int32_t *)sums + done * count + i;
            switch (part = ceil_div(rows - done, parts)) {
                CASE(group_a8, 4)
                CASE(group_a8, 5)
                CASE(group_a8, 6)
                CASE(group_a8, 7)
                CASE(group_a8, 8)
            }
        }
}

void avx2_stream_a16(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                     size_t stride, size_t rows, void *sums) {
    for (size_t i = 0; i < count; i += GROUP, codes += GROUP * row_bytes)
        for (size_t parts = ceil_div(rows, A16_ROWS), done = 0, part; parts; parts--, done += part) {
            const char *x = (const char *)prepared + done * stride;
            float *to = (float *)sums + done * count + i;
            switch (part = ceil_div(rows - done, parts)) {
                CASE(group_a16, 1)
                CASE(group_a16, 2)
                CASE(group_a16, 3)
                CASE(group_a16, 4)
            }
        }
}
