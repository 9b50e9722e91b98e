/* The event loop: libuv, a mailbox and put-off work.
 *
 *   other threads --loop_post--> list (mutex) --uv_async--> run in order, on this thread
 *   callbacks --loop_task_run_soon--> tasks --uv_prepare--> run before the loop waits
 *
 * A post wakes the loop only when the list was empty, so a burst costs one system call.  The list
 * is swapped out as a whole: fn runs without the lock and may post again (which runs in the next
 * round, so that a post that posts itself cannot starve the sockets).
 * Invariant: post_len > 0  <=>  a wake is on its way. */
// SPDX-License-Identifier: Apache-2.0
#include "net/loop.h"
#include "base/check.h"
#include "base/mem.h"
#include "net/loop_priv.h"
#include <signal.h>

struct loop_timer {
    uv_timer_t uv;
    struct loop_own own;
    loop_fn *fn;
    void *ctx;
};

struct loop_sig {
    uv_signal_t uv;
    struct loop_own own;
    loop_fn *fn;
    void *ctx;
};

int loop_err(int uv_rc)
{
    switch (uv_rc) {
    case 0: return 0;
    case UV_ETIMEDOUT: return ERR_TIMEOUT;
    case UV_ENOMEM: return ERR_NOMEM;
    case UV_ECANCELED: return ERR_CANCELLED;
    case UV_EINVAL: return ERR_INVAL;
    case UV_EOF:
    case UV_ECONNRESET:
    case UV_EPIPE:
    case UV_ECONNABORTED: return ERR_CLOSED;
    default: return ERR_IO;
    }
}

void loop_task_init(struct loop_task *t, loop_fn *fn, void *ctx)
{
    ring_init(&t->ring);
    t->fn = fn;
    t->ctx = ctx;
}

void loop_task_run_soon(struct loop *l, struct loop_task *t)
{
    if (ring_empty(&t->ring))
        ring_push(&l->tasks, &t->ring);
}

void loop_task_cancel(struct loop_task *t)
{
    ring_del(&t->ring);
}

void loop_own_add(struct loop *l, struct loop_own *o, void (*close)(struct loop_own *o))
{
    o->close = close;
    ring_push(&l->owned, &o->ring);
}

static void keep_busy(uv_idle_t *h)
{
    (void)h;
}

static void run_tasks(uv_prepare_t *h)
{
    struct loop *l = h->data;
    struct ring now;

    if (ring_empty(&l->tasks)) {
        uv_idle_stop(&l->busy);
        return;
    }
    /* One round only: a task that adds tasks must not starve the sockets. */
    now = l->tasks;
    now.next->prev = now.prev->next = &now;
    ring_init(&l->tasks);
    while (!ring_empty(&now)) {
        struct loop_task *t = CONTAINER_OF(now.next, struct loop_task, ring);

        ring_del(&t->ring);
        t->fn(t->ctx);
    }
    if (!ring_empty(&l->tasks))
        uv_idle_start(&l->busy, keep_busy);
    else
        uv_idle_stop(&l->busy);
}

static void run_posted(uv_async_t *h)
{
    struct loop *l = h->data;
    struct loop_posted *list;
    size_t n;

    pthread_mutex_lock(&l->lock);
    list = l->post;
    n = l->post_len;
    l->post = NULL;
    l->post_len = l->post_cap = 0;
    pthread_mutex_unlock(&l->lock);
    for (size_t i = 0; i < n; i++)
        list[i].fn(list[i].ctx);
    pthread_mutex_lock(&l->lock);
    if (l->post == NULL) { /* hand the memory back for the next burst */
        l->post = list;
        l->post_cap = n;
        list = NULL;
    }
    pthread_mutex_unlock(&l->lock);
    mem_free(list);
}

int loop_new(struct loop **out, struct err *e)
{
    struct loop *l = mem_zalloc(sizeof(*l));
    int rc;

    *out = NULL;
    signal(SIGPIPE, SIG_IGN); /* a peer that left is an error code, not a signal */
    rc = uv_loop_init(&l->uv);
    if (rc != 0) {
        mem_free(l);
        return err_set(e, ERR_IO, "event loop: %s", uv_strerror(rc));
    }
    ring_init(&l->tasks);
    ring_init(&l->owned);
    pthread_mutex_init(&l->lock, NULL);
    l->read_buf = mem_alloc(LOOP_READ_BYTES);
    rc = uv_async_init(&l->uv, &l->wake, run_posted);
    if (rc != 0) {
        uv_loop_close(&l->uv);
        pthread_mutex_destroy(&l->lock);
        mem_free(l->read_buf);
        mem_free(l);
        return err_set(e, ERR_IO, "event loop: %s", uv_strerror(rc));
    }
    l->wake.data = l;
    uv_prepare_init(&l->uv, &l->before_wait);
    l->before_wait.data = l;
    uv_prepare_start(&l->before_wait, run_tasks);
    uv_idle_init(&l->uv, &l->busy);
    *out = l;
    return 0;
}

