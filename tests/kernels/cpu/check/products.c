/* Whole products: every feature drawn, against SPEC's bound (S-12.2), int8 activations also against the bits of the
 * scalar twin; and on several threads, against one.
 */
#include "check.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float value_at(const void *values, Dtype dtype, size_t i) {
    float wide;
    scalar_kernels.widen((const char *)values + i * dtype_bytes(dtype), dtype, 1, 1, &wide);
    return wide;
}

/* Values of about the same size; some that are smaller, which leave rests; of all sizes; zeros; small; large. */
typedef enum { ALIKE, SOME_SMALL, WIDE, ZERO, SMALL, LARGE, SIZES } Size;

static float value_of(Size size) {
    switch (size) {
    case SOME_SMALL: return ldexpf(normal(), between(0, 9) ? 0 : -14);
    case WIDE: return ldexpf(normal(), -(int)between(0, 60));
    case ZERO: return 0;
    case SMALL: return ldexpf(normal(), -100 - (int)between(0, 2));
    case LARGE: return ldexpf(normal(), 100 + (int)between(0, 5));
    default: return normal();
    }
}

/* Random values, of a dtype, in a slot. */
static void *values(Slot slot, Dtype dtype, size_t count, Size size) {
    char *memory = guarded(slot, count * dtype_bytes(dtype), dtype_bytes(dtype));
    for (size_t i = 0; i < count; i++) {
        float value = value_of(size);
        scalar_kernels.narrow(&value, 1, dtype, memory + i * dtype_bytes(dtype));
    }
    return memory;
}

static Dtype any_dtype(void) { return (Dtype)between(FLOAT32, BFLOAT16); }

static Product random_product(size_t m, size_t n, size_t k, Size size) {
    Product p = {.kernels = kernels, .threads = 1, .int8 = between(0, 1), .out_dtype = any_dtype()};
    Dtype dtype = any_dtype();
    if (size >= SMALL) /* which a float16 is not */
        dtype = between(0, 1) ? FLOAT32 : BFLOAT16, p.out_dtype = between(0, 1) ? FLOAT32 : BFLOAT16;
    const size_t column = between(0, 3) ? 1 : between(0, 3), row = column * (k - 1) + between(0, 5);
    p.x = (Matrix){values(X, dtype, (m - 1) * row + (k - 1) * column + 1, size), dtype, m, k, (ptrdiff_t)row,
                   (ptrdiff_t)column};
    Weight *w = &p.weight;
    *w = (Weight){.n = n, .k = k, .planes = (int)between(1, 3), .scale_dtype = any_dtype()};
    w->group = between(0, 1) ? k : smaller(k, between(0, 1) ? 16 * between(1, 9) : 64 * between(1, 6));
    w->groups = ceil_div(k, w->group);
    w->row_bytes = ceil_div(k, CODES_PER_BYTE) + between(0, 2);
    for (int plane = 0; plane < w->planes; plane++) {
        uint8_t *codes = guarded(CODES + plane, (n - 1) * w->row_bytes + ceil_div(k, CODES_PER_BYTE), 1);
        random_codes(codes, w->row_bytes, n, k, 0);
        w->codes[plane] = codes;
        w->scales[plane] = values(SCALES + plane, w->scale_dtype, n * w->groups, ALIKE);
    }
    Extras *e = &p.extras;
    if (between(0, 1))
        e->bias_dtype = any_dtype(), e->bias = values(BIAS, e->bias_dtype, n, ALIKE);
    if (between(0, 1)) {
        e->rank = between(1, 9), e->up_dtype = any_dtype();
        e->inner = values(INNER, FLOAT32, m * e->rank, ALIKE), e->up = values(UP, e->up_dtype, n * e->rank, ALIKE);
    }
    p.out = guarded(OUT, m * n * dtype_bytes(p.out_dtype), dtype_bytes(p.out_dtype));
    begin_case("%s product, %zu x %zu x %zu, %d planes, %zu groups, rank %zu, strides %zu and %zu, "
               "dtypes x %d, out %d, size %d",
               p.int8 ? "a8" : "a16", m, n, k, w->planes, w->groups, e->rank, row, column, dtype, p.out_dtype, size);
    return p;
}

static void run(const Product *product) {
    if (!multiply(product))
        puts("no memory"), exit(2);
}

/* y[row, i] and the sum of its terms' magnitudes, for a row of activations that may have been quantised. */
static Exact exact_result(const Product *p, const float *x, double x_scale, size_t row, size_t i) {
    const Weight *w = &p->weight;
    const Extras *e = &p->extras;
    Exact y = {0, 0};
    for (int plane = 0; plane < w->planes; plane++)
        for (size_t g = 0; g < w->groups; g++) {
            double scale = (double)value_at(w->scales[plane], w->scale_dtype, i * w->groups + g) * x_scale;
            const uint8_t *row = w->codes[plane] + i * w->row_bytes;
            Exact sum = exact_sum(row, x, g * w->group, smaller((g + 1) * w->group, w->k));
            y.sum += scale * sum.sum, y.magnitude += fabs(scale) * sum.magnitude;
        }
    for (size_t r = 0; r < e->rank; r++) {
        double term = (double)e->inner[row * e->rank + r] * (double)value_at(e->up, e->up_dtype, i * e->rank + r);
        y.sum += term, y.magnitude += fabs(term);
    }
    double bias = e->bias ? (double)value_at(e->bias, e->bias_dtype, i) : 0;
    y.sum += bias, y.magnitude += fabs(bias);
    return y;
}

