/* sched/handler_priv.h - what profile handlers share.  Threads: as sched/plugin.h. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_HANDLER_PRIV_H
#define SCHED_HANDLER_PRIV_H
#include "sched/plugin.h"

/* The pick of that profile is the destination; none: the run fails as upstream's does. */
void handler_finish(struct sched_run *run, int profile);
/* x-data-parallel-host-port: the endpoint behind the primary port. */
void handler_port_header(struct sched_run *run);
/* The headers of a split: x-prefiller-host-port, x-encoder-hosts-ports; the client's go.  Either
 * profile may be -1. */
void handler_disagg_headers(struct sched_run *run, int prefill, int encode);
/* Asks the decider of that name; none configured: no. */
bool handler_decide(struct plugin *p, const struct sched_run *run, struct str decider,
                    uint32_t picked);
#endif
