/* Where a request goes, and the books kept of it.
 *
 * A booking is made before dispatch, so that requests that arrive together see one another:
 *
 *   decided       decode: inflight + 1; whoever computes the prompt: its tokens (sched.h:
 * book_tokens) first byte    the tokens are taken back; decode: decoding + 1; prefill: inflight - 1
 *   end           what is left is taken back
 *
 * Invariant: the sums over live exchanges equal the endpoints' counters (checked in tests by their
 * return to zero). */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include <string.h>

#define MS(ns) ((double)(ns)*1e-6)

static bool was_tried(const struct routing *x, const struct endpoint *ep)
{
    for (uint32_t i = 0; i < x->tried_count; i++)
        if (x->tried[i] == ep)
            return true;
    return false;
}

/* Whether a proxy in front allows the endpoint: it names addresses, ports do not count. */
static bool in_subset(const struct routing *x, const struct endpoint *ep)
{
    if (!x->has_subset)
        return true;
    for (size_t i = 0; i < x->subset_count; i++) {
        struct str one = x->subset[i], host = str_of(ep->host);

        if (one.n > 0 && one.p[0] == '[') /* [v6]:port */
            one = str_sub(one, 1, SIZE_MAX);
        if (str_starts(one, host) &&
            (one.n == host.n || one.p[host.n] == ':' || one.p[host.n] == ']'))
            return true;
    }
    return false;
}

void route_tried(struct routing *x, const struct endpoint *ep)
{
    if (!was_tried(x, ep) && x->tried_count < ATTEMPTS_MAX)
        x->tried[x->tried_count++] = ep;
}

static void endpoint_enter(struct endpoint *ep)
{
    ep->inflight++;
    ep->inflight_peak = MAX(ep->inflight_peak, ep->inflight);
}

static void book(struct routing *x)
{
    struct gateway *g = x->g;
    const struct sched_decision *d = &x->decision;
    struct endpoint *computes;
    uint32_t prompt = x->reading.prompt_tokens;

    x->decode = g->endpoints[d->decode];
    x->prefill = d->prefill != SCHED_NONE ? g->endpoints[d->prefill] : NULL;
    computes = x->prefill != NULL ? x->prefill : x->decode;
    x->predicted_cached = d->cost.cached_tokens;
    x->uncached_tokens = prompt - MIN(prompt, d->cost.cached_tokens);
    x->booked_tokens = d->book_tokens;
    x->queued_tokens = computes->prefill_tokens;
    computes->prefill_tokens += x->booked_tokens;
    x->prefill_booked = true;
    x->alone = x->decode->inflight == 0;
    x->booking = ++x->decode->bookings;
    endpoint_enter(x->decode);
    if (x->prefill != NULL)
        endpoint_enter(x->prefill);
    metric_set(x->decode->m_inflight, x->decode->inflight);
    metric_add(x->decode->m_requests, 1);
    endpoint_dispatched(x->decode);
    prefix_note(g->prefix, x->decode, &x->reading);
    if (x->prefill != NULL)
        prefix_note(g->prefix, x->prefill, &x->reading);
}

static void prompt_computed(struct routing *x)
{
    struct endpoint *computes = x->prefill != NULL ? x->prefill : x->decode;

    if (!x->prefill_booked)
        return;
    x->prefill_booked = false;
    computes->prefill_tokens -= x->booked_tokens;
    /* shares of tokens are no whole numbers: what rounding leaves must not pile up */
    if (computes->prefill_tokens < 1e-6)
        computes->prefill_tokens = 0;
    if (x->prefill != NULL)
        x->prefill->inflight--;
}

static void count_decision(struct routing *x)
{
    struct gateway *g = x->g;
    bool split = x->decision.prefill != SCHED_NONE;

    if (split)
        metric_add(gateway_cell(g, M_L_SPLIT, NULL, NULL), 1);
    else
        metric_add(gateway_cell(g, M_L_NOT_SPLIT, x->decision.why_not_split, NULL), 1);
    metric_add(x->strategy == SCHED_CONFIGURED ? g->m_configured[split] : g->m_decision[split], 1);
    metric_add(g->m_older_decision[split], 1);
    metric_add(g->m_strategy[x->strategy], 1);
    if (x->reading.prompt_tokens != 0)
        metric_observe(g->m_prefix, (double)x->predicted_cached / x->reading.prompt_tokens);
}

/* The chosen ones first, then others in their order, so that a receipt keeps its size in large
 * fleets. */
static void keep_candidates(struct routing *x)
{
    struct gateway *g = x->g;
    const struct sched_decision *d = &x->decision;

    x->candidate_count = 0;
    for (unsigned pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < g->endpoint_count && x->candidate_count < CANDIDATES_SHOWN; i++) {
            bool chosen = i == d->decode || i == d->prefill;

            if (chosen != (pass == 0))
                continue;
            x->candidate[x->candidate_count++] = (struct candidate) {
                .endpoint = g->endpoints[i],
                .inflight = g->snap[i].inflight,
                .use = g->excluded[i] ? SCHED_EXCLUDED : g->snap[i].use,
                .cost = g->costs[i],
            };
        }
    x->candidates_left_out = g->endpoint_count - x->candidate_count;
}

