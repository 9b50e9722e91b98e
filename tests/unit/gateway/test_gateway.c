/* The gateway between a client and fake workers, all on one loop of this process.
 *
 * A fake worker is a real HTTP server that does what its fields say: answers, streams, holds its
 * answers back, breaks off, refuses, or (frozen) accepts and says nothing, as a stopped process
 * does.  Each test waits for an event and has a deadline. */
// SPDX-License-Identifier: Apache-2.0
#include "world.h"

static void an_answer_comes_back_as_it_was(void **state)
{
    static const struct http_header headers[] = {
        { { "x-request-id", 12 }, { "my-id-1", 7 } },
        { { "traceparent", 11 },
          { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 55 } },
        { { "X-Prefiller-Host-Port", 21 }, { "6.6.6.6:1", 9 } },
        { { "x-gateway-destination-endpoint", 30 }, { "6.6.6.6:1", 9 } },
    };
    struct shot *s;

    (void)state;
    start(1);
    w.worker[0].usage = "{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{"
                        "\"cached_tokens\":4}}";
    s = shoot_with("POST", CHAT, ASK, headers, COUNT(headers));
    WAIT(all_ended);
    assert_int_equal(s->rc, 0);
    assert_int_equal(s->status, 200);
    assert_true(has(s, "\"object\":\"chat.completion\""));
    assert_string_equal(s->id, "my-id-1");
    assert_string_equal(w.worker[0].last_body, ASK);
    assert_string_equal(w.worker[0].last_id, "my-id-1");
    assert_string_equal(w.worker[0].last_trace,
                        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_string_equal(w.worker[0].last_prefiller, "");
    assert_string_equal(w.worker[0].last_steer, "");
    assert_true(metric_of(M_L_STRIPPED, NULL) == 2);
    assert_true(metric_of(M_L_REAL, NULL) == 4);
    assert_true(metric_of(M_L_REQUESTS, "200") == 1);
    assert_true(metric_of(M_L_ESTIMATE, NULL) == 1);
    stop();
}

static void a_stream_comes_back_byte_by_byte(void **state)
{
    struct shot *s;
    struct buf want;

    (void)state;
    start(1);
    w.worker[0].events = 500;
    s = shoot(CHAT, ASK_STREAM);
    WAIT(all_ended);
    buf_init(&want, (size_t)1 << 20);
    for (uint32_t i = 0; i < 500; i++)
        add_event(&want, &w.worker[0], i);
    buf_z(&want, "data: [DONE]\n\n");
    assert_int_equal(s->rc, 0);
    assert_int_equal(s->body.len, want.len);
    assert_memory_equal(s->body.p, want.p, want.len);
    assert_true(metric_count(gateway_cell(w.g, M_L_TTFT, NULL, NULL)) == 1);
    buf_fini(&want);
    stop();
}

static void bad_requests_are_refused_here(void **state)
{
    static const struct {
        const char *path, *body;
        int status;
        const char *word;
    } cases[] = {
        { CHAT, "{\"model\":\"nobody\",\"messages\":[]}", 404, "model_not_found" },
        { CHAT, "{\"model\":", 400, "invalid_json" },
        { CHAT, "[]", 400, "invalid_json" },
        { CHAT,
          "{\"model\":\"m\",\"messages\":[],\"kv_transfer_params\":{\"remote_host\":\"6.6.6.6\"}}",
          400, "reserved_field" },
        { CHAT, "{\"model\":\"m\",\"messages\":[],\"do_remote_prefill\":true}", 400,
          "reserved_field" },
        { "/v1/nothing", "{}", 404, "route_not_found" },
        { "/v1/models", "{}", 405, "method_not_allowed" },
    };

    (void)state;
    start(1);
    for (size_t i = 0; i < COUNT(cases); i++)
        (void)shoot(cases[i].path, cases[i].body);
    WAIT(all_ended);
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(shots[i].status, cases[i].status);
        assert_true(has(&shots[i], "{\"error\":{"));
        assert_true(has(&shots[i], cases[i].word));
        assert_string_equal(shots[i].should_retry, "false");
    }
    assert_int_equal(w.worker[0].requests, 0);
    stop();
}

/* Every engine's own names are read. */
static void engines_are_understood_by_their_names(void **state)
{
    static const char *const pages[] = {
        "vllm:num_requests_running 3\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc 0.5\n"
        "vllm:cache_config_info{block_size=\"32\",num_gpu_blocks=\"900\"} 1\n"
        "vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"old\"} 1\n"
        "vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"a,b\","
        "waiting_lora_adapters=\"c\"} 2\n",
        "sglang:num_running_reqs 3\nsglang:num_queue_reqs 2\nsglang:token_usage 0.5\n"
        "sglang:cache_config_info{page_size=\"32\",num_pages=\"900\"} 1\n",
        "llamacpp:requests_processing 3\nllamacpp:requests_deferred 2\n"
        "llamacpp:kv_cache_usage_ratio 0.5\n",
        "trtllm_num_requests_running 3\ntrtllm_num_requests_waiting 2\n"
        "trtllm_kv_cache_utilization 0.5\n",
    };
    const struct endpoint *ep;

    (void)state;
    start_workers(COUNT(pages));
    for (size_t i = 0; i < COUNT(pages); i++)
        w.worker[i].page = pages[i];
    start_gateway(COUNT(pages), quick(), NULL);
    WAIT(all_used);
    for (uint32_t i = 0; i < COUNT(pages); i++) {
        ep = w.g->endpoints[i];
        assert_true(ep->running == 3 && ep->waiting == 2 && ep->kv_usage == 0.5);
        if (i < 2)
            assert_true(ep->block_tokens == 32 && ep->cache_blocks == 900);
    }
    ep = w.g->endpoints[0]; /* the newest sample counts */
    assert_int_equal(ep->lora_active_count, 2);
    assert_true(str_eqz(ep->lora_active[1], "b"));
    assert_int_equal(ep->lora_waiting_count, 1);
    assert_true(str_eqz(ep->lora_waiting[0], "c"));
    assert_int_equal(ep->lora_max, 4);
    stop();
}

