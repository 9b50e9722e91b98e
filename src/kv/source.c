/* One worker's event stream.
 *
 *   live message --seq = last+1--> deliver: decode whole, apply, publish
 *        |  \--seq = last---> duplicate: dropped
 *        |  \--seq < last---> the worker restarted: clear
 *        `--gap--> without a replay socket: clear, go on from here
 *                  with one: live messages queue, the hole is asked for; what
 *                  cannot be had again costs the source its entries
 *
 * A connection that is lost clears at once: the worker may be gone, and if it
 * lives it is replayed or fills up again.  A batch that does not parse counts as
 * a gap whose content is unknown.
 *
 * Invariant: the queue is empty unless a replay is waiting or running. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/manager_priv.h"
#include "net/conn.h"
#include <inttypes.h>
#include <string.h>

#define DECODE_BYTES_MAX ((size_t)128 << 20) /* of memory for one batch of at most 8 MiB */
#define SEQ_END          UINT64_MAX          /* ends a replay */

static void clear_source(struct kv_source *s, const char *reason)
{
    if (s->has_endpoint)
        kv_index_clear(s->m->index, s->endpoint);
    metric_add(kv_metric(s->m, KM_RESYNC, reason), 1);
    kv_publish(s->m);
}

/* ---- messages ---- */

static bool get_be64(struct str s, uint64_t *out)
{
    uint64_t v = 0;

    if (s.n != 8)
        return false;
    for (size_t i = 0; i < 8; i++)
        v = v << 8 | (uint8_t)s.p[i];
    *out = v;
    return true;
}

/* The endpoint of the index that this source speaks for.  The flag decides over the topic
 * "kv@ADDRESS@MODEL": a worker cannot speak for another one. */
static bool settle_endpoint(struct kv_source *s, struct str topic)
{
    struct kv_manager *m = s->m;
    struct str rest = topic, head = str_cut(&rest, '@'), address = str_cut(&rest, '@'),
               model = rest;
    uint32_t before = kv_index_endpoint_count(m->index), id;

    (void)head;
    if (model.p == NULL) { /* not of three parts */
        address = topic;
        model = STR_NONE;
    }
    if (model.n == 0)
        model = str_of(m->model);
    if (s->address == NULL && address.n == 0)
        return false;
    if (s->address == NULL)
        s->address = str_dup(address);
    if (s->has_endpoint && str_eq(model, kv_index_model(m->index, s->endpoint)))
        return true;
    if (kv_index_endpoint(m->index, str_of(s->address), model, &id) != 0)
        return false;
    s->endpoint = id;
    s->has_endpoint = true;
    if (id >= before || model.n != 0)
        kv_publish_endpoint(m, id);
    return true;
}

static void count_skips(struct kv_manager *m, const struct kv_apply_stats *st)
{
    for (size_t i = 0; i < KV_SKIPS; i++) {
        const char *values[] = { "unknown", kv_skip_name((enum kv_skip)i) };

        if (st->store_skips[i] != 0)
            metric_add(metrics_cell(m->metrics, KM_STORES_SKIPPED, values), st->store_skips[i]);
        if (st->removal_skips[i] != 0)
            metric_add(metrics_cell(m->metrics, KM_REMOVALS_SKIPPED, values), st->removal_skips[i]);
    }
}

/* Decodes and applies one batch, whole or not at all. */
static bool apply(struct kv_source *s, struct str payload)
{
    struct kv_manager *m = s->m;
    struct kv_apply_stats st;
    struct kv_batch b;
    struct arena a;
    struct err e;
    bool ok;

    arena_init(&a, DECODE_BYTES_MAX);
    ok = kv_batch_decode(&a, payload, &b, &e) == 0;
    if (!ok) {
        LOG_WARN("kv events refused source=%s rc=%s: %s", s->name, err_name(e.code), e.msg);
    } else {
        for (uint32_t i = 0; i < b.count; i++)
            if (b.events[i].kind == KV_CLEARED)
                s->is_partial = false; /* from here on nothing is missing */
        kv_index_apply(m->index, s->endpoint, &b, &st);
        s->lag_s = b.ts > 0 ? clock_wall_s() - b.ts : 0;
        metric_add(m->cell[KM_ADMISSIONS], st.stored);
        metric_add(m->cell[KM_EVICTIONS], st.removed);
        metric_add(m->cell[KM_SUPPRESSED], st.suppressed);
        metric_add(m->cell[KM_FORWARDED], st.removed);
        metric_add(m->cell[KM_ORPHAN], st.orphans);
        if (st.skipped != 0)
            count_skips(m, &st);
        kv_publish(m);
    }
    arena_fini(&a);
    return ok;
}

