/* Configurations of llm-d's shapes load to the documented plugins; what is wrong is refused with
 * its place and what to write instead. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/check.h"
#include "base/file.h"
#include "sched/config.h"
#include "sched/config_priv.h"
#include "sched/params.h"
#include "sched/plugins_data.h"
#include <stdio.h>
#include <string.h>

struct heard {
    char text[4096];
    unsigned count;
};

static void hear(void *ctx, const char *text)
{
    struct heard *h = ctx;
    size_t len = strlen(h->text);

    h->count++;
    snprintf(h->text + len, sizeof(h->text) - len, "%s\n", text);
}

static int load(struct sched_config **c, const char *text, struct heard *h, struct err *e)
{
    struct sched_config_opts o = {
        .file = "f.yaml", .allow_experimental = true, .warn = h != NULL ? hear : NULL, .ctx = h
    };

    return sched_config_load(c, str_of(text), &o, e);
}

static struct sched_config *load_ok(const char *text, struct heard *h)
{
    struct sched_config *c;
    struct err e;

    if (load(&c, text, h, &e) != 0)
        fail_msg("%s", e.msg);
    return c;
}

static struct sched_config *load_file(const char *name, struct heard *h)
{
    struct sched_config_opts o = {
        .file = name, .allow_experimental = true, .warn = h != NULL ? hear : NULL, .ctx = h
    };
    struct sched_config *c = NULL;
    char path[512];
    struct buf text;
    struct err e;

    buf_init(&text, YAML_BYTES_MAX);
    snprintf(path, sizeof(path), CONFIG_DIR "/%s", name);
    if (file_read(path, &text, &e) != 0 || sched_config_load(&c, buf_view(&text), &o, &e) != 0)
        fail_msg("%s", e.msg);
    buf_fini(&text);
    return c;
}

/* "queue-scorer *max-score-picker ...": names as printed, those made by default with a star. */
static void names_of(const struct sched_config *c, char *out, size_t size)
{
    struct str rest, line;
    struct buf b;
    size_t len = 0;

    buf_init(&b, 1 << 16);
    sched_config_print(c, &b);
    assert_false(b.failed);
    rest = buf_view(&b);
    for (line = str_cut(&rest, '\n'); line.n != 0; line = str_cut(&rest, '\n')) {
        bool made = str_ends(line, STR(" (default)"));
        struct str name = str_cut(&line, ' ');

        len += (size_t)snprintf(out + len, size - len, "%s%s%.*s", len != 0 ? " " : "",
                                made ? "*" : "", STR_ARG(name));
        assert_true(len < size);
    }
    buf_fini(&b);
}

/* What is made whenever the file does not say. */
#define POLICIES "*fcfs-ordering-policy *global-strict-fairness-policy *static-usage-limit-policy"
#define DETECTOR " *utilization-detector"
#define PARSERS  " *openai-parser *anthropic-parser *vllmhttp-parser *passthrough-parser"
#define METRICS  " *metrics-data-source *core-metrics-extractor"
#define HANDLER  "*single-profile-handler "
#define PICKER   "*max-score-picker "
#define REST     POLICIES DETECTOR PARSERS METRICS
#define PREFIX   " *approx-prefix-cache-producer *token-producer"

static void documented_plugins_of_every_shape(void **state)
{
    static const struct {
        const char *file, *names;
    } cases[] = {
        { "default.yaml",
          "queue-scorer kv-cache-utilization-scorer prefix-cache-scorer " HANDLER PICKER REST
              PREFIX },
        { "pd.yaml", "approx-prefix-cache-producer prefix-cache-scorer queue-scorer prefill-filter "
                     "decode-filter max-score-picker disagg-profile-handler long-prompts " REST
                     " *token-producer" },
        { "epd.yaml",
          "encode-filter prefill-filter decode-filter prefix-cache-scorer random-picker "
          "always-disagg-multimodal-decider always-disagg-pd-decider "
          "disagg-profile-handler " POLICIES DETECTOR " *openai-parser" METRICS PREFIX },
        { "precise.yaml",
          "token-producer endpoint-notification-source metrics-data-source core-metrics-extractor "
          "precise-prefix-cache-producer prefix-cache-scorer kv-cache-utilization-scorer "
          "decode-filter max-score-picker " HANDLER POLICIES DETECTOR PARSERS },
        { "lora.json", "lora-affinity-scorer queue-scorer " HANDLER PICKER REST },
        { "header_profile.yaml",
          "header-profile-handler decode-filter prefill-filter " PICKER REST },
        { "data_parallel.yaml",
          "data-parallel-profile-handler load-aware-scorer decode-filter " PICKER REST },
        { "session.yaml", "passthrough-parser active-request-scorer session-affinity-scorer "
                          "decode-filter " HANDLER PICKER POLICIES DETECTOR
                          " *sglanghttp-parser" METRICS " *inflight-load-producer" },
        { "latency.yaml",
          "predicted-latency-producer slo-headroom-tier-filter prefix-cache-affinity-filter "
          "latency-scorer weighted-random-picker " HANDLER REST
          " *approx-prefix-cache-producer *inflight-load-producer *token-producer" },
        { "flow.yaml",
          "queue-scorer round-robin-fairness-policy edf-ordering-policy tight mostly " HANDLER
              PICKER POLICIES PARSERS METRICS },
        { "files.yaml", "file-discovery models-data-source models-data-extractor "
                        "k8s-notification-source " HANDLER PICKER REST },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct sched_config *c = load_file(cases[i].file, NULL);
        char names[2048];

        names_of(c, names, sizeof(names));
        assert_string_equal(names, cases[i].names);
        sched_config_free(c);
    }
}

