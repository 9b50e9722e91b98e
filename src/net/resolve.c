// SPDX-License-Identifier: Apache-2.0
#include "net/resolve.h"
#include "base/check.h"
#include "base/mem.h"
#include "net/loop_priv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct resolve {
    uv_getaddrinfo_t lookup;
    resolve_fn *fn; /* NULL: cancelled */
    void *ctx;
    uint16_t port;
};

static int order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static uint32_t collect(const struct resolve *r, const struct addrinfo *all, int family,
                        char *address[RESOLVE_ADDRESSES_MAX])
{
    uint32_t n = 0, kept = 0;
    char ip[64], text[80];

    for (; all != NULL && n < RESOLVE_ADDRESSES_MAX; all = all->ai_next) {
        if (all->ai_family != family)
            continue;
        if (family == AF_INET)
            uv_ip4_name((const struct sockaddr_in *)(const void *)all->ai_addr, ip, sizeof(ip));
        else
            uv_ip6_name((const struct sockaddr_in6 *)(const void *)all->ai_addr, ip, sizeof(ip));
        snprintf(text, sizeof(text), family == AF_INET ? "%s:%u" : "[%s]:%u", ip, r->port);
        address[n++] = mem_strdup(text);
    }
    if (n == 0)
        return 0;
    qsort(address, n, sizeof(*address), order);
    for (uint32_t i = 0; i < n; i++) {
        if (kept != 0 && strcmp(address[kept - 1], address[i]) == 0)
            mem_free(address[i]);
        else
            address[kept++] = address[i];
    }
    return kept;
}

static void tell(struct resolve *r, int status, const struct addrinfo *all)
{
    char **address = mem_zalloc(RESOLVE_ADDRESSES_MAX * sizeof(*address));
    uint32_t n = 0;

    if (status == 0)
        n = collect(r, all, AF_INET, address);
    if (status == 0 && n == 0)
        n = collect(r, all, AF_INET6, address);
    if (n != 0)
        r->fn(r->ctx, 0, address, n, NULL);
    else
        r->fn(r->ctx, ERR_IO, NULL, 0, status != 0 ? uv_strerror(status) : "it has no address");
    for (uint32_t i = 0; i < n; i++)
        mem_free(address[i]);
    mem_free(address);
}

static void looked_up(uv_getaddrinfo_t *lookup, int status, struct addrinfo *all)
{
    struct resolve *r = lookup->data;

    if (r->fn != NULL)
        tell(r, status, all);
    uv_freeaddrinfo(all);
    mem_free(r);
}

int resolve_start(struct loop *l, const char *host, uint16_t port, resolve_fn *fn, void *ctx,
                  struct resolve **out, struct err *e)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP };
    struct resolve *r = mem_zalloc(sizeof(*r));
    int rc;

    *out = NULL;
    r->fn = fn;
    r->ctx = ctx;
    r->port = port;
    r->lookup.data = r;
    rc = uv_getaddrinfo(&l->uv, &r->lookup, looked_up, host, NULL, &hints);
    if (rc != 0) {
        mem_free(r);
        return err_set(e, ERR_IO, "resolve %s: %s", host, uv_strerror(rc));
    }
    *out = r;
    return 0;
}

void resolve_cancel(struct resolve *r)
{
    if (r == NULL)
        return;
    r->fn = NULL;
    (void)uv_cancel((uv_req_t *)&r->lookup); /* one that runs already ends by itself */
}