/* The next message in order, or one that is taken as such. */
static void deliver(struct kv_source *s, uint64_t seq, struct str payload)
{
    s->has_seq = true;
    s->last_seq = seq;
    if (apply(s, payload))
        return;
    s->is_partial = true;
    clear_source(s, "parse");
}

/* ---- replay ---- */

static void enqueue(struct kv_source *s, uint64_t seq, struct str payload)
{
    struct kv_queued *q = NULL;

    if (s->queue_count < KV_QUEUE_COUNT_MAX && payload.n <= KV_QUEUE_BYTES_MAX - s->queue_bytes)
        q = mem_try(sizeof(*q) + payload.n);
    if (q == NULL) /* a hole that the next message will show */
        return;
    *q = (struct kv_queued) { .seq = seq, .bytes = payload.n };
    if (payload.n != 0)
        memcpy(q->p, payload.p, payload.n);
    *s->queue_tail = q;
    s->queue_tail = &q->next;
    s->queue_count++;
    s->queue_bytes += q->bytes;
}

static void pop(struct kv_source *s)
{
    struct kv_queued *q = s->queue;

    s->queue = q->next;
    if (s->queue == NULL)
        s->queue_tail = &s->queue;
    s->queue_count--;
    s->queue_bytes -= q->bytes;
    mem_free(q);
}

static void replay_off(struct kv_source *s)
{
    if (s->replay == KV_REPLAY_RUNNING)
        s->m->replays--;
    s->replay = KV_REPLAY_NONE;
}

static void replay_ask(struct kv_source *s, uint64_t now_ms)
{
    char seq[8];
    struct zmtp_msg m = { .count = 2 };

    if (s->replay == KV_REPLAY_WAITING && s->m->replays >= KV_REPLAYS_MAX)
        return;
    for (unsigned i = 0; i < 8; i++)
        seq[i] = (char)(s->replay_next >> (56 - 8 * i));
    m.frame[0] = STR("");
    m.frame[1] = (struct str) { seq, sizeof(seq) };
    if (!s->is_dealer_up || zmtp_client_send(s->dealer, &m) != 0)
        return; /* the tick counts the wait */
    if (s->replay == KV_REPLAY_WAITING)
        s->m->replays++;
    s->replay = KV_REPLAY_RUNNING;
    s->replay_at_ms = now_ms;
}

static void replay_from(struct kv_source *s, uint64_t seq)
{
    uint64_t now = loop_now_ms(s->m->loop);

    s->replay = KV_REPLAY_WAITING;
    s->replay_first = s->replay_next = seq;
    s->replay_at_ms = now;
    s->tries = 0;
    replay_ask(s, now);
}

static bool can_replay(const struct kv_source *s)
{
    return s->dealer != NULL && loop_now_ms(s->m->loop) >= s->cool_until_ms;
}

/* A hole in the sequence before message `seq`.  true: a replay was begun. */
static bool hole(struct kv_source *s, uint64_t seq)
{
    metric_add(s->m->cell[KM_GAP], 1);
    LOG_WARN("kv events missing source=%s from=%" PRIu64 " to=%" PRIu64, s->name, s->last_seq + 1,
             seq - 1);
    /* The same hole again means that the last replay brought nothing. */
    if (can_replay(s) && s->replay_first != s->last_seq + 1) {
        replay_from(s, s->last_seq + 1);
        return true;
    }
    s->is_partial = true;
    clear_source(s, "gap");
    return false;
}

/* Applies the queued messages; stops when a hole begins another replay. */
static void drain_queue(struct kv_source *s)
{
    while (s->queue != NULL) {
        struct kv_queued *q = s->queue;

        if (!s->has_seq || q->seq > s->last_seq) {
            if (s->has_seq && q->seq != s->last_seq + 1 && hole(s, q->seq))
                return;
            deliver(s, q->seq, (struct str) { q->p, q->bytes });
        }
        pop(s);
    }
}

static void replay_failed(struct kv_source *s)
{
    LOG_WARN("kv events replay failed source=%s next=%" PRIu64, s->name, s->replay_next);
    replay_off(s);
    s->cool_until_ms = loop_now_ms(s->m->loop) + KV_REPLAY_COOL_MS;
    s->is_partial = true;
    s->has_seq = false;
    clear_source(s, "replay_failed");
    drain_queue(s);
}

