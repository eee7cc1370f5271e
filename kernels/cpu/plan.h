/* What the two regimes share with matmul.c: one block of rows of x at a time, prepared, and what a task works with. */
#ifndef TERNFMT_CPU_PLAN_H
#define TERNFMT_CPU_PLAN_H

#include "contract.h"

#include <stdatomic.h>

/* What sums of a row of x are multiplied by, so that they overflow only where the result does: a power of two up to 1
 * before the scales of the weight, the rest after. */
typedef struct {
    float before, after;
} Scale;

typedef struct {
    const Product *product;
    const Stream *stream; /* the regime of few rows, or ... */
    const Tiles *tiles;   /* ... of many; the other is NULL */
    size_t words;         /* of a row of codes */
    size_t window_words;  /* few rows, groups of columns: of a prepared row, what each group has; else 0 */
    size_t first, rows;   /* of x: the block at hand */
    char *prepared;       /* [rows, stride] bytes */
    size_t stride;
    Scale *x_scales;      /* [rows] */
    int32_t *corrections; /* [rows, groups]: by how much sums of a8 are too large */
    size_t digits;        /* rows of `prepared` for a row of x: 1, or DIGITS, which then have corrections each */
    Rest *rests;          /* [rows], of digits */
    atomic_bool refused;  /* a row of x has no digits */
    size_t outputs;       /* rows of the weight that a task takes, the last one perhaps fewer */
    char *scratch;        /* [workers, scratch_bytes] */
    size_t scratch_bytes;
} Plan;

/* few.c and many.c: bytes of scratch for a task of plan->outputs rows, and the tasks. */
size_t few_scratch(const Plan *plan);
size_t many_scratch(const Plan *plan);
Run few_task, many_task;

/* matmul.c: from sums [ceil(count / width)][plan->rows][width] of the rows first.. of the weight to rounded results.
 * `scratch` holds end_scratch(plan) bytes. */
size_t end_scratch(const Plan *plan);
void end_rows(const Plan *plan, const float *sums, size_t width, size_t first, size_t count, void *scratch);

/* Scales of plane `plane` and group `group` for `count` rows of the weight from `first` on. */
void load_scales(const Plan *plan, int plane, size_t group, size_t first, size_t count, float *scales);

#endif
