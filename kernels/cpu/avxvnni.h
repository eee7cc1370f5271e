/* AVX2 with AVX-VNNI. The sources are those of AVX2 (avx2_dot.h says where they differ), under other names; what has no
 * int8 products is AVX2's own. Like AVX-512, this was tested by emulation only.
 */
#ifndef TERNFMT_CPU_AVXVNNI_H
#define TERNFMT_CPU_AVXVNNI_H

#define TERNFMT_VNNI

#define avx2_kernels avxvnni_kernels
#define avx2_planes_of_bytes avxvnni_planes_of_bytes
#define avx2_planes_of_floats avxvnni_planes_of_floats
#define avx2_stream_a8 avxvnni_stream_a8
#define avx2_stream_a16 avxvnni_stream_a16
#define avx2_unpack_a8 avxvnni_unpack_a8
#define avx2_multiply_a8 avxvnni_multiply_a8
#define avx2_probe_int8 avxvnni_probe_int8

#endif
