/* What the tests of net/ share: a loop that runs until a fact holds, and a bare TCP client. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_TEST_H
#define NET_TEST_H
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "net/conn.h"
#include "net/loop.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define WAIT_MS_MAX 8000

static struct loop *loop;

static inline void pulse(void *ctx)
{
    (void)ctx;
    loop_stop(loop);
}

/* Runs the loop until the condition holds; fails when it does not within WAIT_MS_MAX. */
#define WAIT(cond)                                                                                 \
    do {                                                                                           \
        uint64_t until_ = clock_ms() + WAIT_MS_MAX;                                                \
        struct loop_timer *t_ = loop_timer_new(loop, pulse, NULL);                                 \
        loop_timer_arm(t_, 1, 1);                                                                  \
        while (!(cond)) {                                                                          \
            if (clock_ms() > until_)                                                               \
                fail_msg("waited in vain at line %d for: %s", __LINE__, #cond);                    \
            loop_run(loop);                                                                        \
        }                                                                                          \
        loop_timer_free(t_);                                                                       \
    } while (0)

/* Runs the loop for some milliseconds: only to show that something does not happen. */
static inline void run_ms(uint64_t ms)
{
    uint64_t until = clock_ms() + ms;

    WAIT(clock_ms() >= until);
}

static inline int set_up(void **state)
{
    struct err e;

    (void)state;
    return loop_new(&loop, &e);
}

static inline int tear_down(void **state)
{
    (void)state;
    loop_free(loop);
    loop = NULL;
    return 0;
}

struct raw {
    struct conn *c;
    struct buf in;
    bool open, eof, closed;
    int rc;
};

static inline void raw_open(void *ctx, struct conn *c)
{
    struct raw *r = ctx;

    (void)c;
    r->open = true;
}

static inline void raw_data(void *ctx, struct conn *c, struct str bytes)
{
    struct raw *r = ctx;

    (void)c;
    assert_true(buf_str(&r->in, bytes));
}

static inline void raw_eof(void *ctx, struct conn *c)
{
    struct raw *r = ctx;

    (void)c;
    r->eof = true;
}

static inline void raw_closed(void *ctx, struct conn *c, int rc)
{
    struct raw *r = ctx;

    (void)c;
    r->closed = true;
    r->rc = rc;
}

static const struct conn_ops raw_ops = {
    .on_open = raw_open, .on_data = raw_data, .on_eof = raw_eof, .on_close = raw_closed
};

static inline void raw_start(struct raw *r, uint16_t port)
{
    struct err e;

    *r = (struct raw) { 0 };
    buf_init(&r->in, (size_t)64 << 20);
    assert_int_equal(conn_open(loop, "127.0.0.1", port, NULL, &raw_ops, r, &r->c, &e), 0);
    WAIT(r->open || r->closed);
}

static inline void raw_send(struct raw *r, const char *text)
{
    assert_int_equal(conn_write(r->c, str_of(text)), 0);
}

static inline bool raw_has(const struct raw *r, const char *text)
{
    return str_find(buf_view(&r->in), str_of(text)) != SIZE_MAX;
}

static inline void raw_end(struct raw *r)
{
    if (!r->closed)
        conn_close(r->c);
    WAIT(r->closed);
    buf_fini(&r->in);
}
#endif
