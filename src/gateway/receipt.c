/* Receipts: what was decided for a request, why, and what came of it.
 *
 * The last RECEIPTS_MAX are kept as text in a ring, found by request id.  A receipt holds
 * addresses, counts and milliseconds, never text of the request. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include <string.h>

struct kept {
    char id[REQUEST_ID_MAX + 1];
    char *text;
    size_t bytes;
};

struct receipts {
    pthread_mutex_t lock;
    struct kept ring[RECEIPTS_MAX];
    size_t next;
    struct map by_id; /* keys point into ring[].id */
};

struct receipts *receipts_new(void)
{
    struct receipts *rs = mem_zalloc(sizeof(*rs));

    pthread_mutex_init(&rs->lock, NULL);
    return rs;
}

void receipts_free(struct receipts *rs)
{
    if (rs == NULL)
        return;
    for (size_t i = 0; i < RECEIPTS_MAX; i++)
        mem_free(rs->ring[i].text);
    map_fini(&rs->by_id);
    pthread_mutex_destroy(&rs->lock);
    mem_free(rs);
}

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    /* tenths of a millisecond are enough, and short */
    return from_ns != 0 && to_ns > from_ns ? (double)((to_ns - from_ns) / 100000) / 10 : 0;
}

static double tenths(double v)
{
    return (double)(int64_t)(MIN(v, 1e12) * 10 + 0.5) / 10;
}

static void candidates(struct json_w *w, const struct routing *x)
{
    json_w_karr(w, "candidates");
    for (uint32_t i = 0; i < x->candidate_count; i++) {
        const struct candidate *c = &x->candidate[i];

        json_w_obj(w);
        json_w_kz(w, "endpoint", c->endpoint->address);
        if (c->use != SCHED_USED)
            json_w_kz(w, "not_used", sched_use_name(c->use));
        json_w_kf64(w, "cost_ms", tenths(c->cost.total_ms));
        json_w_kf64(w, "queue_ms", tenths(c->cost.queue_ms));
        json_w_kf64(w, "prefill_ms", tenths(c->cost.prefill_ms));
        json_w_kf64(w, "interference_ms", tenths(c->cost.interference_ms));
        json_w_ku64(w, "cached_tokens", c->cost.cached_tokens);
        json_w_ku64(w, "inflight", c->inflight);
        json_w_end(w, '}');
    }
    json_w_end(w, ']');
    if (x->candidates_left_out != 0)
        json_w_ku64(w, "candidates_left_out", x->candidates_left_out);
}

static void outcome(struct json_w *w, const struct routing *x)
{
    json_w_ki64(w, "status", x->answered);
    if (x->failure != NULL)
        json_w_kz(w, "failure", x->failure);
    if (x->usage.known) {
        json_w_ku64(w, "real_prompt_tokens", x->usage.prompt_tokens);
        json_w_ku64(w, "completion_tokens", x->usage.completion_tokens);
    }
    if (x->usage.cached_known)
        json_w_ku64(w, "real_cached_tokens", x->usage.cached_tokens);
    json_w_kobj(w, "phases");
    json_w_kf64(w, "first_byte_ms", ms_between(x->t_dispatch, x->t_first));
    json_w_kf64(w, "answer_ms", ms_between(x->t_first, x->t_last));
    json_w_kf64(w, "total_ms", ms_between(x->t_start, clock_ns()));
    json_w_end(w, '}');
}

void receipt_write(const struct routing *x, bool final, struct buf *out)
{
    struct json_w w;

    json_w_init(&w, out);
    json_w_obj(&w);
    json_w_kstr(&w, "request_id", str_of(x->id));
    json_w_kz(&w, "path", x->path);
    json_w_ku64(&w, "prompt_tokens", x->reading.prompt_tokens);
    json_w_kbool(&w, "estimated", x->reading.estimated);
    json_w_ku64(&w, "attempts", x->attempts);
    if (x->sent_to != NULL) {
        json_w_kz(&w, "decode", x->sent_to);
        if (x->sent_prefill != NULL)
            json_w_kz(&w, "prefill", x->sent_prefill);
        else
            json_w_knull(&w, "prefill");
        if (x->decision.why_not_split != NULL)
            json_w_kz(&w, "why_not_split", x->decision.why_not_split);
        json_w_ku64(&w, "predicted_cached_tokens", x->predicted_cached);
        json_w_kf64(&w, "predicted_ms", tenths(x->decision.cost.total_ms));
        json_w_kf64(&w, "transfer_ms", tenths(x->decision.cost.transfer_ms));
    }
    json_w_kf64(&w, "read_ms", ms_between(x->t_start, x->t_read));
    json_w_kf64(&w, "decide_ms", ms_between(x->t_read, x->t_dispatch));
    if (final)
        outcome(&w, x);
    if (x->sent_to != NULL)
        candidates(&w, x);
    json_w_end(&w, '}');
}

void receipts_keep(struct receipts *rs, const struct routing *x)
{
    struct kept *k;
    struct buf b;
    uint64_t at;

    buf_init(&b, RECEIPT_BYTES_MAX * 2);
    receipt_write(x, true, &b);
    pthread_mutex_lock(&rs->lock);
    k = &rs->ring[rs->next];
    /* an id that a later request took over points elsewhere by now */
    if (k->text != NULL && map_gets(&rs->by_id, str_of(k->id), &at) && at == rs->next)
        (void)map_dels(&rs->by_id, str_of(k->id));
    mem_free(k->text);
    k->text = buf_take(&b, &k->bytes);
    memcpy(k->id, x->id, sizeof(k->id));
    /* the same id twice: the old entry's key must not stay, its text is borrowed from that slot */
    (void)map_dels(&rs->by_id, str_of(k->id));
    (void)map_puts(&rs->by_id, str_of(k->id), rs->next);
    rs->next = (rs->next + 1) % RECEIPTS_MAX;
    pthread_mutex_unlock(&rs->lock);
}

bool receipts_get(struct receipts *rs, struct str id, struct buf *out)
{
    uint64_t at;
    bool found;

    pthread_mutex_lock(&rs->lock);
    found = map_gets(&rs->by_id, id, &at) &&
            buf_str(out, (struct str) { rs->ring[at].text, rs->ring[at].bytes });
    pthread_mutex_unlock(&rs->lock);
    return found;
}
