/* sched/topology.h - how close two endpoints are: host, rack, zone, region, by their labels.
 *
 * Type topology-extractor says which labels; the topology plugins look its parameters up by the
 * producer's name.  An empty label never matches.
 * Threads: pure. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_TOPOLOGY_H
#define SCHED_TOPOLOGY_H
#include "sched/plugin.h"

enum topology_level { TOPOLOGY_HOST, TOPOLOGY_RACK, TOPOLOGY_ZONE, TOPOLOGY_REGION, TOPOLOGY_NONE };

struct topology_labels {
    struct str label[TOPOLOGY_NONE]; /* by level */
};

/* The tightest level that both share. */
enum topology_level topology_common(const struct topology_labels *l, const struct sched_endpoint *a,
                                    const struct sched_endpoint *b);
#endif
