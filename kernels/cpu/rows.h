/* Loops over one row of floats, in portable C that compilers turn into vector instructions by themselves. Each
 * instruction set compiles them once, with its own options; sums keep the order in which they are written here.
 */
#ifndef TERNFMT_CPU_ROWS_H
#define TERNFMT_CPU_ROWS_H

#include "contract.h"

#include <string.h>

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* IEEE binary16 to binary32. A subnormal is an integer times 2^-24; Inf and NaN have the largest exponent of both. */
static inline float float_of_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7FFF;
    if (magnitude < 0x0400)
        return float_of_bits(sign | bits_of_float((float)magnitude * 0x1p-24f));
    return float_of_bits(sign | ((magnitude << 13) + (magnitude >= 0x7C00 ? 0x70000000 : 0x38000000)));
}

/* To nearest, ties to even. Adding 2^13 - 1 and the last bit kept to the bits of a float rounds it, and a carry into
 * the exponent is right. Below 2^-14, adding 1/2 in a float whose last bit is 2^-24 does the same. */
static inline uint16_t half_of_float(float value) {
    uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return (uint16_t)(sign | 0x7E00);
    if (magnitude < 0x38800000)
        return (uint16_t)(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f)));
    magnitude += 0x0FFF + (magnitude >> 13 & 1);
    if (magnitude >= 0x47800000)
        return (uint16_t)(sign | 0x7C00);
    return (uint16_t)(sign | (magnitude - 0x38000000) >> 13);
}

static inline float float_of_brain(uint16_t brain) { return float_of_bits((uint32_t)brain << 16); }

/* As above; a NaN must not become Inf, nor its bits wrap. */
static inline uint16_t brain_of_float(float value) {
    uint32_t bits = bits_of_float(value), rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? bits >> 16 | 0x40 : rounded);
}

static inline void widen_row(const void *values, Dtype dtype, ptrdiff_t stride, size_t count, float *to) {
    const uint16_t *words = values;
    const float *floats = values;
    if (dtype == FLOAT32 && stride == 1)
        memcpy(to, floats, count * sizeof *to);
    else if (dtype == FLOAT32)
        for (size_t i = 0; i < count; i++)
            to[i] = floats[(ptrdiff_t)i * stride];
    else if (dtype == BFLOAT16 && stride == 1)
        for (size_t i = 0; i < count; i++)
            to[i] = float_of_brain(words[i]);
    else if (dtype == BFLOAT16)
        for (size_t i = 0; i < count; i++)
            to[i] = float_of_brain(words[(ptrdiff_t)i * stride]);
    else
        for (size_t i = 0; i < count; i++)
            to[i] = float_of_half(words[(ptrdiff_t)i * stride]);
}

static inline void narrow_row(const float *values, size_t count, Dtype dtype, void *to) {
    uint16_t *words = to;
    if (dtype == FLOAT32)
        memcpy(to, values, count * sizeof *values);
    else if (dtype == BFLOAT16)
        for (size_t i = 0; i < count; i++)
            words[i] = brain_of_float(values[i]);
    else
        for (size_t i = 0; i < count; i++)
            words[i] = half_of_float(values[i]);
}

/* The bits of the largest magnitude: these are ordered as floats are, and NaN is the largest. */
static inline uint32_t largest_of(const float *x, size_t count) {
    uint32_t most = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t magnitude = bits_of_float(x[i]) & 0x7FFFFFFF;
        most = magnitude > most ? magnitude : most;
    }
    return most;
}

/* The bits of reference.quantise_rows: adding 1.5 * 2^23 to a small float rounds it to an integer, half to even. The
 * comparisons turn NaN into a number. */
static inline float quantise_row(float *x, size_t count) {
    float largest = float_of_bits(largest_of(x, count));
    if (largest < 0x1p-100f) {
        memset(x, 0, count * sizeof *x);
        return 0;
    }
    float inverse = 127.0f / largest;
    for (size_t i = 0; i < count; i++) {
        float value = x[i] * inverse + 0x1.8p23f - 0x1.8p23f;
        value = value < 127.0f ? value : 127.0f;
        x[i] = value > -127.0f ? value : -127.0f;
    }
    return largest / 127.0f;
}

/* Below 2^102 no sum of K_LIMIT values, doubled, is too large. */
static inline float shrink_row(float *x, size_t count, float factor) {
    if (factor == 1 || largest_of(x, count) < bits_of_float(0x1p102f))
        return 1;
    for (size_t i = 0; i < count; i++)
        x[i] *= factor;
    return 1 / factor;
}

