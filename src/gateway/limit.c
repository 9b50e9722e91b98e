/* Token buckets by tenant.
 *
 * A level is in unit-milliseconds, 60,000 to a unit: a rate of R a minute refills R * elapsed_ms,
 * exactly, and nothing is lost to rounding however often it is asked.
 *
 * A tenant that is full again and runs nothing is indistinguishable from a new one: it is dropped
 * when room is needed.
 *
 * Invariant: running > 0 or a ticket outstanding => the tenant stays in the table. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/limit.h"
#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#define MINUTE_MS 60000
#define RATE_MAX  ((uint64_t)1 << 40) /* keeps products within 63 bits */

struct bucket {
    int64_t level; /* unit-milliseconds; below 0: more was used than reserved */
    uint64_t rate; /* units a minute; 0: not limited */
    uint64_t at_ms;
};

struct limit_tenant {
    struct str name; /* follows the struct */
    struct bucket requests, tokens;
    uint64_t running;
};

struct limiter {
    pthread_mutex_t lock; /* guards the table and all in it */
    struct map tenants;   /* name -> struct limit_tenant */
};

static int64_t full(const struct bucket *b)
{
    return (int64_t)(b->rate * MINUTE_MS);
}

static void refill(struct bucket *b, uint64_t rate, uint64_t now_ms)
{
    uint64_t elapsed = now_ms > b->at_ms ? now_ms - b->at_ms : 0;
    bool fresh = b->rate == 0;

    rate = MIN(rate, RATE_MAX);
    b->at_ms = MAX(now_ms, b->at_ms);
    b->level += (int64_t)(b->rate * MIN(elapsed, (uint64_t)2 * MINUTE_MS));
    b->rate = rate;
    b->level = fresh ? full(b) : MIN(b->level, full(b));
}

static uint64_t units(const struct bucket *b)
{
    return b->level > 0 ? (uint64_t)b->level / MINUTE_MS : 0;
}

/* Milliseconds until the bucket holds `level`. */
static uint64_t wait_for(const struct bucket *b, int64_t level)
{
    if (b->rate == 0 || b->level >= level)
        return 0;
    return ((uint64_t)(level - b->level) + b->rate - 1) / b->rate;
}

static bool at_rest(const struct limit_tenant *t, uint64_t now_ms)
{
    struct bucket r = t->requests, k = t->tokens;

    refill(&r, r.rate, now_ms);
    refill(&k, k.rate, now_ms);
    return t->running == 0 && r.level >= full(&r) && k.level >= full(&k);
}

struct limiter *limiter_new(void)
{
    struct limiter *l = mem_zalloc(sizeof(*l));

    pthread_mutex_init(&l->lock, NULL);
    return l;
}

void limiter_free(struct limiter *l)
{
    if (l == NULL)
        return;
    for (size_t i = map_next(&l->tenants, 0); i < l->tenants.cap; i = map_next(&l->tenants, i + 1))
        mem_free((void *)(uintptr_t)l->tenants.slot[i].value);
    map_fini(&l->tenants);
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}

