/* model/arch_priv.h - what an architecture needs: a row of the table in arch.c.
 * Private to model/. */
// SPDX-License-Identifier: Apache-2.0
#ifndef MODEL_ARCH_PRIV_H
#define MODEL_ARCH_PRIV_H
#include "model/model.h"

/* The lengths a tensor's dimensions are made of. */
enum dim { DIM_ONE, DIM_EMBD, DIM_Q, DIM_KV, DIM_HEAD, DIM_FF };

/* The tensors of a layer, as bits of arch.required and arch.optional. */
enum layer_tensor {
    T_ATTN_NORM,
    T_Q,
    T_K,
    T_V,
    T_O,
    T_Q_BIAS,
    T_K_BIAS,
    T_V_BIAS,
    T_O_BIAS,
    T_Q_NORM,
    T_K_NORM,
    T_POST_ATTN_NORM,
    T_FFN_NORM,
    T_GATE,
    T_UP,
    T_DOWN,
    T_POST_FFN_NORM,
    T_COUNT
};

struct tensor_rule {
    const char *name; /* what follows "blk.N." */
    size_t at;        /* where the pointer goes in struct model_layer */
    enum dim in, out; /* ne[0] and ne[1]; out == DIM_ONE is an f32 vector */
};

struct arch {
    const char *name;
    enum rope_kind rope;
    enum act_kind act;
    uint32_t required, optional; /* bits 1 << enum layer_tensor */
    bool has_rope_freqs;         /* may carry frequency factors */
    bool scales_embd;            /* token embeddings times sqrt(n_embd) */
    bool has_local_rope;         /* windowed layers have a base of their own, unscaled */
    uint32_t window_period; /* every Nth layer is full when the model has windows; 0 = none is */
    uint32_t wide_scale_layers; /* a size (by layers) with scale 1/sqrt(n_embd/n_heads); 0 = none */
};

extern const struct tensor_rule arch_layer_tensors[T_COUNT];

/* NULL when unknown. */
const struct arch *arch_find(struct str name);
const struct arch *arch_at(size_t i); /* NULL past the end */
#endif
