/* The instruction sets, fastest first, and which of them this machine can run. */
#include "contract.h"

#ifdef TERNFMT_AVX2
#include "avx2.h"

static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }

static bool forbidden(const uint8_t *packed, size_t count) { return scalar_loops.forbidden(packed, count); }

static uint64_t non_zero(const uint8_t *packed, size_t count) { return scalar_loops.non_zero(packed, count); }

static const Loops avx2_loops = {
    .name = "avx2",
    .supported = has_avx2,
    .pack = avx2_pack,
    .unpack = avx2_unpack,
    .forbidden = forbidden, /* 64-bit words are at memory speed */
    .non_zero = non_zero,
    .assign16 = avx2_assign16,
    .assign32 = avx2_assign32,
    .survey16 = avx2_survey16,
    .survey32 = avx2_survey32,
    .count16 = avx2_count16,
    .count32 = avx2_count32,
    .accumulate = avx2_accumulate,
    .window = avx2_window,
    .gather16 = avx2_gather16,
    .gather32 = avx2_gather32,
    .squares = avx2_squares,
};
#endif

static const Loops *const all[] = {
#ifdef TERNFMT_AVX2
    &avx2_loops,
#endif
    &scalar_loops,
};

#define COUNT (sizeof all / sizeof *all)

const Loops *const *loops_available(void) {
    static const Loops *available[COUNT + 1];
    if (!available[0])
        for (size_t i = 0, n = 0; i < COUNT; i++)
            if (all[i]->supported())
                available[n++] = all[i];
    return available;
}