size_t limiter_tenants(struct limiter *l)
{
    size_t n;

    pthread_mutex_lock(&l->lock);
    n = l->tenants.count;
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* The table is rebuilt without those at rest: removing while walking would move the others. */
static void sweep(struct limiter *l, uint64_t now_ms)
{
    struct map kept = { 0 };

    for (size_t i = map_next(&l->tenants, 0); i < l->tenants.cap;
         i = map_next(&l->tenants, i + 1)) {
        struct limit_tenant *t = (void *)(uintptr_t)l->tenants.slot[i].value;

        if (at_rest(t, now_ms)) {
            mem_free(t);
        } else if (!map_puts(&kept, t->name, (uintptr_t)t)) {
            ASSERT(t->running == 0); /* never with fewer entries than before */
            mem_free(t);
        }
    }
    map_fini(&l->tenants);
    l->tenants = kept;
}

static struct limit_tenant *tenant_of(struct limiter *l, struct str name, uint64_t now_ms)
{
    struct limit_tenant *t;
    uint64_t v;
    char *copy;

    if (map_gets(&l->tenants, name, &v))
        return (void *)(uintptr_t)v;
    if (l->tenants.count >= LIMIT_TENANTS_MAX)
        sweep(l, now_ms);
    if (l->tenants.count >= LIMIT_TENANTS_MAX)
        return NULL;
    t = mem_try_zero(1, sizeof(*t) + name.n);
    if (t == NULL)
        return NULL;
    copy = (char *)(t + 1);
    for (size_t i = 0; i < name.n; i++)
        copy[i] = name.p[i];
    t->name = (struct str) { copy, name.n };
    if (!map_puts(&l->tenants, t->name, (uintptr_t)t)) {
        mem_free(t);
        return NULL;
    }
    return t;
}

static void state_fill(const struct limit_tenant *t, const struct limit_rates *rates,
                       struct limit_state *s)
{
    s->rates = *rates;
    s->requests_left = units(&t->requests);
    s->tokens_left = units(&t->tokens);
    s->requests_reset_ms = wait_for(&t->requests, full(&t->requests));
    s->tokens_reset_ms = wait_for(&t->tokens, full(&t->tokens));
}

static void admit(struct limit_tenant *t, const struct limit_rates *rates, uint64_t tokens,
                  uint64_t now_ms, struct limit_ticket *ticket, struct limit_state *state)
{
    int64_t need;
    uint64_t a, b;

    refill(&t->requests, rates->requests_per_minute, now_ms);
    refill(&t->tokens, rates->tokens_per_minute, now_ms);
    tokens = t->tokens.rate == 0 ? 0 : MIN(tokens, t->tokens.rate);
    need = (int64_t)(tokens * MINUTE_MS);
    a = wait_for(&t->requests, MINUTE_MS);
    b = wait_for(&t->tokens, need);
    if (a != 0 || b != 0) {
        state->refused_by = a >= b ? LIMIT_REQUESTS : LIMIT_TOKENS;
        state->retry_ms = MAX(a, b);
    } else if (rates->concurrent != 0 && t->running >= rates->concurrent) {
        state->refused_by = LIMIT_CONCURRENT;
        state->retry_ms = 1000; /* when one of them ends; nobody knows */
    } else {
        if (t->requests.rate != 0)
            t->requests.level -= MINUTE_MS;
        t->tokens.level -= need;
        t->running++;
        *ticket = (struct limit_ticket) { t, tokens };
    }
    state_fill(t, rates, state);
}

int limit_admit(struct limiter *l, struct str tenant, const struct limit_rates *rates,
                uint64_t tokens, uint64_t now_ms, struct limit_ticket *ticket,
                struct limit_state *state)
{
    struct limit_tenant *t;

    *ticket = (struct limit_ticket) { 0 };
    *state = (struct limit_state) { 0 };
    pthread_mutex_lock(&l->lock);
    t = tenant_of(l, tenant, now_ms);
    if (t != NULL) {
        admit(t, rates, tokens, now_ms, ticket, state);
    } else {
        state->refused_by = LIMIT_TENANTS;
        state->retry_ms = 1000;
    }
    pthread_mutex_unlock(&l->lock);
    return state->refused_by == LIMIT_NONE ? 0 : ERR_LIMIT;
}

void limit_settle(struct limiter *l, struct limit_ticket *ticket, uint64_t used, uint64_t now_ms)
{
    struct limit_tenant *t = ticket->tenant;
    struct bucket *b;

    if (t == NULL)
        return;
    pthread_mutex_lock(&l->lock);
    ASSERT(t->running != 0);
    t->running--;
    b = &t->tokens;
    refill(b, b->rate, now_ms);
    if (b->rate != 0) {
        /* A minute's debt at most: a mistaken count must not lock a tenant out for hours. */
        used = MIN(used, ticket->tokens + b->rate);
        b->level += ((int64_t)ticket->tokens - (int64_t)used) * MINUTE_MS;
        b->level = MAX(MIN(b->level, full(b)), -full(b));
    }
    pthread_mutex_unlock(&l->lock);
    *ticket = (struct limit_ticket) { 0 };
}

/* ---- headers ---- */

/* "850ms", "1.5s", "6m0s": as OpenAI's clients read it. */
static struct str duration(struct arena *a, uint64_t ms)
{
    char text[40];
    int n;

    if (ms < 1000)
        n = snprintf(text, sizeof(text), "%" PRIu64 "ms", ms);
    else if (ms < 60000 && ms % 1000 != 0)
        n = snprintf(text, sizeof(text), "%" PRIu64 ".%03" PRIu64 "s", ms / 1000, ms % 1000);
    else if (ms < 60000)
        n = snprintf(text, sizeof(text), "%" PRIu64 "s", ms / 1000);
    else
        n = snprintf(text, sizeof(text), "%" PRIu64 "m%" PRIu64 "s", ms / 60000, ms / 1000 % 60);
    return arena_str(a, (struct str) { text, (size_t)n });
}

static struct str number(struct arena *a, uint64_t v)
{
    char text[24];
    int n = snprintf(text, sizeof(text), "%" PRIu64, v);

    return arena_str(a, (struct str) { text, (size_t)n });
}

size_t limit_headers(const struct limit_state *s, struct arena *a,
                     struct http_header out[LIMIT_HEADERS_MAX])
{
    size_t n = 0;

#define ADD(text, v)                                                                               \
    out[n++] = (struct http_header)                                                                \
    {                                                                                              \
        STR(text), (v)                                                                             \
    }
    if (s->rates.requests_per_minute != 0) {
        ADD("x-ratelimit-limit-requests", number(a, s->rates.requests_per_minute));
        ADD("x-ratelimit-remaining-requests", number(a, s->requests_left));
        ADD("x-ratelimit-reset-requests", duration(a, s->requests_reset_ms));
    }
    if (s->rates.tokens_per_minute != 0) {
        ADD("x-ratelimit-limit-tokens", number(a, s->rates.tokens_per_minute));
        ADD("x-ratelimit-remaining-tokens", number(a, s->tokens_left));
        ADD("x-ratelimit-reset-tokens", duration(a, s->tokens_reset_ms));
    }
    if (s->refused_by != LIMIT_NONE) {
        ADD("Retry-After", number(a, (s->retry_ms + 999) / 1000));
        ADD("retry-after-ms", number(a, s->retry_ms));
    }
#undef ADD
    return n;
}

const char *limit_kind_name(enum limit_kind k)
{
    static const char *const names[] = { "none", "requests", "tokens", "concurrent", "tenants" };

    return names[k];
}
