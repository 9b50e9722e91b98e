/* The step: continuous batching.
 *
 *   admit   waiting -> running while blocks for the whole prompt can be had
 *   plan    one row for each decoding request, then prefill chunks: beside decodes only as many
 * rows as fit step_budget_ms by the learned time of a row, shared by all that wait for prefill run
 * all rows through all layers; the head only for rows that are sampled settle  complete blocks to
 * the prefix cache, tokens to their owners, ends
 *
 * When blocks run out the newest request gives its own back and is computed
 * again later (mostly from the prefix cache, into which its complete blocks
 * went).  A hold_kv request keeps its prompt's complete blocks even then:
 * somebody may be reading them, and at most half of the pool is held that way. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_priv.h"
#include <string.h>

#define MS_PER_ROW_FIRST 1.0 /* before anything was measured */
#define LEARN_ROWS_MIN   16  /* smaller steps say little about the time of a row */
#define ALONE_BUDGETS                                                                              \
    4 /* a step without decodes lasts that many budgets: newcomers and cancels wait for it */
#define ALONE_ROWS_MIN 128 /* fewer rows would waste the kernels */

/* a runs before b */
static bool runs_before(const struct seq *a, const struct seq *b)
{
    return a->rq.priority != b->rq.priority ? a->rq.priority < b->rq.priority : a->id < b->id;
}

static void insert_sorted(struct seq **list, uint32_t *count, struct seq *s)
{
    uint32_t i = (*count)++;

    for (; i > 0 && runs_before(s, list[i - 1]); i--)
        list[i] = list[i - 1];
    list[i] = s;
}

static bool list_remove(struct seq **list, uint32_t *count, const struct seq *s)
{
    for (uint32_t i = 0; i < *count; i++)
        if (list[i] == s) {
            memmove(list + i, list + i + 1, (--*count - i) * sizeof(*list));
            return true;
        }
    return false;
}

void batch_wait_add(struct engine *en, struct seq *s)
{
    if (en->waiting_count == en->waiting_cap) {
        en->waiting_cap = en->waiting_cap * 2 + 64;
        en->waiting = mem_realloc(en->waiting, en->waiting_cap * sizeof(*en->waiting));
    }
    insert_sorted(en->waiting, &en->waiting_count, s);
}

static void set_state(struct engine *en, struct seq *s, enum seq_state state)
{
    pthread_mutex_lock(&en->mu);
    s->state = state;
    pthread_mutex_unlock(&en->mu);
}

/* ---- ends ---- */

void batch_end(struct engine *en, struct seq *s, enum engine_finish reason, int64_t stop_id, int rc)
{
    uint64_t now = clock_ns();
    struct engine_result *r = &s->result;
    bool lease = s->rq.hold_kv && (reason == ENGINE_STOP || reason == ENGINE_LENGTH);

    if (!list_remove(en->running, &en->running_count, s))
        (void)list_remove(en->waiting, &en->waiting_count, s);
    s->planned = 0;
    *r = (struct engine_result) {
        .reason = reason,
        .stop_id = stop_id,
        .rc = rc,
        .prompt_tokens = s->prompt_count,
        .output_tokens = s->output_count,
        .cached_tokens = s->cached_tokens,
        .imported_tokens = s->imported_tokens,
    };
    if (s->computed >= s->prompt_count) /* what an abort cut short was not computed */
        r->computed_tokens = s->prompt_count - s->cached_tokens - s->imported_tokens;
    else if (s->computed > s->cached_tokens + s->imported_tokens)
        r->computed_tokens = s->computed - s->cached_tokens - s->imported_tokens;
    r->queue_s = (double)((s->was_admitted ? s->admitted_ns : now) - s->submitted_ns) * 1e-9;
    if (s->was_admitted)
        r->prefill_s =
            (double)((s->first_token_ns != 0 ? s->first_token_ns : now) - s->admitted_ns) * 1e-9;
    if (s->first_token_ns != 0)
        r->decode_s = (double)(now - s->first_token_ns) * 1e-9;
    s->parked = kvio_park(en, s, lease);
    if (en->done_count == en->done_cap) {
        en->done_cap = en->done_cap * 2 + 16;
        en->done = mem_realloc(en->done, en->done_cap * sizeof(*en->done));
    }
    en->done[en->done_count++] = s;
}

