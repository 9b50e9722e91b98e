/* A producer and a consumer with an engine each, over a real socket on one loop: what arrives, and
 * that every way out, also the rude ones, gives the producer its blocks back at once and not by
 * the lease. */
// SPDX-License-Identifier: Apache-2.0
#include "../engine/harness.h"
#include "net/conn.h"
#include "transfer/kvx_frame.h"
#include "transfer/transfer.h"

#define PROMPT 200
#define BLOCKS 12 /* full ones of 16 before the last token */
#define EPOCH  77

struct world {
    struct tiny tiny;
    struct engine *producer, *consumer;
    struct loop *loop;
    struct kvx_server *server;
    struct kvx_client *client;
    struct kvx_id id;
    uint32_t prompt[PROMPT];
    struct heard made, taken;
    uint64_t made_id;
    bool finished;
    struct kvx_result result;
    bool pulled;
    /* a consumer by hand */
    struct conn *raw;
    struct kvx_reader reader;
    uint32_t frames[KVX_CANCEL_ACK + 1];
    bool raw_closed;
};
static struct world w;

/* ---- the loop, by turns ---- */

static bool (*awaited)(void);
static uint64_t until_ms;
static bool came;

static void look(void *ctx)
{
    (void)ctx;
    came = awaited();
    if (came || clock_ms() > until_ms)
        loop_stop(w.loop);
}

static bool within(bool (*what)(void), uint32_t ms)
{
    struct loop_timer *t = loop_timer_new(w.loop, look, NULL);

    awaited = what;
    until_ms = clock_ms() + ms;
    loop_timer_arm(t, 0, 2);
    loop_run(w.loop);
    loop_timer_free(t);
    return came;
}

static bool producer_is_free(void)
{
    struct engine_stats s;

    engine_stats(w.producer, &s);
    return s.blocks_in_use == 0 && s.blocks_leased == 0 && s.running == 0;
}

static bool producer_leases(void)
{
    struct engine_stats s;

    engine_stats(w.producer, &s);
    return s.blocks_leased != 0 && w.finished;
}

static bool is_pulled(void)
{
    return w.pulled;
}

static bool no_transfer(void)
{
    return kvx_server_transfers(w.server) == 0;
}

/* ---- the producer's request, as a worker runs it ---- */

static void progressed(void *ctx)
{
    (void)ctx;
    kvx_server_progress(w.server, w.id, atomic_load(&w.made.prefill_blocks));
}

static void ended(void *ctx)
{
    (void)ctx;
    w.finished = true;
    kvx_server_finish(w.server, w.id, w.made.r.reason == ENGINE_LENGTH ? 0 : ERR_CANCELLED);
}

static void made_prefill(void *ctx, uint64_t id, uint32_t blocks)
{
    on_prefill(ctx, id, blocks);
    loop_post(w.loop, progressed, NULL);
}

static void made_done(void *ctx, uint64_t id, const struct engine_result *r)
{
    on_done(ctx, id, r);
    loop_post(w.loop, ended, NULL);
}

static void produce(void)
{
    struct engine_request r = request(&w.made, w.prompt, PROMPT, 1);

    r.hold_kv = true;
    r.on_prefill = made_prefill;
    r.on_done = made_done;
    w.finished = false;
    start(w.producer, &r);
    kvx_server_offer(w.server, w.id, w.made.id, BLOCKS);
}

/* ---- the consumer's ---- */

static void on_pulled(void *ctx, const struct kvx_result *r)
{
    (void)ctx;
    w.result = *r;
    w.pulled = true;
}

static struct kvx_pull *pull(uint64_t epoch)
{
    struct engine_request r = request(&w.taken, w.prompt, PROMPT, 4);
    struct kvx_pull *p;
    struct err e = { 0 };

    r.await_import = true;
    r.import_wait_ms = 20000;
    w.pulled = false;
    start(w.consumer, &r);
    if (kvx_pull_start(w.client, "127.0.0.1", kvx_server_port(w.server), w.id, epoch, w.taken.id, 0,
                       BLOCKS, 15000, on_pulled, NULL, &p, &e) != 0)
        fail_msg("%s", e.msg);
    return p;
}

