// SPDX-License-Identifier: Apache-2.0
#include "kube/discovery.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "kube/selector.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOGETHER_MS     20
#define OBJECTS_MAX     4096
#define OBJECT_BYTES    ((size_t)256 << 10)
#define TEXT_BYTES_MAX  ((size_t)1 << 20)
#define QUERY_BYTES_MAX ((size_t)16 << 10)
#define GROUP_NOW       "llm-d.ai"
#define GROUP_OLDER     "inference.networking.x-k8s.io"
#define GROUP_POOL      "inference.networking.k8s.io"

/* Kinds of objects by rank: of one name and kind the lower one counts. */
static const struct {
    const char *kind, *plural, *group;
} KINDS[] = {
    { "InferenceObjective", "inferenceobjectives", GROUP_NOW },
    { "InferenceModelRewrite", "inferencemodelrewrites", GROUP_NOW },
    { "InferenceObjective", "inferenceobjectives", GROUP_OLDER },
    { "InferenceModelRewrite", "inferencemodelrewrites", GROUP_OLDER },
};

struct object {
    char *name, *created, *spec; /* spec: JSON */
    uint32_t kind;               /* of KINDS */
    bool listed;
};

struct kind { /* a reflector's ctx */
    struct kube_discovery *d;
    uint32_t at;
    struct kube_reflector *reflector;
};

struct kube_discovery {
    struct loop *loop;
    struct kube_client *client;
    struct kube_discovery_ops ops;
    void *ctx;
    char *namespace, *pool, *pool_group, *query; /* query: of the pods; NULL: no selector yet */
    char *pool_what;
    uint16_t port[KUBE_PORTS_MAX];
    uint32_t port_count;
    bool selector_is_new, is_doubted, pool_listed, pods_changed, objects_changed, tells_soon,
        told_full;
    struct kube_pods *pods;
    struct kube_reflector *pool_reflector, *pods_reflector;
    struct kind kind[COUNT(KINDS)];
    struct object *object;
    uint32_t object_count;
    struct loop_timer *timer;
};

/* ---- what flags say ---- */

int kube_ports_parse(struct str text, uint16_t port[KUBE_PORTS_MAX], uint32_t *count, struct err *e)
{
    struct str rest = text;

    *count = 0;
    while (rest.p != NULL) {
        bool is_new = true;
        uint64_t n;

        if (!str_u64(str_trim(str_cut(&rest, ',')), &n) || n == 0 || n > 65535)
            return err_set(e, ERR_INVAL, "ports %.*s: must be numbers 1..65535 with commas",
                           STR_ARG(text));
        for (uint32_t i = 0; i < *count; i++)
            is_new &= port[i] != n;
        if (!is_new)
            continue;
        if (*count == KUBE_PORTS_MAX)
            return err_set(e, ERR_INVAL, "ports %.*s: at most %d", STR_ARG(text), KUBE_PORTS_MAX);
        port[(*count)++] = (uint16_t)n;
    }
    return 0;
}

/* ---- telling ---- */

/* From the first change on: a stream of changes must not put the telling off. */
static void soon(struct kube_discovery *d)
{
    if (d->tells_soon)
        return;
    d->tells_soon = true;
    loop_timer_arm(d->timer, TOGETHER_MS, 0);
}

static int by_age(const void *a, const void *b)
{
    const struct object *x = a, *y = b;
    int by = strcmp(x->created, y->created);

    return by != 0 ? by : strcmp(x->name, y->name);
}

/* An object of the older group is passed over when the newer one has its name. */
static bool is_hidden(const struct kube_discovery *d, const struct object *o)
{
    for (uint32_t i = 0; i < d->object_count; i++) {
        const struct object *x = &d->object[i];

        if (x->kind < o->kind && strcmp(KINDS[x->kind].kind, KINDS[o->kind].kind) == 0 &&
            strcmp(x->name, o->name) == 0)
            return true;
    }
    return false;
}

static void tell_objects(struct kube_discovery *d)
{
    struct json_w w;
    struct buf b;

    qsort(d->object, d->object_count, sizeof(*d->object), by_age);
    buf_init(&b, TEXT_BYTES_MAX);
    for (uint32_t i = 0; i < d->object_count; i++) {
        const struct object *o = &d->object[i];

        if (is_hidden(d, o))
            continue;
        if (b.len != 0)
            buf_z(&b, "\n---\n");
        json_w_init(&w, &b);
        json_w_obj(&w);
        json_w_kz(&w, "kind", KINDS[o->kind].kind);
        json_w_kobj(&w, "metadata");
        json_w_kz(&w, "name", o->name);
        json_w_end(&w, '}');
        json_w_kraw(&w, "spec", str_of(o->spec));
        json_w_end(&w, '}');
    }
    if (b.failed)
        LOG_ERROR("kubernetes: objectives and rewrites of over %zu bytes together: what was there "
                  "before stays",
                  TEXT_BYTES_MAX);
    else
        d->ops.on_objects(d->ctx, buf_view(&b));
    buf_fini(&b);
}

