/* Which headers of a request go on to the worker.
 *
 * All but: those of the connection itself (RFC 9110, 7.6.1), those that Connection names, those
 * that the client sets anew, and those that steer: where a request goes is decided here, so a
 * client's word about it is deleted before anything could read it (and counted).
 * Source: the project's reliability page, HDR-01. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "gateway/gateway_priv.h"
#include <ctype.h>

static const char *const connection_headers[] = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-length",
    "expect",
    "accept-encoding",
    "x-request-id",
    "x-llmd-explain",
    "x-llmd-strategy",
    "x-llmd-queue-comments",
    "traceparent",
};

static const char *const steering_prefixes[] = {
    "x-gateway-", "x-prefiller-", "x-encoder-",  "x-kv-cache-", "x-data-parallel-",
    "x-llm-d-",   "x-envoy-",     "x-forwarded", "forwarded",   "x-slo-",
};

static bool starts_icase(struct str s, const char *prefix)
{
    struct str p = str_of(prefix);

    return s.n >= p.n && str_ieq(str_sub(s, 0, p.n), p);
}

bool forward_is_steering(struct str name)
{
    for (size_t i = 0; i < COUNT(steering_prefixes); i++)
        if (starts_icase(name, steering_prefixes[i]))
            return true;
    return false;
}

static bool named_by_connection(const struct http_headers *in, struct str name)
{
    for (size_t i = 0; i < in->count; i++) {
        struct str rest = in->list[i].value;

        if (!str_ieq(in->list[i].name, STR("connection")))
            continue;
        while (rest.n > 0)
            if (str_ieq(str_trim(str_cut(&rest, ',')), name))
                return true;
    }
    return false;
}

static bool passes(const struct http_headers *in, struct str name)
{
    for (size_t i = 0; i < COUNT(connection_headers); i++)
        if (str_ieq(name, str_of(connection_headers[i])))
            return false;
    return !named_by_connection(in, name);
}

size_t forward_headers(const struct http_headers *in, struct http_header *out, size_t out_max,
                       uint32_t *stripped)
{
    size_t n = 0;

    *stripped = 0;
    for (size_t i = 0; i < in->count && n < out_max; i++) {
        struct str name = in->list[i].name;

        if (forward_is_steering(name))
            (*stripped)++;
        else if (passes(in, name))
            out[n++] = in->list[i];
    }
    return n;
}

bool forward_id_is_good(struct str id)
{
    if (id.n == 0 || id.n > REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < id.n; i++)
        if (!isalnum((unsigned char)id.p[i]) && id.p[i] != '-' && id.p[i] != '_' &&
            id.p[i] != '.' && id.p[i] != ':')
            return false;
    return true;
}
