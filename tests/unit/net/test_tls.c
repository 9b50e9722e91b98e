/* TLS connections: who is let in, how they end, back-pressure inside, certificates that change. */
// SPDX-License-Identifier: Apache-2.0
#include "net_test.h"
#include "base/file.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include "net/conn_tls_priv.h"
#include "net/http.h"
#include "net/tls_priv.h"
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- certificates ---- */

static char dir[64];

static const char *at(const char *name)
{
    static char path[4][256];
    static unsigned i;

    i = (i + 1) % 4;
    snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
    return path[i];
}

static void ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX v3;
    X509_EXTENSION *x;

    X509V3_set_ctx_nodb(&v3);
    X509V3_set_ctx(&v3, issuer, cert, NULL, NULL, 0);
    x = X509V3_EXT_conf_nid(NULL, &v3, nid, value);
    assert_non_null(x);
    X509_add_ext(cert, x, -1);
    X509_EXTENSION_free(x);
}

struct who {
    X509 *cert;
    EVP_PKEY *key;
};

/* days: of validity from now; < 0: it ended that long ago.  san NULL: an authority. */
static struct who make(const struct who *issuer, const char *cn, const char *san, int days)
{
    static long serial = 1;
    struct who w = { X509_new(), EVP_EC_gen("P-256") };
    X509_NAME *name = X509_get_subject_name(w.cert);

    X509_set_version(w.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(w.cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(w.cert), -86400L * 2);
    X509_gmtime_adj(X509_getm_notAfter(w.cert), 86400L * days);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const void *)cn, -1, -1, 0);
    X509_set_issuer_name(w.cert, issuer != NULL ? X509_get_subject_name(issuer->cert) : name);
    X509_set_pubkey(w.cert, w.key);
    if (san != NULL)
        ext(w.cert, issuer->cert, NID_subject_alt_name, san);
    else
        ext(w.cert, w.cert, NID_basic_constraints, "critical,CA:TRUE");
    X509_sign(w.cert, issuer != NULL ? issuer->key : w.key, EVP_sha256());
    return w;
}

static void put(const char *path, const struct who *cert, const struct who *key)
{
    char tmp[300];
    FILE *f;

    snprintf(tmp, sizeof(tmp), "%s.new", path);
    f = fopen(tmp, "w");
    assert_non_null(f);
    if (cert != NULL)
        PEM_write_X509(f, cert->cert);
    if (key != NULL)
        PEM_write_PrivateKey(f, key->key, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    assert_int_equal(rename(tmp, path), 0);
}

static void put_pair(const char *crt, const char *key, const struct who *w)
{
    put(at(crt), w, NULL);
    put(at(key), NULL, w);
}

static struct who ca, ca2, leaf, leaf2, other, stale, mine, stranger;

static int group_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/llmd-tls-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    ca = make(NULL, "authority", NULL, 30);
    ca2 = make(NULL, "other authority", NULL, 30);
    leaf = make(&ca, "one", "DNS:localhost,IP:127.0.0.1,DNS:*.example.test", 20);
    leaf2 = make(&ca, "two", "DNS:localhost,IP:127.0.0.1", 25);
    other = make(&ca, "elsewhere", "DNS:elsewhere.test", 20);
    stale = make(&ca, "stale", "DNS:localhost,IP:127.0.0.1", -1);
    mine = make(&ca, "client", "URI:spiffe://llmd/ns/a/worker/w1", 20);
    stranger = make(&ca2, "client", "URI:spiffe://llmd/ns/a/worker/w1", 20);
    put(at("ca.pem"), &ca, NULL);
    put(at("ca2.pem"), &ca2, NULL);
    put_pair("tls.crt", "tls.key", &leaf);
    put_pair("mine.crt", "mine.key", &mine);
    put_pair("stranger.crt", "stranger.key", &stranger);
    put_pair("other.crt", "other.key", &other);
    put_pair("stale.crt", "stale.key", &stale);
    return 0;
}