static uint32_t at(const struct sched_config *c, const char *name)
{
    int i = sched_config_find(c, str_of(name));

    if (i < 0)
        fail_msg("no plugin %s", name);
    return (uint32_t)i;
}

static void no_file_is_the_built_in_configuration(void **state)
{
    struct sched_config *c = load_ok(" \n", NULL);
    static const struct {
        const char *name;
        double weight;
    } scorers[] = { { "queue-scorer", 2 },
                    { "kv-cache-utilization-scorer", 2 },
                    { "prefix-cache-scorer", 3 } };

    (void)state;
    assert_int_equal(c->profile_count, 1);
    assert_int_equal(c->profile[0].scorer_count, 3);
    for (size_t i = 0; i < COUNT(scorers); i++) {
        assert_int_equal(c->profile[0].scorer[i].plugin, at(c, scorers[i].name));
        assert_true(c->profile[0].scorer[i].weight == scorers[i].weight);
    }
    assert_int_equal(c->profile[0].picker, at(c, "max-score-picker"));
    assert_int_equal(c->handler, at(c, "single-profile-handler"));
    assert_int_equal(c->source_count, 1);
    assert_int_equal(c->source[0].plugin, at(c, "metrics-data-source"));
    assert_int_equal(c->source[0].extractor[0], at(c, "core-metrics-extractor"));
    assert_int_equal(c->order_count, 2);
    assert_int_equal(c->order[0], at(c, "token-producer"));
    assert_int_equal(c->order[1], at(c, "approx-prefix-cache-producer"));
    assert_int_equal(c->discovery, -1);
    assert_false(c->flow.enabled);
    assert_true(c->ha_populate_non_leader);
    sched_config_free(c);
}

static void flow_control_is_taken_over(void **state)
{
    struct sched_config *c = load_file("flow.yaml", NULL);
    const struct sched_flow_conf *f = &c->flow;

    (void)state;
    assert_true(f->enabled && f->eviction);
    assert_false(c->ha_populate_non_leader);
    assert_true(f->bytes_max == (uint64_t)1 << 30);
    assert_true(f->requests_max == 20000);
    assert_int_equal(f->ttl_ms, 90000);
    assert_int_equal(f->no_endpoint_ttl_ms, 90000); /* follows the default one */
    assert_true(f->default_band.requests_max == 100 && f->default_band.bytes_max == 1000000000);
    assert_true(f->negative_band.requests_max == 100); /* no template of its own */
    assert_int_equal(f->band_count, 2);
    assert_int_equal(f->band[0].priority, 10);
    assert_true(f->band[0].bytes_max == 2000000000 && f->band[0].requests_max == 5000);
    assert_int_equal(f->band[0].ordering, at(c, "edf-ordering-policy"));
    assert_int_equal(f->band[0].fairness, at(c, "round-robin-fairness-policy"));
    assert_int_equal(f->band[1].priority, -5);
    assert_true(f->band[1].requests_max == 5000); /* 0 is the default */
    assert_int_equal(f->band[1].ordering, at(c, "fcfs-ordering-policy"));
    assert_int_equal(f->usage_limit, at(c, "mostly"));
    assert_int_equal(f->saturation, at(c, "tight"));
    sched_config_free(c);
}

static void engines_are_replaced_by_name(void **state)
{
    struct sched_config *c = load_file("precise.yaml", NULL);
    const struct data_core_metrics_params *p = c->plugin[at(c, "core-metrics-extractor")].params;
    const struct metric_engine *mine = data_engine(p, STR("mine"));

    (void)state;
    assert_true(str_eqz(mine->waiting.name, "mine:queue"));
    assert_int_equal(mine->waiting.label_count, 1);
    assert_true(str_eqz(mine->waiting.label[0].name, "pool"));
    assert_true(str_eqz(mine->waiting.label[0].value, "a"));
    assert_int_equal(mine->custom_count, 1);
    assert_true(str_eqz(mine->custom[0].spec.label[0].value, "core"));
    assert_int_equal(mine->lora.name.n, 0);
    assert_true(str_eqz(data_engine(p, STR("sglang"))->running.name, "sglang:num_running_reqs"));
    assert_ptr_equal(data_engine(p, STR("unheard-of")), mine); /* the default engine */
    assert_ptr_equal(data_engine(p, STR("")), mine);
    assert_int_equal(
        ((const struct data_http_params *)c->plugin[at(c, "metrics-data-source")].params)
            ->interval_ms,
        200);
    sched_config_free(c);
}