static bool serves_alias(void)
{
    return endpoint_serves(w.g->endpoints[0], STR("small"));
}

static bool says_slots(void)
{
    return w.g->endpoints[0]->slots == 6;
}

static bool has_forgotten(void)
{
    return w.g->endpoints[0]->prompt_tokens == 3;
}

/* Its further names and its context stand where OpenAI's list has nothing; it says no start time,
 * so a counter that falls is what shows another process. */
static void llama_cpp_is_understood(void **state)
{
    const struct endpoint *ep;

    (void)state;
    start_workers(1);
    w.worker[0].page = "llamacpp:prompt_tokens_total 90\nllamacpp:requests_processing 1\n";
    w.worker[0].models =
        "{\"models\":[{\"name\":\"m\"}],\"object\":\"list\",\"data\":[{\"id\":\"m\","
        "\"aliases\":[\"m\",\"small\"],\"meta\":{\"n_ctx\":1024,"
        "\"n_ctx_train\":8192}}]}";
    start_gateway(1, quick(), NULL);
    WAIT(all_used);
    WAIT(serves_alias);
    ep = w.g->endpoints[0];
    assert_int_equal(ep->model_count, 2);
    assert_int_equal(ep->max_model_len, 1024);
    WAIT(says_slots);
    w.g->endpoints[0]->ejected_until_ms = clock_ms() + 60000;
    w.worker[0].page = "llamacpp:prompt_tokens_total 3\nllamacpp:requests_processing 0\n";
    WAIT(has_forgotten);
    assert_int_equal(ep->ejected_until_ms, 0);
    WAIT(all_used);
    stop();
}

static bool first_is_loading(void)
{
    return w.g->endpoints[0]->use == SCHED_LOADING;
}

static void a_worker_without_metrics_is_told_what_to_do(void **state)
{
    (void)state;
    start_workers(1);
    w.worker[0].page = "not supported";
    w.worker[0].page_status = 501;
    start_gateway(1, quick(), NULL);
    WAIT(first_is_loading);
    assert_non_null(strstr(w.g->endpoints[0]->reason, "--metrics"));
    w.worker[0].page_status = 503;
    w.worker[0].page = "loading";
    (void)wait_ms(never, 100);
    assert_int_equal(w.g->endpoints[0]->use, SCHED_LOADING);
    w.worker[0].page_status = 0;
    WAIT(all_used);
    stop();
}

/* The worker hears its own name and nothing else is changed; the client hears the one it used. */
static void a_model_has_further_names(void **state)
{
    static const char *const aliases[] = { "nick=m" };
    static const char body[] = "{ \"n\" : 12345678901234567890 , \"model\":\"nick\" ,"
                               "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
    static const char sent[] = "{ \"n\" : 12345678901234567890 , \"model\":\"m\" ,"
                               "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
    struct gateway_opts o = quick();
    struct shot *s, *models;
    struct err e;

    (void)state;
    start_workers(1);
    assert_int_equal(objects_load(&o.objects, STR_NONE, "", aliases, 1, &e), 0);
    start_gateway(1, o, NULL);
    WAIT(all_used);
    s = shoot(CHAT, body);
    models = get("/v1/models");
    WAIT(all_ended);
    assert_int_equal(s->status, 200);
    assert_string_equal(w.worker[0].last_body, sent);
    assert_true(has(models, "\"nick\""));
    stop();
}

static void endpoints_come_and_go(void **state)
{
    struct gateway_endpoint_opts one;
    struct shot *s;
    struct err e;

    (void)state;
    start(2);
    one = (struct gateway_endpoint_opts) { .address = w.worker[1].address };
    assert_int_equal(gateway_set_endpoints(w.g, &one, 1, &e), 0);
    for (uint32_t i = 0; i < 4; i++) {
        s = shoot(CHAT, ASK);
        WAIT(all_ended);
        assert_int_equal(s->status, 200);
    }
    assert_int_equal(w.worker[0].requests, 0);
    assert_int_equal(w.worker[1].requests, 4);
    /* one that cannot be leaves the others alone */
    one.address = "no port:x";
    assert_int_not_equal(gateway_set_endpoints(w.g, &one, 1, &e), 0);
    assert_int_equal(w.g->endpoint_count, 1);
    one.address = w.worker[0].address;
    assert_int_equal(gateway_set_endpoints(w.g, &one, 1, &e), 0);
    WAIT(all_used);
    s = shoot(CHAT, ASK);
    WAIT(all_ended);
    assert_int_equal(s->status, 200);
    assert_int_equal(w.worker[0].requests, 1);
    stop();
}

