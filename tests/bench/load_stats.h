/* bench/load_stats.h - what a load run has seen, and its report as JSON. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BENCH_LOAD_STATS_H
#define BENCH_LOAD_STATS_H
#include "base/buf.h"
#include <stdint.h>

#define STATS_TENANTS 16
#define STATS_SECONDS 7200

enum load_error {
    LOAD_CONNECT, /* no connection */
    LOAD_CLOSED,  /* closed before a reply began */
    LOAD_CUT,     /* the reply broke off */
    LOAD_TIMEOUT, /* nothing happened for too long */
    LOAD_BAD,     /* the reply is no HTTP */
    LOAD_EVENT,   /* an error within a stream */
    LOAD_NO_DONE, /* the stream ended without its end mark */
    LOAD_ERRORS
};

struct series {
    double *v;
    size_t n, cap;
};

struct tenant_stats {
    uint64_t begun, ok, refused, failed, tokens;
    struct series ttft, total;
};

struct load_stats {
    struct tenant_stats tenant[STATS_TENANTS];
    uint64_t error[LOAD_ERRORS], status[600];
    uint64_t stale, aborted, unsent, unfinished;
    uint64_t prompt_tokens, cached_tokens, bytes;
    uint64_t ok_in_window, tokens_in_window;
    struct series gap;
    /* Refusals: what was promised, and whether the try after it was taken in. */
    struct series promised, waited;
    uint64_t refusals_without_promise;
    /* Of those who came back: answered, waiting at the end, refused after a wait, refused at once.
     */
    uint64_t accepted_after, waiting_after, expired_after, refused_after;
    uint32_t ok_at[STATS_SECONDS], tokens_at[STATS_SECONDS], refused_at[STATS_SECONDS];
    uint32_t seconds; /* used of the three */
};

void series_add(struct series *s, double v);
double series_at(struct series *s, double q); /* sorts; 0 when empty */
/* name[i]: of tenant i. */
void load_report(struct load_stats *st, const char *const *name, uint32_t tenants, double window_s,
                 struct buf *out);
void load_stats_fini(struct load_stats *st);
#endif