#define HEAD "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

static void refusals_name_the_place_and_the_remedy(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        { "kind: EndpointPickerConfig\n",
          "f.yaml:1:1: apiVersion: missing; write apiVersion: llm-d.ai/v1alpha1" },
        { "apiVersion: v1\nkind: EndpointPickerConfig\n",
          "f.yaml:1:13: apiVersion: must be llm-d.ai/v1alpha1" },
        { "apiVersion: llm-d.ai/v1alpha1\nkind: Pod\n",
          "f.yaml:2:7: kind: must be EndpointPickerConfig" },
        { HEAD "plugin: []\n", "f.yaml:3:1: plugin: unknown field; did you mean plugins?" },
        { HEAD "Plugins: []\n", "f.yaml:3:1: Plugins: unknown field; did you mean plugins?" },
        { HEAD "plugins: []\nplugins: []\n", "f.yaml:4:1: key \"plugins\" comes twice" },
        { HEAD "plugins: {}\n", "f.yaml:3:10: plugins: must be a list" },
        { HEAD "plugins:\n- typ: queue-scorer\n",
          "f.yaml:4:3: plugins[0].typ: unknown field; did you mean type?" },
        { HEAD "plugins:\n- name: x\n", "f.yaml:4:3: plugins[0].type: missing" },
        { HEAD "plugins:\n- type: queue-scorrer\n",
          "f.yaml:4:9: plugins[0].type: unknown plugin type \"queue-scorrer\"; did you mean "
          "queue-scorer?" },
        { HEAD
          "plugins:\n- type: burst-prefix-cache-producer\n  parameters: {maxPrefixTokensToMatch: "
          "63}\n",
          "f.yaml:5:16: plugins[0].parameters.maxPrefixTokensToMatch: must be 0 or at least "
          "blockSizeTokens" },
        { HEAD "plugins:\n- type: latency-slo-admitter\n  parameters: {ttft: 1}\n",
          "f.yaml:5:16: plugins[0].parameters.ttft: unknown parameter of type "
          "latency-slo-admitter; "
          "known: latencyPredictionInfoProducerName" },
        { HEAD "plugins:\n- type: disaggregatedset-rollout-screener\n  parameters:\n"
               "    scope: {labelSelector: {}}\n    revisionGating: {mode: sums}\n",
          "f.yaml:7:28: plugins[0].parameters.revisionGating.mode: must be one of sum, max-role, "
          "disabled; did you mean sum?" },
        { HEAD "plugins:\n- type: utilization-filter\n  parameters:\n"
               "    conditions: [{metric: running-requests, maxValue: 1}, {metric: waiting-queue, "
               "maxvalues: 1}]\n",
          "f.yaml:6:83: plugins[0].parameters.conditions[1].maxvalues: unknown parameter; did you "
          "mean maxValue?" },
        { HEAD "plugins:\n- type: request-attribute-reporter\n  parameters:\n"
               "    attributes: [{key: {name: 7}, expression: \"1\"}]\n",
          "f.yaml:6:31: plugins[0].parameters.attributes[0].key.name: must be text, not a number; "
          "write \"7\" in quotes" },
        { HEAD "plugins:\n- type: request-attribute-reporter\n  parameters:\n"
               "    attributes: [{key: {name: a}, expression: usage.prompt_tokens % 2}]\n",
          "f.yaml:6:47: plugins[0].parameters.attributes[0].expression: character 21: % is for "
          "whole numbers" },
        { HEAD "plugins:\n- type: disaggregatedset-rollout-screener\n  parameters:\n"
               "    scope: {labelSelector: {}}\n    revisionGating: {mode: sum}\n",
          "f.yaml:7:5: plugins[0].parameters.revisionGating: needs requireRoles.values" },
        { HEAD "plugins:\n- type: prefix-cache\n",
          "f.yaml:4:9: plugins[0].type: unknown plugin type \"prefix-cache\"; did you mean "
          "prefix-cache-" },
        { HEAD "plugins:\n- type: queue-scorer\n- {type: decode-filter, name: queue-scorer}\n",
          "f.yaml:5:31: plugins[1].name: plugin \"queue-scorer\" is declared twice (first in line "
          "4)" },
        { HEAD "plugins:\n- type: queue-scorer\n- type: queue-scorer\n",
          "f.yaml:5:3: plugins[1].name: plugin \"queue-scorer\" is declared twice (first in line "
          "4); give one of them a name" },
        { HEAD "plugins:\n- type: queue-scorer\n  name: 7\n",
          "f.yaml:5:9: plugins[0].name: must be text, not a number; write \"7\" in quotes" },
        { HEAD "plugins:\n- type: queue-scorer\n  parameters: [1]\n",
          "f.yaml:5:15: plugins[0].parameters: must be a map, not a list" },
        { HEAD "plugins:\n- type: queue-scorer\n  parameters: {x: 1}\n",
          "f.yaml:5:16: plugins[0].parameters.x: unknown parameter of type queue-scorer; there are "
          "none" },
        { HEAD "plugins:\n- type: queue-scorer\n- type: decode-filter\n"
               "- type: approx-prefix-cache-producer\n  parameters:\n    blockSiz: 16\n",
          "f.yaml:8:5: plugins[2].parameters.blockSiz: unknown parameter of type "
          "approx-prefix-cache-producer; did you mean blockSize?" },
        { HEAD "plugins:\n- type: approx-prefix-cache-producer\n"
               "  parameters: {autoTune: 1}\n",
          "f.yaml:5:26: plugins[0].parameters.autoTune: must be true or false, not a number" },
        { HEAD "plugins:\n- type: approx-prefix-cache-producer\n"
               "  parameters: {autoTune: true, AUTOTUNE: true}\n",
          "f.yaml:5:32: plugins[0].parameters.AUTOTUNE: given twice, in different case" },
        { HEAD "plugins:\n- type: approx-prefix-cache-producer\n"
               "  parameters: {lruCapacityPerServer: \"31250\"}\n",
          "f.yaml:5:38: plugins[0].parameters.lruCapacityPerServer: must be a whole number, not "
          "text" },
        { HEAD "plugins:\n- type: metrics-data-source\n  parameters:\n    scheme: htps\n",
          "f.yaml:6:13: plugins[0].parameters.scheme: must be one of http, https; did you mean "
          "http" },
        { HEAD "plugins:\n- type: metrics-data-source\n  parameters:\n    port: 70000\n",
          "f.yaml:6:11: plugins[0].parameters.port: must be 1..65535" },
        { HEAD "plugins:\n- type: metrics-data-source\n  parameters:\n    interval: 5 s\n",
          "f.yaml:6:15: plugins[0].parameters.interval: \"5 s\" is no duration" },
        { HEAD "plugins:\n- type: metrics-data-source\n  parameters:\n    interval: 5\n",
          "f.yaml:6:15: plugins[0].parameters.interval: must be a duration such as 60s or 250ms, "
          "not a number" },
        { HEAD "plugins:\n- type: metrics-data-source\n  parameters:\n    clientCertPath: /a\n",
          "f.yaml:6:5: plugins[0].parameters.clientCertPath: needs clientKeyPath beside it" },
        { HEAD "plugins:\n- type: file-discovery\n",
          "f.yaml:4:3: plugins[0].parameters.path: missing; type file-discovery needs it" },
        { HEAD "plugins:\n- type: core-metrics-extractor\n  parameters:\n    defaultEngine: x\n",
          "f.yaml:6:5: plugins[0].parameters.defaultEngine: no engine is named \"x\"" },
        { HEAD "plugins:\n- type: core-metrics-extractor\n  parameters:\n    engineConfigs:\n"
               "    - {name: a, kvUsageSpec: \"a{b\"}\n",
          "f.yaml:7:30: plugins[0].parameters.engineConfigs[0].kvUsageSpec: \"a{b\" is no metric" },
        { HEAD "plugins:\n- type: core-metrics-extractor\n  parameters:\n    engineConfigs:\n"
               "    - name: default\n",
          "f.yaml:7:13: plugins[0].parameters.engineConfigs[0].name: default is reserved" },
        { HEAD "featureGates: [flowcontrol]\n",
          "f.yaml:3:16: featureGates[0]: unknown feature gate \"flowcontrol\"; known: flowControl, "
          "haPopulateNonLeaderDatastore; did you mean flowControl?" },
        { HEAD "featureGates: [flowControl=maybe]\n",
          "f.yaml:3:16: featureGates[0]: must be flowControl=true or flowControl=false" },
        { HEAD "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n- name: a\n  plugins:\n"
               "  - pluginRef: queue-scorr\n",
          "f.yaml:7:16: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named "
          "\"queue-scorr\"; did you mean queue-scorer?" },
        { HEAD "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n- name: a\n  plugins:\n"
               "  - pluginRef: decode-filter\n",
          "f.yaml:7:16: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named "
          "\"decode-filter\"; add \"- type: decode-filter\" under plugins" },
        { HEAD "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n- name: a\n  plugins:\n"
               "  - pluginRef: queue-scorer\n    weight: much\n",
          "f.yaml:8:13: schedulingProfiles[0].plugins[0].weight: must be a number" },
        { HEAD "schedulingProfiles:\n- name: a\n- name: a\n",
          "f.yaml:5:9: schedulingProfiles[1].name: another profile has this name" },
        { HEAD "schedulingProfiles:\n- plugins: []\n",
          "f.yaml:4:3: schedulingProfiles[0].name: missing" },
        { HEAD "schedulingProfiles:\n- name: a\n- name: b\n",
          "f.yaml:4:1: schedulingProfiles: 2 profiles need a profile handler under plugins" },
        { HEAD "plugins: [{type: single-profile-handler}]\nschedulingProfiles:\n- name: a\n"
               "- name: b\n",
          "f.yaml:3:11: plugins[0]: single-profile-handler cannot run 2 profiles" },
        { HEAD "plugins:\n- type: single-profile-handler\n- type: header-profile-handler\n",
          "f.yaml:5:3: plugins[1]: a second profile handler, \"header-profile-handler\" beside "
          "\"single-profile-handler\"; only one is allowed" },
        { HEAD "plugins:\n- type: max-score-picker\n- type: random-picker\n",
          "f.yaml:5:3: the profile made of all plugins: a second picker, \"random-picker\" beside "
          "\"max-score-picker\"" },
        { HEAD "plugins:\n- type: disagg-profile-handler\n",
          "f.yaml:4:3: plugins[0]: disagg-profile-handler runs the profile \"decode\" for every "
          "request, but schedulingProfiles has none of that name" },
        { HEAD "plugins:\n- type: disagg-profile-handler\n  parameters:\n    deciders:\n"
               "      prefill: always-disagg-pd-decidr\n- type: always-disagg-pd-decider\n",
          "f.yaml:7:16: plugins[0].parameters.deciders.prefill: no plugin is named "
          "\"always-disagg-pd-decidr\"; did you mean always-disagg-pd-decider?" },
        { HEAD "plugins:\n- type: disagg-profile-handler\n  parameters:\n    deciders:\n"
               "      prefill: queue-scorer\n- type: queue-scorer\n",
          "f.yaml:7:16: plugins[0].parameters.deciders.prefill: plugin \"queue-scorer\" (type "
          "queue-scorer) is no decider" },
        { HEAD "plugins:\n- type: pd-profile-handler\n",
          "f.yaml:4:3: plugins[0].parameters.deciderPluginName: its default "
          "\"prefix-based-pd-decider\" is not declared" },
        { HEAD "plugins:\n- type: prefix-cache-scorer\n  parameters:\n"
               "    prefixMatchInfoProducerName: exact\n",
          "f.yaml:4:3: plugins[0]: plugin \"prefix-cache-scorer\" needs PrefixCacheMatchInfo of "
          "\"exact\", which is not declared under plugins" },
        { HEAD "plugins:\n- type: queue-scorer\n- type: prefix-cache-scorer\n  parameters:\n"
               "    prefixMatchInfoProducerName: queue-scorer\n",
          "f.yaml:5:3: plugins[1]: plugin \"prefix-cache-scorer\" needs PrefixCacheMatchInfo of "
          "\"queue-scorer\", but that (type queue-scorer) does not give it" },
        { HEAD "dataLayer:\n  source: []\n",
          "f.yaml:4:3: dataLayer.source: unknown field; did you mean sources?" },
        { HEAD "plugins: [{type: queue-scorer}]\ndataLayer:\n  sources:\n"
               "  - pluginRef: queue-scorer\n",
          "f.yaml:6:16: dataLayer.sources[0].pluginRef: plugin \"queue-scorer\" (type "
          "queue-scorer) is no data source" },
        { HEAD "dataLayer:\n  peerDiscovery: {pluginRef: x}\n",
          "f.yaml:4:3: dataLayer.peerDiscovery: no plugin type provides this; remove it" },
        { HEAD "requestHandler:\n  parsers:\n  - pluginRef: openai-parsr\n",
          "f.yaml:5:16: requestHandler.parsers[0].pluginRef: no plugin is named "
          "\"openai-parsr\"" },
        { HEAD "flowControl:\n  maxBytes: many\n",
          "f.yaml:4:13: flowControl.maxBytes: \"many\" is no quantity" },
        { HEAD "flowControl:\n  maxRequests: -1\n",
          "f.yaml:4:16: flowControl.maxRequests: \"-1\" is no quantity" },
        { HEAD "flowControl:\n  defaultRequestTTL: 60\n",
          "f.yaml:4:22: flowControl.defaultRequestTTL: must be a duration such as 60s or 250ms, "
          "not a number" },
        { HEAD "flowControl:\n  priorityBands:\n  - priority: 1\n  - priority: 1\n",
          "f.yaml:6:5: flowControl.priorityBands[1].priority: another band has priority 1" },
        { HEAD "featureGates: [flowControl]\nflowControl:\n  priorityBands:\n"
               "  - fairnessPolicyRef: fcfs-ordering-policy\n",
          "f.yaml:6:24: flowControl.priorityBands[0].fairnessPolicyRef: plugin "
          "\"fcfs-ordering-policy\" (type fcfs-ordering-policy) is no fairness policy" },
        { HEAD "flowControl:\n  saturationDetector: {pluginRef: queue-scorer}\n",
          "f.yaml:4:35: flowControl.saturationDetector.pluginRef: no plugin is named "
          "\"queue-scorer\"; add \"- type: queue-scorer\" under plugins" },
        { HEAD "plugins: [{type: queue-scorer, name: fcfs-ordering-policy}]\n",
          "f.yaml:3:11: plugins[0]: the name fcfs-ordering-policy is kept for ordering policy" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct sched_config *c = (void *)1;
        struct err e = { 0 };
        int rc = load(&c, cases[i].text, NULL, &e);

        if (rc >= 0 || strncmp(e.msg, cases[i].says, strlen(cases[i].says)) != 0)
            fail_msg("%s\ngave: %s\nnot:  %s", cases[i].text, rc < 0 ? e.msg : "no error",
                     cases[i].says);
        assert_null(c);
        assert_int_equal(e.code, rc);
    }
}