static int group_down(void **state)
{
    struct who *all[] = { &ca, &ca2, &leaf, &leaf2, &other, &stale, &mine, &stranger };
    char cmd[128];

    (void)state;
    for (size_t i = 0; i < COUNT(all); i++) {
        X509_free(all[i]->cert);
        EVP_PKEY_free(all[i]->key);
    }
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    return system(cmd);
}

/* ---- a pair of connections ---- */

static struct raw far;
static struct conn *accepted_conn;
static int drains;
static struct listener *lis;
static struct tls_server *srv;
static struct tls_client *cli;
static const struct conn_ops *far_ops_now;

static void far_drain(void *ctx, struct conn *c)
{
    (void)ctx;
    (void)c;
    drains++;
}

static const struct conn_ops far_ops = { .on_open = raw_open,
                                         .on_data = raw_data,
                                         .on_eof = raw_eof,
                                         .on_drain = far_drain,
                                         .on_close = raw_closed };

static void on_accept(void *ctx, struct conn *c)
{
    (void)ctx;
    far = (struct raw) { .c = c };
    buf_init(&far.in, (size_t)64 << 20);
    conn_set_ctx(c, far_ops_now, &far);
    accepted_conn = c;
}

static void server_up(const struct tls_server_opts *so, struct conn_opts co)
{
    struct err e;

    accepted_conn = NULL;
    drains = 0;
    far_ops_now = &far_ops;
    if (tls_server_open(loop, so, &srv, &e) != 0)
        fail_msg("%s", e.msg);
    co.tls_server = srv;
    assert_int_equal(listener_open(loop, "127.0.0.1", 0, &co, on_accept, NULL, &lis, &e), 0);
}

static void client_up(struct raw *near, const struct tls_client_opts *o, const char *host)
{
    struct conn_opts co = { 0 };
    struct err e;

    if (tls_client_open(loop, o, &cli, &e) != 0)
        fail_msg("%s", e.msg);
    co.tls_client = cli;
    *near = (struct raw) { 0 };
    buf_init(&near->in, (size_t)64 << 20);
    assert_int_equal(conn_open(loop, host, listener_port(lis), &co, &raw_ops, near, &near->c, &e),
                     0);
}

static void pair(struct raw *near, size_t write_max)
{
    server_up(&(struct tls_server_opts) { .dir = dir },
              (struct conn_opts) { .write_max = write_max });
    client_up(near, &(struct tls_client_opts) { .ca_file = at("ca.pem") }, "127.0.0.1");
    WAIT(near->open && accepted_conn != NULL && far.open);
}

static void pair_end(struct raw *near)
{
    raw_end(near);
    if (accepted_conn != NULL)
        raw_end(&far);
    listener_close(lis);
    tls_client_close(cli);
    tls_server_close(srv);
    srv = NULL;
    cli = NULL;
}

static void bytes_pass_both_ways_and_ends_are_seen(void **state)
{
    struct raw near;

    (void)state;
    pair(&near, 0);
    assert_true(conn_is_tls(near.c) && conn_is_tls(far.c));
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
    conn_close(near.c); /* says close_notify, since all is out */
    WAIT(far.eof && near.closed);
    assert_int_equal(near.rc, 0);
    raw_end(&far);
    assert_int_equal(far.rc, 0);
    pair_end(&near);
}

/* Truncation: a bare FIN, as an attacker can send it. */
static void a_fin_without_close_notify_is_no_end_of_data(void **state)
{
    struct raw near;

    (void)state;
    pair(&near, 0);
    raw_send(&far, "half of it");
    WAIT(raw_has(&near, "half of it"));
    conn_fail(far.c, ERR_IO);
    WAIT(near.closed);
    assert_false(near.eof);
    assert_int_equal(near.rc, ERR_CLOSED);
    pair_end(&near);
}

