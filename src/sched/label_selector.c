/* As Kubernetes defines it: NotIn also holds where the label is absent. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/label_selector.h"
#include "sched/plugin.h"

static bool holds(const struct label_requirement *r, struct str value)
{
    bool found = false;

    if (r->op == LABEL_EXISTS)
        return value.p != NULL;
    if (r->op == LABEL_DOES_NOT_EXIST)
        return value.p == NULL;
    for (uint32_t i = 0; i < r->count && value.p != NULL && !found; i++)
        found = str_eq(r->value[i], value);
    return found == (r->op == LABEL_IN);
}

bool label_selector_match(const struct label_selector *s, const struct sched_endpoint *ep)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (!holds(&s->requirement[i], sched_endpoint_label(ep, s->requirement[i].key)))
            return false;
    return true;
}
