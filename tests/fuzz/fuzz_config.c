/* Configuration text: loads or is refused with a place, whatever it holds; what loads keeps the
 * promise of its indices, and a request runs through it to a pick or a status. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/config.h"
#include "sched/config_priv.h"
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is(const struct sched_config *c, uint32_t plugin, uint32_t role)
{
    return plugin < c->plugin_count && (c->plugin[plugin].type->roles & role) != 0;
}

static void check_band(const struct sched_config *c, const struct sched_band_conf *b)
{
    ASSERT(is(c, b->fairness, ROLE_FAIRNESS) && is(c, b->ordering, ROLE_ORDERING));
    ASSERT(b->bytes_max != 0 && b->requests_max != 0);
}

static void check(const struct sched_config *c)
{
    for (uint32_t i = 0; i < c->plugin_count; i++)
        ASSERT(sched_config_find(c, c->plugin[i].name) == (int)i);
    ASSERT(c->profile_count != 0 && is(c, c->handler, ROLE_HANDLER));
    for (uint32_t i = 0; i < c->profile_count; i++) {
        const struct sched_profile_conf *p = &c->profile[i];

        ASSERT(is(c, p->picker, ROLE_PICKER));
        for (uint32_t k = 0; k < p->filter_count; k++)
            ASSERT(is(c, p->filter[k], ROLE_FILTER));
        for (uint32_t k = 0; k < p->scorer_count; k++)
            ASSERT(is(c, p->scorer[k].plugin, ROLE_SCORER));
    }
    for (uint32_t i = 0; i < c->order_count; i++)
        ASSERT(is(c, c->order[i], ROLE_PRODUCER));
    for (uint32_t i = 0; i < c->source_count; i++)
        ASSERT(is(c, c->source[i].plugin, ROLE_SOURCE));
    ASSERT(c->parser_count != 0);
    for (uint32_t i = 0; i < c->parser_count; i++)
        ASSERT(is(c, c->parser[i], ROLE_PARSER));
    ASSERT(c->discovery < 0 || is(c, (uint32_t)c->discovery, ROLE_DISCOVERY));
    ASSERT(is(c, c->flow.usage_limit, ROLE_USAGE_LIMIT));
    ASSERT(is(c, c->flow.saturation, ROLE_SATURATION));
    check_band(c, &c->flow.default_band);
    check_band(c, &c->flow.negative_band);
    for (uint32_t i = 0; i < c->flow.band_count; i++)
        check_band(c, &c->flow.band[i]);
}

static void after(struct sched_pipeline *p)
{
    static const struct sched_served served = { true, { "10.0.0.1:1", 10 } };
    static const struct usage_values usage = { .known = { true, true, true, false },
                                               .value = { 7, 5, 12, 0 } };
    struct sched_header header[4];
    struct sched_report report[4];

    ASSERT(sched_pipeline_served(p, &served, header, COUNT(header)) <= COUNT(header));
    for (uint32_t i = sched_pipeline_report(p, &usage, report, COUNT(report)); i-- > 0;)
        ASSERT(report[i].value >= 1 && report[i].name.n != 0 && report[i].space.n != 0);
}

/* Three endpoints, one busy, one with a label; a prompt of four blocks. */
static void run(const struct sched_config *c)
{
    static const struct sched_label role = { { "llm-d.ai/role", 13 }, { "decode", 6 } };
    static const uint64_t keys[] = { 11, 12, 13, 14 };
    struct sched_endpoint ep[3] = {
        { .address = STR("10.0.0.1:1"), .uid = 1, .has_metrics = true, .scraped_waiting = 4 },
        { .address = STR("10.0.0.2:1"), .uid = 2, .label = &role, .label_count = 1 },
        { .address = STR("10.0.0.3:1"), .uid = 3, .has_metrics = true, .scraped_kv = 0.9 },
    };
    struct sched_request r = { .prompt_tokens = 64,
                               .block_tokens = 16,
                               .keys = keys,
                               .key_count = COUNT(keys),
                               .priority = -1 };
    struct arena arena;
    struct rng rng;
    struct sched_view v = { .ep = ep, .count = 3, .r = &r, .rng = &rng, .arena = &arena };
    struct sched_run one = { .v = &v };
    struct sched_pipeline *p = sched_pipeline_new(c);
    struct buf dump;

    rng_seed(&rng, 7);
    arena_init(&arena, (size_t)1 << 20);
    for (int i = 0; i < 2; i++) {
        r.held = (uint64_t)i + 1;
        ASSERT(sched_pipeline_hold(p, &v) == 0 || sched_pipeline_holds(p));
        sched_pipeline_run(p, &one);
        ASSERT((one.status != 0) == (one.message[0] != 0));
        if (one.status == 0) {
            ASSERT(one.primary >= 0 && one.profile[one.primary].pick_count != 0);
            ASSERT(one.profile[one.primary].pick[0] < v.count);
            sched_pipeline_dispatched(p, &one);
            sched_pipeline_responded(p, &one);
            after(p);
        }
    }
    sched_pipeline_endpoint_gone(p, 2);
    buf_init(&dump, (size_t)1 << 20);
    sched_pipeline_dump(p, &dump);
    sched_config_print(c, &dump);
    ASSERT(!dump.failed);
    buf_fini(&dump);
    arena_fini(&arena);
    sched_pipeline_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sched_config_opts o = { .file = "f", .allow_experimental = true };
    struct sched_config *c;
    struct err e = { 0 };

    if (sched_config_load(&c, (struct str) { (const char *)data, size }, &o, &e) != 0) {
        ASSERT(c == NULL && e.code < 0 && strncmp(e.msg, "f:", 2) == 0);
        return 0;
    }
    ASSERT(c->arena.used <= CONFIG_ARENA_BYTES + ((size_t)1 << 20));
    check(c);
    run(c);
    sched_config_free(c);
    return 0;
}
