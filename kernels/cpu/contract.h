/* The matmul kernels of ternfmt for CPUs: what each part reads, writes and promises (SPEC section 12).
 *
 *   module.c     the CPython side: addresses, their sizes, the GIL
 *   direct.c     the same for torch's tensors, without Python
 *   matmul.c     one product: blocks of rows of x; the two regimes; the end of a row (scale, low rank, bias, rounding)
 *   few.c        the regime of few rows of x: weights stream past the activations
 *   digits.h     how that serves a16 with the kernels of a8, where activations have 16 bits
 *   many.c       the regime of many: weights are unpacked into cache, a tile at a time, and used by all rows
 *   pool.c       threads
 *   sets.c       the list of instruction sets, and which of them this machine has
 *   scalar.c     every kernel in portable C: the reference of the others
 *   <set>_*.c    the same kernels for an instruction set; rows.h is what all sets compile from one source
 *
 * Two modes. `a8`: each row of x is quantised to int8, sums are exact integers. `a16`: x as it is, sums in float.
 *
 * Weights are read as they lie in the file: a row is ceil(k/4) bytes, code i in bits 2(i % 4) of byte i / 4. Four
 * bytes, 16 codes, are a `word`. Columns past k are zeros in the activations, so that codes there, of whatever value,
 * add nothing; bytes past a row's last are never read.
 */
#ifndef TERNFMT_CPU_CONTRACT_H
#define TERNFMT_CPU_CONTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLANES_MAX 4         /* as in ternfmt/limits.py */
#define CODES_PER_BYTE 4
#define WORD_CODES 16        /* codes of a word */
#define WORD_BYTES 4
#define K_LIMIT (1 << 24)    /* of SPEC: below it 127 * k, and with it every sum of a8, fits an int32 */
#define RANK_LIMIT (1 << 20) /* keeps sizes of scratch memory far from overflow; no model comes near */
#define FEW_MAX 16           /* rows of x that a kernel of the first regime may say it can take at once */
#define TILE_MAX 64          /* rows of a weight's tile */
#define ALIGNMENT 64         /* of scratch memory */

typedef enum { FLOAT32, FLOAT16, BFLOAT16 } Dtype;

/* A row of activations as whole numbers of several digits: see digits.h. */
#define DIGITS 3
#define DIGIT_BASE 255
#define REST_MAX 256

/* What is left of single activations, in units, times each code. */
typedef struct {
    size_t count; /* at most REST_MAX */
    uint32_t columns[REST_MAX];
    float values[REST_MAX][4];
} Rest;

/* Activations [rows, columns]; strides in elements. */
typedef struct {
    const void *data;
    Dtype dtype;
    size_t rows, columns;
    ptrdiff_t row_stride, column_stride;
} Matrix;

/* Planes of codes [n, row_bytes] and scales [n, groups]. */
typedef struct {
    size_t n, k;
    int planes;
    const uint8_t *codes[PLANES_MAX];
    size_t row_bytes; /* from one row to the next */
    const void *scales[PLANES_MAX];
    Dtype scale_dtype;
    size_t group, groups; /* columns of a group, a multiple of 16 or k; how many */
} Weight;

/* Added to the sums before they are rounded. */
typedef struct {
    const void *bias; /* [n], or NULL */
    Dtype bias_dtype;
    size_t rank;      /* 0: no low-rank term */
    const float *inner; /* [rows of x, rank]: down times x */
    const void *up;     /* [n, rank] */
    Dtype up_dtype;
} Extras;

/* The second regime, for one mode. A tile is `rows` rows of the weight and one chunk of `words` words of each.
 *
 * prepare   some of a row of activations, float [words * 16], zeros past k, to words * word_bytes bytes; `words` is a
 *           multiple of Kernels.words_multiple. For a8 the values are integers.
 * unpack    the codes of a tile to a panel in cache. `rows` rows (1 to Tiles.rows; what the panel says of the others
 *           is void), `bytes` bytes of each. `next` is read soon: a hint, never an access.
 * multiply  sums[r * Tiles.rows + i] += prepared row r times panel row i over the words first <= w < end of the
 *           chunk; sums are int32 (a8) or float (a16).
 */
typedef struct {
    size_t rows;  /* of a tile */
    size_t words; /* of a chunk: a panel of rows * words stays in the first level of the cache */
    size_t block; /* rows of x whose chunks stay in the second level */
    size_t panel_bytes;
    size_t word_bytes; /* of a prepared row */
    int offset;        /* a8: codes are unpacked as t + offset; the sums are too large by offset * sum of x */
    float factor;      /* a16: codes are unpacked as t / factor */
    void (*prepare)(const float *x, size_t words, void *prepared);
    void (*unpack)(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                   void *panel);
    void (*multiply)(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                     void *sums);
} Tiles;

