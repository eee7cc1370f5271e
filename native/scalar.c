/* Every loop in portable C, as plain as it can be: the twin that the others are tested against. */
#include "contract.h"

#include <string.h>

static bool always(void) { return true; }

static bool pack(const int8_t *codes, size_t count, uint8_t *packed) {
    bool valid = true;
    for (size_t i = 0; i < count; i += CODES_PER_BYTE) {
        unsigned byte = 0;
        for (size_t lane = 0; lane < CODES_PER_BYTE && i + lane < count; lane++) {
            int code = codes[i + lane];
            valid &= code >= -1 && code <= 1;
            byte |= (code & 3u) << 2 * lane;
        }
        packed[i / CODES_PER_BYTE] = (uint8_t)byte;
    }
    return valid;
}

static void unpack(const uint8_t *packed, size_t count, int8_t *codes) {
    static const int8_t code_of[4] = {0, 1, -2, -1};
    for (size_t i = 0; i < count; i++)
        codes[i] = code_of[packed[i / CODES_PER_BYTE] >> 2 * (i % CODES_PER_BYTE) & 3];
}

/* A code is 10 where its high bit is set and its low bit is not; a machine word holds 32 codes. */
static bool forbidden(const uint8_t *packed, size_t count) {
    uint64_t found = 0;
    size_t bytes = count / CODES_PER_BYTE, i = 0;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, packed + i, 8);
        found |= word >> 1 & ~word;
    }
    found &= 0x5555555555555555;
    for (; i < bytes; i++)
        found |= packed[i] >> 1 & ~packed[i] & 0x55;
    size_t lanes = count % CODES_PER_BYTE;
    if (lanes)
        found |= packed[i] >> 1 & ~packed[i] & 0x55 & ((1u << 2 * lanes) - 1);
    return found != 0;
}

/* A code is not 0 where its low bit is set. Pad lanes of valid rows are 0. */
static uint64_t non_zero(const uint8_t *packed, size_t count) {
    uint64_t found = 0;
    size_t bytes = packed_bytes(count), i = 0;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, packed + i, 8);
        word &= 0x5555555555555555;
        word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333); /* 0-2 in each of 16 nibbles */
        word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F;
        found += word * 0x0101010101010101 >> 56;
    }
    for (; i < bytes; i++)
        for (int lane = 0; lane < CODES_PER_BYTE; lane++)
            found += packed[i] >> 2 * lane & 1;
    return found;
}

#define STEP 64 /* weights: their codes are a byte each before they are packed */

/* The two assign loops differ in the type of a weight alone. Negating a code flips its high bit where its low bit is
 * set. */
#define ASSIGN(NAME, WORD, SIGN)                                                                                   \
    static void NAME(const WORD *weights, size_t count, const Grid *grid, uint8_t *const packed[]) {               \
        const WORD *floors = grid->floors;                                                                         \
        for (size_t start = 0; start < count; start += STEP) {                                                     \
            size_t size = count - start < STEP ? count - start : STEP;                                             \
            uint8_t codes[STEP] = {0}, lanes[STEP];                                                                \
            for (int j = 0; j < grid->count; j++)                                                                  \
                for (size_t i = 0; i < size; i++)                                                                  \
                    codes[i] ^= (weights[start + i] & (WORD)~((WORD)1 << SIGN)) > floors[j] ? grid->changes[j] : 0; \
            for (size_t i = 0; i < size; i++)                                                                      \
                codes[i] ^= weights[start + i] >> SIGN ? (codes[i] & 0x55) << 1 : 0;                               \
            for (int p = 0; p < grid->planes; p++) {                                                               \
                for (size_t i = 0; i < STEP; i++)                                                                  \
                    lanes[i] = codes[i] >> 2 * p & 3;                                                              \
                pack((const int8_t *)lanes, size, packed[p] + start / CODES_PER_BYTE);                             \
            }                                                                                                      \
        }                                                                                                          \
    }

ASSIGN(assign16, uint16_t, 15)
ASSIGN(assign32, uint32_t, 31)

/* Sums in as many lanes as compilers like to make vectors of. Shifted to where float32 has its exponent, a magnitude is
 * its value times a power of two: 1, but for float16, whose exponents have another bias, 2^-112. */
#define LANES 8
#define SURVEY(NAME, WORD, NO_SIGN)                                                                                \
    static Survey NAME(const WORD *weights, size_t count, const Format *format) {                                  \
        const int left = 23 - format->mantissa;                                                                    \
        size_t whole = count - count % LANES;                                                                      \
        WORD largest[LANES] = {0};                                                                                 \
        double sums[LANES] = {0};                                                                                  \
        for (size_t i = 0; i < whole; i += LANES)                                                                  \
            for (size_t lane = 0; lane < LANES; lane++) {                                                          \
                WORD magnitude = weights[i + lane] & NO_SIGN;                                                      \
                uint32_t bits = (uint32_t)magnitude << left;                                                       \
                float value;                                                                                       \
                memcpy(&value, &bits, 4);                                                                          \
                largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];                             \
                sums[lane] += value;                                                                               \
            }                                                                                                      \
        Survey survey = {0, 0.0};                                                                                  \
        for (size_t lane = 0; lane < LANES; lane++) {                                                              \
            survey.largest = largest[lane] > survey.largest ? largest[lane] : survey.largest;                      \
            survey.sum += format->bias == 15 ? sums[lane] * 0x1p112 : sums[lane];                                  \
        }                                                                                                          \
        for (size_t i = whole; i < count; i++) {                                                                   \
            uint32_t magnitude = weights[i] & NO_SIGN;                                                             \
            survey.largest = magnitude > survey.largest ? magnitude : survey.largest;                              \
            survey.sum += value_of(magnitude, format);                                                             \
        }                                                                                                          \
        return survey;                                                                                             \
    }

