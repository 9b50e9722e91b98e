/* context-length-aware: endpoints made for prompts of a length, by a label such as "0-8192".
 *
 * Filter (when enabled) and scorer.  In its range an endpoint scores 0.3 to 1: more the narrower
 * the range and the more room is left above the prompt; outside at most 0.3, less with distance. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"

static const struct plugin_param PARAMS[] = {
    { .name = "label",
      .kind = PARAM_STR,
      .at = offsetof(struct context_length_params, label),
      .value = "llm-d.ai/context-length-range",
      .help = "label whose value is MIN-MAX tokens" },
    { .name = "enableFiltering",
      .kind = PARAM_BOOL,
      .at = offsetof(struct context_length_params, enable_filtering),
      .help = "also drop endpoints whose range does not hold the prompt" },
};

enum fit { FIT_UNLABELLED, FIT_UNREADABLE, FIT_IN, FIT_OUT };

struct range {
    uint64_t min, max;
};

static enum fit fit_of(const struct context_length_params *c, const struct sched_view *v,
                       uint32_t i, struct range *r)
{
    struct str text = sched_endpoint_label(&v->ep[i], c->label), min;

    if (text.p == NULL)
        return FIT_UNLABELLED;
    min = str_cut(&text, '-');
    if (!str_u64(str_trim(min), &r->min) || !str_u64(str_trim(text), &r->max) || r->max < r->min)
        return FIT_UNREADABLE;
    return v->r->prompt_tokens >= r->min && v->r->prompt_tokens <= r->max ? FIT_IN : FIT_OUT;
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    const struct context_length_params *c = p->params;
    struct range r;

    for (uint32_t i = 0; i < v->count && c->enable_filtering; i++) {
        enum fit fit = fit_of(c, v, i, &r);

        keep[i] &= fit == FIT_UNLABELLED || fit == FIT_IN;
    }
}

static double inside(double n, const struct range *r)
{
    double width = (double)(r->max - r->min);

    if (width == 0)
        return 1;
    return 0.3 + 0.7 * (0.7 / (1 + width / 10000) + 0.3 * ((double)r->max - n) / width);
}

static double outside(double n, const struct range *r)
{
    double distance = n < (double)r->min ? (double)r->min - n : n - (double)r->max;

    return 0.3 / (1 + distance / 1000);
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    double n = v->r->prompt_tokens;
    struct range r;

    for (uint32_t i = 0; i < v->count; i++) {
        if (!keep[i])
            continue;
        switch (fit_of(p->params, v, i, &r)) {
        case FIT_UNLABELLED: out[i] = 0.5; break;
        case FIT_UNREADABLE: out[i] = 0; break;
        case FIT_IN: out[i] = inside(n, &r); break;
        case FIT_OUT: out[i] = outside(n, &r); break;
        }
    }
}

static const char *const NEEDS[] = { "TokenizedPrompt", NULL };

const struct plugin_type plugin_context_length = {
    .type = "context-length-aware",
    .roles = ROLE_FILTER | ROLE_SCORER,
    .params_size = sizeof(struct context_length_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .needs = NEEDS,
    .filter = filter,
    .score = score,
};
