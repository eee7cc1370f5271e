/* The instruction sets, fastest first, and which of them this machine can run. */
#include "contract.h"

static const Kernels *const built[] = {
#ifdef TERNFMT_AVX512
    &avx512_kernels,
#endif
#ifdef TERNFMT_AVXVNNI
    &avxvnni_kernels,
#endif
#ifdef TERNFMT_AVX2
    &avx2_kernels,
#endif
#ifdef TERNFMT_NEON
    &neon_kernels,
#endif
    &scalar_kernels,
    NULL,
};

#define COUNT (sizeof built / sizeof *built)

const Kernels *const *kernels_built(void) { return built; }

const Kernels *const *kernels_available(void) {
    static const Kernels *available[COUNT];
    if (!available[0])
        for (size_t i = 0, n = 0; built[i]; i++)
            if (built[i]->supported())
                available[n++] = built[i];
    return available;
}
