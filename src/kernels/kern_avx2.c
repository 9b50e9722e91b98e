/* The AVX2 level (with FMA and F16C): its dispatch table over the width-free code. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd_avx2.h"
#include "kernels/rows_simd.h"
#include "kernels/attn_simd.h"
#include "kernels/mm_avx2.h"

const struct kern_ops kern_ops_avx2 = {
    .level = KERN_AVX2,
    .name = "avx2",
    .tile = KERN_TILE_AVX2,
    .pair = KERN_PAIR_AVX2,
    .act = kern_act_avx2,
    .mm = kern_mm_avx2,
    .attn = attn_task,
    .attn_merge = attn_merge_row,
    .rmsnorm = rows_rmsnorm,
    .glu = rows_glu,
    .rope = rows_rope,
    .to_f16 = rows_to_f16,
    .to_f32 = rows_to_f32,
    .add = rows_add,
    .argmax = rows_argmax,
    .read = rows_read,
};
