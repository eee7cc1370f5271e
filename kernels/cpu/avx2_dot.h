/* Sums of products of unsigned codes and signed activations. AVX2 adds them in pairs, to sums of 16 bits, which must
 * become 32 before they overflow; AVX-VNNI adds four at once, to 32 bits. Else they use the same sources: these are
 * compiled twice, as AVX2 and, with TERNFMT_VNNI, by avxvnni_*.c.
 */
#ifndef TERNFMT_CPU_AVX2_DOT_H
#define TERNFMT_CPU_AVX2_DOT_H

#include "avx2.h"

/* A value that the compiler must have there and then: GCC 12 reorders the additions of a whole loop and spills sums. */
#define BARRIER(value) __asm__("" : "+x"(value))

#ifdef TERNFMT_VNNI
#ifdef TERNFMT_EMULATE
#include "emulate.h"
#endif
INLINE __m256i add_products(__m256i sums, __m256i codes, __m256i x) {
    sums = _mm256_dpbusd_avx_epi32(sums, codes, x);
    BARRIER(sums);
    return sums;
}
INLINE __m256i wide_sums(__m256i sums) { return sums; }
INLINE __m256i add_a_quarter(__m256i sums, __m256i fours) {
    return _mm256_add_epi32(sums, _mm256_srai_epi32(fours, 2));
}
#else
INLINE __m256i add_products(__m256i sums, __m256i codes, __m256i x) {
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x));
}
INLINE __m256i wide_sums(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
INLINE __m256i add_a_quarter(__m256i sums, __m256i fours) {
    return _mm256_add_epi16(sums, _mm256_srai_epi16(fours, 2));
}
#endif

/* The products of x with two registers of codes. GCC 12 reorders the additions of a whole loop and spills the sums; and
 * both products before both sums are 5% faster than one after the other. Sanitizers see the plain version, and AVX-VNNI
 * has one instruction for both, which it keeps in place. */
INLINE void add_two_products(__m256i sums[2], __m256i codes, __m256i more_codes, __m256i x) {
#if defined __SANITIZE_ADDRESS__ || defined TERNFMT_VNNI
    sums[0] = add_products(sums[0], codes, x);
    sums[1] = add_products(sums[1], more_codes, x);
#else
    __m256i product;
    __asm__("vpmaddubsw %[x], %[codes], %[product]\n\t"
            "vpmaddubsw %[x], %[more], %[x]\n\t"
            "vpaddw %[product], %[sum], %[sum]\n\t"
            "vpaddw %[x], %[sum2], %[sum2]"
            : [x] "+x"(x), [product] "=&x"(product), [sum] "+x"(sums[0]), [sum2] "+x"(sums[1])
            : [codes] "x"(codes), [more] "x"(more_codes));
#endif
}

#endif
