// SPDX-License-Identifier: Apache-2.0
#include "cmd/sched_dns.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/conn.h"
#include "net/resolve.h"
#include "sched/sched.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FIRST_MS 500 /* between questions as long as nothing is known */

struct name {
    struct sched_dns *d;
    char host[256];
    const char *role; /* "=decode", "" */
    uint16_t port;
    char **address; /* with the role */
    uint32_t count;
    struct resolve *query;
    struct loop_timer *timer;
    bool is_failing; /* said once */
};

struct sched_dns {
    struct loop *loop;
    struct name *name;
    uint32_t count, period_ms;
    loop_fn *changed;
    void *ctx;
};

static int parse(struct name *n, const char *text, struct err *e)
{
    struct str role = str_of(text), addr = str_cut(&role, '=');
    enum sched_role ignored;

    n->role = role.p != NULL ? role.p - 1 : "";
    if (addr_parse(addr, n->host, &n->port, e) != 0 || n->port == 0 || addr.p[0] == ':')
        return err_set(e, ERR_INVAL, "--endpoint-dns %s: must be NAME:PORT or NAME:PORT=ROLE",
                       text);
    if (role.p != NULL && !sched_role_parse(role, &ignored))
        return err_set(e, ERR_INVAL, "--endpoint-dns %s: the role must be both, prefill or decode",
                       text);
    return 0;
}

int sched_dns_new(struct sched_dns **out, const struct opt_list *flags, struct err *e)
{
    struct sched_dns *d = *out = mem_zalloc(sizeof(*d));
    int rc = 0;

    d->name = mem_zalloc(MAX(flags->count, (size_t)1) * sizeof(*d->name));
    for (size_t i = 0; i < flags->count && rc == 0; i++) {
        d->name[d->count].d = d;
        rc = parse(&d->name[d->count++], flags->item[i], e);
    }
    return rc;
}

static void forget(struct name *n)
{
    for (uint32_t i = 0; i < n->count; i++)
        mem_free(n->address[i]);
    mem_free(n->address);
    n->address = NULL;
    n->count = 0;
}

/* Both are sorted. */
static bool is_same(const struct name *n, char *const *address, uint32_t count)
{
    bool same = n->count == count;

    for (uint32_t i = 0; same && i < count; i++) {
        size_t len = strlen(address[i]);

        same = strncmp(n->address[i], address[i], len) == 0 &&
               strcmp(n->address[i] + len, n->role) == 0;
    }
    return same;
}

static void take(struct name *n, char *const *address, uint32_t count)
{
    char text[128];

    forget(n);
    n->address = mem_zalloc(count * sizeof(*n->address));
    for (; n->count < count; n->count++) {
        snprintf(text, sizeof(text), "%s%s", address[n->count], n->role);
        n->address[n->count] = mem_strdup(text);
    }
    LOG_INFO("endpoints by DNS name=%s addresses=%" PRIu32, n->host, count);
}

static void answered(void *ctx, int rc, char *const *address, uint32_t count, const char *why)
{
    struct name *n = ctx;
    struct sched_dns *d = n->d;

    n->query = NULL;
    if (rc != 0 && !n->is_failing)
        LOG_WARN("cannot resolve name=%s error=\"%s\" kept=%" PRIu32, n->host, why, n->count);
    n->is_failing = rc != 0;
    if (rc == 0 && !is_same(n, address, count)) {
        take(n, address, count);
        d->changed(d->ctx);
    }
    loop_timer_arm(n->timer, n->count == 0 ? MIN(d->period_ms, (uint32_t)FIRST_MS) : d->period_ms,
                   0);
}

static void ask(void *ctx)
{
    struct name *n = ctx;
    struct err e;

    if (resolve_start(n->d->loop, n->host, n->port, answered, n, &n->query, &e) != 0)
        answered(n, e.code, NULL, 0, e.msg);
}

void sched_dns_start(struct sched_dns *d, struct loop *l, uint32_t period_ms, loop_fn *changed,
                     void *ctx)
{
    d->loop = l;
    d->period_ms = period_ms;
    d->changed = changed;
    d->ctx = ctx;
    for (uint32_t i = 0; i < d->count; i++) {
        d->name[i].timer = loop_timer_new(l, ask, &d->name[i]);
        ask(&d->name[i]);
    }
}

uint32_t sched_dns_list(const struct sched_dns *d, const char **out, uint32_t max)
{
    uint32_t all = 0;

    for (uint32_t i = 0; i < d->count; i++)
        for (uint32_t k = 0; k < d->name[i].count; k++, all++)
            if (all < max)
                out[all] = d->name[i].address[k];
    return all;
}

void sched_dns_free(struct sched_dns *d)
{
    if (d == NULL)
        return;
    for (uint32_t i = 0; i < d->count; i++) {
        resolve_cancel(d->name[i].query);
        loop_timer_free(d->name[i].timer);
        forget(&d->name[i]);
    }
    mem_free(d->name);
    mem_free(d);
}
