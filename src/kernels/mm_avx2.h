/* kernels/mm_avx2.h - matrix products of the AVX2 level, for its dispatch table alone. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KERNELS_MM_AVX2_H
#define KERNELS_MM_AVX2_H
#include "kernels/kern_priv.h"

#define KERN_TILE_AVX2 4
#define KERN_PAIR_AVX2 1

void kern_act_avx2(uint8_t *dst, const float *x, uint32_t w, uint32_t cols);
void kern_mm_avx2(const struct kern_mm_task *t);
#endif
