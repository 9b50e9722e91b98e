/* Profile handlers that split a request: prefill (and encoding of media) on other endpoints.
 *
 *   decode-first   decode -> encode? -> prefill?   deciders see the decode pick
 *   prefill-first  prefill -> encode? -> decode
 *
 * next() is asked again after every profile and finds its place by what ran or was skipped.  Only
 * decode is a must: an encode or prefill profile without a pick degrades the request. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/config.h"
#include "sched/handler_priv.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"

static const char PREFILL_HEADER[] = "x-prefiller-host-port";
static const char ENCODE_HEADER[] = "x-encoder-hosts-ports";
static const char NO_DECODE[] = "failed to find available decode workers: "
                                "no endpoints available for the given request";

/* ---- shared ---- */

bool handler_decide(struct plugin *p, const struct sched_run *run, struct str decider,
                    uint32_t picked)
{
    struct plugin *d;
    int at;

    if (decider.n == 0 || p->pipeline == NULL)
        return false;
    at = sched_config_find(run->config, decider);
    d = at < 0 ? NULL : sched_pipeline_plugin(p->pipeline, (uint32_t)at);
    return d != NULL && d->type->decide != NULL && d->type->decide(d, run->v, picked);
}

void handler_disagg_headers(struct sched_run *run, int prefill, int encode)
{
    const struct sched_endpoint *ep = run->v->ep;
    uint32_t pick = sched_run_pick(run, prefill);

    sched_run_drop(run, PREFILL_HEADER);
    sched_run_drop(run, ENCODE_HEADER);
    if (pick != SCHED_NONE)
        sched_run_header(run, PREFILL_HEADER, ep[pick].address);
    if (sched_run_pick(run, encode) != SCHED_NONE) {
        const struct sched_profile_result *e = &run->profile[encode];
        struct buf list;

        buf_init(&list, 4096);
        for (uint32_t i = 0; i < e->pick_count; i++)
            buf_f(&list, "%s%.*s", i != 0 ? "," : "", STR_ARG(ep[e->pick[i]].address));
        if (!list.failed)
            sched_run_header(run, ENCODE_HEADER, buf_view(&list));
        buf_fini(&list);
    }
}

static bool is_done(const struct sched_run *run, int profile)
{
    return run->profile[profile].ran || run->profile[profile].skipped;
}

static int picked_or_none(const struct sched_run *run, int profile)
{
    return sched_run_pick(run, profile) == SCHED_NONE ? -1 : profile;
}

static void finish_decode(struct sched_run *run, int decode, int prefill, int encode)
{
    run->prefill = picked_or_none(run, prefill);
    run->encode = picked_or_none(run, encode);
    if (sched_run_pick(run, decode) == SCHED_NONE)
        sched_run_fail(run, 429, "rejected-saturated", "%s", NO_DECODE);
    else
        run->primary = decode;
}

/* ---- disagg-profile-handler ---- */

struct stages {
    int decode, prefill, encode;
};

static int named(const struct sched_run *run, struct str name, const char *otherwise)
{
    return sched_config_profile(run->config, name.n != 0 ? name : str_of(otherwise));
}

static struct stages stages_of(const struct disagg_params *c, const struct sched_run *run)
{
    return (struct stages) {
        named(run, c->decode, "decode"),
        named(run, c->prefill, "prefill"),
        named(run, c->encode, "encode"),
    };
}

/* Whether an optional stage runs now; notes that it was asked when not. */
static bool runs(struct plugin *p, struct sched_run *run, int profile, struct str decider,
                 uint32_t picked)
{
    if (profile < 0 || is_done(run, profile))
        return false;
    if (handler_decide(p, run, decider, picked))
        return true;
    run->profile[profile].skipped = true;
    return false;
}

static int next_decode_first(struct plugin *p, struct sched_run *run, struct stages s)
{
    const struct disagg_params *c = p->params;
    uint32_t picked;

    if (!run->profile[s.decode].ran)
        return s.decode;
    picked = sched_run_pick(run, s.decode);
    if (picked == SCHED_NONE)
        return -1;
    if (runs(p, run, s.encode, c->encode_decider, picked))
        return s.encode;
    if (runs(p, run, s.prefill, c->prefill_decider, picked)) {
        run->v->peer = picked;
        return s.prefill;
    }
    return -1;
}

static int next_prefill_first(struct plugin *p, struct sched_run *run, struct stages s)
{
    const struct disagg_params *c = p->params;

    if (s.prefill >= 0 && !run->profile[s.prefill].ran)
        return s.prefill;
    if (runs(p, run, s.encode, c->encode_decider, SCHED_NONE))
        return s.encode;
    if (run->profile[s.decode].ran)
        return -1;
    run->v->peer = sched_run_pick(run, s.prefill);
    return s.decode;
}

static int next(struct plugin *p, struct sched_run *run)
{
    const struct disagg_params *c = p->params;
    struct stages s = stages_of(c, run);

    if (s.decode < 0)
        return -1;
    return c->order == STAGE_PREFILL_FIRST ? next_prefill_first(p, run, s)
                                           : next_decode_first(p, run, s);
}