static void pages_tell_of_the_workers(void **state)
{
    struct shot *models, *one, *none, *status, *ready, *metrics, *health;

    (void)state;
    start_workers(2);
    w.worker[0].is_ours = true;
    start_gateway(2, quick(), NULL);
    WAIT(all_used);
    models = get("/v1/models");
    one = get("/v1/models/m");
    none = get("/v1/models/x");
    status = get("/v1/status");
    ready = get("/health/ready");
    metrics = get("/metrics");
    health = get("/health");
    WAIT(all_ended);
    assert_int_equal(models->status, 200);
    assert_true(has(models, "\"id\":\"m\""));
    assert_int_equal(one->status, 200);
    assert_int_equal(none->status, 404);
    assert_int_equal(ready->status, 200);
    assert_int_equal(health->status, 200);
    assert_true(has(status, "\"parts\":["));
    assert_true(has(status, "\"blocks_in_use\":7"));
    assert_true(has(status, "\"state\":\"used\""));
    assert_true(has(metrics, "llmd_scheduler_split_total 0\n"));
    assert_true(has(metrics, "llm_d_epp_ready_endpoints{name=\"llmd\"} 2\n"));
    assert_true(has(metrics, "llm_d_epp_average_kv_cache_utilization{name=\"llmd\"} 0.25\n"));
    stop();
}

static bool first_unreachable(void)
{
    return w.g->endpoints[0]->use == SCHED_UNREACHABLE;
}

static void nobody_usable_is_503_with_advice(void **state)
{
    struct shot *s, *ready, *models;

    (void)state;
    start(1);
    http_server_close(w.worker[0].server);
    w.worker[0].server = NULL;
    WAIT(first_unreachable);
    s = shoot(CHAT, ASK);
    ready = get("/health/ready");
    models = get("/v1/models");
    WAIT(all_ended);
    assert_int_equal(s->status, 503);
    assert_string_equal(s->retry_after, "1");
    assert_string_equal(s->should_retry, "true");
    assert_int_equal(ready->status, 503);
    assert_int_equal(models->status, 503);
    stop();
}

static void open_again(struct worker *k)
{
    struct http_server_opts o = { .host = "127.0.0.1" };
    struct str port = str_of(k->address);
    uint64_t n;
    struct err e;

    (void)str_cut(&port, ':');
    assert_true(str_u64(port, &n));
    o.port = (uint16_t)n;
    assert_int_equal(http_server_open(w.loop, &o, worker_handle, k, &k->server, &e), 0);
}

static void a_request_waits_for_a_worker_that_comes_back(void **state)
{
    struct gateway_opts o = quick();
    struct shot *s, *other;

    (void)state;
    start_workers(1);
    o.wait_ms = 2000;
    start_gateway(1, o, NULL);
    WAIT(all_used);
    http_server_close(w.worker[0].server);
    w.worker[0].server = NULL;
    s = shoot(CHAT, ASK); /* not even noticed yet */
    WAIT(first_unreachable);
    other = shoot(CHAT, ASK_STREAM);
    (void)wait_ms(never, 100);
    assert_false(s->ended || other->ended);
    open_again(&w.worker[0]);
    WAIT(all_ended);
    assert_int_equal(s->status, 200);
    assert_int_equal(other->status, 200);
    assert_true(metric_of(M_L_WAITED, NULL) == 2);
    stop();
}

static void the_wait_has_an_end(void **state)
{
    struct gateway_opts o = quick();
    struct shot *s, *other;

    (void)state;
    start_workers(1);
    o.wait_ms = 150;
    start_gateway(1, o, NULL);
    WAIT(all_used);
    http_server_close(w.worker[0].server);
    w.worker[0].server = NULL;
    WAIT(first_unreachable);
    s = shoot(CHAT, ASK);
    other = shoot(CHAT, "{\"model\":\"nobody\",\"messages\":[]}");
    WAIT(all_ended);
    assert_int_equal(s->status, 503);
    assert_int_equal(other->status, 404); /* what was served is remembered */
    stop();
}

/* Eight streams that break at once are one error, and no reason to leave a worker alone. */
static bool eight_begun(void)
{
    for (uint32_t i = 0; i < 8; i++)
        if (shots[i].body.len == 0)
            return false;
    return true;
}

static void what_breaks_many_at_once_is_one_error(void **state)
{
    struct worker *k = &w.worker[0];

    (void)state;
    start(1);
    k->hold_after_first = true;
    for (int i = 0; i < 8; i++)
        (void)shoot(CHAT, ASK_STREAM);
    WAIT(eight_begun);
    for (uint32_t i = 0; i < k->held_count; i++) {
        k->live--;
        http_reply_abort(k->held[i]);
    }
    k->held_count = 0;
    WAIT(all_ended);
    assert_int_equal(w.g->endpoints[0]->errors_row, 1);
    for (int i = 0; i < 8; i++)
        assert_true(has(&shots[i], "upstream_cut"));
    stop();
}

/* As seldom as its numbers stay fresh, and often again as soon as it has something to do. */
static void an_idle_worker_is_scraped_less_often(void **state)
{
    struct worker *k = &w.worker[0];
    uint32_t idle, busy;

    (void)state;
    start(1);
    (void)wait_ms(never, 1200);
    idle = k->scrapes;
    (void)wait_ms(never, 600);
    idle = k->scrapes - idle;
    k->hold_after_first = true;
    (void)shoot(CHAT, ASK_STREAM);
    (void)wait_ms(never, 100);
    busy = k->scrapes;
    (void)wait_ms(never, 600);
    busy = k->scrapes - busy;
    assert_true(idle > 0 && busy >= 2 * idle);
    assert_int_equal(w.g->endpoints[0]->use, SCHED_USED);
    for (uint32_t i = 0; i < k->held_count; i++)
        http_reply_end(k->held[i]);
    k->held_count = 0;
    WAIT(all_ended);
    stop();
}

