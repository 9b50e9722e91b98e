/* The engine's thread, and the calls other threads make.
 *
 *   any thread --submit--> inbox --.            .--> on_token, on_prefill
 *   any thread --cancel, import----+--> thread --+--> on_events --> on_done
 *                 done, release    '   mail, leases, one step, flush, again
 *
 * There are no messages to lose: a submit is an entry of a bounded inbox, all
 * else a flag on the request under mu.  The thread sleeps on `wake` when there
 * is nothing to compute, until mail or the next deadline. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_priv.h"
#include <math.h>
#include <string.h>

/* ---- submit ---- */

static int check_request(const struct engine *en, const struct engine_request *r, struct err *e)
{
    const struct engine_sampling *p = &r->sampling;

    if (r->prompt_count == 0)
        return err_set(e, ERR_INVAL, "the prompt is empty");
    if (r->prompt_count >= en->plan.o.max_model_len && p->max_tokens != 0)
        return err_set(e, ERR_INVAL,
                       "the prompt has %u tokens; this model's maximum context length is %u tokens",
                       r->prompt_count, en->plan.o.max_model_len);
    if (r->prompt_count > en->plan.o.max_model_len)
        return err_set(e, ERR_INVAL,
                       "the prompt has %u tokens; this model's maximum context length is %u tokens",
                       r->prompt_count, en->plan.o.max_model_len);
    for (uint32_t i = 0; i < r->prompt_count; i++)
        if (r->prompt[i] >= en->m->n_vocab)
            return err_set(e, ERR_INVAL, "prompt token %u: %u is no token of this model (%u)", i,
                           r->prompt[i], en->m->n_vocab);
    if (p->stop_id_count > ENGINE_STOP_IDS_MAX || p->logprobs > ENGINE_LOGPROBS_MAX ||
        p->prompt_logprobs > ENGINE_LOGPROBS_MAX || p->bias_count > 65536)
        return err_set(e, ERR_INVAL, "too many stop ids, logprobs or biases");
    if (!isfinite(p->temperature) || p->temperature < 0 || !isfinite(p->top_p) ||
        !isfinite(p->min_p))
        return err_set(e, ERR_INVAL,
                       "temperature, top_p and min_p must be finite, temperature not negative");
    return 0;
}

static void name_prompt(struct engine *en, struct seq *s)
{
    struct blockkey_extra salt = { { s->salt, s->rq.salt.n } };
    uint32_t T = en->kv.tokens;

    for (uint32_t i = 0; i < s->prompt_blocks; i++) {
        bool salted = i == 0 && salt.text.n != 0;

        blockkey_next(i != 0 ? &s->keys[i - 1] : &en->root, s->tokens + (size_t)i * T, T,
                      salted ? &salt : NULL, salted, &s->keys[i]);
    }
    s->key_count = s->prompt_blocks;
}

/* The request with everything it will need: nothing of it fails later for memory. */
static int seq_new(struct engine *en, const struct engine_request *r, struct seq **out,
                   struct err *e)
{
    uint32_t T = en->kv.tokens, left = en->plan.o.max_model_len - r->prompt_count;
    struct seq *s = mem_try_zero(1, sizeof(*s));
    int rc = ERR_NOMEM;