/* ---- a consumer by hand ---- */

static int raw_frame(void *ctx, const struct kvx_frame *f)
{
    (void)ctx;
    if (f->type < COUNT(w.frames))
        w.frames[f->type]++;
    return 0;
}

static void raw_data(void *ctx, struct conn *c, struct str bytes)
{
    (void)ctx;
    (void)c;
    assert_int_equal(kvx_reader_feed(&w.reader, bytes, raw_frame, NULL), 0);
}

static void raw_close(void *ctx, struct conn *c, int rc)
{
    (void)ctx;
    (void)c;
    (void)rc;
    w.raw_closed = true;
}

static bool raw_is_closed(void)
{
    return w.raw_closed;
}

static void raw_shut(void)
{
    if (!w.raw_closed) /* the producer may have been first */
        conn_close(w.raw);
}

static bool hello_came(void)
{
    return w.frames[KVX_HELLO] != 0;
}

static bool data_came(void)
{
    return w.frames[KVX_DATA] != 0;
}

static void raw_send(enum kvx_type type, struct kvx_header h)
{
    struct buf b;

    h.has |= 1u << KVX_F_TRANSFER | 1u << KVX_F_ATTEMPT;
    memcpy(h.transfer, w.id.b, sizeof(h.transfer));
    buf_init(&b, 4096);
    kvx_frame_put(&b, type, &h, 0);
    assert_int_equal(conn_write(w.raw, buf_view(&b)), 0);
    buf_fini(&b);
}

static void raw_open(void)
{
    static const struct conn_ops ops = { .on_data = raw_data, .on_close = raw_close };
    struct kvx_header hello = { .has =
                                    1u << KVX_F_PROTO | 1u << KVX_F_EPOCH | 1u << KVX_F_FINGERPRINT,
                                .proto = KVX_PROTO,
                                .epoch = 5 };
    struct conn_opts o = { 0 };
    struct err e = { 0 };

    w.raw_closed = false;
    memset(w.frames, 0, sizeof(w.frames));
    kvx_reader_init(&w.reader, engine_kv_block_bytes(w.producer));
    engine_fingerprint(w.producer, hello.fingerprint);
    if (conn_open(w.loop, "127.0.0.1", kvx_server_port(w.server), &o, &ops, NULL, &w.raw, &e) != 0)
        fail_msg("%s", e.msg);
    raw_send(KVX_HELLO, hello);
    assert_true(within(hello_came, 2000));
}

static void raw_push_open(void)
{
    raw_send(KVX_PUSH_OPEN,
             (struct kvx_header) { .has = 1u << KVX_F_FIRST | 1u << KVX_F_COUNT | 1u << KVX_F_EPOCH,
                                   .first = 0,
                                   .count = BLOCKS,
                                   .epoch = EPOCH });
}

/* ---- tests ---- */

static void new_prompt(void)
{
    static uint64_t seed = 1;

    prompt_make(w.tiny.m, w.prompt, PROMPT, seed++);
    rng_secure(w.id.b, sizeof(w.id.b));
}

static void blocks_arrive_and_the_text_is_the_same(void **state)
{
    struct heard alone;
    struct engine_request r;

    (void)state;
    for (int early = 0; early < 2; early++) { /* registered before the offer, and after its end */
        new_prompt();
        if (early == 0) {
            produce();
            assert_true(within(producer_leases, 10000));
        }
        (void)pull(EPOCH);
        if (early == 1)
            produce();
        assert_true(within(is_pulled, 10000));
        assert_string_equal(w.result.reason, "ok");
        assert_int_equal(w.result.blocks, BLOCKS);
        assert_true(within(producer_is_free, 1000));
        assert_true(within(no_transfer, 1000));
        wait_done(&w.taken);
        assert_int_equal(w.taken.r.imported_tokens, BLOCKS * 16);
        assert_true(all_free(w.consumer));
        r = request(&alone, w.prompt, PROMPT, 4);
        start(w.producer, &r);
        wait_done(&alone);
        same(&alone, &w.taken);
        assert_true(all_free(w.producer));
    }
}

