/* Filters by what an endpoint is for: the label llm-d.ai/role.
 *
 * An endpoint without the label decodes and does nothing else for others. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_types_priv.h"

static const char *const DECODE[] = { "decode", "prefill-decode", "both", "encode-prefill-decode",
                                      NULL };
static const char *const PREFILL[] = { "prefill", "encode-prefill",        "prefill-decode",
                                       "both",    "encode-prefill-decode", NULL };
static const char *const ENCODE[] = { "encode", "encode-prefill", "encode-prefill-decode", NULL };

static void by_role(const struct sched_view *v, const char *const *roles, bool unlabelled,
                    bool *keep)
{
    for (uint32_t i = 0; i < v->count; i++) {
        struct str role = sched_endpoint_label(&v->ep[i], STR("llm-d.ai/role"));
        bool is_one = role.p == NULL && unlabelled;

        for (const char *const *r = roles; *r != NULL && role.p != NULL && !is_one; r++)
            is_one = str_eqz(role, *r);
        keep[i] &= is_one;
    }
}

static void decode(struct plugin *p, const struct sched_view *v, bool *keep)
{
    (void)p;
    by_role(v, DECODE, true, keep);
}

static void prefill(struct plugin *p, const struct sched_view *v, bool *keep)
{
    (void)p;
    by_role(v, PREFILL, false, keep);
}

static void encode(struct plugin *p, const struct sched_view *v, bool *keep)
{
    (void)p;
    by_role(v, ENCODE, false, keep);
}

const struct plugin_type plugin_decode_filter = {
    .type = "decode-filter",
    .roles = ROLE_FILTER,
    .filter = decode,
};

const struct plugin_type plugin_prefill_filter = {
    .type = "prefill-filter",
    .roles = ROLE_FILTER,
    .filter = prefill,
};

const struct plugin_type plugin_encode_filter = {
    .type = "encode-filter",
    .roles = ROLE_FILTER,
    .filter = encode,
};
