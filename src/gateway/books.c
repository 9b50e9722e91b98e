/* What is written down of a request: metrics, receipt, access log, trace, and a log line when it
 * went wrong.  Every request passes here exactly once, whatever became of it. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/access_log.h"
#include "gateway/gateway_priv.h"
#include <inttypes.h>

#define LINE_BYTES_MAX ((size_t)8 << 10)

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns != 0 && to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0;
}

static double ms(uint64_t from_ns, uint64_t to_ns)
{
    return (double)(int64_t)(seconds(from_ns, to_ns) * 1e5 + 0.5) / 100;
}

static struct str model_of(const struct routing *x)
{
    return x->reading.model;
}

static struct str target_of(const struct routing *x)
{
    return routing_model(x);
}

void books_open(struct routing *x)
{
    x->cells = request_metrics_cells(x->f->request_metrics, model_of(x), target_of(x),
                                     x->fairness_id, x->priority);
    metric_add(x->cells->r[R_RUNNING], 1);
    metric_add(x->cells->o[O_RUNNING - O_REQUESTS], 1);
}

void books_event(struct routing *x, uint64_t now_ns, uint64_t last_ns)
{
    if (last_ns != 0 && x->cells != NULL)
        metric_observe(x->cells->r[R_ITL], seconds(last_ns, now_ns));
}

/* One observation in a family and in its older twin. */
static void observe(const struct routing *x, enum gateway_metric r, enum gateway_metric o, double v)
{
    metric_observe(x->cells->r[r], v);
    metric_observe(x->cells->o[o - O_REQUESTS], v);
}

static void count_tokens(struct routing *x, double whole_s)
{
    const struct answer_usage *u = &x->usage;
    struct gateway *g = x->g;

    if (x->was_read)
        observe(x, R_INPUT_TOKENS, O_INPUT_TOKENS,
                u->known ? u->prompt_tokens : x->reading.prompt_tokens);
    if (!u->known)
        return;
    observe(x, R_OUTPUT_TOKENS, O_OUTPUT_TOKENS, u->completion_tokens);
    if (u->completion_tokens != 0)
        observe(x, R_NTPOT, O_NTPOT, whole_s / u->completion_tokens);
    if (x->streaming && u->completion_tokens > 1 && x->t_last > x->t_first)
        metric_observe(x->cells->r[R_TPOT],
                       seconds(x->t_first, x->t_last) / (u->completion_tokens - 1));
    if (!u->cached_known)
        return;
    observe(x, R_CACHED_TOKENS, O_CACHED_TOKENS, u->cached_tokens);
    metric_add(gateway_cell(g, M_L_REAL, NULL, NULL), u->cached_tokens);
    metric_add(gateway_cell(g, M_L_PREDICTED, NULL, NULL), x->predicted_cached);
}

static void count(struct routing *x, uint64_t now)
{
    struct gateway *g = x->g;
    double whole_s = seconds(x->t_start, now);

    if (x->cells == NULL) { /* refused before its model was known */
        x->cells = request_metrics_cells(x->f->request_metrics, model_of(x), target_of(x),
                                         x->fairness_id, x->priority);
        metric_add(x->cells->r[R_RUNNING], 1);
        metric_add(x->cells->o[O_RUNNING - O_REQUESTS], 1);
    }
    metric_add(x->cells->r[R_RUNNING], -1);
    metric_add(x->cells->o[O_RUNNING - O_REQUESTS], -1);
    metric_add(x->cells->r[R_REQUESTS], 1);
    metric_add(x->cells->o[0], 1);
    observe(x, R_SECONDS, O_SECONDS, whole_s);
    observe(x, R_BYTES_IN, O_BYTES_IN, (double)x->body_bytes);
    if (x->reply_bytes != 0)
        observe(x, R_BYTES_OUT, O_BYTES_OUT, (double)x->reply_bytes);
    count_tokens(x, whole_s);
    if (x->t_first != 0) {
        double ttft = seconds(x->t_start, x->t_first);

        metric_observe(x->cells->ttft[x->streaming], ttft);
        metric_observe(gateway_cell(g, M_L_TTFT, NULL, NULL), ttft);
    }
    if (x->failure != NULL)
        request_metrics_error(x->f->request_metrics, model_of(x), target_of(x), x->fairness_id,
                              x->priority, x->answered != 0 ? x->answered : 499);
}

static uint64_t queue_ns(const struct admit_ticket *t)
{
    return t != NULL && t->left_ns > t->entered_ns ? t->left_ns - t->entered_ns : 0;
}