static void flush_events(struct engine *en)
{
    struct blocks *kv = &en->kv;
    struct engine_kv_event *ev;

    if (kv->ev_count == 0)
        return;
    ev = mem_alloc(kv->ev_count * sizeof(*ev));
    for (size_t i = 0; i < kv->ev_count; i++) {
        const struct kv_pending *p = &kv->ev[i];

        ev[i] = (struct engine_kv_event) {
            .kind = p->kind,
            .keys = kv->ev_key + p->key_at,
            .key_count = p->key_count,
            .parent = p->has_parent ? &p->parent : NULL,
            .tokens = p->kind == ENGINE_KV_STORED ? kv->ev_token + p->token_at : NULL,
            .block_tokens = kv->tokens,
            .salt = { p->salt, p->salt_n },
        };
    }
    en->on_events(en->ectx, ev, (uint32_t)kv->ev_count);
    mem_free(ev);
    blocks_events_reset(kv);
}

/* I-count: every block in use belongs to a live request or a lease. */
static void check_blocks(const struct engine *en)
{
#ifndef NDEBUG
    uint64_t refs = 0, held = 0;

    for (uint32_t i = 0; i < en->kv.count[0]; i++)
        refs += en->kv.block[i].refs[0];
    for (uint32_t i = 0; i < en->running_count; i++)
        held += en->running[i]->table_count;
    for (uint32_t i = 0; i < en->waiting_count; i++)
        held += en->waiting[i]->table_count;
    for (uint32_t i = 0; i < en->parked_count; i++)
        held += en->parked[i]->table_count;
    ASSERT(refs == held);
#else
    (void)en;
#endif
}

void batch_flush(struct engine *en)
{
    struct engine_stats *n = &en->now;

    check_blocks(en);
    n->running = en->running_count;
    n->waiting = en->waiting_count;
    n->blocks_total = en->kv.count[0];
    n->blocks_in_use = en->kv.in_use;
    n->blocks_cached = blocks_cached(&en->kv);
    n->blocks_leased = n->imports_pending = 0;
    for (uint32_t i = 0; i < en->parked_count; i++)
        n->blocks_leased += en->parked[i]->table_count;
    for (uint32_t i = 0; i < en->waiting_count; i++)
        n->imports_pending += en->waiting[i]->state == SEQ_IMPORTING;
    pthread_mutex_lock(&en->mu);
    en->stats = *n;
    pthread_mutex_unlock(&en->mu);
    flush_events(en);
    for (uint32_t i = 0; i < en->done_count; i++) {
        struct seq *s = en->done[i];

        s->rq.on_done(s->rq.ctx, s->id, &s->result);
        if (s->parked)
            continue;
        pthread_mutex_lock(&en->mu);
        (void)map_del(&en->ids, s->id);
        pthread_mutex_unlock(&en->mu);
        seq_free(s);
    }
    en->done_count = 0;
}

/* ---- admission and room ---- */

static bool room_for(const struct engine *en, const struct seq *s)
{
    uint32_t T = en->kv.tokens, part; /* the next token included, as far as the context goes */
    uint32_t all = (MIN(s->count + 1, en->plan.o.max_model_len) + T - 1) / T;
    uint32_t need = all - MIN(all, s->table_count);

    if (need > blocks_available(&en->kv, 0))
        return false;
    if (en->kv.groups == 1)
        return true;
    part = (en->m->groups[1].window + en->plan.o.max_batched_tokens) / T + 2;
    return MIN(need, part) <= blocks_available(&en->kv, 1);
}

