/* mkmodel - tiny models for tests, made up from a seed: any architecture and tensor type.
 *
 * A model is a valid GGUF file with random weights, a byte-complete vocabulary
 * (BPE for llama, qwen2 and qwen3, SPM for gemma3), the ChatML special tokens
 * and the ChatML template.  Weights depend on the seed and the tensor's name
 * only, so two types of one seed are the same model, more or less exactly. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MKMODEL_H
#define TOOLS_MKMODEL_H
#include "model/gguf.h"
#include "base/buf.h"

struct mkmodel {
    const char *arch;           /* llama qwen2 qwen3 gemma3 */
    enum tensor_type type;      /* of the matrices; norms and biases are F32 */
    enum tensor_type embd_type; /* of token_embd and output */
    uint64_t seed;
    uint32_t layers, embd, heads, kv_heads, head_dim, ff, context;
    uint32_t window;   /* gemma3; 0 = no windows */
    uint32_t merges;   /* of the vocabulary: at most that many */
    uint32_t pad_rows; /* rows of the embedding beyond the vocabulary */
    double freq_base;
    bool tied; /* no output.weight */
    bool has_template;
};

/* 2 layers of 256 (gemma3: 6, five of them windowed), 4 heads of 64, 2 KV heads, F32. */
void mkmodel_defaults(struct mkmodel *o, const char *arch);
/* Appends the file; the buffer's ceiling applies (64 MiB is plenty for the defaults). */
int mkmodel_build(const struct mkmodel *o, struct buf *out, struct err *e) MUST_CHECK;
int mkmodel_write(const struct mkmodel *o, const char *path, struct err *e) MUST_CHECK;

/* Simple quantizers, one block row of n values (a multiple of the type's block). */
void mkmodel_quantize(enum tensor_type t, const float *x, void *out, size_t n);
/* The number of a type's name, such as "Q4_K"; false when unknown. */
bool mkmodel_type(const char *name, enum tensor_type *out);
#endif