/* One line of JSON: counts, times and names; never a byte of a prompt or an answer. */
static void access_line(const struct routing *x, const struct admit_ticket *t, bool gone,
                        uint64_t now)
{
    char trace[TRACEPARENT_BYTES + 1];
    struct json_w w;
    struct buf b;

    buf_init(&b, LINE_BYTES_MAX);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_kf64(&w, "time", clock_wall_s());
    json_w_kstr(&w, "request_id", str_of(x->id));
    trace_format(&x->trace, trace);
    json_w_kstr(&w, "trace_id", str_sub(str_of(trace), 3, 32));
    json_w_kz(&w, "peer", x->peer);
    json_w_kz(&w, "tenant", x->fairness_id);
    json_w_ki64(&w, "priority", x->priority);
    json_w_kz(&w, "path", x->path);
    json_w_ki64(&w, "status", x->answered);
    if (gone)
        json_w_kbool(&w, "client_gone", true);
    if (x->failure != NULL)
        json_w_kz(&w, "reason", x->failure);
    if (x->reading.model.p != NULL)
        json_w_kstr(&w, "model", x->reading.model);
    if (x->reading.target.p != NULL)
        json_w_kstr(&w, "target_model", x->reading.target);
    json_w_kbool(&w, "stream", x->streaming);
    if (x->sent_to != NULL)
        json_w_kz(&w, "endpoint", x->sent_to);
    if (x->sent_prefill != NULL)
        json_w_kz(&w, "prefill_endpoint", x->sent_prefill);
    json_w_ku64(&w, "attempts", x->attempts);
    json_w_ku64(&w, "prompt_tokens",
                x->usage.known ? x->usage.prompt_tokens : x->reading.prompt_tokens);
    if (x->usage.cached_known)
        json_w_ku64(&w, "cached_tokens", x->usage.cached_tokens);
    if (x->usage.known)
        json_w_ku64(&w, "completion_tokens", x->usage.completion_tokens);
    json_w_ku64(&w, "request_bytes", x->body_bytes);
    json_w_ku64(&w, "reply_bytes", x->reply_bytes);
    json_w_kf64(&w, "queue_ms", ms(1, 1 + queue_ns(t)));
    json_w_kf64(&w, "ttft_ms", ms(x->t_start, x->t_first));
    json_w_kf64(&w, "total_ms", ms(x->t_start, now));
    json_w_end(&w, '}');
    buf_c(&b, '\n');
    if (!b.failed)
        access_log_write(x->g->access_log, buf_view(&b));
    buf_fini(&b);
}

static void export_trace(const struct routing *x, uint64_t now)
{
    struct trace_span s = {
        .trace = &x->trace,
        .name = "gateway.request",
        .begin_ns = x->t_start,
        .end_ns = now,
        .model = x->reading.model,
        .request_id = str_of(x->id),
        .endpoint = x->sent_to != NULL ? str_of(x->sent_to) : STR_NONE,
        .status = x->answered,
        .failure = x->failure,
        .input_tokens = x->usage.known ? x->usage.prompt_tokens : x->reading.prompt_tokens,
        .cached_tokens = x->usage.cached_tokens,
        .output_tokens = x->usage.completion_tokens,
    };

    trace_export(x->f->traces, &s, &x->f->rng);
    if (x->t_dispatch == 0)
        return;
    s.name = "gateway.request_orchestration";
    s.is_child = true;
    s.end_ns = x->t_dispatch;
    s.failure = NULL;
    trace_export(x->f->traces, &s, &x->f->rng);
}

/* Failures are told; what went well, and clients that left, only to who asks. */
static void log_end(const struct routing *x, bool gone, uint64_t now)
{
    const char *to = x->sent_to != NULL ? x->sent_to : "none";
    double took = ms(x->t_start, now);

    if (x->failure == NULL || gone)
        LOG_DEBUG("request id=%s path=%s status=%d%s prompt_tokens=%" PRIu32 " endpoint=%s ms=%.0f",
                  x->id, x->path, x->answered, gone ? " client=gone" : "", x->reading.prompt_tokens,
                  to, took);
    else if (x->answered >= 400 && x->answered < 500)
        LOG_INFO("request refused id=%s path=%s status=%d reason=%s", x->id, x->path, x->answered,
                 x->failure);
    else
        LOG_WARN("request failed id=%s path=%s status=%d reason=%s attempts=%" PRIu32
                 " endpoint=%s ms=%.0f",
                 x->id, x->path, x->answered, x->failure, x->attempts, to, took);
}

void books_close(struct routing *x, const struct admit_ticket *t, bool client_gone)
{
    struct gateway *g = x->g;
    uint64_t now = clock_ns();

    count(x, now);
    receipts_keep(g->receipts, x);
    if (g->access_log != NULL)
        access_line(x, t, client_gone, now);
    if (x->f->traces != NULL)
        export_trace(x, now);
    log_end(x, client_gone, now);
}