    *out = NULL;
    if (s == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    s->rq = *r;
    s->rq.sampling.max_tokens = MIN(r->sampling.max_tokens, left);
    s->prompt_count = s->count = r->prompt_count;
    s->token_cap = r->prompt_count + s->rq.sampling.max_tokens + 1;
    s->prompt_blocks = r->prompt_count / T;
    s->block_cap = s->token_cap / T + 2;
    s->tokens = mem_try_zero(s->token_cap, sizeof(*s->tokens));
    s->keys = mem_try_zero(s->block_cap, sizeof(*s->keys));
    s->table[0] = mem_try_zero(s->block_cap, sizeof(uint32_t));
    s->table[1] = mem_try_zero(s->block_cap, sizeof(uint32_t));
    if (s->tokens == NULL || s->keys == NULL || s->table[0] == NULL || s->table[1] == NULL)
        goto out;
    memcpy(s->tokens, r->prompt, r->prompt_count * sizeof(*s->tokens));
    if (r->salt.n != 0) {
        s->salt = mem_try(r->salt.n);
        if (s->salt == NULL)
            goto out;
        memcpy(s->salt, r->salt.p, r->salt.n);
    }
    if (r->sampling.prompt_logprobs >= 0) {
        s->plp = mem_try_zero(r->prompt_count, sizeof(*s->plp));
        if (s->plp == NULL)
            goto out;
    }
    /* prompt_logprobs needs every row computed here, so nothing to import then */
    if (r->await_import && s->prompt_blocks != 0 && s->plp == NULL) {
        s->arrived = mem_try_zero(s->prompt_blocks, sizeof(*s->arrived));
        if (s->arrived == NULL)
            goto out;
    }
    rc = sampler_init(&s->sampler, &s->rq.sampling, s->tokens, s->prompt_count);
    name_prompt(en, s);
out:
    if (rc != 0) {
        seq_free(s);
        return err_set(e, rc, "no memory for a request of %u tokens", r->prompt_count);
    }
    s->rq.prompt = NULL;
    *out = s;
    return 0;
}

/* Under mu. */
static int enqueue(struct engine *en, struct seq *s, struct err *e)
{
    if (en->closing)
        return err_set(e, ERR_CLOSED, "the engine is closing");
    if (en->stats.waiting + en->inbox_count >= en->plan.o.queue_max)
        return err_set(e, ERR_LIMIT, "%u requests wait already", en->plan.o.queue_max);
    if (s->rq.hold_kv && en->hold_blocks + s->prompt_blocks > en->kv.count[0] / 2)
        return err_set(e, ERR_LIMIT, "half of the KV pool (%u blocks) is held for other workers",
                       en->kv.count[0] / 2);
    s->id = en->next_id;
    if (!map_put(&en->ids, s->id, (uint64_t)(uintptr_t)s))
        return err_set(e, ERR_NOMEM, "no memory for a request");
    en->next_id++;
    if (s->rq.hold_kv)
        en->hold_blocks += s->prompt_blocks;
    s->submitted_ns = clock_ns();
    s->state = SEQ_WAITING;
    if (s->arrived != NULL) {
        s->state = SEQ_IMPORTING;
        s->deadline_ns = s->submitted_ns + (uint64_t)s->rq.import_wait_ms * 1000000;
    }
    en->inbox[en->inbox_count++] = s;
    en->mail = true;
    pthread_cond_signal(&en->wake);
    return 0;
}

int engine_submit(struct engine *en, const struct engine_request *r, uint64_t *id, struct err *e)
{
    struct seq *s;
    int rc = check_request(en, r, e);

    *id = 0;
    if (rc == 0)
        rc = seq_new(en, r, &s, e);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&en->mu);
    rc = enqueue(en, s, e);
    if (rc == 0)
        *id = s->id;
    pthread_mutex_unlock(&en->mu);
    if (rc != 0)
        seq_free(s);
    return rc;
}

void engine_cancel(struct engine *en, uint64_t id)
{
    uint64_t v;

    pthread_mutex_lock(&en->mu);
    if (map_get(&en->ids, id, &v)) {
        ((struct seq *)(uintptr_t)v)->cancelled = true;
        en->mail = true;
        pthread_cond_signal(&en->wake);
    }
    pthread_mutex_unlock(&en->mu);
}

void engine_stats(struct engine *en, struct engine_stats *out)
{
    pthread_mutex_lock(&en->mu);
    *out = en->stats;
    out->waiting += en->inbox_count;
    pthread_mutex_unlock(&en->mu);
}

uint32_t engine_max_model_len(const struct engine *en)
{
    return en->plan.o.max_model_len;
}

uint32_t engine_block_tokens(const struct engine *en)
{
    return en->kv.tokens;
}

void engine_fingerprint(const struct engine *en, uint8_t out[32])
{
    memcpy(out, en->fingerprint, 32);
}

const struct model *engine_model(const struct engine *en)
{
    return en->m;
}

int engine_weights_fd(const struct engine *en)
{
    return en->w.fd;
}

void engine_reset_prefix_cache(struct engine *en)
{
    pthread_mutex_lock(&en->mu);
    en->reset_wanted = en->mail = true;
    pthread_cond_signal(&en->wake);
    pthread_mutex_unlock(&en->mu);
}

/* ---- the thread ---- */

/* Flags are copied under the lock that other threads set them with; ends follow without it. */
static void end_marked(struct engine *en, struct seq **list, const uint32_t *count)
{
    for (uint32_t i = *count; i-- > 0;)
        if (list[i]->ending)
            batch_end(en, list[i], ENGINE_ABORT, -1, ERR_CANCELLED);
}

static void take_mail(struct engine *en)
{
    bool reset;

    pthread_mutex_lock(&en->mu);
    for (uint32_t i = 0; i < en->inbox_count; i++)
        batch_wait_add(en, en->inbox[i]);
    en->stats.waiting +=
        en->inbox_count; /* the queue's ceiling counts them until the next snapshot */
    en->inbox_count = 0;
    reset = en->reset_wanted;
    en->mail = en->reset_wanted = false;
    for (uint32_t i = 0; i < en->running_count; i++)
        en->running[i]->ending = en->running[i]->cancelled || en->closing;
    for (uint32_t i = 0; i < en->waiting_count; i++)
        en->waiting[i]->ending = en->waiting[i]->cancelled || en->closing;
    pthread_mutex_unlock(&en->mu);
    end_marked(en, en->running, &en->running_count);
    end_marked(en, en->waiting, &en->waiting_count);
    if (reset)
        blocks_reset_cache(&en->kv);
}