static void warnings_leave_the_configuration_usable(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        { "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n",
          "f.yaml:1:13: apiVersion: inference.networking.x-k8s.io/v1alpha1 is deprecated; write "
          "llm-d.ai/v1alpha1\n" },
        { HEAD "parser: {pluginRef: anthropic-parser}\n",
          "f.yaml:3:9: parser: is deprecated; write requestHandler.parsers\n" },
        { HEAD "flowControl: {maxRequests: 5}\n",
          "f.yaml:3:14: flowControl: only saturationDetector has an effect while the feature gate "
          "flowControl is off\n" },
        { HEAD "flowControl: {saturationDetector: {pluginRef: utilization-detector}}\n", "" },
        { HEAD "plugins: [{type: decode-filter}]\nschedulingProfiles:\n- name: a\n  plugins:\n"
               "  - pluginRef: decode-filter\n    weight: 3\n",
          "f.yaml:8:13: schedulingProfiles[0].plugins[0].weight: only scorers have a weight; "
          "\"decode-filter\" is none\n" },
        { HEAD "schedulingProfiles:\n- name: a\n  plugins: [{pluginRef: openai-parser}]\n",
          "f.yaml:5:13: schedulingProfiles[0].plugins[0]: plugin \"openai-parser\" (type "
          "openai-parser) has no effect in a profile\n" },
        { HEAD, "" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct heard h = { .count = 0 };
        struct sched_config *c = load_ok(cases[i].text, &h);

        assert_string_equal(h.text, cases[i].says);
        sched_config_free(c);
    }
}

