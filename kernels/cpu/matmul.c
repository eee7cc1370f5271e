/* One product. Rows of x are taken in blocks: each block is prepared (rounded to int8 or not, and laid out as the
 * kernels want it), then multiplied; tasks divide the rows of the weight. Every result is computed by one task, in an
 * order that depends neither on the threads nor on the blocks.
 */
#include "digits.h"
#include "plan.h"

#include <stdlib.h>
#include <string.h>

/* Codes that a task of the first regime reads, about. Between tasks the stream from memory stops for what is done with
 * the sums: with a quarter of this a row of x took a twentieth longer, with more hardly less. */
#define FEW_BYTES ((size_t)1 << 19)
/* Kernels of the first regime take rows of the weight in groups of so many, or of a number that divides it. */
#define FEW_UNIT 16
/* Rows of the weight of a task of the second regime: their sums fit the second level of the cache beside x. */
#define MANY_OUTPUTS 64

/* Less than this is done before another thread is awake: multiply-accumulates, and activations to prepare. */
#define THREAD_PRODUCTS (1 << 21)
#define THREAD_VALUES (1 << 15)

/* Threads, of which each gets at least `least` of the work. */
static int worth_waking(int threads, double work, double least) {
    return work >= least * threads ? threads : work < 2 * least ? 1 : (int)(work / least);
}

/* Threads that prepare, and that multiply, so many rows of x. */
static int threads_to_prepare(const Product *product, size_t rows) {
    return worth_waking(product->threads, (double)rows * (double)product->weight.k, THREAD_VALUES);
}

static int threads_to_multiply(const Product *product, size_t rows) {
    const Weight *weight = &product->weight;
    const double products = (double)rows * (double)weight->k * (double)weight->n * weight->planes;
    return worth_waking(product->threads, products, THREAD_PRODUCTS);
}

static const char *row_of(const Matrix *x, size_t row) {
    return (const char *)x->data + (ptrdiff_t)row * x->row_stride * (ptrdiff_t)dtype_bytes(x->dtype);
}

/* Sums of whole numbers that are stored as floats. */
static int32_t sum_of(const float *x, size_t count) {
    int32_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (int32_t)x[i];
    return sum;
}

/* Columns that kernels take together. */
static size_t vector_columns(const Product *product) { return product->kernels->words_multiple * WORD_CODES; }

/* Words of as many vectors as it takes to hold a group of columns, wherever one begins. */
static size_t window_words(const Product *product) {
    const size_t group = product->weight.group, vector = vector_columns(product), rest = group % vector;
    const bool one_more = rest && vector % rest; /* for some of the places in a vector where groups begin */
    return (ceil_div(group, vector) + one_more) * product->kernels->words_multiple;
}

/* One row of numbers, zeros past k, as row `row` of what is multiplied; `correction` of each group for whole numbers.
 * Groups have a window each, zeros where others are, so that a kernel may begin and end with whole vectors. */
static void prepare_row(const Plan *plan, float *x, size_t row, bool whole, float *window) {
    const Kernels *kernels = plan->product->kernels;
    const Weight *weight = &plan->product->weight;
    const size_t padded = round_up(plan->words, kernels->words_multiple);
    memset(x + weight->k, 0, (padded * WORD_CODES - weight->k) * sizeof *x);
    const int offset = plan->stream ? plan->stream->offset : plan->tiles->offset;
    for (size_t g = 0; whole && g < weight->groups; g++) {
        size_t start = g * weight->group, count = smaller(weight->group, weight->k - start);
        uint32_t sum = offset ? (uint32_t)sum_of(x + start, count) : 0;
        plan->corrections[row * weight->groups + g] = (int32_t)((uint32_t)offset * sum);
    }
    char *to = plan->prepared + row * plan->stride;
    if (!plan->window_words) {
        (plan->stream ? plan->stream->prepare : plan->tiles->prepare)(x, padded, to);
        return;
    }
    for (size_t first = 0; first < weight->k; first += weight->group) {
        memset(window, 0, plan->window_words * WORD_CODES * sizeof *window);
        memcpy(window + first % vector_columns(plan->product), x + first,
               smaller(weight->group, weight->k - first) * sizeof *window);
        plan->stream->prepare(window, plan->window_words, to);
        to += plan->window_words * plan->stream->word_bytes;
    }
}

/* A scale is 0 or normal: at least 2^-107 where x is rounded, and 2^-121, the unit of 2^-100, where it has digits. */
static Scale parts_of(float scale) {
    uint32_t bits;
    float power;
    if (!(scale < 1 && scale > 0))
        return (Scale){1, scale};
    memcpy(&bits, &scale, sizeof bits);
    bits &= 0x7F800000; /* the exponent alone */
    memcpy(&power, &bits, sizeof power);
    return (Scale){power, scale / power};
}