static bool admit_one(struct engine *en, struct seq *s)
{
    bool fresh = s->table_count == 0;
    uint32_t hits = fresh ? seq_take_prefix(en, s) : 0;

    if (!room_for(en, s)) {
        if (fresh)
            seq_release(en, s, 0);
        return false;
    }
    if (!s->was_admitted) {
        s->was_admitted = true;
        s->admitted_ns = clock_ns();
        if (fresh)
            s->cached_tokens = MIN(hits * en->kv.tokens, s->computed);
        en->now.prefix_query_tokens += s->prompt_count;
        en->now.prefix_hit_tokens += s->cached_tokens;
    }
    (void)list_remove(en->waiting, &en->waiting_count, s);
    set_state(en, s, SEQ_RUNNING);
    insert_sorted(en->running, &en->running_count, s);
    kvio_ready(en, s);
    return true;
}

static void admit(struct engine *en)
{
    for (uint32_t i = 0; i < en->waiting_count && en->running_count < en->plan.o.max_num_seqs;) {
        struct seq *s = en->waiting[i];

        if (s->state != SEQ_WAITING)
            i++;
        else if (!admit_one(en, s)) {
            if (en->running_count != 0)
                break; /* in order: a long one is not overtaken for ever by short ones */
            i++;       /* leases alone keep it out: others may use the time */
        }
    }
}

static void preempt(struct engine *en, struct seq *s)
{
    seq_release(en, s, s->rq.hold_kv ? MIN(s->published, s->prompt_blocks) : 0);
    s->planned = 0;
    (void)list_remove(en->running, &en->running_count, s);
    set_state(en, s, SEQ_WAITING);
    batch_wait_add(en, s);
    en->now.preemptions++;
}

static struct seq *victim(const struct engine *en)
{
    for (uint32_t i = en->running_count; i-- > 0;)
        if (!en->running[i]->rq.hold_kv)
            return en->running[i];
    return en->running_count != 0 ? en->running[en->running_count - 1] : NULL;
}

/* Blocks up to `end`, at the cost of the newest others; false: s itself had to go. */
static bool make_room(struct engine *en, struct seq *s, uint32_t end)
{
    while (!seq_ensure(en, s, end)) {
        struct seq *v = victim(en);

        preempt(en, v);
        if (v == s)
            return false;
    }
    return true;
}

/* ---- plan ---- */

static uint32_t prefill_limit(const struct engine *en, uint32_t decodes)
{
    uint32_t left = en->plan.o.max_batched_tokens - decodes;
    double ms = en->ms_per_row > 0 ? en->ms_per_row : MS_PER_ROW_FIRST;
    double rows = (double)en->plan.o.step_budget_ms / ms;

    if (decodes == 0)
        rows = rows * ALONE_BUDGETS > ALONE_ROWS_MIN ? rows * ALONE_BUDGETS : ALONE_ROWS_MIN;
    else if (rows < en->kv.tokens)
        rows = en->kv.tokens;
    return rows < left ? (uint32_t)rows : left;
}

static void plan_seq(struct engine *en, struct seq *s, uint32_t n)
{
    if (n == 0 || !make_room(en, s, s->computed + s->planned + n))
        return;
    if (s->planned == 0)
        en->planned[en->planned_count++] = s;
    s->planned += n;
}

static void plan(struct engine *en)
{
    uint32_t count = en->running_count, decodes = 0, pending = 0, limit, share;
    struct seq **order = en->order;

    memcpy(order, en->running, count * sizeof(*order)); /* preemption changes the list below us */
    en->planned_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct seq *s = order[i];

        if (s->state != SEQ_RUNNING)
            continue;
        if (s->count - s->computed > 1) {
            pending++;
            continue;
        }
        if (decodes < en->plan.o.max_batched_tokens)
            plan_seq(en, s, 1);
        decodes += s->planned;
    }
    limit = prefill_limit(en, decodes);
    share = pending != 0 ? MAX(limit / pending, en->kv.tokens) : 0;
    for (int pass = 0; pass < 2; pass++) /* a fair share each, then the rest in order */
        for (uint32_t i = 0; i < count && limit != 0 && pending != 0; i++) {
            struct seq *s = order[i];
            uint32_t left = s->count - s->computed, had = s->planned, n;

            if (s->state != SEQ_RUNNING || left <= 1)
                continue;
            n = MIN(MIN(left - had, limit), pass == 0 ? share : limit);
            plan_seq(en, s, n);
            if (s->planned > had)
                limit -= s->planned - had;
        }
}

