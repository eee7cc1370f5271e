/* Many rows of x. The weight is taken in tiles: some rows, and of each a chunk of columns short enough that the
 * unpacked tile lies in the first level of the cache while all rows of the block of x are multiplied with it. Chunks
 * of all tiles of a task come before the next chunk, so that the chunk of x stays in the second level. Sums of a group
 * of columns are scaled and added up where the group ends.
 */
#include "plan.h"

#include <string.h>

static size_t tile_count(const Plan *plan) { return ceil_div(plan->outputs, plan->tiles->rows); }

/* Sums of one kind: [tiles][rows of x][rows of a tile], four bytes each. */
static size_t sums_count(const Plan *plan) { return tile_count(plan) * plan->rows * plan->tiles->rows; }

size_t many_scratch(const Plan *plan) {
    return round_up(plan->tiles->panel_bytes, ALIGNMENT) + 2 * round_up(sums_count(plan) * 4, ALIGNMENT) +
           end_scratch(plan);
}

/* The sums of group `group` for `count` rows of the weight from `row` on: scaled, added to `totals`, and set to 0. */
static void close_group(const Plan *plan, int plane, size_t group, size_t row, size_t count, char *sums,
                        float *totals) {
    const Tiles *tiles = plan->tiles;
    const Kernels *kernels = plan->product->kernels;
    float scales[TILE_MAX] = {0};
    load_scales(plan, plane, group, row, count, scales);
    for (size_t r = 0; r < plan->rows; r++, sums += tiles->rows * 4, totals += tiles->rows) {
        const float factor = plan->x_scales[r].before;
        if (plan->product->int8)
            kernels->scale_int8((void *)sums, tiles->rows, scales,
                                plan->corrections[r * plan->product->weight.groups + group], factor, totals);
        else
            kernels->scale_float((void *)sums, tiles->rows, scales, factor * tiles->factor, totals);
    }
}

/* The words start <= w < end of the tile whose first row is `row`. */
static void multiply_tile(const Plan *plan, int plane, size_t row, size_t count, size_t start, size_t end,
                          const uint8_t *next, void *panel, char *sums, float *totals) {
    const Tiles *tiles = plan->tiles;
    const Weight *weight = &plan->product->weight;
    const size_t group_words = ceil_div(weight->group, WORD_CODES);
    const size_t bytes = smaller(end * WORD_BYTES, ceil_div(weight->k, CODES_PER_BYTE)) - start * WORD_BYTES;
    tiles->unpack(weight->codes[plane] + row * weight->row_bytes + start * WORD_BYTES, weight->row_bytes, count, bytes,
                  next, panel);
    for (size_t word = start; word < end;) {
        size_t group = word / group_words, stop = smaller(end, (group + 1) * group_words);
        tiles->multiply(panel, plan->prepared + start * tiles->word_bytes, plan->stride, plan->rows, word - start,
                        stop - start, sums);
        if (stop == (group + 1) * group_words || stop == plan->words)
            close_group(plan, plane, group, row, count, sums, totals);
        word = stop;
    }
}

void many_task(void *context, size_t task, int worker) {
    const Plan *plan = context;
    const Tiles *tiles = plan->tiles;
    const Weight *weight = &plan->product->weight;
    const size_t first = task * plan->outputs, count = smaller(plan->outputs, weight->n - first);
    const size_t bytes = round_up(sums_count(plan) * 4, ALIGNMENT), tile_sums = plan->rows * tiles->rows;
    char *panel = plan->scratch + (size_t)worker * plan->scratch_bytes;
    char *sums = panel + round_up(tiles->panel_bytes, ALIGNMENT);
    float *totals = (void *)(sums + bytes);

    memset(sums, 0, 2 * bytes);
    for (int p = 0; p < weight->planes; p++)
        for (size_t start = 0; start < plan->words; start += tiles->words)
            for (size_t tile = 0; tile * tiles->rows < count; tile++) {
                size_t end = smaller(start + tiles->words, plan->words), row = first + tile * tiles->rows;
                bool last = (tile + 1) * tiles->rows >= count;
                const uint8_t *next = weight->codes[p] + (last ? first : row + tiles->rows) * weight->row_bytes +
                                      (last ? end : start) * WORD_BYTES;
                multiply_tile(plan, p, row, smaller(tiles->rows, first + count - row), start, end, next, panel,
                              sums + tile * tile_sums * 4, totals + tile * tile_sums);
            }
    end_rows(plan, totals, tiles->rows, first, count, (char *)totals + bytes);
}