static bool is_unready(const struct kube_pod *p)
{
    return p->was_used && p->reason != NULL && strcmp(p->reason, KUBE_UNREADY) == 0;
}

static bool is_doubtful(const struct kube_pods *pods)
{
    bool any = false;

    for (uint32_t i = 0; i < kube_pods_count(pods); i++) {
        if (kube_pods_at(pods, i)->reason == NULL)
            return false;
        any |= is_unready(kube_pods_at(pods, i));
    }
    return any;
}

const char *kube_view_reason(const struct kube_view *v, const struct kube_pod *pod)
{
    if (pod->reason != NULL && !(v->is_doubted && is_unready(pod)))
        return pod->reason;
    for (uint32_t i = 0; i < v->port_count; i++)
        if (kube_pod_has_port(pod, v->port[i]))
            return NULL;
    return KUBE_INACTIVE;
}

static struct kube_view view_of(const struct kube_discovery *d)
{
    return (struct kube_view) { .pods = d->pods,
                                .is_doubted = is_doubtful(d->pods),
                                .port = d->port,
                                .port_count = d->port_count };
}

static void tell(void *ctx)
{
    struct kube_discovery *d = ctx;

    d->tells_soon = false;
    if (d->pods_changed) {
        struct kube_view v = view_of(d);

        d->pods_changed = false;
        if (v.is_doubted && !d->is_doubted)
            LOG_WARN("kubernetes: no pod is ready any more: those that were and still answer are "
                     "used");
        d->is_doubted = v.is_doubted;
        d->ops.on_view(d->ctx, &v);
    }
    if (d->objects_changed) {
        d->objects_changed = false;
        tell_objects(d);
    }
}

/* ---- pods ---- */

static void pods_begin(void *ctx)
{
    kube_pods_begin(((struct kube_discovery *)ctx)->pods);
}

/* Once, until a list has room for all again. */
static void tell_full(struct kube_discovery *d)
{
    if (kube_pods_left_out(d->pods) != 0 && !d->told_full)
        LOG_WARN("kubernetes: more than %d pods match: the others are left out; a narrower "
                 "selector, or a scheduler for each part of them",
                 KUBE_PODS_MAX);
    d->told_full = kube_pods_left_out(d->pods) != 0;
}

static void pods_object(void *ctx, bool is_deleted, const struct json *object)
{
    struct kube_discovery *d = ctx;
    struct kube_pod pod;
    struct err e;

    if (kube_pod_read(object, &pod, &e) != 0) {
        LOG_WARN("kubernetes: left out: %s", e.msg);
        return;
    }
    if (is_deleted ? !kube_pods_del(d->pods, pod.name) : !kube_pods_put(d->pods, &pod)) {
        if (kube_pods_left_out(d->pods) != 0)
            tell_full(d);
        return;
    }
    d->pods_changed = true;
    soon(d);
}

static bool any_used(const struct kube_discovery *d)
{
    struct kube_view v = view_of(d);

    for (uint32_t i = 0; i < kube_pods_count(d->pods); i++)
        if (kube_view_reason(&v, kube_pods_at(d->pods, i)) == NULL)
            return true;
    return false;
}

static void pods_synced(void *ctx)
{
    struct kube_discovery *d = ctx;

    tell_full(d);
    if (!d->selector_is_new && kube_pods_listed(d->pods) == 0 && any_used(d) &&
        d->ops.still_answer(d->ctx)) {
        LOG_WARN("kubernetes: the list of pods is empty while workers answer: not believed, asked "
                 "for again");
        kube_reflector_relist(d->pods_reflector);
        return;
    }
    d->selector_is_new = false;
    d->pods_changed = true;
    (void)kube_pods_end(d->pods);
    soon(d);
}

static void pods_follow(struct kube_discovery *d)
{
    static const struct kube_reflector_ops ops = { pods_begin, pods_object, pods_synced, NULL };
    struct kube_reflector_opts o = { .selector = d->query, .what = "pods" };
    char path[400];

    kube_reflector_free(d->pods_reflector);
    d->pods_reflector = NULL;
    d->selector_is_new = true;
    if (d->query == NULL)
        return;
    snprintf(path, sizeof(path), "/api/v1/namespaces/%s/pods", d->namespace);
    o.path = path;
    d->pods_reflector = kube_reflector_new(d->loop, d->client, &o, &ops, d);
}

