/* Method `exact` for one row or group (docs/methods.md): find the n that maximises gain(n) = S(n)^2 / n, where S(n) is
 * the sum of the n largest magnitudes.
 *
 * 1. The best support is {|w| > scale / 2} and the scale, the mean of its magnitudes, is at least the mean of all.
 *    So magnitudes below half the mean never matter.
 * 2. The others are counted in bins: number and sum of each. That gives S(n) and gain(n) where bins end.
 * 3. Inside a bin that holds c magnitudes, all at most h, S(n + j) <= S(n) + j h. So gain(n + j) is at most
 *    (S(n) + j h)^2 / (n + j), which is convex in j and therefore nowhere greater than at both ends of the bin.
 *    As bins are narrow this rules out all but one or two of them. Only their magnitudes are sorted and looked at
 *    one by one.
 *
 * Sums are exact in binary64, so their order makes no difference: all are multiples of the last place of half the
 * mean, M/2, which is at least M * 2^-25, and at most M * COLUMNS_MAX.
 */
#include "contract.h"

#include <stdlib.h>
#include <string.h>

const Format BFLOAT16 = {2, 7, 127, 0x7F80};
const Format FLOAT16 = {2, 10, 15, 0x7C00};
const Format FLOAT32 = {4, 23, 127, 0x7F800000};

/* Keeps half the mean, which is rounded, below the true one. */
static const double MARGIN = 0.999;

/* Bins: a few weights each, and tables that fit the L1 cache. */
#define WEIGHTS_PER_BIN 2
#define BINS_FEW 16
#define BINS_MANY 512

/* Up to this many keys, insertion is the faster sort. */
#define INSERTION_MAX 48
#define DIGIT_BITS 8

struct Scratch {
    uint64_t *counters; /* all 0 between calls */
    double *numbers, *sums;
    uint32_t *keys, *sorted;
};

void scratch_free(Scratch *scratch) {
    if (scratch) {
        free(scratch->counters);
        free(scratch->numbers);
        free(scratch->sums);
        free(scratch->keys);
        free(scratch->sorted);
        free(scratch);
    }
}

Scratch *scratch_new(size_t columns) {
    Scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch)
        return NULL;
    scratch->counters = calloc(TABLES * BINS_MAX, sizeof *scratch->counters);
    scratch->numbers = malloc((BINS_MAX + 1) * sizeof *scratch->numbers);
    scratch->sums = malloc((BINS_MAX + 1) * sizeof *scratch->sums);
    scratch->keys = malloc(columns * sizeof *scratch->keys);
    scratch->sorted = malloc(columns * sizeof *scratch->sorted);
    if (scratch->counters && scratch->numbers && scratch->sums && scratch->keys && scratch->sorted)
        return scratch;
    scratch_free(scratch);
    return NULL;
}

