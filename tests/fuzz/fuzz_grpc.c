/* Bytes of a peer against the gRPC server, on a connection and a loop made of nothing: byte 0
 * chooses the cuts, and whether the greeting is sent for the input; byte 1 how much the peer reads.
 * Each stream ends once, what is kept stays within its ceiling, and nothing is left behind. */
// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "net/conn.h"
#include "net/grpc.h"
#include "net/loop_priv.h"
#include <string.h>

#define GREETING      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
#define MESSAGE_MAX   2000
#define BUFFERED_MAX  8000
#define QUEUE_CEILING ((size_t)4 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a connection and a loop made of nothing ---- */

struct conn {
    const struct conn_ops *ops;
    void *ctx;
    size_t queued, written;
    bool closed, want_drain;
};

struct listener {
    void (*on_accept)(void *ctx, struct conn *c);
    void *ctx;
};

static struct listener the_listener;
static struct loop_task *due;
static loop_fn *timer_fn;
static void *timer_ctx;
static uint64_t now_ms;

int listener_open(struct loop *l, const char *host, uint16_t port, const struct conn_opts *opts,
                  void (*on_accept)(void *ctx, struct conn *c), void *ctx, struct listener **out,
                  struct err *e)
{
    (void)l;
    (void)host;
    (void)port;
    (void)opts;
    (void)e;
    the_listener = (struct listener) { on_accept, ctx };
    *out = &the_listener;
    return 0;
}

uint16_t listener_port(const struct listener *s)
{
    (void)s;
    return 1;
}

void listener_close(struct listener *s)
{
    (void)s;
}

void conn_set_ctx(struct conn *c, const struct conn_ops *ops, void *ctx)
{
    c->ops = ops;
    c->ctx = ctx;
}

int conn_write(struct conn *c, struct str bytes)
{
    if (c->closed)
        return ERR_CLOSED;
    c->queued += bytes.n;
    c->written += bytes.n;
    return 0;
}

size_t conn_queued(const struct conn *c)
{
    return c->queued;
}

void conn_want_drain(struct conn *c)
{
    c->want_drain = true;
}

void conn_shutdown(struct conn *c)
{
    (void)c;
}

void conn_close(struct conn *c)
{
    c->closed = true;
}

struct loop_timer *loop_timer_new(struct loop *l, loop_fn *fn, void *ctx)
{
    (void)l;
    timer_fn = fn;
    timer_ctx = ctx;
    return NULL;
}

void loop_timer_arm(struct loop_timer *t, uint64_t after_ms, uint64_t repeat_ms)
{
    (void)t;
    (void)after_ms;
    (void)repeat_ms;
}

void loop_timer_disarm(struct loop_timer *t)
{
    (void)t;
}

void loop_timer_free(struct loop_timer *t)
{
    (void)t;
}

uint64_t loop_now_ms(struct loop *l)
{
    (void)l;
    return now_ms;
}

void loop_task_init(struct loop_task *t, loop_fn *fn, void *ctx)
{
    t->fn = fn;
    t->ctx = ctx;
}

void loop_task_run_soon(struct loop *l, struct loop_task *t)
{
    (void)l;
    due = t;
}

void loop_task_cancel(struct loop_task *t)
{
    if (due == t)
        due = NULL;
}

static void run_task(void)
{
    struct loop_task *t = due;

    due = NULL;
    if (t != NULL)
        t->fn(t->ctx);
}

/* ---- the service ---- */

static size_t opened, gone;

static void on_open(void *ctx, struct grpc_stream *s)
{
    (void)ctx;
    (void)grpc_metadata(s, "grpc-encoding");
    opened++;
}

static void on_message(void *ctx, struct grpc_stream *s, struct str bytes)
{
    (void)ctx;
    ASSERT(bytes.n <= MESSAGE_MAX);
    (void)!grpc_send(s, bytes);
    if (bytes.n == 7)
        grpc_finish(s, GRPC_UNAVAILABLE, bytes.p[0] < 0 ? NULL : "seven", "reason");
}

static void on_half_close(void *ctx, struct grpc_stream *s)
{
    (void)ctx;
    grpc_finish(s, GRPC_OK, NULL, NULL);
}

static void on_gone(void *ctx, struct grpc_stream *s, bool cancelled)
{
    (void)ctx;
    (void)s;
    (void)cancelled;
    gone++;
    ASSERT(gone <= opened);
}

static const struct grpc_method methods[] = {
    { "/u", true, NULL, on_open, on_message, on_half_close, NULL, on_gone },
    { "/s", false, NULL, on_open, on_message, on_half_close, NULL, on_gone },
};

static void feed(struct conn *c, struct str bytes, size_t step, size_t reads)
{
    for (size_t at = 0; at < bytes.n && !c->closed; at += step) {
        size_t n = MIN(step, bytes.n - at);
        char *copy = mem_dup(bytes.p + at, n);

        c->ops->on_data(c->ctx, c, (struct str) { copy, n });
        mem_free(copy);
        run_task();
        c->queued -= MIN(c->queued, reads);
        if (c->want_drain && c->queued == 0 && !c->closed) {
            c->want_drain = false;
            c->ops->on_drain(c->ctx, c);
        }
        ASSERT(c->queued < QUEUE_CEILING);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct grpc_server_opts opts = { .message_bytes_max = MESSAGE_MAX,
                                     .buffer_bytes_max = BUFFERED_MAX,
                                     .streams_max = 8 };
    struct grpc_server *server;
    struct conn c = { 0 };
    struct err e;
    size_t step, reads;

    if (size < 2)
        return 0;
    opened = gone = 0;
    now_ms = 1000;
    step = data[0] < 128 ? size : (size_t)data[0] % 50 + 1;
    reads = data[1] < 128 ? SIZE_MAX : (size_t)data[1] * 16;
    ASSERT(grpc_server_open(NULL, &opts, methods, COUNT(methods), &server, &e) == 0);
    the_listener.on_accept(the_listener.ctx, &c);
    if ((data[0] & 1) == 0)
        feed(&c, STR(GREETING), 100, reads);
    feed(&c, (struct str) { (const char *)data + 2, size - 2 }, step, reads);
    now_ms += 3000;
    timer_fn(timer_ctx);
    run_task();
    ASSERT(grpc_server_streams(server) == opened - gone);
    if ((data[0] & 2) == 0) { /* the peer goes before the server */
        c.ops->on_close(c.ctx, &c, 0);
        ASSERT(opened == gone && grpc_server_streams(server) == 0);
        grpc_server_close(server);
    } else {
        grpc_server_close(server);
        ASSERT(opened == gone);
        c.ops->on_close(c.ctx, &c, 0);
    }
    return 0;
}
