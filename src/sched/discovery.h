/* sched/discovery.h - endpoints from a file: llm-d's file discovery format.
 *
 *   endpoints:
 *   - {name: d0, namespace: default, address: 10.0.0.5, port: "8000",
 *      labels: {llm-d.ai/role: decode}, metricsHost: "10.0.0.5:9400"}
 *
 * YAML or JSON, at most 1 MiB.  An entry that cannot be used is left out and counted with its line
 * and the reason; whether that is fatal is the caller's to say (upstream: at the first load).
 * Fields that are not known are ignored, as upstream does.
 *
 * Beyond upstream: the address may be a DNS name or IPv6 (with or without brackets), the port a
 * number without quotes.  Two entries of one namespace/name: the second is left out.
 * Labels metricsAddress and metricsPort (of multicluster files) set the scrape host as well.
 * Source: the project's scheduler page, 8.3.
 * Threads: pure. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_DISCOVERY_H
#define SCHED_DISCOVERY_H
#include "base/arena.h"
#include "base/err.h"
#include "sched/sched.h"

#define DISCOVERY_ENDPOINTS_MAX 8192
#define DISCOVERY_REASONS_MAX   16 /* kept; all are counted */

struct discovery_endpoint {
    struct str name, namespace; /* "default" when it says none */
    struct str address;         /* without brackets */
    bool is_ipv4, is_ipv6;      /* neither: a name */
    uint16_t port;
    struct str metrics_address; /* the address, unless it says another */
    uint16_t metrics_port;
    const struct sched_label *label;
    uint32_t label_count;
    uint32_t line;
};

struct discovery_list {
    const struct discovery_endpoint *endpoint;
    uint32_t count;
    uint32_t bad_count;
    struct str reason[DISCOVERY_REASONS_MAX]; /* "FILE:LINE:COL: endpoints[3].port: ..." */
    uint32_t reason_count;
};

/* Everything lives in the arena, to which text is copied.  Returns 0 (bad entries and all),
 * ERR_PARSE (no YAML, or not of this shape), ERR_LIMIT or ERR_NOMEM. */
int discovery_parse(struct arena *a, struct str text, const char *file, struct discovery_list *out,
                    struct err *e) MUST_CHECK;
#endif
