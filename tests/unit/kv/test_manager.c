/* The cache manager and its copies, over real sockets on loopback: publishers come, go, skip,
 * restart and replay. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "codec/json.h"
#include "kv/manager.h"
#include "kv/replica.h"
#include "net/http.h"
#include "net/zmtp.h"
#include <stdio.h>
#include <string.h>

#define WAIT_MS 10000
#define TOPIC   "kv@10.9.8.7:80@m"
#define ADDRESS "10.0.0.1:8000"

/* ---- a bench: one loop, conditions waited for ---- */

struct bench {
    const char *model; /* of sources whose topic names none */
    struct loop *l;
    struct zmtp_pub *pub;
    struct zmtp_router *router;
    struct kv_manager *m;
    struct replica *rep;
    uint16_t pub_port, router_port;
    /* what the router answers */
    struct buf ring[16];
    uint32_t ring_first, ring_count, replays;
    uint64_t asked;
    bool old_form, is_mute;
    /* waiting */
    bool (*cond)(struct bench *b, uint64_t arg);
    uint64_t arg, deadline;
    bool met;
};

static void check_cond(void *ctx)
{
    struct bench *b = ctx;

    b->met = b->cond(b, b->arg);
    if (b->met || loop_now_ms(b->l) > b->deadline)
        loop_stop(b->l);
}

static bool wait_for(struct bench *b, bool (*cond)(struct bench *b, uint64_t arg), uint64_t arg)
{
    struct loop_timer *t = loop_timer_new(b->l, check_cond, b);

    b->cond = cond;
    b->arg = arg;
    b->met = false;
    b->deadline = loop_now_ms(b->l) + WAIT_MS;
    loop_timer_arm(t, 1, 5);
    loop_run(b->l);
    loop_timer_free(t);
    return b->met;
}

static bool has_peers(struct bench *b, uint64_t n)
{
    return zmtp_pub_peers(b->pub) == n;
}

static bool has_blocks(struct bench *b, uint64_t n)
{
    return kv_index_total(kv_manager_index(b->m)) == n;
}

static bool copy_has(struct bench *b, uint64_t n)
{
    return replica_up(b->rep) && kv_index_total(replica_index(b->rep)) == n;
}

static bool after_ms(struct bench *b, uint64_t ms)
{
    return loop_now_ms(b->l) + WAIT_MS >= b->deadline + ms;
}

/* ---- events ---- */

static void be64(char out[8], uint64_t v)
{
    for (int i = 0; i < 8; i++)
        out[i] = (char)(v >> (56 - 8 * i));
}

/* Stores block n (its hash n + 1, its own tokens, no parent). */
static void stored(struct buf *out, uint32_t n)
{
    uint64_t hash = n + 1;
    uint32_t tokens[16] = { n };
    struct kv_event ev = { .kind = KV_STORED,
                           .hashes = &hash,
                           .hash_count = 1,
                           .tokens = tokens,
                           .token_count = 16,
                           .block_size = 16,
                           .medium = STR("GPU") };

    kv_batch_encode(out, &(struct kv_batch) { .ts = 1, .events = &ev, .count = 1 });
}

static uint64_t key_of(const struct kv_index *x, uint32_t n)
{
    uint32_t tokens[16] = { n };
    uint64_t key;

    assert_int_equal(kv_index_keys(x, STR("m"), STR_NONE, tokens, 16, &key), 1);
    return key;
}

static void send_raw(struct bench *b, uint64_t seq, struct str payload)
{
    char be[8];
    struct zmtp_msg m = { .count = 3 };

    be64(be, seq);
    m.frame[0] = STR(TOPIC);
    m.frame[1] = (struct str) { be, 8 };
    m.frame[2] = payload;
    zmtp_pub_send(b->pub, &m);
}

static void send_block(struct bench *b, uint64_t seq, uint32_t block)
{
    struct buf out;

    buf_init(&out, 4096);
    stored(&out, block);
    send_raw(b, seq, buf_view(&out));
    buf_fini(&out);
}

