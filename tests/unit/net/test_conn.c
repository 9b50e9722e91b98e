/* TCP connections: addresses, bounded queues, ends of all kinds. */
// SPDX-License-Identifier: Apache-2.0
#include "net_test.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include <netdb.h>

static void addresses_parse_or_are_refused(void **state)
{
    static const struct {
        const char *text, *host;
        int port; /* -1: refused */
    } cases[] = {
        { "127.0.0.1:8080", "127.0.0.1", 8080 },
        { "[::1]:80", "::1", 80 },
        { "localhost:0", "localhost", 0 },
        { ":65535", "127.0.0.1", 65535 },
        { "a.b-c:1", "a.b-c", 1 },
        { "", "", -1 },
        { "host", "", -1 },
        { "host:", "", -1 },
        { "host:x", "", -1 },
        { "host:-1", "", -1 },
        { "host:65536", "", -1 },
        { "::1:80", "", -1 },
        { "[::1]", "", -1 },
        { "[::1]80", "", -1 },
        { "[::1:80", "", -1 },
        { "[]:80", "", -1 },
        { "a b:80", "", -1 },
        { "u@h:80", "", -1 },
        { "http://h:80", "", -1 },
    };
    char host[256], name[300];
    uint16_t port;
    struct err e;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        int rc = addr_parse(str_of(cases[i].text), host, &port, &e);

        if ((rc == 0) != (cases[i].port >= 0))
            fail_msg("%s: rc %d", cases[i].text, rc);
        if (rc != 0)
            continue;
        assert_string_equal(host, cases[i].host);
        assert_int_equal(port, cases[i].port);
    }
    memset(name, 'a', sizeof(name));
    memcpy(name + 255, ":80", 4);
    assert_int_equal(addr_parse(str_of(name), host, &port, &e), 0);
    memcpy(name + 255, "a:80", 5);
    assert_int_equal(addr_parse(str_of(name), host, &port, &e), ERR_PARSE);
    assert_true(addr_is_loopback("127.8.9.1") && addr_is_loopback("::1") &&
                addr_is_loopback("localhost"));
    assert_false(addr_is_loopback("0.0.0.0") || addr_is_loopback("::") ||
                 addr_is_loopback("10.0.0.1") || addr_is_loopback("127.0.0.1.example"));
}

static struct raw far; /* the accepted side */
static struct conn *accepted_conn;
static int drains;

static void far_drain(void *ctx, struct conn *c)
{
    (void)ctx;
    (void)c;
    drains++;
}

static const struct conn_ops far_ops = {
    .on_data = raw_data, .on_eof = raw_eof, .on_drain = far_drain, .on_close = raw_closed
};

static void on_accept(void *ctx, struct conn *c)
{
    (void)ctx;
    far = (struct raw) { .c = c, .open = true };
    buf_init(&far.in, (size_t)64 << 20);
    conn_set_ctx(c, &far_ops, &far);
    accepted_conn = c;
}

static struct listener *pair(struct raw *near, size_t write_max)
{
    struct conn_opts o = { .write_max = write_max };
    struct listener *s;
    struct err e;

    accepted_conn = NULL;
    drains = 0;
    assert_int_equal(listener_open(loop, "127.0.0.1", 0, &o, on_accept, NULL, &s, &e), 0);
    raw_start(near, listener_port(s));
    WAIT(accepted_conn != NULL);
    return s;
}

static void bytes_pass_both_ways_and_ends_are_seen(void **state)
{
    struct raw near;
    struct listener *s = pair(&near, 0);

    (void)state;
    assert_true(strncmp(conn_peer(far.c), "127.0.0.1:", 10) == 0);
    raw_send(&near, "ping");
    WAIT(raw_has(&far, "ping"));
    raw_send(&far, "pong");
    conn_shutdown(far.c); /* after what is queued */
    assert_int_equal(conn_write(far.c, STR("x")), ERR_CLOSED);
    WAIT(near.eof);
    assert_true(raw_has(&near, "pong"));
    raw_send(&near, "late"); /* the other direction is still open */
    WAIT(raw_has(&far, "late"));
    raw_end(&near);
    WAIT(far.eof);
    raw_end(&far);
    assert_int_equal(far.rc, 0);
    listener_close(s);
}

static int released;

static void release(void *ctx)
{
    (void)ctx;
    released++;
}

