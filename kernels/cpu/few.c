/* Few rows of x: each row of the weight is read once, from memory, and multiplied with all of them as it comes; nothing
 * of it is written. A task is rows that lie one after the other, in which the kernel may read at several places at once.
 * Groups of columns are products of their own: some rows of the weight at a time take turns at each, and what is next is
 * prefetched.
 */
#include "digits.h"
#include "plan.h"

#include <string.h>

/* Rows of the weight that take turns at a group of columns: they stay in the first level of the cache meanwhile. */
#define GROUPED_ROWS 16
#define LINE 64 /* bytes */

/* Rows of the weight whose products are worked out together. */
static size_t rows_together(const Plan *plan) {
    return plan->product->weight.groups == 1 ? plan->outputs : GROUPED_ROWS;
}

size_t few_scratch(const Plan *plan) {
    const size_t scales = 2 * rows_together(plan) * plan->product->weight.groups;
    return (scales + (2 * FEW_MAX + 1) * plan->outputs) * sizeof(float) + end_scratch(plan);
}

/* Where a task keeps what it works with. */
typedef struct {
    float *scales; /* [groups, rows_together] of a plane */
    float *by_row; /* [rows_together, groups]: of several groups, as they lie in the file */
    float *totals; /* [rows, outputs] */
    float *rests;  /* [outputs] of a row of x */
    void *sums;    /* [rows * digits, outputs], four bytes each */
    void *end;
} Scratch;

static Scratch scratch_of(const Plan *plan, int worker) {
    Scratch s = {.scales = (void *)(plan->scratch + (size_t)worker * plan->scratch_bytes)};
    s.by_row = s.scales + rows_together(plan) * plan->product->weight.groups;
    s.totals = s.by_row + rows_together(plan) * plan->product->weight.groups;
    s.rests = s.totals + FEW_MAX * plan->outputs;
    s.sums = s.rests + plan->outputs;
    s.end = s.rests + (1 + FEW_MAX) * plan->outputs;
    return s;
}

/* Scales of `count` rows of the weight from `first` on. Those of several groups are transposed, four rows at a time, so
 * that four are stored at once; past the last row, that row again. */
static void load_by_group(const Plan *plan, int plane, size_t first, size_t count, Scratch s) {
    const Weight *weight = &plan->product->weight;
    const size_t groups = weight->groups;
    const char *at = weight->scales[plane];
    at += first * groups * dtype_bytes(weight->scale_dtype);
    plan->product->kernels->widen(at, weight->scale_dtype, 1, count * groups, groups == 1 ? s.scales : s.by_row);
    for (size_t i = 0; groups > 1 && i < count; i += 4) {
        const float *rows[4];
        for (size_t r = 0; r < 4; r++)
            rows[r] = s.by_row + smaller(i + r, count - 1) * groups;
        for (size_t group = 0; group < groups; group++) {
            const float four[4] = {rows[0][group], rows[1][group], rows[2][group], rows[3][group]};
            memcpy(s.scales + group * GROUPED_ROWS + i, four, sizeof four);
        }
    }
}

/* Products of one group of columns with rows start .. start + count of the task, scaled, are added to totals. */
static void add_group(const Plan *plan, const uint8_t *codes, size_t group, size_t start, size_t count, Scratch s) {
    const Product *product = plan->product;
    const Kernels *kernels = product->kernels;
    const Stream *stream = plan->stream;
    const Weight *weight = &product->weight;
    const size_t first = group * weight->group, end = first + smaller(weight->group, weight->k - first);
    const size_t vector_bytes = kernels->words_multiple * WORD_BYTES, row_end = ceil_div(weight->k, CODES_PER_BYTE);
    const size_t byte = first / CODES_PER_BYTE / vector_bytes * vector_bytes; /* where the group's window begins */
    const size_t byte_end = smaller(round_up(ceil_div(end, CODES_PER_BYTE), vector_bytes), row_end);
    stream->multiply(codes + byte, weight->row_bytes, count, byte_end - byte,
                     plan->prepared + group * plan->window_words * stream->word_bytes, plan->stride,
                     plan->rows * plan->digits, s.sums);
    const float *scales = s.scales + group * GROUPED_ROWS; /* one group is number 0 */
    for (size_t r = 0; r < plan->rows; r++) {
        void *of_row = (char *)s.sums + r * plan->digits * count * sizeof(float);
        const int32_t *corrections = plan->corrections + r * plan->digits * weight->groups + group;
        float *to = s.totals + r * plan->outputs + start;
        const float factor = plan->x_scales[r].before;
        if (plan->rests) {
            const int32_t of_digits[DIGITS] = {corrections[0], corrections[weight->groups],
                                               corrections[2 * weight->groups]};
            rest_products(&plan->rests[r], first, end, codes, weight->row_bytes, count, s.rests);
            kernels->scale_digits(of_row, count, count, scales, of_digits, s.rests, factor, to);
        } else if (product->int8)
            kernels->scale_int8(of_row, count, scales, *corrections, factor, to);
        else
            kernels->scale_float(of_row, count, scales, factor * stream->factor, to);
    }
}

/* Rows start .. start + count of a task, which begins at row task_first and has `end`, of one plane. With each group a
 * part of as many rows after them is prefetched: the processor does not foresee pieces of several rows. */
static void add_rows(const Plan *plan, int plane, size_t task_first, size_t start, size_t count, size_t end,
                     Scratch s) {
    const Weight *weight = &plan->product->weight;
    const uint8_t *codes = weight->codes[plane] + (task_first + start) * weight->row_bytes;
    const uint8_t *next = codes + count * weight->row_bytes;
    const uint8_t *next_end = next + smaller(count, end - start - count) * weight->row_bytes;
    const size_t part = ceil_div((size_t)(next_end - next), weight->groups);
    load_by_group(plan, plane, task_first + start, count, s);
    for (size_t group = 0; group < weight->groups; group++) {
        for (const uint8_t *part_end = next + part; next < part_end && next < next_end; next += LINE)
            __builtin_prefetch(next);
        add_group(plan, codes, group, start, count, s);
    }
}

void few_task(void *context, size_t task, int worker) {
    const Plan *plan = context;
    const Weight *weight = &plan->product->weight;
    const size_t first = task * plan->outputs, count = smaller(plan->outputs, weight->n - first);
    const size_t most = rows_together(plan);
    Scratch s = scratch_of(plan, worker);

    memset(s.totals, 0, plan->rows * plan->outputs * sizeof *s.totals);
    for (int p = 0; p < weight->planes; p++)
        for (size_t start = 0; start < count; start += most)
            add_rows(plan, p, first, start, smaller(most, count - start), count, s);
    end_rows(plan, s.totals, plan->outputs, first, count, s.end);
}