static void on_replay(void *ctx, struct zmtp_peer *peer, const struct zmtp_msg *m)
{
    struct bench *b = ctx;
    char be[8];
    struct zmtp_msg out = { .count = b->old_form ? 3 : 4 };
    struct str *f = b->old_form ? out.frame : out.frame + 1; /* f[1], f[2]: sequence, payload */

    assert_int_equal(m->count, 2);
    assert_int_equal(m->frame[0].n, 0);
    assert_int_equal(m->frame[1].n, 8);
    b->asked = 0;
    for (size_t i = 0; i < 8; i++)
        b->asked = b->asked << 8 | (uint8_t)m->frame[1].p[i];
    b->replays++;
    if (b->is_mute)
        return;
    out.frame[0] = STR("");
    out.frame[1] = STR(TOPIC);
    for (uint64_t s = MAX(b->asked, b->ring_first); s < b->ring_count; s++) {
        be64(be, s);
        f[1] = (struct str) { be, 8 };
        f[2] = buf_view(&b->ring[s]);
        assert_int_equal(zmtp_router_send(peer, &out), 0);
    }
    be64(be, UINT64_MAX);
    f[1] = (struct str) { be, 8 };
    f[2] = STR("");
    assert_int_equal(zmtp_router_send(peer, &out), 0);
}

/* The worker publishes: kept for replay, and sent unless it "gets lost". */
static void publish(struct bench *b, uint32_t block, bool is_lost)
{
    buf_init(&b->ring[b->ring_count], 4096);
    stored(&b->ring[b->ring_count], block);
    if (!is_lost)
        send_raw(b, b->ring_count, buf_view(&b->ring[b->ring_count]));
    b->ring_count++;
}

static void open_pub(struct bench *b)
{
    struct err e;

    if (zmtp_pub_open(b->l, "127.0.0.1", b->pub_port, 0, &b->pub, &e) != 0)
        fail_msg("%s", e.msg);
    b->pub_port = zmtp_pub_port(b->pub);
}

static void open_manager(struct bench *b, bool with_replay, uint16_t port)
{
    char events[64], replay[64];
    struct kv_source_opts s = { .name = STR("w0"), .address = STR(ADDRESS) };
    struct kv_manager_opts o = { .host = "127.0.0.1",
                                 .port = port,
                                 .sources = &s,
                                 .source_count = 1,
                                 .model = b->model,
                                 .index = { .block_tokens = 16 } };
    struct err e;

    snprintf(events, sizeof(events), "127.0.0.1:%u", b->pub_port);
    snprintf(replay, sizeof(replay), "127.0.0.1:%u", b->router_port);
    s.events = str_of(events);
    s.replay = with_replay ? str_of(replay) : STR_NONE;
    if (kv_manager_open(b->l, &o, &b->m, &e) != 0)
        fail_msg("%s", e.msg);
}

static void begin(struct bench *b, bool with_replay)
{
    struct err e;

    memset(b, 0, sizeof(*b));
    log_init("test", LOG_ERROR_LEVEL);
    assert_int_equal(loop_new(&b->l, &e), 0);
    open_pub(b);
    if (with_replay) {
        assert_int_equal(zmtp_router_open(b->l, "127.0.0.1", 0, on_replay, b, &b->router, &e), 0);
        b->router_port = zmtp_router_port(b->router);
    }
    open_manager(b, with_replay, 0);
    assert_true(wait_for(b, has_peers, 1));
}

static void finish(struct bench *b)
{
    replica_free(b->rep);
    kv_manager_close(b->m);
    if (b->pub != NULL)
        zmtp_pub_close(b->pub);
    if (b->router != NULL)
        zmtp_router_close(b->router);
    for (size_t i = 0; i < COUNT(b->ring); i++)
        buf_fini(&b->ring[i]);
    loop_free(b->l);
}

/* ---- HTTP ---- */

struct answer {
    struct bench *b;
    int status;
    struct buf body;
    bool over;
};

static void answer_head(void *ctx, int status, const struct http_headers *h)
{
    (void)h;
    ((struct answer *)ctx)->status = status;
}

static void answer_body(void *ctx, struct str bytes)
{
    buf_str(&((struct answer *)ctx)->body, bytes);
}

