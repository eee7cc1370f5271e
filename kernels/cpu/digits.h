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

#include <string.h>

/* How many of k activations may leave a rest: fewer than cost as much as the digits save. */
static inline size_t rest_limit(size_t k, size_t rows) { return smaller(k / (64 * rows) + 4, REST_MAX); }

/* rests[i]: the sum of what is left of activations first <= column < end, each times its code in row i of the weight.
 * Four rows at a time, so that additions do not wait for each other; past the last, that row again. */
static inline void rest_products(const Rest *rest, size_t first, size_t end, const uint8_t *codes, size_t row_bytes,
                                 size_t count, float *rests) {
    size_t from = 0, to = rest->count;
    while (from < to && rest->columns[from] < first)
        from++;
    while (to > from && rest->columns[to - 1] >= end)
        to--;
    for (size_t i = 0; i < count; i += 4) {
        const uint8_t *rows[4];
        float sums[4] = {0};
        for (size_t r = 0; r < 4; r++)
            rows[r] = codes + smaller(i + r, count - 1) * row_bytes;
        for (size_t j = from; j < to; j++) {
            const size_t byte = rest->columns[j] / CODES_PER_BYTE, shift = 2 * (rest->columns[j] % CODES_PER_BYTE);
            for (size_t r = 0; r < 4; r++)
                sums[r] += rest->values[j][rows[r][byte] >> shift & 3];
        }
        memcpy(rests + i, sums, smaller(4, count - i) * sizeof *rests);
    }
}

#endif