static void deprecated_fields_yield_to_the_new_ones(void **state)
{
    struct sched_config *c =
        load_ok(HEAD "plugins: [{type: utilization-detector, name: a}, {type: "
                     "utilization-detector, name: b}]\n"
                     "parser: {pluginRef: anthropic-parser}\n"
                     "requestHandler: {parsers: [{pluginRef: openai-parser}]}\n"
                     "saturationDetector: {pluginRef: a}\n"
                     "flowControl: {saturationDetector: {pluginRef: b}}\n",
                NULL);

    (void)state;
    assert_int_equal(c->parser_count, 1);
    assert_int_equal(c->parser[0], at(c, "openai-parser"));
    assert_int_equal(c->flow.saturation, at(c, "b"));
    sched_config_free(c);
    c = load_ok(HEAD "plugins: [{type: utilization-detector, name: a}]\n"
                     "parser: {pluginRef: anthropic-parser}\n"
                     "saturationDetector: {pluginRef: a}\n",
                NULL);
    assert_int_equal(c->parser_count, 1);
    assert_int_equal(c->parser[0], at(c, "anthropic-parser"));
    assert_int_equal(c->flow.saturation, at(c, "a"));
    sched_config_free(c);
}

static void the_metrics_source_is_added_unless_told_not_to(void **state)
{
    struct sched_config *c = load_ok(HEAD "dataLayer: {injectDefaults: false}\n", NULL);

    (void)state;
    assert_int_equal(c->source_count, 0);
    assert_int_equal(sched_config_find(c, STR("metrics-data-source")), -1);
    sched_config_free(c);
    /* a source of the same type under another name is another source */
    c = load_ok(HEAD "plugins: [{type: metrics-data-source, name: mine}]\n"
                     "dataLayer: {sources: [{pluginRef: mine}]}\n",
                NULL);
    assert_int_equal(c->source_count, 2);
    assert_int_equal(c->source[1].plugin, at(c, "metrics-data-source"));
    sched_config_free(c);
}