static void answer_end(void *ctx, int rc, bool sent, bool got)
{
    (void)rc;
    (void)sent;
    (void)got;
    ((struct answer *)ctx)->over = true;
}

static struct answer *asking;

static bool is_answered(struct bench *b, uint64_t arg)
{
    (void)b;
    (void)arg;
    return asking->over;
}

static int ask(struct bench *b, const char *method, const char *path, const char *body,
               struct buf *out)
{
    static const struct http_call_ops ops = { answer_head, answer_body, answer_end };
    struct http_client *c = http_client_new(b->l);
    struct answer a = { .b = b };
    struct http_call_opts o = { .host = "127.0.0.1",
                                .port = kv_manager_port(b->m),
                                .method = str_of(method),
                                .path = str_of(path),
                                .body = str_of(body) };
    struct http_call *call;
    struct err e;

    buf_init(&a.body, 1 << 20);
    assert_int_equal(http_call_start(c, &o, &ops, &a, &call, &e), 0);
    asking = &a;
    assert_true(wait_for(b, is_answered, 0));
    http_client_free(c);
    *out = a.body;
    return a.status;
}

static double metric(struct bench *b, const char *name)
{
    struct buf body;
    double v = -1;
    char *at;

    assert_int_equal(ask(b, "GET", "/metrics", NULL, &body), 200);
    buf_c(&body, 0);
    for (at = strstr(body.p, name); at != NULL && at != body.p && at[-1] != '\n';
         at = strstr(at + 1, name))
        ;
    if (at != NULL)
        assert_int_equal(sscanf(at + strlen(name), " %lf", &v), 1);
    buf_fini(&body);
    return v;
}

/* ---- facts ---- */

static void events_reach_the_index_and_the_copy(void **state)
{
    struct bench b;
    struct err e;
    struct buf body;
    uint32_t id, matched[4];
    uint64_t key;

    (void)state;
    begin(&b, false);
    assert_int_equal(ask(&b, "GET", "/health", NULL, &body), 200);
    buf_fini(&body);
    for (uint32_t i = 0; i < 5; i++)
        send_block(&b, i, i);
    assert_true(wait_for(&b, has_blocks, 5));
    assert_int_equal(replica_new(b.l,
                                 &(struct replica_opts) { .host = "127.0.0.1",
                                                          .port = kv_manager_port(b.m),
                                                          .index = { .block_tokens = 16 } },
                                 &b.rep, &e),
                     0);
    assert_int_equal(kv_index_total(replica_index(b.rep)), 0);
    assert_true(wait_for(&b, copy_has, 5)); /* the snapshot */
    send_block(&b, 5, 5);
    assert_true(wait_for(&b, copy_has, 6)); /* a change */
    /* The address is the flag's, whatever the topic claims; the model is the topic's. */
    assert_true(kv_index_find(replica_index(b.rep), STR(ADDRESS), &id));
    assert_false(kv_index_find(replica_index(b.rep), STR("10.9.8.7:80"), &id));
    key = key_of(replica_index(b.rep), 5);
    kv_index_match(replica_index(b.rep), &key, 1, matched, 1);
    assert_int_equal(matched[0], 1);
    assert_int_equal(ask(&b, "POST", "/v1/lookup",
                         "{\"model\":\"m\",\"token_ids\":[3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,9]}",
                         &body),
                     200);
    assert_true(str_eqz(buf_view(&body),
                        "{\"endpoints\":[{\"address\":\"" ADDRESS "\",\"matched_blocks\":1}],"
                        "\"block_tokens\":16,\"blocks\":1}"));
    buf_fini(&body);
    assert_int_equal(ask(&b, "POST", "/v1/lookup",
                         "{\"model\":\"x\",\"token_ids\":[3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
                         &body),
                     200);
    assert_true(str_starts(buf_view(&body), STR("{\"endpoints\":[],")));
    buf_fini(&body);
    assert_int_equal(ask(&b, "GET", "/v1/index", NULL, &body), 200);
    assert_true(str_find(buf_view(&body), STR("\"name\":\"w0\",\"address\":\"" ADDRESS
                                              "\",\"model\":\"m\",\"blocks\":6,"
                                              "\"up\":true,\"last_seq\":5,")) != SIZE_MAX);
    buf_fini(&body);
    assert_int_equal(ask(&b, "GET", "/health/ready", NULL, &body), 200);
    buf_fini(&body);
    assert_true(metric(&b, "llmd_kv_index_blocks") == 6);
    assert_true(metric(&b,
                       "llm_d_epp_kv_cache_events_messages_received_total{pod_identifier=\"" ADDRESS
                       "\"}") == 6);
    assert_true(metric(&b, "llm_d_epp_kv_cache_index_lookup_requests_total") == 2);
    assert_true(metric(&b, "llmd_kv_index_streams") == 1);
    finish(&b);
}