static void poll_imports(struct engine *en)
{
    uint64_t now = clock_ns();

    for (uint32_t i = 0; i < en->waiting_count; i++) {
        struct seq *s = en->waiting[i];

        if (s->state != SEQ_IMPORTING)
            continue;
        kvio_import_try(en, s);
        (void)kvio_import_poll(en, s, now);
    }
}

/* Sleeps until mail, closing or the next deadline.  False: the end. */
static bool wait_for_work(struct engine *en, bool busy)
{
    struct timespec ts;
    uint64_t at;
    bool go_on;

    pthread_mutex_lock(&en->mu);
    while (!busy && !en->mail && !en->closing) {
        at = kvio_next_deadline(en);
        if (at == UINT64_MAX) {
            pthread_cond_wait(&en->wake, &en->mu);
            continue;
        }
        ts = (struct timespec) { .tv_sec = (time_t)(at / 1000000000),
                                 .tv_nsec = (long)(at % 1000000000) };
        if (pthread_cond_timedwait(&en->wake, &en->mu, &ts) != 0)
            break;
    }
    /* Closing: once all are ended, only threads that still copy keep us; unpin wakes. */
    while (en->closing && !en->mail && en->ended_all && en->parked_count != 0)
        pthread_cond_wait(&en->wake, &en->mu);
    go_on = !(en->closing && en->ended_all && en->parked_count == 0);
    if (en->closing)
        en->ended_all = en->running_count == 0 && en->waiting_count == 0 && en->inbox_count == 0;
    pthread_mutex_unlock(&en->mu);
    return go_on;
}

static void *engine_main(void *arg)
{
    struct engine *en = arg;
    bool busy = true;

    blocks_event_cleared(&en->kv); /* an index forgets what an earlier life announced */
    batch_flush(en);
    while (wait_for_work(en, busy)) {
        kvio_parked(en, clock_ns());
        take_mail(en);
        poll_imports(en);
        busy = batch_step(en);
        batch_flush(en);
        if (!busy)
            kern_pool_quiet(en->pool);
    }
    return NULL;
}

/* ---- open and close ---- */

static void make_fingerprint(struct engine *en)
{
    const struct model *m = en->m;
    struct buf b;

    buf_init(&b, 65536);
    buf_z(&b, "llmd-kv-1 f16 hnd ");
    buf_add(&b, m->digest, sizeof(m->digest));
    buf_f(&b, " layers %u kv_heads %u head_dim %u rope %d %u block %u seed %s", m->n_layers,
          m->n_kv_heads, m->head_dim, (int)m->rope, m->rope_dim, en->kv.tokens,
          en->plan.o.hash_seed);
    for (uint32_t i = 0; i < m->n_layers; i++)
        buf_f(&b, " %u/%u/%u/%a/%a", m->layers[i].group, m->layers[i].group_index,
              m->layers[i].window, m->layers[i].rope_base, m->layers[i].rope_scale);
    ASSERT(!b.failed || m->n_layers > 256);
    hash_sha256(b.p, b.len, en->fingerprint);
    buf_fini(&b);
}

static int find_eog(struct engine *en)
{
    if (en->tok == NULL)
        return 0;
    for (int pass = 0; pass < 2; pass++) {
        en->eog_count = 0;
        for (uint32_t i = 0; i < MIN(tokenizer_count(en->tok), en->m->n_vocab); i++) {
            if (!tokenizer_is_eog(en->tok, i))
                continue;
            if (pass == 1)
                en->eog[en->eog_count] = i;
            en->eog_count++;
        }
        if (pass == 0)
            en->eog = mem_try_zero(en->eog_count, sizeof(*en->eog));
        if (en->eog == NULL)
            return ERR_NOMEM;
    }
    return 0;
}

