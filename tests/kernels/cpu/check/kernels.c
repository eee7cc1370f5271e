/* Each function of a set by itself. Loops over rows must give the bits of scalar.c, sums of a8 the integers, and sums
 * of a16 what SPEC's bound allows: K + 3 roundings (S-12.2).
 */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const size_t counts[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 200};
#define COUNTS (sizeof counts / sizeof *counts)

static bool is_nan(const void *value, Dtype dtype) {
    float wide;
    scalar_kernels.widen(value, dtype, 1, 1, &wide);
    return wide != wide;
}

/* The same bits, or NaN both. */
static void same(const void *expected, const void *actual, size_t count, Dtype dtype) {
    const size_t bytes = dtype_bytes(dtype);
    for (size_t i = 0; i < count; i++) {
        const char *a = (const char *)expected + i * bytes, *b = (const char *)actual + i * bytes;
        if (memcmp(a, b, bytes) && !(is_nan(a, dtype) && is_nan(b, dtype))) {
            uint32_t bits[2] = {0, 0};
            memcpy(bits, a, bytes), memcpy(bits + 1, b, bytes);
            fail(i, bits[0], bits[1]);
        }
    }
}

/* Any bits at all, or numbers of every size down to the subnormal ones of float16. */
static void random_floats(float *x, size_t count, bool any) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)random_bits();
        memcpy(x + i, &bits, 4);
        if (!any)
            x[i] = ldexpf(normal(), (int)between(0, 60) - 40);
    }
}

static void check_widen(Dtype dtype, size_t count, size_t stride) {
    begin_case("widen, dtype %d, %zu values, stride %zu", dtype, count, stride);
    const size_t values = (count - 1) * stride + 1;
    uint8_t *from = guarded(X, values * dtype_bytes(dtype), dtype_bytes(dtype));
    for (size_t i = 0; i < values * dtype_bytes(dtype); i++)
        from[i] = (uint8_t)random_bits();
    float *expected = guarded(OTHER, count * 4, 4), *actual = guarded(OUT, count * 4, 4);
    scalar_kernels.widen(from, dtype, (ptrdiff_t)stride, count, expected);
    kernels->widen(from, dtype, (ptrdiff_t)stride, count, actual);
    same(expected, actual, count, FLOAT32);
}

static void check_narrow(Dtype dtype, size_t count, bool any) {
    begin_case("narrow, dtype %d, %zu values", dtype, count);
    float *from = guarded(X, count * 4, 4);
    const size_t bytes = count * dtype_bytes(dtype);
    void *expected = guarded(OTHER, bytes, 2), *actual = guarded(OUT, bytes, 2);
    random_floats(from, count, any);
    if (any && count >= 2) /* half way between two numbers */
        from[0] = 1 + 0x1p-11f, from[1] = 1 + 0x3p-8f;
    scalar_kernels.narrow(from, count, dtype, expected);
    kernels->narrow(from, count, dtype, actual);
    same(expected, actual, count, dtype);
}

static void check_quantise(size_t count, bool any) {
    begin_case("quantise, %zu values", count);
    float *expected = guarded(OTHER, count * 4, 4), *actual = guarded(X, count * 4, 4);
    random_floats(expected, count, any);
    memcpy(actual, expected, count * 4);
    float scales[2] = {scalar_kernels.quantise(expected, count), kernels->quantise(actual, count)};
    same(expected, actual, count, FLOAT32);
    same(scales, scales + 1, 1, FLOAT32);
}

static void check_shrink(size_t count, float largest, float factor) {
    begin_case("shrink, %zu values, the largest %g, factor %g", count, (double)largest, (double)factor);
    float *expected = guarded(OTHER, count * 4, 4), *actual = guarded(X, count * 4, 4);
    random_floats(expected, count, false);
    expected[count - 1] = -largest;
    memcpy(actual, expected, count * 4);
    const bool large = largest >= 0x1p102f && factor < 1;
    const float scale = kernels->shrink(actual, count, factor);
    for (size_t i = 0; large && i < count; i++)
        expected[i] *= factor;
    same(expected, actual, count, FLOAT32);
    if (scale != (large ? 1 / factor : 1))
        fail(0, (double)(large ? 1 / factor : 1), (double)scale);
}

/* A row of 16-bit numbers, as digits: these and the rest are the row itself, unless too many leave a rest or the
 * largest is out of range. `small` values are less than a unit; `bad` is one more, if it is not 0. */
