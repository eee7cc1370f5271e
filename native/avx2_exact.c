/* The loops of method `exact` (exact.c) for x86-64 with AVX2. */
#include "avx2.h"

#include <math.h>

static uint32_t largest_lane16(__m256i words) {
    uint16_t lanes[16], largest = 0;
    _mm256_storeu_si256((__m256i *)lanes, words);
    for (int i = 0; i < 16; i++)
        largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}

static double sum_lanes(__m256 values) {
    float lanes[8];
    double sum = 0;
    _mm256_storeu_ps(lanes, values);
    for (int i = 0; i < 8; i++)
        sum += lanes[i];
    return sum;
}

/* Float32 sums of at most 2 * BLOCK / 16 values a lane: each rounds by 2^-24, so the error stays below 2^-15. */
#define BLOCK 2048

/* A 16-bit float's exponent and mantissa, shifted to where float32 has them, are its value times a power of two:
 * 1 for bfloat16; 2^-112 for float16, whose exponents have a bias of 15 and not of 127. */
Survey avx2_survey16(const uint16_t *weights, size_t count, const Format *format) {
    const int left = 23 - format->mantissa, right = 16 - left;
    const __m256i no_sign = _mm256_set1_epi16(0x7FFF), high_half = _mm256_set1_epi32(0x7FFF << left);
    __m256i largest = _mm256_setzero_si256();
    double sum = 0;
    size_t i = 0;
    while (i + 16 <= count) {
        size_t end = count - i > BLOCK ? i + BLOCK : count;
        __m256 even = _mm256_setzero_ps(), odd = even;
        for (; i + 16 <= end; i += 16) {
            __m256i words = _mm256_and_si256(load(weights + i), no_sign);
            largest = _mm256_max_epu16(largest, words);
            __m256i low = _mm256_srli_epi32(_mm256_slli_epi32(words, 16), right);
            __m256i high = _mm256_and_si256(_mm256_srli_epi32(words, right), high_half);
            even = _mm256_add_ps(even, _mm256_castsi256_ps(low));
            odd = _mm256_add_ps(odd, _mm256_castsi256_ps(high));
        }
        sum += sum_lanes(even) + sum_lanes(odd);
    }
    if (format->bias == 15)
        sum *= 0x1p112;
    Survey rest = scalar_loops.survey16(weights + i, count - i, format);
    uint32_t first = largest_lane16(largest);
    Survey survey = {first > rest.largest ? first : rest.largest, sum + rest.sum};
    if (survey.largest < format->infinity && !isfinite(survey.sum)) /* near the largest bfloat16 float32 overflows */
        return scalar_loops.survey16(weights, count, format);
    return survey;
}

Survey avx2_survey32(const uint32_t *weights, size_t count, const Format *format) {
    const __m256i no_sign = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i largest = _mm256_setzero_si256();
    __m256d low = _mm256_setzero_pd(), high = low;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256i words = _mm256_and_si256(load(weights + i), no_sign);
        largest = _mm256_max_epu32(largest, words);
        __m256 values = _mm256_castsi256_ps(words);
        low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(values)));
        high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(values, 1)));
    }
    uint32_t lanes[8];
    double sums[4];
    _mm256_storeu_si256((__m256i *)lanes, largest);
    _mm256_storeu_pd(sums, _mm256_add_pd(low, high));
    Survey survey = scalar_loops.survey32(weights + i, count - i, format);
    for (int lane = 0; lane < 8; lane++)
        survey.largest = lanes[lane] > survey.largest ? lanes[lane] : survey.largest;
    survey.sum += (sums[0] + sums[1]) + (sums[2] + sums[3]);
    return survey;
}

/* Vectors find the bins, scalar adds count. With `first` rounded down to a bin's start, x = magnitude - first + one bin
 * is the bin number above the low bits; saturated at 0 it lies in bin 0. */
INLINE void add(uint64_t *counters, uint32_t x, int shift) {
    counters[x >> shift] += ONE + (x & ((1u << shift) - 1));
}

INLINE size_t count16_run(const uint16_t *weights, size_t count,
                                                                const Bins *bins, int shift, uint64_t *counters) {
    const __m256i no_sign = _mm256_set1_epi16(0x7FFF), first = _mm256_set1_epi16((short)bins->first);
    const __m256i one_bin = _mm256_set1_epi16((short)(1 << shift));
    uint64_t *const a = counters, *const b = a + bins->count, *const c = b + bins->count, *const d = c + bins->count;
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        uint64_t lanes[4];
        __m256i words = _mm256_and_si256(load(weights + i), no_sign);
        _mm256_storeu_si256((__m256i *)lanes, _mm256_subs_epu16(_mm256_add_epi16(words, one_bin), first));
        for (int v = 0; v < 4; v++) {
            uint64_t four = lanes[v];
            add(a, four & 0xFFFF, shift);
            add(b, four >> 16 & 0xFFFF, shift);
            add(c, four >> 32 & 0xFFFF, shift);
            add(d, (uint32_t)(four >> 48), shift);
        }
    }
    return i;
}