static void finish(struct plugin *p, struct sched_run *run)
{
    struct stages s = stages_of(p->params, run);

    finish_decode(run, s.decode, s.prefill, s.encode);
}

static void dispatched(struct plugin *p, struct sched_run *run)
{
    (void)p;
    handler_disagg_headers(run, run->prefill, run->encode);
}

/* ---- its parameters ---- */

#define P struct disagg_params

/* "Decode-First" and "decode_first" are one word, and its first half says as much. */
static int decode_order(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    struct str text = STR_NONE, word;
    char plain[16];
    size_t len = 0;

    (void)a;
    if (!yaml_str(n, &text))
        return yaml_err(n, e, "stageOrder: must be decode-first or prefill-first");
    for (size_t i = 0; i < text.n && len < sizeof(plain); i++)
        if (text.p[i] != '-' && text.p[i] != '_')
            plain[len++] = text.p[i];
    word = (struct str) { plain, len };
    if (str_ieq(word, STR("prefillfirst")) || str_ieq(word, STR("prefill")))
        ((P *)params)->order = STAGE_PREFILL_FIRST;
    else if (str_ieq(word, STR("decodefirst")) || str_ieq(word, STR("decode")) || word.n == 0)
        ((P *)params)->order = STAGE_DECODE_FIRST;
    else
        return yaml_err(n, e, "stageOrder: must be decode-first or prefill-first");
    return 0;
}

static const struct plugin_param PROFILES[] = {
    { .name = "decode", .kind = PARAM_STR, .at = offsetof(P, decode) },
    { .name = "prefill", .kind = PARAM_STR, .at = offsetof(P, prefill) },
    { .name = "encode", .kind = PARAM_STR, .at = offsetof(P, encode) },
};

static const struct plugin_param DECIDERS[] = {
    { .name = "prefill", .kind = PARAM_STR, .at = offsetof(P, prefill_decider) },
    { .name = "encode", .kind = PARAM_STR, .at = offsetof(P, encode_decider) },
};

static int decode_profiles(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    ((P *)params)->nested++;
    return params_decode(n, PROFILES, COUNT(PROFILES), "profiles", a, params, e);
}

static int decode_deciders(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    ((P *)params)->nested++;
    return params_decode(n, DECIDERS, COUNT(DECIDERS), "deciders", a, params, e);
}

static int decode_flat(const struct yaml_node *n, struct arena *a, P *c, struct str *out,
                       struct err *e)
{
    (void)a;
    c->flat++;
    return yaml_str(n, out) ? 0 : yaml_err(n, e, "%.*s: must be text", STR_ARG(n->key));
}

#define FLAT(fn, member)                                                                           \
    static int fn(const struct yaml_node *n, struct arena *a, void *params, struct err *e)         \
    {                                                                                              \
        P *c = params;                                                                             \
                                                                                                   \
        return decode_flat(n, a, c, &c->member, e);                                                \
    }
FLAT(flat_decode, decode)
FLAT(flat_prefill, prefill)
FLAT(flat_encode, encode)
FLAT(flat_prefill_decider, prefill_decider)
FLAT(flat_encode_decider, encode_decider)

static const struct plugin_param PARAMS[] = {
    { .name = "stageOrder",
      .kind = PARAM_CUSTOM,
      .decode = decode_order,
      .help = "decode-first or prefill-first" },
    { .name = "profiles",
      .kind = PARAM_CUSTOM,
      .decode = decode_profiles,
      .help = "names of the profiles: decode (decode), prefill (prefill), encode (encode)" },
    { .name = "deciders",
      .kind = PARAM_CUSTOM,
      .decode = decode_deciders,
      .help = "plugins that say whether a stage runs: prefill, encode; none: it never does" },
    { .name = "decodeProfile",
      .kind = PARAM_CUSTOM,
      .decode = flat_decode,
      .help = "older form of profiles.decode" },
    { .name = "prefillProfile",
      .kind = PARAM_CUSTOM,
      .decode = flat_prefill,
      .help = "older form of profiles.prefill" },
    { .name = "encodeProfile",
      .kind = PARAM_CUSTOM,
      .decode = flat_encode,
      .help = "older form of profiles.encode" },
    { .name = "prefillDeciderPluginName",
      .kind = PARAM_CUSTOM,
      .decode = flat_prefill_decider,
      .help = "older form of deciders.prefill" },
    { .name = "deciderPluginName",
      .kind = PARAM_CUSTOM,
      .decode = flat_prefill_decider,
      .help = "older form of deciders.prefill" },
    { .name = "encodeDeciderPluginName",
      .kind = PARAM_CUSTOM,
      .decode = flat_encode_decider,
      .help = "older form of deciders.encode" },
};
#undef P

