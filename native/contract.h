/* The native loops of ternfmt: what each reads, writes and promises.
 *
 *   module.c   the CPython side: buffers, their sizes, the GIL
 *   matrix.c   rows and groups
 *   exact.c    the scale of method `exact` for one row or group
 *   loops.c    the list of instruction sets, and the choice at run time
 *   scalar.c   every loop in portable C: the reference of the others
 *   avx2_*.c   the same loops for x86-64 with AVX2
 *
 * What all of them give, together, are the bits of the numpy code that they stand in for (ternfmt/pack.py,
 * ternfmt/encode/), on every instruction set. Nothing here allocates but `scratch_new`; nothing reads or writes outside
 * the counts given.
 */
#ifndef TERNFMT_NATIVE_CONTRACT_H
#define TERNFMT_NATIVE_CONTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CODES_PER_BYTE 4
#define PLANES_MAX 4 /* as in ternfmt/limits.py */
#define THRESHOLDS_MAX 40 /* 3^4 combinations of codes; half of them are the negatives of the others; none below 0 */

/* Rows up to which sums of `exact` stay within binary64's 53 bits, as in ternfmt/encode/histogram.py. */
#define COLUMNS_MAX ((size_t)1 << 20)

/* An IEEE format, as its magnitudes' bit patterns: exponent field above mantissa field, no sign. */
typedef struct {
    int bytes;
    int mantissa; /* bits */
    int bias;     /* of the exponent */
    uint32_t infinity;
} Format;

extern const Format BFLOAT16, FLOAT16, FLOAT32;

/* Thresholds between the levels that planes can represent, for weights of one row or group. A magnitude above
 * floors[j] changes its codes by changes[j]: plane p's code lies in bits 2p and 2p + 1. */
typedef struct {
    int planes;
    int count;
    const void *floors; /* uint16 or uint32, ascending, below 2^15 or 2^31: signed compares serve */
    const uint8_t *changes;
} Grid;

/* The stored planes of one run of weights. */
typedef struct {
    int count;
    const uint8_t *packed[PLANES_MAX];
    float scales[PLANES_MAX];
} Planes;

/* What `exact` needs to know of a row before it counts: the largest magnitude, and about their sum. */
typedef struct {
    uint32_t largest; /* bit pattern; above Format.infinity for NaN */
    double sum;       /* within 1e-4, relatively, or less; meaningless if largest is Inf or NaN */
} Survey;

/* Bins of the magnitudes of a row: those of one bin have all but their last `shift` bits in common. Bin 0 takes all
 * magnitudes below `first`; the number of the other bins is a multiple of 4, some of the uppermost may stay empty. */
typedef struct {
    const Format *format;
    int shift;
    uint32_t first; /* the smallest magnitude of bin 1; its last bits are 0 */
    size_t count;   /* bin 0 counts */
} Bins;

#define BINS_MAX ((size_t)1 << 12)
#define TABLES 4 /* of counters: neighbours that fall into one bin need not wait for each other */

/* A counter holds how many magnitudes fell into a bin, times ONE, plus the sum of their last `shift` bits. Neither
 * overflows with COLUMNS_MAX magnitudes and at most SHIFT_MAX bits. */
#define ONE ((uint64_t)1 << 40)
#define SHIFT_MAX 20

/* The `number` largest magnitudes of a row, what they sum to, and sum^2 / number. */
typedef struct {
    double gain, number, sum;
} Support;