static void replay_end(struct kv_source *s)
{
    replay_off(s);
    if (!s->has_seq)
        s->is_partial = false; /* nothing was ever published */
    drain_queue(s);
}

/* A message of the replay. */
static void replay_message(struct kv_source *s, uint64_t seq, struct str payload)
{
    if (seq < s->replay_next)
        return;
    if (seq > s->replay_next) { /* the worker keeps no older ones */
        s->is_partial = true;
        if (s->has_seq)
            clear_source(s, "gap");
    } else if (seq == 0) {
        s->is_partial = false;
    }
    s->replay_next = seq + 1;
    s->replay_at_ms = loop_now_ms(s->m->loop);
    s->tries = 0;
    deliver(s, seq, payload);
}

static void on_replay(void *ctx, const struct zmtp_msg *m)
{
    struct kv_source *s = ctx;
    const struct str *f = m->frame;
    size_t n = m->count;
    uint64_t seq;

    if (s->replay != KV_REPLAY_RUNNING)
        return;
    if (n >= 3 && f[0].n == 0) { /* the empty delimiter; then perhaps the topic */
        f++;
        n--;
    }
    if (n == 3) {
        if (f[2].n != 0 && !settle_endpoint(s, f[0]))
            return;
        f++;
        n--;
    }
    if (n != 2 || !get_be64(f[0], &seq)) {
        metric_add(s->m->cell[KM_ZMQ_ERRORS], 1);
        return;
    }
    if (seq == SEQ_END || f[1].n == 0)
        replay_end(s);
    else if (s->has_endpoint)
        replay_message(s, seq, f[1]);
}

static void on_dealer_up(void *ctx)
{
    struct kv_source *s = ctx;

    s->is_dealer_up = true;
    if (s->replay != KV_REPLAY_NONE)
        replay_ask(s, loop_now_ms(s->m->loop));
}

static void on_dealer_down(void *ctx)
{
    struct kv_source *s = ctx;

    s->is_dealer_up = false;
}

void kv_source_tick(struct kv_source *s, uint64_t now_ms)
{
    if (s->replay == KV_REPLAY_NONE)
        return;
    if (s->replay == KV_REPLAY_WAITING && s->is_dealer_up) {
        if (s->m->replays >= KV_REPLAYS_MAX)
            s->replay_at_ms = now_ms; /* its turn will come */
        else
            replay_ask(s, now_ms);
        return;
    }
    if (now_ms - s->replay_at_ms < KV_REPLAY_IDLE_MS)
        return;
    if (++s->tries >= KV_REPLAY_TRIES) {
        replay_failed(s);
        return;
    }
    /* What it holds has been uncertain for too long: forget it, ask for everything. */
    if (s->replay_first != 0) {
        clear_source(s, "uncertain");
        s->has_seq = false;
        s->replay_first = s->replay_next = 0;
    }
    s->replay_at_ms = now_ms;
    replay_ask(s, now_ms);
}

/* ---- live ---- */

static void live(struct kv_source *s, uint64_t seq, struct str payload)
{
    if (!s->has_seq) {
        s->is_partial = s->is_partial || seq != 0; /* joined late */
    } else if (seq == s->last_seq) {
        metric_add(s->m->cell[KM_DUPLICATE], 1);
        return;
    } else if (seq < s->last_seq) {
        LOG_INFO("kv source restarted source=%s last=%" PRIu64 " now=%" PRIu64, s->name,
                 s->last_seq, seq);
        clear_source(s, "restart");
        s->has_seq = false;
        s->is_partial = seq != 0;
        if (seq != 0 && can_replay(s)) {
            replay_from(s, 0);
            enqueue(s, seq, payload);
            return;
        }
    } else if (seq != s->last_seq + 1 && hole(s, seq)) {
        enqueue(s, seq, payload);
        return;
    }
    deliver(s, seq, payload);
}

static void on_msg(void *ctx, const struct zmtp_msg *m)
{
    struct kv_source *s = ctx;
    uint64_t seq;

    if (m->count != 3 || !get_be64(m->frame[1], &seq) || seq == SEQ_END ||
        !settle_endpoint(s, m->frame[0])) {
        metric_add(s->m->cell[KM_ZMQ_ERRORS], 1);
        s->is_partial = true;
        clear_source(s, "parse");
        return;
    }
    s->messages++;
    if (s->cell_messages == NULL)
        s->cell_messages = kv_metric(s->m, KM_MESSAGES, s->address);
    metric_add(s->cell_messages, 1);
    if (s->replay != KV_REPLAY_NONE)
        enqueue(s, seq, m->frame[2]);
    else
        live(s, seq, m->frame[2]);
}

