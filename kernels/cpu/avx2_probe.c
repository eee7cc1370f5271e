/* What the processor can do at most, for benchmarks to compare with: the instructions of the inner loops alone, on
 * registers, written so that the compiler cannot see that nothing changes.
 */
#include "avx2.h"

#define SIX(X) X("0", "1") X("2", "3") X("4", "5") X("6", "7") X("8", "9") X("10", "11")
#define CLOBBERED                                                                                                      \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13"

/* vpmaddubsw and the vpaddw that its result needs, two by two, as in avx2_many_a8.c. */
#define INT8_PAIR(A, B)                                                                                                \
    "vpmaddubsw %0, %0, %%ymm12\n\tvpmaddubsw %0, %0, %%ymm13\n\t"                                                     \
    "vpaddw %%ymm12, %%ymm" A ", %%ymm" A "\n\tvpaddw %%ymm13, %%ymm" B ", %%ymm" B "\n\t"

double avx2_probe_int8(size_t steps) {
    for (size_t step = 0; step < steps; step++)
        __asm__ volatile(SIX(INT8_PAIR)::"x"(_mm256_setzero_si256()) : CLOBBERED);
    return 12 * 32.0 * (double)steps;
}

#define FLOAT_PAIR(A, B) "vfmadd231ps %0, %0, %%ymm" A "\n\tvfmadd231ps %0, %0, %%ymm" B "\n\t"

double avx2_probe_float(size_t steps) {
    __asm__ volatile("vzeroall" ::: CLOBBERED, "xmm14", "xmm15");
    for (size_t step = 0; step < steps; step++)
        __asm__ volatile(SIX(FLOAT_PAIR)::"x"(_mm256_setzero_ps()) : CLOBBERED);
    return 12 * 8.0 * (double)steps;
}

void avx2_probe_read(const void *data, size_t bytes, size_t streams) {
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0, part = bytes / streams; i + 128 <= part; i += 128)
        for (const char *at = data, *end = at + streams * part; at < end; at += part)
#pragma GCC unroll 4
            for (size_t j = 0; j < 128; j += 32)
                sum = _mm256_xor_si256(sum, load(at + i + j));
    __asm__ volatile("" : "+x"(sum));
}
