/* Spans gather as JSON text in one buffer; a tick sends it as one request when the last one is
 * back.  Two bounds: the buffer's ceiling (newer spans are dropped) and one request at a time. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/trace.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "codec/json.h"
#include "net/http.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SPANS_BYTES_MAX ((size_t)1 << 20)
#define SEND_MS         5000
#define FLAG_SAMPLED    1

/* ---- traceparent ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; /* upper case is not valid */
}

static bool hex_read(struct str s, uint8_t *out, size_t n)
{
    bool any = false;

    for (size_t i = 0; i < n; i++) {
        int hi = hex_digit(s.p[2 * i]), lo = hex_digit(s.p[2 * i + 1]);

        if (hi < 0 || lo < 0)
            return false;
        out[i] = (uint8_t)(hi << 4 | lo);
        any |= out[i] != 0;
    }
    return any;
}

static void hex_write(const uint8_t *p, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = 0;
}

/* version "00": exactly 55 characters; a later version may have more after a dash. */
static bool parent_read(struct str s, struct trace *t)
{
    uint8_t version, flags = 0;
    int hi, lo;

    if (s.n < TRACEPARENT_BYTES || s.p[2] != '-' || s.p[35] != '-' || s.p[52] != '-')
        return false;
    hi = hex_digit(s.p[0]);
    lo = hex_digit(s.p[1]);
    if (hi < 0 || lo < 0)
        return false;
    version = (uint8_t)(hi << 4 | lo);
    if (version == 0xff || (version == 0 && s.n != TRACEPARENT_BYTES) ||
        (s.n > TRACEPARENT_BYTES && s.p[TRACEPARENT_BYTES] != '-'))
        return false;
    if (!hex_read(str_sub(s, 3, 32), t->trace_id, 16) ||
        !hex_read(str_sub(s, 36, 16), t->parent_id, 8))
        return false;
    hi = hex_digit(s.p[53]);
    lo = hex_digit(s.p[54]);
    if (hi < 0 || lo < 0)
        return false;
    flags = (uint8_t)(hi << 4 | lo);
    t->flags = flags & FLAG_SAMPLED;
    return true;
}

static void random_id(uint8_t *out, size_t n, struct rng *rng)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = rng_u64(rng) | 1; /* never all zero */

        memcpy(out + i, &v, 8);
    }
}

void trace_begin(struct trace *t, struct str traceparent, double ratio, struct rng *rng)
{
    memset(t, 0, sizeof(*t));
    if (traceparent.p == NULL || !parent_read(traceparent, t)) {
        memset(t, 0, sizeof(*t));
        random_id(t->trace_id, 16, rng);
        t->flags = rng_f64(rng) < ratio ? FLAG_SAMPLED : 0;
    }
    random_id(t->span_id, 8, rng);
}

bool trace_has_parent(const struct trace *t)
{
    static const uint8_t none[8] = { 0 };

    return memcmp(t->parent_id, none, sizeof(none)) != 0;
}

void trace_format(const struct trace *t, char out[TRACEPARENT_BYTES + 1])
{
    char id[33], span[17];

    hex_write(t->trace_id, 16, id);
    hex_write(t->span_id, 8, span);
    snprintf(out, TRACEPARENT_BYTES + 1, "00-%s-%s-%02x", id, span, t->flags);
}

/* ---- export ---- */

struct trace_exporter {
    struct loop *loop;
    struct http_client *client;
    struct http_call *call;
    char host[256], path[256];
    uint16_t port;
    char *service;
    struct buf spans; /* JSON objects, joined by commas */
    uint32_t gathered, in_flight;
    int status;
    struct metric_cell *exported, *dropped;
    bool was_failing;
};

