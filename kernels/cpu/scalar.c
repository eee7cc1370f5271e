/* Every kernel in portable C, as plain as it can be: the twin that the others are tested against. Activations lie in
 * their natural order, codes are unpacked to int8, and sums run from left to right.
 */
#include "rows.h"

enum { ROWS = 4, WORDS = 16 };

static bool always(void) { return true; }

static int code_at(const uint8_t *codes, size_t i) {
    static const int8_t code_of[4] = {0, 1, 0, -1}; /* 10 occurs in pad lanes of faulty files only, times zero */
    return code_of[codes[i / CODES_PER_BYTE] >> 2 * (i % CODES_PER_BYTE) & 3];
}

static void prepare_a8(const float *x, size_t words, void *prepared) {
    for (size_t i = 0; i < words * WORD_CODES; i++)
        ((int8_t *)prepared)[i] = (int8_t)x[i];
}

static void prepare_a16(const float *x, size_t words, void *prepared) {
    memcpy(prepared, x, words * WORD_CODES * sizeof *x);
}

/* Unsigned, for the sum of the whole row fits an int32, but what it passes through on the way need not. */
static void stream_a8(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                      size_t stride, size_t rows, void *sums) {
    for (size_t r = 0; r < rows; r++)
        for (size_t row = 0; row < count; row++) {
            const int8_t *x = (const int8_t *)prepared + r * stride;
            uint32_t sum = 0;
            for (size_t i = 0; i < bytes * CODES_PER_BYTE; i++)
                sum += (uint32_t)(code_at(codes + row * row_bytes, i) * x[i]);
            ((int32_t *)sums)[r * count + row] = (int32_t)sum;
        }
}

static void stream_a16(const uint8_t *codes, size_t row_bytes, size_t count, size_t bytes, const void *prepared,
                       size_t stride, size_t rows, void *sums) {
    for (size_t r = 0; r < rows; r++)
        for (size_t row = 0; row < count; row++) {
            const float *x = (const void *)((const char *)prepared + r * stride);
            float sum = 0;
            for (size_t i = 0; i < bytes * CODES_PER_BYTE; i++)
                sum += (float)code_at(codes + row * row_bytes, i) * x[i];
            ((float *)sums)[r * count + row] = sum;
        }
}

/* The panel is int8 [ROWS][WORDS * 16]; bytes past a row's last count as zeros. */
static void unpack(const uint8_t *codes, size_t row_bytes, size_t rows, size_t bytes, const uint8_t *next,
                   void *panel) {
    (void)next;
    memset(panel, 0, ROWS * WORDS * WORD_CODES);
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < bytes * CODES_PER_BYTE; i++)
            ((int8_t *)panel)[row * WORDS * WORD_CODES + i] = (int8_t)code_at(codes + row * row_bytes, i);
}

static void multiply_a8(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                        void *sums) {
    for (size_t r = 0; r < rows; r++)
        for (size_t row = 0; row < ROWS; row++) {
            const int8_t *x = (const int8_t *)prepared + r * stride;
            const int8_t *t = (const int8_t *)panel + row * WORDS * WORD_CODES;
            int32_t *sum = (int32_t *)sums + r * ROWS + row;
            for (size_t i = first * WORD_CODES; i < end * WORD_CODES; i++)
                *sum = (int32_t)((uint32_t)*sum + (uint32_t)(t[i] * x[i]));
        }
}

static void multiply_a16(const void *panel, const void *prepared, size_t stride, size_t rows, size_t first, size_t end,
                         void *sums) {
    for (size_t r = 0; r < rows; r++)
        for (size_t row = 0; row < ROWS; row++) {
            const float *x = (const void *)((const char *)prepared + r * stride);
            const int8_t *t = (const int8_t *)panel + row * WORDS * WORD_CODES;
            float *sum = (float *)sums + r * ROWS + row;
            for (size_t i = first * WORD_CODES; i < end * WORD_CODES; i++)
                *sum += (float)t[i] * x[i];
        }
}

/* What the compiler cannot know: what memory holds, and that a sum is of no use. */
#define UNKNOWN(a, b) __asm__ volatile("" ::"r"(a), "r"(b) : "memory")
#define USED(sum) __asm__ volatile("" ::"r"(&(sum)) : "memory")

static double probe_int8(size_t steps) {
    int8_t x[64] = {0}, t[64] = {0};
    uint32_t sum = 0;
    for (size_t step = 0; step < steps; step++) {
        UNKNOWN(x, t);
        for (int i = 0; i < 64; i++)
            sum += (uint32_t)(t[i] * x[i]);
    }
    USED(sum);
    return 64.0 * (double)steps;
}

static double probe_float(size_t steps) {
    float x[64] = {0}, t[64] = {0}, sum = 0;
    for (size_t step = 0; step < steps; step++) {
        UNKNOWN(x, t);
        for (int i = 0; i < 64; i++)
            sum += t[i] * x[i];
    }
    USED(sum);
    return 64.0 * (double)steps;
}

static void probe_read(const void *data, size_t bytes, size_t streams) {
    volatile uint64_t kept = 0;
    uint64_t sum = 0, word;
    for (size_t i = 0, part = bytes / streams; i + 8 <= part; i += 8)
        for (size_t s = 0; s < streams; s++) {
            memcpy(&word, (const char *)data + s * part + i, 8);
            sum ^= word;
        }
    kept = sum;
    (void)kept;
}

const Kernels scalar_kernels = {
    .name = "scalar",
    .features = "none",
    .supported = always,
    .words_multiple = 1,
    .widen = widen_row,
    .narrow = narrow_row,
    ROW_KERNELS,
    .stream_a8 = {.most = 2, .word_bytes = WORD_CODES, .factor = 1, .prepare = prepare_a8, .multiply = stream_a8},
    .stream_a16 = {.most = 2, .word_bytes = 4 * WORD_CODES, .factor = 1, .prepare = prepare_a16,
                   .multiply = stream_a16},
    .tiles_a8 = {.rows = ROWS, .words = WORDS, .block = 24, .panel_bytes = ROWS * WORDS * WORD_CODES,
                 .word_bytes = WORD_CODES, .factor = 1, .prepare = prepare_a8, .unpack = unpack,
                 .multiply = multiply_a8},
    .tiles_a16 = {.rows = ROWS, .words = WORDS, .block = 24, .panel_bytes = ROWS * WORDS * WORD_CODES,
                  .word_bytes = 4 * WORD_CODES, .factor = 1, .prepare = prepare_a16, .unpack = unpack,
                  .multiply = multiply_a16},
    .probe_int8 = probe_int8,
    .probe_float = probe_float,
    .probe_read = probe_read,
};