static void wrong_requests_get_honest_answers(void **state)
{
    static const struct {
        const char *method, *path, *body;
        int status;
    } cases[] = {
        { "GET", "/nothing", NULL, 404 },
        { "POST", "/metrics", "", 405 },
        { "GET", "/v1/lookup", NULL, 405 },
        { "POST", "/v1/lookup", "{", 400 },
        { "POST", "/v1/lookup", "[]", 400 },
        { "POST", "/v1/lookup", "{\"token_ids\":[1]}", 400 },
        { "POST", "/v1/lookup", "{\"model\":\"m\"}", 400 },
        { "POST", "/v1/lookup", "{\"model\":\"m\",\"token_ids\":[-1]}", 400 },
        { "POST", "/v1/lookup", "{\"model\":\"m\",\"token_ids\":[1.5]}", 400 },
        { "POST", "/v1/lookup", "{\"model\":\"m\",\"token_ids\":[4294967296]}", 400 },
        { "POST", "/v1/lookup", "{\"model\":\"m\",\"token_ids\":[],\"cache_salt\":5}", 400 },
        { "POST", "/v1/lookup", "{\"model\":\"m\",\"token_ids\":[],\"cache_salt\":null}", 200 },
    };
    struct bench b;
    struct buf body;

    (void)state;
    begin(&b, false);
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (ask(&b, cases[i].method, cases[i].path, cases[i].body, &body) != cases[i].status)
            fail_msg("%s %s %s", cases[i].method, cases[i].path, cases[i].body);
        buf_fini(&body);
    }
    finish(&b);
}

static void a_gap_without_replay_drops_what_was_known(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, false);
    send_block(&b, 7, 0); /* joined late: any first number will do */
    send_block(&b, 8, 1);
    assert_true(wait_for(&b, has_blocks, 2));
    send_block(&b, 8, 2); /* a duplicate number */
    send_block(&b, 10, 3);
    assert_true(wait_for(&b, has_blocks, 1));
    assert_true(metric(&b, "llmd_kv_events_gap_total") == 1);
    assert_true(metric(&b, "llmd_kv_events_duplicate_total") == 1);
    assert_true(metric(&b, "llmd_kv_resync_total{reason=\"gap\"}") == 1);
    finish(&b);
}

static void a_sequence_that_falls_is_a_restart(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, false);
    for (uint32_t i = 0; i < 4; i++)
        send_block(&b, i + 100, i);
    assert_true(wait_for(&b, has_blocks, 4));
    send_block(&b, 0, 9);
    assert_true(wait_for(&b, has_blocks, 1));
    assert_true(metric(&b, "llmd_kv_resync_total{reason=\"restart\"}") == 1);
    finish(&b);
}

static void a_batch_that_does_not_parse_is_a_gap(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, false);
    send_block(&b, 0, 0);
    send_block(&b, 1, 1);
    assert_true(wait_for(&b, has_blocks, 2));
    send_raw(&b, 2, STR("\x93\x01\xc1"));
    assert_true(wait_for(&b, has_blocks, 0));
    send_block(&b, 3, 3); /* and it goes on */
    assert_true(wait_for(&b, has_blocks, 1));
    assert_true(metric(&b, "llmd_kv_resync_total{reason=\"parse\"}") == 1);
    finish(&b);
}

