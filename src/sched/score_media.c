/* mm-embeddings-cache-scorer: the share of the request's media whose encodings an endpoint is
 * believed to hold. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"

static const struct plugin_param PARAMS[] = {
    { .name = "producerName",
      .kind = PARAM_STR,
      .at = offsetof(struct media_scorer_params, producer),
      .help = "whose matches count" },
};

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    (void)p;
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = v->media_match != NULL ? v->media_match[i] : 0;
}

static const char *const NEEDS[] = { "MultiModalEncoderCacheMatchInfo", NULL };

static struct str needs_from(const void *params)
{
    return ((const struct media_scorer_params *)params)->producer;
}

const struct plugin_type plugin_media_scorer = {
    .type = "mm-embeddings-cache-scorer",
    .roles = ROLE_SCORER,
    .params_size = sizeof(struct media_scorer_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .needs = NEEDS,
    .needs_from = needs_from,
    .score = score,
};
