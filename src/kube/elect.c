/* One request at a time.  Two timers: when to try next, and how long what goes on may last (leading
 * without a renewal, giving the Lease away).  The Lease is watched, too, only to try at once when
 * it is given away: an election does not depend on it. */
// SPDX-License-Identifier: Apache-2.0
#include "kube/elect.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kube/reflector.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LEASE_S        15
#define RENEW_MS       10000
#define RETRY_MS       2000
#define CALL_MS        (RENEW_MS / 2)
#define RELEASE_MS     2000
#define LOG_MS         30000
#define LEASE_BYTES    ((size_t)1 << 20)
#define DURATION_S_MAX 3600
#define MICROTIME      32
static_assert(RENEW_MS + CALL_MS <= LEASE_S * 1000, "it steps back well before another may lead");

enum step { LOOK, CREATE, WRITE, RELEASE };

struct kube_elect {
    struct loop *loop;
    struct kube_client *client;
    char *list, *path, *name, *identity, *new_metadata;
    void (*on_change)(void *ctx, bool leads);
    void *ctx;
    struct http_call *call;
    enum step step;
    struct buf body;
    int status;
    uint64_t sent_ms;
    struct loop_timer *next, *limit;
    struct kube_reflector *watch;
    /* The Lease as it was last seen; metadata NULL: look first. */
    char *metadata, *spec, *holder, *acquired;
    uint32_t duration_s, transitions;
    uint64_t changed_ms; /* when spec was first seen as it is */
    bool leads, has_looked, has_failed;
    uint64_t logged_ms;
    loop_fn *left; /* not NULL: it is given away */
    void *left_ctx;
};

int kube_lease_read(const struct json *object, struct kube_lease *out, struct err *e)
{
    const struct json *meta = json_get(object, "metadata"), *spec = json_get(object, "spec");
    uint64_t n;

    *out = (struct kube_lease) { .holder = STR("") };
    if (!json_is(meta, JSON_OBJECT) || (spec != NULL && !json_is(spec, JSON_OBJECT)))
        return err_set(e, ERR_PARSE, "no Lease");
    out->metadata = meta->span;
    out->spec = spec != NULL ? spec->span : STR("{}");
    (void)json_str(json_get(spec, "holderIdentity"), &out->holder);
    (void)json_str(json_get(spec, "acquireTime"), &out->acquired);
    if (json_u64(json_get(spec, "leaseDurationSeconds"), &n) && n <= DURATION_S_MAX)
        out->duration_s = (uint32_t)n;
    if (json_u64(json_get(spec, "leaseTransitions"), &n) && n < INT32_MAX)
        out->transitions = (uint32_t)n;
    return 0;
}

static void set(char **at, struct str s)
{
    mem_free(*at);
    *at = s.n != 0 ? str_dup(s) : NULL;
}

static bool is_ours(const struct kube_elect *el)
{
    return el->holder != NULL && strcmp(el->holder, el->identity) == 0;
}

/* The first of a kind at once, then no more than one in LOG_MS. */
static void complain(struct kube_elect *el, const char *what, struct str more)
{
    uint64_t now = loop_now_ms(el->loop);

    if (el->has_failed && now - el->logged_ms < LOG_MS)
        return;
    el->has_failed = true;
    el->logged_ms = now;
    LOG_WARN("kubernetes: lease %s: %s%s%.*s leads=%d server=%s", el->name, what,
             more.n != 0 ? ": " : "", STR_ARG(more), el->leads, kube_client_server(el->client));
}

/* ---- leading ---- */

/* why NULL: of our own accord */
static void step_back(struct kube_elect *el, const char *why)
{
    if (!el->leads)
        return;
    el->leads = false;
    loop_timer_disarm(el->limit);
    if (why != NULL)
        LOG_WARN("kubernetes: leads no more lease=%s: %s", el->name, why);
    el->on_change(el->ctx, false);
}

/* A write was answered well: counted from when it was sent. */
static void renewed(struct kube_elect *el)
{
    uint64_t spent = loop_now_ms(el->loop) - el->sent_ms;

    if (spent >= RENEW_MS) { /* this process stood still */
        step_back(el, "its renewal was answered too late");
        return;
    }
    loop_timer_arm(el->limit, RENEW_MS - spent, 0);
    if (el->leads)
        return;
    el->leads = true;
    LOG_INFO("kubernetes: leads lease=%s identity=%s transitions=%u", el->name, el->identity,
             el->transitions);
    el->on_change(el->ctx, true);
}

