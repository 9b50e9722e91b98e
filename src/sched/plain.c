/* Strategies that look at nothing but who is there: baselines to compare with, and a way out for an
 * operator who distrusts an estimate. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/sched.h"

static const char *const strategy_names[] = {
    [SCHED_COST] = "cost",
    [SCHED_CONFIGURED] = "config",
    [SCHED_ROUND_ROBIN] = "round_robin",
    [SCHED_RANDOM] = "random",
    [SCHED_LEAST_REQUESTS] = "least_requests",
};

const char *sched_strategy_name(enum sched_strategy s)
{
    return (size_t)s < COUNT(strategy_names) ? strategy_names[s] : "unknown";
}

bool sched_strategy_parse(struct str s, enum sched_strategy *out)
{
    for (size_t i = 0; i < COUNT(strategy_names); i++)
        if (str_eqz(s, strategy_names[i])) {
            *out = (enum sched_strategy)i;
            return true;
        }
    return false;
}

static bool fits(const struct sched_endpoint *e, const struct sched_request *r, uint32_t i,
                 bool prefill_too)
{
    return e->use == SCHED_USED && (r->excluded == NULL || !r->excluded[i]) &&
           (prefill_too || e->role != SCHED_PREFILL);
}

/* The nth of those that fit with at most so many in flight; returns how many there were. */
static uint32_t nth(const struct sched_endpoint *ep, uint32_t count, const struct sched_request *r,
                    bool prefill_too, uint32_t inflight_max, uint64_t n, uint32_t *out)
{
    uint32_t seen = 0;

    for (uint32_t i = 0; i < count && seen <= n; i++)
        if (fits(&ep[i], r, i, prefill_too) && ep[i].inflight <= inflight_max) {
            *out = i;
            seen++;
        }
    return seen;
}

static uint32_t least(const struct sched_endpoint *ep, uint32_t count,
                      const struct sched_request *r, bool prefill_too)
{
    uint32_t n = UINT32_MAX;

    for (uint32_t i = 0; i < count; i++)
        if (fits(&ep[i], r, i, prefill_too))
            n = MIN(n, ep[i].inflight);
    return n;
}

void sched_decide_plainly(enum sched_strategy s, const struct sched_endpoint *ep, uint32_t count,
                          const struct sched_request *r, uint64_t turn, struct sched_decision *out)
{
    bool prefill_too = false; /* a prefill worker decodes only while nobody else can */
    uint32_t at = SCHED_NONE, all, cached, most = UINT32_MAX;

    *out = (struct sched_decision) { .decode = SCHED_NONE,
                                     .prefill = SCHED_NONE,
                                     .why_not_split = sched_why_off };
    if (nth(ep, count, r, false, most, UINT64_MAX, &at) == 0)
        prefill_too = true;
    if (s == SCHED_LEAST_REQUESTS)
        most = least(ep, count, r, prefill_too);
    all = nth(ep, count, r, prefill_too, most, UINT64_MAX, &at);
    if (all == 0)
        return;
    (void)nth(ep, count, r, prefill_too, most, (s == SCHED_ROUND_ROBIN ? turn : r->random) % all,
              &at);
    out->decode = at;
    cached = r->matched == NULL || r->prompt_tokens == 0
                 ? 0
                 : MIN(r->matched[at] * r->block_tokens, r->prompt_tokens - 1);
    out->cost.cached_tokens = cached;
    out->book_tokens = r->prompt_tokens - cached;
}
