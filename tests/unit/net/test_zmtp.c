/* ZMTP: the bytes of the wire, the ceilings, and our sockets among themselves.  (Against libzmq:
 * tests/interop/zmtp_libzmq.py.) */
// SPDX-License-Identifier: Apache-2.0
#include "net_test.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include "net/zmtp_priv.h"

/* Bytes of a hexadecimal text; spaces and bars are for the reader. */
static struct str hex(struct buf *b, const char *text)
{
    buf_reset(b);
    for (unsigned have = 0, v = 0; *text != 0; text++) {
        unsigned d = *text >= '0' && *text <= '9'   ? (unsigned)(*text - '0')
                     : *text >= 'a' && *text <= 'f' ? (unsigned)(*text - 'a') + 10
                                                    : 16;

        if (d == 16)
            continue;
        v = v * 16 + d;
        if (++have == 2) {
            buf_c(b, (char)v);
            have = v = 0;
        }
    }
    return buf_view(b);
}

#define GREETING                                                                                   \
    "ff 00000000 00000000 7f 03 00 4e554c4c 00000000 00000000 00000000 00000000 00"                \
    "00000000 00000000 00000000 00000000 00000000 00000000 00000000 000000"
/* libzmq's own, which says minor version 1 */
#define GREETING_31                                                                                \
    "ff 00000000 00000001 7f 03 01 4e554c4c 00000000 00000000 00000000 00000000 00"                \
    "00000000 00000000 00000000 00000000 00000000 00000000 00000000 000000"
#define READY_SUB "04190552454144590b536f636b65742d5479706500000003535542"
#define READY_PUB "04190552454144590b536f636b65742d5479706500000003505542"

/* The vectors of the project's kv-cache page, 3.1 and 3.6. */
static void what_we_write_are_the_published_bytes(void **state)
{
    struct buf want, got;
    struct zmtp_msg m;

    (void)state;
    buf_init(&want, 4096);
    buf_init(&got, 4096);
#define SAME(text)                                                                                 \
    do {                                                                                           \
        (void)hex(&want, text);                                                                    \
        assert_int_equal(got.len, want.len);                                                       \
        assert_memory_equal(got.p, want.p, want.len);                                              \
        buf_reset(&got);                                                                           \
    } while (0)
    buf_add(&got, zmtp_greeting, sizeof(zmtp_greeting));
    SAME(GREETING);
    assert_true(zmtp_put_ready(&got, "SUB"));
    SAME(READY_SUB);
    assert_true(zmtp_put_ready(&got, "DEALER"));
    SAME("0429 05 5245414459 0b 536f636b65742d54797065 00000006 4445414c4552 08 4964656e74697479 "
         "00000000");
    m = (struct zmtp_msg) { .frame = { STR("\x01kv@") }, .count = 1 };
    assert_true(zmtp_put(&got, &m));
    SAME("00 04 01 6b7640");
    m = (struct zmtp_msg) {
        .frame = { STR("kv@10.0.0.7:8000@m"), STR("\0\0\0\0\0\0\0\7"), STR("\x93") }, .count = 3
    };
    assert_true(zmtp_put(&got, &m));
    SAME("01 12 6b764031302e302e302e373a38303030406d 01 08 0000000000000007 00 01 93");
    m = (struct zmtp_msg) { .frame = { STR(""), STR("\0\0\0\0\0\0\0\3") }, .count = 2 };
    assert_true(zmtp_put(&got, &m));
    SAME("0100 0008 0000000000000003");
    m = (struct zmtp_msg) {
        .frame = { STR(""), STR("kv@a@m"), STR("\0\0\0\0\0\0\0\3"), STR("\x93") }, .count = 4
    };
    assert_true(zmtp_put(&got, &m));
    m = (struct zmtp_msg) {
        .frame = { STR(""), STR(""), STR("\xff\xff\xff\xff\xff\xff\xff\xff"), STR("") }, .count = 4
    };
    assert_true(zmtp_put(&got, &m));
    SAME("0100 0106 6b764061406d 0108 0000000000000003 0001 93 | 0100 0100 0108 ffffffffffffffff "
         "0000");
    for (size_t n = 255; n <= 256; n++) { /* where the long form begins */
        char *p = mem_zalloc(n);

        m = (struct zmtp_msg) { .frame = { { p, n } }, .count = 1 };
        assert_true(zmtp_put(&got, &m));
        assert_int_equal(got.len, n == 255 ? n + 2 : n + 9);
        assert_memory_equal(got.p, n == 255 ? "\0\xff" : "\2\0\0\0\0\0\0\1\0", n == 255 ? 2 : 9);
        buf_reset(&got);
        mem_free(p);
    }
    buf_fini(&want);
    buf_fini(&got);
}