static void done(struct kube_elect *el)
{
    loop_fn *fn = el->left;

    el->left = NULL;
    loop_timer_disarm(el->next);
    loop_timer_disarm(el->limit);
    fn(el->left_ctx);
}

static void limit_reached(void *ctx)
{
    struct kube_elect *el = ctx;

    if (el->call != NULL)
        http_call_cancel(el->call);
    el->call = NULL;
    if (el->left != NULL) {
        LOG_WARN("kubernetes: lease %s could not be given away: others wait until it runs out",
                 el->name);
        done(el);
        return;
    }
    step_back(el, "it could not be renewed in time");
    loop_timer_arm(el->next, RETRY_MS, 0);
}

/* ---- requests ---- */

static void microtime(char out[MICROTIME])
{
    double now = clock_wall_s();
    time_t second = (time_t)now;
    char stamp[24];
    struct tm tm;

    gmtime_r(&second, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, MICROTIME, "%s.%06uZ", stamp, (unsigned)((now - (double)second) * 1e6) % 1000000);
}

/* With us as the holder, or nobody.  A Lease that changes hands counts it. */
static void write_lease(const struct kube_elect *el, struct buf *b)
{
    bool gives = el->step == RELEASE, changes = !gives && !is_ours(el) && el->step != CREATE;
    char now[MICROTIME];
    struct json_w w;

    microtime(now);
    json_w_init(&w, b);
    json_w_obj(&w);
    json_w_kz(&w, "apiVersion", "coordination.k8s.io/v1");
    json_w_kz(&w, "kind", "Lease");
    json_w_kraw(&w, "metadata", str_of(el->step == CREATE ? el->new_metadata : el->metadata));
    json_w_kobj(&w, "spec");
    json_w_kz(&w, "holderIdentity", gives ? "" : el->identity);
    json_w_ku64(&w, "leaseDurationSeconds", gives ? 1 : LEASE_S);
    json_w_kz(&w, "acquireTime", is_ours(el) && el->acquired != NULL ? el->acquired : now);
    json_w_kz(&w, "renewTime", now);
    json_w_ku64(&w, "leaseTransitions", el->transitions + changes);
    json_w_end(&w, '}');
    json_w_end(&w, '}');
}

static void on_head(void *ctx, int status, const struct http_headers *h);
static void on_body(void *ctx, struct str bytes);
static void on_end(void *ctx, int rc, bool sent, bool got);

static void ask(struct kube_elect *el, enum step step)
{
    static const struct http_call_ops ops = { on_head, on_body, on_end };
    static const char *const methods[] = { "GET", "POST", "PUT", "PUT" };
    struct buf out;
    struct err e;

    buf_init(&out, LEASE_BYTES);
    el->step = step;
    el->status = 0;
    el->sent_ms = loop_now_ms(el->loop);
    buf_fini(&el->body);
    buf_init(&el->body, LEASE_BYTES);
    if (step != LOOK)
        write_lease(el, &out);
    if (kube_send(el->client, methods[step], str_of(step == CREATE ? el->list : el->path),
                  buf_view(&out), CALL_MS, &ops, el, &el->call, &e) != 0) {
        el->call = NULL;
        complain(el, e.msg, STR_NONE);
        loop_timer_arm(el->next, RETRY_MS, 0); /* leaving: the limit ends it */
    }
    buf_fini(&out);
}

static void go_on(void *ctx)
{
    struct kube_elect *el = ctx;

    if (el->call != NULL || el->left != NULL)
        return;
    el->has_looked = !el->leads || el->metadata == NULL;
    ask(el, el->has_looked ? LOOK : WRITE);
}

/* ---- answers ---- */