static void on_up(void *ctx)
{
    struct kv_source *s = ctx;

    LOG_INFO("kv source up source=%s address=%s", s->name,
             s->address != NULL ? s->address : "by-topic");
    if (s->was_up && s->address != NULL)
        metric_add(kv_metric(s->m, KM_RECONNECTS, s->address), 1);
    s->is_up = s->was_up = true;
    s->has_seq = false;
    s->is_partial = false;
    if (can_replay(s))
        replay_from(s, 0);
}

static void on_down(void *ctx)
{
    struct kv_source *s = ctx;

    if (!s->is_up)
        return;
    s->is_up = false;
    LOG_WARN("kv source lost source=%s address=%s", s->name,
             s->address != NULL ? s->address : "by-topic");
    replay_off(s);
    while (s->queue != NULL)
        pop(s);
    s->has_seq = false;
    s->is_partial = false;
    clear_source(s, "disconnect");
}

/* ---- set-up ---- */

int kv_source_parse(struct str text, struct kv_source_opts *out, struct err *e)
{
    static const char *const form =
        "NAME=HOST:PORT@EVENTS_HOST:EVENTS_PORT[@REPLAY_HOST:REPLAY_PORT]";
    struct str rest = text, *const part[] = { &out->address, &out->events, &out->replay };
    char host[256];
    uint16_t port;

    *out = (struct kv_source_opts) { .name = str_cut(&rest, '=') };
    if (out->name.n == 0 || rest.p == NULL)
        return err_set(e, ERR_INVAL, "--endpoint %.*s: must be %s", STR_ARG(text), form);
    for (size_t i = 0; i < COUNT(part) && rest.p != NULL; i++) {
        struct err why;

        *part[i] = str_cut(&rest, '@');
        if (i == 0 && part[i]->n == 0) {
            *part[i] = STR_NONE; /* the topic says it */
            continue;
        }
        if (addr_parse(*part[i], host, &port, &why) != 0)
            return err_set(e, ERR_INVAL, "--endpoint %.*s: %s", STR_ARG(text), why.msg);
        if (port == 0)
            return err_set(e, ERR_INVAL, "--endpoint %.*s: '%.*s' needs a port", STR_ARG(text),
                           STR_ARG(*part[i]));
    }
    if (out->events.n == 0 || rest.p != NULL)
        return err_set(e, ERR_INVAL, "--endpoint %.*s: must be %s", STR_ARG(text), form);
    return 0;
}

int kv_source_open(struct kv_source *s, const struct kv_source_opts *o, struct err *e)
{
    static const struct zmtp_client_ops live_ops = { on_up, on_down, on_msg };
    static const struct zmtp_client_ops replay_ops = { on_dealer_up, on_dealer_down, on_replay };
    char host[256];
    uint16_t port;
    int rc;

    s->name = str_dup(o->name);
    s->queue_tail = &s->queue;
    if (o->address.p != NULL) {
        s->address = str_dup(o->address);
        rc = kv_index_endpoint(s->m->index, o->address, str_of(s->m->model), &s->endpoint);
        if (rc != 0)
            return err_set(e, rc, "more than %d endpoints", KV_ENDPOINTS_MAX);
        s->has_endpoint = true;
        kv_publish_endpoint(s->m, s->endpoint);
    }
    rc = addr_parse(o->events, host, &port, e);
    if (rc == 0) /* every topic: the transport says who speaks, and the default topic is empty */
        rc = zmtp_client_open(s->m->loop, ZMTP_SUB, host, port, STR(""), &live_ops, s, &s->sub, e);
    if (rc == 0 && o->replay.p != NULL) {
        rc = addr_parse(o->replay, host, &port, e);
        if (rc == 0)
            rc = zmtp_client_open(s->m->loop, ZMTP_DEALER, host, port, STR(""), &replay_ops, s,
                                  &s->dealer, e);
    }
    return rc;
}

void kv_source_close(struct kv_source *s)
{
    zmtp_client_close(s->sub);
    zmtp_client_close(s->dealer);
    while (s->queue != NULL)
        pop(s);
    mem_free(s->name);
    mem_free(s->address);
    mem_free(s->spec);
    mem_free(s);
}
