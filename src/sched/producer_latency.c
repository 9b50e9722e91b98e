/* predicted-latency-producer: what each endpoint is expected to do with the request.
 *
 *   time to first token   prompt tokens in flight there and those of this request that it does not
 *                         hold, at its learned rate
 *   time per token        its learned rate for one stream, stretched by the streams beside it
 *
 * Upstream asks predictor services; here the rates that every answer teaches (sched/learn.c) do.
 * All or nothing: as long as one endpoint's rates are unknown there are no predictions, and
 * consumers fall back as they do upstream. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_types_priv.h"
#include "sched/producer.h"
#include <math.h>
#include <stddef.h>

struct latency_params {
    double slo_buffer;
    bool streaming, predicts;
    struct str role_label, prefix_producer;
};

#define P struct latency_params
static const struct plugin_param PARAMS[] = {
    { .name = "sloBufferFactor",
      .kind = PARAM_F64,
      .at = offsetof(P, slo_buffer),
      .value = "1",
      .min = 1e-9,
      .max = 1e6,
      .help = "factor of the objective for the time per token" },
    { .name = "streamingMode",
      .kind = PARAM_BOOL,
      .at = offsetof(P, streaming),
      .help = "whether the time per token counts" },
    { .name = "endpointRoleLabel",
      .kind = PARAM_STR,
      .at = offsetof(P, role_label),
      .help = "label that says prefill where no time per token counts" },
    { .name = "predictInProduce",
      .kind = PARAM_BOOL,
      .at = offsetof(P, predicts),
      .value = "true",
      .help = "whether there are predictions at all" },
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(P, prefix_producer),
      .help = "whose matches say what need not be computed" },
    { .name = "inFlightLoadProducerName", .kind = PARAM_IGNORED, .help = "accepted" },
    { .name = "samplingMean", .kind = PARAM_IGNORED, .help = "without effect" },
    { .name = "maxDecodeTokenSamplesForPrediction",
      .kind = PARAM_IGNORED,
      .help = "without effect" },
    { .name = "contextTTL", .kind = PARAM_IGNORED, .help = "accepted: nothing is kept here" },
    { .name = "useEncoderCacheFeatures",
      .kind = PARAM_IGNORED,
      .help = "accepted: media are not part of the prediction" },
};
#undef P

double producer_slo_ms(const struct sched_view *v, const char *name, const char *older)
{
    struct str text = sched_view_header(v, name);
    double ms;

    if (text.n == 0)
        text = sched_view_header(v, older);
    return text.n != 0 && str_f64(text, &ms) && isfinite(ms) ? ms : 0;
}

static struct sched_prediction predict(const struct latency_params *c, const struct sched_view *v,
                                       const struct sched_prefix *f, uint32_t i)
{
    const struct sched_endpoint *e = &v->ep[i];
    double ttft_slo = producer_slo_ms(v, "x-llm-d-slo-ttft-ms", "x-slo-ttft-ms");
    double tpot_slo = producer_slo_ms(v, "x-llm-d-slo-tpot-ms", "x-slo-tpot-ms") * c->slo_buffer;
    struct sched_prediction p = {
        .ttft_ms = (e->inflight_tokens + producer_uncached(v, f, i)) * e->prefill_ms_per_token,
        .tpot_ms = e->decode_ms_per_token * (1 + e->decode_batch_slope * e->inflight_decode),
        .tpot_valid = true,
        .dispatched = e->inflight_requests,
    };

    p.ttft_headroom_ms = ttft_slo - p.ttft_ms;
    p.ttft_valid = p.ttft_ms < ttft_slo;
    if (c->streaming &&
        !(c->role_label.n != 0 && str_eqz(sched_endpoint_label(e, c->role_label), "prefill"))) {
        p.tpot_headroom_ms = tpot_slo - p.tpot_ms;
        p.tpot_valid = p.tpot_ms < tpot_slo;
    }
    return p;
}

static void produce(struct plugin *p, struct sched_view *v)
{
    const struct latency_params *c = p->params;
    const struct sched_prefix *f = sched_view_prefix(v, c->prefix_producer);
    struct sched_prediction *out;

    for (uint32_t i = 0; i < v->count; i++)
        if (v->ep[i].prefill_ms_per_token <= 0 || v->ep[i].decode_ms_per_token <= 0)
            return;
    if (!c->predicts)
        return;
    out = arena_alloc(v->arena, ((size_t)v->count + 1) * sizeof(*out));
    for (uint32_t i = 0; i < v->count; i++)
        out[i] = predict(c, v, f, i);
    v->prediction = out;
}

static const char *const USES[] = { "PrefixCacheMatchInfo", NULL };
static const char *const GIVES[] = { "LatencyPredictionInfo", NULL };

const struct plugin_type plugin_latency_producer = {
    .type = "predicted-latency-producer",
    .roles = ROLE_PRODUCER,
    .params_size = sizeof(struct latency_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .gives = GIVES,
    .uses = USES,
    .produce = produce,
};
