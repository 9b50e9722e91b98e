/* lora-affinity-scorer: endpoints that have the adapter loaded, then those with room for one. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/plugin_types_priv.h"

static bool has(const struct str *list, uint32_t count, struct str name)
{
    for (uint32_t i = 0; i < count; i++)
        if (str_eq(list[i], name))
            return true;
    return false;
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    struct str model = v->r->target_model;

    (void)p;
    for (uint32_t i = 0; i < v->count; i++) {
        const struct sched_endpoint *e = &v->ep[i];

        if (!keep[i])
            continue;
        if (has(e->lora_active, e->lora_active_count, model))
            out[i] = 1;
        else if (e->lora_active_count + e->lora_waiting_count < e->lora_max)
            out[i] = 0.8;
        else if (has(e->lora_waiting, e->lora_waiting_count, model))
            out[i] = 0.6;
        else
            out[i] = 0;
    }
}

const struct plugin_type plugin_lora_scorer = {
    .type = "lora-affinity-scorer",
    .roles = ROLE_SCORER,
    .score = score,
};
