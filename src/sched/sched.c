/* The decision.
 *
 * A request costs an endpoint that does all of it
 *
 *   queue         prompt tokens in front of it, slots that must come free, foreign waiting requests
 *   prefill       prompt tokens that the endpoint does not hold
 *   interference  what it loses to the streams beside it, and what those lose to its prefill
 *
 * and a pair that splits it
 *
 *   queue + prefill + interference of prefill at P,  hand-over of what D does not hold,
 *   queue for a slot + interference of decode at D.
 *
 * The pair's cost is a sum of a term of P and a term of D, so the best pair is the best P with the
 * best D (or the second best where both would be one): O(endpoints), never O(endpoints squared).
 *
 * A prompt whose prefix is held elsewhere pays for recomputing it.  That is an investment when more
 * requests share the prefix than one endpoint's part of all: the k beyond that find it here.  So
 * the recomputed part counts 1 / (1 + k), in the cost and in the books, which spreads a hot prefix
 * over equal endpoints, while others stay where they are held.
 *
 * Where the cache is full, a second copy pushes out as much of what others will ask for: that is
 * computed again, and both computations keep others waiting.  So the recomputed part costs
 * evict_factor times more there.  Without it a fleet whose caches hold every prefix once comes to
 * hold some twice and others never: each miss makes a queue, and each queue a further copy. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/sched.h"
#include "base/check.h"
#include <string.h>

#define FOREIGN_TOKENS 256.0 /* assumed prompt of a waiting request that is not ours */

static const char WHY_SHORT[] = "short";
static const char WHY_CACHED[] = "mostly_cached";
static const char WHY_ALONE[] = "no_prefill_endpoint";
static const char WHY_COST[] = "aggregated_is_cheaper";
static const char WHY_OFF[] = "off";
const char *const sched_why_off = WHY_OFF;
static const char WHY_NOBODY[] = "no_endpoint";

const char *const sched_why_not_split[] = { WHY_SHORT, WHY_CACHED, WHY_ALONE, WHY_COST,
                                            WHY_OFF,   WHY_NOBODY, NULL };

static const char *const use_names[] = {
    [SCHED_USED] = "used",
    [SCHED_UNREACHABLE] = "unreachable",
    [SCHED_STALE] = "stale",
    [SCHED_FROZEN] = "frozen",
    [SCHED_LOADING] = "loading",
    [SCHED_DRAINING] = "draining",
    [SCHED_OTHER_MODEL] = "other_model",
    [SCHED_EXCLUDED] = "excluded",
    [SCHED_CIRCUIT_OPEN] = "circuit_open",
};

const char *sched_use_name(enum sched_use u)
{
    return (size_t)u < COUNT(use_names) ? use_names[u] : "unknown";
}

static const char *const role_names[] = {
    [SCHED_BOTH] = "both",
    [SCHED_PREFILL] = "prefill",
    [SCHED_DECODE] = "decode",
};

const char *sched_role_name(enum sched_role r)
{
    return (size_t)r < COUNT(role_names) ? role_names[r] : "unknown";
}

bool sched_role_parse(struct str s, enum sched_role *out)
{
    for (size_t i = 0; i < COUNT(role_names); i++)
        if (str_eqz(s, role_names[i])) {
            *out = (enum sched_role)i;
            return true;
        }
    return false;
}

bool sched_role_of(const struct sched_label *label, uint32_t count, enum sched_role *out)
{
    bool given = false;

    *out = SCHED_BOTH;
    for (uint32_t i = 0; i < count; i++) {
        struct str v = label[i].value;

        if (!str_eqz(label[i].key, "llm-d.ai/role"))
            continue;
        given = true;
        if (str_eqz(v, "prefill") || str_eqz(v, "encode-prefill"))
            *out = SCHED_PREFILL;
        else if (str_eqz(v, "decode"))
            *out = SCHED_DECODE;
    }
    return given;
}