static void check_split(Dtype dtype, size_t count, int exponent, size_t small, size_t most, float bad) {
    begin_case("split, dtype %d, %zu values, 2^%d, %zu small of %zu, %g", dtype, count, exponent, small, most,
               (double)bad);
    float *x = guarded(X, count * 4, 4), *digits[DIGITS], *memory = guarded(OUT, DIGITS * count * 4, 4);
    uint16_t *half = guarded(OTHER, count * 2, 2);
    Rest *rest = guarded(UP, sizeof *rest, _Alignof(Rest));
    for (size_t i = 0; i < count; i++)
        x[i] = ldexpf(normal(), exponent);
    x[0] = ldexpf(1.5f, exponent);
    for (size_t i = 0; i < small; i++)
        x[1 + i] = ldexpf(i % 2 ? 1.25f : -1, exponent - 22 - (int)(i % 3));
    if (bad != 0)
        x[count - 1] = bad;
    scalar_kernels.narrow(x, count, dtype, half);
    scalar_kernels.widen(half, dtype, 1, count, x);
    double largest = 0, unit = 1;
    size_t rests = 0;
    for (size_t i = 0; i < count; i++)
        largest = x[i] != x[i] ? INFINITY : fmax(largest, fabs((double)x[i]));
    if (largest > 0)
        unit = ldexp(1, ilogb(largest) - 21);
    for (size_t i = 0; i < count; i++)
        rests += rint((double)x[i] / unit) != (double)x[i] / unit;
    const bool refused = (largest != 0 && largest < 0x1p-100) || largest >= 0x1p22 || rests > most;
    for (size_t d = 0; d < DIGITS; d++)
        digits[d] = memory + d * count;
    const float actual = kernels->split(x, count, most, digits, rest);
    if (actual != (refused ? 0 : (float)unit))
        fail(0, refused ? 0 : unit, (double)actual);
    if (refused)
        return;
    if (rest->count != rests)
        fail(0, (double)rests, (double)rest->count);
    for (size_t i = 0, next = 0; i < count; i++) {
        double value = 0;
        for (size_t d = DIGITS; d-- > 0;) {
            const double digit = (double)digits[d][i];
            if (!(fabs(digit) <= DIGIT_BASE / 2 && digit == rint(digit)))
                fail(i, 0, digit);
            value = value * DIGIT_BASE + digit;
        }
        if (next < rests && rest->columns[next] == i)
            value += (double)rest->values[next++][1];
        if (value * unit != (double)x[i])
            fail(i, (double)x[i], value * unit);
    }
}

static void check_splits(void) {
    for (Dtype dtype = FLOAT16; dtype <= BFLOAT16; dtype++) {
        const int most = dtype == FLOAT16 ? 14 : 21;
        for (size_t c = 0; c < COUNTS; c++) {
            check_split(dtype, counts[c], 0, 0, counts[c] % 9, 0);
            check_split(dtype, counts[c], -300, 0, 0, 0); /* zeros */
            check_split(dtype, counts[c], 0, 0, REST_MAX, NAN);
            check_split(dtype, counts[c], 0, 0, REST_MAX, -INFINITY);
        }
        for (size_t small = 1; small < 40; small++)
            check_split(dtype, small + 1 + small % 3, dtype == FLOAT16 ? 3 : -(int)small, small, 20, 0);
        for (size_t small = REST_MAX - 2; small < REST_MAX + 3; small++)
            check_split(dtype, REST_MAX + 4 + small % 3, 0, small, REST_MAX, 0);
        for (int exponent = -140; exponent <= most; exponent++)
            for (size_t small = 0; small < 5; small += 4)
                check_split(dtype, 33, exponent, small, 4, 0);
        check_split(BFLOAT16, 33, 22, 0, 9, 0), check_split(BFLOAT16, 33, 100, 0, 9, 0);
        check_split(BFLOAT16, 33, 21, 4, 9, 0x1p-133f), check_split(BFLOAT16, 33, 0, 4, 40, 0x1p21f);
    }
    for (size_t c = 0; c < COUNTS; c++)
        for (int exponent = 100; exponent < 128; exponent++)
            check_shrink(counts[c], ldexpf(1, exponent), exponent % 3 ? 0.5f : 1);
}

