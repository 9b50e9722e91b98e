/* The AVX-512 level (F, BW, DQ, VL, VNNI): its dispatch table over the width-free code. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd_avx512.h"
#include "kernels/rows_simd.h"
#include "kernels/attn_simd.h"
#include "kernels/mm_avx512.h"

const struct kern_ops kern_ops_avx512 = {
    .level = KERN_AVX512,
    .name = "avx512-vnni",
    .tile = KERN_TILE_AVX512,
    .pair = KERN_PAIR_AVX512,
    .act = kern_act_avx512,
    .mm = kern_mm_avx512,
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
