/* The order in which plugins are asked, what becomes of their answers, and what a client is told
 * when nobody is left.  The plugins are this test's own. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/mem.h"
#include "codec/json.h"
#include "sched/config.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static char calls[512]; /* who was asked, in order */

static void note(const struct plugin *p)
{
    size_t len = strlen(calls);

    snprintf(calls + len, sizeof(calls) - len, "%s%.*s", len != 0 ? " " : "", STR_ARG(p->name));
}

/* params of every type here: a bit mask of endpoints, or scores. */
struct mask {
    uint32_t bits;
};

struct scores {
    double at[4];
};

static void keep_masked(struct plugin *p, const struct sched_view *v, bool *keep)
{
    note(p);
    for (uint32_t i = 0; i < v->count; i++)
        keep[i] = keep[i] && (((const struct mask *)p->params)->bits >> i & 1) != 0;
}

static void give_scores(struct plugin *p, const struct sched_view *v, const bool *keep, double *s)
{
    note(p);
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            s[i] = ((const struct scores *)p->params)->at[i];
}

static uint32_t pick_best(struct plugin *p, const struct sched_view *v, const bool *keep,
                          const double *score, uint32_t *out, uint32_t max)
{
    uint32_t best = SCHED_NONE;

    note(p);
    assert_true(max >= 1);
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i] && (best == SCHED_NONE || score[i] > score[best]))
            best = i;
    *out = best;
    return best != SCHED_NONE;
}

static uint32_t pick_nobody(struct plugin *p, const struct sched_view *v, const bool *keep,
                            const double *score, uint32_t *out, uint32_t max)
{
    (void)p, (void)v, (void)keep, (void)score, (void)out, (void)max;
    return 0;
}

/* Runs every profile once, in order; the last one is primary. */
static int next_in_order(struct plugin *p, struct sched_run *run)
{
    (void)p;
    for (uint32_t i = 0; i < run->config->profile_count; i++)
        if (!run->profile[i].ran)
            return (int)i;
    return -1;
}

static void last_is_primary(struct plugin *p, struct sched_run *run)
{
    (void)p;
    run->primary = (int)run->config->profile_count - 1;
}

static int next_none(struct plugin *p, struct sched_run *run)
{
    (void)p, (void)run;
    return -1;
}

static int next_forever(struct plugin *p, struct sched_run *run)
{
    (void)p, (void)run;
    return 0;
}

static void fail_plainly(struct plugin *p, struct sched_run *run)
{
    (void)p;
    sched_run_fail(run, 429, NULL, "the handler's own words");
}

static void fail_with_reason(struct plugin *p, struct sched_run *run)
{
    (void)p;
    sched_run_fail(run, 503, "rejected-no-endpoints", "no decode workers");
}

static void match_nothing(struct plugin *p, struct sched_view *v)
{
    struct sched_prefix *x = &v->prefix[v->prefix_count++];

    note(p);
    *x = (struct sched_prefix) { .producer = STR("approx-prefix-cache-producer"),
                                 .total_blocks = 4 };
    x->match_blocks = arena_try_zero(v->arena, v->count, sizeof(uint32_t));
    x->cached_blocks = x->match_blocks;
    x->match_blocks[1] = 3;
}

static bool admit_all(struct plugin *p, const struct sched_view *v)
{
    note(p);
    assert_int_equal(v->prefix_count, 1); /* producers went before */
    return true;
}

static bool admit_nobody(struct plugin *p, const struct sched_view *v)
{
    (void)p, (void)v;
    return false;
}

static void count_init(struct plugin *p)
{
    *(int *)p->state = 7;
}

static void count_one(struct plugin *p, struct sched_run *run)
{
    note(p);
    ++*(int *)p->state;
    sched_run_header(run, "x-made", STR("yes"));
}

static void dump_count(const struct plugin *p, struct buf *out)
{
    buf_f(out, "{\"count\":%d}", *(int *)p->state);
}

static const struct plugin_type filter = { .type = "f",
                                           .roles = ROLE_FILTER,
                                           .filter = keep_masked };
static const struct plugin_type screener = { .type = "sc",
                                             .roles = ROLE_SCREENER,
                                             .filter = keep_masked };
static const struct plugin_type scorer = { .type = "s",
                                           .roles = ROLE_SCORER,
                                           .score = give_scores };
