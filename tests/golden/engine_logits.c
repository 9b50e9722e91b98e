/* All logits of a text through the engine's own forward pass, for fidelity.py.
 *
 *   engine_logits MODEL LEVEL IDS_OUT LOGITS_OUT < text      LEVEL: scalar, avx2, avx512 or best
 *
 * IDS_OUT gets the token ids on one line, LOGITS_OUT f32 [count][vocab]. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "engine/engine_priv.h"
#include <stdio.h>
#include <string.h>

#define TOKENS_MAX 2048
#define LOGIT_ROWS 16

static int read_tokens(const struct model *m, struct token_list *ids, struct err *e)
{
    static char text[1 << 16];
    struct tokenizer *tok;
    size_t n = fread(text, 1, sizeof(text), stdin);
    int rc = tokenizer_new(&tok, m->gguf, e);

    if (rc == 0)
        rc = tokenizer_encode(tok, (struct str) { text, n }, TOKENIZE_ADD_SPECIAL, ids);
    if (rc == 0 && (ids->count < 2 || ids->count > TOKENS_MAX))
        rc = err_set(e, ERR_LIMIT, "the text has %zu tokens, 2..%d are taken", ids->count,
                     TOKENS_MAX);
    tokenizer_free(tok);
    return rc;
}

static int run(const struct model *m, const struct token_list *ids, FILE *out, struct err *e)
{
    struct kern_pool *pool = kern_pool_new(0);
    const size_t stride[GROUPS] = { model_kv_bytes_per_token(m, 0) * 16,
                                    m->group_count > 1 ? model_kv_bytes_per_token(m, 1) * 16 : 0 };
    const uint32_t count[GROUPS] = { TOKENS_MAX / 16, TOKENS_MAX / 16 };
    static struct fwd_row row[TOKENS_MAX];
    static uint32_t want[TOKENS_MAX], table[TOKENS_MAX / 16];
    static struct kern_attn_seq one[TOKENS_MAX];
    struct kern_attn_seq all = { .table = table, .q_count = (uint32_t)ids->count };
    struct weights w;
    struct blocks kv;
    struct forward f;
    int rc = weights_load(&w, m, -1, pool, e);

    if (rc == 0)
        rc = blocks_init(&kv, 16, m->group_count, count, stride, false, e);
    if (rc == 0)
        rc = forward_init(&f, m, &w, &kv, pool, TOKENS_MAX, LOGIT_ROWS);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < TOKENS_MAX / 16; i++)
        table[i] = i;
    for (uint32_t i = 0; i < ids->count; i++) {
        row[i] = (struct fwd_row) { ids->id[i], i, { i / 16, i / 16 } };
        want[i] = i;
        one[i] = (struct kern_attn_seq) { .table = table, .q_start = i, .q_count = 1, .q_row = i };
    }
    forward_run(&f, &(struct fwd_step) { .row = row,
                                         .rows = (uint32_t)ids->count,
                                         .seq = { &all, &all },
                                         .seq_count = 1,
                                         .want = want,
                                         .want_seq = { one, one },
                                         .want_count = (uint32_t)ids->count });
    for (uint32_t at = 0; at < ids->count && rc == 0; at += LOGIT_ROWS) {
        uint32_t n = MIN((uint32_t)ids->count - at, (uint32_t)LOGIT_ROWS);

        forward_logits(&f, at, n);
        if (fwrite(f.logits, sizeof(float) * m->n_vocab, n, out) != n)
            rc = err_set(e, ERR_IO, "logits: cannot write");
    }
    forward_fini(&f);
    blocks_fini(&kv);
    weights_free(&w);
    kern_pool_free(pool);
    return rc;
}

int main(int argc, char **argv)
{
    struct err e = { 0 };
    struct model *m = NULL;
    struct token_list ids = { 0 };
    FILE *f;
    int rc;

    if (argc != 5) {
        fprintf(stderr, "usage: engine_logits MODEL LEVEL IDS_OUT LOGITS_OUT < text\n");
        return 2;
    }
    rc = kern_init(strcmp(argv[2], "best") == 0 ? NULL : argv[2], &e);
    if (rc == 0)
        rc = model_open(&m, argv[1], &e);
    if (rc == 0)
        rc = read_tokens(m, &ids, &e);
    f = rc == 0 ? fopen(argv[3], "w") : NULL;
    if (f != NULL) {
        for (size_t i = 0; i < ids.count; i++)
            fprintf(f, "%u ", ids.id[i]);
        fprintf(f, "\n");
        (void)fclose(f);
    }
    f = rc == 0 ? fopen(argv[4], "wb") : NULL;
    if (f != NULL) {
        rc = run(m, &ids, f, &e);
        if (fclose(f) != 0)
            rc = err_set(&e, ERR_IO, "logits: cannot write");
    }
    token_list_fini(&ids);
    model_close(m);
    if (rc != 0)
        fprintf(stderr, "engine_logits: %s\n", e.msg);
    return rc == 0 ? 0 : 1;
}