/* Everything a step needs, once: nothing on the data path allocates by size later. */
static int make_room(struct engine *en, struct err *e)
{
    const struct engine_opts *o = &en->plan.o;
    uint32_t threads = kern_pool_threads(en->pool);
    bool ok;
    int rc;

    rc = blocks_init(&en->kv, o->block_tokens, en->m->group_count, en->plan.blocks, en->plan.stride,
                     en->on_events != NULL, e);
    if (rc != 0)
        return rc;
    en->rows = mem_try_zero(o->max_batched_tokens, sizeof(*en->rows));
    en->head = mem_try_zero((size_t)o->max_batched_tokens + o->max_num_seqs, sizeof(*en->head));
    en->want = mem_try_zero((size_t)o->max_batched_tokens + o->max_num_seqs, sizeof(*en->want));
    ok = en->want != NULL;
    for (uint32_t g = 0; g < GROUPS; g++) {
        en->attn[g] = mem_try_zero(o->max_num_seqs, sizeof(*en->attn[g]));
        en->attn_want[g] = mem_try_zero((size_t)o->max_batched_tokens + o->max_num_seqs,
                                        sizeof(*en->attn_want[g]));
        ok = ok && en->attn[g] != NULL && en->attn_want[g] != NULL;
    }
    en->planned = mem_try_zero(o->max_num_seqs, sizeof(struct seq *));
    en->order = mem_try_zero(o->max_num_seqs, sizeof(struct seq *));
    en->running = mem_try_zero(o->max_num_seqs, sizeof(struct seq *));
    en->inbox = mem_try_zero(o->queue_max, sizeof(struct seq *));
    en->scratch = mem_try_zero(threads, sizeof(*en->scratch));
    ok = ok && en->rows != NULL && en->head != NULL && en->planned != NULL && en->order != NULL &&
         en->running != NULL && en->inbox != NULL && en->scratch != NULL;
    for (uint32_t i = 0; ok && i < threads; i++)
        ok = scratch_init(&en->scratch[i], en->m->n_vocab) == 0;
    if (ok)
        ok = forward_init(&en->fwd, en->m, &en->w, &en->kv, en->pool, o->max_batched_tokens,
                          en->plan.logit_rows) == 0;
    if (ok)
        ok = find_eog(en) == 0;
    return ok ? 0
              : err_set(e, ERR_NOMEM,
                        "no memory for the work space of %u rows: lower --max-num-batched-tokens",
                        o->max_batched_tokens);
}

int engine_open(struct engine **out, const struct model *m, const struct tokenizer *tok,
                const struct engine_opts *o, engine_kv_event_fn *on_events, void *ectx,
                struct err *e)
{
    struct engine *en = mem_zalloc(sizeof(*en));
    pthread_condattr_t attr;
    int rc;

    *out = NULL;
    en->m = m;
    en->tok = tok;
    en->on_events = on_events;
    en->ectx = ectx;
    en->next_id = 1;
    en->w.fd = -1;
    pthread_mutex_init(&en->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&en->wake, &attr);
    pthread_condattr_destroy(&attr);
    rc = plan_make(&en->plan, m, o, e);
    if (rc != 0)
        goto out;
    en->pool = kern_pool_new(en->plan.o.threads);
    if (en->pool == NULL) {
        rc = err_set(e, ERR_NOMEM, "no memory for %u compute threads", en->plan.o.threads);
        goto out;
    }
    rc = weights_load(&en->w, m, o->weights_fd, en->pool, e);
    if (rc == 0)
        rc = make_room(en, e);
    if (rc != 0)
        goto out;
    gguf_release_tensors(m->gguf); /* packed: the file's pages need not stay resident */
    blockkey_root(str_of(en->plan.o.hash_seed), &en->root);
    make_fingerprint(en);
    en->now.last_progress_ns = clock_ns();
    en->now.blocks_total = en->kv.count[0];
    en->stats = en->now;
    if (pthread_create(&en->thread, NULL, engine_main, en) != 0)
        rc = err_set(e, ERR_NOMEM, "the engine's thread could not be started");
    en->thread_up = rc == 0;
out:
    if (rc == 0)
        *out = en;
    else
        engine_close(en);
    return rc;
}

void engine_close(struct engine *en)
{
    if (en == NULL)
        return;
    if (en->thread_up) {
        pthread_mutex_lock(&en->mu);
        en->closing = en->mail = true;
        pthread_cond_signal(&en->wake);
        pthread_mutex_unlock(&en->mu);
        pthread_join(en->thread, NULL);
    }
    for (uint32_t i = 0; en->scratch != NULL && i < kern_pool_threads(en->pool); i++)
        scratch_fini(&en->scratch[i]);
    forward_fini(&en->fwd);
    blocks_fini(&en->kv);
    weights_free(&en->w);
    if (en->pool != NULL)
        kern_pool_free(en->pool);
    map_fini(&en->ids);
    mem_free(en->scratch);
    mem_free(en->rows);
    mem_free(en->head);
    for (uint32_t g = 0; g < GROUPS; g++) {
        mem_free(en->attn[g]);
        mem_free(en->attn_want[g]);
    }
    mem_free(en->want);
    mem_free(en->planned);
    mem_free(en->order);
    mem_free(en->running);
    mem_free(en->inbox);
    mem_free(en->waiting);
    mem_free(en->parked);
    mem_free(en->done);
    mem_free(en->eog);
    pthread_cond_destroy(&en->wake);
    pthread_mutex_destroy(&en->mu);
    mem_free(en);
}