/* 2^exponent, of a normal binary64. */
static double power_of_two(int exponent) {
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

double unit_of(uint32_t magnitude, const Format *format) {
    int exponent = (int)(magnitude >> format->mantissa);
    return power_of_two((exponent > 1 ? exponent : 1) - format->bias - format->mantissa);
}

double value_of(uint32_t magnitude, const Format *format) {
    uint32_t exponent = magnitude >> format->mantissa, fraction = magnitude & ((1u << format->mantissa) - 1);
    return (fraction | (uint32_t)(exponent > 0) << format->mantissa) * unit_of(magnitude, format);
}

/* The largest magnitude whose value is not above, for values below Inf. */
static uint32_t floor_of(double value, const Format *format) {
    if (value < power_of_two(1 - format->bias))
        return (uint32_t)(value / unit_of(0, format));
    uint64_t bits;
    memcpy(&bits, &value, 8);
    bits -= (uint64_t)(1023 - format->bias) << 52;
    return (uint32_t)(bits >> (52 - format->mantissa));
}

/* Bins from `floor` up to `largest`: a fraction of the number of weights, as few as that allows. A bin never reaches
 * over a power of two, so its magnitudes have one last place. */
static Bins choose_bins(const Format *format, uint32_t floor, uint32_t largest, size_t weights) {
    size_t limit = weights / WEIGHTS_PER_BIN;
    limit = limit < BINS_FEW ? BINS_FEW : limit > BINS_MANY ? BINS_MANY : limit;
    int shift = 0, most = format->mantissa < SHIFT_MAX ? format->mantissa : SHIFT_MAX;
    while (shift < most && (largest >> shift) - (floor >> shift) >= limit)
        shift++;
    size_t count = (largest >> shift) - (floor >> shift) + 1;
    return (Bins){format, shift, floor >> shift << shift, (count + 3) / 4 * 4 + 1};
}

static void insertion_sort(uint32_t *keys, size_t count) {
    for (size_t i = 1; i < count; i++) {
        uint32_t key = keys[i];
        size_t at = i;
        for (; at > 0 && keys[at - 1] > key; at--)
            keys[at] = keys[at - 1];
        keys[at] = key;
    }
}

/* Sort ascending; no key is above `largest`. The result lies in one of the two arrays. */
static const uint32_t *sort(uint32_t *keys, uint32_t *other, size_t count, uint32_t largest) {
    if (count <= INSERTION_MAX) {
        insertion_sort(keys, count);
        return keys;
    }
    for (int shift = 0; shift < 32 && largest >> shift; shift += DIGIT_BITS) {
        size_t starts[(1 << DIGIT_BITS) + 1] = {0};
        const uint32_t mask = (1u << DIGIT_BITS) - 1;
        for (size_t i = 0; i < count; i++)
            starts[(keys[i] >> shift & mask) + 1]++;
        for (size_t digit = 1; digit <= mask; digit++)
            starts[digit] += starts[digit - 1];
        for (size_t i = 0; i < count; i++)
            other[starts[keys[i] >> shift & mask]++] = keys[i];
        uint32_t *swap = keys;
        keys = other;
        other = swap;
    }
    return keys;
}

double exact_scale(const Loops *loops, const Format *format, const void *weights, size_t count, Scratch *scratch) {
    bool narrow = format->bytes == 2;
    Survey survey = narrow ? loops->survey16(weights, count, format) : loops->survey32(weights, count, format);
    if (survey.largest >= format->infinity)
        return -1;
    if (survey.largest == 0)
        return 0;

    uint32_t floor = floor_of(survey.sum / (double)count * (0.5 * MARGIN), format);
    Bins bins = choose_bins(format, floor, survey.largest, count);
    if (narrow)
        loops->count16(weights, count, &bins, scratch->counters);
    else
        loops->count32(weights, count, &bins, scratch->counters);
    Support best = loops->accumulate(scratch->counters, &bins, scratch->numbers, scratch->sums);

    size_t low_bin, high_bin;
    if (bins.shift && loops->window(&bins, scratch->numbers, scratch->sums, best.gain, &low_bin, &high_bin)) {
        uint32_t low = bins.first + ((uint32_t)(low_bin - 1) << bins.shift);
        uint32_t high = bins.first + ((uint32_t)high_bin << bins.shift) - 1;
        size_t kept = narrow ? loops->gather16(weights, count, low, high, scratch->keys)
                             : loops->gather32(weights, count, low, high, scratch->keys);
        const uint32_t *keys = sort(scratch->keys, scratch->sorted, kept, high - low);
        Support support = {0, scratch->numbers[high_bin + 1], scratch->sums[high_bin + 1]};
        for (size_t i = 0; i < kept; i++) {
            support.number += 1;
            support.sum += value_of(high - keys[i], format);
            support.gain = support.sum * support.sum / support.number;
            if (support.gain > best.gain || (support.gain == best.gain && support.number < best.number))
                best = support;
        }
    }
    return best.sum / best.number;
}