static void what_is_written_before_the_handshake_is_sent(void **state)
{
    struct raw near;

    (void)state;
    server_up(&(struct tls_server_opts) { .dir = dir }, (struct conn_opts) { 0 });
    client_up(&near, &(struct tls_client_opts) { .ca_file = at("ca.pem") }, "localhost");
    raw_send(&near, "early ");
    raw_send(&near, "bird");
    assert_int_equal(conn_queued(near.c), 10);
    conn_shutdown(near.c);
    WAIT(accepted_conn != NULL && far.eof);
    assert_true(raw_has(&far, "early bird"));
    pair_end(&near);
}

static void a_slow_reader_fills_the_queue_then_drains_it(void **state)
{
    enum { PIECE = 64 << 10, CEILING = 256 << 10, HEADS = 4096 };
    struct raw near;
    char *piece = mem_zalloc(PIECE);
    size_t sent = 0, seen_max = 0;
    int rc = 0;

    (void)state;
    pair(&near, CEILING);
    conn_pause(near.c);
    for (int i = 0; rc == 0 && i < 10000; i++) {
        memset(piece, 'a' + i % 26, PIECE);
        rc = conn_write(far.c, (struct str) { piece, PIECE });
        sent += rc == 0 ? PIECE : 0;
        seen_max = MAX(seen_max, conn_queued(far.c));
    }
    assert_int_equal(rc, ERR_AGAIN);
    assert_true(seen_max <= CEILING + HEADS);
    run_ms(20);
    assert_int_equal(drains, 0);
    conn_resume(near.c);
    WAIT(near.in.len == sent);
    WAIT(drains == 1);
    for (size_t i = 0; i < near.in.len; i += 1000)
        assert_int_equal(near.in.p[i], 'a' + i / PIECE % 26);
    assert_true(conn_written(far.c) > sent); /* as the kernel saw them */
    assert_int_equal(conn_queued(far.c), 0);
    mem_free(piece);
    piece = mem_zalloc(CEILING * 2);
    assert_int_equal(conn_write(far.c, (struct str) { piece, CEILING * 2 }), 0);
    WAIT(near.in.len == sent + CEILING * 2);
    mem_free(piece);
    pair_end(&near);
}

static int released;

static void release(void *ctx)
{
    (void)ctx;
    released++;
}

static void borrowed_bytes_are_released_once_however_it_ends(void **state)
{
    struct raw near;
    size_t n = (size_t)1 << 20;
    char *bytes = mem_zalloc(n);
    int given = 0, rc = 0;

    (void)state;
    released = 0;
    pair(&near, 1 << 20);
    assert_int_equal(conn_write_ref(far.c, (struct str) { bytes, n }, release, NULL), 0);
    WAIT(near.in.len == n && released == 1);
    given = 1;
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
    conn_close(far.c);
    assert_int_equal(conn_write_ref(far.c, (struct str) { bytes, n }, release, NULL), ERR_CLOSED);
    WAIT(far.closed);
    assert_int_equal(released, given);
    mem_free(bytes);
    pair_end(&near);
}

static size_t pauses;

static void pausing_data(void *ctx, struct conn *c, struct str bytes)
{
    raw_data(ctx, c, bytes);
    pauses++;
    conn_pause(c);
}

/* A pause stops the very next record, and none is lost. */
static void a_pause_in_the_middle_of_a_read_holds_the_rest(void **state)
{
    static const struct conn_ops ops = {
        .on_open = raw_open, .on_data = pausing_data, .on_eof = raw_eof, .on_close = raw_closed
    };
    struct raw near;
    char line[16];
    size_t want = 0;

    (void)state;
    pair(&near, 0);
    conn_set_ctx(far.c, &ops, &far);
    pauses = 0;
    for (int i = 0; i < 200; i++) {
        snprintf(line, sizeof(line), "%03d,", i);
        raw_send(&near, line); /* one record each */
        want += 4;
    }
    conn_shutdown(near.c);
    WAIT(pauses == 1);
    run_ms(20);
    assert_int_equal(pauses, 1);
    assert_false(far.eof);
    WAIT((conn_resume(far.c), far.eof));
    assert_int_equal(far.in.len, want);
    for (int i = 0; i < 200; i++) {
        snprintf(line, sizeof(line), "%03d,", i);
        assert_memory_equal(far.in.p + 4 * i, line, 4);
    }
    assert_int_equal(pauses, 200);
    pair_end(&near);
}