void loop_free(struct loop *l)
{
    if (l == NULL)
        return;
    while (!ring_empty(&l->owned)) {
        struct loop_own *o = CONTAINER_OF(l->owned.next, struct loop_own, ring);

        ring_del(&o->ring);
        o->close(o);
    }
    uv_close((uv_handle_t *)&l->wake, NULL);
    uv_close((uv_handle_t *)&l->before_wait, NULL);
    uv_close((uv_handle_t *)&l->busy, NULL);
    /* Close callbacks may open nothing new, so this ends; name look-ups in flight are awaited. */
    do {
        uv_run(&l->uv, UV_RUN_DEFAULT);
    } while (uv_loop_close(&l->uv) == UV_EBUSY);
    pthread_mutex_destroy(&l->lock);
    mem_free(l->post);
    mem_free(l->read_buf);
    mem_free(l);
}

void loop_run(struct loop *l)
{
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *l)
{
    uv_stop(&l->uv);
}

void loop_post(struct loop *l, loop_fn *fn, void *ctx)
{
    bool wake;

    pthread_mutex_lock(&l->lock);
    if (l->post_len == l->post_cap) {
        l->post_cap = MAX(l->post_cap * 2, (size_t)16);
        l->post = mem_realloc(l->post, l->post_cap * sizeof(*l->post));
    }
    wake = l->post_len == 0;
    l->post[l->post_len++] = (struct loop_posted) { fn, ctx };
    /* Under the lock: once the lock is free the loop may run fn, end and be freed. */
    if (wake)
        uv_async_send(&l->wake);
    pthread_mutex_unlock(&l->lock);
}

static void timer_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

static void timer_own_close(struct loop_own *o)
{
    loop_timer_free(CONTAINER_OF(o, struct loop_timer, own));
}

static void timer_fired(uv_timer_t *h)
{
    struct loop_timer *t = h->data;

    t->fn(t->ctx);
}

struct loop_timer *loop_timer_new(struct loop *l, loop_fn *fn, void *ctx)
{
    struct loop_timer *t = mem_zalloc(sizeof(*t));

    uv_timer_init(&l->uv, &t->uv);
    t->uv.data = t;
    t->fn = fn;
    t->ctx = ctx;
    loop_own_add(l, &t->own, timer_own_close);
    return t;
}

void loop_timer_arm(struct loop_timer *t, uint64_t after_ms, uint64_t repeat_ms)
{
    /* libuv counts from the time of its last poll: a long set-up would make the timer early. */
    uv_update_time(t->uv.loop);
    uv_timer_start(&t->uv, timer_fired, after_ms, repeat_ms);
}

void loop_timer_disarm(struct loop_timer *t)
{
    uv_timer_stop(&t->uv);
}

void loop_timer_free(struct loop_timer *t)
{
    if (t == NULL)
        return;
    ring_del(&t->own.ring);
    uv_close((uv_handle_t *)&t->uv, timer_closed);
}

static void signal_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

static void signal_own_close(struct loop_own *o)
{
    struct loop_sig *s = CONTAINER_OF(o, struct loop_sig, own);

    ring_del(&o->ring);
    uv_close((uv_handle_t *)&s->uv, signal_closed);
}

static void signal_came(uv_signal_t *h, int signum)
{
    struct loop_sig *s = h->data;

    (void)signum;
    s->fn(s->ctx);
}

int loop_signal(struct loop *l, int signum, loop_fn *fn, void *ctx, struct err *e)
{
    struct loop_sig *s = mem_zalloc(sizeof(*s));
    int rc;

    uv_signal_init(&l->uv, &s->uv);
    s->uv.data = s;
    s->fn = fn;
    s->ctx = ctx;
    loop_own_add(l, &s->own, signal_own_close);
    rc = uv_signal_start(&s->uv, signal_came, signum);
    if (rc != 0) {
        signal_own_close(&s->own);
        return err_set(e, ERR_INVAL, "signal %d: %s", signum, uv_strerror(rc));
    }
    return 0;
}

uint64_t loop_now_ms(struct loop *l)
{
    return uv_now(&l->uv);
}