static void a_slow_reader_fills_the_queue_then_drains_it(void **state)
{
    enum { PIECE = 64 << 10, CEILING = 256 << 10 };
    struct raw near;
    struct listener *s = pair(&near, CEILING);
    char *piece = mem_zalloc(PIECE);
    size_t sent = 0, seen_max = 0;
    int rc = 0;

    (void)state;
    conn_pause(near.c);
    for (int i = 0; rc == 0 && i < 10000; i++) { /* the kernel's buffers first, then ours */
        memset(piece, 'a' + i % 26, PIECE);
        rc = conn_write(far.c, (struct str) { piece, PIECE });
        sent += rc == 0 ? PIECE : 0;
        seen_max = MAX(seen_max, conn_queued(far.c));
    }
    assert_int_equal(rc, ERR_AGAIN);
    assert_true(seen_max <= CEILING);
    assert_int_equal(conn_write(far.c, (struct str) { piece, CEILING }), ERR_AGAIN);
    run_ms(20);
    assert_int_equal(drains, 0);
    conn_resume(near.c);
    WAIT(near.in.len == sent);
    WAIT(drains == 1);
    for (size_t i = 0; i < near.in.len; i += PIECE)
        assert_int_equal(near.in.p[i], 'a' + i / PIECE % 26);
    assert_int_equal(conn_written(far.c), sent);
    assert_int_equal(conn_queued(far.c), 0);
    /* into an empty queue any size goes */
    mem_free(piece);
    piece = mem_zalloc(CEILING * 2);
    assert_int_equal(conn_write(far.c, (struct str) { piece, CEILING * 2 }), 0);
    WAIT(near.in.len == sent + CEILING * 2);
    mem_free(piece);
    raw_end(&near);
    raw_end(&far);
    listener_close(s);
}

static void borrowed_bytes_are_released_once_however_it_ends(void **state)
{
    struct raw near;
    struct listener *s = pair(&near, 1 << 20);
    size_t n = (size_t)1 << 20;
    char *bytes = mem_zalloc(n);
    int given = 0, rc = 0;

    (void)state;
    released = 0;
    conn_pause(near.c);
    while (rc == 0) {
        rc = conn_write_ref(far.c, (struct str) { bytes, n }, release, NULL);
        given += rc == 0;
        assert_true(given < 100);
    }
    assert_int_equal(rc, ERR_AGAIN);
    assert_int_equal(conn_write_ref_force(far.c, (struct str) { bytes, n }, release, NULL), 0);
    given++;
    assert_true(released < given);
    conn_close(far.c); /* drops what is queued */
    assert_int_equal(conn_write_ref(far.c, (struct str) { bytes, n }, release, NULL), ERR_CLOSED);
    assert_false(far.closed); /* never from inside */
    WAIT(far.closed);
    assert_int_equal(released, given);
    mem_free(bytes);
    raw_end(&far);
    raw_end(&near);
    listener_close(s);
}

static void what_is_written_before_the_connection_stands_is_sent(void **state)
{
    struct raw near = { 0 };
    struct listener *s;
    struct err e;

    (void)state;
    accepted_conn = NULL;
    assert_int_equal(listener_open(loop, "127.0.0.1", 0, NULL, on_accept, NULL, &s, &e), 0);
    buf_init(&near.in, 1024);
    assert_int_equal(
        conn_open(loop, "127.0.0.1", listener_port(s), NULL, &raw_ops, &near, &near.c, &e), 0);
    raw_send(&near, "early ");
    raw_send(&near, "bird");
    WAIT(accepted_conn != NULL && raw_has(&far, "early bird"));
    raw_end(&near);
    WAIT(far.eof);
    raw_end(&far);
    listener_close(s);
}

static void a_refused_or_silent_address_ends_in_on_close(void **state)
{
    struct conn_opts o = { .connect_ms = 100 };
    struct raw r = { 0 };
    struct listener *s;
    uint64_t begun;
    uint16_t port;
    struct err e;

    (void)state;
    assert_int_equal(listener_open(loop, "127.0.0.1", 0, NULL, on_accept, NULL, &s, &e), 0);
    port = listener_port(s);
    assert_int_equal(listener_open(loop, "127.0.0.1", port, NULL, on_accept, NULL, &s, &e), ERR_IO);
    assert_null(s);
    assert_int_equal(listener_open(loop, "name.invalid", 0, NULL, on_accept, NULL, &s, &e),
                     ERR_INVAL);
    /* port 1 of loopback: nobody listens there */
    assert_int_equal(conn_open(loop, "127.0.0.1", 1, &o, &raw_ops, &r, &r.c, &e), 0);
    WAIT(r.closed);
    assert_int_equal(r.rc, ERR_IO);
    assert_false(r.open);
    /* a name that does not exist */
    r = (struct raw) { 0 };
    assert_int_equal(conn_open(loop, "name.invalid", 80, &o, &raw_ops, &r, &r.c, &e), 0);
    WAIT(r.closed);
    assert_true(r.rc == ERR_IO || r.rc == ERR_TIMEOUT);
    /* TEST-NET-1 swallows packets, or the network refuses them at once */
    r = (struct raw) { 0 };
    begun = clock_ms();
    assert_int_equal(conn_open(loop, "192.0.2.1", 80, &o, &raw_ops, &r, &r.c, &e), 0);
    WAIT(r.closed);
    assert_true(r.rc == ERR_TIMEOUT || r.rc == ERR_IO);
    assert_true(clock_ms() - begun < 1000);
    /* closing in the middle of a look-up and of a connect */
    r = (struct raw) { 0 };
    assert_int_equal(conn_open(loop, "localhost", port, NULL, &raw_ops, &r, &r.c, &e), 0);
    conn_close(r.c);
    WAIT(r.closed);
    r = (struct raw) { 0 };
    assert_int_equal(conn_open(loop, "192.0.2.1", 80, &o, &raw_ops, &r, &r.c, &e), 0);
    conn_close(r.c);
    WAIT(r.closed);
    assert_int_equal(r.rc, 0);
    assert_int_equal(conn_open(loop, "", 80, NULL, &raw_ops, &r, &r.c, &e), ERR_INVAL);
    assert_int_equal(conn_open(loop, "127.0.0.1", 0, NULL, &raw_ops, &r, &r.c, &e), ERR_INVAL);
}

