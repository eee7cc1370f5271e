/* Squared errors for x86-64 with AVX2, eight weights at a time. */
#include "avx2.h"

/* Float16 without its sign. The exponent of normal numbers is moved to where float32 has it, and biased anew; subnormal
 * ones are integers, times 2^-24. */
INLINE __m256 from_float16(__m256i magnitudes) {
    __m256 normal = _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_slli_epi32(magnitudes, 13), _mm256_set1_epi32((127 - 15) << 23)));
    __m256 subnormal = _mm256_mul_ps(_mm256_cvtepi32_ps(magnitudes), _mm256_set1_ps(0x1p-24f));
    __m256i is_normal = _mm256_cmpgt_epi32(magnitudes, _mm256_set1_epi32(0x3FF));
    return _mm256_blendv_ps(subnormal, normal, _mm256_castsi256_ps(is_normal));
}

INLINE __m256 load_weights(const void *weights, size_t i, int bytes, int mantissa) {
    if (bytes == 4)
        return _mm256_loadu_ps((const float *)weights + i);
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)((const uint16_t *)weights + i)));
    if (mantissa == 7)
        return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(words, 15), 31);
    __m256 magnitude = from_float16(_mm256_and_si256(words, _mm256_set1_epi32(0x7FFF)));
    return _mm256_or_ps(magnitude, _mm256_castsi256_ps(sign));
}

/* Eight codes in two bytes: each is shifted to the top of a lane, and from there down, with its sign. */
INLINE __m256 load_codes(const uint8_t *packed) {
    const __m256i to_top = _mm256_setr_epi32(30, 28, 26, 24, 22, 20, 18, 16);
    __m256i both = _mm256_set1_epi32(packed[0] | packed[1] << 8);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sllv_epi32(both, to_top), 30));
}

INLINE size_t run(const void *weights, size_t count, int bytes, int mantissa, const Planes *planes, int number,
                  float *errors, float *norms) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256 weight = load_weights(weights, i, bytes, mantissa), difference = weight;
        for (int p = 0; p < number; p++) {
            __m256 value = _mm256_mul_ps(load_codes(planes->packed[p] + i / CODES_PER_BYTE),
                                         _mm256_set1_ps(planes->scales[p]));
            difference = _mm256_sub_ps(difference, value);
        }
        __m256 error = _mm256_mul_ps(difference, difference), norm = _mm256_mul_ps(weight, weight);
        _mm256_storeu_ps(errors + i, _mm256_add_ps(_mm256_loadu_ps(errors + i), error));
        _mm256_storeu_ps(norms + i, _mm256_add_ps(_mm256_loadu_ps(norms + i), norm));
    }
    return i;
}

void avx2_squares(const void *weights, size_t count, const Format *format, const Planes *planes, float *errors,
                  float *norms) {
    const int number = planes->count;
    size_t done;
    if (format->bytes == 4)
        done = run(weights, count, 4, 23, planes, number, errors, norms);
    else if (format->mantissa == 10)
        done = run(weights, count, 2, 10, planes, number, errors, norms);
    else if (number == 1)
        done = run(weights, count, 2, 7, planes, 1, errors, norms);
    else
        done = run(weights, count, 2, 7, planes, number, errors, norms);
    Planes rest = *planes;
    for (int p = 0; p < number; p++)
        rest.packed[p] += done / CODES_PER_BYTE;
    scalar_loops.squares((const char *)weights + done * (size_t)format->bytes, count - done, format, &rest,
                         errors + done, norms + done);
}
