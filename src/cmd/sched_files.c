// SPDX-License-Identifier: Apache-2.0
#include "cmd/sched_files.h"
#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "cmd/sched_dns.h"
#include "net/conn.h"
#include "net/watch.h"
#include "sched/discovery.h"
#include "sched/plugins_data.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FILE_BYTES_MAX      ((size_t)1 << 20)
#define DISCOVERY_BYTES_MAX ((size_t)32 << 20) /* of the arena of one list */

struct sched_files {
    struct sched_files_opts o;
    char *endpoints_file; /* the flag's, or the configuration's */
    bool watch_endpoints;
    struct gateway *g;
    struct sched_dns *dns;
    struct watch *watch_config, *watch_endpoints_file, *watch_objects;
    struct arena list;                      /* of the endpoints now in use */
    struct gateway_endpoint_opts *endpoint; /* likewise */
    uint32_t endpoint_count;
};

static void warned(void *ctx, const char *text)
{
    (void)ctx;
    LOG_WARN("configuration: %s", text);
}

/* What a configuration may say, and what is not done here yet: never silently. */
static void warn_of_rest(const struct sched_config *c)
{
    static const char *const idle[] = { "dcgm-data-source", "k8s-notification-source",
                                        "dcgm-extractor", "multicluster-metrics-extractor" };

    for (uint32_t i = 0; i < c->plugin_count; i++) {
        const struct sched_plugin_conf *p = &c->plugin[i];

        if (p->is_default)
            continue;
        for (size_t k = 0; k < COUNT(idle); k++)
            if (strcmp(p->type->type, idle[k]) == 0)
                LOG_WARN("configuration: line %" PRIu32 ": parameters of %s have no effect here",
                         p->line, idle[k]);
        if ((strcmp(p->type->type, "metrics-data-source") == 0 ||
             strcmp(p->type->type, "models-data-source") == 0) &&
            ((const struct data_http_params *)p->params)->interval_ms != 0)
            LOG_WARN("configuration: line %" PRIu32 ": interval has no effect: --scrape-ms",
                     p->line);
    }
}

static int load_config(const struct sched_files *s, struct sched_config **out, struct err *e)
{
    struct sched_config_opts o = { .file = s->o.config_file != NULL ? s->o.config_file
                                                                    : "--config-text",
                                   .allow_experimental = s->o.allow_experimental,
                                   .warn = warned };
    struct buf text;
    int rc = 0;

    *out = NULL;
    if (s->o.config_file == NULL && s->o.config_text == NULL)
        return 0;
    buf_init(&text, FILE_BYTES_MAX);
    if (s->o.config_file != NULL)
        rc = file_read(s->o.config_file, &text, e);
    else
        buf_z(&text, s->o.config_text);
    if (rc == 0)
        rc = sched_config_load(out, buf_view(&text), &o, e);
    if (rc == 0)
        warn_of_rest(*out);
    buf_fini(&text);
    return rc;
}

static int load_objects(const struct sched_files *s, struct objects **out, struct err *e)
{
    struct str text = STR_NONE;
    struct buf b;
    int rc = 0;

    *out = NULL;
    buf_init(&b, FILE_BYTES_MAX);
    if (s->o.objects_file != NULL) {
        rc = file_read(s->o.objects_file, &b, e);
        text = buf_view(&b);
    }
    if (rc == 0)
        rc = objects_load(out, text, s->o.objects_file, s->o.aliases.item, s->o.aliases.count, e);
    buf_fini(&b);
    return rc;
}

/* ---- endpoints ---- */

/* What plugins that filter by role look at. */
static void label_role(struct arena *a, struct gateway_endpoint_opts *out)
{
    struct sched_label *l = arena_alloc(a, sizeof(*l));

    l->key = STR("llm-d.ai/role");
    l->value = str_of(sched_role_name(out->role));
    out->label = l;
    out->label_count = 1;
}

/* "ADDR:PORT" or "ADDR:PORT=ROLE". */
static int from_flag(struct arena *a, const char *text, struct gateway_endpoint_opts *out,
                     struct err *e)
{
    struct str role = str_of(text), addr = str_cut(&role, '=');
    char host[256], *copy = arena_alloc(a, addr.n + 1);
    uint16_t port;