static void a_peer_that_left_is_seen_while_paused(void **state)
{
    struct raw near;

    (void)state;
    pair(&near, 0);
    conn_pause(far.c);
    assert_false(conn_peer_left(far.c));
    raw_end(&near);
    WAIT(conn_peer_left(far.c));
    assert_false(far.eof);
    raw_end(&far);
    accepted_conn = NULL;
    raw_start(&near, listener_port(lis)); /* not TLS: ends as it likes */
    pair_end(&near);
}

/* ---- who is let in ---- */

static void a_client_checks_authority_and_name(void **state)
{
    static const struct {
        const char *ca, *host, *name;
        bool skip;
        int rc; /* 0: it opens */
    } cases[] = {
        { "ca.pem", "127.0.0.1", NULL, false, 0 },
        { "ca.pem", "localhost", NULL, false, 0 },
        { "ca.pem", "127.0.0.1", "a.example.test", false, 0 },
        { "ca.pem", "127.0.0.1", "example.test", false, ERR_MISMATCH },
        { "ca.pem", "127.0.0.1", "a.b.example.test", false, ERR_MISMATCH },
        { "ca.pem", "127.0.0.1", "127.0.0.2", false, ERR_MISMATCH },
        { "ca.pem", "127.0.0.1", "one", false, ERR_MISMATCH }, /* only the subject says so */
        { "ca2.pem", "127.0.0.1", NULL, false, ERR_MISMATCH },
        { NULL, "127.0.0.1", NULL, false, ERR_MISMATCH }, /* the system does not know it */
        { NULL, "127.0.0.1", "other.test", true, 0 },
    };
    struct raw near;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        server_up(&(struct tls_server_opts) { .dir = dir }, (struct conn_opts) { 0 });
        client_up(
            &near,
            &(struct tls_client_opts) { .ca_file = cases[i].ca != NULL ? at(cases[i].ca) : NULL,
                                        .server_name = cases[i].name,
                                        .skip_verify = cases[i].skip },
            cases[i].host);
        WAIT(near.open || near.closed);
        if (near.open != (cases[i].rc == 0) || (near.closed && near.rc != cases[i].rc))
            fail_msg("case %zu: open %d rc %s", i, near.open, err_name(near.rc));
        if (cases[i].rc != 0) {
            WAIT(far.closed);
            assert_false(far.open);
        }
        pair_end(&near);
    }
}

static void a_server_checks_the_clients_certificate(void **state)
{
    static const struct {
        const char *crt, *key;
        bool ok;
    } cases[] = {
        { "mine.crt", "mine.key", true },
        { "stranger.crt", "stranger.key", false },
        { NULL, NULL, false },
    };
    struct tls_server_opts so = { .dir = dir };
    struct raw near;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        so.client_ca_file = at("ca.pem");
        server_up(&so, (struct conn_opts) { 0 });
        client_up(&near,
                  &(struct tls_client_opts) {
                      .ca_file = at("ca.pem"),
                      .cert_file = cases[i].crt != NULL ? at(cases[i].crt) : NULL,
                      .key_file = cases[i].key != NULL ? at(cases[i].key) : NULL },
                  "127.0.0.1");
        WAIT(accepted_conn != NULL && (far.open || far.closed));
        assert_int_equal(far.open, cases[i].ok);
        if (!cases[i].ok) { /* in TLS 1.3 the client is done before it hears of it */
            WAIT(near.closed);
            assert_int_not_equal(near.rc, 0);
            assert_false(near.eof);
        }
        pair_end(&near);
    }
}

