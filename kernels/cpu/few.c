/* Few rows of x: each row of the weight is read once, from memory, and multiplied with all of them as it comes. What
 * binds is the memory, so the codes are read as one sequential stream a thread and nothing of them is written.
 */
#include "digits.h"
#include "plan.h"

#include <string.h>

size_t few_scratch(const Plan *plan) {
    return (2 * FEW_MAX + 2) * plan->outputs * sizeof(float) + end_scratch(plan);
}

void few_task(void *context, size_t task, int worker) {
    const Plan *plan = context;
    const Product *product = plan->product;
    const Kernels *kernels = product->kernels;
    const Stream *stream = plan->stream;
    const Weight *weight = &product->weight;
    const size_t first = task * plan->outputs, count = smaller(plan->outputs, weight->n - first), rows = plan->rows;
    float *scales = (void *)(plan->scratch + (size_t)worker * plan->scratch_bytes);
    float *totals = scales + plan->outputs;                    /* [rows, outputs] */
    float *rests = totals + FEW_MAX * plan->outputs;           /* of a row of x */
    char *sums = (char *)(rests + plan->outputs);              /* [rows * digits, count], four bytes each */
    void *after = sums + FEW_MAX * plan->outputs * sizeof(float);

    memset(totals, 0, rows * plan->outputs * sizeof *totals);
    for (int p = 0; p < weight->planes; p++) {
        load_scales(plan, p, 0, first, count, scales);
        const uint8_t *codes = weight->codes[p] + first * weight->row_bytes;
        stream->multiply(codes, weight->row_bytes, count, ceil_div(weight->k, CODES_PER_BYTE), plan->prepared,
                         plan->stride, rows * plan->digits, sums);
        for (size_t r = 0; r < rows; r++) {
            void *of_row = sums + r * plan->digits * count * sizeof(float);
            float *to = totals + r * plan->outputs;
            const float factor = plan->x_scales[r].before;
            if (plan->rests) {
                rest_products(&plan->rests[r], codes, weight->row_bytes, count, rests);
                kernels->scale_digits(of_row, count, count, scales, plan->corrections + r * DIGITS, rests, factor, to);
            } else if (product->int8)
                kernels->scale_int8(of_row, count, scales, plan->corrections[r], factor, to);
            else
                kernels->scale_float(of_row, count, scales, factor * stream->factor, to);
        }
    }
    end_rows(plan, totals, plan->outputs, first, count, after);
}