/* Takes over what the answer says of the Lease.  false: it says nothing that can be read. */
static bool observe(struct kube_elect *el)
{
    struct kube_lease lease;
    const struct json *root;
    struct arena a;
    struct err e;
    int rc;

    arena_init(&a, 8 * LEASE_BYTES);
    rc = el->body.failed ? err_set(&e, ERR_LIMIT, "over %zu bytes", LEASE_BYTES)
                         : json_parse(&a, buf_view(&el->body), NULL, &root, &e);
    if (rc == 0)
        rc = kube_lease_read(root, &lease, &e);
    if (rc != 0) {
        complain(el, "its answer cannot be read", str_of(e.msg));
    } else {
        if (el->spec == NULL || !str_eqz(lease.spec, el->spec))
            el->changed_ms = loop_now_ms(el->loop);
        set(&el->metadata, lease.metadata);
        set(&el->spec, lease.spec);
        set(&el->holder, lease.holder);
        set(&el->acquired, lease.acquired);
        el->duration_s = lease.duration_s;
        el->transitions = lease.transitions;
        el->has_failed = false;
    }
    arena_fini(&a);
    return rc == 0;
}

/* How long another may still lead; 0: the Lease can be taken. */
static uint64_t held_ms(const struct kube_elect *el)
{
    uint64_t whole = (el->duration_s != 0 ? el->duration_s : LEASE_S) * (uint64_t)1000;
    uint64_t spent = loop_now_ms(el->loop) - el->changed_ms;

    return el->holder == NULL || is_ours(el) || spent >= whole ? 0 : whole - spent;
}

static void looked(struct kube_elect *el)
{
    uint64_t held;

    if (!observe(el)) {
        loop_timer_arm(el->next, RETRY_MS, 0);
        return;
    }
    held = held_ms(el);
    if (held == 0) {
        ask(el, WRITE);
        return;
    }
    step_back(el, "another has taken it");
    loop_timer_arm(el->next, MIN(held, (uint64_t)RETRY_MS), 0);
}

static void refused(struct kube_elect *el)
{
    struct str message = STR_NONE;
    const struct json *root;
    struct arena a;
    struct err e;

    arena_init(&a, 8 * LEASE_BYTES);
    if (!el->body.failed && json_parse(&a, buf_view(&el->body), NULL, &root, &e) == 0)
        (void)json_str(json_get(root, "message"), &message);
    if (el->status == 403)
        complain(el,
                 "forbidden: the service account needs a Role with verbs get, list, watch, create "
                 "and update on leases.coordination.k8s.io in this namespace",
                 message);
    else if (el->status == 404)
        complain(el, "cannot be made: is the namespace there?", message);
    else
        complain(el, "refused", message.n != 0 ? message : STR("no reason given"));
    arena_fini(&a);
    loop_timer_arm(el->next, RETRY_MS, 0);
}

static void answered(struct kube_elect *el)
{
    bool well = el->status == 200 || el->status == 201;

    if (el->step == LOOK && el->status == 404) {
        set(&el->spec, STR_NONE);
        set(&el->holder, STR_NONE);
        el->transitions = 0;
        ask(el, CREATE);
    } else if (el->step == LOOK && well) {
        looked(el);
    } else if (well) {
        if (observe(el) && is_ours(el))
            renewed(el);
        loop_timer_arm(el->next, RETRY_MS, 0);
    } else if (el->status == 409 || (el->step == WRITE && el->status == 404)) {
        /* it is not what we knew; look, once at once */
        set(&el->metadata, STR_NONE);
        loop_timer_arm(el->next, el->has_looked ? RETRY_MS : 1, 0);
    } else {
        refused(el);
    }
}

/* Giving it away: what was under way when that began has ended, or the giving itself has. */
static void leaving(struct kube_elect *el)
{
    bool well = el->status == 200 || el->status == 201;

    if (el->step != RELEASE && well)
        (void)observe(el);
    if (el->step != RELEASE && is_ours(el) && el->metadata != NULL) {
        ask(el, RELEASE);
        return;
    }
    if (el->step == RELEASE && well)
        LOG_INFO("kubernetes: lease given away lease=%s", el->name);
    done(el);
}

static void on_head(void *ctx, int status, const struct http_headers *h)
{
    (void)h;
    ((struct kube_elect *)ctx)->status = status;
}

static void on_body(void *ctx, struct str bytes)
{
    buf_str(&((struct kube_elect *)ctx)->body, bytes);
}