void sched_conf_default(struct sched_conf *c)
{
    *c = (struct sched_conf) {
        .default_prefill_ms_per_token = 2,
        .default_decode_ms_per_token = 20,
        .transfer_ms_per_token = 0.02,
        .split_fixed_ms = 10,
        .split_min_tokens = 128,
        .split_cached_fraction = 0.75,
        .tie_fraction = 0.03,
        .decode_interference = 0.3,
        .decode_batch_slope = 0.3,
        .decode_tokens_default = 128,
        .decode_tokens_max = 512,
        .role_fraction = 0.5,
        .role_fixed_ms = 500,
        .kv_full = 0.9,
        .evict_factor = 3,
    };
}

static double prefill_rate(const struct sched_conf *c, const struct sched_endpoint *e)
{
    return e->prefill_ms_per_token > 0 ? e->prefill_ms_per_token : c->default_prefill_ms_per_token;
}

static double batch_slope(const struct sched_conf *c, const struct sched_endpoint *e)
{
    return e->decode_batch_slope > 0 ? e->decode_batch_slope : c->decode_batch_slope;
}

static double decode_rate(const struct sched_conf *c, const struct sched_endpoint *e)
{
    return e->decode_ms_per_token > 0 ? e->decode_ms_per_token : c->default_decode_ms_per_token;
}

/* Requests on the endpoint that did not come from us, by the last scrape.  The scrape lags behind
 * our own accounting, so only the excess counts. */
static double foreign(const struct sched_endpoint *e)
{
    return MAX(0.0, e->waiting + e->running - (double)e->inflight);
}

/* Every unfinished request there is a stream, or will be one while this request decodes. */
static double streams(const struct sched_endpoint *e)
{
    return (double)e->inflight + foreign(e);
}

static uint32_t cached_at(const struct sched_request *r, uint32_t i)
{
    uint64_t tokens = r->matched == NULL ? 0 : (uint64_t)r->matched[i] * r->block_tokens;

    /* the last token is always computed: its logits are the answer's first token */
    if (r->prompt_tokens == 0)
        return 0;
    return (uint32_t)MIN(tokens, (uint64_t)r->prompt_tokens - 1);
}

static uint32_t decode_tokens(const struct sched_conf *c, const struct sched_request *r)
{
    return r->max_tokens == 0 ? c->decode_tokens_default : MIN(r->max_tokens, c->decode_tokens_max);
}

static bool usable(const struct sched_endpoint *e, const struct sched_request *r, uint32_t i)
{
    return e->use == SCHED_USED && (r->excluded == NULL || !r->excluded[i]);
}

/* Prompt tokens in front. */
static double prompt_queue(const struct sched_conf *c, const struct sched_endpoint *e)
{
    double tokens =
        e->inflight_prefill_tokens + MIN(foreign(e), MAX(0.0, e->waiting)) * FOREIGN_TOKENS;

    return tokens * prefill_rate(c, e);
}

/* A slot, and room for the prompt's KV: each comes free about as often as an answer ends. */
static double slot_queue(const struct sched_conf *c, const struct sched_endpoint *e,
                         const struct sched_request *r)
{
    double answer_ms = decode_tokens(c, r) * decode_rate(c, e), over = 0;

    if (e->slots != 0 && streams(e) >= e->slots)
        over = (streams(e) - e->slots + 1) / e->slots;
    if (e->kv_usage >= c->kv_full && streams(e) > 0)
        over = MAX(over, 1.0);
    return over * answer_ms;
}

/* What the candidates have at best: the most cached tokens, the fastest decoding; and whether
 * somebody whose work it is has room to decode. */
struct field {
    uint32_t cached;
    double decode_rate, streams; /* streams: the mean */
    bool has_decoder;
};

static bool is_full(const struct sched_conf *c, const struct sched_endpoint *e)
{
    return e->kv_usage >= c->kv_full || (e->slots != 0 && streams(e) >= e->slots);
}

/* A role is a preference, and this is how far it goes: a prefill worker decodes only while every
 * worker that should is full or gone.  Learned rates are too noisy to decide that by cost. */
static bool may_decode(const struct sched_endpoint *e, const struct field *f)
{
    return e->role != SCHED_PREFILL || !f->has_decoder;
}