void avx2_count16(const uint16_t *weights, size_t count, const Bins *bins, uint64_t *counters) {
    size_t done = bins->shift ? count16_run(weights, count, bins, bins->shift, counters)
                              : count16_run(weights, count, bins, 0, counters);
    scalar_loops.count16(weights + done, count - done, bins, counters);
}

void avx2_count32(const uint32_t *weights, size_t count, const Bins *bins, uint64_t *counters) {
    const __m256i no_sign = _mm256_set1_epi32(0x7FFFFFFF), first = _mm256_set1_epi32((int)bins->first);
    const __m256i one_bin = _mm256_set1_epi32(1 << bins->shift);
    uint64_t *const a = counters, *const b = a + bins->count, *const c = b + bins->count, *const d = c + bins->count;
    const int shift = bins->shift;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        uint32_t lanes[8];
        __m256i words = _mm256_add_epi32(_mm256_and_si256(load(weights + i), no_sign), one_bin);
        _mm256_storeu_si256((__m256i *)lanes, _mm256_sub_epi32(_mm256_max_epu32(words, first), first));
        for (int v = 0; v < 8; v += 4) {
            add(a, lanes[v], shift);
            add(b, lanes[v + 1], shift);
            add(c, lanes[v + 2], shift);
            add(d, lanes[v + 3], shift);
        }
    }
    scalar_loops.count32(weights + i, count - i, bins, counters);
}

/* Magnitudes of normal numbers, 64 bits a lane, as binary64: the exponent's bias differs, the fraction is longer. */
static __m256d values_of(__m256i magnitudes, Format format) {
    const __m256i bias = _mm256_set1_epi64x((long long)(1023 - format.bias) << 52);
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_slli_epi64(magnitudes, 52 - format.mantissa), bias));
}

/* From each magnitude to the next. */
static __m256d units_of(__m256i magnitudes, Format format) {
    const __m256i bias = _mm256_set1_epi64x(1023 - format.bias - format.mantissa);
    __m256i exponents = _mm256_add_epi64(_mm256_srli_epi64(magnitudes, format.mantissa), bias);
    return _mm256_castsi256_pd(_mm256_slli_epi64(exponents, 52));
}

static bool all_normal(const Bins *bins) { return bins->first >> bins->format->mantissa > 0; }

/* The smallest magnitudes of the bins from `bin` on. */
static __m256i smallest_of(const Bins *bins, size_t bin) {
    long long base = bins->first + ((long long)(bin - 1) << bins->shift), step = 1LL << bins->shift;
    return _mm256_setr_epi64x(base, base + step, base + 2 * step, base + 3 * step);
}

/* Integers below 2^52: in the fraction of 2^52 they are the units. */
static __m256d to_double(__m256i integers) {
    const __m256d magic = _mm256_set1_pd(0x1p52);
    return _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(integers), magic), magic);
}

/* Each lane plus all lanes above it. */
static __m256d sums_from_above(__m256d x) {
    __m256d next = _mm256_blend_pd(_mm256_permute4x64_pd(x, 0xF9), _mm256_setzero_pd(), 8);
    x = _mm256_add_pd(x, next);
    return _mm256_add_pd(x, _mm256_permute2f128_pd(x, x, 0x81));
}

/* Four bins at a time, from the last down. Each lane keeps its own best; of equal ones the smallest support is the
 * first. Bins above the largest magnitude have 0 / 0, which compares as no better. */
Support avx2_accumulate(uint64_t *counters, const Bins *bins, double *numbers, double *sums) {
    if (!all_normal(bins))
        return scalar_loops.accumulate(counters, bins, numbers, sums);
    const Format format = *bins->format;
    const size_t stride = bins->count;
    const __m256i zero = _mm256_setzero_si256(), low_mask = _mm256_set1_epi64x(ONE - 1);
    const __m256i four_bins = _mm256_set1_epi64x(4LL << bins->shift);
    __m256i smallest = smallest_of(bins, stride - 4);
    __m256d number_above = _mm256_setzero_pd(), sum_above = number_above;
    __m256d best_gain = _mm256_set1_pd(-1), best_number = number_above, best_sum = number_above;
    numbers[stride] = sums[stride] = 0;
    for (size_t bin = stride - 4; bin < stride; bin -= 4) { /* until it wraps */
        __m256i counter = zero;
        for (int t = 0; t < TABLES; t++) {
            uint64_t *at = counters + t * stride + bin;
            counter = _mm256_add_epi64(counter, load(at));
            _mm256_storeu_si256((__m256i *)at, zero);
        }
        __m256d number = to_double(_mm256_srli_epi64(counter, 40));
        __m256d low_bits = to_double(_mm256_and_si256(counter, low_mask));
        __m256d sum = _mm256_add_pd(_mm256_mul_pd(number, values_of(smallest, format)),
                                    _mm256_mul_pd(low_bits, units_of(smallest, format)));
        smallest = _mm256_sub_epi64(smallest, four_bins);
        number = sums_from_above(number);
        sum = sums_from_above(sum);
        __m256d numbers_now = _mm256_add_pd(number, number_above), sums_now = _mm256_add_pd(sum, sum_above);
        number_above = _mm256_add_pd(number_above, _mm256_permute4x64_pd(number, 0));
        sum_above = _mm256_add_pd(sum_above, _mm256_permute4x64_pd(sum, 0));
        _mm256_storeu_pd(numbers + bin, numbers_now);
        _mm256_storeu_pd(sums + bin, sums_now);
        __m256d gain = _mm256_div_pd(_mm256_mul_pd(sums_now, sums_now), numbers_now);
        __m256d better = _mm256_cmp_pd(gain, best_gain, _CMP_GT_OQ);
        best_gain = _mm256_blendv_pd(best_gain, gain, better);
        best_number = _mm256_blendv_pd(best_number, numbers_now, better);
        best_sum = _mm256_blendv_pd(best_sum, sums_now, better);
    }
    for (int t = 0; t < TABLES; t++)
        counters[t * stride] = 0;
    double gain_of[4], number_of[4], sum_of[4];
    _mm256_storeu_pd(gain_of, best_gain);
    _mm256_storeu_pd(number_of, best_number);
    _mm256_storeu_pd(sum_of, best_sum);
    Support best = {-1, 0, 0};
    for (int lane = 0; lane < 4; lane++)
        if (gain_of[lane] > best.gain || (gain_of[lane] == best.gain && number_of[lane] < best.number))
            best = (Support){gain_of[lane], number_of[lane], sum_of[lane]};
    return best;
}

