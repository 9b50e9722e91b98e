/* engine/engine.h - many requests on one model: paged KV, continuous batching, sampling.
 *
 * One engine thread owns model state, batch and KV pool.  Other threads talk to
 * it by engine_submit, engine_cancel and the KV calls below: all are mailbox
 * messages and return at once.  Callbacks run ON THE ENGINE THREAD and must
 * only copy and hand on (loop_post): never block, never call back.
 *
 * Step: decodes first, then prefill chunks within a time budget, so that one
 * long prompt never freezes the others.  Full blocks of prompt and output enter
 * the prefix cache under their block key (codec/blockkey.h) when complete; a
 * block is freed leaves-first, least recently used.  blocks_in_use = sum over
 * live requests and leases, checked every step in debug builds.
 * A request's tokens do not depend on what else is in the batch. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H
#include "base/err.h"
#include "codec/blockkey.h"
#include "model/model.h"
#include "text/tokenizer.h"

struct engine;

struct engine_opts {
    uint32_t block_tokens; /* power of two, 16 */
    uint64_t
        kv_bytes; /* reservation; 0 = enough for 4 full contexts of 4,096 tokens, at most 1 GiB */
    uint32_t max_model_len;      /* 0 = min(model context, what the KV pool can hold) */
    uint32_t max_num_seqs;       /* running at once, 64 */
    uint32_t max_batched_tokens; /* rows of one step, 512 */
    uint32_t queue_max;          /* waiting requests, 256: past it ERR_LIMIT */
    uint32_t step_budget_ms;     /* prefill share of a step while others decode, 50 */
    uint32_t threads;            /* compute threads; 0 = CPUs allowed */
    uint32_t lease_ms;           /* of held KV after its request ended; 0 = 30,000 */
    bool prefix_caching;         /* true */
    const char *hash_seed;       /* BLOCKKEY_SEED_DEFAULT */
    int weights_fd; /* -1: private; else a memfd shared with other workers: an empty one is
                     * packed into, a packed one is mapped (another model's: ERR_MISMATCH) */
};

/* ---- sampling ---- */
#define ENGINE_STOP_IDS_MAX 32
#define ENGINE_LOGPROBS_MAX 20

struct engine_bias {
    uint32_t id;
    float bias;
};

struct engine_sampling {
    float temperature;                                             /* 0 = greedy */
    uint32_t top_k;                                                /* 0 = off */
    float top_p, min_p;                                            /* 1, 0 = off */
    float repetition_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0 = off */
    bool has_seed;
    uint64_t seed;
    uint32_t max_tokens, min_tokens; /* max_tokens is cut to the context; 0: the prompt alone */
    bool ignore_eos;
    uint32_t stop_ids[ENGINE_STOP_IDS_MAX];
    uint32_t stop_id_count;
    const struct engine_bias *bias; /* copied at submit */
    uint32_t bias_count;
    int logprobs;        /* -1 off, else top N of each output token (0: only the chosen) */
    int prompt_logprobs; /* -1 off, else top N of each prompt token; disables prefix hits */
};

struct engine_logprob { /* of one position */
    uint32_t id;        /* the token at this position */
    float logprob;
    uint32_t rank; /* 1 = most probable */
    uint32_t top_count;
    uint32_t top_id[ENGINE_LOGPROBS_MAX];
    float top_logprob[ENGINE_LOGPROBS_MAX];
};

enum engine_finish { ENGINE_STOP, ENGINE_LENGTH, ENGINE_ABORT, ENGINE_ERROR };

struct engine_result { /* with on_done */
    enum engine_finish reason;
    int64_t stop_id; /* the stop id that ended it, or -1 */
    int rc;          /* ENGINE_ERROR: why */
    uint32_t prompt_tokens, output_tokens;
    uint32_t cached_tokens;   /* prompt tokens found in the local prefix cache */
    uint32_t imported_tokens; /* prompt tokens whose KV came from another worker */
    uint32_t computed_tokens; /* prompt tokens computed here */
    double queue_s, prefill_s, decode_s;
};

struct engine_request {
    const uint32_t *prompt; /* copied */
    uint32_t prompt_count;
    struct engine_sampling sampling;
    struct str salt;  /* cache salt: enters the first block's key; copied */
    int32_t priority; /* lower runs first; ties by arrival */
    /* Keep the prompt's blocks under a lease after the end, for another worker to take. */
    bool hold_kv;
    /* Blocks [0, import) come from another worker: the request waits for engine_import_done
     * (or its deadline) before it computes what is missing.  See below. */
    bool await_import;
    uint32_t import_wait_ms;
    /* Every token, the one that ends the request (EOS, stop id) included. */
    void (*on_token)(void *ctx, uint64_t id, uint32_t token, const struct engine_logprob *lp);
    void (*on_prompt_logprobs)(void *ctx, uint64_t id, const struct engine_logprob *lp,
                               uint32_t count);
    /* Prompt blocks [0, blocks) are complete and final (chunk by chunk, for push transfer).  May be
     * NULL. */
    void (*on_prefill)(void *ctx, uint64_t id, uint32_t blocks);
    void (*on_done)(void *ctx, uint64_t id, const struct engine_result *r); /* last, once */
    void *ctx;
};