static const struct plugin_type best = { .type = "p", .roles = ROLE_PICKER, .pick = pick_best };
static const struct plugin_type nobody = { .type = "n", .roles = ROLE_PICKER, .pick = pick_nobody };
static const struct plugin_type handler = {
    .type = "h", .roles = ROLE_HANDLER, .next = next_in_order, .finish = last_is_primary
};
static const struct plugin_type none = {
    .type = "h0", .roles = ROLE_HANDLER, .next = next_none, .finish = last_is_primary
};
static const struct plugin_type endless = {
    .type = "he", .roles = ROLE_HANDLER, .next = next_forever, .finish = last_is_primary
};
static const struct plugin_type plain = {
    .type = "hp", .roles = ROLE_HANDLER, .next = next_in_order, .finish = fail_plainly
};
static const struct plugin_type reason = {
    .type = "hr", .roles = ROLE_HANDLER, .next = next_in_order, .finish = fail_with_reason
};
static const struct plugin_type producer = { .type = "pr",
                                             .roles = ROLE_PRODUCER,
                                             .produce = match_nothing };
static const struct plugin_type admit = { .type = "a", .roles = ROLE_ADMITTER, .admit = admit_all };
static const struct plugin_type deny = { .type = "d",
                                         .roles = ROLE_ADMITTER,
                                         .admit = admit_nobody };
static const struct plugin_type counter = { .type = "c",
                                            .roles = ROLE_PRE_REQUEST,
                                            .state_size = sizeof(int),
                                            .state_init = count_init,
                                            .dispatched = count_one,
                                            .dump = dump_count };

/* ---- a configuration by hand ---- */

struct world {
    struct sched_config c;
    struct sched_pipeline *p;
    struct sched_endpoint ep[4];
    struct sched_request r;
    struct sched_view v;
    struct sched_run run;
    struct arena arena;
    struct rng rng;
    const char *prefer;
};

static struct str header_of(const void *ctx, const char *name)
{
    return strcmp(name, "prefer") == 0 ? str_of(*(const char *const *)ctx) : STR_NONE;
}

static uint32_t add(struct world *w, const char *name, const struct plugin_type *t,
                    const void *params)
{
    w->c.plugin[w->c.plugin_count] =
        (struct sched_plugin_conf) { .name = str_of(name), .type = t, .params = params };
    if ((t->roles & ROLE_PRODUCER) != 0)
        w->c.order[w->c.order_count++] = w->c.plugin_count;
    return w->c.plugin_count++;
}

/* Four endpoints, one profile with a picker, the handler h. */
static struct world *world(const struct plugin_type *h)
{
    struct world *w = mem_zalloc(sizeof(*w));

    calls[0] = 0;
    arena_init(&w->arena, 1 << 20);
    w->c.profile_count = 1;
    w->c.profile[0].name = STR("default");
    w->c.handler = add(w, "handler", h, NULL);
    w->c.profile[0].picker = add(w, "picker", &best, NULL);
    w->r = (struct sched_request) { .header = header_of, .header_ctx = &w->prefer };
    w->v = (struct sched_view) {
        .ep = w->ep, .count = 4, .r = &w->r, .arena = &w->arena, .rng = &w->rng
    };
    w->run.v = &w->v;
    return w;
}

static void go(struct world *w)
{
    if (w->p == NULL)
        w->p = sched_pipeline_new(&w->c);
    sched_pipeline_run(w->p, &w->run);
}

static void end(struct world *w)
{
    sched_pipeline_free(w->p);
    arena_fini(&w->arena);
    mem_free(w);
}

static void use(struct world *w, uint32_t profile, uint32_t plugin, double weight)
{
    struct sched_profile_conf *p = &w->c.profile[profile];

    if ((w->c.plugin[plugin].type->roles & ROLE_FILTER) != 0)
        p->filter[p->filter_count++] = plugin;
    else
        p->scorer[p->scorer_count++] = (struct sched_scorer_ref) { plugin, weight };
}

/* ---- facts ---- */

static void the_sum_is_of_clamped_weighted_scores(void **state)
{
    static const struct scores a = { { 0.5, 7, -3, NAN } }, b = { { 1, 0.25, 0.5, 0.5 } };
    static const struct mask first_three = { 7 };
    struct world *w = world(&handler);

    (void)state;
    use(w, 0, add(w, "f", &filter, &first_three), 0);
    use(w, 0, add(w, "a", &scorer, &a), 2);
    use(w, 0, add(w, "b", &scorer, &b), 4);
    go(w);
    assert_int_equal(w->run.status, 0);
    assert_int_equal(w->run.primary, 0);
    assert_true(w->run.profile[0].score[0] == 2 * 0.5 + 4 * 1.0);
    assert_true(w->run.profile[0].score[1] == 2 * 1.0 + 4 * 0.25); /* 7 is 1 */
    assert_true(w->run.profile[0].score[2] == 4 * 0.5);            /* -3 is 0 */
    assert_true(w->run.profile[0].score[3] == 0);                  /* filtered out */
    assert_int_equal(w->run.profile[0].pick[0], 0);
    assert_string_equal(calls, "f a b picker");
    end(w);
}

