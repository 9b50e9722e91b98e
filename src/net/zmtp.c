/* ZMTP sockets: PUB, ROUTER, SUB and DEALER over one mechanism.
 *
 *   hub (one socket) --listener--> peer, peer, ...      peer = one connection with its handshake
 *        `------------dial, dial--> peer (again after a loss, with back-off)
 *
 *   peer: greeting out -> greeting in -> READY out -> READY in -> ready -> messages
 *
 * What differs between the socket types is a row of `roles`: the name, whom it speaks to, how much
 * a peer may say, and three hooks.  A message to many subscribers is encoded once and shared by
 * count; a subscriber whose queue is full loses the message whole, and sees the gap in the sequence
 * numbers.
 *
 * Closing a hub cuts the tie from its peers (peer->hub = NULL); they die in conn_closed, from the
 * loop, and call nobody any more. */
// SPDX-License-Identifier: Apache-2.0
#include "net/zmtp.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "net/conn_priv.h"
#include "net/loop_priv.h"
#include "net/zmtp_priv.h"
#include <string.h>

#define HANDSHAKE_MS        10000
#define BACKOFF_MIN_MS      100
#define BACKOFF_MAX_MS      5000
#define PEERS_MAX           1024
#define QUEUE_BYTES_DEFAULT ((size_t)16 << 20)
#define SUBS_MAX            64
#define SUB_BYTES_MAX       256
#define SEND_BYTES_MAX      ((size_t)64 << 20) /* one message of ours; above any real one */

enum role_id { ROLE_PUB, ROLE_ROUTER, ROLE_SUB, ROLE_DEALER, ROLE_SUB_BOUND, ROLE_COUNT };

struct zmtp_hub {
    struct loop *loop;
    struct listener *listener;
    enum role_id role;
    void *owner; /* struct zmtp_pub, _router, _client or _sub */
    struct conn_opts conn_opts;
    struct ring peers, dials;
    size_t peer_count, ready_count;
    struct loop_timer *handshakes; /* armed while one is under way */
};

struct zmtp_dial {
    struct ring ring; /* in hub->dials */
    struct zmtp_hub *hub;
    struct zmtp_peer *peer; /* NULL: waiting for the next attempt */
    struct loop_timer *timer;
    char *host;
    uint16_t port;
    uint32_t backoff_ms;
};

struct zmtp_peer {
    struct ring ring;     /* in hub->peers */
    struct zmtp_hub *hub; /* NULL: closed by us */
    struct zmtp_dial *dial;
    struct conn *conn;
    struct zmtp_reader in;
    bool ready, closing;
    uint64_t since;
    struct str *subs; /* PUB: the peer's subscriptions, each owned */
    size_t sub_count;
    loop_fn *drain, *gone; /* ROUTER: zmtp_peer_watch */
    void *watch_ctx;
};

struct role {
    const char *name;
    const char *partner[4];
    size_t in_bytes_max;
    void (*ready)(struct zmtp_peer *p);
    void (*message)(struct zmtp_peer *p, const struct zmtp_msg *m);
    void (*down)(struct zmtp_peer *p); /* it was ready */
};

static const struct role roles[ROLE_COUNT];

/* ---- peers ---- */

static void peer_close(struct zmtp_peer *p)
{
    p->closing = true;
    conn_close(p->conn);
}

static void peer_write(struct zmtp_peer *p, struct buf *b)
{
    if (b->failed || conn_write(p->conn, buf_view(b)) != 0)
        peer_close(p); /* a handshake that does not fit, or a peer that is gone */
    buf_fini(b);
}

static void handshake_watch(struct zmtp_hub *h)
{
    loop_timer_arm(h->handshakes, HANDSHAKE_MS, 0);
}

static void handshakes_check(void *ctx)
{
    struct zmtp_hub *h = ctx;
    uint64_t now = loop_now_ms(h->loop), left = UINT64_MAX;

    for (struct ring *n = h->peers.next, *next; n != &h->peers; n = next) {
        struct zmtp_peer *p = CONTAINER_OF(n, struct zmtp_peer, ring);

        next = n->next;
        if (p->ready || p->closing)
            continue;
        if (now - p->since >= HANDSHAKE_MS)
            peer_close(p);
        else
            left = MIN(left, p->since + HANDSHAKE_MS - now);
    }
    if (left != UINT64_MAX)
        loop_timer_arm(h->handshakes, left, 0);
}