static void experimental_types_need_the_flag(void **state)
{
    static const char text[] = HEAD "plugins:\n- type: queue-scorer\n- name: gpu\n"
                                    "  type: dcgm-data-source\n";
    struct sched_config_opts o = { .file = "f.yaml" };
    struct sched_config *c;
    struct err e;

    (void)state;
    assert_int_equal(sched_config_load(&c, STR(text), &o, &e), ERR_PARSE);
    assert_string_equal(e.msg, "f.yaml:5:3: plugins[1]: \"gpu\" (type dcgm-data-source) is "
                               "experimental (Alpha); start with --allow-experimental-plugins to "
                               "use it");
    o.allow_experimental = true;
    assert_int_equal(sched_config_load(&c, STR(text), &o, &e), 0);
    sched_config_free(c);
}

static void a_named_producer_is_no_substitute_for_the_default_one(void **state)
{
    struct sched_config *c =
        load_ok(HEAD "plugins:\n- {type: approx-prefix-cache-producer, name: mine}\n"
                     "- type: prefix-cache-scorer\n",
                NULL);
    int made;

    (void)state;
    made = sched_config_find(c, STR("approx-prefix-cache-producer"));
    assert_true(made >= 0 && c->plugin[made].is_default && c->plugin[made].line == 0);
    sched_config_free(c);
    c = load_ok(HEAD "plugins:\n- {type: approx-prefix-cache-producer, name: mine}\n"
                     "- type: prefix-cache-scorer\n"
                     "  parameters: {prefixMatchInfoProducerName: mine}\n",
                NULL);
    assert_int_equal(sched_config_find(c, STR("approx-prefix-cache-producer")), -1);
    sched_config_free(c);
}

