/* engine/engine_priv.h - what the engine's files share.
 *
 *   engine.c   threads: mailbox, submit, cancel, stats, open and close
 *   batch.c    the step: admission, planning, blocks, what follows a token
 *   forward.c  the layer program over kernels.h
 *   sample.c   logits to a token
 *   blocks.c   paged pool and prefix cache
 *   kvio.c     export, import, leases
 *   loadw.c    packed weights and the memory plan
 *
 * Locks: engine.mu guards what other threads see: the id map, the inbox, the
 * marked fields of struct seq and the published statistics.  blocks.map_mu
 * guards the prefix map.  Neither is held while computing or calling back. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINE_ENGINE_PRIV_H
#define ENGINE_ENGINE_PRIV_H
#include "base/map.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "kernels/kernels.h"
#include <pthread.h>
#include <stdatomic.h>

#define BLOCK_NONE       UINT32_MAX
#define GROUPS           2
#define LEASE_MS         30000
#define LOGITS_BYTES_MAX ((size_t)64 << 20) /* logits of one head call */

/* ---- blocks.c ---- */

struct lru { /* doubly linked through blocks.link[g], oldest at head */
    uint32_t head, tail, count;
};
struct lru_link {
    uint32_t prev, next;
    bool on;
};

/* A logical block is named by its place in group 0; the windowed part hangs on it. */
struct block {
    struct blockkey key;
    uint32_t part1;        /* place in group 1, or BLOCK_NONE */
    uint32_t refs[GROUPS]; /* users of each part */
    bool cached;           /* in the prefix map */
};

struct kv_pending { /* one event of this step; spans of the two arrays below */
    int kind;
    uint32_t key_at, key_count, token_at;
    bool has_parent;
    struct blockkey parent;
    char *salt; /* owned */
    size_t salt_n;
};

struct blocks {
    uint32_t tokens; /* of one block */
    uint32_t groups;
    uint32_t count[GROUPS];
    size_t stride[GROUPS]; /* bytes of one block */
    uint8_t *arena[GROUPS];
    struct block *block; /* count[0] */
    uint32_t *owner1;    /* group 1 place -> block */
    uint32_t *free_list[GROUPS];
    uint32_t free_count[GROUPS];
    struct lru lru[GROUPS];
    struct lru_link *link[GROUPS]; /* both indexed by block */
    uint32_t in_use;               /* blocks with refs[0] > 0 */
    pthread_mutex_t map_mu;
    struct map map; /* fold of the key -> block */
    /* Events of this step. */
    bool events_on;
    struct kv_pending *ev;
    size_t ev_count, ev_cap;
    struct blockkey *ev_key;
    size_t ev_key_count, ev_key_cap;
    uint32_t *ev_token;
    size_t ev_token_count, ev_token_cap;
};

int blocks_init(struct blocks *b, uint32_t tokens, uint32_t groups, const uint32_t count[GROUPS],
                const size_t stride[GROUPS], bool events, struct err *e) MUST_CHECK;
void blocks_fini(struct blocks *b);
/* What could be had now: free, and cached by nobody's use. */
uint32_t blocks_available(const struct blocks *b, uint32_t group);
uint32_t blocks_alloc(struct blocks *b); /* refs[0] = 1; BLOCK_NONE when all are in use */
bool blocks_alloc_part(struct blocks *b, uint32_t id); /* refs[1] = 1; part1 must be absent */
void blocks_ref(struct blocks *b, uint32_t id, uint32_t group);
void blocks_unref(struct blocks *b, uint32_t id, uint32_t group);
uint32_t blocks_find(const struct blocks *b, const struct blockkey *key); /* engine thread */
/* How many leading keys are cached; any thread. */
uint32_t blocks_count_prefix(struct blocks *b, const struct blockkey *keys, uint32_t count);
/* A complete block enters the prefix map.  The id that carries this key from now on: `id`, or the
 * block that had it before (same tokens, same bytes), to which the caller's references moved. */
uint32_t blocks_publish(struct blocks *b, uint32_t id, const struct blockkey *key, bool want_part);
void blocks_event_stored(struct blocks *b, const struct blockkey *key,
                         const struct blockkey *parent, const uint32_t *tokens, struct str salt);
void blocks_event_cleared(struct blocks *b);
void blocks_events_reset(struct blocks *b);
void blocks_reset_cache(struct blocks *b);
uint32_t blocks_cached(const struct blocks *b); /* in the map, used by nobody */
uint8_t *blocks_at(const struct blocks *b, uint32_t group, uint32_t place);

/* ---- sample.c ---- */

struct sampler {
    struct engine_sampling p; /* bias owned */
    struct rng rng;
    struct map counts; /* token -> SEEN_PROMPT | count in the output; only with penalties */
    bool penalties;
};

struct sample_scratch { /* one a thread; vocab items each */
    float *raw;         /* the logits as they came, when logprobs are wanted */
    float *value;
    uint32_t *id;
    uint32_t vocab;
};

int sampler_init(struct sampler *s, const struct engine_sampling *p, const uint32_t *prompt,
                 uint32_t prompt_count) MUST_CHECK;