static void peer_command(struct zmtp_peer *p, const struct zmtp_msg *m)
{
    const struct role *role = &roles[p->hub->role];
    struct str name = m->frame[0], data = m->frame[1];

    if (str_eqz(name, "READY") && !p->ready) {
        struct str type = zmtp_property(data, "Socket-Type");

        for (size_t i = 0; i < COUNT(role->partner) && role->partner[i] != NULL; i++)
            p->ready |= str_eqz(type, role->partner[i]);
        if (!p->ready) {
            peer_close(p);
            return;
        }
        p->hub->ready_count++;
        if (p->dial != NULL)
            p->dial->backoff_ms = BACKOFF_MIN_MS;
        if (role->ready != NULL)
            role->ready(p);
    } else if (str_eqz(name, "PING") && p->ready && data.n >= 2) {
        struct buf b;

        buf_init(&b, 1024);
        zmtp_put_command(&b, "PONG", str_sub(data, 2, SIZE_MAX));
        peer_write(p, &b);
    } else if (!p->ready || str_eqz(name, "ERROR")) {
        peer_close(p);
    } /* SUBSCRIBE and the like belong to 3.1, which nobody speaks to a 3.0 peer */
}

static void conn_data(void *ctx, struct conn *conn, struct str in)
{
    struct zmtp_peer *p = ctx;
    struct zmtp_msg m;
    struct buf b;

    (void)conn;
    while (p->hub != NULL && !p->closing) {
        switch (zmtp_next(&p->in, &in, &m)) {
        case ZMTP_GREETED:
            buf_init(&b, 1024);
            zmtp_put_ready(&b, roles[p->hub->role].name);
            peer_write(p, &b);
            break;
        case ZMTP_COMMAND: peer_command(p, &m); break;
        case ZMTP_MESSAGE:
            if (!p->ready)
                peer_close(p);
            else
                roles[p->hub->role].message(p, &m);
            break;
        case ZMTP_BAD: peer_close(p); break;
        default: return;
        }
    }
}

static void peer_greet(struct zmtp_peer *p)
{
    struct str hello = { (const char *)zmtp_greeting, sizeof(zmtp_greeting) };

    p->since = loop_now_ms(p->hub->loop);
    handshake_watch(p->hub);
    if (conn_write(p->conn, hello) != 0)
        peer_close(p);
}

static void conn_opened(void *ctx, struct conn *conn)
{
    struct zmtp_peer *p = ctx;

    (void)conn;
    if (p->hub != NULL && !p->closing)
        peer_greet(p);
}

static void conn_drained(void *ctx, struct conn *conn)
{
    struct zmtp_peer *p = ctx;

    (void)conn;
    if (p->hub != NULL && p->drain != NULL)
        p->drain(p->watch_ctx);
}

static void dial_later(struct zmtp_dial *d)
{
    uint32_t half = d->backoff_ms / 2;

    loop_timer_arm(d->timer, half + rng_secure_u64() % (half + 1), 0);
    d->backoff_ms = MIN(d->backoff_ms * 2, (uint32_t)BACKOFF_MAX_MS);
}

/* The peer leaves its hub: counts, hooks, the next attempt. */
static void peer_leave(struct zmtp_peer *p)
{
    struct zmtp_hub *h = p->hub;
    struct zmtp_dial *d = p->dial;
    void (*down)(struct zmtp_peer * p);

    if (h == NULL)
        return;
    down = p->ready ? roles[h->role].down : NULL;
    ring_del(&p->ring);
    h->peer_count--;
    h->ready_count -= p->ready;
    if (d != NULL) {
        d->peer = NULL;
        dial_later(d);
    }
    /* The hooks come last: they may close the hub. */
    if (down != NULL)
        down(p);
    p->hub = NULL;
    if (p->gone != NULL)
        p->gone(p->watch_ctx);
}