static void alpn_is_agreed_on_or_refused(void **state)
{
    static const struct {
        const char *server, *client, *got; /* got NULL: refused; "": none */
    } cases[] = {
        { "h2,http/1.1", "http/1.1,h2", "h2" },
        { "h2,http/1.1", "http/1.1", "http/1.1" },
        { "http/1.1", "h2", NULL },
        { "http/1.1", NULL, "" },
        { NULL, "h2", "" },
    };
    struct raw near;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        server_up(&(struct tls_server_opts) { .dir = dir, .alpn = cases[i].server },
                  (struct conn_opts) { 0 });
        client_up(&near,
                  &(struct tls_client_opts) { .ca_file = at("ca.pem"), .alpn = cases[i].client },
                  "127.0.0.1");
        WAIT((near.open && far.open) || near.closed);
        if (cases[i].got == NULL) {
            assert_true(near.closed && !near.open);
        } else {
            assert_true(str_eqz(conn_alpn(near.c), cases[i].got));
            assert_true(str_eqz(conn_alpn(far.c), cases[i].got));
        }
        pair_end(&near);
    }
}

/* req: TLS-01.  A hello of TLS 1.1, byte by byte: the answer is the alert protocol_version. */
static void tls_1_1_and_plain_text_are_refused(void **state)
{
    static const unsigned char hello[] = {
        0x16, 3,  1,  0,  47, 1,  0,  0,    43,   3,    2, /* 1.1 */
        1,    2,  3,  4,  5,  6,  7,  8,    9,    10,   11,   12, 13, 14,
        15,   16, 17, 18, 19, 20, 21, 22,   23,   24,   25,   26, 27, 28,
        29,   30, 31, 32, 0,  0,  4,  0xc0, 0x09, 0xc0, 0x13, 1,  0,
    };
    struct raw near;

    (void)state;
    server_up(&(struct tls_server_opts) { .dir = dir }, (struct conn_opts) { 0 });
    raw_start(&near, listener_port(lis));
    assert_int_equal(conn_write(near.c, (struct str) { (const char *)hello, sizeof(hello) }), 0);
    WAIT(near.in.len >= 7 && far.closed);
    assert_int_equal((unsigned char)near.in.p[0], 21); /* alert */
    assert_int_equal(near.in.p[5], 2);                 /* fatal */
    assert_int_equal(near.in.p[6], 70);                /* protocol_version */
    assert_int_equal(far.rc, ERR_PARSE);
    assert_false(far.open);
    raw_end(&near);
    raw_end(&far);
    accepted_conn = NULL;
    raw_start(&near, listener_port(lis));
    raw_send(&near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    WAIT(accepted_conn != NULL && far.closed);
    assert_int_equal(far.rc, ERR_PARSE);
    assert_int_equal(far.in.len, 0);
    pair_end(&near);
}

/* req: LIM-04 */
static void a_slow_handshake_is_cut(void **state)
{
    struct raw near;
    uint64_t begun = clock_ms();

    (void)state;
    server_up(&(struct tls_server_opts) { .dir = dir }, (struct conn_opts) { .handshake_ms = 150 });
    raw_start(&near, listener_port(lis));
    raw_send(&near, "\x16\x03\x01"); /* and then nothing */
    WAIT(accepted_conn != NULL && far.closed);
    assert_int_equal(far.rc, ERR_TIMEOUT);
    assert_in_range(clock_ms() - begun, 140, 3000);
    pair_end(&near);
}

/* ---- certificates of our own ---- */

static void what_cannot_serve_is_refused_at_start(void **state)
{
    struct tls_server_opts cases[] = {
        { 0 },
        { .dir = dir, .self_signed = true },
        { .cert_file = at("stale.crt"), .key_file = at("stale.key") },
        { .cert_file = at("other.crt"), .key_file = at("mine.key") },
        { .cert_file = at("mine.key"), .key_file = at("mine.key") },
        { .cert_file = at("mine.crt"), .key_file = at("mine.crt") },
        { .cert_file = at("mine.crt") },
        { .dir = "/nowhere" },
        { .dir = dir, .client_ca_file = "/nowhere/ca.pem" },
        { .dir = dir, .alpn = "h2,,x" },
        { .self_signed = true, .self_signed_names = "ok.test,bad name" },
    };
    static const int rc[] = { ERR_INVAL, ERR_INVAL, ERR_MISMATCH, ERR_MISMATCH,
                              ERR_PARSE, ERR_PARSE, ERR_INVAL,    ERR_IO,
                              ERR_PARSE, ERR_INVAL, ERR_INVAL };
    struct tls_server *s;
    struct err e;

    (void)state;
    /* at() keeps four names: the table's are set one by one */
    cases[2].cert_file = mem_strdup(at("stale.crt"));
    cases[2].key_file = mem_strdup(at("stale.key"));
    cases[3].cert_file = mem_strdup(at("other.crt"));
    cases[3].key_file = mem_strdup(at("mine.key"));
    cases[4].cert_file = cases[4].key_file = cases[5].key_file = cases[3].key_file;
    cases[5].cert_file = cases[5].key_file = cases[6].cert_file = mem_strdup(at("mine.crt"));
    for (size_t i = 0; i < COUNT(cases); i++) {
        int got = tls_server_open(loop, &cases[i], &s, &e);

        if (got != rc[i] && !(rc[i] == ERR_IO && got == ERR_NOTFOUND))
            fail_msg("case %zu: %s, %s", i, err_name(got), e.msg);
        assert_null(s);
    }
    mem_free((char *)(uintptr_t)cases[2].cert_file);
    mem_free((char *)(uintptr_t)cases[2].key_file);
    mem_free((char *)(uintptr_t)cases[3].cert_file);
    mem_free((char *)(uintptr_t)cases[3].key_file);
    mem_free((char *)(uintptr_t)cases[5].cert_file);
}

static void a_self_signed_certificate_names_its_organisation(void **state)
{
    struct tls_info info;
    struct raw near;
    char org[32];
    X509 *cert;

    (void)state;
    server_up(&(struct tls_server_opts) { .self_signed = true,
                                          .self_signed_names = "a.test, 10.1.2.3, fd00::1" },
              (struct conn_opts) { 0 });
    client_up(&near, &(struct tls_client_opts) { .skip_verify = true }, "127.0.0.1");
    WAIT(near.open);
    cert = SSL_get1_peer_certificate(*(SSL **)near.c->tls); /* the session is its first member */
    assert_int_equal(X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_organizationName,
                                               org, sizeof(org)),
                     4);
    assert_string_equal(org, "llmd");
    assert_int_equal(X509_check_host(cert, "a.test", 0, 0, NULL), 1);
    assert_int_equal(X509_check_host(cert, "localhost", 0, 0, NULL), 1);
    assert_int_equal(X509_check_ip_asc(cert, "10.1.2.3", 0), 1);
    assert_int_equal(X509_check_ip_asc(cert, "fd00::1", 0), 1);
    assert_int_equal(X509_check_ip_asc(cert, "10.1.2.4", 0), 0);
    assert_int_equal(EVP_PKEY_get_bits(X509_get0_pubkey(cert)), 256);
    X509_free(cert);
    tls_server_info(srv, &info);
    assert_true(info.not_after > (int64_t)clock_wall_s() + 86400);
    pair_end(&near);
}