/* What a stream of bytes says, as text: G, C(name|data), M(frame|frame), B. */
static void tell(struct buf *out, struct str bytes, size_t first, size_t step, size_t bytes_max)
{
    enum zmtp_event ev = ZMTP_MORE;
    struct zmtp_reader r;
    struct zmtp_msg m;

    buf_reset(out);
    zmtp_reader_init(&r, bytes_max);
    for (size_t at = 0; at < bytes.n && ev != ZMTP_BAD;) {
        size_t n = MIN(at == 0 ? first : step, bytes.n - at);
        char *copy = mem_dup(bytes.p + at, n);
        struct str in = { copy, n };

        at += n;
        while ((ev = zmtp_next(&r, &in, &m)) != ZMTP_MORE && ev != ZMTP_BAD) {
            buf_c(out, ev == ZMTP_GREETED ? 'G' : ev == ZMTP_COMMAND ? 'C' : 'M');
            for (size_t i = 0; i < m.count; i++) {
                buf_c(out, i == 0 ? '(' : '|');
                buf_str(out, m.frame[i]);
            }
            if (m.count != 0)
                buf_c(out, ')');
        }
        assert_true(r.bytes.len <= bytes_max);
        mem_free(copy);
    }
    if (ev == ZMTP_BAD)
        buf_c(out, 'B');
    zmtp_reader_fini(&r);
}

static void reading_gives_the_same_at_every_cut(void **state)
{
    static const struct {
        const char *bytes, *want;
    } cases[] = {
        { GREETING, "G" },
        { GREETING_31 READY_PUB "00 01 61", "GC(READY|\x0bSocket-Type" /* the rest holds NULs */ },
        { GREETING "01 01 61 01 00 00 02 6263", "GM(a||bc)" },
        { GREETING "00 00", "GM()" },
        { GREETING "02 0000000000000002 6869 00 01 61", "GM(hi)M(a)" },
        { GREETING "04 05 04 50494e47", "GC(PING|)" },
        { GREETING "06 0000000000000007 04 50494e47 0001", "GC(PING|" },
        /* refused */
        { "47", "B" },      /* "GET / HTTP/1.1" */
        { "16 0301", "B" }, /* TLS */
        { "ff 00000000 00000000 7e", "B" },
        { "ff 00000000 00000000 7f 02", "B" },               /* ZMTP 2 */
        { "ff 00000000 00000000 7f 03 00 504c41494e", "B" }, /* PLAIN */
        { "ff 00000000 00000000 7f 03 00 4e554c4c58", "B" },
        { GREETING "08 00", "GB" },               /* reserved flag */
        { GREETING "05 02 0141", "GB" },          /* a command with more */
        { GREETING "01 01 61 04 02 0141", "GB" }, /* a command inside a message */
        { GREETING "04 00", "GB" },               /* no name */
        { GREETING "04 01 00", "GB" },
        { GREETING "04 02 0541", "GB" },          /* name longer than the frame */
        { GREETING "02 0000000000000041", "GB" }, /* 65 of 64 bytes */
        { GREETING "02 ffffffffffffffff", "GB" },
        { GREETING "01 20 00000000000000000000000000000000 00000000000000000000000000000000 00 21",
          "GB" }, /* 32 + 33 */
        { GREETING
          "0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 00",
          "GB" }, /* 17 frames, all empty */
    };
    struct buf in, whole, cut;

    (void)state;
    buf_init(&in, 4096);
    buf_init(&whole, 4096);
    buf_init(&cut, 4096);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct str bytes = hex(&in, cases[i].bytes), want = str_of(cases[i].want);

        tell(&whole, bytes, bytes.n, bytes.n, 64);
        if (!(str_ends(want, STR(")")) || str_chr(want, '(') == SIZE_MAX
                  ? str_eq(buf_view(&whole), want)
                  : str_starts(buf_view(&whole), want)))
            fail_msg("case %zu: %.*s", i, STR_ARG(buf_view(&whole)));
        for (size_t at = 1; at <= bytes.n; at++) {
            tell(&cut, bytes, at, at % 2 ? bytes.n : 1, 64);
            assert_true(str_eq(buf_view(&cut), buf_view(&whole)));
        }
    }
    buf_fini(&in);
    buf_fini(&whole);
    buf_fini(&cut);
}