void sampler_fini(struct sampler *s);
/* Chooses a token; logits (vocab of them) are changed.  eog: the ids that min_tokens bars beside
 * stop ids. lp (may be NULL) gets the choice's place in the raw distribution. */
uint32_t sampler_pick(struct sampler *s, float *logits, uint32_t vocab, uint32_t output_count,
                      const uint32_t *eog, uint32_t eog_count, struct sample_scratch *scratch,
                      struct engine_logprob *lp);
bool sampler_accept(struct sampler *s, uint32_t token); /* false: no memory for its count */
/* Log-probability, rank and the top n of raw logits. */
void sample_logprob(const float *logits, uint32_t vocab, uint32_t id, int n,
                    struct engine_logprob *lp);
int scratch_init(struct sample_scratch *s, uint32_t vocab) MUST_CHECK;
void scratch_fini(struct sample_scratch *s);

/* ---- loadw.c ---- */

struct layer_weights {
    struct kern_mat q, k, v, o, gate, up, down;
    /* f32 copies; NULL where the architecture has none */
    float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *o_bias, *q_norm, *k_norm;
    float *post_attn_norm, *post_ffn_norm;
};

struct weights {
    struct layer_weights *layer;
    struct kern_mat embd, head;
    float *output_norm;
    double *inv_freq[GROUPS]; /* per group: angle of one position, [rope_dim/2] */
    uint8_t *image;           /* packed matrices */
    size_t size;              /* bytes mapped, header included */
    int fd;                   /* memfd, or -1: private pages */
    float *small;             /* one allocation behind all f32 vectors */
};

/* What a set of options comes to for a model: the numbers behind engine_plan and engine_open. */
struct plan {
    struct engine_opts o; /* zeros replaced by what they stand for */
    uint32_t blocks[GROUPS];
    size_t stride[GROUPS];
    uint32_t logit_rows;
    uint64_t weight_bytes, kv_bytes, work_bytes, need_bytes, available_bytes;
};

int plan_make(struct plan *p, const struct model *m, const struct engine_opts *o,
              struct err *e) MUST_CHECK;
void plan_describe(const struct plan *p, const struct model *m, struct buf *out);
int weights_load(struct weights *w, const struct model *m, int fd, struct kern_pool *pool,
                 struct err *e) MUST_CHECK;
void weights_free(struct weights *w);
size_t weights_packed_bytes(const struct model *m);

/* ---- forward.c ---- */

struct fwd_row {
    uint32_t token, pos;
    uint32_t place[GROUPS]; /* where its K and V go; BLOCK_NONE: they are there already */
};

struct fwd_step {
    const struct fwd_row *row;
    uint32_t rows;
    const struct kern_attn_seq *seq[GROUPS]; /* how attention of each group sees the rows */
    uint32_t seq_count;
    /* Rows whose logits are wanted, rising, and each as a sequence of its own: the last layer
     * is finished for these only. */
    const uint32_t *want;
    const struct kern_attn_seq *want_seq[GROUPS];
    uint32_t want_count;
};

struct forward {
    const struct model *m;
    const struct weights *w;
    const struct blocks *kv;
    struct kern_pool *pool;
    uint32_t rows_max, logit_rows;
    float *x, *h, *q, *k, *v, *att, *gate, *up, *cs[GROUPS], *logits, *final;
    struct kern_act act;
};

int forward_init(struct forward *f, const struct model *m, const struct weights *w,
                 const struct blocks *kv, struct kern_pool *pool, uint32_t rows_max,
                 uint32_t logit_rows) MUST_CHECK;
void forward_fini(struct forward *f);
void forward_run(struct forward *f, const struct fwd_step *s); /* all layers over the rows */
/* Logits of wanted rows [first, first + count) of the last run: at most logit_rows, into f->logits.
 */
void forward_logits(struct forward *f, uint32_t first, uint32_t count);
size_t forward_work_bytes(const struct model *m, uint32_t rows, uint32_t logit_rows);

/* ---- requests ---- */

enum seq_state {
    SEQ_IMPORTING, /* waits for blocks of another worker */
    SEQ_WAITING,
    SEQ_RUNNING,
    SEQ_LEASED, /* ended; its prompt blocks stay for another worker */
    SEQ_ENDED   /* ended; a network thread still copies */
};

