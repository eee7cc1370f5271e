/* AVX-512 and AVX-VNNI on a machine with AVX2, for tests: SIMDe (Debian: libsimde-dev), and what its version 0.7.4 lacks
 * of what kernels/cpu/ uses. Instructions are emulated one by one; masked loads touch no byte that is masked off.
 */
#ifndef TERNFMT_EMULATE_H
#define TERNFMT_EMULATE_H

#define SIMDE_NO_INLINE /* else GCC takes minutes for the unrolled loops */
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512/setzero.h> /* before insert.h, which forgets it */

#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/and.h>
#include <simde/x86/avx512/cast.h>
#include <simde/x86/avx512/cvts.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/extract.h>
#include <simde/x86/avx512/fmadd.h>
#include <simde/x86/avx512/insert.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/slli.h>
#include <simde/x86/avx512/srli.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/unpackhi.h>
#include <simde/x86/avx512/unpacklo.h>
#include <simde/x86/avx512/xor.h>
#include <simde/x86/f16c.h>

#include <string.h>

/* Bytes whose bit of the mask is set; the others are 0. */
static inline simde__m512i emulated_loadu_bytes(uint64_t mask, const void *from) {
    uint8_t bytes[64] = {0};
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1)
            bytes[i] = ((const uint8_t *)from)[i];
    return simde_mm512_loadu_si512(bytes);
}

static inline simde__m512 emulated_join(__m256 low, __m256 high) {
    float both[16];
    _mm256_storeu_ps(both, low);
    _mm256_storeu_ps(both + 8, high);
    return simde_mm512_loadu_ps(both);
}

static inline __m256 emulated_half(simde__m512 value, int half) {
    float both[16];
    simde_mm512_storeu_ps(both, value);
    return _mm256_loadu_ps(both + 8 * half);
}

static inline simde__m512i emulated_cvtps_epi32(simde__m512 value) {
    int32_t both[16];
    for (int half = 0; half < 2; half++)
        _mm256_storeu_si256((void *)(both + 8 * half), _mm256_cvtps_epi32(emulated_half(value, half)));
    return simde_mm512_loadu_si512(both);
}

static inline simde__m512i emulated_srai_epi32(simde__m512i value, unsigned count) {
    int32_t lanes[16];
    simde_mm512_storeu_si512(lanes, value);
    for (int i = 0; i < 16; i++)
        lanes[i] >>= count;
    return simde_mm512_loadu_si512(lanes);
}

static inline simde__m512 emulated_cvtph_ps(__m256i halves) {
    return emulated_join(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                         _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
}

static inline __m256i emulated_cvtps_ph(simde__m512 value) {
    return _mm256_set_m128i(_mm256_cvtps_ph(emulated_half(value, 1), _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(emulated_half(value, 0), _MM_FROUND_TO_NEAREST_INT));
}

#undef _mm256_dpbusd_avx_epi32
#undef _mm_maskz_loadu_epi8
#undef _mm512_maskz_loadu_epi8
#undef _mm512_cvtps_epi32
#undef _mm512_srai_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#define _mm256_dpbusd_avx_epi32(sum, codes, x) simde_mm256_dpbusd_epi32(sum, codes, x)
#define _mm_maskz_loadu_epi8(mask, from) simde_mm512_castsi512_si128(emulated_loadu_bytes((uint16_t)(mask), from))
#define _mm512_maskz_loadu_epi8(mask, from) emulated_loadu_bytes(mask, from)
#define _mm512_cvtps_epi32(value) emulated_cvtps_epi32(value)
#define _mm512_srai_epi32(value, count) emulated_srai_epi32(value, count)
#define _mm512_cvtph_ps(halves) emulated_cvtph_ps(halves)
#define _mm512_cvtps_ph(value, rounding) emulated_cvtps_ph(value)

#endif