static void conn_closed(void *ctx, struct conn *conn, int rc)
{
    struct zmtp_peer *p = ctx;

    (void)conn;
    (void)rc;
    peer_leave(p);
    for (size_t i = 0; i < p->sub_count; i++)
        mem_free((void *)(uintptr_t)p->subs[i].p);
    mem_free(p->subs);
    zmtp_reader_fini(&p->in);
    mem_free(p);
}

static const struct conn_ops peer_ops = {
    .on_open = conn_opened, .on_data = conn_data, .on_drain = conn_drained, .on_close = conn_closed
};

static struct zmtp_peer *peer_new(struct zmtp_hub *h)
{
    struct zmtp_peer *p = mem_zalloc(sizeof(*p));

    p->hub = h;
    zmtp_reader_init(&p->in, roles[h->role].in_bytes_max);
    ring_push(&h->peers, &p->ring);
    h->peer_count++;
    return p;
}

/* ---- hubs ---- */

static void accepted(void *ctx, struct conn *conn)
{
    struct zmtp_hub *h = ctx;
    struct zmtp_peer *p;

    if (h->peer_count >= PEERS_MAX) {
        conn_reset(conn);
        return;
    }
    p = peer_new(h);
    p->conn = conn;
    conn_set_ctx(conn, &peer_ops, p);
    peer_greet(p);
}

static void dial_now(void *ctx)
{
    struct zmtp_dial *d = ctx;
    struct zmtp_peer *p = peer_new(d->hub);
    int rc;

    p->dial = d;
    p->since = loop_now_ms(d->hub->loop);
    d->peer = p;
    rc =
        conn_open(d->hub->loop, d->host, d->port, &d->hub->conn_opts, &peer_ops, p, &p->conn, NULL);
    if (rc != 0) { /* no look-up could be started: later, perhaps */
        d->peer = NULL;
        ring_del(&p->ring);
        d->hub->peer_count--;
        zmtp_reader_fini(&p->in);
        mem_free(p);
        dial_later(d);
    }
}

static struct zmtp_hub *hub_new(struct loop *l, enum role_id role, void *owner,
                                size_t queue_bytes_max)
{
    struct zmtp_hub *h = mem_zalloc(sizeof(*h));

    h->loop = l;
    h->role = role;
    h->owner = owner;
    h->conn_opts.write_max = queue_bytes_max != 0 ? queue_bytes_max : QUEUE_BYTES_DEFAULT;
    ring_init(&h->peers);
    ring_init(&h->dials);
    h->handshakes = loop_timer_new(l, handshakes_check, h);
    return h;
}

static int hub_dial(struct zmtp_hub *h, const char *host, uint16_t port, struct err *e)
{
    struct zmtp_dial *d;

    if (host == NULL || host[0] == 0 || strlen(host) > 255 || port == 0)
        return err_set(e, ERR_INVAL, "zmtp: bad host or port");
    d = mem_zalloc(sizeof(*d));
    d->hub = h;
    d->host = mem_strdup(host);
    d->port = port;
    d->backoff_ms = BACKOFF_MIN_MS;
    d->timer = loop_timer_new(h->loop, dial_now, d);
    ring_push(&h->dials, &d->ring);
    dial_now(d);
    return 0;
}

static void hub_close(struct zmtp_hub *h)
{
    while (!ring_empty(&h->dials)) {
        struct zmtp_dial *d = CONTAINER_OF(h->dials.next, struct zmtp_dial, ring);

        ring_del(&d->ring);
        if (d->peer != NULL)
            d->peer->dial = NULL;
        loop_timer_free(d->timer);
        mem_free(d->host);
        mem_free(d);
    }
    while (!ring_empty(&h->peers)) {
        struct zmtp_peer *p = CONTAINER_OF(h->peers.next, struct zmtp_peer, ring);

        ring_del(&p->ring);
        p->hub = NULL;
        if (p->gone != NULL)
            p->gone(p->watch_ctx);
        peer_close(p);
    }
    listener_close(h->listener);
    loop_timer_free(h->handshakes);
    mem_free(h);
}

/* ---- PUB ---- */