bool avx2_window(const Bins *bins, const double *numbers, const double *sums, double gain, size_t *low,
                   size_t *high) {
    if (!all_normal(bins))
        return scalar_loops.window(bins, numbers, sums, gain, low, high);
    const __m256d least = _mm256_set1_pd(gain * (1 - WINDOW_MARGIN)), two = _mm256_set1_pd(2);
    const Format format = *bins->format;
    const __m256i four_bins = _mm256_set1_epi64x(4LL << bins->shift);
    __m256i next = smallest_of(bins, 2);
    *low = *high = 0;
    for (size_t bin = 1; bin < bins->count; bin += 4) {
        __m256d number_from = _mm256_loadu_pd(numbers + bin);
        __m256d number = _mm256_sub_pd(number_from, _mm256_loadu_pd(numbers + bin + 1));
        __m256d above = values_of(next, format);
        next = _mm256_add_epi64(next, four_bins);
        __m256d sum = _mm256_add_pd(_mm256_loadu_pd(sums + bin + 1), _mm256_mul_pd(number, above));
        __m256d may = _mm256_cmp_pd(_mm256_mul_pd(sum, sum), _mm256_mul_pd(least, number_from), _CMP_GE_OQ);
        int found = _mm256_movemask_pd(_mm256_and_pd(may, _mm256_cmp_pd(number, two, _CMP_GE_OQ)));
        if (found) {
            *low = *low ? *low : bin + (size_t)__builtin_ctz((unsigned)found);
            *high = bin + 31 - (size_t)__builtin_clz((unsigned)found);
        }
    }
    return *low > 0;
}

/* Few weights are kept, so looking for them is what counts. */
size_t avx2_gather16(const uint16_t *weights, size_t count, uint32_t low, uint32_t high, uint32_t *keys) {
    const __m256i no_sign = _mm256_set1_epi16(0x7FFF), top = _mm256_set1_epi16((short)high);
    const __m256i span = _mm256_set1_epi16((short)(high - low));
    size_t kept = 0, i = 0;
    for (; i + 16 <= count; i += 16) {
        __m256i distance = _mm256_sub_epi16(top, _mm256_and_si256(load(weights + i), no_sign));
        __m256i inside = _mm256_cmpeq_epi16(_mm256_min_epu16(distance, span), distance);
        unsigned found = (unsigned)_mm256_movemask_epi8(inside);
        for (; found; found &= found - 1, found &= found - 1)
            keys[kept++] = high - (weights[i + (size_t)__builtin_ctz(found) / 2] & 0x7FFFu);
    }
    return kept + scalar_loops.gather16(weights + i, count - i, low, high, keys + kept);
}

size_t avx2_gather32(const uint32_t *weights, size_t count, uint32_t low, uint32_t high, uint32_t *keys) {
    const __m256i no_sign = _mm256_set1_epi32(0x7FFFFFFF), top = _mm256_set1_epi32((int)high);
    const __m256i span = _mm256_set1_epi32((int)(high - low));
    size_t kept = 0, i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256i distance = _mm256_sub_epi32(top, _mm256_and_si256(load(weights + i), no_sign));
        __m256i inside = _mm256_cmpeq_epi32(_mm256_min_epu32(distance, span), distance);
        unsigned found = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(inside));
        for (; found; found &= found - 1)
            keys[kept++] = high - (weights[i + (size_t)__builtin_ctz(found)] & 0x7FFFFFFFu);
    }
    return kept + scalar_loops.gather32(weights + i, count - i, low, high, keys + kept);
}