static int url_read(struct trace_exporter *x, struct str url, struct err *e)
{
    struct str rest = url, host;

    if (!str_starts(url, STR("http://")))
        return err_set(e, ERR_UNSUPPORTED,
                       "traces: %.*s: must be http://HOST:PORT (a collector on this host or in the "
                       "mesh; TLS is its business)",
                       STR_ARG(url));
    rest = str_sub(url, 7, SIZE_MAX);
    host = str_cut(&rest, '/');
    if (addr_parse(host, x->host, &x->port, e) != 0)
        return e->code;
    if (x->port == 0)
        x->port = 4318;
    if (rest.p == NULL || rest.n == 0)
        snprintf(x->path, sizeof(x->path), "/v1/traces");
    else if (rest.n + 2 > sizeof(x->path))
        return err_set(e, ERR_INVAL, "traces: the URL's path is too long");
    else
        snprintf(x->path, sizeof(x->path), "/%.*s", STR_ARG(rest));
    return 0;
}

int trace_exporter_new(struct trace_exporter **out, struct loop *l, const char *url,
                       const char *service, struct metric_cell *exported,
                       struct metric_cell *dropped, struct err *e)
{
    struct trace_exporter *x = mem_zalloc(sizeof(*x));
    int rc;

    *out = NULL;
    buf_init(&x->spans, SPANS_BYTES_MAX);
    rc = url_read(x, str_of(url), e);
    if (rc != 0) {
        mem_free(x);
        return rc;
    }
    x->loop = l;
    x->service = mem_strdup(service);
    x->exported = exported;
    x->dropped = dropped;
    x->client = http_client_new(l);
    *out = x;
    return 0;
}

void trace_exporter_free(struct trace_exporter *x)
{
    if (x == NULL)
        return;
    http_client_free(x->client);
    buf_fini(&x->spans);
    mem_free(x->service);
    mem_free(x);
}

static void attribute(struct json_w *w, const char *key, struct str value)
{
    if (value.n == 0)
        return;
    json_w_obj(w);
    json_w_kz(w, "key", key);
    json_w_kobj(w, "value");
    json_w_kstr(w, "stringValue", value);
    json_w_end(w, '}');
    json_w_end(w, '}');
}

/* 64-bit integers are strings in protobuf's JSON. */
static void attribute_int(struct json_w *w, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    json_w_obj(w);
    json_w_kz(w, "key", key);
    json_w_kobj(w, "value");
    json_w_kz(w, "intValue", text);
    json_w_end(w, '}');
    json_w_end(w, '}');
}

static void time_field(struct json_w *w, const char *key, uint64_t at_ns, double offset_s)
{
    char text[32];

    snprintf(text, sizeof(text), "%" PRIu64, at_ns + (uint64_t)(offset_s * 1e9));
    json_w_kz(w, key, text);
}

static void span_write(struct json_w *w, const struct trace_span *s, struct rng *rng)
{
    double offset_s = clock_wall_s() - (double)clock_ns() * 1e-9;
    uint8_t own[8];
    char hex[33];

    json_w_obj(w);
    hex_write(s->trace->trace_id, 16, hex);
    json_w_kz(w, "traceId", hex);
    if (s->is_child)
        random_id(own, 8, rng);
    else
        memcpy(own, s->trace->span_id, 8);
    hex_write(own, 8, hex);
    json_w_kz(w, "spanId", hex);
    hex_write(s->is_child ? s->trace->span_id : s->trace->parent_id, 8, hex);
    json_w_kz(w, "parentSpanId", strspn(hex, "0") == 16 ? "" : hex);
    json_w_kz(w, "name", s->name);
    json_w_ki64(w, "kind", s->is_child ? 1 : 2); /* internal, server */
    time_field(w, "startTimeUnixNano", s->begin_ns, offset_s);
    time_field(w, "endTimeUnixNano", s->end_ns, offset_s);
    json_w_karr(w, "attributes");
    attribute(w, "gen_ai.request.model", s->model);
    attribute(w, "gen_ai.request.id", s->request_id);
    attribute(w, "llm_d.epp.endpoint", s->endpoint);
    if (!s->is_child) {
        attribute_int(w, "http.response.status_code", (uint64_t)MAX(s->status, 0));
        attribute_int(w, "gen_ai.usage.input_tokens", s->input_tokens);
        attribute_int(w, "gen_ai.usage.cached_tokens", s->cached_tokens);
        attribute_int(w, "gen_ai.usage.output_tokens", s->output_tokens);
    }
    json_w_end(w, ']');
    if (s->failure != NULL) {
        json_w_kobj(w, "status");
        json_w_ki64(w, "code", 2); /* error */
        json_w_kz(w, "message", s->failure);
        json_w_end(w, '}');
    }
    json_w_end(w, '}');
}