static void a_name_with_two_addresses_finds_the_one_that_listens(void **state)
{
    struct raw r = { 0 };
    struct addrinfo *known;
    struct listener *s;
    struct err e;

    (void)state;
    if (getaddrinfo("localhost", NULL, NULL, &known) != 0)
        skip(); /* a root without /etc/hosts */
    freeaddrinfo(known);
    /* localhost is ::1 and 127.0.0.1 on most machines; only the latter listens */
    accepted_conn = NULL;
    assert_int_equal(listener_open(loop, "127.0.0.1", 0, NULL, on_accept, NULL, &s, &e), 0);
    buf_init(&r.in, 16);
    assert_int_equal(conn_open(loop, "localhost", listener_port(s), NULL, &raw_ops, &r, &r.c, &e),
                     0);
    WAIT(r.open && accepted_conn != NULL);
    raw_end(&r);
    WAIT(far.eof);
    raw_end(&far);
    listener_close(s);
}

static void a_reset_is_an_error_and_a_paused_side_can_ask(void **state)
{
    struct raw near;
    struct listener *s = pair(&near, 0);

    (void)state;
    conn_pause(far.c);
    assert_false(conn_peer_left(far.c));
    raw_send(&near, "unread");
    run_ms(5);
    assert_false(conn_peer_left(far.c));
    conn_shutdown(near.c);
    WAIT(conn_peer_left(far.c)); /* behind bytes that nobody reads */
    conn_reset(far.c);
    WAIT(far.closed);
    WAIT(near.closed);
    assert_int_equal(near.rc, ERR_CLOSED);
    assert_false(near.eof);
    raw_end(&near);
    raw_end(&far);
    listener_close(s);
}

static void a_paused_listener_holds_connections_back(void **state)
{
    struct raw a;
    struct listener *s;
    struct err e;

    (void)state;
    accepted_conn = NULL;
    assert_int_equal(listener_open(loop, "127.0.0.1", 0, NULL, on_accept, NULL, &s, &e), 0);
    listener_pause(s);
    raw_start(&a, listener_port(s)); /* the kernel takes it */
    run_ms(10);
    assert_null(accepted_conn);
    listener_resume(s);
    WAIT(accepted_conn != NULL);
    raw_end(&a);
    WAIT(far.eof);
    raw_end(&far);
    listener_pause(s);
    raw_start(&a, listener_port(s));
    run_ms(5);
    raw_end(&a);
    listener_close(s); /* with one held */
}

static void loop_free_closes_what_is_left(void **state)
{
    struct raw r = { 0 }, near;
    struct listener *s = pair(&near, 0);
    struct err e;

    (void)s;
    assert_int_equal(conn_open(loop, "192.0.2.1", 80, NULL, &raw_ops, &r, &r.c, &e), 0);
    tear_down(state);
    assert_true(r.closed && near.closed && far.closed);
    buf_fini(&far.in);
    assert_int_equal(set_up(state), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_parse_or_are_refused),
        cmocka_unit_test_setup_teardown(bytes_pass_both_ways_and_ends_are_seen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slow_reader_fills_the_queue_then_drains_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(borrowed_bytes_are_released_once_however_it_ends, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_written_before_the_connection_stands_is_sent,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_refused_or_silent_address_ends_in_on_close, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_name_with_two_addresses_finds_the_one_that_listens,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_reset_is_an_error_and_a_paused_side_can_ask, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_paused_listener_holds_connections_back, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(loop_free_closes_what_is_left, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
