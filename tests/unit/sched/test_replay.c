/* A decision is a function of snapshot, request and seed: what was decided once is decided again,
 * to the last bit of every score, and a run that is thrown away leaves no trace. (That nothing in
 * src/sched can read a clock or do I/O is check_pure.py's part.) */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/check.h"
#include "sched/config.h"
#include <string.h>

#define REQUESTS  300
#define ENDPOINTS 6

#define HEAD "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

static const char *const replayed[] = {
    "",
    HEAD "plugins:\n- type: queue-scorer\n- type: prefix-cache-scorer\n- type: no-hit-lru-scorer\n"
         "- type: token-load-scorer\n- type: session-affinity-scorer\n"
         "  parameters: {strategy: session_id}\n- type: prefix-cache-affinity-filter\n"
         "  parameters: {explorationProbability: 0.3}\n- type: weighted-random-picker\n"
         "  parameters: {maxNumOfEndpoints: 2}\n- type: p2p-source-producer\n"
         "- type: probabilistic-admitter\n  parameters: {k: 0.5, power: 1}\n",
    HEAD "plugins:\n- type: predicted-latency-producer\n- type: slo-headroom-tier-filter\n"
         "  parameters: {epsilonExploreNeg: 0.5}\n- type: latency-scorer\n"
         "- type: latency-slo-admitter\n- type: llmd-cost-scorer\n- type: lora-affinity-scorer\n",
    HEAD
    "plugins:\n- type: disagg-profile-handler\n  parameters:\n    deciders:\n"
    "      prefill: pd\n- {type: prefix-based-pd-decider, name: pd, parameters: "
    "{nonCachedTokens: 64}}\n- type: decode-filter\n- type: prefill-filter\n"
    "- type: max-score-picker\n- type: active-request-scorer\n- type: topology-affinity-scorer\n"
    "schedulingProfiles:\n- name: decode\n  plugins: [{pluginRef: decode-filter}, "
    "{pluginRef: active-request-scorer}, {pluginRef: max-score-picker}]\n- name: prefill\n"
    "  plugins: [{pluginRef: prefill-filter}, {pluginRef: topology-affinity-scorer}, "
    "{pluginRef: max-score-picker}]\n",
};

static struct str session_header(const void *ctx, const char *name)
{
    if (strcmp(name, "x-session-id") == 0)
        return (struct str) { ctx, 1 };
    return strcmp(name, "x-slo-ttft-ms") == 0 ? STR("900") : STR_NONE;
}

static void random_fleet(struct rng *r, struct sched_endpoint *ep, uint32_t count)
{
    static const struct sched_label roles[] = { { { "llm-d.ai/role", 13 }, { "decode", 6 } },
                                                { { "llm-d.ai/role", 13 }, { "prefill", 7 } },
                                                { { "llm-d.ai/role", 13 }, { "both", 4 } } };

    for (uint32_t i = 0; i < count; i++)
        ep[i] = (struct sched_endpoint) {
            .address = STR("10.0.0.1:8000"),
            .id = STR("default/e"),
            .uid = i + 1,
            .use = rng_below(r, 9) == 0 ? SCHED_STALE : SCHED_USED,
            .label = &roles[rng_below(r, COUNT(roles))],
            .label_count = 1,
            .has_metrics = true,
            .scraped_waiting = (double)rng_below(r, 4),
            .scraped_running = (double)rng_below(r, 9),
            .scraped_kv = rng_f64(r),
            .inflight_requests = (uint32_t)rng_below(r, 3),
            .inflight_tokens = (double)rng_below(r, 3000),
            .prefill_ms_per_token = 0.5,
            .decode_ms_per_token = 20,
        };
}

struct request {
    struct sched_request r;
    struct sched_endpoint ep[ENDPOINTS];
    uint64_t keys[8];
    char session;
};

static void random_request(struct rng *rng, unsigned n, struct request *q)
{
    uint64_t shared = rng_below(rng, 3);

    q->session = (char)('a' + rng_below(rng, 5));
    for (size_t i = 0; i < COUNT(q->keys); i++)
        q->keys[i] = shared * 100 + i + 1;
    q->r = (struct sched_request) { .prompt_tokens = 16 * COUNT(q->keys),
                                    .block_tokens = 16,
                                    .keys = q->keys,
                                    .key_count = COUNT(q->keys),
                                    .priority = (int32_t)rng_below(rng, 2) - 1,
                                    .random = n,
                                    .header = session_header,
                                    .header_ctx = &q->session };
    random_fleet(rng, q->ep, ENDPOINTS);
}

/* Every bit of a decision, as text. */
static void decide(struct sched_pipeline *p, struct sched_run *run, struct rng *choice,
                   struct buf *out)
{
    run->v->rng = choice;
    sched_pipeline_run(p, run);
    buf_f(out, "%d %s %d", run->status, run->message, run->primary);
    for (uint32_t k = 0; k < SCHED_PROFILES_MAX && run->profile[k].ran; k++)
        for (uint32_t i = 0; i < ENDPOINTS; i++)
            buf_f(out, " %u/%a", i < run->profile[k].pick_count ? run->profile[k].pick[i] : 99,
                  run->profile[k].score != NULL ? run->profile[k].score[i] : 0.0);
}

/* What a pipeline decides for many requests in a row. */
static void tell(const char *text, uint64_t seed, struct buf *out)
{
    struct sched_config_opts o = { .file = "replay.yaml", .allow_experimental = true };
    struct rng fleet, choice, again;
    struct sched_config *c;
    struct sched_pipeline *p;
    struct buf first;
    struct err e;

    if (sched_config_load(&c, str_of(text), &o, &e) != 0)
        fail_msg("%s", e.msg);
    p = sched_pipeline_new(c);
    rng_seed(&fleet, seed);
    rng_seed(&choice, seed + 1);
    buf_init(&first, 1 << 16);
    for (unsigned n = 0; n < REQUESTS; n++) {
        struct request q;
        struct arena arena;
        struct sched_view v = {
            .ep = q.ep, .count = ENDPOINTS, .r = &q.r, .arena = &arena, .now_ms = n * 50
        };
        struct sched_run run = { .v = &v };
        size_t from = out->len;

        arena_init(&arena, 1 << 20);
        random_request(&fleet, n, &q);
        again = choice;
        buf_reset(&first);
        decide(p, &run, &again, &first);
        decide(p, &run, &choice, out);
        if (!str_eq(buf_view(&first), (struct str) { out->p + from, out->len - from }))
            fail_msg("request %u: %.*s", n, STR_ARG(buf_view(&first)));
        if (run.status == 0) {
            sched_pipeline_dispatched(p, &run);
            sched_pipeline_responded(p, &run);
        }
        for (uint32_t i = 0; i < run.header_count; i++)
            buf_f(out, " %.*s", STR_ARG(run.header[i].value));
        buf_c(out, '\n');
        arena_fini(&arena);
    }
    assert_false(out->failed);
    buf_fini(&first);
    sched_pipeline_free(p);
    sched_config_free(c);
}

static void what_was_decided_is_decided_again(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(replayed); i++) {
        struct buf one, two, other;

        buf_init(&one, 4 << 20);
        buf_init(&two, 4 << 20);
        buf_init(&other, 4 << 20);
        tell(replayed[i], 7, &one);
        tell(replayed[i], 7, &two);
        tell(replayed[i], 8, &other);
        assert_true(str_eq(buf_view(&one), buf_view(&two)));
        assert_false(str_eq(buf_view(&one), buf_view(&other)));
        buf_fini(&one);
        buf_fini(&two);
        buf_fini(&other);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_decided_is_decided_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