void trace_export(struct trace_exporter *x, const struct trace_span *s, struct rng *rng)
{
    size_t before = x->spans.len;
    struct json_w w;

    if ((s->trace->flags & FLAG_SAMPLED) == 0)
        return;
    if (before != 0)
        buf_c(&x->spans, ',');
    json_w_init(&w, &x->spans);
    span_write(&w, s, rng);
    if (x->spans.failed) {
        x->spans.len = before;
        x->spans.failed = false;
        metric_add(x->dropped, 1);
        return;
    }
    x->gathered++;
}

static void sent_head(void *ctx, int status, const struct http_headers *h)
{
    struct trace_exporter *x = ctx;

    (void)h;
    x->status = status;
}

static void sent_end(void *ctx, int rc, bool sent, bool got)
{
    struct trace_exporter *x = ctx;
    bool well = rc == 0 && x->status == 200;

    (void)sent;
    (void)got;
    x->call = NULL;
    if (well)
        metric_add(x->exported, x->in_flight);
    else
        metric_add(x->dropped, x->in_flight);
    if (!well && !x->was_failing)
        LOG_WARN("the trace collector takes no spans address=%s:%u status=%d; they are dropped",
                 x->host, x->port, rc == 0 ? x->status : 0);
    x->was_failing = !well;
    x->in_flight = 0;
}

static const struct http_call_ops sent_ops = { sent_head, NULL, sent_end };

static void envelope(const struct trace_exporter *x, struct buf *b)
{
    struct json_w w;

    json_w_init(&w, b);
    json_w_obj(&w);
    json_w_karr(&w, "resourceSpans");
    json_w_obj(&w);
    json_w_kobj(&w, "resource");
    json_w_karr(&w, "attributes");
    attribute(&w, "service.name", str_of(x->service));
    attribute(&w, "service.version", STR(LLMD_VERSION));
    json_w_end(&w, ']');
    json_w_end(&w, '}');
    json_w_karr(&w, "scopeSpans");
    json_w_obj(&w);
    json_w_kobj(&w, "scope");
    json_w_kz(&w, "name", "llmd");
    json_w_end(&w, '}');
    json_w_karr(&w, "spans");
    json_w_raw(&w, buf_view(&x->spans));
    json_w_end(&w, ']');
    json_w_end(&w, '}');
    json_w_end(&w, ']');
    json_w_end(&w, '}');
    json_w_end(&w, ']');
    json_w_end(&w, '}');
}

void trace_exporter_tick(struct trace_exporter *x)
{
    struct http_header type = { STR("content-type"), STR("application/json") };
    struct http_call_opts o = { .host = x->host,
                                .port = x->port,
                                .method = STR("POST"),
                                .path = str_of(x->path),
                                .headers = { &type, 1 },
                                .first_byte_ms = SEND_MS,
                                .gap_ms = SEND_MS,
                                .total_ms = SEND_MS,
                                .body_bytes_max = (size_t)1 << 20 };
    struct buf b;
    struct err e;

    if (x->gathered == 0 || x->call != NULL)
        return;
    buf_init(&b, SPANS_BYTES_MAX + 4096);
    envelope(x, &b);
    o.body = buf_view(&b);
    x->in_flight = x->gathered;
    x->gathered = 0;
    x->status = 0;
    buf_reset(&x->spans);
    if (http_call_start(x->client, &o, &sent_ops, x, &x->call, &e) != 0) {
        x->call = NULL;
        metric_add(x->dropped, x->in_flight);
    }
    buf_fini(&b);
}