/* ---- the pool ---- */

/* spec.selector.matchLabels as a query; false: it has none that can be used. */
static bool pool_selector(const struct json *spec, struct buf *out)
{
    const struct json *labels = json_get(json_get(spec, "selector"), "matchLabels");

    if (!json_is(labels, JSON_OBJECT) || labels->count == 0 || labels->count > KUBE_LABELS_MAX)
        return false;
    buf_z(out, "labelSelector=");
    for (const struct json *j = labels->first; j != NULL; j = j->next) {
        if (!json_is(j, JSON_STRING) || !kube_label_key_ok(j->key) || !kube_label_value_ok(j->text))
            return false;
        kube_percent(out, j->key);
        buf_z(out, "%3D");
        kube_percent(out, j->text);
        if (j->next != NULL)
            buf_z(out, "%2C");
    }
    buf_c(out, 0);
    return !out->failed;
}

/* v1: targetPorts [{number}]; v1alpha2: targetPortNumber. */
static uint32_t pool_ports(const struct json *spec, uint16_t port[KUBE_PORTS_MAX])
{
    const struct json *list = json_get(spec, "targetPorts");
    uint32_t n = 0;
    uint64_t v;

    if (json_u64(json_get(spec, "targetPortNumber"), &v) && v > 0 && v < 65536)
        port[n++] = (uint16_t)v;
    for (const struct json *j = json_is(list, JSON_ARRAY) ? list->first : NULL;
         j != NULL && n < KUBE_PORTS_MAX; j = j->next)
        if (json_u64(json_get(j, "number"), &v) && v > 0 && v < 65536)
            port[n++] = (uint16_t)v;
    return n;
}

static void pool_gone(struct kube_discovery *d)
{
    if (d->query == NULL)
        return;
    LOG_WARN("kubernetes: InferencePool %s/%s is gone: its endpoints leave", d->namespace, d->pool);
    mem_free(d->query);
    d->query = NULL;
    pods_follow(d);
    kube_pods_begin(d->pods);
    (void)kube_pods_end(d->pods);
    d->pods_changed = true;
    soon(d);
}

static void pool_begin(void *ctx)
{
    ((struct kube_discovery *)ctx)->pool_listed = false;
}

static void pool_object(void *ctx, bool is_deleted, const struct json *object)
{
    struct kube_discovery *d = ctx;
    const struct json *meta = json_get(object, "metadata"), *spec = json_get(object, "spec");
    struct str name = STR_NONE;
    uint16_t port[KUBE_PORTS_MAX];
    uint32_t count = pool_ports(spec, port);
    struct buf query;

    (void)json_str(json_get(meta, "name"), &name);
    if (!str_eqz(name, d->pool))
        return;
    if (is_deleted || json_is(json_get(meta, "deletionTimestamp"), JSON_STRING)) {
        pool_gone(d);
        return;
    }
    d->pool_listed = true;
    buf_init(&query, QUERY_BYTES_MAX);
    if (count == 0 || !pool_selector(spec, &query)) {
        LOG_ERROR("kubernetes: InferencePool %s/%s has no selector.matchLabels or targetPorts that "
                  "can be used: what was there before stays",
                  d->namespace, d->pool);
        buf_fini(&query);
        return;
    }
    if (count != d->port_count || memcmp(port, d->port, count * sizeof(*port)) != 0) {
        memcpy(d->port, port, sizeof(port));
        d->port_count = count;
        d->pods_changed = true;
        soon(d);
    }
    if (d->query == NULL || strcmp(d->query, query.p) != 0) {
        LOG_INFO("kubernetes: InferencePool %s/%s followed ports=%u first=%u", d->namespace,
                 d->pool, count, port[0]);
        mem_free(d->query);
        d->query = mem_strdup(query.p);
        pods_follow(d);
    }
    buf_fini(&query);
}

static void pool_synced(void *ctx)
{
    struct kube_discovery *d = ctx;

    if (d->pool_listed)
        return;
    if (d->query == NULL) {
        LOG_WARN("kubernetes: there is no InferencePool %s in namespace %s yet", d->pool,
                 d->namespace);
    } else if (d->ops.still_answer(d->ctx)) {
        LOG_WARN("kubernetes: InferencePool %s/%s is not in the list while its workers answer: not "
                 "believed, asked for again",
                 d->namespace, d->pool);
        kube_reflector_relist(d->pool_reflector);
    } else {
        pool_gone(d);
    }
}