/* Of so many tokens that would be cached, those that push others out. */
static double evicting(const struct sched_endpoint *e, double tokens)
{
    double room = (double)e->cache_blocks * e->cache_block_tokens - e->cache_used_tokens;

    return e->cache_blocks == 0 ? 0 : MIN(tokens, MAX(0.0, tokens - room));
}

struct terms {
    double prefill_tokens, prefill_ms, prefill_interference_ms, decode_interference_ms;
    uint32_t cached;
};

static struct terms terms_of(const struct sched_conf *c, const struct sched_endpoint *e,
                             const struct sched_request *r, uint32_t i, const struct field *f)
{
    struct terms t = { .cached = cached_at(r, i) };
    double rate = prefill_rate(c, e), others = streams(e);
    double nowhere = r->prompt_tokens - MAX(f->cached, t.cached);
    double elsewhere = f->cached > t.cached ? f->cached - t.cached : 0;
    double worth = r->sharers > f->streams ? 1.0 + r->sharers : 1;

    t.prefill_tokens = nowhere + elsewhere / worth;
    t.prefill_ms = rate * t.prefill_tokens;
    t.prefill_interference_ms = t.prefill_ms * c->decode_interference * others +
                                rate * evicting(e, elsewhere) / worth * c->evict_factor;
    /* Also what a slower decoder takes beyond the fastest one with nobody beside it.  The rest of
     * the decoding is the same everywhere; counting it would only blur near ties. */
    t.decode_interference_ms =
        decode_tokens(c, r) * (decode_rate(c, e) * batch_slope(c, e) * others +
                               MAX(0.0, decode_rate(c, e) - f->decode_rate));
    return t;
}

/* A prefill worker that decodes keeps others' prompts waiting for as long as the answer takes. */
static double role_decode_ms(const struct sched_conf *c, const struct sched_endpoint *e,
                             const struct sched_request *r)
{
    if (e->role != SCHED_PREFILL)
        return 0;
    return decode_tokens(c, r) * decode_rate(c, e) * c->role_fraction + c->role_fixed_ms;
}

static struct sched_cost whole_cost(const struct sched_conf *c, const struct sched_endpoint *e,
                                    const struct sched_request *r, const struct terms *t)
{
    struct sched_cost k = { .cached_tokens = t->cached };

    k.queue_ms = prompt_queue(c, e) + slot_queue(c, e, r);
    k.prefill_ms = t->prefill_ms;
    k.interference_ms =
        t->prefill_interference_ms + t->decode_interference_ms + role_decode_ms(c, e, r);
    if (e->role == SCHED_DECODE)
        k.interference_ms += t->prefill_ms * c->role_fraction;
    k.total_ms = k.queue_ms + k.prefill_ms + k.interference_ms;
    return k;
}

/* Keeps one of the near-least at random without a list: the first pass finds the least, the second
 * counts those within the tie and takes the (random mod count)-th. */
struct pick {
    double least;
    uint32_t ties, take, index;
};

static void pick_offer(struct pick *p, double cost)
{
    if (p->index == SCHED_NONE || cost < p->least) {
        p->least = cost;
        p->index = 0;
    }
}

static double tie_limit(const struct sched_conf *c, const struct pick *p)
{
    return p->least + p->least * c->tie_fraction + 0.5;
}

/* The prefill side's term of a pair. */
static double pair_prefill(const struct sched_conf *c, const struct sched_endpoint *e,
                           const struct terms *t)
{
    double k = prompt_queue(c, e) + t->prefill_ms + t->prefill_interference_ms;

    return e->role == SCHED_DECODE ? k + t->prefill_ms * c->role_fraction : k;
}

/* The decode side's term of a pair. */
static double pair_decode(const struct sched_conf *c, const struct sched_endpoint *e,
                          const struct sched_request *r, const struct terms *t)
{
    double k = slot_queue(c, e, r) + t->decode_interference_ms +
               (r->prompt_tokens - t->cached) * c->transfer_ms_per_token;

    /* own prompts that run there delay the first decode step */
    return k + prompt_queue(c, e) * c->decode_interference + role_decode_ms(c, e, r);
}

static bool may_decode_pair(const struct sched_conf *c, const struct sched_request *r,
                            const struct terms *t)
{
    return r->prompt_tokens - t->cached >= c->split_min_tokens &&
           t->cached <= c->split_cached_fraction * r->prompt_tokens;
}

