/* One request at a time: a page of the list, or the watch.  What an answer of another status says
 * is collected in body, too, for its message. */
// SPDX-License-Identifier: Apache-2.0
#include "kube/reflector.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kube/selector.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PAGE_OBJECTS    500
#define PAGE_BYTES_MAX  ((size_t)64 << 20)
#define EVENT_BYTES_MAX ((size_t)4 << 20) /* the API server's own ceiling is 1.5 MiB an object */
#define ARENA_BYTES_MAX ((size_t)256 << 20)
#define WATCH_S         90
#define GAP_MS          (WATCH_S * 1000 + 15000)
#define WAIT_MIN_MS     500
#define WAIT_MAX_MS     30000
#define ABSENT_MS       30000
#define RELIST_MS       2000
#define WELL_MS         2000 /* a watch that lasted so long was well */
#define LOG_MS          30000
#define ASKED_S_MAX     300

struct kube_reflector {
    struct loop *loop;
    struct kube_client *client;
    struct kube_reflector_opts o; /* its strings are ours */
    struct kube_reflector_ops ops;
    void *ctx;
    struct http_call *call;
    struct loop_timer *timer;
    struct rng rng;
    struct buf body; /* a page, or a watch's unfinished line */
    char *version;   /* watch from here; NULL: list first */
    char *list_version, *next_page;
    uint64_t began_ms, logged_ms;
    uint32_t wait_ms, asked_ms; /* asked_ms: by the server, with its last answer */
    int status;
    bool watching, in_list, relist, failed, told_present;
    struct kube_reflector_stats stats;
};

static void go_on(void *ctx);

static void set_z(char **at, struct str s)
{
    mem_free(*at);
    *at = s.p != NULL && s.n != 0 ? str_dup(s) : NULL;
}

static void again_in(struct kube_reflector *r, uint64_t ms)
{
    loop_timer_arm(r->timer, MAX(ms, (uint64_t)1), 0);
}

static void back_off(struct kube_reflector *r)
{
    r->wait_ms = MIN(MAX(r->wait_ms * 2, (uint32_t)WAIT_MIN_MS), (uint32_t)WAIT_MAX_MS);
    again_in(r, MAX(r->wait_ms / 2, r->asked_ms) + rng_below(&r->rng, r->wait_ms));
}