/* req: TLS-04 */
static void a_bad_pair_keeps_the_old_one(void **state)
{
    struct tls_info info;
    struct raw near;
    int64_t old;

    (void)state;
    server_up(&(struct tls_server_opts) { .dir = dir }, (struct conn_opts) { 0 });
    tls_server_info(srv, &info);
    old = info.not_after;
    assert_true(old > (int64_t)clock_wall_s() + 86400 * 19);
    put(at("tls.key"), NULL, &leaf2); /* the watch sees it */
    WAIT((tls_server_info(srv, &info), info.reload_failures == 1));
    put_pair("tls.crt", "tls.key", &stale);
    WAIT((tls_server_info(srv, &info), info.reload_failures >= 2));
    assert_int_equal(info.not_after, old);
    assert_int_equal(info.reloads, 0);
    client_up(&near, &(struct tls_client_opts) { .ca_file = at("ca.pem") }, "127.0.0.1");
    WAIT(near.open && far.open);
    put_pair("tls.crt", "tls.key", &leaf2);
    WAIT((tls_server_info(srv, &info), info.reloads == 1));
    assert_true(info.not_after > old);
    raw_send(&near, "still here"); /* with the old one */
    WAIT(raw_has(&far, "still here"));
    put_pair("tls.crt", "tls.key", &leaf);
    pair_end(&near);
}