/* The first regime, for one mode: a few rows of x times some of the weight.
 *
 * prepare   as in Tiles.
 * multiply  sums[r * count + i] = prepared row r times `bytes` bytes of row i of the weight, all of it or a piece;
 *           int32 (a8) or float (a16). What is prepared goes on, with zeros, to a multiple of words_multiple.
 */
typedef struct {
    size_t most; /* rows of x up to which this regime is the faster one, and the kernel can; at most FEW_MAX */
    size_t word_bytes;
    int offset;
    float factor;
    void (*prepare)(const float *x, size_t words, void *prepared);
    void (*multiply)(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                     size_t stride, size_t rows, void *sums);
} Stream;

/* What one instruction set brings. */
typedef struct {
    const char *name;
    const char *features; /* that the machine must have */
    bool (*supported)(void);
    size_t words_multiple; /* prepared rows have a multiple of these words */

    void (*widen)(const void *values, Dtype dtype, ptrdiff_t stride, size_t count, float *to);
    void (*narrow)(const float *values, size_t count, Dtype dtype, void *to);
    /* Rounds x / scale to integers, which it leaves in x as floats; returns the scale: max|x| / 127, 0 below 2^-100. */
    float (*quantise)(float *x, size_t count);
    /* Multiplies x by `factor`, at most 1, where sums of x / factor might overflow though sums of x do not; returns the
     * scale of x, 1 / factor there and else 1. */
    float (*shrink)(float *x, size_t count, float factor);
    /* Splits x into digits, see digits.h, and up to `most` rests; returns the unit, 0 where it cannot. */
    float (*split)(const float *x, size_t count, size_t most, float *const digits[DIGITS], Rest *rest);
    /* to[i] += scales[i] * (factor * (sums[i] - correction)), for float sums without a correction; sums[i] = 0. */
    void (*scale_int8)(int32_t *sums, size_t count, const float *scales, int32_t correction, float factor, float *to);
    void (*scale_float)(float *sums, size_t count, const float *scales, float factor, float *to);
    /* Of digits: to[i] += scales[i] * (factor * (the sum over d of DIGIT_BASE^d (sums[d * stride + i] - corrections[d])
     * + rests[i])) */
    void (*scale_digits)(const int32_t *sums, size_t stride, size_t count, const float *scales,
                         const int32_t *corrections, const float *rests, float factor, float *to);
    /* to[i] = sums[i] * factor + bias[i]; and to[i] += the sum over r of inner[r] * up[r * stride + i] */
    void (*finish)(const float *sums, size_t count, float factor, const float *bias, float *to);
    void (*add_low_rank)(const float *inner, size_t rank, const float *up, size_t stride, size_t count, float *to);

    Stream stream_a8, stream_a16;
    Tiles tiles_a8, tiles_a16;

    /* For benchmarks: the machine's limits. The first two return how many multiply-accumulates they did; the third reads
     * all bytes once, as so many streams side by side. */
    double (*probe_int8)(size_t steps);
    double (*probe_float)(size_t steps);
    void (*probe_read)(const void *data, size_t bytes, size_t streams);
} Kernels;

/* One product: y[m, n], contiguous, of out_dtype. */
typedef struct {
    const Kernels *kernels;
    int threads;
    bool int8;
    Matrix x;
    Weight weight;
    Extras extras;
    void *out;
    Dtype out_dtype;
} Product;

/* Of these a build has scalar_kernels and those that sets.c lists. */
extern const Kernels scalar_kernels, avx2_kernels, avxvnni_kernels, avx512_kernels, neon_kernels;

/* sets.c: all that this build has, and all that this machine can run, fastest first; NULL-terminated. */
const Kernels *const *kernels_built(void);
const Kernels *const *kernels_available(void);

/* matmul.c: false where there is no memory. Results do not depend on the number of threads. */
bool multiply(const Product *product);

/* pool.c: run(context, task, worker) for every task below `tasks`, each once, on up to `threads` threads, whose
 * numbers are the workers. */
typedef void Run(void *context, size_t task, int worker);
#define THREADS_MAX 256
void pool_run(int threads, size_t tasks, Run *run, void *context);

static inline size_t dtype_bytes(Dtype dtype) { return dtype == FLOAT32 ? 4 : 2; }
static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
static inline size_t round_up(size_t a, size_t b) { return ceil_div(a, b) * b; }

#endif
