/* Sums of products of unsigned codes and signed activations. AVX2 adds them in pairs, to sums of 16 bits, which must
 * become 32 before they overflow; AVX-VNNI adds four at once, to 32 bits. Else they use the same sources: these are
 * compiled twice, as AVX2 and, with TERNFMT_VNNI, by avxvnni_*.c.
 */
#ifndef TERNFMT_CPU_AVX2_DOT_H
#define TERNFMT_CPU_AVX2_DOT_H

#include "avx2.h"

#ifdef TERNFMT_VNNI
#ifdef TERNFMT_EMULATE
#include "emulate.h"
#endif
/* GCC 12 moves and spills sums without the barrier. */
INLINE __m256i add_products(__m256i sums, __m256i codes, __m256i x) {
    sums = _mm256_dpbusd_avx_epi32(sums, codes, x);
    __asm__("" : "+x"(sums));
    return sums;
}
INLINE __m256i wide_sums(__m256i sums) { return sums; }
#else
INLINE __m256i add_products(__m256i sums, __m256i codes, __m256i x) {
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x));
}
INLINE __m256i wide_sums(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
#endif

#endif
