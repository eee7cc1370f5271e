/* Activations of 16 bits without rounding, by the kernels of a8: a row of x is three rows of int8.
 *
 * A bfloat16 has 8 significant bits and a float16 has 11, so that a row is whole numbers below 2^22 times a power of two,
 * its unit, but for values that are thousands of times smaller than the largest. A whole number is three digits from
 * -127 to 127 to the base 255. The kernels of a8 multiply the rows of digits, exactly, and the sums make up the result
 * with one rounding. Of small values a rest may be left, below half a unit: its products, of which there are a few in a
 * row, are added one by one. Three int8 products cost less than one of floats, from which a16 has its name.
 */
#ifndef TERNFMT_CPU_DIGITS_H
#define TERNFMT_CPU_DIGITS_H

#include "contract.h"

/* Whether the regime of few rows can have the product so; where `split` then refuses a row, it cannot. */
static inline bool has_digits(const Product *product) {
    return !product->int8 && product->x.dtype != FLOAT32 && product->weight.groups == 1 &&
           DIGITS * product->x.rows <= product->kernels->stream_a8.most;
}

/* rests[i]: the sum of what is left of activations, each times its code in row i of the weight. */
static inline void rest_products(const Rest *rest, const uint8_t *codes, size_t row_bytes, size_t count, float *rests) {
    for (size_t i = 0; i < count; i++, codes += row_bytes) {
        rests[i] = 0;
        for (size_t j = 0; j < rest->count; j++) {
            const size_t column = rest->columns[j];
            const int code = codes[column / CODES_PER_BYTE] >> 2 * (column % CODES_PER_BYTE) & 3;
            rests[i] += (float)(code == 3 ? -1 : code) * rest->values[j];
        }
    }
}

#endif