struct pair {
    uint32_t prefill, decode;
    double prefill_ms, decode_ms; /* their terms */
};

struct two { /* the best and the second best of one side */
    uint32_t index[2];
    double ms[2];
};

static void two_offer(struct two *w, uint32_t i, double ms)
{
    if (w->index[0] == SCHED_NONE || ms < w->ms[0]) {
        w->index[1] = w->index[0];
        w->ms[1] = w->ms[0];
        w->index[0] = i;
        w->ms[0] = ms;
    } else if (w->index[1] == SCHED_NONE || ms < w->ms[1]) {
        w->index[1] = i;
        w->ms[1] = ms;
    }
}

static bool pair_of(const struct two *p, const struct two *d, struct pair *out)
{
    bool found = false;

    for (unsigned i = 0; i < 2; i++)
        for (unsigned j = 0; j < 2; j++) {
            if (p->index[i] == SCHED_NONE || d->index[j] == SCHED_NONE ||
                p->index[i] == d->index[j])
                continue;
            if (!found || p->ms[i] + d->ms[j] < out->prefill_ms + out->decode_ms)
                *out = (struct pair) { p->index[i], d->index[j], p->ms[i], d->ms[j] };
            found = true;
        }
    return found;
}

/* Starting anywhere in the list makes equals win equally often. */
static uint32_t rotated(uint32_t i, uint32_t count, uint64_t random)
{
    return (uint32_t)((i + random % count) % count);
}

/* The cheapest pair.  *why says why there is none. */
static bool best_pair(const struct sched_conf *c, const struct sched_endpoint *ep, uint32_t count,
                      const struct sched_request *r, const struct field *f, struct pair *out,
                      const char **why)
{
    struct two p = { { SCHED_NONE, SCHED_NONE }, { 0, 0 } }, d = p;

    *why = r->prompt_tokens < c->split_min_tokens ? WHY_SHORT : WHY_ALONE;
    if (r->no_split) {
        *why = WHY_OFF;
        return false;
    }
    for (uint32_t n = 0; n < count; n++) {
        uint32_t i = rotated(n, count, r->random >> 16);
        const struct sched_endpoint *e = &ep[i];
        struct terms t;

        if (!usable(e, r, i) || !e->kvx_capable)
            continue;
        t = terms_of(c, e, r, i, f);
        if (e->role != SCHED_DECODE)
            two_offer(&p, i, pair_prefill(c, e, &t));
        if (may_decode_pair(c, r, &t) && may_decode(e, f))
            two_offer(&d, i, pair_decode(c, e, r, &t));
    }
    return pair_of(&p, &d, out);
}

static uint32_t pick_whole(const struct sched_conf *c, const struct sched_endpoint *ep,
                           uint32_t count, const struct sched_request *r, const struct field *f,
                           struct sched_cost *costs, struct sched_cost *cost)
{
    struct pick p = { .index = SCHED_NONE };
    uint32_t nth;

    for (uint32_t i = 0; i < count; i++) {
        struct terms t = terms_of(c, &ep[i], r, i, f);
        struct sched_cost k = whole_cost(c, &ep[i], r, &t);

        if (costs != NULL)
            costs[i] = k;
        if (usable(&ep[i], r, i) && may_decode(&ep[i], f))
            pick_offer(&p, k.total_ms);
    }
    if (p.index == SCHED_NONE)
        return SCHED_NONE;
    for (unsigned pass = 0; pass < 2; pass++) {
        nth = 0;
        for (uint32_t i = 0; i < count; i++) {
            struct terms t;
            struct sched_cost k;

            if (!usable(&ep[i], r, i) || !may_decode(&ep[i], f))
                continue;
            t = terms_of(c, &ep[i], r, i, f);
            k = whole_cost(c, &ep[i], r, &t);
            if (k.total_ms > tie_limit(c, &p))
                continue;
            if (pass == 1 && nth == p.take) {
                *cost = k;
                return i;
            }
            nth++;
        }
        p.ties = nth;
        p.take = (uint32_t)(r->random % MAX(p.ties, 1u));
    }
    return SCHED_NONE;
}