static void properties_are_found_or_refused(void **state)
{
    struct str data = STR("\x0bSocket-Type\0\0\0\3PUB\x08Identity\0\0\0\0");

    (void)state;
    assert_true(str_eqz(zmtp_property(data, "socket-type"), "PUB"));
    assert_non_null(zmtp_property(data, "Identity").p);
    assert_null(zmtp_property(data, "Resource").p);
    for (size_t n = 0; n < data.n; n++) /* cut anywhere: no read past the end */ {
        char *copy = mem_dup(data.p, n);

        (void)zmtp_property((struct str) { copy, n }, "none");
        mem_free(copy);
    }
    assert_null(zmtp_property(STR("\x01"
                                  "A\xff\xff\xff\xff"),
                              "A")
                    .p);
}

/* ---- sockets ---- */

struct inbox {
    int ups, downs;
    size_t count;
    struct buf all; /* frames joined by '|', messages ended by ';' */
    char peer[64];
};

static void in_up(void *ctx)
{
    ((struct inbox *)ctx)->ups++;
}

static void in_down(void *ctx)
{
    ((struct inbox *)ctx)->downs++;
}

static void in_msg(void *ctx, const struct zmtp_msg *m)
{
    struct inbox *i = ctx;

    i->count++;
    for (size_t f = 0; f < m->count; f++) {
        if (f != 0)
            buf_c(&i->all, '|');
        buf_str(&i->all, m->frame[f]);
    }
    buf_c(&i->all, ';');
}

static void in_bound(void *ctx, const char *peer, const struct zmtp_msg *m)
{
    struct inbox *i = ctx;

    snprintf(i->peer, sizeof(i->peer), "%s", peer);
    in_msg(ctx, m);
}

static const struct zmtp_client_ops in_ops = { in_up, in_down, in_msg };

static bool inbox_is(const struct inbox *i, const char *text)
{
    return str_eqz(buf_view(&i->all), text);
}

static void send3(struct zmtp_pub *p, const char *topic, const char *seq, const char *payload)
{
    struct zmtp_msg m = { .frame = { str_of(topic), str_of(seq), str_of(payload) }, .count = 3 };

    zmtp_pub_send(p, &m);
}

/* A subscription arrives some time after on_up: sends probes until one comes through. */
static void settle(struct zmtp_pub *p, struct inbox *i, const char *topic)
{
    for (int n = 0; n < 2000 && i->count == 0; n++) {
        send3(p, topic, "probe", "");
        run_ms(1);
    }
    run_ms(5);
    i->count = 0;
    buf_reset(&i->all);
}

