/* gateway/limit.h - how much a tenant may ask: requests and tokens a minute, requests at once.
 *
 * Token buckets that hold a minute's worth and refill evenly.  Tokens are reserved at admission
 * (prompt + max_tokens) and settled with what was used at the end; a reservation above the whole
 * bucket counts as the whole bucket, so that a long request waits and is not refused for ever.
 * Requirements RL-01, OVL-07.  Time is given.  Threads: any; a short
 * lock inside. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_LIMIT_H
#define GATEWAY_LIMIT_H
#include "base/arena.h"
#include "net/http.h"

#define LIMIT_TENANTS_MAX 10000
#define LIMIT_HEADERS_MAX 8

/* 0 = not limited. */
struct limit_rates {
    uint64_t requests_per_minute, tokens_per_minute, concurrent;
};

enum limit_kind { LIMIT_NONE, LIMIT_REQUESTS, LIMIT_TOKENS, LIMIT_CONCURRENT, LIMIT_TENANTS };

struct limit_tenant;

/* What an admitted request holds: give it back with limit_settle.  Zeroed: holds nothing. */
struct limit_ticket {
    struct limit_tenant *tenant;
    uint64_t tokens; /* taken from the bucket */
};

/* How things stand after an admission or refusal, for the answer's headers. */
struct limit_state {
    enum limit_kind refused_by;
    uint64_t retry_ms; /* when the refused one can succeed, at the earliest; >= 1 */
    struct limit_rates rates;
    uint64_t requests_left, tokens_left;
    uint64_t requests_reset_ms, tokens_reset_ms; /* until the bucket is full again */
};

struct limiter;

struct limiter *limiter_new(void);
void limiter_free(struct limiter *l); /* NULL is fine; tickets are void then */

/* Takes one request and `tokens` from the tenant's buckets.  rates may differ from call to call
 * (a reloaded file): a bucket is cut to its new size.  tenant is copied.
 * Returns 0, or ERR_LIMIT: nothing was taken, state->refused_by says by what. */
int limit_admit(struct limiter *l, struct str tenant, const struct limit_rates *rates,
                uint64_t tokens, uint64_t now_ms, struct limit_ticket *ticket,
                struct limit_state *state) MUST_CHECK;
/* The request is over, or did not run (used = 0).  The bucket may go below nothing when more was
 * used than reserved.  Once a ticket; it is zeroed. */
void limit_settle(struct limiter *l, struct limit_ticket *ticket, uint64_t used, uint64_t now_ms);

/* x-ratelimit-{limit,remaining,reset}-{requests,tokens}, and for a refusal Retry-After and
 * retry-after-ms: at most LIMIT_HEADERS_MAX into out, texts in the arena.  Returns the count. */
size_t limit_headers(const struct limit_state *s, struct arena *a,
                     struct http_header out[LIMIT_HEADERS_MAX]);
/* "requests", "tokens", "concurrent", "tenants". */
const char *limit_kind_name(enum limit_kind k);
size_t limiter_tenants(struct limiter *l);
#endif