/* Rows of floats that a row of x takes while it is prepared: itself, and its digits. */
static size_t lines_of(const Plan *plan) { return plan->digits > 1 ? 1 + DIGITS : 1; }

static void prepare_task(void *context, size_t row, int worker) {
    Plan *plan = context;
    const Product *product = plan->product;
    const Kernels *kernels = product->kernels;
    const size_t k = product->weight.k, line = round_up(plan->words, kernels->words_multiple) * WORD_CODES;
    float *x = (void *)(plan->scratch + (size_t)worker * plan->scratch_bytes);
    float *window = x + lines_of(plan) * line;
    kernels->widen(row_of(&product->x, plan->first + row), product->x.dtype, product->x.column_stride, k, x);
    if (!plan->rests) {
        const float factor = plan->stream ? plan->stream->factor : plan->tiles->factor;
        plan->x_scales[row] = parts_of(product->int8 ? kernels->quantise(x, k) : kernels->shrink(x, k, factor));
        prepare_row(plan, x, row, product->int8, window);
        return;
    }
    float *const digits[DIGITS] = {x + line, x + 2 * line, x + 3 * line};
    const float unit = kernels->split(x, k, rest_limit(k, plan->rows), digits, &plan->rests[row]);
    plan->x_scales[row] = parts_of(unit);
    if (unit == 0)
        atomic_store_explicit(&plan->refused, true, memory_order_relaxed);
    else
        for (size_t d = 0; d < DIGITS; d++)
            prepare_row(plan, digits[d], row * DIGITS + d, true, window);
}

void load_scales(const Plan *plan, int plane, size_t group, size_t first, size_t count, float *scales) {
    const Weight *weight = &plan->product->weight;
    const char *at = weight->scales[plane];
    at += (first * weight->groups + group) * dtype_bytes(weight->scale_dtype);
    plan->product->kernels->widen(at, weight->scale_dtype, (ptrdiff_t)weight->groups, count, scales);
}

size_t end_scratch(const Plan *plan) {
    return ((2 + plan->product->extras.rank) * plan->outputs + plan->product->extras.rank) * sizeof(float);
}

void end_rows(const Plan *plan, const float *sums, size_t width, size_t first, size_t count, void *scratch) {
    const Product *product = plan->product;
    const Kernels *kernels = product->kernels;
    const Extras *extras = &product->extras;
    float *line = scratch, *bias = line + plan->outputs, *up = bias + plan->outputs;
    float *up_row = up + extras->rank * plan->outputs;
    if (extras->bias)
        kernels->widen((const char *)extras->bias + first * dtype_bytes(extras->bias_dtype), extras->bias_dtype, 1,
                       count, bias);
    for (size_t i = 0; extras->rank && i < count; i++) { /* transposed: [rank, outputs] */
        kernels->widen((const char *)extras->up + (first + i) * extras->rank * dtype_bytes(extras->up_dtype),
                       extras->up_dtype, 1, extras->rank, up_row);
        for (size_t r = 0; r < extras->rank; r++)
            up[r * plan->outputs + i] = up_row[r];
    }
    for (size_t row = 0; row < plan->rows; row++) {
        const size_t m = plan->first + row;
        memset(line, 0, count * sizeof *line);
        if (extras->rank)
            kernels->add_low_rank(extras->inner + m * extras->rank, extras->rank, up, plan->outputs, count, line);
        for (size_t i = 0; i < count; i += width)
            kernels->finish(sums + (i * plan->rows + row * width), smaller(width, count - i),
                            plan->x_scales[row].after, extras->bias ? bias + i : NULL, line + i);
        char *out = (char *)product->out + (m * product->weight.n + first) * dtype_bytes(product->out_dtype);
        kernels->narrow(line, count, product->out_dtype, out);
    }
}

/* Rows of the weight of a task: as few as it takes for every thread to get several. */
static size_t outputs_of(const Plan *plan, size_t threads) {
    const Weight *weight = &plan->product->weight;
    size_t unit = plan->stream ? FEW_UNIT : plan->tiles->rows;
    size_t most = round_up(plan->stream ? FEW_BYTES / weight->row_bytes + 1 : MANY_OUTPUTS, unit);
    return smaller(most, round_up(ceil_div(weight->n, 4 * threads), unit));
}