static void nan_counts_as_no_score(void **state)
{
    static const struct scores a = { { NAN, 0.1, NAN, NAN } };
    struct world *w = world(&handler);

    (void)state;
    use(w, 0, add(w, "a", &scorer, &a), 1);
    go(w);
    assert_true(w->run.profile[0].score[0] == 0);
    assert_int_equal(w->run.profile[0].pick[0], 1);
    end(w);
}

static void a_profile_without_scorers_has_no_scores(void **state)
{
    struct world *w = world(&handler);

    (void)state;
    go(w);
    assert_null(w->run.profile[0].score);
    assert_int_equal(w->run.profile[0].pick_count, 1);
    end(w);
}

static void filters_stop_when_nobody_is_left(void **state)
{
    static const struct mask low = { 3 }, high = { 12 };
    static const struct scores a = { { 1, 1, 1, 1 } };
    struct world *w = world(&handler);

    (void)state;
    use(w, 0, add(w, "low", &filter, &low), 0);
    use(w, 0, add(w, "high", &filter, &high), 0);
    use(w, 0, add(w, "late", &filter, &low), 0);
    use(w, 0, add(w, "a", &scorer, &a), 1);
    go(w);
    assert_string_equal(calls, "low high");
    assert_true(w->run.profile[0].no_endpoint && w->run.profile[0].ran);
    assert_int_equal(w->run.status, 429);
    assert_string_equal(w->run.reason, "rejected-saturated");
    assert_string_equal(w->run.message, "no endpoints available for the given request");
    end(w);
}

