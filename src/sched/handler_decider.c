/* Deciders: whether a request is split, asked once a stage. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

static bool always(struct plugin *p, const struct sched_view *v, uint32_t picked)
{
    (void)p;
    (void)v;
    (void)picked;
    return true;
}

const struct plugin_type plugin_always_decider = {
    .type = "always-disagg-pd-decider",
    .roles = ROLE_DECIDER,
    .decide = always,
};

static bool has_media(struct plugin *p, const struct sched_view *v, uint32_t picked)
{
    (void)p;
    (void)picked;
    return v->r->media_items != 0;
}

const struct plugin_type plugin_media_decider = {
    .type = "always-disagg-multimodal-decider",
    .roles = ROLE_DECIDER,
    .decide = has_media,
};

/* ---- prefix-based-pd-decider ---- */

static const struct plugin_param PREFIX[] = {
    { .name = "nonCachedTokens",
      .kind = PARAM_I64,
      .at = offsetof(struct prefix_decider_params, non_cached_tokens),
      .max = INFINITY,
      .help = "tokens to compute from where a split pays; 0: never" },
    { .name = "promptTokens",
      .kind = PARAM_I64,
      .at = offsetof(struct prefix_decider_params, prompt_tokens),
      .max = INFINITY,
      .help = "shorter prompts are never split; 0: however short" },
};

static bool by_prefix(struct plugin *p, const struct sched_view *v, uint32_t picked)
{
    const struct prefix_decider_params *c = p->params;
    const struct sched_prefix *f = sched_view_prefix(v, STR(""));
    int64_t n = v->r->prompt_tokens, cached;

    if (c->non_cached_tokens == 0 || n < c->prompt_tokens || n < c->non_cached_tokens)
        return false;
    if (f == NULL || picked == SCHED_NONE)
        return false;
    cached = (int64_t)f->cached_blocks[picked] * f->block_tokens;
    return n - cached >= c->non_cached_tokens;
}

static const char *const NEEDS[] = { "TokenizedPrompt", "PrefixCacheMatchInfo", NULL };

const struct plugin_type plugin_prefix_decider = {
    .type = "prefix-based-pd-decider",
    .roles = ROLE_DECIDER,
    .params_size = sizeof(struct prefix_decider_params),
    .params = PREFIX,
    .param_count = COUNT(PREFIX),
    .needs = NEEDS,
    .decide = by_prefix,
};