static void a_lost_connection_drops_its_blocks_at_once(void **state)
{
    struct bench b;
    struct err e;

    (void)state;
    begin(&b, false);
    assert_int_equal(replica_new(b.l,
                                 &(struct replica_opts) { .host = "127.0.0.1",
                                                          .port = kv_manager_port(b.m),
                                                          .index = { .block_tokens = 16 } },
                                 &b.rep, &e),
                     0);
    send_block(&b, 0, 0);
    assert_true(wait_for(&b, copy_has, 1));
    zmtp_pub_close(b.pub);
    assert_true(wait_for(&b, has_blocks, 0));
    assert_true(wait_for(&b, copy_has, 0));
    open_pub(&b); /* the worker is back on its port */
    assert_true(wait_for(&b, has_peers, 1));
    send_block(&b, 0, 5);
    assert_true(wait_for(&b, copy_has, 1));
    assert_true(metric(&b, "llmd_kv_resync_total{reason=\"disconnect\"}") == 1);
    assert_true(
        metric(&b,
               "llm_d_epp_kv_cache_events_subscriber_reconnections_total{pod_identifier=\"" ADDRESS
               "\"}") == 1);
    finish(&b);
}

static void a_late_joiner_is_replayed_from_the_start(void **state)
{
    (void)state;
    for (int old_form = 0; old_form < 2; old_form++) {
        struct bench b;

        memset(&b, 0, sizeof(b));
        begin(&b, true);
        b.old_form = old_form == 1;
        kv_manager_close(b.m);
        for (uint32_t i = 0; i < 5; i++)
            publish(&b, i, true);
        open_manager(&b, true, 0);
        assert_true(wait_for(&b, has_blocks, 5));
        assert_true(wait_for(&b, has_peers, 1));
        publish(&b, 5, false);
        assert_true(wait_for(&b, has_blocks, 6));
        assert_true(metric(&b, "llmd_kv_events_gap_total") == 0);
        finish(&b);
    }
}

static void replay_closes_a_gap(void **state)
{
    struct bench b;
    struct buf body;

    (void)state;
    begin(&b, true);
    publish(&b, 0, false);
    publish(&b, 1, false);
    assert_true(wait_for(&b, has_blocks, 2));
    publish(&b, 2, true);
    publish(&b, 3, true);
    publish(&b, 4, false);
    publish(&b, 5, false); /* comes while the replay runs */
    assert_true(wait_for(&b, has_blocks, 6));
    assert_int_equal(b.asked, 2);
    assert_true(metric(&b, "llmd_kv_events_gap_total") == 1);
    assert_true(metric(&b, "llmd_kv_resync_total{reason=\"gap\"}") == 0);
    assert_int_equal(ask(&b, "GET", "/v1/index", NULL, &body), 200);
    assert_true(str_find(buf_view(&body), STR("\"partial\":false,\"replaying\":false")) !=
                SIZE_MAX);
    buf_fini(&body);
    finish(&b);
}

static void a_hole_the_worker_forgot_costs_the_source_its_blocks(void **state)
{
    struct bench b;
    struct buf body;

    (void)state;
    begin(&b, true);
    publish(&b, 0, false);
    publish(&b, 1, false);
    assert_true(wait_for(&b, has_blocks, 2));
    publish(&b, 2, true);
    publish(&b, 3, true);
    b.ring_first = 3; /* 2 is no more */
    publish(&b, 4, false);
    assert_true(wait_for(&b, has_blocks, 2)); /* 3 and 4 */
    assert_true(wait_for(&b, after_ms, 50));
    assert_true(has_blocks(&b, 2));
    assert_true(metric(&b, "llmd_kv_resync_total{reason=\"gap\"}") == 1);
    assert_int_equal(ask(&b, "GET", "/v1/index", NULL, &body), 200);
    assert_true(str_find(buf_view(&body), STR("\"partial\":true")) != SIZE_MAX);
    buf_fini(&body);
    publish(&b, 5, false);
    assert_true(wait_for(&b, has_blocks, 3));
    finish(&b);
}