static void durations_and_quantities(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t value;
    } durations[] = {
        { "60s", true, 60000 },    { "1m30s", true, 90000 }, { "250ms", true, 250 },
        { "1.5h", true, 5400000 }, { "0", true, 0 },         { "0s", true, 0 },
        { "1ns", true, 1 },        { "100us", true, 1 },     { "0.1s", true, 100 },
        { "+2s", true, 2000 },     { ".5s", true, 500 },     { "2.s", true, 2000 },
        { "\xc2\xb5s", false, 0 }, { "5", false, 0 },        { "", false, 0 },
        { "-1s", false, 0 },       { "1s ", false, 0 },      { "1.2.3s", false, 0 },
        { ".s", false, 0 },        { "1d", false, 0 },       { "9999999999h", false, 0 },
    };
    static const struct {
        const char *text;
        bool ok;
        uint64_t value;
    } quantities[] = {
        { "5000", true, 5000 },
        { "5k", true, 5000 },
        { "1Gi", true, 1ull << 30 },
        { "1.5Gi", true, 3ull << 29 },
        { "2e3", true, 2000 },
        { "2E3", true, 2000 },
        { "1E", true, 1000000000000000000ull },
        { "100m", true, 1 },
        { "1500m", true, 2 },
        { "0", true, 0 },
        { "+3M", true, 3000000 },
        { "7Ei", true, 7ull << 60 },
        { "8Ei", false, 0 },
        { "10E", false, 0 },
        { "5K", false, 0 },
        { "5 k", false, 0 },
        { "", false, 0 },
        { "k", false, 0 },
        { "-1", false, 0 },
        { "1GiB", false, 0 },
        { "0x10", false, 0 },
        { "1e99", false, 0 },
    };
    uint64_t v;

    (void)state;
    for (size_t i = 0; i < COUNT(durations); i++) {
        if (params_parse_duration(str_of(durations[i].text), &v) != durations[i].ok ||
            (durations[i].ok && v != durations[i].value))
            fail_msg("duration %s", durations[i].text);
    }
    for (size_t i = 0; i < COUNT(quantities); i++) {
        if (params_parse_quantity(str_of(quantities[i].text), &v) != quantities[i].ok ||
            (quantities[i].ok && v != quantities[i].value))
            fail_msg("quantity %s gives %llu", quantities[i].text, (unsigned long long)v);
    }
}

/* A role without its function would be called through NULL. */
/* Every type that llm-d documents is built in, or refused by its name. */
static void every_documented_type_is_known(void **state)
{
    static const char *const types[] = {
        /* handlers, deciders, pickers */
        "single-profile-handler", "disagg-profile-handler", "pd-profile-handler",
        "data-parallel-profile-handler", "header-profile-handler", "always-disagg-pd-decider",
        "prefix-based-pd-decider", "always-disagg-multimodal-decider", "max-score-picker",
        "random-picker", "weighted-random-picker",
        /* filters */
        "decode-filter", "prefill-filter", "encode-filter", "label-selector-filter",
        "by-label-selector", "by-label", "context-length-aware", "prefix-cache-affinity-filter",
        "slo-headroom-tier-filter", "utilization-filter", "endpoint-attribute-filter",
        "session-affinity-filter", "topology-affinity-filter",
        "multicluster-session-affinity-filter", "header-based-testing-filter",
        /* scorers */
        "queue-scorer", "running-requests-size-scorer", "kv-cache-utilization-scorer",
        "load-aware-scorer", "prefix-cache-scorer", "precise-prefix-cache-scorer",
        "lora-affinity-scorer", "token-load-scorer", "active-request-scorer", "no-hit-lru-scorer",
        "session-affinity-scorer", "latency-scorer", "mm-embeddings-cache-scorer",
        "endpoint-attribute-scorer", "header-label-affinity-scorer", "topology-affinity-scorer",
        "multicluster-queue-scorer", "multicluster-kv-cache-utilization-scorer",
        "multicluster-prefix-cache-scorer",
        /* of requests */
        "token-producer", "tokenizer", "approx-prefix-cache-producer",
        "multicluster-approx-prefix-cache-producer", "precise-prefix-cache-producer",
        "inflight-load-producer", "mm-embeddings-cache-producer", "p2p-source-producer",
        "session-id-producer", "predicted-latency-producer", "latency-slo-admitter",
        "probabilistic-admitter", "disagg-headers-handler", "prefill-header-handler",
        "disaggregatedset-rollout-screener",
        /* parsers, data */
        "openai-parser", "anthropic-parser", "vllmhttp-parser", "sglanghttp-parser",
        "vllmgrpc-parser", "vertexai-parser", "passthrough-parser", "metrics-data-source",
        "models-data-source", "dcgm-data-source", "multicluster-metrics-data-source",
        "k8s-notification-source", "endpoint-notification-source", "core-metrics-extractor",
        "models-data-extractor", "topology-extractor", "dcgm-extractor",
        "multicluster-metrics-extractor", "file-discovery", "multicluster-file-discovery",
        /* flow control */
        "fcfs-ordering-policy", "edf-ordering-policy", "slo-deadline-ordering-policy",
        "global-strict-fairness-policy", "round-robin-fairness-policy", "program-aware-fairness",
        "static-usage-limit-policy", "priority-holdback-policy", "soft-reflective-ceiling-policy",
        "utilization-detector", "concurrency-detector", "sheddable-eviction-filter",
        "priority-then-time-eviction-order-policy",
        /* headers */
        "agent-identity", "destination-endpoint-served-verifier", "request-attribute-reporter",
        "burst-prefix-cache-producer"
    };

    (void)state;
    for (size_t i = 0; i < COUNT(types); i++)
        if (plugin_type_find(str_of(types[i])) == NULL)
            fail_msg("%s", types[i]);
    /* ours: llmd-cost-scorer, weighted-fair-policy, adaptive-detector */
    assert_int_equal(plugin_type_count(), COUNT(types) + 3);
}