struct engine_stats { /* a consistent copy, any thread */
    uint32_t running, waiting;
    uint32_t blocks_total, blocks_in_use, blocks_cached, blocks_leased;
    uint64_t prompt_tokens, output_tokens, prefix_query_tokens, prefix_hit_tokens, preemptions;
    uint64_t steps;
    double step_s_total;
    uint32_t imports_pending;
    uint64_t last_progress_ns; /* clock_ns() of the last finished step */
};

/* KV events, on the engine thread, complete batches per step (kv/events.h encodes them).
 * CLEARED comes first of all.  Blocks of group 0 only: windowed parts come and go unannounced. */
struct engine_kv_event {
    enum { ENGINE_KV_STORED, ENGINE_KV_REMOVED, ENGINE_KV_CLEARED } kind;
    const struct blockkey *keys; /* chain order */
    uint32_t key_count;
    const struct blockkey *parent; /* stored: NULL = first block of a prompt */
    const uint32_t *tokens;        /* stored: key_count * block_tokens */
    uint32_t block_tokens, group;
    struct str salt;
};
typedef void engine_kv_event_fn(void *ctx, const struct engine_kv_event *ev, uint32_t count);

/* Packs weights, reserves KV, starts the thread.  tok and m are borrowed.  progress (may be NULL)
 * hears 0..1 while loading, on the calling thread.  ERR_NOMEM when the plan does not fit: the line
 * says how much is needed, how much there is, and what to lower. */
int engine_open(struct engine **out, const struct model *m, const struct tokenizer *tok,
                const struct engine_opts *o, engine_kv_event_fn *on_events, void *ectx,
                struct err *e) MUST_CHECK;
void engine_close(struct engine *en); /* aborts what is left (on_done runs), joins the thread */
/* The memory plan in human lines, before loading. */
int engine_plan(const struct model *m, const struct engine_opts *o, struct buf *out,
                struct err *e) MUST_CHECK;

/* Any thread.  *id > 0 names the request.  ERR_INVAL (empty, too long: e says the limit),
 * ERR_LIMIT (queue full), ERR_CLOSED. */
int engine_submit(struct engine *en, const struct engine_request *r, uint64_t *id,
                  struct err *e) MUST_CHECK;
/* Any thread; on_done follows with ENGINE_ABORT unless it already ended.  Work stops within a step.
 * Of a request that ended and holds its KV: ends the lease. */
void engine_cancel(struct engine *en, uint64_t id);
void engine_stats(struct engine *en, struct engine_stats *out);
uint32_t engine_max_model_len(const struct engine *en);
uint32_t engine_block_tokens(const struct engine *en);
/* SHA-256 over all that decides the meaning of KV bytes: weights digest, heads, dtype, rope, block,
 * seed. */
void engine_fingerprint(const struct engine *en, uint8_t out[32]);
const struct model *engine_model(const struct engine *en);
void engine_reset_prefix_cache(struct engine *en);
/* memfd of the packed weights, to be inherited by another worker (-1 when private). */
int engine_weights_fd(const struct engine *en);

/* ---- KV export and import: transfer/ builds the hand-over on these ----
 *
 * A block's canonical bytes: all layers of group 0 then of group 1, each layer K then V,
 * [kv_head][token][head_dim] f16.  block_bytes = engine_kv_block_bytes().
 * A block of a windowed group whose tokens have left every later query's window may be absent:
 * its part is not sent (parts: bit g = group g present). */
size_t engine_kv_block_bytes(const struct engine *en);             /* all groups */
size_t engine_kv_group_bytes(const struct engine *en, uint32_t g); /* of one block */

/* Export.  Copies prompt block `index` of a hold_kv request (live, or under its lease) into dst
 * (engine_kv_block_bytes; absent parts are zeroed), with its key; *parts says which groups are
 * there.  Any thread: a block reported by on_prefill is immutable while the request lives or its
 * lease stands, and the engine keeps it pinned.  ERR_NOTFOUND (unknown, expired), ERR_AGAIN (not
 * computed yet). */
int engine_export_block(struct engine *en, uint64_t id, uint32_t index, void *dst,
                        struct blockkey *key, uint32_t *parts) MUST_CHECK;
/* Lease of a held request: extend, or end (frees).  Any thread. */
void engine_lease_renew(struct engine *en, uint64_t id, uint32_t ms);
void engine_lease_release(struct engine *en, uint64_t id);

/* How many leading prompt blocks the local cache holds right now (a hint), any thread. */
uint32_t engine_prefix_blocks(struct engine *en, const uint32_t *prompt, uint32_t count,
                              struct str salt);

/* Import for a request submitted with await_import.  The engine has reserved destination blocks;
 * `src` (engine_kv_block_bytes) is copied at once, any thread, after the caller verified its
 * checksum and that key equals the prompt's key for that index (the engine checks the key again:
 * ERR_MISMATCH).  A block becomes visible only here.  ERR_NOTFOUND when the request is gone;
 * ERR_AGAIN when no block is free yet. */
int engine_import_block(struct engine *en, uint64_t id, uint32_t index, const struct blockkey *key,
                        uint32_t parts, const void *src) MUST_CHECK;
/* No more blocks will come (rc 0, or why it failed): the request computes what is missing. */
void engine_import_done(struct engine *en, uint64_t id, int rc);
#endif
