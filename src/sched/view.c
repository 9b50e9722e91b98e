/* What plugins ask of the view and say to the run.
 *
 * Everything here is a walk over a few items: a request has at most four prefix producers and
 * eight attributes, an endpoint a handful of labels. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/address.h"
#include "sched/config.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char APPROX_PRODUCER[] = "approx-prefix-cache-producer";

/* ---- the view ---- */

const struct sched_prefix *sched_view_prefix(const struct sched_view *v, struct str producer)
{
    if (producer.n == 0)
        producer = str_of(APPROX_PRODUCER);
    for (uint32_t i = 0; i < v->prefix_count; i++)
        if (str_eq(v->prefix[i].producer, producer))
            return &v->prefix[i];
    return NULL;
}

struct str sched_view_header(const struct sched_view *v, const char *name)
{
    struct str value;

    if (v->r->header == NULL)
        return STR_NONE;
    value = v->r->header(v->r->header_ctx, name);
    return value.p == NULL ? STR_NONE : str_trim(value);
}

struct str sched_view_header_any(const struct sched_view *v, struct str name)
{
    char low[128];

    if (name.n >= sizeof(low))
        return STR_NONE;
    for (size_t i = 0; i < name.n; i++)
        low[i] = (char)(name.p[i] >= 'A' && name.p[i] <= 'Z' ? name.p[i] + 32 : name.p[i]);
    low[name.n] = 0;
    return sched_view_header(v, low);
}

void sched_view_attribute_set(struct sched_view *v, struct str key, struct str producer,
                              struct str value)
{
    for (uint32_t i = 0; i < v->attribute_count; i++) {
        struct sched_request_attribute *a = &v->attribute[i];

        if (str_eq(a->key, key) && str_eq(a->producer, producer)) {
            a->value = value;
            return;
        }
    }
    if (v->attribute_count < SCHED_REQUEST_ATTRIBUTES_MAX)
        v->attribute[v->attribute_count++] =
            (struct sched_request_attribute) { key, producer, value };
}

struct str sched_view_attribute(const struct sched_view *v, struct str key, struct str producer)
{
    for (uint32_t i = 0; i < v->attribute_count; i++) {
        const struct sched_request_attribute *a = &v->attribute[i];

        if (str_eq(a->key, key) && (producer.n == 0 || str_eq(a->producer, producer)))
            return a->value;
    }
    return STR_NONE;
}

/* ---- endpoints ---- */

struct str sched_endpoint_label(const struct sched_endpoint *ep, struct str key)
{
    for (uint32_t i = 0; i < ep->label_count; i++)
        if (str_eq(ep->label[i].key, key)) {
            struct str value = ep->label[i].value;

            return value.p == NULL ? STR("") : value; /* there, and empty */
        }
    return STR_NONE;
}

/* What every engine says of itself can be asked for by the names of its data keys. */
static bool metric_as_attribute(const struct sched_endpoint *ep, struct str key,
                                struct str producer, double *out)
{
    if (!ep->has_metrics || (producer.n != 0 && !str_eqz(producer, "core-metrics-extractor")))
        return false;
    if (str_eqz(key, "WaitingQueueSize"))
        *out = ep->scraped_waiting;
    else if (str_eqz(key, "RunningRequestsSize"))
        *out = ep->scraped_running;
    else if (str_eqz(key, "KVCacheUsagePercent"))
        *out = ep->scraped_kv;
    else
        return false;
    return !isnan(*out);
}

bool sched_endpoint_attribute(const struct sched_endpoint *ep, struct str key, struct str producer,
                              double *out)
{
    for (uint32_t i = 0; i < ep->attribute_count; i++) {
        const struct sched_attribute *a = &ep->attribute[i];

        if (str_eq(a->key, key) && (producer.n == 0 || str_eq(a->producer, producer))) {
            *out = a->value;
            return !isnan(a->value);
        }
    }
    return metric_as_attribute(ep, key, producer, out);
}

/* ---- the run ---- */

uint32_t sched_run_pick(const struct sched_run *run, int profile)
{
    if (profile < 0 || !run->profile[profile].ran || run->profile[profile].pick_count == 0)
        return SCHED_NONE;
    return run->profile[profile].pick[0];
}

int sched_run_prefill(const struct sched_run *run)
{
    return run->prefill >= 0 || run->config == NULL
               ? run->prefill
               : sched_config_profile(run->config, STR("prefill"));
}

void sched_run_drop(struct sched_run *run, const char *name)
{
    const char **list;
    size_t n = 0;

    for (; run->drop_headers != NULL && run->drop_headers[n] != NULL; n++)
        if (strcmp(run->drop_headers[n], name) == 0)
            return;
    list = arena_alloc(run->v->arena, (n + 2) * sizeof(*list));
    if (n != 0)
        memcpy(list, run->drop_headers, n * sizeof(*list));
    list[n] = name;
    list[n + 1] = NULL;
    run->drop_headers = list;
}

void sched_run_header(struct sched_run *run, const char *name, struct str value)
{
    struct str key = str_of(name);
    uint32_t at = 0;

    while (at < run->header_count && !str_ieq(run->header[at].name, key))
        at++;
    if (at == SCHED_HEADERS_MAX)
        return;
    value = arena_str(run->v->arena, value);
    if (value.p == NULL)
        return;
    run->header[at] = (struct sched_header) { key, value };
    run->header_count = MAX(run->header_count, at + 1);
}

void sched_run_fail(struct sched_run *run, int status, const char *reason, const char *fmt, ...)
{
    va_list ap;

    run->status = status;
    run->reason = reason;
    va_start(ap, fmt);
    vsnprintf(run->message, sizeof(run->message), fmt, ap);
    va_end(ap);
}

/* ---- addresses ---- */

struct str sched_address_host(struct str address)
{
    size_t colon = SIZE_MAX;

    for (size_t i = 0; i < address.n; i++)
        if (address.p[i] == ':')
            colon = i;
    if (address.n != 0 && address.p[0] == '[')
        return str_sub(address, 1, str_chr(address, ']') - 1);
    return colon == SIZE_MAX ? address : str_sub(address, 0, colon);
}
