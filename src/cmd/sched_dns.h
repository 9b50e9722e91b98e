/* cmd/sched_dns.h - workers by DNS name: every address behind NAME is one.
 *
 * Each name is asked again and again.  A name that cannot be resolved, or has no address now, keeps
 * the addresses that it had: whether a worker is still there is what its scrapes say.
 * Threads: the gateway's first loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_SCHED_DNS_H
#define CMD_SCHED_DNS_H
#include "base/opt.h"
#include "net/loop.h"

struct sched_dns;

/* flags: NAME:PORT[=ROLE] each, borrowed, checked here. */
int sched_dns_new(struct sched_dns **out, const struct opt_list *flags, struct err *e) MUST_CHECK;
/* Asks now and then every period_ms, more often as long as a name has not answered once.
 * changed(ctx): some name has other addresses than before. */
void sched_dns_start(struct sched_dns *d, struct loop *l, uint32_t period_ms, loop_fn *changed,
                     void *ctx);
/* "1.2.3.4:80=decode": a name's addresses in the form of its flag; borrowed until the next change.
 * Returns how many there are and gives those that fit. */
uint32_t sched_dns_list(const struct sched_dns *d, const char **out, uint32_t max);
void sched_dns_free(struct sched_dns *d); /* NULL is fine; before the loop goes */
#endif