/* Kubernetes mounts a secret so: files through a link `..data` that is renamed over. */
static void a_symlink_swap_is_seen(void **state)
{
    static const char *const version[] = { "vol/v1", "vol/v2" };
    const struct who *w[] = { &leaf, &leaf2 };
    char vol[128];
    struct tls_info info;
    int64_t old;
    struct err e;

    (void)state;
    snprintf(vol, sizeof(vol), "%s/vol", dir);
    mkdir(vol, 0700);
    for (int i = 0; i < 2; i++) {
        char crt[64], key[64];

        mkdir(at(version[i]), 0700);
        snprintf(crt, sizeof(crt), "%s/tls.crt", version[i]);
        snprintf(key, sizeof(key), "%s/tls.key", version[i]);
        put_pair(crt, key, w[i]);
    }
    assert_int_equal(symlink("v1", at("vol/..data")), 0);
    assert_int_equal(symlink("..data/tls.crt", at("vol/tls.crt")), 0);
    assert_int_equal(symlink("..data/tls.key", at("vol/tls.key")), 0);
    assert_int_equal(tls_server_open(loop, &(struct tls_server_opts) { .dir = vol }, &srv, &e), 0);
    tls_server_info(srv, &info);
    old = info.not_after;
    assert_int_equal(symlink("v2", at("vol/..tmp")), 0);
    assert_int_equal(rename(at("vol/..tmp"), at("vol/..data")), 0);
    WAIT((tls_server_info(srv, &info), info.reloads == 1));
    assert_true(info.not_after > old);
    assert_int_equal(info.reload_failures, 0);
    tls_server_close(srv);
}

/* ---- HTTP over it ---- */

static int answered, failed, in_flight;
static struct http_client *hc;
static struct tls_client *identity;
static uint16_t http_port;
static bool keep_calling;

static void answer(void *ctx, struct http_req *r)
{
    struct http_header close = { STR("Connection"), STR("close") };

    (void)ctx;
    http_reply(r, 200, "text/plain", STR("hello"), &(struct http_headers) { &close, 1 });
}

static void call(void);

static void ended(void *ctx, int rc, bool sent, bool got)
{
    (void)ctx;
    (void)sent;
    in_flight--;
    answered += rc == 0 && got;
    failed += rc != 0;
    if (keep_calling)
        call();
}

static void call(void)
{
    static const struct http_call_ops ops = { .on_end = ended };
    struct http_call_opts o = { .host = "127.0.0.1",
                                .port = http_port,
                                .method = STR("GET"),
                                .path = STR("/"),
                                .tls = identity };
    struct http_call *c;
    struct err e;

    assert_int_equal(http_call_start(hc, &o, &ops, NULL, &c, &e), 0);
    in_flight++;
}

