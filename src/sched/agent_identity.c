/* agent-identity: which agent a request is from, by the headers that agents send by themselves.
 *
 * The first header that says something wins: those of the configuration, then the known ones in
 * their order.  It is an attribute of the request, and its tenant when no header names one. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"

struct agent_params {
    struct str_list headers; /* looked at before the known ones */
};

static int decode_headers(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    return params_list(n, a, &((struct agent_params *)params)->headers, e);
}

static const struct plugin_param PARAMS[] = {
    { .name = "additionalSessionHeaders",
      .kind = PARAM_CUSTOM,
      .decode = decode_headers,
      .help = "headers that are looked at first" },
};

static void identify(struct plugin *p, struct sched_view *v)
{
    static const char *const known[] = { "x-claude-code-session-id", "x-session-affinity",
                                         "session-id", "session_id" };
    const struct agent_params *c = p->params;
    struct str id = STR_NONE;

    for (uint32_t i = 0; i < c->headers.count && id.n == 0; i++)
        id = sched_view_header_any(v, c->headers.item[i]);
    for (size_t i = 0; i < COUNT(known) && id.n == 0; i++)
        id = sched_view_header(v, known[i]);
    if (id.n != 0)
        sched_view_attribute_set(v, STR(SCHED_AGENT_IDENTITY), STR(""), id);
}

const struct plugin_type plugin_agent_identity = {
    .type = "agent-identity",
    .roles = ROLE_REQUEST_HEADER,
    .alpha = true,
    .params_size = sizeof(struct agent_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .produce = identify,
};