static void a_replay_without_answer_ends_and_live_goes_on(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, true);
    publish(&b, 0, false);
    assert_true(wait_for(&b, has_blocks, 1));
    b.is_mute = true;
    publish(&b, 1, true);
    publish(&b, 2, false);
    assert_true(wait_for(&b, has_blocks, 0)); /* uncertain for 2 s: forgotten */
    assert_true(wait_for(&b, has_blocks, 1)); /* given up: what came live */
    assert_true(metric(&b, "llmd_kv_resync_total{reason=\"replay_failed\"}") == 1);
    publish(&b, 3, false);
    assert_true(wait_for(&b, has_blocks, 2));
    finish(&b);
}

static bool copy_is_down(struct bench *b, uint64_t arg)
{
    (void)arg;
    return !replica_up(b->rep);
}

static bool view_has(struct bench *b, uint64_t n)
{
    return kv_index_total(replica_index(b->rep)) == n;
}

static void a_copy_outlives_its_manager_for_a_while(void **state)
{
    struct bench b;
    struct err e;
    uint16_t port;
    uint32_t before, after;

    (void)state;
    begin(&b, true);
    port = kv_manager_port(b.m);
    assert_int_equal(replica_new(b.l,
                                 &(struct replica_opts) { .host = "127.0.0.1",
                                                          .port = port,
                                                          .keep_ms = 600,
                                                          .index = { .block_tokens = 16 } },
                                 &b.rep, &e),
                     0);
    for (uint32_t i = 0; i < 3; i++)
        publish(&b, i, false);
    assert_true(wait_for(&b, copy_has, 3));
    assert_true(kv_index_find(replica_index(b.rep), STR(ADDRESS), &before));
    kv_manager_close(b.m);
    assert_true(wait_for(&b, copy_is_down, 0));
    assert_true(view_has(&b, 3)); /* still serving */
    assert_true(wait_for(&b, view_has, 0));
    open_manager(&b, true, port); /* replays from the worker, then the copy follows again */
    assert_true(wait_for(&b, copy_has, 3));
    assert_int_equal(replica_snapshots(b.rep) >= 2, 1);
    assert_true(replica_age_ms(b.rep) < 3000);
    assert_true(kv_index_find(replica_index(b.rep), STR(ADDRESS), &after));
    assert_int_equal(before, after);
    finish(&b);
}

/* As pods do: the copy learns of it in the stream that it follows, and needs no new snapshot. */
static void a_source_that_comes_later_is_followed_in_the_same_stream(void **state)
{
    struct kv_source_opts s[2] = { { .name = STR("w0"), .address = STR(ADDRESS) },
                                   { .name = STR("w1"), .address = STR("10.0.0.2:8000") } };
    char events[64];
    struct bench b;
    struct err e;
    uint32_t id;

    (void)state;
    begin(&b, false);
    kv_manager_close(b.m);
    assert_true(wait_for(&b, has_peers, 0));
    b.model = "m"; /* the topic's: so the events themselves tell nothing new */
    open_manager(&b, false, 0);
    assert_true(wait_for(&b, has_peers, 1));
    snprintf(events, sizeof(events), "127.0.0.1:%u", b.pub_port);
    s[0].events = s[1].events = str_of(events);
    assert_int_equal(replica_new(b.l,
                                 &(struct replica_opts) { .host = "127.0.0.1",
                                                          .port = kv_manager_port(b.m),
                                                          .index = { .block_tokens = 16 } },
                                 &b.rep, &e),
                     0);
    send_block(&b, 0, 0);
    assert_true(wait_for(&b, copy_has, 1));
    assert_int_equal(kv_manager_set_sources(b.m, s, 2, &e), 0);
    assert_true(wait_for(&b, has_peers, 2));
    send_block(&b, 1, 1);
    assert_true(wait_for(&b, copy_has, 3));
    assert_true(kv_index_find(replica_index(b.rep), STR("10.0.0.2:8000"), &id));
    assert_int_equal(replica_snapshots(b.rep), 1);
    finish(&b);
}

