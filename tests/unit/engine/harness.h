/* harness.h - a tiny model, an engine on it, and requests that collect what they hear. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINE_HARNESS_H
#define ENGINE_HARNESS_H
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "kernels/kernels.h"
#include "mkmodel/mkmodel.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define OUT_MAX 256

struct tiny {
    struct buf bytes;
    struct model *m;
};

static inline void tiny_open(struct tiny *t, const char *arch)
{
    struct mkmodel o;
    struct gguf *g;
    struct err e = { 0 };
    int rc;

    mkmodel_defaults(&o, arch);
    o.context = 1024;
    o.window = strcmp(arch, "gemma3") == 0 ? 40 : 0;
    o.type = TENSOR_Q8_0;
    o.embd_type = TENSOR_Q8_0;
    buf_init(&t->bytes, (size_t)256 << 20);
    rc = mkmodel_build(&o, &t->bytes, &e);
    if (rc == 0)
        rc = gguf_open_bytes(&g, buf_view(&t->bytes), &e);
    if (rc == 0)
        rc = model_from_gguf(&t->m, g, &e);
    if (rc != 0)
        fail_msg("%s: %s", arch, e.msg);
}

static inline void tiny_close(struct tiny *t)
{
    model_close(t->m);
    buf_fini(&t->bytes);
}

static inline struct engine_opts opts(void)
{
    return (struct engine_opts) { .block_tokens = 16,
                                  .kv_bytes = 8u << 20,
                                  .max_num_seqs = 16,
                                  .max_batched_tokens = 128,
                                  .queue_max = 64,
                                  .threads = 2,
                                  .prefix_caching = true,
                                  .weights_fd = -1 };
}

static inline struct engine *engine_make(const struct model *m, const struct engine_opts *o,
                                         engine_kv_event_fn *ev, void *ctx)
{
    struct engine *en = NULL;
    struct err e = { 0 };

    if (engine_open(&en, m, NULL, o, ev, ctx, &e) != 0)
        fail_msg("engine_open: %s", e.msg);
    return en;
}

struct heard { /* of one request */
    uint64_t id;
    uint32_t token[OUT_MAX], count;
    float logprob[OUT_MAX];
    atomic_uint tokens_so_far, prefill_blocks;
    struct engine_result r;
    struct engine_logprob *plp;
    uint32_t plp_count;
    uint64_t done_ns;
    atomic_bool done;
};

static inline void on_token(void *ctx, uint64_t id, uint32_t token, const struct engine_logprob *lp)
{
    struct heard *h = ctx;

    (void)id;
    if (h->count < OUT_MAX) {
        h->token[h->count] = token;
        h->logprob[h->count++] = lp != NULL ? lp->logprob : 0;
    }
    atomic_store(&h->tokens_so_far, h->count);
}

static inline void on_prefill(void *ctx, uint64_t id, uint32_t blocks)
{
    struct heard *h = ctx;

    (void)id;
    atomic_store(&h->prefill_blocks, blocks);
}

static inline void on_plp(void *ctx, uint64_t id, const struct engine_logprob *lp, uint32_t count)
{
    struct heard *h = ctx;

    (void)id;
    h->plp = mem_dup(lp, count * sizeof(*lp));
    h->plp_count = count;
}

static inline void on_done(void *ctx, uint64_t id, const struct engine_result *r)
{
    struct heard *h = ctx;

    (void)id;
    h->r = *r;
    h->done_ns = clock_ns();
    atomic_store(&h->done, true);
}

static inline struct engine_request request(struct heard *h, const uint32_t *prompt, uint32_t count,
                                            uint32_t max_tokens)
{
    struct engine_request r = { .prompt = prompt,
                                .prompt_count = count,
                                .on_token = on_token,
                                .on_prompt_logprobs = on_plp,
                                .on_prefill = on_prefill,
                                .on_done = on_done,
                                .ctx = h };

    memset(h, 0, sizeof(*h));
    r.sampling = (struct engine_sampling) { .top_p = 1,
                                            .repetition_penalty = 1,
                                            .max_tokens = max_tokens,
                                            .logprobs = 0,
                                            .prompt_logprobs = -1 };
    return r;
}

static inline void start(struct engine *en, const struct engine_request *r)
{
    struct heard *h = r->ctx;
    struct err e = { 0 };

    if (engine_submit(en, r, &h->id, &e) != 0)
        fail_msg("engine_submit: %s", e.msg);
}

static inline void wait_done(struct heard *h)
{
    for (uint64_t until = clock_ms() + 120000; !atomic_load(&h->done);) {
        if (clock_ms() > until)
            fail_msg("request %u is not done after 120 s", (unsigned)h->id);
        clock_sleep_ms(1);
    }
}

/* Waits until no block is in use: what an end frees is seen before on_done, a lease's end later. */
static inline bool all_free(struct engine *en)
{
    struct engine_stats s;

    for (uint64_t until = clock_ms() + 10000; clock_ms() < until; clock_sleep_ms(1)) {
        engine_stats(en, &s);
        if (s.blocks_in_use == 0 && s.blocks_leased == 0 && s.running == 0 && s.waiting == 0)
            return true;
    }
    return false;
}

static inline void prompt_make(const struct model *m, uint32_t *p, uint32_t n, uint64_t seed)
{
    struct rng r;

    rng_seed(&r, seed);
    for (uint32_t i = 0; i < n; i++)
        p[i] = (uint32_t)rng_below(&r, m->n_vocab);
}

static inline void same(const struct heard *a, const struct heard *b)
{
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->token, b->token, a->count * sizeof(uint32_t));
    assert_memory_equal(a->logprob, b->logprob, a->count * sizeof(float));
}
#endif