/* The loops over one run of weights or codes; `count` is of weights or codes, never of bytes. */
typedef struct {
    const char *name;
    bool (*supported)(void);

    /* int8 codes -> 2-bit codes, pad lanes 00. False if a code is not -1, 0 or +1; the bytes are void then. */
    bool (*pack)(const int8_t *codes, size_t count, uint8_t *packed);

    /* 2-bit codes -> int8. The forbidden code 10 becomes -2. */
    void (*unpack)(const uint8_t *packed, size_t count, int8_t *codes);

    /* Whether a code is the forbidden 10. Pad lanes are not looked at. */
    bool (*forbidden)(const uint8_t *packed, size_t count);

    /* How many codes are not 0. */
    uint64_t (*non_zero)(const uint8_t *packed, size_t count);

    /* Codes of the nearest levels, packed, pad lanes 00: one array of bytes a plane. */
    void (*assign16)(const uint16_t *weights, size_t count, const Grid *grid, uint8_t *const packed[]);
    void (*assign32)(const uint32_t *weights, size_t count, const Grid *grid, uint8_t *const packed[]);

    Survey (*survey16)(const uint16_t *weights, size_t count, const Format *format);
    Survey (*survey32)(const uint32_t *weights, size_t count, const Format *format);

    /* Count magnitudes in any of the TABLES of bins->count counters each. */
    void (*count16)(const uint16_t *weights, size_t count, const Bins *bins, uint64_t *counters);
    void (*count32)(const uint32_t *weights, size_t count, const Bins *bins, uint64_t *counters);

    /* numbers[b], sums[b]: how many magnitudes the bins from b up hold, and their sum, for b >= 1; both are 0 past
     * the last bin. Sets the counters to 0. Returns the best support that ends where a bin ends: the greatest gain,
     * of equals the smallest support. */
    Support (*accumulate)(uint64_t *counters, const Bins *bins, double *numbers, double *sums);

    /* The lowest and highest bin inside of which a support with a gain of `gain` could end; false: there is none. */
    bool (*window)(const Bins *bins, const double *numbers, const double *sums, double gain, size_t *low,
                   size_t *high);

    /* For every magnitude in low..high, high - magnitude. Returns how many. `keys` has room for `count`. */
    size_t (*gather16)(const uint16_t *weights, size_t count, uint32_t low, uint32_t high, uint32_t *keys);
    size_t (*gather32)(const uint32_t *weights, size_t count, uint32_t low, uint32_t high, uint32_t *keys);

    /* norms[i] += w^2 and errors[i] += (((w - s1 c1) - s2 c2) ...)^2 for each weight w, all in binary32. */
    void (*squares)(const void *weights, size_t count, const Format *format, const Planes *planes, float *errors,
                    float *norms);
} Loops;

/* Window: how far below `gain` an upper bound must lie for a bin to be ruled out. A bin has at most COLUMNS_MAX
 * magnitudes, so the gains inside of it stay 2^-40 below, and rounding errors are 2^-51. */
#define WINDOW_MARGIN 0x1p-20

extern const Loops scalar_loops;

/* loops.c: all that this machine can run, fastest first; NULL-terminated. */
const Loops *const *loops_available(void);

/* exact.c */
typedef struct Scratch Scratch;
Scratch *scratch_new(size_t columns); /* NULL: out of memory */
void scratch_free(Scratch *scratch);

/* The scale of method `exact` for 1 to COLUMNS_MAX weights, unrounded; negative if one is NaN or Inf. */
double exact_scale(const Loops *loops, const Format *format, const void *weights, size_t count, Scratch *scratch);

/* matrix.c: arrays of rows, C-contiguous; rows of packed codes take ceil(columns / 4) bytes. */
size_t packed_bytes(size_t columns);
bool pack_rows(const Loops *loops, const int8_t *codes, size_t rows, size_t columns, uint8_t *packed);
void unpack_rows(const Loops *loops, const uint8_t *packed, size_t rows, size_t columns, int8_t *codes);
bool valid_rows(const Loops *loops, const uint8_t *packed, size_t rows, size_t columns);
bool exact_rows(const Loops *loops, const Format *format, const void *weights, size_t rows, size_t columns,
                size_t group_size, double *scales, Scratch *scratch);
/* `grid` describes the first group of the first row; the others' floors and changes follow. */
void assign_rows(const Loops *loops, const Format *format, const void *weights, size_t rows, size_t columns,
                 size_t group_size, Grid grid, uint8_t *const packed[]);
uint64_t non_zero_rows(const Loops *loops, const uint8_t *packed, size_t rows, size_t columns);
/* For each chunk of rows the sum of squared errors, and of squares: rows are added to rows in binary32, then the sums
 * of columns from left to right in binary64. `scales` are [planes, rows, groups]; `column_sums` is room for 2 * columns
 * values. */
void squares_rows(const Loops *loops, const Format *format, const void *weights, size_t rows, size_t columns,
                  size_t group_size, size_t chunk_rows, int planes, const uint8_t *const packed[],
                  const float *scales, float *column_sums, double *errors, double *norms);

/* Exact conversion of a magnitude to binary64, in integer arithmetic: what the floating-point unit is told to do
 * with subnormal numbers (torch.set_flush_denormal) does not show. */
double value_of(uint32_t magnitude, const Format *format);
double unit_of(uint32_t magnitude, const Format *format); /* from one magnitude to the next */

#endif