static void a_manager_with_other_keys_is_not_followed(void **state)
{
    static const struct kv_index_opts others[] = { { .block_tokens = 32 },
                                                   { .block_tokens = 16, .seed = "42" },
                                                   { .block_tokens = 16,
                                                     .hash = INDEX_HASH_CBOR_FNV } };

    (void)state;
    for (size_t i = 0; i < COUNT(others); i++) {
        struct bench b;
        struct err e;

        begin(&b, false);
        send_block(&b, 0, 0);
        assert_true(wait_for(&b, has_blocks, 1));
        assert_int_equal(replica_new(b.l,
                                     &(struct replica_opts) { .host = "127.0.0.1",
                                                              .port = kv_manager_port(b.m),
                                                              .index = others[i] },
                                     &b.rep, &e),
                         0);
        assert_true(wait_for(&b, after_ms, 400));
        assert_false(replica_up(b.rep));
        assert_int_equal(kv_index_total(replica_index(b.rep)), 0);
        finish(&b);
    }
}

static void sources_are_named_as_the_help_says(void **state)
{
    static const struct {
        const char *text;
        int rc;
        const char *name, *address, *events, *replay;
    } cases[] = {
        { "w0=127.0.0.1:8000@127.0.0.1:5557", 0, "w0", "127.0.0.1:8000", "127.0.0.1:5557", NULL },
        { "w0=127.0.0.1:8000@127.0.0.1:5557@127.0.0.1:5558", 0, "w0", "127.0.0.1:8000",
          "127.0.0.1:5557", "127.0.0.1:5558" },
        { "w0=@127.0.0.1:5557", 0, "w0", NULL, "127.0.0.1:5557", NULL },
        { "a=[::1]:80@[::1]:81", 0, "a", "[::1]:80", "[::1]:81", NULL },
        { "", ERR_INVAL, 0, 0, 0, 0 },
        { "w0", ERR_INVAL, 0, 0, 0, 0 },
        { "=1.2.3.4:5@1.2.3.4:6", ERR_INVAL, 0, 0, 0, 0 },
        { "w0=1.2.3.4:5", ERR_INVAL, 0, 0, 0, 0 },
        { "w0=1.2.3.4:5@", ERR_INVAL, 0, 0, 0, 0 },
        { "w0=1.2.3.4@1.2.3.4:6", ERR_INVAL, 0, 0, 0, 0 },
        { "w0=1.2.3.4:5@1.2.3.4:0", ERR_INVAL, 0, 0, 0, 0 },
        { "w0=1.2.3.4:5@1.2.3.4:6@1.2.3.4:7@1.2.3.4:8", ERR_INVAL, 0, 0, 0, 0 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct kv_source_opts s;
        struct err e;

        if (kv_source_parse(str_of(cases[i].text), &s, &e) != cases[i].rc)
            fail_msg("%s", cases[i].text);
        if (cases[i].rc != 0)
            continue;
        assert_true(str_eqz(s.name, cases[i].name) && str_eqz(s.events, cases[i].events));
        assert_true(cases[i].address != NULL ? str_eqz(s.address, cases[i].address)
                                             : s.address.p == NULL);
        assert_true(cases[i].replay != NULL ? str_eqz(s.replay, cases[i].replay)
                                            : s.replay.p == NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_reach_the_index_and_the_copy),
        cmocka_unit_test(wrong_requests_get_honest_answers),
        cmocka_unit_test(a_gap_without_replay_drops_what_was_known),
        cmocka_unit_test(a_sequence_that_falls_is_a_restart),
        cmocka_unit_test(a_batch_that_does_not_parse_is_a_gap),
        cmocka_unit_test(a_lost_connection_drops_its_blocks_at_once),
        cmocka_unit_test(a_late_joiner_is_replayed_from_the_start),
        cmocka_unit_test(replay_closes_a_gap),
        cmocka_unit_test(a_hole_the_worker_forgot_costs_the_source_its_blocks),
        cmocka_unit_test(a_replay_without_answer_ends_and_live_goes_on),
        cmocka_unit_test(a_copy_outlives_its_manager_for_a_while),
        cmocka_unit_test(a_source_that_comes_later_is_followed_in_the_same_stream),
        cmocka_unit_test(a_manager_with_other_keys_is_not_followed),
        cmocka_unit_test(sources_are_named_as_the_help_says),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