static bool decide(struct routing *x)
{
    struct gateway *g = x->g;
    struct sched_request r = {
        .prompt_tokens = x->reading.prompt_tokens,
        .block_tokens = g->block_tokens,
        .max_tokens = x->reading.max_tokens,
        .matched = g->matched,
        .excluded = g->excluded,
        .random = rng_u64(&x->f->rng),
        .no_split = g->no_split || x->kind == ROUTE_OTHER,
        .id = str_of(x->id),
        .model = x->reading.model,
        .target_model = routing_model(x),
        .fairness_id = str_of(x->fairness_id),
        .priority = x->priority,
        .body_bytes = x->body_bytes,
        .held = x->held,
        .keys = x->reading.keys,
        .key_count = x->reading.key_count,
    };
    uint64_t t0 = clock_ns();
    uint32_t best = 0;
    double took_s;

    x->decision = (struct sched_decision) { .decode = SCHED_NONE, .prefill = SCHED_NONE };
    endpoints_snapshot(g, routing_model(x), g->snap);
    memset(g->costs, 0, g->endpoint_count * sizeof(*g->costs));
    prefix_match(g->prefix, &x->reading, g->matched, g->snap);
    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        g->excluded[i] = was_tried(x, g->endpoints[i]) || !in_subset(x, g->endpoints[i]);
        if (g->snap[i].use == SCHED_USED)
            best = MAX(best, g->matched[i]);
    }
    r.sharers = prefix_sharers(g->prefix, &x->reading, best);
    x->refused_status = 0;
    x->to_worker_count = x->to_client_count = x->other_count = 0;
    x->port = 0;
    if (x->strategy == SCHED_CONFIGURED)
        (void)policy_decide(x, &r);
    else if (x->strategy == SCHED_COST)
        sched_decide(&g->conf, g->snap, g->endpoint_count, &r, &x->decision, g->costs);
    else
        sched_decide_plainly(x->strategy, g->snap, g->endpoint_count, &r, g->turn++, &x->decision);
    took_s = (double)(clock_ns() - t0) * 1e-9;
    metric_observe(g->m_decide, took_s);
    metric_observe(g->m_older_decide, took_s);
    if (x->refused_status != 0 || x->decision.decode == SCHED_NONE)
        return false;
    keep_candidates(x);
    book(x);
    count_decision(x);
    if (!x->entered) {
        prefix_enter(g->prefix, &x->reading);
        x->entered = true;
    }
    return true;
}

bool route_decide(struct routing *x)
{
    bool found;

    gateway_lock(x->g);
    found = decide(x);
    gateway_unlock(x->g);
    return found;
}

void route_first_byte(struct routing *x)
{
    if (x->decode_booked)
        return;
    gateway_lock(x->g);
    prompt_computed(x);
    x->decode_booked = true;
    x->decode->decoding++;
    gateway_unlock(x->g);
}

void route_release(struct routing *x)
{
    if (x->decode == NULL)
        return;
    gateway_lock(x->g);
    prompt_computed(x);
    if (x->decode_booked)
        x->decode->decoding--;
    x->decode_booked = false;
    x->decode->inflight--;
    x->decode->on_probe = false;
    metric_set(x->decode->m_inflight, x->decode->inflight);
    gateway_unlock(x->g);
    x->decode = NULL;
    x->prefill = NULL;
}

void route_leave(struct routing *x)
{
    if (!x->entered)
        return;
    gateway_lock(x->g);
    prefix_leave(x->g->prefix, &x->reading);
    gateway_unlock(x->g);
    x->entered = false;
}

static void learn(struct endpoint *ep, const struct sched_sample *s)
{
    sched_learn(&ep->learner, &ep->g->conf, s);
    ep->g->rates_changed = true;
    ep->learned_ms = ep->g->learned_ms = clock_ms();
    metric_set(ep->m_prefill, ep->learner.prefill_ms_per_token * 1e-3);
    metric_set(ep->m_decode, ep->learner.decode_ms_per_token * 1e-3);
}

static void learn_from(struct routing *x)
{
    struct sched_sample s = { .uncached_tokens = x->uncached_tokens,
                              .queued_tokens = x->queued_tokens };
    struct sched_sample only = { 0 };
    uint32_t events = x->seen.events;

    if (x->decode == NULL || x->t_last == 0)
        return;
    if (x->usage.known && x->usage.cached_known)
        s.uncached_tokens =
            x->usage.prompt_tokens - MIN(x->usage.cached_tokens, x->usage.prompt_tokens);
    if (!x->streaming) {
        /* only its end was seen: what it says holds if nothing ran beside it */
        if (x->alone && x->decode->bookings == x->booking && x->usage.known && x->prefill == NULL) {
            s.whole_ms = MS(x->t_last - x->t_dispatch);
            s.decode_tokens = x->usage.completion_tokens - MIN(x->usage.completion_tokens, 1u);
        }
    } else if (x->t_first != 0) {
        s.ttft_ms = MS(x->t_first - x->t_dispatch);
        s.decode_ms = MS(x->t_last - x->t_first);
        s.decode_tokens = x->usage.known ? x->usage.completion_tokens : events;
        s.decode_tokens -= MIN(s.decode_tokens, 1u);
        s.streams = events != 0 ? x->streams_sum / events : 0;
    }
    if (x->prefill == NULL) {
        learn(x->decode, &s);
        return;
    }
    only.ttft_ms = s.ttft_ms;
    only.uncached_tokens =
        x->uncached_tokens; /* what the decode side calls cached was computed there */
    only.queued_tokens = s.queued_tokens;
    learn(x->prefill, &only);
    s.ttft_ms = 0;
    learn(x->decode, &s);
}

void route_learn(struct routing *x)
{
    gateway_lock(x->g);
    learn_from(x);
    gateway_unlock(x->g);
}

void route_settle(struct routing *x, struct admit_ticket *t)
{
    const struct answer_usage *u = &x->usage;
    double prompt = x->uncached_tokens, answer = x->seen.events;

    if (u->known) {
        answer = u->completion_tokens;
        if (u->cached_known)
            prompt = u->prompt_tokens - MIN(u->cached_tokens, u->prompt_tokens);
    }
    admit_settle(t, prompt, answer);
}
