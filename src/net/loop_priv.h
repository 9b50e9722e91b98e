/* net/loop_priv.h - what the other files of net/ need to know of a loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_LOOP_PRIV_H
#define NET_LOOP_PRIV_H
#include "net/loop.h"
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

/* One read of any connection lands here: connections own no read buffer, so that an idle one
 * costs only its struct. */
#define LOOP_READ_BYTES ((size_t)64 << 10)

/* A doubly linked ring; its owner embeds it.  An unlinked node points to itself. */
struct ring {
    struct ring *next, *prev;
};

static inline void ring_init(struct ring *r)
{
    r->next = r->prev = r;
}

static inline bool ring_empty(const struct ring *r)
{
    return r->next == r;
}

static inline void ring_del(struct ring *r)
{
    r->prev->next = r->next;
    r->next->prev = r->prev;
    ring_init(r);
}

static inline void ring_push(struct ring *head, struct ring *r)
{
    r->prev = head->prev;
    r->next = head;
    head->prev->next = r;
    head->prev = r;
}

/* Work put off until the loop is about to wait: it runs once, outside of every other callback. */
struct loop_task {
    struct ring ring;
    loop_fn *fn;
    void *ctx;
};

/* Something that loop_free must close when its owner did not. */
struct loop_own {
    struct ring ring;
    void (*close)(struct loop_own *o);
};

struct loop_posted {
    loop_fn *fn;
    void *ctx;
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_prepare_t before_wait;
    uv_idle_t busy; /* active while tasks are left over, so that the poll does not sleep */
    struct ring tasks, owned;
    char *read_buf;       /* LOOP_READ_BYTES */
    pthread_mutex_t lock; /* guards post, post_len, post_cap */
    struct loop_posted *post;
    size_t post_len, post_cap;
};

void loop_task_init(struct loop_task *t, loop_fn *fn, void *ctx);
void loop_task_run_soon(struct loop *l, struct loop_task *t); /* already waiting: nothing */
void loop_task_cancel(struct loop_task *t);
void loop_own_add(struct loop *l, struct loop_own *o, void (*close)(struct loop_own *o));
/* The ERR_* of a libuv error. */
int loop_err(int uv_rc);
#endif