    memcpy(copy, addr.p, addr.n);
    copy[addr.n] = 0;
    *out = (struct gateway_endpoint_opts) { .address = copy, .role = SCHED_BOTH };
    if (addr_parse(addr, host, &port, e) != 0)
        return err_set(e, ERR_INVAL, "--endpoint %s: must be ADDR:PORT or ADDR:PORT=ROLE", text);
    if (port == 0)
        return err_set(e, ERR_INVAL, "--endpoint %s: needs a port", text);
    if (role.p == NULL)
        return 0;
    out->role_given = true;
    if (!sched_role_parse(role, &out->role))
        return err_set(e, ERR_INVAL, "--endpoint %s: the role must be both, prefill or decode",
                       text);
    label_role(a, out);
    return 0;
}

static void from_file(struct arena *a, const struct discovery_endpoint *d,
                      struct gateway_endpoint_opts *out)
{
    size_t n = d->address.n + 16, m = d->namespace.n + d->name.n + 2;
    char *address = arena_alloc(a, n), *id = arena_alloc(a, m);

    snprintf(address, n, d->is_ipv6 ? "[%.*s]:%u" : "%.*s:%u", STR_ARG(d->address), d->port);
    snprintf(id, m, "%.*s/%.*s", STR_ARG(d->namespace), STR_ARG(d->name));
    *out = (struct gateway_endpoint_opts) {
        .address = address, .id = id, .label = d->label, .label_count = d->label_count
    };
    out->role_given = sched_role_of(out->label, out->label_count, &out->role);
}

static int parse_file(const struct sched_files *s, struct arena *a, struct discovery_list *list,
                      bool is_first, struct err *e)
{
    struct buf text;
    int rc;

    memset(list, 0, sizeof(*list));
    if (s->endpoints_file == NULL)
        return 0;
    buf_init(&text, FILE_BYTES_MAX);
    rc = file_read(s->endpoints_file, &text, e);
    if (rc == 0)
        rc = discovery_parse(a, buf_view(&text), s->endpoints_file, list, e);
    buf_fini(&text);
    if (rc == 0 && list->bad_count != 0 && is_first)
        return err_set(e, ERR_PARSE, "%.*s", STR_ARG(list->reason[0]));
    for (uint32_t i = 0; rc == 0 && i < list->reason_count; i++)
        LOG_WARN("endpoint left out: %.*s", STR_ARG(list->reason[i]));
    return rc;
}

/* Those behind names, without those that the others gave: a name may well mean them, too. */
static int add_dns(const struct sched_files *s, struct arena *a, struct gateway_endpoint_opts *eps,
                   uint32_t *n, struct err *e)
{
    const char *found[GATEWAY_ENDPOINTS_MAX];
    uint32_t count = sched_dns_list(s->dns, found, COUNT(found));
    struct map known = { 0 };
    uint64_t at;
    bool fits = true;
    int rc = 0;

    for (uint32_t i = 0; i < *n && fits; i++)
        fits = map_puts(&known, str_of(eps[i].address), i);
    for (uint32_t i = 0; i < count && fits && rc == 0; i++) {
        rc = from_flag(a, found[i], &eps[*n], e);
        if (rc == 0 && !map_gets(&known, str_of(eps[*n].address), &at)) {
            fits = map_puts(&known, str_of(eps[*n].address), *n);
            (*n)++;
        }
    }
    map_fini(&known);
    return fits ? rc : err_set(e, ERR_NOMEM, "no memory for %u endpoints", count);
}

/* The flags' endpoints, the file's and those behind names, in an arena of their own. */
static int load_endpoints(struct sched_files *s, bool is_first, struct err *e)
{
    struct arena a;
    struct discovery_list list;
    struct gateway_endpoint_opts *eps;
    uint32_t n = 0;
    int rc;

    arena_init(&a, DISCOVERY_BYTES_MAX);
    rc = parse_file(s, &a, &list, is_first, e);
    eps = mem_zalloc((list.count + s->o.endpoints.count + sched_dns_list(s->dns, NULL, 0) + 1) *
                     sizeof(*eps));
    for (size_t i = 0; rc == 0 && i < s->o.endpoints.count; i++)
        rc = from_flag(&a, s->o.endpoints.item[i], &eps[n++], e);
    for (uint32_t i = 0; rc == 0 && i < list.count; i++)
        from_file(&a, &list.endpoint[i], &eps[n++]);
    if (rc == 0)
        rc = add_dns(s, &a, eps, &n, e);
    if (rc == 0 && s->g != NULL)
        rc = gateway_set_endpoints(s->g, eps, n, e);
    if (rc != 0) {
        arena_fini(&a);
        mem_free(eps);
        return rc;
    }
    arena_fini(&s->list);
    mem_free(s->endpoint);
    s->list = a;
    s->endpoint = eps;
    s->endpoint_count = n;
    return 0;
}