/* Nothing is rounded: units are powers of two, v and the quotients are whole numbers below 2^23, which 1.5 * 2^23 rounds
 * to, and the rest has bits of x only. A quotient by 255, an odd number, is no closer to a tie than 1 / 510, and its
 * error is half of that. A unit is at most 1, so that no quotient and no product with a scale is subnormal where the
 * result is not. */
static inline float split_row(const float *x, size_t count, size_t most_rests, float *const digits[DIGITS],
                              Rest *rest) {
    const float whole = 0x1.8p23f, base = DIGIT_BASE, inverse_base = 1.0f / DIGIT_BASE;
    const uint32_t most = largest_of(x, count);
    uint32_t left = 0;
    rest->count = 0;
    if (most == 0) {
        for (int d = 0; d < DIGITS; d++)
            memset(digits[d], 0, count * sizeof **digits);
        return 1;
    }
    if (most < bits_of_float(0x1p-100f) || most >= bits_of_float(0x1p22f))
        return 0;
    const float unit = float_of_bits((most & 0x7F800000) - (21u << 23)), inverse = 1 / unit;
    float *const low = digits[0], *const middle = digits[1], *const high = digits[2];
    for (size_t i = 0; i < count; i++) {
        const float value = x[i] * inverse, v = value + whole - whole;
        const float tens = v * inverse_base + whole - whole, hundreds = tens * inverse_base + whole - whole;
        low[i] = v - base * tens;
        middle[i] = tens - base * hundreds;
        high[i] = hundreds;
        left |= bits_of_float(value - v) & 0x7FFFFFFF;
    }
    for (size_t i = 0; left && i < count; i++) {
        const float value = x[i] * inverse, v = value + whole - whole;
        if (value == v)
            continue;
        if (rest->count == most_rests)
            return 0;
        float *const values = rest->values[rest->count];
        values[0] = values[2] = 0, values[1] = value - v, values[3] = v - value;
        rest->columns[rest->count++] = (uint32_t)i;
    }
    return unit;
}

/* The correction is exact modulo 2^32, and so is the difference, which fits. */
static inline void scale_int8_row(int32_t *sums, size_t count, const float *scales, int32_t correction, float factor,
                                  float *to) {
    for (size_t i = 0; i < count; i++) {
        int32_t sum = (int32_t)((uint32_t)sums[i] - (uint32_t)correction);
        to[i] += scales[i] * (factor * (float)sum);
        sums[i] = 0;
    }
}

static inline void scale_float_row(float *sums, size_t count, const float *scales, float factor, float *to) {
    for (size_t i = 0; i < count; i++) {
        to[i] += scales[i] * (factor * sums[i]);
        sums[i] = 0;
    }
}

/* Sums of digits are exact in double precision. */
static inline void scale_digits_row(const int32_t *sums, size_t stride, size_t count, const float *scales,
                                    const int32_t *corrections, const float *rests, float factor, float *to) {
    const int32_t *low = sums, *middle = sums + stride, *high = sums + 2 * stride;
    const uint32_t of_low = (uint32_t)corrections[0], of_middle = (uint32_t)corrections[1];
    const uint32_t of_high = (uint32_t)corrections[2];
    const double base = DIGIT_BASE, unit = factor;
    for (size_t i = 0; i < count; i++) {
        double sum = (int32_t)((uint32_t)high[i] - of_high) * base + (int32_t)((uint32_t)middle[i] - of_middle);
        sum = sum * base + (int32_t)((uint32_t)low[i] - of_low);
        to[i] += scales[i] * (float)(unit * (sum + rests[i]));
    }
}

static inline void finish_row(const float *sums, size_t count, float factor, const float *bias, float *to) {
    if (bias)
        for (size_t i = 0; i < count; i++)
            to[i] += sums[i] * factor + bias[i];
    else
        for (size_t i = 0; i < count; i++)
            to[i] += sums[i] * factor;
}

static inline void add_low_rank_row(const float *inner, size_t rank, const float *up, size_t stride, size_t count,
                                    float *to) {
    for (size_t r = 0; r < rank; r++)
        for (size_t i = 0; i < count; i++)
            to[i] += inner[r] * up[r * stride + i];
}

/* What the table of a set takes from here. */
#define ROW_KERNELS                                                                                                    \
    .quantise = quantise_row, .shrink = shrink_row, .split = split_row, .scale_int8 = scale_int8_row,                  \
    .scale_float = scale_float_row, .scale_digits = scale_digits_row, .finish = finish_row,                            \
    .add_low_rank = add_low_rank_row

#endif