static void a_worker_that_is_not_ready_gets_nothing(void **state)
{
    struct shot *s;

    (void)state;
    start_workers(1);
    w.worker[0].not_ready = true;
    start_gateway(1, quick(), NULL);
    (void)wait_ms(never, 150);
    assert_int_equal(w.g->endpoints[0]->use, SCHED_LOADING);
    s = shoot(CHAT, ASK);
    WAIT(all_ended);
    assert_int_equal(s->status, 503);
    assert_int_equal(w.worker[0].requests, 0);
    stop();
}

/* Sends until worker 0 got one: equals are chosen at random. */
static void shoot_until_first_is_asked(const char *body)
{
    for (int i = 0; i < 60 && w.worker[0].requests == 0; i++) {
        (void)shoot(CHAT, body);
        WAIT(all_ended);
    }
    assert_int_not_equal(w.worker[0].requests, 0);
}

static void failures_before_the_first_byte_are_tried_elsewhere(void **state)
{
    static const struct {
        int refuse;
        bool cut_before;
        uint32_t cut_after;
        const char *reason;
    } cases[] = {
        { 503, false, 0, "busy" },
        { 429, false, 0, "busy" },
        { 0, true, 0, "reset" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        start(2);
        w.worker[0].refuse = cases[i].refuse;
        w.worker[0].cut_before = cases[i].cut_before;
        shoot_until_first_is_asked(ASK);
        for (uint32_t k = 0; k < shot_count; k++)
            assert_int_equal(shots[k].status, 200);
        assert_true(metric_of(M_L_RETRIES, cases[i].reason) >= 1);
        stop();
    }
}

static void a_dead_worker_costs_a_retry_and_no_answer(void **state)
{
    struct gateway_opts o = quick();

    (void)state;
    start_workers(2);
    o.scrape_ms = 60000; /* nobody notices but the requests */
    o.stale_ms = o.frozen_ms = 60000;
    start_gateway(2, o, NULL);
    (void)wait_ms(never, 50);
    for (int i = 0; i < 2; i++) { /* the tick is far: what follows a scrape is asked for by hand */
        endpoints_tick(w.g);
        (void)wait_ms(never, 50);
    }
    assert_true(all_used());
    http_server_close(w.worker[0].server);
    w.worker[0].server = NULL;
    for (int i = 0; i < 24; i++)
        (void)shoot(CHAT, i % 2 ? ASK : ASK_STREAM);
    WAIT(all_ended);
    for (uint32_t k = 0; k < shot_count; k++)
        assert_int_equal(shots[k].status, 200);
    assert_true(metric_of(M_L_RETRIES, "connect") >= 1);
    stop();
}

static void attempts_are_counted_and_end_in_the_last_reason(void **state)
{
    struct shot *s;

    (void)state;
    start(3);
    for (uint32_t i = 0; i < 3; i++) {
        w.worker[i].refuse = 503;
        w.worker[i].retry_after = "7";
    }
    s = shoot(CHAT, ASK);
    WAIT(all_ended);
    assert_int_equal(s->status, 503);
    assert_string_equal(s->retry_after, "7");
    assert_false(has(s, "secret prompt"));
    assert_int_equal(w.worker[0].requests + w.worker[1].requests + w.worker[2].requests, 3);
    stop();
}

static void a_worker_error_is_passed_on_without_its_text(void **state)
{
    static const struct {
        int upstream, here;
        bool text;
    } cases[] = {
        { 500, 502, false }, { 501, 501, true }, /* says what it cannot do */
        { 504, 504, false }, { 400, 400, true }, { 413, 413, true },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct shot *s;

        start(2);
        w.worker[0].refuse = w.worker[1].refuse = cases[i].upstream;
        s = shoot(CHAT, ASK);
        WAIT(all_ended);
        assert_int_equal(s->status, cases[i].here);
        assert_int_equal(has(s, "secret prompt"), cases[i].text);
        assert_int_equal(w.worker[0].requests + w.worker[1].requests, 1);
        stop();
    }
}

static void a_cut_stream_does_not_look_finished(void **state)
{
    struct shot *s;

    (void)state;
    start(1);
    w.worker[0].events = 10;
    w.worker[0].cut_after = 4;
    s = shoot(CHAT, ASK_STREAM);
    WAIT(all_ended);
    assert_int_equal(s->status, 200);
    assert_int_not_equal(s->rc, 0); /* the transfer itself is broken off */
    assert_true(has(s, "\"i\":3"));
    assert_false(has(s, "half")); /* no part of an unfinished event */
    assert_true(has(s, "data: {\"error\":{"));
    assert_true(has(s, "upstream_cut"));
    assert_false(has(s, "[DONE]"));
    assert_int_equal(w.worker[0].requests, 1);
    assert_true(metric_of(M_L_CUT, "upstream_cut") == 1);
    stop();
}

static bool first_has_one(void)
{
    return w.worker[0].live > 0 && shots[shot_count - 1].body.len > 0;
}

static bool first_lost_one(void)
{
    return w.worker[0].gone == 1;
}

static void a_client_that_leaves_frees_its_worker_at_once(void **state)
{
    struct shot *s;
    uint64_t t0;

    (void)state;
    start(1);
    w.worker[0].hold_after_first = true;
    s = shoot(CHAT, ASK_STREAM);
    WAIT(first_has_one);
    t0 = clock_ms();
    http_call_cancel(s->call);
    s->ended = true;
    WAIT(first_lost_one);
    assert_true(clock_ms() - t0 <= 100);
    assert_int_equal(w.worker[0].live, 0);
    assert_true(metric_of(M_L_CLIENT_GONE, NULL) == 1);
    stop();
}

static bool first_holds_one(void)
{
    return w.worker[0].live == 1;
}

static void a_client_that_leaves_before_the_first_byte_too(void **state)
{
    struct shot *s;

    (void)state;
    start(1);
    w.worker[0].hold = true;
    s = shoot(CHAT, ASK);
    WAIT(first_holds_one);
    http_call_cancel(s->call);
    s->ended = true;
    WAIT(first_lost_one);
    stop();
}

static bool first_frozen(void)
{
    return w.g->endpoints[0]->use == SCHED_FROZEN;
}

static void a_frozen_worker_leaves_and_its_streams_end(void **state)
{
    struct shot *s, *other;
    uint64_t t0;

    (void)state;
    start(1);
    w.worker[0].hold_after_first = true;
    s = shoot(CHAT, ASK_STREAM);
    WAIT(first_has_one);
    w.worker[0].frozen = true;
    t0 = clock_ms();
    WAIT(all_ended);
    assert_true(clock_ms() - t0 < 500 * 5 / 3 + 300); /* 5 s where frozen_ms is 3 s */
    assert_int_equal(w.g->endpoints[0]->use, SCHED_FROZEN);
    assert_true(has(s, "upstream_cut"));
    assert_false(has(s, "[DONE]"));
    other = shoot(CHAT, ASK);
    WAIT(all_ended);
    assert_int_equal(other->status, 503);
    /* it returns when a scrape works */
    w.worker[0].frozen = false;
    w.worker[0].hold_after_first = false;
    w.worker[0].held_count = 0;
    WAIT(all_used);
    other = shoot(CHAT, ASK);
    WAIT(all_ended);
    assert_int_equal(other->status, 200);
    stop();
}

static void a_request_at_a_frozen_worker_is_answered_elsewhere(void **state)
{
    (void)state;
    start(2);
    w.worker[0].frozen = true;
    shoot_until_first_is_asked(ASK_STREAM);
    WAIT(first_frozen);
    for (uint32_t k = 0; k < shot_count; k++) {
        assert_int_equal(shots[k].status, 200);
        assert_true(has(&shots[k], "[DONE]"));
    }
    assert_true(metric_of(M_L_RETRIES, "frozen") >= 1);
    stop();
}

static bool drained_now;

static void on_drained(void *ctx)
{
    (void)ctx;
    drained_now = true;
}

static bool is_drained(void)
{
    return drained_now;
}

static void draining_ends_what_runs_and_takes_nothing_new(void **state)
{
    struct shot *running, *late, *ready;

    (void)state;
    start(1);
    drained_now = false;
    w.worker[0].hold_after_first = true;
    running = shoot(CHAT, ASK_STREAM);
    WAIT(first_has_one);
    gateway_drain(w.g, 4000, on_drained, NULL);
    late = shoot(CHAT, ASK);
    ready = get("/health/ready");
    (void)wait_ms(never, 100);
    assert_int_equal(late->status, 503);
    assert_true(has(late, "server is shutting down"));
    assert_int_equal(ready->status, 503);
    assert_false(drained_now);
    release_all(&w.worker[0]);
    WAIT(is_drained);
    WAIT(all_ended);
    assert_int_equal(running->rc, 0);
    assert_true(has(running, "[DONE]"));
    stop();
}

static void a_drain_ends_by_its_timeout(void **state)
{
    struct shot *running, *waiting;

    (void)state;
    start(1);
    drained_now = false;
    w.worker[0].hold_after_first = true;
    w.worker[0].hold = true;
    waiting = shoot(CHAT, ASK);
    running = shoot(CHAT, ASK_STREAM);
    WAIT(first_has_one);
    gateway_drain(w.g, 50, on_drained, NULL);
    WAIT(is_drained);
    WAIT(all_ended);
    assert_true(has(running, "shutting_down"));
    assert_false(has(running, "[DONE]"));
    assert_int_equal(waiting->status, 503);
    stop();
}

static bool all_held(void)
{
    return w.worker[0].live + w.worker[1].live + w.worker[2].live >= w.g->inflight &&
           w.g->inflight > 0;
}

static void past_the_ceiling_is_429(void **state)
{
    struct gateway_opts o = quick();
    uint32_t refused = 0;

    (void)state;
    start_workers(1);
    o.inflight_max = 4;
    start_gateway(1, o, NULL);
    WAIT(all_used);
    w.worker[0].hold = true;
    for (int i = 0; i < 6; i++)
        (void)shoot(CHAT, ASK);
    WAIT(all_held);
    (void)wait_ms(never, 50);
    release_all(&w.worker[0]);
    WAIT(all_ended);
    for (uint32_t k = 0; k < shot_count; k++)
        if (shots[k].status == 429) {
            refused++;
            assert_string_equal(shots[k].retry_after, "1");
        }
    assert_int_equal(refused, 2);
    stop();
}

/* A body whose prompt begins with 4,000 shared bytes (1,000 tokens by estimate). */
static char *shared_body(uint32_t i, const char *tail)
{
    static char text[8192];
    size_t n =
        (size_t)snprintf(text, sizeof(text), "{\"model\":\"m\",\"max_tokens\":16,\"prompt\":\"");

    for (uint32_t k = 0; k < 500; k++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "word%03u ", k);
    snprintf(text + n, sizeof(text) - n, "number %u%s\"}", i, tail);
    return text;
}

static void a_hot_prefix_spreads_over_equal_workers(void **state)
{
    uint32_t most = 0, total = 0;

    (void)state;
    start(3);
    (void)shoot("/v1/completions", shared_body(1000, "")); /* one of them has it now */
    WAIT(all_ended);
    for (uint32_t i = 0; i < 3; i++) {
        w.worker[i].requests = 0;
        w.worker[i].hold = true;
    }
    for (uint32_t i = 0; i < 64; i++)
        (void)shoot("/v1/completions", shared_body(i, ""));
    WAIT(all_held);
    (void)wait_ms(never, 100);
    for (uint32_t i = 0; i < 3; i++) {
        most = MAX(most, w.worker[i].requests);
        total += w.worker[i].requests;
    }
    assert_int_equal(total, 64);
    assert_true(most * 3 <= total * 3 / 2);
    for (uint32_t i = 0; i < 3; i++)
        release_all(&w.worker[i]);
    WAIT(all_ended);
    stop();
}

/* A scrape from before the end of our own request is no load; somebody else's requests are. */
static void load_of_others_counts_and_our_own_past_does_not(void **state)
{
    (void)state;
    start(2);
    w.worker[0].foreign = 6;
    (void)wait_ms(never, 60);
    for (int i = 0; i < 12; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_int_equal(w.worker[0].requests, 0);
    w.worker[0].foreign = 0;
    (void)wait_ms(never, 60);
    w.worker[0].hold = w.worker[1].hold = true;
    for (int i = 0; i < 8; i++)
        (void)shoot(CHAT, ASK);
    WAIT(all_held);
    (void)wait_ms(never, 60);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(w.g->endpoints[i]->running > 0);
        release_all(&w.worker[i]);
    }
    WAIT(all_ended); /* the last scrapes still tell of them */
    assert_true(w.g->endpoints[0]->foreign == 0);
    assert_true(w.g->endpoints[1]->foreign == 0);
    stop();
}

static uint32_t asked(void)
{
    for (uint32_t i = 0; i < WORKERS; i++)
        if (w.worker[i].requests != 0) {
            w.worker[i].requests = 0;
            return i;
        }
    return WORKERS;
}

static void later_turns_go_where_their_prefix_is(void **state)
{
    (void)state;
    start(3);
    for (uint32_t talk = 0; talk < 6; talk++) {
        char tail[400] = "";
        uint32_t home;

        (void)shoot("/v1/completions", shared_body(talk, tail));
        WAIT(all_ended);
        home = asked();
        for (int turn = 0; turn < 4; turn++) {
            snprintf(tail + strlen(tail), sizeof(tail) - strlen(tail),
                     " and then turn %d of this talk goes on and on", turn);
            (void)shoot("/v1/completions", shared_body(talk, tail));
            WAIT(all_ended);
            assert_int_equal(asked(), home);
        }
    }
    stop();
}

static void a_long_prompt_is_split_between_roles(void **state)
{
    static const enum sched_role roles[] = { SCHED_PREFILL, SCHED_DECODE };
    static const struct http_header explain[] = { { { "x-llmd-explain", 14 }, { "1", 1 } } };
    struct shot *s;

    (void)state;
    start_workers(2);
    start_gateway(2, quick(), roles);
    WAIT(all_used);
    (void)shoot(CHAT, ASK);
    WAIT(all_ended);
    assert_int_equal(w.worker[0].requests, 0);
    assert_string_equal(w.worker[1].last_prefiller, "");
    s = shoot_with("POST", "/v1/completions", shared_body(1, ""), explain, 1);
    WAIT(all_ended);
    assert_int_equal(s->status, 200);
    assert_int_equal(w.worker[0].requests, 0); /* the decode worker asks it, not we */
    assert_string_equal(w.worker[1].last_prefiller, w.worker[0].address);
    assert_non_null(strstr(s->receipt, w.worker[0].address));
    assert_null(strstr(s->receipt, "why_not_split"));
    assert_true(metric_of(M_L_SPLIT, NULL) == 1);
    assert_true(metric_of(M_L_NOT_SPLIT, "short") == 1);
    (void)shoot("/v1/completions", shared_body(1, " again")); /* both hold it now */
    WAIT(all_ended);
    assert_string_equal(w.worker[1].last_prefiller, "");
    assert_true(metric_of(M_L_NOT_SPLIT, "mostly_cached") == 1);
    stop();
}

static void receipts_say_what_was_decided_and_what_came_of_it(void **state)
{
    static const struct http_header headers[] = { { { "x-llmd-explain", 14 }, { "1", 1 } },
                                                  { { "x-request-id", 12 }, { "r-1", 3 } } };
    struct shot *whole, *stream, *kept, *none;
    const struct json *j;
    struct arena a;
    struct err e;
    uint64_t n;

    (void)state;
    start(2);
    for (int i = 0; i < 2; i++)
        w.worker[i].usage = "{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_"
                            "details\":{\"cached_tokens\":4}}";
    whole = shoot_with("POST", CHAT, ASK, headers, 1);
    stream = shoot_with("POST", CHAT, ASK_STREAM, headers, 2);
    WAIT(all_ended);
    kept = get("/v1/receipts/r-1");
    none = get("/v1/receipts/r-2");
    WAIT(all_ended);
    arena_init(&a, (size_t)1 << 20);
    assert_int_equal(json_parse(&a, str_of(whole->receipt), NULL, &j, &e), 0);
    assert_true(json_u64(json_get(j, "real_cached_tokens"), &n) && n == 4);
    assert_int_equal(json_get(j, "candidates")->count, 2);
    assert_int_equal(json_parse(&a, str_of(stream->receipt), NULL, &j, &e), 0);
    assert_null(json_get(j, "real_cached_tokens"));
    assert_non_null(json_get(j, "predicted_cached_tokens"));
    assert_int_equal(kept->status, 200);
    assert_int_equal(json_parse(&a, buf_view(&kept->body), NULL, &j, &e), 0);
    assert_true(json_u64(json_get(j, "real_cached_tokens"), &n) && n == 4);
    assert_true(json_u64(json_get(j, "completion_tokens"), &n) && n == 2);
    assert_int_equal(none->status, 404);
    arena_fini(&a);
    stop();
}

static bool first_is_paused(void)
{
    return w.g->front[0].live != NULL && w.g->front[0].live->paused;
}

static void a_slow_client_holds_its_worker_back_and_gets_all(void **state)
{
    struct shot *s;
    struct buf want;

    (void)state;
    start(1);
    w.worker[0].events = 80; /* 8 MB: more than sockets hold of what nobody reads */
    w.worker[0].event_bytes = 100000;
    s = shoot(CHAT, ASK_STREAM);
    http_call_pause(s->call);
    WAIT(first_is_paused);
    assert_true(w.g->front[0].live->pending.len <= PENDING_BYTES_MAX);
    http_call_resume(s->call);
    WAIT(all_ended);
    buf_init(&want, (size_t)64 << 20);
    for (uint32_t i = 0; i < w.worker[0].events; i++)
        add_event(&want, &w.worker[0], i);
    buf_z(&want, "data: [DONE]\n\n");
    assert_int_equal(s->rc, 0);
    assert_int_equal(s->body.len, want.len);
    assert_memory_equal(s->body.p, want.p, want.len);
    buf_fini(&want);
    stop();
}

static void a_long_body_is_read_by_the_thread(void **state)
{
    size_t bytes = (size_t)3 << 20;
    char *body = mem_alloc(bytes + 100);
    size_t n = (size_t)snprintf(body, 100, "{\"model\":\"m\",\"prompt\":\"");
    struct shot *s, *left;

    (void)state;
    start(1);
    memset(body + n, 'x', bytes);
    memcpy(body + n + bytes, "\"}", 3);
    s = shoot("/v1/completions", body);
    left = shoot("/v1/completions", body);
    http_call_cancel(left->call);
    left->ended = true;
    WAIT(all_ended);
    assert_int_equal(s->status, 200);
    mem_free(body);
    stop();
}

static void errors_in_a_row_take_a_worker_out(void **state)
{
    uint32_t before;

    (void)state;
    start(2);
    w.worker[0].refuse = 500;
    for (int i = 0; i < 40 && w.worker[0].requests < 5; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_int_equal(w.worker[0].requests, 5);
    before = w.worker[1].requests;
    for (int i = 0; i < 20; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_int_equal(w.worker[0].requests, 5);
    assert_int_equal(w.worker[1].requests, before + 20);
    stop();
}

/* What comes back is tried by one request, and then gets a tenth for a while. */
static void a_worker_comes_back_by_a_probe(void **state)
{
    struct endpoint *ep;
    uint32_t before;

    (void)state;
    start(2);
    ep = w.g->endpoints[0];
    w.worker[0].refuse = 500;
    for (int i = 0; i < 60 && ep->ejections == 0; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_int_equal(ep->ejections, 1);
    for (int round = 0; round < 2; round++) { /* the time is over: sick still, then well */
        ep->ejected_until_ms = 1;
        before = w.worker[0].requests;
        for (int i = 0; i < 20 && w.worker[0].requests == before; i++) {
            (void)shoot(CHAT, ASK);
            WAIT(all_ended);
        }
        assert_int_equal(w.worker[0].requests, before + 1);
        if (round == 0) {
            assert_int_equal(ep->ejections, 2);
            assert_true(ep->ejected_until_ms > clock_ms() + 50000);
        }
        w.worker[0].refuse = 0;
    }
    assert_int_equal(ep->errors_row, 0);
    assert_true(ep->slow_until_ms > clock_ms());
    before = w.worker[0].requests;
    for (int i = 0; i < 20; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_true(w.worker[0].requests <= before + 8);
    stop();
}

/* Errors and speed were the old process's: the new one is used as soon as it says that it is ready.
 */
static void a_new_process_starts_without_errors(void **state)
{
    struct http_server_opts o = { .host = "127.0.0.1" };
    struct worker *k = &w.worker[0];
    struct endpoint *ep;
    uint32_t before;
    struct err e;

    (void)state;
    start(2);
    ep = w.g->endpoints[0];
    k->refuse = 500;
    for (int i = 0; i < 60 && ep->ejections == 0; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_true(ep->ejected_until_ms > clock_ms());
    ep->learner.decode_samples = 20;
    ep->learner.decode_ms_per_token = 999;
    o.port = http_server_port(k->server);
    http_server_close(k->server);
    k->server = NULL;
    WAIT(first_unreachable);
    assert_int_equal(ep->learner.decode_samples, 0);
    k->refuse = 0;
    before = k->requests;
    assert_int_equal(http_server_open(w.loop, &o, worker_handle, k, &k->server, &e), 0);
    WAIT(all_used);
    for (int i = 0; i < 20; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_true(k->requests >= before + 4);
    stop();
}

/* Among fast and slow ones a worker that nothing is known of is not thought as slow as the middle:
 * with the fast ones idle it would never get the request that shows what it is. */
static void an_unknown_worker_is_tried(void **state)
{
    static const double ms[] = { 4, 80, 90, 0 };
    struct sched_endpoint snap[WORKERS];

    (void)state;
    start(WORKERS);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct sched_learner *l = &w.g->endpoints[i]->learner;

        l->prefill_ms_per_token = l->decode_ms_per_token = ms[i];
        l->prefill_samples = l->decode_samples = ms[i] > 0 ? 50 : 0;
    }
    w.g->rates_changed = true;
    gateway_lock(w.g);
    endpoints_snapshot(w.g, STR_NONE, snap);
    gateway_unlock(w.g);
    assert_true(snap[3].prefill_ms_per_token == 4 && snap[3].decode_ms_per_token == 4);
    assert_true(snap[1].decode_ms_per_token > 40);
    /* nor is one that got nothing for a minute, while others did, believed for ever */
    w.g->endpoints[2]->learned_ms = clock_ms();
    w.g->learned_ms = w.g->endpoints[2]->learned_ms + 60000;
    w.g->endpoints[1]->learned_ms = w.g->learned_ms - 59999;
    gateway_lock(w.g);
    endpoints_snapshot(w.g, STR_NONE, snap);
    w.g->endpoints[2]->inflight++;
    assert_true(snap[1].decode_ms_per_token > 40 && snap[2].decode_ms_per_token == 4);
    endpoints_snapshot(w.g, STR_NONE, snap);
    w.g->endpoints[2]->inflight--;
    gateway_unlock(w.g);
    assert_true(snap[2].decode_ms_per_token > 40);
    stop();
}

static void a_worker_that_asks_for_a_pause_gets_it(void **state)
{
    (void)state;
    start(2);
    w.worker[0].refuse = 503;
    w.worker[0].retry_after = "20";
    shoot_until_first_is_asked(ASK);
    w.worker[0].refuse = 0;
    for (int i = 0; i < 15; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_int_equal(w.worker[0].requests, 1);
    stop();
}

static void the_last_worker_is_never_taken_out(void **state)
{
    (void)state;
    start(1);
    w.worker[0].refuse = 500;
    for (int i = 0; i < 12; i++) {
        (void)shoot(CHAT, ASK);
        WAIT(all_ended);
    }
    assert_int_equal(w.worker[0].requests, 12);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_comes_back_as_it_was),
        cmocka_unit_test(a_stream_comes_back_byte_by_byte),
        cmocka_unit_test(bad_requests_are_refused_here),
        cmocka_unit_test(engines_are_understood_by_their_names),
        cmocka_unit_test(llama_cpp_is_understood),
        cmocka_unit_test(a_worker_without_metrics_is_told_what_to_do),
        cmocka_unit_test(a_model_has_further_names),
        cmocka_unit_test(endpoints_come_and_go),
        cmocka_unit_test(pages_tell_of_the_workers),
        cmocka_unit_test(nobody_usable_is_503_with_advice),
        cmocka_unit_test(a_request_waits_for_a_worker_that_comes_back),
        cmocka_unit_test(the_wait_has_an_end),
        cmocka_unit_test(what_breaks_many_at_once_is_one_error),
        cmocka_unit_test(an_idle_worker_is_scraped_less_often),
        cmocka_unit_test(a_worker_that_is_not_ready_gets_nothing),
        cmocka_unit_test(failures_before_the_first_byte_are_tried_elsewhere),
        cmocka_unit_test(a_dead_worker_costs_a_retry_and_no_answer),
        cmocka_unit_test(attempts_are_counted_and_end_in_the_last_reason),
        cmocka_unit_test(a_worker_error_is_passed_on_without_its_text),
        cmocka_unit_test(a_cut_stream_does_not_look_finished),
        cmocka_unit_test(a_client_that_leaves_frees_its_worker_at_once),
        cmocka_unit_test(a_client_that_leaves_before_the_first_byte_too),
        cmocka_unit_test(a_frozen_worker_leaves_and_its_streams_end),
        cmocka_unit_test(a_request_at_a_frozen_worker_is_answered_elsewhere),
        cmocka_unit_test(draining_ends_what_runs_and_takes_nothing_new),
        cmocka_unit_test(a_drain_ends_by_its_timeout),
        cmocka_unit_test(past_the_ceiling_is_429),
        cmocka_unit_test(a_hot_prefix_spreads_over_equal_workers),
        cmocka_unit_test(load_of_others_counts_and_our_own_past_does_not),
        cmocka_unit_test(later_turns_go_where_their_prefix_is),
        cmocka_unit_test(a_long_prompt_is_split_between_roles),
        cmocka_unit_test(receipts_say_what_was_decided_and_what_came_of_it),
        cmocka_unit_test(a_slow_client_holds_its_worker_back_and_gets_all),
        cmocka_unit_test(a_long_body_is_read_by_the_thread),
        cmocka_unit_test(errors_in_a_row_take_a_worker_out),
        cmocka_unit_test(a_worker_comes_back_by_a_probe),
        cmocka_unit_test(a_new_process_starts_without_errors),
        cmocka_unit_test(an_unknown_worker_is_tried),
        cmocka_unit_test(a_worker_that_asks_for_a_pause_gets_it),
        cmocka_unit_test(the_last_worker_is_never_taken_out),
    };

    log_init("test", LOG_ERROR_LEVEL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
