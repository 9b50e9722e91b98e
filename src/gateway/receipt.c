/* Receipts: what was decided for a request, why, and what came of it.
 *
 * The last RECEIPTS_MAX are kept in a ring, found by request id, as numbers and addresses: they
 * become text when somebody asks for one.  A receipt holds addresses, counts and milliseconds,
 * never text of the request. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include <string.h>

struct receipt_line { /* a candidate */
    const char *endpoint;
    enum sched_use use;
    uint32_t inflight;
    struct sched_cost cost;
};

struct receipt {
    const char *path, *why_not_split, *failure; /* static, or NULL */
    const char *decode, *prefill;               /* addresses; NULL: nobody */
    bool estimated, is_final, is_configured;
    uint32_t prompt_tokens, attempts, predicted_cached, line_count, left_out;
    int status;
    struct sched_cost cost;
    struct answer_usage usage;
    uint64_t start_ns, read_ns, dispatch_ns, first_ns, last_ns, now_ns;
    const struct receipt_line *line;
};

struct kept {
    char id[REQUEST_ID_MAX + 1];
    struct receipt *receipt; /* with its lines and their texts, in one piece */
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
        mem_free(rs->ring[i].receipt);
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

static void candidates(struct json_w *w, const struct receipt *r)
{
    json_w_karr(w, "candidates");
    for (uint32_t i = 0; i < r->line_count; i++) {
        const struct receipt_line *c = &r->line[i];

        json_w_obj(w);
        json_w_kz(w, "endpoint", c->endpoint);
        if (c->use != SCHED_USED)
            json_w_kz(w, "not_used", sched_use_name(c->use));
        if (r->is_configured)
            json_w_kf64(w, "score", c->cost.total_ms);
        else
            json_w_kf64(w, "cost_ms", tenths(c->cost.total_ms));
        json_w_kf64(w, "queue_ms", tenths(c->cost.queue_ms));
        json_w_kf64(w, "prefill_ms", tenths(c->cost.prefill_ms));
        json_w_kf64(w, "interference_ms", tenths(c->cost.interference_ms));
        json_w_ku64(w, "cached_tokens", c->cost.cached_tokens);
        json_w_ku64(w, "inflight", c->inflight);
        json_w_end(w, '}');
    }
    json_w_end(w, ']');
    if (r->left_out != 0)
        json_w_ku64(w, "candidates_left_out", r->left_out);
}

static void outcome(struct json_w *w, const struct receipt *r)
{
    json_w_ki64(w, "status", r->status);
    if (r->failure != NULL)
        json_w_kz(w, "failure", r->failure);
    if (r->usage.known) {
        json_w_ku64(w, "real_prompt_tokens", r->usage.prompt_tokens);
        json_w_ku64(w, "completion_tokens", r->usage.completion_tokens);
    }
    if (r->usage.cached_known)
        json_w_ku64(w, "real_cached_tokens", r->usage.cached_tokens);
    json_w_kobj(w, "phases");
    json_w_kf64(w, "first_byte_ms", ms_between(r->dispatch_ns, r->first_ns));
    json_w_kf64(w, "answer_ms", ms_between(r->first_ns, r->last_ns));
    json_w_kf64(w, "total_ms", ms_between(r->start_ns, r->now_ns));
    json_w_end(w, '}');
}

static void put_receipt(const struct receipt *r, const char *id, struct buf *out)
{
    struct json_w w;

    json_w_init(&w, out);
    json_w_obj(&w);
    json_w_kz(&w, "request_id", id);
    json_w_kz(&w, "path", r->path);
    json_w_ku64(&w, "prompt_tokens", r->prompt_tokens);
    json_w_kbool(&w, "estimated", r->estimated);
    json_w_ku64(&w, "attempts", r->attempts);
    if (r->decode != NULL) {
        json_w_kz(&w, "decode", r->decode);
        if (r->prefill != NULL)
            json_w_kz(&w, "prefill", r->prefill);
        else
            json_w_knull(&w, "prefill");
        if (r->why_not_split != NULL)
            json_w_kz(&w, "why_not_split", r->why_not_split);
        json_w_ku64(&w, "predicted_cached_tokens", r->predicted_cached);
        json_w_kf64(&w, "predicted_ms", tenths(r->cost.total_ms));
        json_w_kf64(&w, "transfer_ms", tenths(r->cost.transfer_ms));
    }
    json_w_kf64(&w, "read_ms", ms_between(r->start_ns, r->read_ns));
    json_w_kf64(&w, "decide_ms", ms_between(r->read_ns, r->dispatch_ns));
    if (r->is_final)
        outcome(&w, r);
    if (r->decode != NULL)
        candidates(&w, r);
    json_w_end(&w, '}');
}

/* Texts stay x's and its endpoints'. */
static void describe(const struct routing *x, bool final, struct receipt *r,
                     struct receipt_line line[CANDIDATES_SHOWN])
{
    for (uint32_t i = 0; i < x->candidate_count; i++) {
        const struct candidate *c = &x->candidate[i];

        line[i] = (struct receipt_line) { c->endpoint->address, c->use, c->inflight, c->cost };
    }
    *r = (struct receipt) { .path = x->path,
                            .why_not_split = x->decision.why_not_split,
                            .failure = x->failure,
                            .decode = x->sent_to,
                            .prefill = x->sent_prefill,
                            .estimated = x->reading.estimated,
                            .is_final = final,
                            .is_configured = x->strategy == SCHED_CONFIGURED,
                            .prompt_tokens = x->reading.prompt_tokens,
                            .attempts = x->attempts,
                            .predicted_cached = x->predicted_cached,
                            .line_count = x->candidate_count,
                            .left_out = x->candidates_left_out,
                            .status = x->answered,
                            .cost = x->decision.cost,
                            .usage = x->usage,
                            .start_ns = x->t_start,
                            .read_ns = x->t_read,
                            .dispatch_ns = x->t_dispatch,
                            .first_ns = x->t_first,
                            .last_ns = x->t_last,
                            .now_ns = clock_ns(),
                            .line = line };
}

void receipt_write(const struct routing *x, bool final, struct buf *out)
{
    struct receipt_line line[CANDIDATES_SHOWN];
    struct receipt r;

    describe(x, final, &r, line);
    put_receipt(&r, x->id, out);
}

/* ---- keeping them ---- */

static size_t room_of(const char *z)
{
    return z != NULL ? strlen(z) + 1 : 0;
}

static const char *put_text(char **at, const char *z)
{
    char *copy = *at;

    if (z == NULL)
        return NULL;
    memcpy(copy, z, strlen(z) + 1);
    *at += strlen(z) + 1;
    return copy;
}

static struct receipt *copy_of(const struct receipt *r)
{
    size_t bytes =
        sizeof(*r) + r->line_count * sizeof(*r->line) + room_of(r->decode) + room_of(r->prefill);
    struct receipt *copy;
    struct receipt_line *line;
    char *at;

