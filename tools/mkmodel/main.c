/* mkmodel ARCH TYPE FILE: a tiny model for tests (see mkmodel.h). */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/opt.h"
#include "mkmodel.h"
#include <stdio.h>

struct options {
    uint64_t seed;
    uint32_t layers, embd, heads, kv_heads, head_dim, ff, context, window, merges, pad_rows;
    const char *embd_type;
    bool untied, no_template;
};

#define OPT(field, help)                                                                           \
    {                                                                                              \
#field, OPT_U32, offsetof(struct options, field), NULL, "N", 0, 0, help                    \
    }

static const struct opt_desc table[] = {
    { "seed", OPT_U64, offsetof(struct options, seed), "1", "N", 0, 0, "of the weights" },
    OPT(layers, "0 = default"),
    OPT(embd, "width; 0 = 256"),
    OPT(heads, "0 = 4"),
    { "kv-heads", OPT_U32, offsetof(struct options, kv_heads), NULL, "N", 0, 0, "0 = 2" },
    { "head-dim", OPT_U32, offsetof(struct options, head_dim), NULL, "N", 0, 0, "0 = 64" },
    OPT(ff, "0 = 512"),
    OPT(context, "0 = 2048"),
    OPT(window, "gemma3; 0 = 32"),
    OPT(merges, "0 = 250"),
    { "pad-rows", OPT_U32, offsetof(struct options, pad_rows), NULL, "N", 0, 0,
      "embedding rows beyond the vocabulary" },
    { "embd-type", OPT_STR, offsetof(struct options, embd_type), NULL, "TYPE", 0, 0,
      "of token_embd and output (default: TYPE)" },
    { "untied", OPT_BOOL, offsetof(struct options, untied), NULL, NULL, 0, 0,
      "with an output matrix of its own" },
    { "no-template", OPT_BOOL, offsetof(struct options, no_template), NULL, NULL, 0, 0,
      "a base model" },
};

static void override(uint32_t *field, uint32_t value)
{
    if (value != 0)
        *field = value;
}

int main(int argc, char **argv)
{
    struct options o = { 0 };
    struct opt_list rest = { 0 };
    struct mkmodel m;
    struct err e = { 0 };

    if (opt_parse(&o, table, COUNT(table), argc - 1, argv + 1, &rest, &e) != 0 || rest.count != 3) {
        struct buf help;

        buf_init(&help, 1 << 16);
        opt_help(table, COUNT(table), &help);
        fprintf(stderr, "%s\nusage: mkmodel ARCH TYPE FILE\n%.*s", e.msg, (int)help.len, help.p);
        buf_fini(&help);
        return 2;
    }
    mkmodel_defaults(&m, rest.item[0]);
    if (!mkmodel_type(rest.item[1], &m.type) ||
        !mkmodel_type(o.embd_type != NULL ? o.embd_type : rest.item[1], &m.embd_type)) {
        fprintf(stderr, "mkmodel: unknown tensor type\n");
        return 2;
    }
    m.seed = o.seed;
    override(&m.layers, o.layers);
    override(&m.embd, o.embd);
    override(&m.heads, o.heads);
    override(&m.kv_heads, o.kv_heads);
    override(&m.head_dim, o.head_dim);
    override(&m.ff, o.ff);
    override(&m.context, o.context);
    override(&m.window, o.window);
    override(&m.merges, o.merges);
    m.pad_rows = o.pad_rows;
    m.tied = m.tied && !o.untied;
    m.has_template = !o.no_template;
    if (mkmodel_write(&m, rest.item[2], &e) != 0) {
        fprintf(stderr, "mkmodel: %s\n", e.msg);
        return 1;
    }
    return 0;
}
