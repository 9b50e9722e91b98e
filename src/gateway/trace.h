/* gateway/trace.h - W3C trace context, and spans to an OpenTelemetry collector.
 *
 * Every request has a trace: the client's (traceparent), or one of ours.  What goes on to the
 * worker names our span as its parent, whether spans are exported or not.  With an exporter,
 * sampled requests give two spans: gateway.request, and within it gateway.request_orchestration
 * (from reading to dispatch).  Export is OTLP over HTTP in its JSON form, in batches; what the
 * collector does not take is dropped and counted, never waited for.
 * Source: W3C Trace Context (level 1); OTLP 1.x, trace service, HTTP/JSON; the project's scheduler
 * page 11.2.
 * Threads: one owner, the loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_TRACE_H
#define GATEWAY_TRACE_H
#include "base/metrics.h"
#include "base/rng.h"
#include "base/str.h"
#include "base/err.h"
#include "net/loop.h"

#define TRACEPARENT_BYTES 55

struct trace {
    uint8_t trace_id[16], span_id[8], parent_id[8]; /* parent all zero: none */
    uint8_t flags;                                  /* bit 0: sampled */
};

/* Takes the client's traceparent over when it is valid; else begins a trace that is sampled with
 * the given probability. */
void trace_begin(struct trace *t, struct str traceparent, double ratio, struct rng *rng);
bool trace_has_parent(const struct trace *t);
/* Our span as the next hop's parent; out is NUL-ended. */
void trace_format(const struct trace *t, char out[TRACEPARENT_BYTES + 1]);

struct trace_span {
    const struct trace *trace;
    const char *name;
    bool is_child;             /* of the request's span, with a span id of its own */
    uint64_t begin_ns, end_ns; /* clock_ns */
    struct str model, request_id, endpoint;
    int status;
    const char *failure; /* NULL: well */
    uint32_t input_tokens, cached_tokens, output_tokens;
};

struct trace_exporter;
/* url: "http://HOST:PORT" of a collector; "/v1/traces" is added when it has no path. */
int trace_exporter_new(struct trace_exporter **out, struct loop *l, const char *url,
                       const char *service, struct metric_cell *exported,
                       struct metric_cell *dropped, struct err *e) MUST_CHECK;
void trace_exporter_free(struct trace_exporter *x);
void trace_export(struct trace_exporter *x, const struct trace_span *s, struct rng *rng);
void trace_exporter_tick(struct trace_exporter *x); /* sends what has gathered */
#endif
