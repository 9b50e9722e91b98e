/* The architectures, as data: one row each.  A new one that computes with the
 * same operations is a row; model.c and the engine stay as they are.
 *
 * Sources: the Llama 2 and 3, Qwen2 and Gemma 3 reports and the GGUF key and
 * tensor names.  llama files hold q and k rows permuted for interleaved rotary
 * pairs, hence ROPE_NORM there and ROPE_NEOX elsewhere. */
// SPDX-License-Identifier: Apache-2.0
#include "model/arch_priv.h"
#include "base/check.h"

#define AT(field) offsetof(struct model_layer, field)
#define BIT(t)    (1u << (t))

const struct tensor_rule arch_layer_tensors[T_COUNT] = {
    [T_ATTN_NORM] = { "attn_norm.weight", AT(attn_norm), DIM_EMBD, DIM_ONE },
    [T_Q] = { "attn_q.weight", AT(q), DIM_EMBD, DIM_Q },
    [T_K] = { "attn_k.weight", AT(k), DIM_EMBD, DIM_KV },
    [T_V] = { "attn_v.weight", AT(v), DIM_EMBD, DIM_KV },
    [T_O] = { "attn_output.weight", AT(o), DIM_Q, DIM_EMBD },
    [T_Q_BIAS] = { "attn_q.bias", AT(q_bias), DIM_Q, DIM_ONE },
    [T_K_BIAS] = { "attn_k.bias", AT(k_bias), DIM_KV, DIM_ONE },
    [T_V_BIAS] = { "attn_v.bias", AT(v_bias), DIM_KV, DIM_ONE },
    [T_O_BIAS] = { "attn_output.bias", AT(o_bias), DIM_EMBD, DIM_ONE },
    [T_Q_NORM] = { "attn_q_norm.weight", AT(q_norm), DIM_HEAD, DIM_ONE },
    [T_K_NORM] = { "attn_k_norm.weight", AT(k_norm), DIM_HEAD, DIM_ONE },
    [T_POST_ATTN_NORM] = { "post_attention_norm.weight", AT(post_attn_norm), DIM_EMBD, DIM_ONE },
    [T_FFN_NORM] = { "ffn_norm.weight", AT(ffn_norm), DIM_EMBD, DIM_ONE },
    [T_GATE] = { "ffn_gate.weight", AT(gate), DIM_EMBD, DIM_FF },
    [T_UP] = { "ffn_up.weight", AT(up), DIM_EMBD, DIM_FF },
    [T_DOWN] = { "ffn_down.weight", AT(down), DIM_FF, DIM_EMBD },
    [T_POST_FFN_NORM] = { "post_ffw_norm.weight", AT(post_ffn_norm), DIM_EMBD, DIM_ONE },
};

#define DECODER                                                                                    \
    (BIT(T_ATTN_NORM) | BIT(T_Q) | BIT(T_K) | BIT(T_V) | BIT(T_O) | BIT(T_FFN_NORM) |              \
     BIT(T_GATE) | BIT(T_UP) | BIT(T_DOWN))
#define QKV_BIAS (BIT(T_Q_BIAS) | BIT(T_K_BIAS) | BIT(T_V_BIAS))
#define QK_NORM  (BIT(T_Q_NORM) | BIT(T_K_NORM))

static const struct arch archs[] = {
    { .name = "llama",
      .rope = ROPE_NORM,
      .act = ACT_SILU,
      .required = DECODER,
      .optional = QKV_BIAS | BIT(T_O_BIAS),
      .has_rope_freqs = true },
    { .name = "qwen2", .rope = ROPE_NEOX, .act = ACT_SILU, .required = DECODER | QKV_BIAS },
    { .name = "qwen3", .rope = ROPE_NEOX, .act = ACT_SILU, .required = DECODER | QK_NORM },
    { .name = "gemma3",
      .rope = ROPE_NEOX,
      .act = ACT_GELU_TANH,
      .required = DECODER | QK_NORM | BIT(T_POST_ATTN_NORM) | BIT(T_POST_FFN_NORM),
      .scales_embd = true,
      .has_local_rope = true,
      .window_period = 6,
      .wide_scale_layers = 62 /* 27B: 1/sqrt(5376/32), heads of 128 */ },
};

const struct arch *arch_find(struct str name)
{
    for (size_t i = 0; i < COUNT(archs); i++)
        if (str_eqz(name, archs[i].name))
            return &archs[i];
    return NULL;
}

const struct arch *arch_at(size_t i)
{
    return i < COUNT(archs) ? &archs[i] : NULL;
}