static void on_end(void *ctx, int rc, bool sent, bool got)
{
    struct kube_elect *el = ctx;

    (void)sent;
    (void)got;
    el->call = NULL;
    if (rc != 0)
        el->status = 0;
    if (el->left != NULL) {
        leaving(el);
    } else if (rc != 0) {
        complain(el,
                 rc == ERR_MISMATCH  ? "the server's certificate is not accepted"
                 : rc == ERR_TIMEOUT ? "the server does not answer"
                                     : "the server cannot be reached",
                 STR_NONE);
        loop_timer_arm(el->next, RETRY_MS, 0);
    } else {
        answered(el);
    }
}

/* ---- the watch ---- */

static void watched_list(void *ctx)
{
    (void)ctx;
}

static void watched(void *ctx, bool is_deleted, const struct json *object)
{
    struct kube_elect *el = ctx;
    struct kube_lease lease;
    struct err e;

    if (el->leads || el->left != NULL || el->call != NULL)
        return;
    if (is_deleted || (kube_lease_read(object, &lease, &e) == 0 && lease.holder.n == 0))
        loop_timer_arm(el->next, 1, 0);
}

static void watch(struct kube_elect *el)
{
    static const struct kube_reflector_ops ops = { watched_list, watched, watched_list, NULL };
    struct kube_reflector_opts o = { .path = el->list, .what = "leases" };
    char select[400];

    snprintf(select, sizeof(select), "fieldSelector=metadata.name%%3D%s", el->name);
    o.selector = select;
    el->watch = kube_reflector_new(el->loop, el->client, &o, &ops, el);
}

/* ---- life ---- */

static char *path_of(const char *namespace, const char *name)
{
    struct buf b;
    char *out;

    buf_init(&b, 1024);
    buf_f(&b, "/apis/coordination.k8s.io/v1/namespaces/%s/leases%s%s", namespace,
          name[0] != 0 ? "/" : "", name);
    out = str_dup(buf_view(&b));
    buf_fini(&b);
    return out;
}

static char *metadata_of(const char *namespace, const char *name)
{
    struct json_w w;
    struct buf b;
    char *out;

    buf_init(&b, 4096);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_kz(&w, "name", name);
    json_w_kz(&w, "namespace", namespace);
    json_w_end(&w, '}');
    out = str_dup(buf_view(&b));
    buf_fini(&b);
    return out;
}

struct kube_elect *kube_elect_new(struct loop *l, struct kube_client *c,
                                  const struct kube_elect_opts *o)
{
    struct kube_elect *el = mem_zalloc(sizeof(*el));

    el->loop = l;
    el->client = c;
    el->list = path_of(o->namespace, "");
    el->path = path_of(o->namespace, o->name);
    el->new_metadata = metadata_of(o->namespace, o->name);
    el->name = mem_strdup(o->name);
    el->identity = mem_strdup(o->identity);
    el->on_change = o->on_change;
    el->ctx = o->ctx;
    buf_init(&el->body, LEASE_BYTES);
    el->limit = loop_timer_new(l, limit_reached, el);
    el->next = loop_timer_new(l, go_on, el);
    loop_timer_arm(el->next, 1, 0);
    watch(el);
    return el;
}

bool kube_elect_release(struct kube_elect *el, loop_fn *fn, void *ctx)
{
    bool led = el->leads;

    step_back(el, NULL);
    el->left = fn;
    el->left_ctx = ctx;
    loop_timer_disarm(el->next);
    loop_timer_arm(el->limit, RELEASE_MS, 0);
    if (el->call != NULL) /* what it brings about is seen to its end */
        return led;
    if (is_ours(el) && el->metadata != NULL)
        ask(el, RELEASE);
    else
        done(el);
    return led;
}

void kube_elect_free(struct kube_elect *el)
{
    if (el == NULL)
        return;
    if (el->call != NULL)
        http_call_cancel(el->call);
    kube_reflector_free(el->watch);
    loop_timer_free(el->next);
    loop_timer_free(el->limit);
    buf_fini(&el->body);
    mem_free(el->list);
    mem_free(el->path);
    mem_free(el->new_metadata);
    mem_free(el->name);
    mem_free(el->identity);
    mem_free(el->metadata);
    mem_free(el->spec);
    mem_free(el->holder);
    mem_free(el->acquired);
    mem_free(el);
}