static int check(const void *params, struct err *e)
{
    const struct disagg_params *c = params;

    if (c->nested != 0 && c->flat != 0)
        return err_set(e, ERR_INVAL,
                       "profiles: the forms with profiles and deciders and the older "
                       "flat one cannot be mixed");
    if (c->order == STAGE_PREFILL_FIRST && c->prefill_decider.n != 0)
        return err_set(e, ERR_INVAL,
                       "deciders: prefill-first always runs prefill: remove its decider");
    return 0;
}

static const char *const NEEDS[] = { "PrefixCacheMatchInfo", "TokenizedPrompt", NULL };

const struct plugin_type plugin_disagg_handler = {
    .type = "disagg-profile-handler",
    .roles = ROLE_HANDLER | ROLE_PRE_REQUEST,
    .params_size = sizeof(struct disagg_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .check = check,
    .needs = NEEDS,
    .next = next,
    .finish = finish,
    .dispatched = dispatched,
};

/* ---- pd-profile-handler ---- */

static const struct plugin_param PD[] = {
    { .name = "decodeProfile",
      .kind = PARAM_STR,
      .at = offsetof(struct pd_params, decode),
      .value = "decode",
      .help = "profile of the destination" },
    { .name = "prefillProfile",
      .kind = PARAM_STR,
      .at = offsetof(struct pd_params, prefill),
      .value = "prefill",
      .help = "profile of who prefills" },
    { .name = "primaryPort",
      .kind = PARAM_U32,
      .at = offsetof(struct pd_params, primary_port),
      .max = 65535,
      .help = "port of every destination, the picked one named in a header; 0: off" },
    { .name = "deciderPluginName",
      .kind = PARAM_STR,
      .at = offsetof(struct pd_params, decider),
      .value = "prefix-based-pd-decider",
      .help = "plugin that says whether prefill runs" },
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct pd_params, prefix_producer),
      .help = "producer that must be there" },
    { .name = "prefixPluginType", .kind = PARAM_IGNORED, .help = "without effect" },
    { .name = "prefixPluginName", .kind = PARAM_IGNORED, .help = "without effect" },
};

static int pd_next(struct plugin *p, struct sched_run *run)
{
    const struct pd_params *c = p->params;
    int decode = sched_config_profile(run->config, c->decode);
    int prefill = sched_config_profile(run->config, c->prefill);

    if (decode < 0 || !run->profile[decode].ran)
        return decode;
    if (sched_run_pick(run, decode) != SCHED_NONE &&
        runs(p, run, prefill, c->decider, sched_run_pick(run, decode))) {
        run->v->peer = sched_run_pick(run, decode);
        return prefill;
    }
    return -1;
}

static void pd_finish(struct plugin *p, struct sched_run *run)
{
    const struct pd_params *c = p->params;

    finish_decode(run, sched_config_profile(run->config, c->decode),
                  sched_config_profile(run->config, c->prefill), -1);
    run->primary_port = (uint16_t)c->primary_port;
}

static void pd_dispatched(struct plugin *p, struct sched_run *run)
{
    if (((const struct pd_params *)p->params)->primary_port != 0)
        handler_port_header(run);
}

static struct str pd_from(const void *params)
{
    return ((const struct pd_params *)params)->prefix_producer;
}

const struct plugin_type plugin_pd_handler = {
    .type = "pd-profile-handler",
    .roles = ROLE_HANDLER | ROLE_PRE_REQUEST,
    .deprecated = "pd-profile-handler is deprecated: use disagg-profile-handler",
    .params_size = sizeof(struct pd_params),
    .params = PD,
    .param_count = COUNT(PD),
    .needs = NEEDS,
    .needs_from = pd_from,
    .next = pd_next,
    .finish = pd_finish,
    .dispatched = pd_dispatched,
};

/* ---- disagg-headers-handler ---- */

static const struct plugin_param HEADERS[] = {
    { .name = "prefillProfile",
      .kind = PARAM_STR,
      .at = offsetof(struct disagg_headers_params, prefill),
      .value = "prefill",
      .help = "profile of who prefills" },
    { .name = "encodeProfile",
      .kind = PARAM_STR,
      .at = offsetof(struct disagg_headers_params, encode),
      .value = "encode",
      .help = "profile of who encodes" },
};

static void headers_dispatched(struct plugin *p, struct sched_run *run)
{
    const struct disagg_headers_params *c = p->params;

    handler_disagg_headers(run, sched_config_profile(run->config, c->prefill),
                           sched_config_profile(run->config, c->encode));
}

#define HEADERS_TYPE(name)                                                                         \
    .type = name, .roles = ROLE_PRE_REQUEST,                                                       \
    .deprecated = name " is deprecated: disagg-profile-handler writes the headers itself",         \
    .params_size = sizeof(struct disagg_headers_params), .params = HEADERS,                        \
    .param_count = COUNT(HEADERS), .dispatched = headers_dispatched

const struct plugin_type plugin_disagg_headers = {
    HEADERS_TYPE("disagg-headers-handler"),
};

const struct plugin_type plugin_prefill_header = {
    HEADERS_TYPE("prefill-header-handler"),
};