/* Memory from one allocation: the parts of a plan, one after the other. */
static bool allocate(Plan *plan, size_t workers, size_t padded, void **memory) {
    const bool digits = plan->digits > 1;
    const size_t rows = plan->rows * plan->digits, groups = plan->product->weight.groups;
    const size_t prepared = rows * plan->stride, scales = round_up(plan->rows * sizeof(Scale), ALIGNMENT);
    const bool whole = plan->product->int8 || digits;
    const size_t corrections = whole ? round_up(rows * groups * sizeof(int32_t), ALIGNMENT) : 0;
    const size_t rests = digits ? round_up(plan->rows * sizeof(Rest), ALIGNMENT) : 0;
    const size_t to_prepare = (padded * lines_of(plan) + plan->window_words) * WORD_CODES * sizeof(float);
    size_t scratch = plan->stream ? few_scratch(plan) : many_scratch(plan);
    plan->scratch_bytes = round_up(scratch > to_prepare ? scratch : to_prepare, ALIGNMENT) + ALIGNMENT;
    *memory = malloc(prepared + scales + corrections + rests + workers * plan->scratch_bytes + ALIGNMENT);
    if (!*memory)
        return false;
    plan->prepared = (char *)*memory + (ALIGNMENT - (uintptr_t)*memory % ALIGNMENT);
    plan->x_scales = (void *)(plan->prepared + prepared);
    plan->corrections = (void *)(plan->prepared + prepared + scales);
    plan->rests = digits ? (void *)(plan->prepared + prepared + scales + corrections) : NULL;
    plan->scratch = plan->prepared + prepared + scales + corrections + rests;
    return true;
}

/* Whether so many rows go the way of few. With groups of columns that is faster for a quarter of the rows, and where a
 * window is at most twice as wide as a group: else too many products are with zeros. */
static bool few_fit(const Product *product, const Stream *stream, size_t rows) {
    if (product->weight.groups == 1)
        return rows <= stream->most;
    return rows <= ceil_div(stream->most, 4) && window_words(product) * WORD_CODES <= 2 * product->weight.group;
}

/* Whether the product may go by digits; where `split` then refuses a row, it cannot. */
static bool has_digits(const Product *product) {
    return !product->int8 && product->x.dtype != FLOAT32 &&
           few_fit(product, &product->kernels->stream_a8, DIGITS * product->x.rows);
}

/* `digits`: by those of x, as a8; *refused says that nothing was done, because a row has none. */
static bool multiply_by(const Product *product, bool digits, bool *refused) {
    const Kernels *kernels = product->kernels;
    const Weight *weight = &product->weight;
    const Stream *stream = product->int8 || digits ? &kernels->stream_a8 : &kernels->stream_a16;
    const Tiles *tiles = product->int8 ? &kernels->tiles_a8 : &kernels->tiles_a16;
    const size_t m = product->x.rows;
    const bool few = digits || few_fit(product, stream, m);
    Plan plan = {.product = product, .words = ceil_div(weight->k, WORD_CODES), .digits = digits ? DIGITS : 1};
    const size_t padded = round_up(plan.words, kernels->words_multiple);
    if (few)
        plan.stream = stream;
    else
        plan.tiles = tiles;
    plan.window_words = few && weight->groups > 1 ? window_words(product) : 0;
    /* Blocks of about the same size: each reads the whole weight. */
    const size_t most = few ? FEW_MAX : tiles->block;
    plan.rows = digits ? m : ceil_div(m, ceil_div(m, most));
    /* The first block has the most rows, and so the most threads. */
    const int preparing = threads_to_prepare(product, plan.rows), multiplying = threads_to_multiply(product, plan.rows);
    plan.outputs = outputs_of(&plan, (size_t)multiplying);
    /* Rows an odd number of lines apart do not compete for the same sets of a cache. */
    const size_t row_words = plan.window_words ? weight->groups * plan.window_words : padded;
    plan.stride = round_up(row_words * (few ? stream->word_bytes : tiles->word_bytes), 2 * ALIGNMENT) + ALIGNMENT;
    void *memory;
    if (!allocate(&plan, (size_t)(preparing > multiplying ? preparing : multiplying), padded, &memory))
        return false;
    for (; plan.first < m; plan.first += plan.rows) {
        plan.rows = smaller(plan.rows, m - plan.first);
        pool_run(threads_to_prepare(product, plan.rows), plan.rows, prepare_task, &plan);
        if (plan.refused)
            break;
        pool_run(threads_to_multiply(product, plan.rows), ceil_div(weight->n, plan.outputs),
                 few ? few_task : many_task, &plan);
    }
    *refused = plan.refused;
    free(memory);
    return true;
}

bool multiply(const Product *product) {
    bool refused = true;
    if (product->x.rows == 0 || product->weight.n == 0)
        return true;
    if (has_digits(product) && !multiply_by(product, true, &refused))
        return false;
    return !refused || multiply_by(product, false, &refused);
}