static void a_cancelled_pull_frees_the_producer(void **state)
{
    (void)state;
    new_prompt();
    produce();
    assert_true(within(producer_leases, 10000));
    engine_cancel(w.consumer, (kvx_pull_cancel(pull(EPOCH)), w.taken.id)); /* not even connected */
    raw_open();                                      /* as a slow HELLO would: */
    raw_send(KVX_CANCEL, (struct kvx_header) { 0 }); /* it never registered */
    assert_true(within(producer_is_free, 1000));
    assert_true(within(no_transfer, 100));
    raw_shut();
    assert_true(within(raw_is_closed, 1000));
    kvx_reader_fini(&w.reader);
    wait_done(&w.taken);
    assert_true(all_free(w.consumer));
}

static void a_broken_connection_frees_the_producer(void **state)
{
    (void)state;
    for (int after = 0; after < 2; after++) { /* while it computes; while it is leased */
        new_prompt();
        produce();
        if (after == 1)
            assert_true(within(producer_leases, 10000));
        raw_open();
        raw_push_open();
        assert_true(within(data_came, 10000));
        raw_shut();
        assert_true(within(raw_is_closed, 1000));
        assert_true(within(producer_is_free, 1000));
        assert_true(within(no_transfer, 100));
        kvx_reader_fini(&w.reader);
    }
}

static void another_life_of_the_producer_is_refused(void **state)
{
    (void)state;
    new_prompt();
    produce();
    (void)pull(EPOCH + 1);
    assert_true(within(is_pulled, 10000));
    assert_string_equal(w.result.reason, "epoch");
    wait_done(&w.taken); /* computed here */
    assert_int_equal(w.taken.r.reason, ENGINE_LENGTH);
    assert_int_equal(w.taken.r.imported_tokens, 0);
    engine_cancel(w.producer, w.made.id);
    assert_true(within(producer_is_free, 2000));
}

/* A request that failed leaves no offer behind for the lease's time. */
static void a_failed_prefill_tells_its_consumer(void **state)
{
    (void)state;
    new_prompt();
    /* An offer whose prefill never runs: a real one could be done before it is cancelled. */
    kvx_server_offer(w.server, w.id, UINT64_MAX, BLOCKS);
    kvx_server_finish(w.server, w.id, ERR_CANCELLED);
    (void)pull(EPOCH);
    assert_true(within(is_pulled, 10000));
    assert_int_not_equal(w.result.rc, 0);
    wait_done(&w.taken);
    assert_int_equal(w.taken.r.reason, ENGINE_LENGTH);
    assert_true(within(producer_is_free, 2000));
    new_prompt();
    kvx_server_offer(w.server, w.id, UINT64_MAX, BLOCKS);
    kvx_server_finish(w.server, w.id, ERR_CANCELLED);
    assert_true(within(no_transfer, KVX_SETUP_MS + 2 * KVX_PING_MS + 500));
}

static int setup(void **state)
{
    struct engine_opts o = opts();
    struct err e = { 0 };

    (void)state;
    if (kern_init(NULL, &e) != 0)
        return -1;
    tiny_open(&w.tiny, "llama");
    w.producer = engine_make(w.tiny.m, &o, NULL, NULL);
    w.consumer = engine_make(w.tiny.m, &o, NULL, NULL);
    return loop_new(&w.loop, &e) != 0 ||
           kvx_server_open(w.loop, w.producer, "127.0.0.1", 0, EPOCH, NULL, &w.server, &e) != 0 ||
           (w.client = kvx_client_new(w.loop, w.consumer, 5, NULL)) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    kvx_server_close(w.server);
    kvx_client_free(w.client);
    engine_close(w.producer);
    engine_close(w.consumer);
    loop_free(w.loop);
    tiny_close(&w.tiny);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_arrive_and_the_text_is_the_same),
        cmocka_unit_test(a_cancelled_pull_frees_the_producer),
        cmocka_unit_test(a_broken_connection_frees_the_producer),
        cmocka_unit_test(another_life_of_the_producer_is_refused),
        cmocka_unit_test(a_failed_prefill_tells_its_consumer),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