struct zmtp_pub {
    struct zmtp_hub *hub;
    uint64_t lost;
};

/* One encoded message, shared by the connections that send it. */
struct blob {
    size_t refs;
    char *p;
    size_t n;
};

static void blob_put(void *ctx)
{
    struct blob *b = ctx;

    if (--b->refs != 0)
        return;
    mem_free(b->p);
    mem_free(b);
}

static void pub_subscribe(struct zmtp_peer *p, struct str prefix)
{
    struct str *list;

    if (p->sub_count == SUBS_MAX || prefix.n > SUB_BYTES_MAX) {
        peer_close(p);
        return;
    }
    list = mem_try_realloc(p->subs, (p->sub_count + 1) * sizeof(*list));
    if (list == NULL) {
        peer_close(p);
        return;
    }
    p->subs = list;
    list[p->sub_count++] = (struct str) { str_dup(prefix), prefix.n };
}

static void pub_cancel(struct zmtp_peer *p, struct str prefix)
{
    for (size_t i = 0; i < p->sub_count; i++)
        if (str_eq(p->subs[i], prefix)) {
            mem_free((void *)(uintptr_t)p->subs[i].p);
            p->subs[i] = p->subs[--p->sub_count];
            return;
        }
}

static void pub_message(struct zmtp_peer *p, const struct zmtp_msg *m)
{
    struct str s = m->frame[0];

    if (m->count != 1 || s.n == 0)
        return;
    if (s.p[0] == 1)
        pub_subscribe(p, str_sub(s, 1, SIZE_MAX));
    else if (s.p[0] == 0)
        pub_cancel(p, str_sub(s, 1, SIZE_MAX));
}

static bool wants(const struct zmtp_peer *p, struct str topic)
{
    for (size_t i = 0; i < p->sub_count; i++)
        if (str_starts(topic, p->subs[i]))
            return true;
    return false;
}

int zmtp_pub_open(struct loop *l, const char *host, uint16_t port, size_t queue_bytes_max,
                  struct zmtp_pub **out, struct err *e)
{
    struct zmtp_pub *p = mem_zalloc(sizeof(*p));
    int rc;