static void every_row_is_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < plugin_type_count(); i++) {
        const struct plugin_type *t = plugin_type_at(i);
        const struct {
            uint32_t role;
            bool has;
        } roles[] = {
            { ROLE_FILTER, t->filter != NULL },  { ROLE_SCORER, t->score != NULL },
            { ROLE_PICKER, t->pick != NULL },    { ROLE_HANDLER, t->next != NULL },
            { ROLE_HANDLER, t->finish != NULL }, { ROLE_DECIDER, t->decide != NULL },
            { ROLE_ADMITTER, t->admit != NULL },
        };

        assert_ptr_equal(plugin_type_find(str_of(t->type)), t); /* no name twice */
        assert_true(t->roles != 0);
        for (size_t k = 0; k < COUNT(roles); k++)
            if ((t->roles & roles[k].role) != 0 && !roles[k].has)
                fail_msg("%s lacks the function of role %x", t->type, roles[k].role);
        for (uint32_t k = 0; k < t->param_count; k++) {
            assert_true(t->params[k].at < MAX(t->params_size, (size_t)1));
            assert_true(t->params[k].kind != PARAM_CUSTOM || t->params[k].decode != NULL);
        }
    }
    assert_null(plugin_type_at(plugin_type_count()));
}

/* Defaults stand in the tables as text: each type that needs no parameter loads with none. */
static void every_type_takes_its_own_defaults(void **state)
{
    (void)state;
    for (size_t i = 0; i < plugin_type_count(); i++) {
        const struct plugin_type *t = plugin_type_at(i);
        char text[256];
        struct sched_config *c;
        struct err e;

        snprintf(text, sizeof(text), HEAD "plugins: [{type: %s}]\n", t->type);
        if (load(&c, text, NULL, &e) == 0)
            sched_config_free(c);
        else if (strstr(e.msg, "parameters") == NULL &&
                 strstr(e.msg, "schedulingProfiles") == NULL &&
                 strstr(e.msg, "not declared under plugins") == NULL)
            fail_msg("%s", e.msg);
        else if (strncmp(e.msg, "f.yaml:3:", 9) != 0)
            fail_msg("%s", e.msg);
    }
}

static void too_many_plugins_are_refused(void **state)
{
    struct buf b;
    struct sched_config *c;
    struct err e;

    (void)state;
    buf_init(&b, 1 << 16);
    buf_z(&b, HEAD "plugins:\n");
    for (int i = 0; i < 101; i++)
        buf_f(&b, "- {type: queue-scorer, name: q%d}\n", i);
    buf_c(&b, 0);
    assert_int_equal(load(&c, b.p, NULL, &e), ERR_LIMIT);
    assert_string_equal(e.msg, "f.yaml:4:1: plugins: 101 entries; at most 100 are taken");
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documented_plugins_of_every_shape),
        cmocka_unit_test(no_file_is_the_built_in_configuration),
        cmocka_unit_test(flow_control_is_taken_over),
        cmocka_unit_test(engines_are_replaced_by_name),
        cmocka_unit_test(refusals_name_the_place_and_the_remedy),
        cmocka_unit_test(warnings_leave_the_configuration_usable),
        cmocka_unit_test(deprecated_fields_yield_to_the_new_ones),
        cmocka_unit_test(the_metrics_source_is_added_unless_told_not_to),
        cmocka_unit_test(experimental_types_need_the_flag),
        cmocka_unit_test(a_named_producer_is_no_substitute_for_the_default_one),
        cmocka_unit_test(durations_and_quantities),
        cmocka_unit_test(every_documented_type_is_known),
        cmocka_unit_test(every_row_is_whole),
        cmocka_unit_test(every_type_takes_its_own_defaults),
        cmocka_unit_test(too_many_plugins_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
