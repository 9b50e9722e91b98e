/* sched/session_affinity.h - which endpoint a session is bound to.
 *
 * encoded_endpoint_header: the client carries it: a header with the endpoint's id in base64, set
 * on the answer.  Nothing is kept here, so any replica can serve the next request.
 * session_id: a table here, from the session's id to the endpoint; a session moves only when its
 * endpoint was no candidate of the very request.
 * Source: the project's scheduler page, 5.6.
 * Threads: one owner at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_SESSION_AFFINITY_H
#define SCHED_SESSION_AFFINITY_H
#include "base/map.h"
#include "sched/plugin.h"

struct session_entry;

/* Zeroed is valid.  The list runs from the most to the least recently used. */
struct session_table {
    struct map by_hash; /* of the id's 64-bit hash: no id is kept */
    struct session_entry *newest, *oldest;
    uint32_t count;
    uint64_t swept_ms;
};

void session_table_fini(struct session_table *t);

/* Index of the endpoint the request's session is bound to, or SCHED_NONE. */
uint32_t session_affinity_bound(struct plugin *p, const struct sched_view *v);
#endif