    *out = NULL;
    p->hub = hub_new(l, ROLE_PUB, p, queue_bytes_max);
    rc = listener_open(l, host, port, &p->hub->conn_opts, accepted, p->hub, &p->hub->listener, e);
    if (rc != 0) {
        zmtp_pub_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

uint16_t zmtp_pub_port(const struct zmtp_pub *p)
{
    return listener_port(p->hub->listener);
}

int zmtp_pub_connect(struct zmtp_pub *p, const char *host, uint16_t port, struct err *e)
{
    return hub_dial(p->hub, host, port, e);
}

void zmtp_pub_send(struct zmtp_pub *p, const struct zmtp_msg *m)
{
    struct blob *blob = NULL;
    struct buf b;

    for (struct ring *n = p->hub->peers.next; n != &p->hub->peers; n = n->next) {
        struct zmtp_peer *peer = CONTAINER_OF(n, struct zmtp_peer, ring);

        if (!peer->ready || peer->closing || !wants(peer, m->frame[0]))
            continue;
        if (blob == NULL) {
            buf_init(&b, SEND_BYTES_MAX);
            if (!zmtp_put(&b, m)) {
                buf_fini(&b);
                p->lost++;
                return;
            }
            blob = mem_zalloc(sizeof(*blob));
            blob->refs = 1; /* ours */
            blob->p = buf_take(&b, &blob->n);
        }
        blob->refs++;
        if (conn_write_ref(peer->conn, (struct str) { blob->p, blob->n }, blob_put, blob) != 0) {
            blob->refs--;
            p->lost++;
        }
    }
    if (blob != NULL)
        blob_put(blob);
}

size_t zmtp_pub_peers(const struct zmtp_pub *p)
{
    size_t n = 0;

    for (struct ring *at = p->hub->peers.next; at != &p->hub->peers; at = at->next)
        n += CONTAINER_OF(at, struct zmtp_peer, ring)->sub_count != 0;
    return n;
}

uint64_t zmtp_pub_lost(const struct zmtp_pub *p)
{
    return p->lost;
}

void zmtp_pub_close(struct zmtp_pub *p)
{
    if (p == NULL)
        return;
    hub_close(p->hub);
    mem_free(p);
}

/* ---- sending a message to one peer ---- */

static int peer_send(struct zmtp_peer *p, const struct zmtp_msg *m)
{
    struct buf b;
    int rc;

    if (p->hub == NULL || p->closing || !p->ready)
        return ERR_CLOSED;
    buf_init(&b, SEND_BYTES_MAX);
    rc = zmtp_put(&b, m) ? conn_write(p->conn, buf_view(&b)) : ERR_LIMIT;
    buf_fini(&b);
    return rc;
}

/* ---- ROUTER ---- */

struct zmtp_router {
    struct zmtp_hub *hub;
    void (*on_request)(void *ctx, struct zmtp_peer *peer, const struct zmtp_msg *m);
    void *ctx;
};

static void router_message(struct zmtp_peer *p, const struct zmtp_msg *m)
{
    struct zmtp_router *r = p->hub->owner;

    r->on_request(r->ctx, p, m);
}

int zmtp_router_open(struct loop *l, const char *host, uint16_t port,
                     void (*on_request)(void *ctx, struct zmtp_peer *peer,
                                        const struct zmtp_msg *m),
                     void *ctx, struct zmtp_router **out, struct err *e)
{
    struct zmtp_router *r = mem_zalloc(sizeof(*r));
    int rc;

    *out = NULL;
    r->on_request = on_request;
    r->ctx = ctx;
    r->hub = hub_new(l, ROLE_ROUTER, r, 0);
    rc = listener_open(l, host, port, &r->hub->conn_opts, accepted, r->hub, &r->hub->listener, e);
    if (rc != 0) {
        zmtp_router_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

uint16_t zmtp_router_port(const struct zmtp_router *r)
{
    return listener_port(r->hub->listener);
}

int zmtp_router_send(struct zmtp_peer *peer, const struct zmtp_msg *m)
{
    return peer_send(peer, m);
}

void zmtp_peer_watch(struct zmtp_peer *peer, loop_fn *drain, loop_fn *gone, void *ctx)
{
    peer->drain = drain;
    peer->gone = gone;
    peer->watch_ctx = ctx;
}

void zmtp_router_close(struct zmtp_router *r)
{
    if (r == NULL)
        return;
    hub_close(r->hub);
    mem_free(r);
}

/* ---- SUB and DEALER that connect ---- */

struct zmtp_client {
    struct zmtp_hub *hub;
    struct zmtp_client_ops ops;
    void *ctx;
    char *subscribe;
    size_t subscribe_bytes;
    struct zmtp_peer *up;
};

static void send_subscription(struct zmtp_peer *p, struct str prefix)
{
    char body[1 + SUB_BYTES_MAX];
    struct zmtp_msg m = { .frame = { { body, 1 + prefix.n } }, .count = 1 };

    body[0] = 1;
    if (prefix.n != 0)
        memcpy(body + 1, prefix.p, prefix.n);
    if (peer_send(p, &m) != 0)
        peer_close(p);
}

static void client_ready(struct zmtp_peer *p)
{
    struct zmtp_client *c = p->hub->owner;

    c->up = p;
    if (p->hub->role == ROLE_SUB)
        send_subscription(p, (struct str) { c->subscribe, c->subscribe_bytes });
    if (c->ops.on_up != NULL)
        c->ops.on_up(c->ctx);
}

static void client_message(struct zmtp_peer *p, const struct zmtp_msg *m)
{
    struct zmtp_client *c = p->hub->owner;

    c->ops.on_msg(c->ctx, m);
}

static void client_down(struct zmtp_peer *p)
{
    struct zmtp_client *c = p->hub->owner;

    c->up = NULL;
    if (c->ops.on_down != NULL)
        c->ops.on_down(c->ctx);
}

int zmtp_client_open(struct loop *l, enum zmtp_kind kind, const char *host, uint16_t port,
                     struct str subscribe, const struct zmtp_client_ops *ops, void *ctx,
                     struct zmtp_client **out, struct err *e)
{
    struct zmtp_client *c;
    int rc;

    *out = NULL;
    if (subscribe.n > SUB_BYTES_MAX)
        return err_set(e, ERR_INVAL, "zmtp: a subscription has at most %d bytes", SUB_BYTES_MAX);
    c = mem_zalloc(sizeof(*c));
    c->ops = *ops;
    c->ctx = ctx;
    c->subscribe = str_dup(subscribe);
    c->subscribe_bytes = subscribe.n;
    c->hub = hub_new(l, kind == ZMTP_SUB ? ROLE_SUB : ROLE_DEALER, c, 0);
    rc = hub_dial(c->hub, host, port, e);
    if (rc != 0) {
        zmtp_client_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

int zmtp_client_send(struct zmtp_client *c, const struct zmtp_msg *m)
{
    return c->up != NULL ? peer_send(c->up, m) : ERR_CLOSED;
}

void zmtp_client_close(struct zmtp_client *c)
{
    if (c == NULL)
        return;
    hub_close(c->hub);
    mem_free(c->subscribe);
    mem_free(c);
}

/* ---- a SUB that binds ---- */

struct zmtp_sub {
    struct zmtp_hub *hub;
    void (*on_msg)(void *ctx, const char *peer, const struct zmtp_msg *m);
    void *ctx;
    char *subscribe;
    size_t subscribe_bytes;
};

static void bound_ready(struct zmtp_peer *p)
{
    struct zmtp_sub *s = p->hub->owner;

    send_subscription(p, (struct str) { s->subscribe, s->subscribe_bytes });
}

static void bound_message(struct zmtp_peer *p, const struct zmtp_msg *m)
{
    struct zmtp_sub *s = p->hub->owner;

    s->on_msg(s->ctx, conn_peer(p->conn), m);
}

int zmtp_sub_bind(struct loop *l, const char *host, uint16_t port, struct str subscribe,
                  void (*on_msg)(void *ctx, const char *peer, const struct zmtp_msg *m), void *ctx,
                  struct zmtp_sub **out, struct err *e)
{
    struct zmtp_sub *s;
    int rc;

    *out = NULL;
    if (subscribe.n > SUB_BYTES_MAX)
        return err_set(e, ERR_INVAL, "zmtp: a subscription has at most %d bytes", SUB_BYTES_MAX);
    s = mem_zalloc(sizeof(*s));
    s->on_msg = on_msg;
    s->ctx = ctx;
    s->subscribe = str_dup(subscribe);
    s->subscribe_bytes = subscribe.n;
    s->hub = hub_new(l, ROLE_SUB_BOUND, s, 0);
    rc = listener_open(l, host, port, &s->hub->conn_opts, accepted, s->hub, &s->hub->listener, e);
    if (rc != 0) {
        zmtp_sub_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

uint16_t zmtp_sub_port(const struct zmtp_sub *s)
{
    return listener_port(s->hub->listener);
}

void zmtp_sub_close(struct zmtp_sub *s)
{
    if (s == NULL)
        return;
    hub_close(s->hub);
    mem_free(s->subscribe);
    mem_free(s);
}

static const struct role roles[ROLE_COUNT] = {
    [ROLE_PUB] = { "PUB", { "SUB", "XSUB" }, 1024, NULL, pub_message, NULL },
    [ROLE_ROUTER] = { "ROUTER", { "DEALER", "REQ", "ROUTER" }, 4096, NULL, router_message, NULL },
    [ROLE_SUB] = { "SUB",
                   { "PUB", "XPUB" },
                   ZMTP_MSG_BYTES_MAX,
                   client_ready,
                   client_message,
                   client_down },
    [ROLE_DEALER] = { "DEALER",
                      { "ROUTER", "DEALER", "REP" },
                      ZMTP_MSG_BYTES_MAX,
                      client_ready,
                      client_message,
                      client_down },
    [ROLE_SUB_BOUND] = { "SUB",
                         { "PUB", "XPUB" },
                         ZMTP_MSG_BYTES_MAX,
                         bound_ready,
                         bound_message,
                         NULL },
};