/* req: TLS-04: a hundred changes while every request makes a connection of its own. */
static void a_hundred_reloads_under_load_fail_nobody(void **state)
{
    struct http_server_opts ho = { 0 };
    struct http_server *hs;
    struct tls_info info;
    struct err e;

    (void)state;
    answered = failed = in_flight = 0;
    assert_int_equal(tls_server_open(loop, &(struct tls_server_opts) { .dir = dir }, &srv, &e), 0);
    assert_int_equal(
        tls_client_open(loop, &(struct tls_client_opts) { .ca_file = at("ca.pem") }, &identity, &e),
        0);
    ho.tls = srv;
    assert_int_equal(http_server_open(loop, &ho, answer, NULL, &hs, &e), 0);
    http_port = http_server_port(hs);
    hc = http_client_new(loop);
    keep_calling = true;
    for (int i = 0; i < 8; i++)
        call();
    for (int i = 0; i < 100; i++) {
        int before = answered;

        put_pair("tls.crt", "tls.key", i % 2 == 0 ? &leaf2 : &leaf);
        tls_server_reload(srv);
        WAIT(answered >= before + 8);
    }
    keep_calling = false;
    WAIT(in_flight == 0);
    tls_server_info(srv, &info);
    assert_true(info.reloads >= 100);
    assert_int_equal(info.reload_failures, 0);
    assert_int_equal(failed, 0);
    assert_true(answered >= 800);
    http_client_free(hc);
    http_server_close(hs);
    run_ms(5);
    tls_client_close(identity);
    tls_server_close(srv);
}

static void a_pooled_connection_serves_one_identity_only(void **state)
{
    struct http_server_opts ho = { 0 };
    struct tls_client *good, *bad;
    struct http_server *hs;
    struct err e;

    (void)state;
    answered = failed = in_flight = 0;
    assert_int_equal(tls_server_open(loop, &(struct tls_server_opts) { .dir = dir }, &srv, &e), 0);
    assert_int_equal(
        tls_client_open(loop, &(struct tls_client_opts) { .ca_file = at("ca.pem") }, &good, &e), 0);
    assert_int_equal(
        tls_client_open(loop, &(struct tls_client_opts) { .ca_file = at("ca2.pem") }, &bad, &e), 0);
    ho.tls = srv;
    assert_int_equal(http_server_open(loop, &ho, answer, NULL, &hs, &e), 0);
    http_port = http_server_port(hs);
    hc = http_client_new(loop);
    identity = good;
    call();
    WAIT(in_flight == 0);
    assert_int_equal(answered, 1);
    identity = bad;
    call();
    WAIT(in_flight == 0);
    assert_int_equal(failed, 1);
    identity = NULL; /* plain text to a TLS port */
    call();
    WAIT(in_flight == 0);
    assert_int_equal(failed, 2);
    http_client_free(hc);
    http_server_close(hs);
    run_ms(5);
    tls_client_close(good);
    tls_client_close(bad);
    tls_server_close(srv);
}

#define TLS_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TLS_TEST(bytes_pass_both_ways_and_ends_are_seen),
        TLS_TEST(a_fin_without_close_notify_is_no_end_of_data),
        TLS_TEST(what_is_written_before_the_handshake_is_sent),
        TLS_TEST(a_slow_reader_fills_the_queue_then_drains_it),
        TLS_TEST(borrowed_bytes_are_released_once_however_it_ends),
        TLS_TEST(a_pause_in_the_middle_of_a_read_holds_the_rest),
        TLS_TEST(a_peer_that_left_is_seen_while_paused),
        TLS_TEST(a_client_checks_authority_and_name),
        TLS_TEST(a_server_checks_the_clients_certificate),
        TLS_TEST(alpn_is_agreed_on_or_refused),
        TLS_TEST(tls_1_1_and_plain_text_are_refused),
        TLS_TEST(a_slow_handshake_is_cut),
        TLS_TEST(what_cannot_serve_is_refused_at_start),
        TLS_TEST(a_self_signed_certificate_names_its_organisation),
        TLS_TEST(a_bad_pair_keeps_the_old_one),
        TLS_TEST(a_symlink_swap_is_seen),
        TLS_TEST(a_hundred_reloads_under_load_fail_nobody),
        TLS_TEST(a_pooled_connection_serves_one_identity_only),
    };

    return cmocka_run_group_tests_name("tls", tests, group_up, group_down);
}
