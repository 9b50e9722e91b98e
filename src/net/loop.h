/* net/loop.h - an event loop (libuv), its timers and its mailbox.
 *
 * One thread runs a loop and owns everything opened on it.  loop_post is the
 * only call for other threads.  No callback may run for more than 1 ms. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_LOOP_H
#define NET_LOOP_H
#include "base/err.h"
#include <stdint.h>

struct loop;
struct loop_timer;

typedef void loop_fn(void *ctx);

int loop_new(struct loop **out, struct err *e) MUST_CHECK;
/* After loop_run returned.  Servers, clients and other owners of connections on it are closed by
 * their owner first; their last callbacks run here.  Timers, signals and bare connections that are
 * left are closed.  Posts that did not run yet are dropped. */
void loop_free(struct loop *l);
/* Runs until loop_stop. */
void loop_run(struct loop *l);
void loop_stop(struct loop *l); /* from the loop's thread; others: loop_post it */

/* Any thread: runs fn(ctx) on the loop's thread, in order of posting per sender.
 * Never blocks beyond a short lock.  Posts after loop_free are a bug. */
void loop_post(struct loop *l, loop_fn *fn, void *ctx);

/* A one-shot or repeating timer.  The callback may disarm or free it. */
struct loop_timer *loop_timer_new(struct loop *l, loop_fn *fn, void *ctx);
void loop_timer_arm(struct loop_timer *t, uint64_t after_ms, uint64_t repeat_ms);
void loop_timer_disarm(struct loop_timer *t);
void loop_timer_free(struct loop_timer *t); /* NULL is fine */

/* fn runs on the loop when the process gets the signal. */
int loop_signal(struct loop *l, int signum, loop_fn *fn, void *ctx, struct err *e) MUST_CHECK;
uint64_t loop_now_ms(struct loop *l);
#endif
