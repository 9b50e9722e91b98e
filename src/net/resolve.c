// SPDX-License-Identifier: Apache-2.0
#include "net/resolve.h"
#include "base/mem.h"
#include "net/loop_priv.h"
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

struct resolve {
    uv_getaddrinfo_t request;
    resolve_fn *fn; /* NULL: cancelled */
    void *ctx;
};

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static uint32_t collect(const struct addrinfo *all, char (*out)[RESOLVE_ADDRESS_BYTES])
{
    uint32_t n = 0, kept = 0;

    for (const struct addrinfo *a = all; a != NULL && n < RESOLVE_ADDRESSES_MAX; a = a->ai_next)
        if (uv_ip_name(a->ai_addr, out[n], RESOLVE_ADDRESS_BYTES) == 0)
            n++;
    qsort(out, n, RESOLVE_ADDRESS_BYTES, by_text);
    for (uint32_t i = 0; i < n; i++)
        if (kept == 0 || strcmp(out[kept - 1], out[i]) != 0)
            memmove(out[kept++], out[i], RESOLVE_ADDRESS_BYTES);
    return kept;
}

static void resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *all)
{
    struct resolve *r = request->data;
    char(*address)[RESOLVE_ADDRESS_BYTES];

    if (r->fn != NULL && status == 0) {
        address = mem_alloc(RESOLVE_ADDRESSES_MAX * RESOLVE_ADDRESS_BYTES);
        r->fn(r->ctx, 0, (const char(*)[RESOLVE_ADDRESS_BYTES])address, collect(all, address));
        mem_free(address);
    } else if (r->fn != NULL) {
        r->fn(r->ctx, ERR_NOTFOUND, NULL, 0);
    }
    uv_freeaddrinfo(all);
    mem_free(r);
}

struct resolve *resolve_start(struct loop *l, const char *host, resolve_fn *fn, void *ctx)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP };
    struct resolve *r = mem_zalloc(sizeof(*r));

    r->request.data = r;
    r->fn = fn;
    r->ctx = ctx;
    if (uv_getaddrinfo(&l->uv, &r->request, resolved, host, NULL, &hints) != 0) {
        mem_free(r);
        return NULL;
    }
    return r;
}

void resolve_cancel(struct resolve *r)
{
    if (r == NULL)
        return;
    r->fn = NULL;
    (void)uv_cancel((uv_req_t *)&r->request); /* resolved still comes and frees it */
}