/* ---- rows ---- */

static struct kern_attn_seq attn_seq(const struct engine *en, const struct seq *s, uint32_t g,
                                     uint32_t pos, uint32_t count, uint32_t row)
{
    return (struct kern_attn_seq) {
        .table = s->table[g] + (g != 0 ? s->first_part : 0),
        .first_pos = g != 0 ? s->first_part * en->kv.tokens : 0,
        .q_start = pos,
        .q_count = count,
        .q_row = row,
    };
}

static uint32_t build_rows(struct engine *en)
{
    uint32_t T = en->kv.tokens, rows = 0, n = 0;

    for (uint32_t i = 0; i < en->planned_count; i++) {
        struct seq *s = en->planned[i];

        if (s->planned == 0) /* preempted after it was planned */
            continue;
        en->planned[n] = s;
        s->plan_row = rows;
        for (uint32_t g = 0; g < en->kv.groups; g++)
            en->attn[g][n] = attn_seq(en, s, g, s->computed, s->planned, rows);
        for (uint32_t j = 0; j < s->planned; j++) {
            uint32_t pos = s->computed + j, b = pos / T;
            bool there = b < s->published;

            en->rows[rows++] = (struct fwd_row) {
                .token = s->tokens[pos],
                .pos = pos,
                .place = { there ? BLOCK_NONE : s->table[0][b],
                           there ? BLOCK_NONE : s->table[1][b] },
            };
        }
        n++;
    }
    en->planned_count = n;
    return rows;
}

/* The logits after position `pos` are wanted. */
static void head_add(struct engine *en, struct seq *s, uint32_t pos, bool is_prompt)
{
    uint32_t i = en->head_count++;
    struct head_row *h = &en->head[i];

    h->s = s;
    h->is_prompt = is_prompt;
    h->index = pos + 1;
    h->token = 0;
    en->want[i] = s->plan_row + pos - s->computed;
    for (uint32_t g = 0; g < en->kv.groups; g++)
        en->attn_want[g][i] = attn_seq(en, s, g, pos, 1, i);
}

/* Which rows need logits. */
static void build_head(struct engine *en)
{
    en->head_count = 0;
    for (uint32_t i = 0; i < en->planned_count; i++) {
        struct seq *s = en->planned[i];
        uint32_t end = s->computed + s->planned;

        if (s->plp != NULL)
            for (uint32_t pos = MAX(s->computed, s->plp_done);
                 pos < end && pos + 1 < s->prompt_count; pos++)
                head_add(en, s, pos, true);
        if (end == s->count && s->rq.sampling.max_tokens != 0)
            head_add(en, s, end - 1, false);
    }
}

struct head_job {
    struct engine *en;
    uint32_t first;
};

static void head_one(void *ctx, uint32_t i, uint32_t thread)
{
    const struct head_job *j = ctx;
    struct engine *en = j->en;
    struct head_row *h = &en->head[j->first + i];
    float *logits = en->fwd.logits + (size_t)i * en->m->n_vocab;
    struct seq *s = h->s;

    if (h->is_prompt)
        sample_logprob(logits, en->m->n_vocab, s->tokens[h->index], s->rq.sampling.prompt_logprobs,
                       &s->plp[h->index]);
    else
        h->token = sampler_pick(&s->sampler, logits, en->m->n_vocab, s->output_count, en->eog,
                                en->eog_count, &en->scratch[thread],
                                s->rq.sampling.logprobs >= 0 ? &h->lp : NULL);
}

static void run_head(struct engine *en)
{
    for (uint32_t at = 0; at < en->head_count;) {
        uint32_t n = MIN(en->head_count - at, en->fwd.logit_rows);
        struct head_job j = { en, at };

        forward_logits(&en->fwd, at, n);
        if (n == 1)
            head_one(&j, 0, 0);
        else
            kern_pool_run(en->pool, n, head_one, &j);
        at += n;
    }
}