/* A configuration can name the endpoints' file, as upstream's do. */
static void take_discovery(struct sched_files *s, const struct sched_config *c)
{
    const struct data_discovery_params *p;

    if (s->o.endpoints_file != NULL || c == NULL || c->discovery < 0)
        return;
    p = c->plugin[c->discovery].params;
    s->endpoints_file = str_dup(p->path);
    s->watch_endpoints = p->watch;
}

int sched_files_load(struct sched_files **out, const struct sched_files_opts *o,
                     struct gateway_opts *go, struct err *e)
{
    struct sched_files *s = mem_zalloc(sizeof(*s));
    int rc;

    *out = s;
    s->o = *o;
    arena_init(&s->list, DISCOVERY_BYTES_MAX);
    if (o->endpoints_file != NULL) {
        s->endpoints_file = mem_strdup(o->endpoints_file);
        s->watch_endpoints = true;
    }
    if (o->config_file != NULL && o->config_text != NULL)
        return err_set(e, ERR_INVAL, "--config-file and --config-text exclude each other");
    rc = load_config(s, &go->config, e);
    if (rc != 0)
        return rc;
    take_discovery(s, go->config);
    rc = sched_dns_new(&s->dns, &o->dns, e);
    if (rc == 0)
        rc = load_endpoints(s, true, e);
    if (rc == 0)
        rc = load_objects(s, &go->objects, e);
    go->endpoints = s->endpoint;
    go->endpoint_count = s->endpoint_count;
    return rc;
}

/* ---- changes ---- */

static void told(struct sched_files *s, const char *file, int rc, const struct err *e)
{
    gateway_reloaded(s->g, file, rc == 0);
    if (rc == 0)
        LOG_INFO("%s file taken over", file);
    else
        LOG_ERROR("%s file refused, what was there before stays: %s", file, e->msg);
}

static void config_changed(void *ctx)
{
    struct sched_files *s = ctx;
    struct sched_config *c;
    struct err e;
    int rc = load_config(s, &c, &e);

    if (rc == 0)
        rc = gateway_set_config(s->g, c, &e);
    told(s, "configuration", rc, &e);
}

static void endpoints_changed(void *ctx)
{
    struct sched_files *s = ctx;
    struct err e;
    int rc = load_endpoints(s, false, &e);

    told(s, "endpoints", rc, &e);
}

static void objects_changed(void *ctx)
{
    struct sched_files *s = ctx;
    struct objects *r;
    struct err e;
    int rc = load_objects(s, &r, &e);

    if (rc == 0)
        gateway_set_objects(s->g, r);
    told(s, "objects", rc, &e);
}

static void dns_changed(void *ctx)
{
    struct sched_files *s = ctx;
    struct err e;

    if (load_endpoints(s, false, &e) != 0)
        LOG_ERROR("endpoints by DNS refused, those before stay: %s", e.msg);
}

void sched_files_watch(struct sched_files *s, struct loop *l, struct gateway *g)
{
    const char *config[] = { s->o.config_file }, *objects[] = { s->o.objects_file };
    const char *endpoints[] = { s->endpoints_file };

    s->g = g;
    if (s->o.config_file != NULL)
        s->watch_config = watch_new(l, config, 1, config_changed, s);
    if (s->endpoints_file != NULL && s->watch_endpoints)
        s->watch_endpoints_file = watch_new(l, endpoints, 1, endpoints_changed, s);
    if (s->o.objects_file != NULL)
        s->watch_objects = watch_new(l, objects, 1, objects_changed, s);
    sched_dns_start(s->dns, l, s->o.dns_ms, dns_changed, s);
}

void sched_files_free(struct sched_files *s)
{
    if (s == NULL)
        return;
    watch_free(s->watch_config);
    watch_free(s->watch_endpoints_file);
    watch_free(s->watch_objects);
    sched_dns_free(s->dns);
    arena_fini(&s->list);
    mem_free(s->endpoint);
    mem_free(s->endpoints_file);
    mem_free(s);
}
