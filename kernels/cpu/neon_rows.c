/* Loops over rows of floats, NEON: those of rows.h, with instructions for float16; and the table of the set. */
#define _DEFAULT_SOURCE
#include "neon.h"
#include "rows.h"

#ifdef __linux__
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

/* Every AArch64 processor of Apple has dotprod. Elsewhere, without a way to ask, it is not taken for granted. */
static bool has_dotprod(void) {
#if defined __linux__
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined __APPLE__
    return true;
#else
    return false;
#endif
}

static void widen(const void *values, Dtype dtype, ptrdiff_t stride, size_t count, float *to) {
    size_t i = 0;
    if (dtype == FLOAT16 && stride == 1)
        for (; i + 4 <= count; i += 4)
            vst1q_f32(to + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)values + i))));
    widen_row((const char *)values + (ptrdiff_t)(i * dtype_bytes(dtype)), dtype, stride, count - i, to + i);
}

static void narrow(const float *values, size_t count, Dtype dtype, void *to) {
    size_t i = 0;
    if (dtype == FLOAT16)
        for (; i + 4 <= count; i += 4)
            vst1_u16((uint16_t *)to + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values + i))));
    narrow_row(values + i, count - i, dtype, (char *)to + i * dtype_bytes(dtype));
}

const Kernels neon_kernels = {
    .name = "neon",
    .features = "asimd dotprod",
    .supported = has_dotprod,
    .words_multiple = 4,
    .widen = widen,
    .narrow = narrow,
    ROW_KERNELS,
    .stream_a8 = {.most = NEON_FEW, .word_bytes = 16, .factor = 1, .prepare = neon_planes_of_bytes,
                  .multiply = neon_stream_a8},
    .stream_a16 = {.most = NEON_FEW, .word_bytes = 64, .factor = 0.5f, .prepare = neon_planes_of_floats,
                   .multiply = neon_stream_a16},
    .tiles_a8 = {.rows = NEON_ROWS, .words = NEON_A8_WORDS, .block = 192,
                 .panel_bytes = NEON_A8_WORDS * NEON_ROWS * WORD_CODES, .word_bytes = 16, .factor = 1,
                 .prepare = neon_planes_of_bytes, .unpack = neon_unpack_a8, .multiply = neon_multiply_a8},
    .tiles_a16 = {.rows = NEON_ROWS, .words = NEON_A16_WORDS, .block = 192,
                  .panel_bytes = 4 * NEON_A16_WORDS * NEON_ROWS * WORD_CODES, .word_bytes = 64, .factor = 0.5f,
                  .prepare = neon_floats, .unpack = neon_unpack_a16, .multiply = neon_multiply_a16},
    .probe_int8 = neon_probe_int8,
    .probe_float = neon_probe_float,
    .probe_read = neon_probe_read,
};