/* ---- after the step ---- */

static bool is_eog(const struct engine *en, uint32_t token)
{
    for (uint32_t i = 0; i < en->eog_count; i++)
        if (en->eog[i] == token)
            return true;
    return false;
}

static void take_token(struct engine *en, struct seq *s, uint32_t token,
                       const struct engine_logprob *lp)
{
    const struct engine_sampling *p = &s->sampler.p;

    if (s->first_token_ns == 0)
        s->first_token_ns = clock_ns();
    s->tokens[s->count++] = token;
    s->output_count++;
    en->now.output_tokens++;
    s->rq.on_token(s->rq.ctx, s->id, token, p->logprobs >= 0 ? lp : NULL);
    if (!sampler_accept(&s->sampler, token)) {
        batch_end(en, s, ENGINE_ERROR, -1, ERR_NOMEM);
        return;
    }
    if (!p->ignore_eos && is_eog(en, token)) {
        batch_end(en, s, ENGINE_STOP, -1, 0);
        return;
    }
    for (uint32_t i = 0; i < p->stop_id_count; i++)
        if (p->stop_ids[i] == token) {
            batch_end(en, s, ENGINE_STOP, (int64_t)token, 0);
            return;
        }
    if (s->output_count >= p->max_tokens || s->count >= en->plan.o.max_model_len)
        batch_end(en, s, ENGINE_LENGTH, -1, 0);
}

static void settle(struct engine *en, struct seq *s)
{
    s->computed += s->planned;
    s->planned = 0;
    seq_publish(en, s, MAX(s->published, s->computed / en->kv.tokens));
    seq_slide(en, s);
    kvio_ready(en, s);
    if (s->computed >= s->prompt_count && !s->prompt_counted) {
        s->prompt_counted = true;
        en->now.prompt_tokens += s->prompt_count;
    }
    if (s->plp != NULL && s->plp_done < s->prompt_count && s->computed > s->plp_done) {
        s->plp_done = MIN(s->computed, s->prompt_count);
        if (s->plp_done == s->prompt_count && s->rq.on_prompt_logprobs != NULL)
            s->rq.on_prompt_logprobs(s->rq.ctx, s->id, s->plp, s->prompt_count);
    }
    if (s->computed == s->count && s->rq.sampling.max_tokens == 0)
        batch_end(en, s, ENGINE_LENGTH, -1, 0);
}

static void learn(struct engine *en, uint32_t rows, uint64_t ns)
{
    double ms = (double)ns * 1e-6 / rows;

    if (rows < LEARN_ROWS_MIN)
        return;
    en->ms_per_row = en->ms_per_row > 0 ? en->ms_per_row * 0.8 + ms * 0.2 : ms;
}

bool batch_step(struct engine *en)
{
    uint64_t start = clock_ns(), end;
    uint32_t rows;

    admit(en);
    plan(en);
    rows = build_rows(en);
    if (rows == 0)
        return false;
    build_head(en);
    forward_run(&en->fwd, &(struct fwd_step) { .row = en->rows,
                                               .rows = rows,
                                               .seq = { en->attn[0], en->attn[1] },
                                               .seq_count = en->planned_count,
                                               .want = en->want,
                                               .want_seq = { en->attn_want[0], en->attn_want[1] },
                                               .want_count = en->head_count });
    if (en->head_count != 0)
        run_head(en);
    for (uint32_t i = 0; i < en->planned_count; i++)
        settle(en, en->planned[i]);
    for (uint32_t i = 0; i < en->head_count; i++)
        if (!en->head[i].is_prompt)
            take_token(en, en->head[i].s, en->head[i].token, &en->head[i].lp);
    end = clock_ns();
    learn(en, rows, end - start);
    en->now.steps++;
    en->now.step_s_total += (double)(end - start) * 1e-9;
    en->now.last_progress_ns = end;
    return true;
}