/* Sums of digits up to the largest there are, against the same in double precision. */
static void check_scale_digits(size_t count, int exponent) {
    begin_case("scale_digits, %zu values, 2^%d", count, exponent);
    const size_t stride = count + between(0, 3);
    int32_t *sums = guarded(SUMS, ((DIGITS - 1) * stride + count) * 4, 4), corrections[DIGITS];
    float *scales = guarded(SCALES, count * 4, 4), *rests = guarded(BIAS, count * 4, 4);
    float *to = guarded(OUT, count * 4, 4), *before = guarded(OTHER, count * 4, 4);
    const float factor = ldexpf(1, exponent);
    random_floats(before, count, false);
    memcpy(to, before, count * 4);
    for (size_t i = 0; i < (DIGITS - 1) * stride + count; i++)
        sums[i] = (int32_t)random_bits() >> between(0, 31);
    for (size_t d = 0; d < DIGITS; d++)
        corrections[d] = (int32_t)random_bits();
    for (size_t i = 0; i < count; i++) {
        scales[i] = ldexpf(normal(), -exponent - 20);
        rests[i] = between(0, 1) ? 0 : ldexpf(normal(), -(int)between(0, 80));
    }
    kernels->scale_digits(sums, stride, count, scales, corrections, rests, factor, to);
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (size_t d = DIGITS; d-- > 0;)
            sum = sum * DIGIT_BASE + (int32_t)((uint32_t)sums[d * stride + i] - (uint32_t)corrections[d]);
        const float product = (float)((double)factor * (sum + (double)rests[i])), scaled = scales[i] * product;
        if (to[i] != before[i] + scaled)
            fail(i, (double)(before[i] + scaled), (double)to[i]);
    }
}

static void check_ends(size_t count) {
    float *sums = guarded(SUMS, count * 4, 4), *scales = guarded(SCALES, count * 4, 4);
    float *expected = guarded(OTHER, count * 4, 4), *actual = guarded(OUT, count * 4, 4);
    float *bias = guarded(BIAS, count * 4, 4), *before = guarded(INNER, count * 4, 4);
    const size_t rank = between(1, 5), stride = count + between(0, 3);
    float *up = guarded(UP, ((rank - 1) * stride + count) * 4, 4), inner[5];
    random_floats(scales, count, false), random_floats(bias, count, false), random_floats(inner, 5, false);
    random_floats(up, (rank - 1) * stride + count, false);
    for (int kernel = 0; kernel < 5; kernel++) {
        begin_case("%s, %zu values", (const char *[]){"scale_int8", "scale_float", "finish", "finish with bias",
                                                      "add_low_rank"}[kernel], count);
        random_floats(before, count, kernel == 0);
        random_floats(expected, count, false);
        memcpy(actual, expected, count * 4);
        for (int turn = 0; turn < 2; turn++) {
            const Kernels *set = turn ? kernels : &scalar_kernels;
            float *to = turn ? actual : expected;
            memcpy(sums, before, count * 4);
            switch (kernel) {
            case 0: set->scale_int8((void *)sums, count, scales, -123456789, 0x1p-90f, to); break;
            case 1: set->scale_float(sums, count, scales, 0.5f, to); break;
            case 4: set->add_low_rank(inner, rank, up, stride, count, to); break;
            default: set->finish(sums, count, 0.37f, kernel == 3 ? bias : NULL, to);
            }
            for (size_t i = 0; kernel < 2 && i < count; i++)
                if (sums[i] != 0)
                    fail(i, 0, (double)sums[i]);
        }
        same(expected, actual, count, FLOAT32);
    }
}

void check_rows(void) {
    for (size_t c = 0; c < COUNTS; c++) {
        for (Dtype dtype = FLOAT32; dtype <= BFLOAT16; dtype++) {
            for (size_t stride = 0; stride < 4; stride++)
                check_widen(dtype, counts[c], stride);
            check_narrow(dtype, counts[c], false);
            check_narrow(dtype, counts[c], true);
        }
        check_quantise(counts[c], false);
        check_quantise(counts[c], true);
        check_ends(counts[c]);
        for (int exponent = -121; exponent <= 0; exponent += 11)
            check_scale_digits(counts[c], exponent);
    }
    check_splits();
    begin_case("widen, all numbers of 16 bits");
    uint16_t *all = guarded(X, 2 << 16, 2);
    float *expected = guarded(OTHER, 4 << 16, 4), *actual = guarded(OUT, 4 << 16, 4);
    for (size_t i = 0; i < 1 << 16; i++)
        all[i] = (uint16_t)i;
    for (Dtype dtype = FLOAT16; dtype <= BFLOAT16; dtype++) {
        scalar_kernels.widen(all, dtype, 1, 1 << 16, expected);
        kernels->widen(all, dtype, 1, 1 << 16, actual);
        same(expected, actual, 1 << 16, FLOAT32);
    }
    begin_case("probes");
    kernels->probe_int8(3), kernels->probe_float(3);
    for (size_t bytes = 1; bytes < 2000; bytes += 333)
        for (size_t streams = 1; streams <= 4; streams += 3)
            kernels->probe_read(guarded(OTHER, bytes, 1), bytes, streams);
}

