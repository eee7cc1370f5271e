/* What the files for x86-64 with AVX2 share. Only they are compiled for it; loops.c asks before it uses them. */
#ifndef TERNFMT_NATIVE_AVX2_H
#define TERNFMT_NATIVE_AVX2_H

#include "contract.h"

#ifdef __AVX2__
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *address) { return _mm256_loadu_si256(address); }
#endif

/* avx2_codes.c */
bool avx2_pack(const int8_t *codes, size_t count, uint8_t *packed);
void avx2_unpack(const uint8_t *packed, size_t count, int8_t *codes);
void avx2_assign16(const uint16_t *weights, size_t count, const Grid *grid, uint8_t *const packed[]);
void avx2_assign32(const uint32_t *weights, size_t count, const Grid *grid, uint8_t *const packed[]);

/* avx2_exact.c */
Survey avx2_survey16(const uint16_t *weights, size_t count, const Format *format);
Survey avx2_survey32(const uint32_t *weights, size_t count, const Format *format);
void avx2_count16(const uint16_t *weights, size_t count, const Bins *bins, uint64_t *counters);
void avx2_count32(const uint32_t *weights, size_t count, const Bins *bins, uint64_t *counters);
Support avx2_accumulate(uint64_t *counters, const Bins *bins, double *numbers, double *sums);
bool avx2_window(const Bins *bins, const double *numbers, const double *sums, double gain, size_t *low, size_t *high);
size_t avx2_gather16(const uint16_t *weights, size_t count, uint32_t low, uint32_t high, uint32_t *keys);
size_t avx2_gather32(const uint32_t *weights, size_t count, uint32_t low, uint32_t high, uint32_t *keys);

/* avx2_squares.c */
void avx2_squares(const void *weights, size_t count, const Format *format, const Planes *planes, float *errors,
                  float *norms);

#endif