    for (uint32_t i = 0; i < r->line_count; i++)
        bytes += room_of(r->line[i].endpoint);
    copy = mem_alloc(bytes);
    line = (void *)(copy + 1);
    at = (char *)(line + r->line_count);
    *copy = *r;
    copy->decode = put_text(&at, r->decode);
    copy->prefill = put_text(&at, r->prefill);
    copy->line = line;
    for (uint32_t i = 0; i < r->line_count; i++) {
        line[i] = r->line[i];
        line[i].endpoint = put_text(&at, r->line[i].endpoint);
    }
    return copy;
}

void receipts_keep(struct receipts *rs, const struct routing *x)
{
    struct receipt_line line[CANDIDATES_SHOWN];
    struct receipt r, *copy;
    struct kept *k;
    uint64_t at;

    describe(x, true, &r, line);
    copy = copy_of(&r);
    pthread_mutex_lock(&rs->lock);
    k = &rs->ring[rs->next];
    /* an id that a later request took over points elsewhere by now */
    if (k->receipt != NULL && map_gets(&rs->by_id, str_of(k->id), &at) && at == rs->next)
        (void)map_dels(&rs->by_id, str_of(k->id));
    mem_free(k->receipt);
    k->receipt = copy;
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
    found = map_gets(&rs->by_id, id, &at);
    if (found)
        put_receipt(rs->ring[at].receipt, rs->ring[at].id, out);
    pthread_mutex_unlock(&rs->lock);
    return found && !out->failed;
}