static void subscribers_get_what_their_prefix_matches(void **state)
{
    struct inbox a = { 0 }, b = { 0 };
    struct zmtp_client *ca, *cb;
    struct zmtp_pub *p;
    struct err e;

    (void)state;
    buf_init(&a.all, 1 << 16);
    buf_init(&b.all, 1 << 16);
    assert_int_equal(zmtp_pub_open(loop, "127.0.0.1", 0, 0, &p, &e), 0);
    assert_int_equal(zmtp_client_open(loop, ZMTP_SUB, "127.0.0.1", zmtp_pub_port(p), STR("kv@"),
                                      &in_ops, &a, &ca, &e),
                     0);
    assert_int_equal(zmtp_client_open(loop, ZMTP_SUB, "127.0.0.1", zmtp_pub_port(p), STR(""),
                                      &in_ops, &b, &cb, &e),
                     0);
    WAIT(a.ups == 1 && b.ups == 1 && zmtp_pub_peers(p) == 2);
    settle(p, &a, "kv@");
    settle(p, &b, "kv@");
    buf_reset(&a.all);
    send3(p, "kv@x", "1", "one");
    send3(p, "other", "2", "two");
    send3(p, "kv", "3", "");
    WAIT(inbox_is(&b, "kv@x|1|one;other|2|two;kv|3|;"));
    assert_true(inbox_is(&a, "kv@x|1|one;"));
    zmtp_client_close(ca);
    WAIT(zmtp_pub_peers(p) == 1);
    assert_int_equal(a.downs, 0); /* closed by ourselves */
    zmtp_pub_close(p);
    WAIT(b.downs == 1);
    zmtp_client_close(cb);
    buf_fini(&a.all);
    buf_fini(&b.all);
}

static void a_lost_publisher_is_found_again(void **state)
{
    struct inbox a = { 0 };
    struct zmtp_client *c;
    struct zmtp_pub *p;
    uint16_t port;
    struct err e;

    (void)state;
    buf_init(&a.all, 1 << 16);
    assert_int_equal(zmtp_pub_open(loop, "127.0.0.1", 0, 0, &p, &e), 0);
    port = zmtp_pub_port(p);
    assert_int_equal(
        zmtp_client_open(loop, ZMTP_SUB, "127.0.0.1", port, STR(""), &in_ops, &a, &c, &e), 0);
    WAIT(a.ups == 1);
    zmtp_pub_close(p);
    WAIT(a.downs == 1);
    run_ms(200); /* some attempts in vain */
    assert_int_equal(zmtp_pub_open(loop, "127.0.0.1", port, 0, &p, &e), 0);
    WAIT(a.ups == 2);
    settle(p, &a, "t");
    send3(p, "t", "9", "back");
    WAIT(inbox_is(&a, "t|9|back;"));
    zmtp_client_close(c);
    zmtp_pub_close(p);
    buf_fini(&a.all);
}

static void a_publisher_may_connect_to_a_subscriber_that_binds(void **state)
{
    struct inbox a = { 0 };
    struct zmtp_sub *s;
    struct zmtp_pub *p;
    struct err e;

    (void)state;
    buf_init(&a.all, 1 << 16);
    assert_int_equal(zmtp_sub_bind(loop, "127.0.0.1", 0, STR("kv@"), in_bound, &a, &s, &e), 0);
    assert_int_equal(zmtp_pub_open(loop, "127.0.0.1", 0, 0, &p, &e), 0);
    assert_int_equal(zmtp_pub_connect(p, "127.0.0.1", zmtp_sub_port(s), &e), 0);
    WAIT(zmtp_pub_peers(p) == 1);
    settle(p, &a, "kv@");
    send3(p, "kv@a", "1", "x");
    send3(p, "no", "2", "y");
    send3(p, "kv@b", "3", "z");
    WAIT(inbox_is(&a, "kv@a|1|x;kv@b|3|z;"));
    assert_true(strncmp(a.peer, "127.0.0.1:", 10) == 0);
    zmtp_sub_close(s);
    WAIT(zmtp_pub_peers(p) == 0);
    zmtp_pub_close(p);
    buf_fini(&a.all);
}