typedef enum { RANDOM, WHOLE, MOST, LEAST, KINDS } Kind; /* of activations */

/* `rows` prepared rows of k activations, and the activations themselves. */
typedef struct {
    size_t rows, k, padded, stride; /* padded: words */
    float *x;                       /* [rows, padded * 16] */
    char *prepared;
} Activations;

static Activations prepare(bool int8, Kind kind, size_t rows, size_t k, size_t word_bytes,
                           void (*prepare_row)(const float *, size_t, void *)) {
    Activations a = {.rows = rows, .k = k, .padded = round_up(ceil_div(k, WORD_CODES), kernels->words_multiple)};
    const size_t columns = a.padded * WORD_CODES, bytes = a.padded * word_bytes;
    a.stride = round_up(bytes, 2 * ALIGNMENT) + ALIGNMENT;
    a.x = guarded(X, rows * columns * 4, 4);
    a.prepared = guarded(PREPARED, (rows - 1) * a.stride + round_up(bytes, ALIGNMENT), ALIGNMENT);
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < columns; i++) {
            const bool whole = kind == WHOLE || int8;
            a.x[r * columns + i] = i >= k          ? 0
                                   : kind == MOST  ? 127
                                   : kind == LEAST ? -127
                                   : whole         ? (float)between(0, 254) - 127
                                                   : normal();
        }
        prepare_row(a.x + r * columns, a.padded, a.prepared + r * a.stride);
    }
    return a;
}

/* sums[r * width + i], which began with `before`, for columns first <= c < end of row i of the codes and row r of x. */
static void check_sums(const Activations *a, bool int8, int offset, float factor, const uint8_t *codes,
                       size_t row_bytes, size_t count, size_t first, size_t end, const void *sums, size_t width,
                       int before) {
    for (size_t r = 0; r < a->rows; r++) {
        const float *x = a->x + r * a->padded * WORD_CODES;
        double total = 0;
        for (size_t i = first; i < end; i++)
            total += (double)x[i];
        for (size_t row = 0; row < count; row++) {
            const size_t index = r * width + row;
            const Exact exact = exact_sum(codes + row * row_bytes, x, first, end);
            if (int8) {
                uint32_t expected = (uint32_t)(int64_t)(exact.sum + offset * total + before), actual;
                memcpy(&actual, (const char *)sums + 4 * index, 4);
                if (expected != actual)
                    fail(index, (int32_t)expected, (int32_t)actual);
            } else {
                double actual = (double)((const float *)sums)[index] * (double)factor - before;
                if (!(fabs(actual - exact.sum) <= (double)(end - first + 3) * 0x1p-24 * (exact.magnitude + before)))
                    fail(index, exact.sum, actual);
            }
        }
    }
}

/* Of rows whose bytes are `row` times those of k columns. */
static void check_stream(const Stream *stream, bool int8, Kind kind, size_t rows, size_t count, size_t k, size_t row) {
    const size_t bytes = ceil_div(k, CODES_PER_BYTE), row_bytes = row * bytes + between(0, 5) % 3;
    begin_case("%s of few, %zu x %zu x %zu, row of codes %zu bytes, activations %d", int8 ? "a8" : "a16", rows, count,
               k, row_bytes, kind);
    Activations a = prepare(int8, kind, rows, k, stream->word_bytes, stream->prepare);
    uint8_t *codes = guarded(CODES, (count - 1) * row_bytes + bytes, 1);
    random_codes(codes, row_bytes, count, k, kind == MOST ? 1 : kind == LEAST ? -1 : 0);
    void *sums = guarded(SUMS, rows * count * 4, 4);
    stream->multiply(codes, row_bytes, count, bytes, a.prepared, a.stride, rows, sums);
    check_sums(&a, int8, stream->offset, stream->factor, codes, row_bytes, count, 0, k, sums, count, 0);
}

void check_streams(void) {
    for (int int8 = 0; int8 < 2; int8++) {
        const Stream *stream = int8 ? &kernels->stream_a8 : &kernels->stream_a16;
        for (size_t rows = 1; rows <= stream->most; rows++) {
            for (size_t count = 1; count < 10; count++)
                check_stream(stream, int8, count % 2, rows, count, between(1, 300), between(1, 3));
            for (size_t k = 1; k < 40; k++)
                check_stream(stream, int8, k % KINDS, rows, between(1, 4), k, between(1, 3));
            for (Kind kind = RANDOM; kind < KINDS; kind++) {
                check_stream(stream, int8, kind, rows, 3, 256 * between(1, 4), 1);
                check_stream(stream, int8, kind, rows, 2, between(2000, 6000), between(1, 3));
                for (size_t k = 128; k <= 1280; k += 128) /* pieces of whole vectors */
                    check_stream(stream, int8, kind, rows, between(8, 17), k, 2);
            }
        }
    }
}