struct seq {
    uint64_t id;
    struct engine_request rq; /* prompt and salt owned below */
    struct sampler sampler;
    enum seq_state state; /* changed under mu */
    uint32_t *tokens;     /* prompt, then output */
    uint32_t prompt_count, count, token_cap;
    uint32_t computed;     /* tokens whose KV is in the pool */
    uint32_t published;    /* leading blocks that are complete and named */
    struct blockkey *keys; /* of complete blocks; the prompt's are known from the start */
    uint32_t key_count, prompt_blocks, block_cap;
    uint32_t *table[GROUPS]; /* [0] block ids, [1] places in group 1; entries below export_ready:
                                under mu */
    uint32_t table_count;    /* entries in use of both */
    uint32_t first_part;     /* first entry of table[1] still held */
    char *salt;
    uint64_t submitted_ns, admitted_ns, first_token_ns;
    uint32_t cached_tokens, imported_tokens;
    bool was_admitted, prompt_counted, parked, ending;
    uint32_t output_count;
    uint32_t plp_done; /* prompt_logprobs: rows done */
    struct engine_logprob *plp;
    uint32_t planned; /* rows in this step */
    uint32_t plan_row;
    /* under mu: */
    bool cancelled, import_closed, import_ready;
    int import_rc;
    uint32_t pins;         /* network threads that copy */
    uint32_t export_ready; /* prompt blocks that may be copied */
    bool *arrived;         /* per prompt block, with await_import: its bytes are here */
    uint64_t deadline_ns;  /* import, then lease */
    bool lease_released;
    /* engine thread again */
    uint32_t prefill_told;
    struct engine_result result;
};

struct engine {
    const struct model *m;
    const struct tokenizer *tok;
    struct plan plan;
    struct weights w;
    struct blocks kv;
    struct forward fwd;
    struct kern_pool *pool;
    struct sample_scratch *scratch; /* one a pool thread */
    uint8_t fingerprint[32];
    struct blockkey root;
    uint32_t *eog;
    uint32_t eog_count;
    engine_kv_event_fn *on_events;
    void *ectx;

    pthread_t thread;
    bool thread_up;
    pthread_mutex_t mu;
    pthread_cond_t wake;
    /* under mu */
    struct map ids;
    struct seq **inbox;
    uint32_t inbox_count;
    uint64_t next_id;
    bool closing, ended_all, mail, reset_wanted;
    uint64_t hold_blocks; /* of live hold_kv requests and leases */
    struct engine_stats stats;

    /* engine thread only */
    struct seq **waiting, **running, **parked; /* parked: leased or ended while copied */
    uint32_t waiting_count, waiting_cap, running_count, parked_count, parked_cap;
    struct seq **done; /* on_done follows once the statistics are out */
    uint32_t done_count, done_cap;
    struct fwd_row *rows;
    struct kern_attn_seq *attn[GROUPS], *attn_want[GROUPS];
    uint32_t *want;
    struct seq **planned, **order; /* max_num_seqs each */
    uint32_t planned_count;
    struct head_row *head;
    uint32_t head_count;
    double ms_per_row; /* learned, prefill-heavy steps */
    struct engine_stats now;
};

/* A row whose logits are wanted. */
struct head_row {
    struct seq *s;
    bool is_prompt; /* prompt_logprobs of the next prompt token, else a sample */
    uint32_t index; /* is_prompt: position of the token it predicts */
    uint32_t token; /* sampled */
    struct engine_logprob lp;
};

/* ---- batch.c ---- */
/* One step.  False when there was nothing to compute. */
bool batch_step(struct engine *en);
/* Ends a request: frees or leases its blocks; on_done runs with the next flush. */
void batch_end(struct engine *en, struct seq *s, enum engine_finish reason, int64_t stop_id,
               int rc);
/* Statistics, events, then on_done of what ended. */
void batch_flush(struct engine *en);
void batch_wait_add(struct engine *en, struct seq *s); /* by priority, then arrival */

/* ---- seq.c: a request's blocks ---- */
void seq_free(struct seq *s);
uint32_t seq_window_first(const struct engine *en,
                          uint32_t pos); /* first block group 1 reads from pos */
/* Takes the n cached blocks that stand in table[0], their windowed part from `first` on. */
void seq_adopt(struct engine *en, struct seq *s, uint32_t n, uint32_t first);
/* Takes references to all leading blocks the prefix cache holds; how many. */
uint32_t seq_take_prefix(struct engine *en, struct seq *s);
/* Blocks for positions below `end`.  False: not enough now (what was had stays with it). */
bool seq_ensure(struct engine *en, struct seq *s, uint32_t end);
/* Names blocks below `upto` and gives them to the prefix cache. */
void seq_publish(struct engine *en, struct seq *s, uint32_t upto);
void seq_slide(struct engine *en, struct seq *s); /* drops windowed parts no later query reads */
void seq_slide_to(struct engine *en, struct seq *s, uint32_t first);
void seq_release(struct engine *en, struct seq *s, uint32_t keep); /* all blocks from `keep` on */

/* ---- kvio.c, engine thread ---- */
void kvio_import_try(struct engine *en, struct seq *s); /* reserves destination blocks */
/* Ends the import when it is complete or late and nobody copies: true = it waits to compute now. */
bool kvio_import_poll(struct engine *en, struct seq *s, uint64_t now_ns);
void kvio_ready(struct engine *en,
                struct seq *s); /* after published grew: exportable, on_prefill */
bool kvio_park(struct engine *en, struct seq *s, bool lease); /* false: all freed */
void kvio_parked(struct engine *en, uint64_t now_ns); /* ends leases, frees what nobody copies */
uint64_t kvio_next_deadline(const struct engine *en); /* under mu; UINT64_MAX = none */
#endif
