/* latency-slo-admitter: sheds requests of negative priority that would miss their objective
 * everywhere.
 *
 * One endpoint that is expected to keep it, has nothing to do, or holds next to no KV is enough to
 * admit; so is a request without an objective, and a fleet without predictions. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_types_priv.h"
#include "sched/producer.h"
#include <stddef.h>

#define KV_COLD 0.02

struct latency_admit_params {
    struct str producer;
};

static const struct plugin_param PARAMS[] = {
    { .name = "latencyPredictionInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct latency_admit_params, producer),
      .help = "whose predictions count" },
};

static bool admit(struct plugin *p, const struct sched_view *v)
{
    (void)p;
    if (v->r->priority >= 0 || v->prediction == NULL ||
        producer_slo_ms(v, "x-llm-d-slo-ttft-ms", "x-slo-ttft-ms") <= 0)
        return true;
    for (uint32_t i = 0; i < v->count; i++)
        if ((v->prediction[i].ttft_valid && v->prediction[i].tpot_valid) ||
            v->ep[i].scraped_running <= 0 || v->ep[i].scraped_kv < KV_COLD)
            return true;
    return false;
}

static struct str needs_from(const void *params)
{
    return ((const struct latency_admit_params *)params)->producer;
}

static const char *const NEEDS[] = { "LatencyPredictionInfo", NULL };

const struct plugin_type plugin_latency_admitter = {
    .type = "latency-slo-admitter",
    .roles = ROLE_ADMITTER,
    .params_size = sizeof(struct latency_admit_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .needs = NEEDS,
    .needs_from = needs_from,
    .admit = admit,
};
