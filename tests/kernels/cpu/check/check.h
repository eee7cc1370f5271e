/* What the checks share: memory between guard pages, random numbers, obvious sums to compare with, a way to fail. */
#ifndef TERNFMT_CHECK_H
#define TERNFMT_CHECK_H

#include "contract.h"

/* Each part of a case has a slot of its own; what it had before is void. */
typedef enum { X, PREPARED, CODES, SCALES = CODES + PLANES_MAX, PANEL = SCALES + PLANES_MAX, SUMS, BIAS, INNER, UP, OUT,
               OTHER, SLOTS } Slot;

/* `bytes` bytes, all 0xFF (as floats NaN), that end where an inaccessible page begins, or begin where one ends: which
 * of both, `at_end` says. The address, and with it the end, is a multiple of `alignment`. */
extern bool at_end;
void *guarded(Slot slot, size_t bytes, size_t alignment);
const void *inaccessible(void);

uint64_t random_bits(void);
size_t between(size_t low, size_t high); /* both included */
float normal(void);                      /* roughly */

/* The case at hand, for messages; a failure prints it and ends the program. */
extern const Kernels *kernels;
extern size_t cases;
void begin_case(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fail(size_t index, double expected, double actual);

/* Codes of `count` rows of ceil(k / 4) bytes, `row_bytes` apart, with anything in the pad lanes; `sign` of them all, or
 * 0 for any. */
void random_codes(uint8_t *codes, size_t row_bytes, size_t count, size_t k, int sign);
int code_at(const uint8_t *row, size_t i);

/* The sum of code times x over the columns first <= i < end, and of its terms' magnitudes. */
typedef struct {
    double sum, magnitude;
} Exact;
Exact exact_sum(const uint8_t *row, const float *x, size_t first, size_t end);

void check_rows(void);
void check_streams(void);
void check_tiles(void);
void check_longest(void);
void check_products(void);
void check_threads(void);

#endif
