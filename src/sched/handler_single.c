/* Profile handlers that run one profile: the only one, or the one a header names; and the older
 * data parallel one, which sends to one port and names the rank in a header. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/config.h"
#include "sched/handler_priv.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"

static const char DATA_PARALLEL_HEADER[] = "x-data-parallel-host-port";

void handler_finish(struct sched_run *run, int profile)
{
    if (sched_run_pick(run, profile) == SCHED_NONE) {
        sched_run_fail(run, 429, "rejected-saturated",
                       "no endpoints available for the given request");
        return;
    }
    run->primary = profile;
}

void handler_port_header(struct sched_run *run)
{
    uint32_t pick = sched_run_pick(run, run->primary);

    sched_run_drop(run, DATA_PARALLEL_HEADER);
    if (pick != SCHED_NONE)
        sched_run_header(run, DATA_PARALLEL_HEADER, run->v->ep[pick].address);
}

static int next_only(struct plugin *p, struct sched_run *run)
{
    (void)p;
    return run->config->profile_count == 0 || run->profile[0].ran ? -1 : 0;
}

static void finish_only(struct plugin *p, struct sched_run *run)
{
    (void)p;
    handler_finish(run, 0);
}

const struct plugin_type plugin_single_handler = {
    .type = "single-profile-handler",
    .roles = ROLE_HANDLER,
    .next = next_only,
    .finish = finish_only,
};

/* ---- data-parallel-profile-handler ---- */

static const struct plugin_param DATA_PARALLEL[] = {
    { .name = "primaryPort",
      .kind = PARAM_U32,
      .at = offsetof(struct data_parallel_params, primary_port),
      .value = "8000",
      .min = 1,
      .max = 65535,
      .help = "port of every destination" },
};

static void finish_port(struct plugin *p, struct sched_run *run)
{
    handler_finish(run, 0);
    run->primary_port = (uint16_t)((const struct data_parallel_params *)p->params)->primary_port;
}

static void dispatched_port(struct plugin *p, struct sched_run *run)
{
    (void)p;
    handler_port_header(run);
}

const struct plugin_type plugin_data_parallel_handler = {
    .type = "data-parallel-profile-handler",
    .roles = ROLE_HANDLER | ROLE_PRE_REQUEST,
    .deprecated = "data-parallel-profile-handler is deprecated: declare every rank's port as a "
                  "target port and use single-profile-handler",
    .params_size = sizeof(struct data_parallel_params),
    .params = DATA_PARALLEL,
    .param_count = COUNT(DATA_PARALLEL),
    .next = next_only,
    .finish = finish_port,
    .dispatched = dispatched_port,
};

/* ---- header-profile-handler ---- */

static const struct plugin_param HEADER_PROFILE[] = {
    { .name = "headerName",
      .kind = PARAM_STR,
      .at = offsetof(struct header_profile_params, header),
      .value = "EPP-Profile",
      .help = "header that names the profile" },
    { .name = "defaultProfile",
      .kind = PARAM_STR,
      .at = offsetof(struct header_profile_params, default_profile),
      .value = "decode",
      .help = "profile of requests without it" },
};

static int profile_of(const struct plugin *p, const struct sched_run *run)
{
    const struct header_profile_params *c = p->params;
    struct str name;

    if (run->config->profile_count == 1)
        return 0;
    name = sched_view_header_any(run->v, c->header.n != 0 ? c->header : STR("EPP-Profile"));
    return sched_config_profile(run->config, name.n != 0 ? name : c->default_profile);
}

static int next_named(struct plugin *p, struct sched_run *run)
{
    int profile = profile_of(p, run);

    return profile < 0 || run->profile[profile].ran ? -1 : profile;
}

static void finish_named(struct plugin *p, struct sched_run *run)
{
    handler_finish(run, profile_of(p, run));
}

const struct plugin_type plugin_header_handler = {
    .type = "header-profile-handler",
    .roles = ROLE_HANDLER,
    .alpha = true,
    .params_size = sizeof(struct header_profile_params),
    .params = HEADER_PROFILE,
    .param_count = COUNT(HEADER_PROFILE),
    .next = next_named,
    .finish = finish_named,
};