static void a_slow_subscriber_loses_whole_messages_and_nobody_else_does(void **state)
{
    enum { PIECE = 256 << 10, N = 200 };
    struct inbox fast = { 0 };
    struct zmtp_client *c;
    struct zmtp_pub *p;
    struct raw slow;
    struct buf in, told;
    char *piece = mem_alloc(PIECE + 1);
    struct err e;

    (void)state;
    memset(piece, 'x', PIECE);
    piece[PIECE] = 0;
    buf_init(&in, 4096);
    buf_init(&fast.all, (size_t)128 << 20);
    assert_int_equal(zmtp_pub_open(loop, "127.0.0.1", 0, 1 << 20, &p, &e), 0);
    raw_start(&slow, zmtp_pub_port(p));
    assert_int_equal(conn_write(slow.c, hex(&in, GREETING READY_SUB "00 01 01")), 0);
    assert_int_equal(zmtp_client_open(loop, ZMTP_SUB, "127.0.0.1", zmtp_pub_port(p), STR(""),
                                      &in_ops, &fast, &c, &e),
                     0);
    WAIT(zmtp_pub_peers(p) == 2 && fast.ups == 1);
    settle(p, &fast, "t");
    WAIT(raw_has(&slow, "READY"));
    conn_pause(slow.c);
    for (size_t i = 0; i < N; i++) {
        send3(p, "t", "s", piece);
        WAIT(fast.count == i + 1); /* which keeps up */
    }
    assert_true(zmtp_pub_lost(p) > 0 && zmtp_pub_lost(p) < N);
    conn_resume(slow.c);
    run_ms(100);
    send3(p, "t", "s", "last");
    WAIT(raw_has(&slow, "last"));
    buf_init(&told, (size_t)128 << 20);
    tell(&told, buf_view(&slow.in), slow.in.len, slow.in.len, ZMTP_MSG_BYTES_MAX);
    assert_true(str_starts(buf_view(&told), STR("GC(READY|")) && /* framing held throughout */
                str_ends(buf_view(&told), STR("M(t|s|last)")));
    size_t whole = (N - (size_t)zmtp_pub_lost(p));
    assert_true(told.len > whole * PIECE && told.len < (whole + 1) * PIECE);
    buf_fini(&told);
    raw_end(&slow);
    zmtp_client_close(c);
    zmtp_pub_close(p);
    buf_fini(&in);
    buf_fini(&fast.all);
    mem_free(piece);
}

static struct zmtp_peer *asked;
static int asks, peer_gone, peer_drains;

static void peer_left(void *ctx)
{
    (void)ctx;
    peer_gone++;
    asked = NULL;
}

static void peer_room(void *ctx)
{
    (void)ctx;
    peer_drains++;
}

static void on_request(void *ctx, struct zmtp_peer *peer, const struct zmtp_msg *m)
{
    struct zmtp_msg end = {
        .frame = { STR(""), STR(""), STR("\xff\xff\xff\xff\xff\xff\xff\xff"), STR("") }, .count = 4
    };

    (void)ctx;
    asks++;
    assert_int_equal(m->count, 2);
    assert_int_equal(m->frame[0].n, 0);
    assert_true(str_eq(m->frame[1], STR("\0\0\0\0\0\0\0\3")));
    assert_int_equal(zmtp_router_send(peer, &end), 0);
    zmtp_peer_watch(peer, peer_room, peer_left, NULL);
    asked = peer;
}