static void pool_present(void *ctx, bool is_present)
{
    struct kube_discovery *d = ctx;

    if (!is_present)
        LOG_ERROR("kubernetes: the server does not know InferencePool of %s: install its CRD, or "
                  "use --endpoint-selector and --endpoint-target-ports",
                  d->pool_group);
}

static void pool_follow(struct kube_discovery *d)
{
    static const struct kube_reflector_ops ops = { pool_begin, pool_object, pool_synced,
                                                   pool_present };
    struct kube_reflector_opts o = { .what = d->pool_what, .optional = true };
    char path[700], select[400];

    snprintf(path, sizeof(path), "/apis/%s/%s/namespaces/%s/inferencepools", d->pool_group,
             strcmp(d->pool_group, GROUP_POOL) == 0 ? "v1" : "v1alpha2", d->namespace);
    snprintf(select, sizeof(select), "fieldSelector=metadata.name%%3D%s", d->pool);
    o.path = path;
    o.selector = select;
    d->pool_reflector = kube_reflector_new(d->loop, d->client, &o, &ops, d);
}

/* ---- objectives and rewrites ---- */

static void object_clear(struct object *o)
{
    mem_free(o->name);
    mem_free(o->created);
    mem_free(o->spec);
}

static void object_drop(struct kube_discovery *d, uint32_t i)
{
    object_clear(&d->object[i]);
    d->object[i] = d->object[--d->object_count];
    d->objects_changed = true;
    soon(d);
}

static uint32_t object_find(const struct kube_discovery *d, uint32_t kind, struct str name)
{
    uint32_t i = 0;

    while (i < d->object_count && (d->object[i].kind != kind || !str_eqz(name, d->object[i].name)))
        i++;
    return i;
}

/* Whether it is meant for our pool; without a pool every one of the namespace is. */
static bool is_ours(const struct kube_discovery *d, const struct json *spec)
{
    const struct json *ref = json_get(spec, "poolRef");
    struct str name = STR_NONE, group = STR(GROUP_POOL);

    (void)json_str(json_get(ref, "name"), &name);
    (void)json_str(json_get(ref, "group"), &group);
    return d->pool == NULL || (str_eqz(name, d->pool) && str_eqz(group, d->pool_group));
}

static void kind_begin(void *ctx)
{
    struct kind *k = ctx;

    for (uint32_t i = 0; i < k->d->object_count; i++)
        if (k->d->object[i].kind == k->at)
            k->d->object[i].listed = false;
}

static void kind_object(void *ctx, bool is_deleted, const struct json *object)
{
    struct kind *k = ctx;
    struct kube_discovery *d = k->d;
    const struct json *meta = json_get(object, "metadata"), *spec = json_get(object, "spec");
    struct str name = STR_NONE, created = STR("");
    struct object o = { .kind = k->at, .listed = true };
    uint32_t at;

    if (!json_str(json_get(meta, "name"), &name) || name.n == 0)
        return;
    (void)json_str(json_get(meta, "creationTimestamp"), &created);
    at = object_find(d, k->at, name);
    if (is_deleted || !json_is(spec, JSON_OBJECT) || !is_ours(d, spec) ||
        spec->span.n > OBJECT_BYTES) {
        if (at < d->object_count)
            object_drop(d, at);
        return;
    }
    if (at < d->object_count) {
        d->object[at].listed = true;
        if (str_eqz(spec->span, d->object[at].spec))
            return;
        object_drop(d, at);
    }
    if (d->object_count == OBJECTS_MAX) {
        LOG_WARN("kubernetes: more than %d objectives and rewrites: %.*s is left out", OBJECTS_MAX,
                 STR_ARG(name));
        return;
    }
    o.name = str_dup(name);
    o.created = str_dup(created);
    o.spec = str_dup(spec->span);
    d->object = mem_realloc(d->object, (d->object_count + 1) * sizeof(*d->object));
    d->object[d->object_count++] = o;
    d->objects_changed = true;
    soon(d);
}

static void kind_synced(void *ctx)
{
    struct kind *k = ctx;

    for (uint32_t i = k->d->object_count; i-- > 0;)
        if (k->d->object[i].kind == k->at && !k->d->object[i].listed)
            object_drop(k->d, i);
}

static void kind_present(void *ctx, bool is_present)
{
    if (is_present)
        return;
    kind_begin(ctx); /* the kind was taken away: none of it is left */
    kind_synced(ctx);
}