/* Why the endpoint that would do all of it is not worth a split, seen from that endpoint. */
static const char *why_whole(const struct sched_conf *c, const struct sched_request *r,
                             const struct sched_cost *k)
{
    if (r->prompt_tokens < c->split_min_tokens)
        return WHY_SHORT;
    if (k->cached_tokens > c->split_cached_fraction * r->prompt_tokens)
        return WHY_CACHED;
    if (r->prompt_tokens - k->cached_tokens < c->split_min_tokens)
        return WHY_SHORT;
    return WHY_COST;
}

/* The parts of a pair's cost, as told to the reader of a receipt. */
static struct sched_cost pair_cost(const struct sched_conf *c, const struct sched_endpoint *ep,
                                   const struct sched_request *r, const struct field *f,
                                   const struct pair *p)
{
    struct terms tp = terms_of(c, &ep[p->prefill], r, p->prefill, f);
    struct terms td = terms_of(c, &ep[p->decode], r, p->decode, f);
    struct sched_cost k = { .cached_tokens = tp.cached, .prefill_ms = tp.prefill_ms };
    double moved_ms = (r->prompt_tokens - td.cached) * c->transfer_ms_per_token;

    k.queue_ms = prompt_queue(c, &ep[p->prefill]);
    k.transfer_ms = moved_ms + c->split_fixed_ms;
    k.total_ms = p->prefill_ms + p->decode_ms + c->split_fixed_ms;
    k.interference_ms = k.total_ms - k.queue_ms - k.prefill_ms - k.transfer_ms;
    return k;
}

static struct field field_of(const struct sched_conf *c, const struct sched_endpoint *ep,
                             uint32_t count, const struct sched_request *r)
{
    struct field f = { 0, 0, 0, false };
    bool first = true;
    uint32_t n = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!usable(&ep[i], r, i))
            continue;
        f.has_decoder |= ep[i].role != SCHED_PREFILL && !is_full(c, &ep[i]);
        f.streams += streams(&ep[i]);
        n++;
    }
    f.streams /= MAX(n, 1u);
    for (uint32_t i = 0; i < count; i++) {
        if (!usable(&ep[i], r, i))
            continue;
        f.cached = MAX(f.cached, cached_at(r, i));
        if (!may_decode(&ep[i], &f))
            continue;
        f.decode_rate = first ? decode_rate(c, &ep[i]) : MIN(f.decode_rate, decode_rate(c, &ep[i]));
        first = false;
    }
    return f;
}

void sched_decide(const struct sched_conf *c, const struct sched_endpoint *ep, uint32_t count,
                  const struct sched_request *r, struct sched_decision *out,
                  struct sched_cost *costs)
{
    struct field f = field_of(c, ep, count, r);
    struct pair pair = { SCHED_NONE, SCHED_NONE, 0, 0 };
    const char *why = NULL, *whole;
    struct terms t;

    *out = (struct sched_decision) { .decode = SCHED_NONE,
                                     .prefill = SCHED_NONE,
                                     .why_not_split = WHY_NOBODY };
    out->decode = pick_whole(c, ep, count, r, &f, costs, &out->cost);
    if (out->decode == SCHED_NONE)
        return;
    t = terms_of(c, &ep[out->decode], r, out->decode, &f);
    out->book_tokens = t.prefill_tokens;
    whole = why_whole(c, r, &out->cost);
    if (!best_pair(c, ep, count, r, &f, &pair, &why)) {
        out->why_not_split = why == WHY_ALONE && whole != WHY_COST ? whole : why;
        return;
    }
    if (pair.prefill_ms + pair.decode_ms + c->split_fixed_ms >= out->cost.total_ms) {
        out->why_not_split = whole;
        return;
    }
    out->decode = pair.decode;
    out->prefill = pair.prefill;
    out->why_not_split = NULL;
    out->cost = pair_cost(c, ep, r, &f, &pair);
    t = terms_of(c, &ep[pair.prefill], r, pair.prefill, &f);
    out->book_tokens = t.prefill_tokens;
}