static void check_tile(const Tiles *tiles, bool int8, Kind kind, size_t rows, size_t count, size_t k) {
    const size_t bytes = ceil_div(k, CODES_PER_BYTE), row_bytes = bytes + between(0, 5) % 3;
    const size_t words = ceil_div(k, WORD_CODES), first = between(0, words - 1), end = between(first + 1, words);
    const int before = int8 ? 12345 : 0;
    begin_case("%s of many, %zu x %zu x %zu, row of codes %zu bytes, words %zu to %zu, activations %d",
               int8 ? "a8" : "a16", rows, count, k, row_bytes, first, end, kind);
    Activations a = prepare(int8, kind, rows, k, tiles->word_bytes, tiles->prepare);
    uint8_t *codes = guarded(CODES, (count - 1) * row_bytes + bytes, 1);
    random_codes(codes, row_bytes, count, k, kind == MOST ? 1 : kind == LEAST ? -1 : 0);
    void *panel = guarded(PANEL, tiles->panel_bytes, ALIGNMENT);
    int32_t *sums = guarded(SUMS, rows * tiles->rows * 4, ALIGNMENT);
    for (size_t i = 0; i < rows * tiles->rows; i++)
        sums[i] = before;
    const size_t middle = between(first, end);
    tiles->unpack(codes, row_bytes, count, bytes, inaccessible(), panel);
    if (middle > first)
        tiles->multiply(panel, a.prepared, a.stride, rows, first, middle, sums);
    if (end > middle)
        tiles->multiply(panel, a.prepared, a.stride, rows, middle, end, sums);
    check_sums(&a, int8, tiles->offset, tiles->factor, codes, row_bytes, count, first * WORD_CODES,
               smaller(end * WORD_CODES, k), sums, tiles->rows, before);
}

void check_tiles(void) {
    for (int int8 = 0; int8 < 2; int8++) {
        const Tiles *tiles = int8 ? &kernels->tiles_a8 : &kernels->tiles_a16;
        const size_t columns = tiles->words * WORD_CODES;
        for (size_t rows = 1; rows < 15; rows++)
            for (Kind kind = RANDOM; kind < KINDS; kind++) {
                check_tile(tiles, int8, kind, rows, between(1, tiles->rows), between(1, columns));
                check_tile(tiles, int8, kind, rows, tiles->rows, columns);
            }
        for (size_t count = 1; count <= tiles->rows; count++)
            check_tile(tiles, int8, RANDOM, 2, count, between(1, columns));
        for (size_t k = 1; k <= smaller(columns, 70); k++)
            check_tile(tiles, int8, RANDOM, 1, between(1, 3), k);
    }
}

/* All codes +1 or -1, all activations 127 or -127, as many columns as SPEC allows. */
void check_longest(void) {
    const size_t k = K_LIMIT - 1;
    const Stream *stream = &kernels->stream_a8;
    for (Kind kind = MOST; kind <= LEAST; kind++)
        for (size_t rows = 1; rows <= smaller(stream->most, 2); rows++)
            if (at_end) /* once */
                check_stream(stream, true, kind, rows, 1, k, 1);
    const Tiles *tiles = &kernels->tiles_a8;
    const size_t columns = tiles->words * WORD_CODES, chunks = K_LIMIT / columns - 1;
    for (Kind kind = MOST; kind <= LEAST; kind++) {
        begin_case("a8 of many, %zu times a chunk, activations %d", chunks, kind);
        Activations a = prepare(true, kind, 1, columns, tiles->word_bytes, tiles->prepare);
        uint8_t *codes = guarded(CODES, columns / 4, 1);
        void *panel = guarded(PANEL, tiles->panel_bytes, ALIGNMENT);
        int32_t *sums = guarded(SUMS, tiles->rows * 4, ALIGNMENT);
        memset(sums, 0, tiles->rows * 4);
        random_codes(codes, columns / 4, 1, columns, -1);
        tiles->unpack(codes, columns / 4, 1, columns / 4, inaccessible(), panel);
        for (size_t i = 0; i < chunks; i++)
            tiles->multiply(panel, a.prepared, a.stride, 1, 0, tiles->words, sums);
        const int64_t x = kind == MOST ? 127 : -127, all = (int64_t)(chunks * columns);
        const uint32_t expected = (uint32_t)((tiles->offset - 1) * x * all);
        if ((uint32_t)sums[0] != expected)
            fail(0, (int32_t)expected, sums[0]);
    }
}