SURVEY(survey16, uint16_t, 0x7FFFu)
SURVEY(survey32, uint32_t, 0x7FFFFFFFu)

/* `first` is the start of a bin, so x = magnitude - first + one bin is the bin number above the low bits; where that is
 * negative, 0 lies in bin 0. A branch for it would often be mispredicted. */
#define COUNT(NAME, WORD, NO_SIGN)                                                                                 \
    static void NAME(const WORD *weights, size_t count, const Bins *bins, uint64_t *counters) {                    \
        const uint32_t first = bins->first, one_bin = 1u << bins->shift;                                           \
        const size_t stride = bins->count;                                                                         \
        const int shift = bins->shift;                                                                             \
        for (size_t i = 0; i < count; i++) {                                                                       \
            uint32_t x = (weights[i] & NO_SIGN) + one_bin;                                                         \
            x = (x > first ? x : first) - first;                                                                   \
            counters[i % TABLES * stride + (x >> shift)] += ONE + (x & (one_bin - 1));                             \
        }                                                                                                          \
    }

COUNT(count16, uint16_t, 0x7FFFu)
COUNT(count32, uint32_t, 0x7FFFFFFFu)

static Support accumulate(uint64_t *counters, const Bins *bins, double *numbers, double *sums) {
    Support support = {0, 0, 0}, best = {-1, 0, 0};
    numbers[bins->count] = sums[bins->count] = 0;
    for (size_t bin = bins->count - 1; bin > 0; bin--) {
        uint64_t counter = 0;
        for (int t = 0; t < TABLES; t++)
            counter += counters[t * bins->count + bin];
        uint32_t smallest = bins->first + ((uint32_t)(bin - 1) << bins->shift);
        double number = (double)(counter / ONE), low_bits = (double)(counter % ONE);
        support.number = numbers[bin] = support.number + number;
        support.sum = sums[bin] =
            support.sum + (number * value_of(smallest, bins->format) + low_bits * unit_of(smallest, bins->format));
        if (support.number == 0)
            continue;
        support.gain = support.sum * support.sum / support.number;
        if (support.gain > best.gain)
            best = support;
    }
    memset(counters, 0, TABLES * bins->count * sizeof *counters);
    return best;
}

static bool window(const Bins *bins, const double *numbers, const double *sums, double gain, size_t *low,
                   size_t *high) {
    gain *= 1 - WINDOW_MARGIN;
    *low = *high = 0;
    for (size_t bin = 1; bin < bins->count; bin++) {
        double number = numbers[bin] - numbers[bin + 1];
        double above = value_of(bins->first + ((uint32_t)bin << bins->shift), bins->format);
        double sum = sums[bin + 1] + number * above;
        if (number >= 2 && sum * sum >= gain * numbers[bin]) {
            *low = *low ? *low : bin;
            *high = bin;
        }
    }
    return *low > 0;
}

#define GATHER(NAME, WORD, NO_SIGN)                                                                                \
    static size_t NAME(const WORD *weights, size_t count, uint32_t low, uint32_t high, uint32_t *keys) {           \
        size_t kept = 0;                                                                                           \
        for (size_t i = 0; i < count; i++) {                                                                       \
            uint32_t distance = high - (weights[i] & NO_SIGN); /* wraps where above */                             \
            if (distance <= high - low)                                                                            \
                keys[kept++] = distance;                                                                           \
        }                                                                                                          \
        return kept;                                                                                               \
    }

GATHER(gather16, uint16_t, 0x7FFFu)
GATHER(gather32, uint32_t, 0x7FFFFFFFu)

static float float_of(const void *weights, size_t i, const Format *format) {
    float value;
    if (format->bytes == 4)
        return ((const float *)weights)[i];
    uint16_t word = ((const uint16_t *)weights)[i];
    if (format->mantissa == 10) {
        value = (float)value_of(word & 0x7FFF, format);
        return word >> 15 ? -value : value;
    }
    uint32_t bits = (uint32_t)word << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static void squares(const void *weights, size_t count, const Format *format, const Planes *planes, float *errors,
                    float *norms) {
    static const float code_of[4] = {0, 1, -2, -1};
    for (size_t i = 0; i < count; i++) {
        float weight = float_of(weights, i, format), difference = weight;
        for (int p = 0; p < planes->count; p++)
            difference -= code_of[planes->packed[p][i / CODES_PER_BYTE] >> 2 * (i % CODES_PER_BYTE) & 3] *
                          planes->scales[p];
        errors[i] += difference * difference;
        norms[i] += weight * weight;
    }
}

const Loops scalar_loops = {
    .name = "scalar",
    .supported = always,
    .pack = pack,
    .unpack = unpack,
    .forbidden = forbidden,
    .non_zero = non_zero,
    .assign16 = assign16,
    .assign32 = assign32,
    .survey16 = survey16,
    .survey32 = survey32,
    .count16 = count16,
    .count32 = count32,
    .accumulate = accumulate,
    .window = window,
    .gather16 = gather16,
    .gather32 = gather32,
    .squares = squares,
};