static void check_bound(const Product *p) {
    const Weight *w = &p->weight;
    const double unit = p->out_dtype == FLOAT32 ? 0x1p-24 : p->out_dtype == FLOAT16 ? 0x1p-11 : 0x1p-8;
    const double roundings = (double)(w->k + (size_t)w->planes * w->groups + p->extras.rank + 3);
    const double gamma = roundings * 0x1p-24 / (1 - roundings * 0x1p-24);
    const double least = p->out_dtype == FLOAT16 ? 0x1p-14 : 0x1p-126; /* the bound is not for subnormal numbers */
    float *x = guarded(OTHER, w->k * 4, 4);
    for (size_t row = 0; row < p->x.rows; row++) {
        const char *from = p->x.data;
        from += (ptrdiff_t)row * p->x.row_stride * (ptrdiff_t)dtype_bytes(p->x.dtype);
        scalar_kernels.widen(from, p->x.dtype, p->x.column_stride, w->k, x);
        double scale = p->int8 ? (double)scalar_kernels.quantise(x, w->k) : 1;
        for (size_t i = 0; i < w->n; i++) {
            Exact y = exact_result(p, x, scale, row, i);
            double actual = (double)value_at(p->out, p->out_dtype, row * w->n + i);
            double bound = gamma * y.magnitude + unit * (fabs(y.sum) + gamma * y.magnitude);
            if (fabs(y.sum) >= least && !(fabs(actual - y.sum) <= bound))
                fail(row * w->n + i, y.sum, actual);
        }
    }
}

/* The same product on other kernels or threads has the same bits. */
static void check_same(Product p, const Kernels *others, int threads) {
    const size_t bytes = p.x.rows * p.weight.n * dtype_bytes(p.out_dtype);
    const void *first = p.out;
    p.kernels = others, p.threads = threads;
    p.out = guarded(OTHER, bytes, dtype_bytes(p.out_dtype));
    run(&p);
    for (size_t i = 0; i < p.x.rows * p.weight.n; i++)
        if (memcmp((const char *)first + i * dtype_bytes(p.out_dtype),
                   (const char *)p.out + i * dtype_bytes(p.out_dtype), dtype_bytes(p.out_dtype)))
            fail(i, (double)value_at(first, p.out_dtype, i), (double)value_at(p.out, p.out_dtype, i));
}

void check_products(void) {
    for (int i = 0; i < 300; i++) {
        const bool many = i % 10 == 9;
        const Size size = i < 150 ? ALIKE : (Size)(i % SIZES);
        Product p = random_product(between(1, many ? 40 : size ? 6 : 12), between(1, many ? 150 : 40),
                                   between(1, i % 3 ? 90 : 700), size);
        run(&p);
        check_bound(&p);
        check_same(p, kernels, 1 + i % 4);
        if (p.int8)
            check_same(p, &scalar_kernels, 1);
    }
}

static void *run_often(void *context) {
    Product product = *(const Product *)context;
    const size_t bytes = product.x.rows * product.weight.n * dtype_bytes(product.out_dtype);
    product.out = malloc(bytes);
    product.threads = 3;
    bool same = true;
    for (int i = 0; i < 3; i++) {
        run(&product);
        same = same && memcmp(product.out, ((const Product *)context)->out, bytes) == 0;
    }
    free(product.out);
    return same ? context : NULL;
}

/* Products large enough for several threads, of both regimes, with digits and without; and calls from several threads at
 * once: one of them has the pool, the others work alone. */
void check_threads(void) {
    static const struct {
        size_t rows, outputs;
        bool int8;
        Size size;
    } cases[] = {{1, 1200, true, ALIKE},  {16, 150, true, ALIKE},  {40, 60, true, ALIKE},
                 {1, 1200, false, ALIKE}, {16, 150, false, ALIKE}, {4, 500, false, SOME_SMALL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Product product = random_product(cases[i].rows, cases[i].outputs, 4200, cases[i].size);
        pthread_t threads[3];
        void *same;
        product.int8 = cases[i].int8;
        run(&product);
        for (int count = 2; count < 8; count += 2)
            check_same(product, kernels, count);
        for (int thread = 0; thread < 3; thread++)
            if (pthread_create(threads + thread, NULL, run_often, &product))
                puts("no thread"), exit(2);
        for (int thread = 0; thread < 3; thread++)
            if (pthread_join(threads[thread], &same) || !same)
                fail(0, 0, NAN);
    }
}