static void replay_requests_are_answered(void **state)
{
    struct zmtp_msg ask = { .frame = { STR(""), STR("\0\0\0\0\0\0\0\3") }, .count = 2 };
    struct inbox a = { 0 };
    struct zmtp_client *c;
    struct zmtp_router *r;
    struct err e;
    int rc = 0;
    size_t sent = 0;
    char *big = mem_zalloc(1 << 20);

    (void)state;
    asks = peer_gone = peer_drains = 0;
    buf_init(&a.all, (size_t)256 << 20);
    assert_int_equal(zmtp_router_open(loop, "127.0.0.1", 0, on_request, NULL, &r, &e), 0);
    assert_int_equal(zmtp_client_open(loop, ZMTP_DEALER, "127.0.0.1", zmtp_router_port(r), STR(""),
                                      &in_ops, &a, &c, &e),
                     0);
    assert_int_equal(zmtp_client_send(c, &ask), ERR_CLOSED);
    WAIT(a.ups == 1);
    assert_int_equal(zmtp_client_send(c, &ask), 0);
    WAIT(a.count == 1);
    assert_true(inbox_is(&a, "||\xff\xff\xff\xff\xff\xff\xff\xff|;"));
    /* more than fits: pushed back, and told when there is room */
    struct zmtp_msg piece = { .frame = { { big, 1 << 20 } }, .count = 1 };
    while ((rc = zmtp_router_send(asked, &piece)) == 0) {
        sent++;
        assert_true(sent < 100);
    }
    assert_int_equal(rc, ERR_AGAIN);
    WAIT(peer_drains == 1);
    WAIT(a.count == 1 + sent);
    zmtp_client_close(c);
    WAIT(peer_gone == 1);
    zmtp_router_close(r);
    buf_fini(&a.all);
    mem_free(big);
}

/* req: LIB-01: what one peer without credentials can cost. */
static void a_hostile_peer_is_cut_off_at_the_ceiling(void **state)
{
    static const struct {
        const char *bytes, *repeat;
        int times;
    } cases[] = {
        { GREETING READY_SUB, "01 00", 20 },              /* frames without end */
        { GREETING READY_SUB, "02 0000000001000000", 1 }, /* 16 MiB of a subscription */
        { GREETING READY_SUB, "00 02 01 61", 65 },        /* 65 subscriptions */
        { GREETING "00 02 01 61", "", 0 },                /* a message before READY */
        { GREETING "0419055245414459 0b536f636b65742d54797065 00000003 505553", "", 0 }, /* PUS */
        { GREETING READY_PUB, "", 0 },                /* PUB to PUB */
        { GREETING "04 06 05 4552524f52 00", "", 0 }, /* ERROR */
        { "474554202f20485454502f312e310d0a0d0a", "", 0 },
    };
    struct buf in, more;
    struct zmtp_pub *p;
    struct err e;

    (void)state;
    buf_init(&in, 4096);
    buf_init(&more, 4096);
    assert_int_equal(zmtp_pub_open(loop, "127.0.0.1", 0, 0, &p, &e), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct raw c;

        raw_start(&c, zmtp_pub_port(p));
        assert_int_equal(conn_write(c.c, hex(&in, cases[i].bytes)), 0);
        for (int n = 0; n < cases[i].times; n++)
            assert_int_equal(conn_write(c.c, hex(&more, cases[i].repeat)), 0);
        WAIT(c.eof || c.closed);
        raw_end(&c);
        WAIT(zmtp_pub_peers(p) == 0);
    }
    zmtp_pub_close(p);
    buf_fini(&in);
    buf_fini(&more);
}

static void pings_are_answered_with_their_context(void **state)
{
    struct buf in;
    struct zmtp_pub *p;
    struct raw c;
    struct err e;

    (void)state;
    buf_init(&in, 4096);
    assert_int_equal(zmtp_pub_open(loop, "127.0.0.1", 0, 0, &p, &e), 0);
    raw_start(&c, zmtp_pub_port(p));
    assert_int_equal(conn_write(c.c, hex(&in, GREETING READY_SUB "04 0a 04 50494e47 0010 637478")),
                     0);
    WAIT(raw_has(&c, "\x04\x08\x04PONGctx"));
    raw_end(&c);
    zmtp_pub_close(p);
    buf_fini(&in);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_we_write_are_the_published_bytes),
        cmocka_unit_test(reading_gives_the_same_at_every_cut),
        cmocka_unit_test(properties_are_found_or_refused),
        T(subscribers_get_what_their_prefix_matches),
        T(a_lost_publisher_is_found_again),
        T(a_publisher_may_connect_to_a_subscriber_that_binds),
        T(a_slow_subscriber_loses_whole_messages_and_nobody_else_does),
        T(replay_requests_are_answered),
        T(a_hostile_peer_is_cut_off_at_the_ceiling),
        T(pings_are_answered_with_their_context),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
