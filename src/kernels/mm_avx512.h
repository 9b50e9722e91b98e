/* kernels/mm_avx512.h - matrix products of the AVX-512 level, for its dispatch table alone. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KERNELS_MM_AVX512_H
#define KERNELS_MM_AVX512_H
#include "kernels/kern_priv.h"

#define KERN_TILE_AVX512 6
#define KERN_PAIR_AVX512 2

void kern_act_avx512(uint8_t *dst, const float *x, uint32_t w, uint32_t cols);
void kern_mm_avx512(const struct kern_mm_task *t);
#endif