static void what_the_client_is_told(void **state)
{
    static const struct mask nothing = { 0 };
    static const struct {
        const struct plugin_type *handler;
        bool filter_all, pick_none, deny;
        int status;
        const char *reason, *message;
    } cases[] = {
        { &none, false, false, false, 429, NULL,
          "failed to find target endpoint: failed to run any scheduler profile" },
        { &handler, false, true, false, 429, "rejected-saturated",
          "no endpoints available for the given request" },
        { &plain, false, false, false, 429, NULL, "the handler's own words" },
        { &plain, true, false, false, 429, "rejected-saturated",
          "no endpoints available for the given request" },
        { &reason, true, false, false, 503, "rejected-no-endpoints", "no decode workers" },
        { &handler, false, false, true, 500, NULL, "request cannot be admitted: denied by gate" },
        { &endless, false, false, false, 500, NULL, "the profile handler never ends" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct world *w = world(cases[i].handler);

        if (cases[i].filter_all)
            use(w, 0, add(w, "f", &filter, &nothing), 0);
        if (cases[i].pick_none)
            w->c.profile[0].picker = add(w, "none", &nobody, NULL);
        if (cases[i].deny)
            add(w, "gate", &deny, NULL);
        go(w);
        assert_int_equal(w->run.status, cases[i].status);
        assert_string_equal(w->run.message, cases[i].message);
        if (cases[i].reason == NULL)
            assert_null(w->run.reason);
        else
            assert_string_equal(w->run.reason, cases[i].reason);
        end(w);
    }
}

static void tried_unused_and_screened_endpoints_are_no_candidates(void **state)
{
    static const bool tried[4] = { true, false, false, false };
    static const struct mask not_second = { 13 }, not_third = { 11 };
    struct world *w = world(&handler);

    (void)state;
    w->r.excluded = tried;
    add(w, "s1", &screener, &not_second);
    add(w, "s2", &screener, &not_third);
    go(w);
    assert_int_equal(w->run.profile[0].pick[0], 3);
    w->ep[3].use = SCHED_DRAINING;
    go(w);
    assert_int_equal(w->run.status, 503);
    assert_string_equal(w->run.reason, "rejected-no-endpoints");
    assert_string_equal(w->run.message,
                        "failed to find endpoint candidates for serving the request");
    assert_int_equal(w->run.primary, -1);
    w->v.count = 0;
    go(w);
    assert_int_equal(w->run.status, 503);
    end(w);
}

static void producers_go_before_admitters_and_those_before_profiles(void **state)
{
    struct world *w = world(&handler);

    (void)state;
    add(w, "gate", &admit, NULL);
    add(w, "prefix", &producer, NULL);
    w->v.prefix_count = 3; /* of an earlier run */
    go(w);
    assert_string_equal(calls, "prefix gate picker");
    assert_int_equal(w->v.prefix_count, 1);
    end(w);
}

static void an_answer_only_if_cached(void **state)
{
    static const struct {
        const char *prefer;
        double first;
        int status;
    } cases[] = {
        { "if-available", 1, 412 }, { "respond-async, IF-Available;q=1", 1, 412 },
        { "if-available", 0, 0 }, /* the second endpoint holds three blocks */
        { "if-availablee", 1, 0 },  { "", 1, 0 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct scores s = { { cases[i].first, 0.5, 0, 0 } };
        struct world *w = world(&handler);

        w->prefer = cases[i].prefer;
        add(w, "prefix", &producer, NULL);
        use(w, 0, add(w, "s", &scorer, &s), 1);
        go(w);
        assert_int_equal(w->run.status, cases[i].status);
        if (cases[i].status != 0)
            assert_string_equal(w->run.message, "no decode worker has the requested KV cache");
        end(w);
    }
}

static void without_a_producer_nothing_is_known_to_be_cached(void **state)
{
    struct world *w = world(&handler);

    (void)state;
    w->prefer = "if-available";
    go(w);
    assert_int_equal(w->run.status, 412);
    end(w);
}

static void profiles_share_nothing_but_the_view(void **state)
{
    static const struct mask first = { 1 };
    struct world *w = world(&handler);

    (void)state;
    w->c.profile_count = 2;
    w->c.profile[1] =
        (struct sched_profile_conf) { .name = STR("decode"), .picker = w->c.profile[0].picker };
    w->ep[0].use = SCHED_STALE;
    use(w, 0, add(w, "f", &filter, &first), 0);
    go(w);
    assert_true(w->run.profile[0].no_endpoint);
    assert_int_equal(w->run.profile[1].pick[0], 1); /* what the first one cleared is back */
    assert_int_equal(w->run.status, 0);             /* the primary profile has a pick */
    end(w);
}

static void state_changes_only_when_dispatched(void **state)
{
    struct world *w = world(&handler);
    const struct json *j;
    struct err e;
    struct buf b;

    (void)state;
    buf_init(&b, 4096);
    add(w, "counter", &counter, NULL);
    go(w);
    go(w);
    sched_pipeline_dump(w->p, &b);
    assert_int_equal(json_parse(&w->arena, buf_view(&b), NULL, &j, &e), 0);
    assert_int_equal(j->count, 1); /* only who has something to say */
    assert_true(str_eqz(json_get(json_get(j, "counter"), "count")->text, "7"));
    assert_int_equal(w->run.header_count, 0);
    sched_pipeline_dispatched(w->p, &w->run);
    assert_int_equal(w->run.header_count, 1);
    assert_true(str_eqz(w->run.header[0].value, "yes"));
    buf_reset(&b);
    sched_pipeline_dump(w->p, &b);
    assert_true(str_eqz(buf_view(&b), "{\"counter\":{\"count\":8}}"));
    buf_fini(&b);
    end(w);
}

static void a_run_forgets_the_one_before(void **state)
{
    static const struct mask nothing = { 0 };
    struct world *w = world(&handler);
    struct mask *m = mem_dup(&nothing, sizeof(nothing));

    (void)state;
    use(w, 0, add(w, "f", &filter, m), 0);
    go(w);
    assert_int_equal(w->run.status, 429);
    m->bits = 15;
    go(w);
    assert_int_equal(w->run.status, 0);
    assert_null(w->run.reason);
    assert_int_equal(w->run.message[0], 0);
    end(w);
    mem_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sum_is_of_clamped_weighted_scores),
        cmocka_unit_test(nan_counts_as_no_score),
        cmocka_unit_test(a_profile_without_scorers_has_no_scores),
        cmocka_unit_test(filters_stop_when_nobody_is_left),
        cmocka_unit_test(what_the_client_is_told),
        cmocka_unit_test(tried_unused_and_screened_endpoints_are_no_candidates),
        cmocka_unit_test(producers_go_before_admitters_and_those_before_profiles),
        cmocka_unit_test(an_answer_only_if_cached),
        cmocka_unit_test(without_a_producer_nothing_is_known_to_be_cached),
        cmocka_unit_test(profiles_share_nothing_but_the_view),
        cmocka_unit_test(state_changes_only_when_dispatched),
        cmocka_unit_test(a_run_forgets_the_one_before),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