/* The first of a kind at once, then no more than one in LOG_MS. */
static void complain(struct kube_reflector *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static void complain(struct kube_reflector *r, const char *fmt, ...)
{
    uint64_t now = loop_now_ms(r->loop);
    char text[512];
    va_list ap;

    r->stats.errors++;
    if (r->stats.connected || r->stats.errors == 1)
        r->logged_ms = 0;
    r->stats.connected = false;
    if (r->logged_ms != 0 && now - r->logged_ms < LOG_MS)
        return;
    r->logged_ms = now;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    LOG_WARN("kubernetes: %s what=%s server=%s%s", text, r->o.what, kube_client_server(r->client),
             r->stats.synced ? " (what was known before is kept)" : "");
}

static void well(struct kube_reflector *r)
{
    if (!r->stats.connected && r->stats.errors != 0)
        LOG_INFO("kubernetes: answers again what=%s server=%s", r->o.what,
                 kube_client_server(r->client));
    r->stats.connected = true;
}

static void present(struct kube_reflector *r, bool is_present)
{
    if (!r->o.optional || (r->told_present && r->stats.absent == !is_present))
        return;
    r->told_present = true;
    r->stats.absent = !is_present;
    if (r->ops.on_present != NULL)
        r->ops.on_present(r->ctx, is_present);
}

/* ---- answers that are none ---- */

static void refused(struct kube_reflector *r)
{
    struct str message = STR_NONE;
    const struct json *root;
    struct arena a;
    struct err e;

    arena_init(&a, ARENA_BYTES_MAX);
    if (json_parse(&a, buf_view(&r->body), NULL, &root, &e) == 0)
        (void)json_str(json_get(root, "message"), &message);
    if (r->status == 404 && r->o.optional) {
        if (!r->stats.absent)
            LOG_INFO("kubernetes: the server does not know %s, going on without", r->o.what);
        r->in_list = false;
        set_z(&r->version, STR_NONE);
        well(r);
        present(r, false);
        again_in(r, ABSENT_MS);
        arena_fini(&a);
        return;
    }
    if (r->status == 410) { /* what we knew is too old to go on from */
        set_z(&r->version, STR_NONE);
        set_z(&r->next_page, STR_NONE);
        r->in_list = false;
    }
    if (r->status == 403)
        complain(r,
                 "forbidden: the service account needs a Role with verbs get, list and watch on %s "
                 "in this namespace: %.*s",
                 r->o.what, STR_ARG(message));
    else if (r->status == 401)
        complain(r, "the token is not accepted: %.*s", STR_ARG(message));
    else if (r->status != 410)
        complain(r, "answers %d: %.*s", r->status, STR_ARG(message));
    arena_fini(&a);
    back_off(r);
}

/* ---- the list ---- */

static void page_done(struct kube_reflector *r)
{
    const struct json *root, *meta, *items;
    struct str version = STR_NONE, next = STR_NONE;
    struct json_limits limits = { .values_max = 20000000, .depth_max = 128 };
    struct arena a;
    struct err e;
    int rc;

    arena_init(&a, ARENA_BYTES_MAX);
    rc = r->body.failed ? err_set(&e, ERR_LIMIT, "a page of over %zu bytes", PAGE_BYTES_MAX)
                        : json_parse(&a, buf_view(&r->body), &limits, &root, &e);
    if (rc == 0) {
        meta = json_get(root, "metadata");
        items = json_get(root, "items");
        if (!json_str(json_get(meta, "resourceVersion"), &version) ||
            (items != NULL && !json_is(items, JSON_ARRAY) && !json_is(items, JSON_NULL)))
            rc = err_set(&e, ERR_PARSE, "no list");
    }
    if (rc != 0) {
        complain(r, "sent a list that cannot be read (%s)", e.msg);
        arena_fini(&a);
        back_off(r);
        return;
    }
    well(r);
    present(r, true);
    if (!r->in_list) {
        r->in_list = true;
        r->ops.on_begin(r->ctx);
    }
    for (const struct json *j = items != NULL ? items->first : NULL; j != NULL; j = j->next) {
        r->stats.objects++;
        r->ops.on_object(r->ctx, false, j);
    }
    (void)json_str(json_get(meta, "continue"), &next);
    set_z(&r->next_page, next);
    set_z(&r->list_version, version);
    arena_fini(&a);
    if (r->next_page == NULL) {
        r->in_list = false;
        r->wait_ms = 0;
        r->stats.lists++;
        r->stats.synced = true;
        set_z(&r->version, str_of(r->list_version));
        r->ops.on_synced(r->ctx);
    }
    if (r->relist) {
        r->relist = false;
        set_z(&r->version, STR_NONE);
        again_in(r, RELIST_MS);
        return;
    }
    go_on(r);
}

/* ---- the watch ---- */

static void event(struct kube_reflector *r, struct str line)
{
    struct kube_event ev;
    struct arena a;
    struct err e;

    if (str_trim(line).n == 0)
        return;
    arena_init(&a, ARENA_BYTES_MAX);
    if (kube_event_parse(&a, line, &ev, &e) != 0) {
        complain(r, "sent an event that cannot be read (%s)", e.msg);
        r->failed = true;
        set_z(&r->version, STR_NONE); /* something was missed */
    } else if (ev.change == KUBE_ERROR) {
        if (ev.code != 410)
            complain(r, "ends the watch: %.*s", STR_ARG(ev.message));
        r->failed = ev.code != 410;
        set_z(&r->version, STR_NONE);
    } else if (r->version != NULL) {
        well(r);
        if (ev.version.p != NULL)
            set_z(&r->version, ev.version);
        if (ev.change != KUBE_BOOKMARK) {
            r->stats.objects++;
            r->ops.on_object(r->ctx, ev.change == KUBE_DELETED, ev.object);
        }
    }
    arena_fini(&a);
}

static void lines(struct kube_reflector *r)
{
    size_t from = 0;

    for (;;) {
        struct str rest = str_sub(buf_view(&r->body), from, SIZE_MAX);
        size_t end = str_chr(rest, '\n');

        if (end == SIZE_MAX)
            break;
        event(r, (struct str) { rest.p, end });
        from += end + 1;
    }
    buf_drop(&r->body, from);
}

static void watch_done(struct kube_reflector *r)
{
    uint64_t lasted = loop_now_ms(r->loop) - r->began_ms;

    if (lasted >= WELL_MS)
        r->wait_ms = 0;
    if (r->failed || lasted < WELL_MS)
        back_off(r);
    else
        go_on(r);
}

/* ---- requests ---- */

static void on_head(void *ctx, int status, const struct http_headers *h)
{
    struct kube_reflector *r = ctx;
    uint64_t seconds;

    r->status = status;
    if (status != 200 && str_u64(http_header_get(h, "retry-after"), &seconds))
        r->asked_ms = (uint32_t)MIN(seconds, (uint64_t)ASKED_S_MAX) * 1000;
    if (r->watching && status == 200)
        r->stats.watches++;
}

static void on_body(void *ctx, struct str bytes)
{
    struct kube_reflector *r = ctx;

    buf_str(&r->body, bytes);
    if (!r->watching || r->status != 200)
        return;
    if (!r->body.failed)
        lines(r);
    if (r->body.len > EVENT_BYTES_MAX || r->body.failed) {
        complain(r, "sent an event of over %zu bytes", EVENT_BYTES_MAX);
        r->failed = true;
        set_z(&r->version, STR_NONE);
    }
    if (r->version == NULL) { /* nothing to go on from: what else this watch says is of no use */
        http_call_cancel(r->call);
        r->call = NULL;
        watch_done(r);
    }
}

static void on_end(void *ctx, int rc, bool sent, bool got)
{
    struct kube_reflector *r = ctx;

    (void)sent;
    r->call = NULL;
    if (!got && rc != 0) {
        complain(r, rc == ERR_MISMATCH  ? "the server's certificate is not accepted"
                    : rc == ERR_TIMEOUT ? "does not answer"
                                        : "cannot be reached");
        back_off(r);
    } else if (r->status != 200) {
        refused(r);
    } else if (r->watching) {
        /* a cut watch is tried again from where it was */
        watch_done(r);
    } else if (rc != 0) {
        complain(r, "broke off a list");
        back_off(r);
    } else {
        page_done(r);
    }
}

static void query(const struct kube_reflector *r, struct buf *b)
{
    buf_f(b, "%s?", r->o.path);
    if (r->o.selector != NULL)
        buf_f(b, "%s&", r->o.selector);
    if (r->watching)
        buf_f(b, "watch=true&allowWatchBookmarks=true&timeoutSeconds=%d&resourceVersion=%s",
              WATCH_S, r->version);
    else
        buf_f(b, "limit=%d", PAGE_OBJECTS);
    if (!r->watching && r->next_page != NULL) {
        buf_z(b, "&continue=");
        kube_percent(b, str_of(r->next_page));
    }
}

static void go_on(void *ctx)
{
    struct kube_reflector *r = ctx;
    static const struct http_call_ops ops = { on_head, on_body, on_end };
    struct buf path;
    struct err e;

    if (r->call != NULL)
        return;
    r->watching = r->version != NULL;
    r->failed = false;
    r->status = 0;
    r->asked_ms = 0;
    r->began_ms = loop_now_ms(r->loop);
    buf_fini(&r->body);
    buf_init(&r->body, PAGE_BYTES_MAX);
    buf_init(&path, 1 << 16);
    query(r, &path);
    if (kube_get(r->client, buf_view(&path), GAP_MS, &ops, r, &r->call, &e) != 0) {
        r->call = NULL;
        complain(r, "%s", e.msg);
        back_off(r);
    }
    buf_fini(&path);
}

struct kube_reflector *kube_reflector_new(struct loop *l, struct kube_client *c,
                                          const struct kube_reflector_opts *o,
                                          const struct kube_reflector_ops *ops, void *ctx)
{
    struct kube_reflector *r = mem_zalloc(sizeof(*r));

    r->loop = l;
    r->client = c;
    r->o = *o;
    r->o.path = mem_strdup(o->path);
    r->o.what = mem_strdup(o->what);
    r->o.selector = o->selector != NULL ? mem_strdup(o->selector) : NULL;
    r->ops = *ops;
    r->ctx = ctx;
    r->stats.connected = true;
    rng_seed(&r->rng, (uint64_t)(uintptr_t)r ^ (uint64_t)getpid() << 32 ^ loop_now_ms(l));
    buf_init(&r->body, PAGE_BYTES_MAX);
    r->timer = loop_timer_new(l, go_on, r);
    again_in(r, 1);
    return r;
}

void kube_reflector_free(struct kube_reflector *r)
{
    if (r == NULL)
        return;
    if (r->call != NULL)
        http_call_cancel(r->call);
    loop_timer_free(r->timer);
    buf_fini(&r->body);
    mem_free(r->version);
    mem_free(r->list_version);
    mem_free(r->next_page);
    mem_free((void *)r->o.path);
    mem_free((void *)r->o.what);
    mem_free((void *)r->o.selector);
    mem_free(r);
}

void kube_reflector_relist(struct kube_reflector *r)
{
    r->relist = true;
}

const struct kube_reflector_stats *kube_reflector_stats(const struct kube_reflector *r)
{
    return &r->stats;
}