static void kinds_follow(struct kube_discovery *d)
{
    static const struct kube_reflector_ops ops = { kind_begin, kind_object, kind_synced,
                                                   kind_present };

    for (uint32_t i = 0; i < COUNT(KINDS); i++) {
        char path[700], what[200];
        struct kube_reflector_opts o = { .path = path, .what = what, .optional = true };

        snprintf(path, sizeof(path), "/apis/%s/v1alpha2/namespaces/%s/%s", KINDS[i].group,
                 d->namespace, KINDS[i].plural);
        snprintf(what, sizeof(what), "%s.%s", KINDS[i].plural, KINDS[i].group);
        d->kind[i] = (struct kind) { .d = d, .at = i };
        d->kind[i].reflector = kube_reflector_new(d->loop, d->client, &o, &ops, &d->kind[i]);
    }
}

/* ---- life ---- */

bool kube_name_ok(const char *s)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '-' ||
              s[i] == '.'))
            return false;
    return n > 0 && n <= 253;
}

static int prepare(struct kube_discovery *d, const struct kube_discovery_opts *o, struct err *e)
{
    struct buf query;
    char what[300];
    int rc = 0;

    if (o->namespace == NULL || !kube_name_ok(o->namespace))
        return err_set(e, ERR_INVAL, "the namespace is not known: give --pool-namespace");
    d->namespace = mem_strdup(o->namespace);
    if (o->pool != NULL) {
        d->pool = mem_strdup(o->pool);
        d->pool_group = mem_strdup(o->pool_group != NULL ? o->pool_group : GROUP_POOL);
        if (!kube_name_ok(o->pool) || !kube_name_ok(d->pool_group))
            return err_set(e, ERR_INVAL, "%s of %s is no name of a pool", o->pool, d->pool_group);
        snprintf(what, sizeof(what), "inferencepools.%s", d->pool_group);
        d->pool_what = mem_strdup(what);
        return 0;
    }
    buf_init(&query, QUERY_BYTES_MAX);
    rc = kube_selector_query(str_of(o->selector), &query, e);
    if (rc == 0)
        d->query = str_dup(buf_view(&query));
    buf_fini(&query);
    memcpy(d->port, o->port, sizeof(d->port));
    d->port_count = o->port_count;
    return rc;
}

int kube_discovery_new(struct loop *l, struct kube_client *c, const struct kube_discovery_opts *o,
                       const struct kube_discovery_ops *ops, void *ctx, struct kube_discovery **out,
                       struct err *e)
{
    struct kube_discovery *d = mem_zalloc(sizeof(*d));
    int rc;

    d->loop = l;
    d->client = c;
    d->ops = *ops;
    d->ctx = ctx;
    d->pods = kube_pods_new();
    d->timer = loop_timer_new(l, tell, d);
    rc = prepare(d, o, e);
    if (rc != 0) {
        kube_discovery_free(d);
        *out = NULL;
        return rc;
    }
    if (d->pool != NULL)
        pool_follow(d);
    else
        pods_follow(d);
    if (o->objects)
        kinds_follow(d);
    *out = d;
    return 0;
}

void kube_discovery_free(struct kube_discovery *d)
{
    if (d == NULL)
        return;
    kube_reflector_free(d->pool_reflector);
    kube_reflector_free(d->pods_reflector);
    for (uint32_t i = 0; i < COUNT(d->kind); i++)
        kube_reflector_free(d->kind[i].reflector);
    for (uint32_t i = 0; i < d->object_count; i++)
        object_clear(&d->object[i]);
    mem_free(d->object);
    kube_pods_free(d->pods);
    loop_timer_free(d->timer);
    mem_free(d->namespace);
    mem_free(d->pool);
    mem_free(d->pool_group);
    mem_free(d->pool_what);
    mem_free(d->query);
    mem_free(d);
}

void kube_discovery_each(const struct kube_discovery *d,
                         void (*fn)(void *ctx, const char *what, bool optional,
                                    const struct kube_reflector_stats *s),
                         void *ctx)
{
    if (d->pool_reflector != NULL)
        fn(ctx, d->pool_what, true, kube_reflector_stats(d->pool_reflector));
    if (d->pods_reflector != NULL)
        fn(ctx, "pods", false, kube_reflector_stats(d->pods_reflector));
    for (uint32_t i = 0; i < COUNT(d->kind); i++) {
        char what[200];

        if (d->kind[i].reflector == NULL)
            continue;
        snprintf(what, sizeof(what), "%s.%s", KINDS[i].plural, KINDS[i].group);
        fn(ctx, what, true, kube_reflector_stats(d->kind[i].reflector));
    }
}
