/* API keys: who gets in, what a file may say, who is throttled; rate limits per tenant. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "gateway/auth.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* printf '%s' SECRET | sha256sum */
#define SECRET_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HASH_A   "66d34fba71f8f450f7e45598853e53bfc23bbd129027cbb131a2f4ffd7878cd0"

static char dir[32], path[2][64];
static struct err e;

static void put(int which, const char *text)
{
    assert_int_equal(file_write(path[which], str_of(text), &e), 0);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/llmd-auth-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path[0], sizeof(path[0]), "%s/keys.yaml", dir);
    snprintf(path[1], sizeof(path[1]), "%s/admin.yaml", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path[0]);
    unlink(path[1]);
    return rmdir(dir);
}

static struct auth *open_auth(const char *keys, const char *admins)
{
    struct auth_opts o = { 0 };
    struct auth *a;

    put(0, keys);
    o.key_file = path[0];
    if (admins != NULL) {
        put(1, admins);
        o.admin_key_file = path[1];
    }
    if (auth_open(NULL, &o, &a, &e) != 0)
        fail_msg("%s", e.msg);
    return a;
}

#define KEYS                                                                                       \
    "keys:\n"                                                                                      \
    "- id: a1\n  tenant: acme\n  sha256: " HASH_A "\n  models: [small, big]\n"                     \
    "  priority: 5\n  weight: 3\n  requests_per_minute: 60\n"                                      \
    "- id: a2\n  tenant: acme\n  key: lld_a2_bbbbbbbbbbbbbbbbbbbb\n"                               \
    "- id: old\n  tenant: acme\n  sha256: " HASH_A "\n  expires: 2001-09-09T01:46:40Z\n"
#define ADMINS "keys:\n- id: root\n  sha256: " HASH_A "\n  admin: true\n"
#define NOW    999999999.0 /* a second before the key `old` ends */

static int ask(struct auth *a, const char *name, const char *value, const char *peer, uint64_t ms,
               struct auth_identity *id)
{
    struct http_header h = { str_of(name), str_of(value) };

    return auth_check(a, &(struct http_headers) { &h, name != NULL ? 1 : 0 }, peer, ms, NOW, id);
}

/* req: AUTH-01 AUTH-02 */
static void keys_open_and_everything_else_is_401(void **state)
{
    static const struct {
        const char *name, *value;
        int rc;
        const char *id;
    } cases[] = {
        { "Authorization", "Bearer lld_a1_" SECRET_A, 0, "a1" },
        { "authorization", "bearer  lld_a1_" SECRET_A " ", 0, "a1" },
        { "X-Api-Key", "lld_a1_" SECRET_A, 0, "a1" },
        { "x-api-key", "lld_a2_bbbbbbbbbbbbbbbbbbbb", 0, "a2" },
        { "x-api-key", "lld_root_" SECRET_A, 0, "root" },
        { "x-api-key", "lld_old_" SECRET_A, 0, "old" },
        { NULL, NULL, 401, NULL },
        { "Authorization", "", 401, NULL },
        { "Authorization", "Bearer ", 401, NULL },
        { "Authorization", "Basic lld_a1_" SECRET_A, 401, NULL },
        { "Authorization", "Bearerlld_a1_" SECRET_A, 401, NULL },
        { "Authorization", "lld_a1_" SECRET_A, 401, NULL },
        { "x-api-key", "Bearer lld_a1_" SECRET_A, 401, NULL },
        { "x-api-key", "lld_a1_" SECRET_A "a", 401, NULL },
        { "x-api-key", "lld_a1_", 401, NULL },
        { "x-api-key", "lld_a1", 401, NULL },
        { "x-api-key", "lld_a2_" SECRET_A, 401, NULL },
        { "x-api-key", "lld_none_" SECRET_A, 401, NULL },
        { "x-api-key", "lld__" SECRET_A, 401, NULL },
        { "x-api-key", "sk-something", 401, NULL },
        { "x-api-key", HASH_A, 401, NULL },
        { "x-api-key", "lld_a1_" HASH_A, 401, NULL },
    };
    struct auth *a = open_auth(KEYS, ADMINS);
    struct auth_identity id;
    struct auth_info info;
    char peer[32];

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        int rc;

        snprintf(peer, sizeof(peer), "10.0.0.%zu:1", i); /* nobody is throttled here */
        rc = ask(a, cases[i].name, cases[i].value, peer, 5, &id);
        if (rc != cases[i].rc || (rc == 0 && !str_eqz(id.key_id, cases[i].id)))
            fail_msg("case %zu: %d", i, rc);
        assert_int_equal(id.admin, rc == 0 && str_eqz(id.key_id, "root"));
        auth_identity_put(&id);
    }
    assert_int_equal(ask(a, "x-api-key", "lld_a1_" SECRET_A, "::1", 5, &id), 0);
    assert_true(str_eqz(id.tenant, "acme") && id.priority == 5 && id.weight == 3 &&
                id.rates.requests_per_minute == 60);
    auth_identity_put(&id);
    auth_info(a, &info);
    assert_int_equal(info.failures, 16);
    assert_true(info.keys == 3 && info.admin_keys == 1);
    auth_close(a);
}

static void two_credentials_of_a_kind_are_nobodys(void **state)
{
    struct auth *a = open_auth(KEYS, NULL);
    struct http_header h[] = { { STR("x-api-key"), STR("lld_a1_" SECRET_A) },
                               { STR("X-API-Key"), STR("lld_a1_" SECRET_A) },
                               { STR("Authorization"),
                                 STR("Bearer lld_a2_bbbbbbbbbbbbbbbbbbbb") } };
    struct auth_identity id;

    (void)state;
    assert_int_equal(auth_check(a, &(struct http_headers) { h, 2 }, "1.1.1.1:1", 1, NOW, &id), 401);
    assert_int_equal(auth_check(a, &(struct http_headers) { h + 1, 2 }, "1.1.1.1:1", 1, NOW, &id),
                     0);
    assert_true(str_eqz(id.key_id, "a2"));
    auth_identity_put(&id);
    auth_close(a);
}

static void a_key_ends_when_it_says(void **state)
{
    struct auth *a = open_auth(KEYS, NULL);
    struct http_header h = { STR("x-api-key"), STR("lld_old_" SECRET_A) };
    struct http_headers hs = { &h, 1 };
    struct auth_identity id;

    (void)state;
    assert_int_equal(auth_check(a, &hs, "1.1.1.1:1", 1, 999999999.9, &id), 0);
    auth_identity_put(&id);
    assert_int_equal(auth_check(a, &hs, "1.1.1.1:1", 1, 1000000000.0, &id), 401);
    auth_close(a);
}

/* req: AUTH-04 */
static void a_key_opens_its_models_only(void **state)
{
    struct auth *a = open_auth(KEYS, NULL);
    struct auth_identity id, none = { 0 };

    (void)state;
    assert_int_equal(ask(a, "x-api-key", "lld_a1_" SECRET_A, "::1", 5, &id), 0);
    assert_true(auth_model_allowed(&id, STR("small")) && auth_model_allowed(&id, STR("big")));
    assert_false(auth_model_allowed(&id, STR("Small")) || auth_model_allowed(&id, STR("smal")) ||
                 auth_model_allowed(&id, STR("")));
    auth_identity_put(&id);
    assert_int_equal(ask(a, "x-api-key", "lld_a2_bbbbbbbbbbbbbbbbbbbb", "::1", 5, &id), 0);
    assert_true(auth_model_allowed(&id, STR("anything")));
    auth_identity_put(&id);
    assert_false(auth_model_allowed(&none, STR("small")));
    auth_close(a);
}

/* req: AUTH-05 */
static void twenty_failures_in_a_minute_throttle_an_address(void **state)
{
    static const char wrong[] = "lld_a1_x", right[] = "lld_a1_" SECRET_A;
    struct auth *a = open_auth(KEYS, NULL);
    struct auth_identity id;
    char peer[40];

    (void)state;
    for (int i = 0; i < 100; i++) /* no credential guesses nothing */
        assert_int_equal(ask(a, NULL, NULL, "10.0.0.1:5", 1000, &id), 401);
    for (int i = 0; i < 19; i++)
        assert_int_equal(ask(a, "x-api-key", wrong, "10.0.0.1:5", 1000, &id), 401);
    assert_int_equal(ask(a, "x-api-key", right, "10.0.0.1:5", 1000, &id), 0);
    auth_identity_put(&id);
    assert_int_equal(ask(a, "x-api-key", wrong, "10.0.0.1:9", 1000, &id), 401); /* the twentieth */
    assert_int_equal(ask(a, "x-api-key", right, "10.0.0.1:7", 1001, &id), 429);
    assert_int_equal(auth_retry_s(a, "10.0.0.1:7", 1001), 60);
    assert_int_equal(ask(a, "x-api-key", right, "10.0.0.2:7", 1001, &id), 0);
    auth_identity_put(&id);
    assert_int_equal(ask(a, "x-api-key", right, "10.0.0.1:7", 60999, &id), 429);
    assert_int_equal(ask(a, "x-api-key", right, "10.0.0.1:7", 61000, &id), 0);
    auth_identity_put(&id);
    /* nineteen, a minute's rest, nineteen more */
    for (int i = 0; i < 38; i++)
        assert_int_equal(ask(a, "x-api-key", wrong, "10.0.0.3:1", i < 19 ? 2000 : 62000, &id), 401);
    /* all of a /64 is one */
    for (int i = 0; i < 20; i++) {
        snprintf(peer, sizeof(peer), "[2001:db8:1:2::%x]:1", i);
        assert_int_equal(ask(a, "x-api-key", wrong, peer, 5000, &id), 401);
    }
    assert_int_equal(ask(a, "x-api-key", right, "[2001:db8:1:2:ffff::1]:1", 5000, &id), 429);
    assert_int_equal(ask(a, "x-api-key", right, "[2001:db8:1:3::1]:1", 5000, &id), 0);
    auth_identity_put(&id);
    /* the table is bounded; who is refused stays so while others fail once each */
    for (uint32_t i = 0; i < 20000; i++) {
        snprintf(peer, sizeof(peer), "11.%u.%u.%u:1", i >> 16, i >> 8 & 255, i & 255);
        assert_int_equal(ask(a, "x-api-key", wrong, peer, 5000, &id), 401);
    }
    assert_int_equal(ask(a, "x-api-key", right, "[2001:db8:1:2::9]:1", 5000, &id), 429);
    auth_close(a);
}

static void wrong_files_are_refused_with_their_place(void **state)
{
    static const struct {
        const char *text, *msg;
        bool admin;
    } cases[] = {
        { "", ":1:1: want a list under keys:", false },
        { "keys: 5", ":1:7: want a list", false },
        { "keys: []\nkey: []", ":2:1: unknown key \"key\"", false },
        { "keys:\n- x", ":2:3: a key must be a map", false },
        { "keys:\n- tenant: a", ":2:3: id must", false },
        { "keys:\n- id: a_b", ":2:7: id must", false },
        { "keys:\n- id: a\n  tennant: b", ":3:3: unknown key \"tennant\"", false },
        { "keys:\n- id: a\n  tenant: 'a b'", ":3:11: tenant must", false },
        { "keys:\n- id: a", ":2:3: tenant must", false },
        { "keys:\n- {id: a, tenant: t}", ":2:3: want sha256 or key", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", key: x}", ":2:3: want sha256", false },
        { "keys:\n- {id: a, tenant: t, sha256: 00}", ":2:30: sha256 must", false },
        { "keys:\n- {id: a, tenant: t, key: secret}", ":2:27: key must have the form", false },
        { "keys:\n- {id: a, tenant: t, key: lld_b_aaaaaaaaaaaaaaaaaaaa}", ":2:27: key must",
          false },
        { "keys:\n- {id: a, tenant: t, key: lld_a_aaaaaaaaaaaaaaaaaaa}", ":2:27: the secret",
          false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", models: x}", ": models must", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", models: [[]]}", ": a model's", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", weight: 0}", ": weight must", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", concurrent: 0}", ": concurrent", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", expires: 2027-02-29}", ": exp", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", expires: soon}", ": expires", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", admin: 1}", ": admin must", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", admin: true}", ": administr", false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A "}", ": every key of an admin", true },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A "}\n- {id: a}", ":3:8: id a comes tw",
          false },
        { "keys:\n- {id: a, tenant: t, sha256: " HASH_A ", concurrent: 2}\n"
          "- {id: b, tenant: t, sha256: " HASH_A ", concurrent: 3}",
          "f:3: the limits of tenant t differ", false },
    };
    struct auth_set *s;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        if (auth_parse(str_of(cases[i].text), "f", cases[i].admin, &s, &e) != ERR_PARSE ||
            s != NULL || strstr(e.msg, cases[i].msg) == NULL)
            fail_msg("case %zu: %s", i, e.msg);
}

static void limits_of_a_tenant_hold_for_all_its_keys(void **state)
{
    struct auth *a = open_auth(KEYS, NULL);
    struct auth_identity id;

    (void)state;
    assert_int_equal(ask(a, "x-api-key", "lld_a2_bbbbbbbbbbbbbbbbbbbb", "::1", 5, &id), 0);
    assert_int_equal(id.rates.requests_per_minute, 60);
    auth_identity_put(&id);
    auth_close(a);
}

static void a_reload_changes_keys_and_no_identity(void **state)
{
    struct auth *a = open_auth(KEYS, ADMINS);
    struct auth_identity id, other;
    struct auth_info info;
    uint64_t day = 86400000;

    (void)state;
    assert_int_equal(ask(a, "x-api-key", "lld_a1_" SECRET_A, "1.1.1.1:1", 5, &id), 0);
    put(0, "keys:\n- {id: n1, tenant: new, sha256: " HASH_A "}\n");
    assert_int_equal(auth_reload(a, &e), 0);
    assert_int_equal(ask(a, "x-api-key", "lld_a1_" SECRET_A, "1.1.1.2:1", 5, &other), 401);
    assert_int_equal(ask(a, "x-api-key", "lld_n1_" SECRET_A, "1.1.1.3:1", 5, &other), 0);
    auth_identity_put(&other);
    assert_true(str_eqz(id.tenant, "acme") && auth_model_allowed(&id, STR("big")));
    /* a wrong file: those of before stay, for a day */
    put(0, "keys:\n- {id: n2, tenant: new}\n");
    assert_int_equal(auth_reload(a, &e), ERR_PARSE);
    assert_int_equal(ask(a, "x-api-key", "lld_n1_" SECRET_A, "1.1.1.3:1", 1000, &other), 0);
    auth_identity_put(&other);
    assert_int_equal(ask(a, "x-api-key", "lld_n1_" SECRET_A, "1.1.1.3:1", day + 999, &other), 0);
    auth_identity_put(&other);
    assert_int_equal(ask(a, "x-api-key", "lld_n1_" SECRET_A, "1.1.1.3:1", day + 1000, &other), 401);
    /* an id of both files */
    put(0, "keys:\n- {id: root, tenant: new, sha256: " HASH_A "}\n");
    assert_int_equal(auth_reload(a, &e), ERR_PARSE);
    assert_non_null(strstr(e.msg, "id root stands in"));
    put(0, KEYS);
    assert_int_equal(auth_reload(a, &e), 0);
    assert_int_equal(ask(a, "x-api-key", "lld_a1_" SECRET_A, "1.1.1.3:1", 2 * day, &other), 0);
    auth_identity_put(&other);
    auth_info(a, &info);
    assert_true(info.reloads == 2 && info.reload_failures == 2);
    auth_close(a);
    assert_true(auth_model_allowed(&id, STR("big"))); /* outlives everything */
    auth_identity_put(&id);
}

static struct loop *loop;

static void stop(void *ctx)
{
    (void)ctx;
    loop_stop(loop);
}

static void a_changed_file_is_read_by_itself(void **state)
{
    struct auth_opts o = { .key_file = path[0] };
    struct auth_identity id;
    struct loop_timer *t;
    struct auth_info info;
    struct auth *a;
    uint64_t until = clock_ms() + 8000;

    (void)state;
    put(0, KEYS);
    assert_int_equal(loop_new(&loop, &e), 0);
    assert_int_equal(auth_open(loop, &o, &a, &e), 0);
    put(0, "keys:\n- {id: n1, tenant: new, sha256: " HASH_A "}\n");
    t = loop_timer_new(loop, stop, NULL);
    loop_timer_arm(t, 5, 5);
    do {
        loop_run(loop);
        auth_info(a, &info);
    } while (info.reloads == 0 && clock_ms() < until);
    assert_int_equal(ask(a, "x-api-key", "lld_n1_" SECRET_A, "1.1.1.3:1", 5, &id), 0);
    auth_identity_put(&id);
    auth_close(a);
    loop_timer_free(t);
    loop_free(loop);
}

static void a_new_key_opens_what_its_row_says(void **state)
{
    struct auth_new n = { .tenant = "acme:eu", .models = "small, big", .expires = "2099-12-31" };
    struct buf key, row, file;
    struct auth_identity id;
    struct auth *a;

    (void)state;
    buf_init(&key, 1000);
    buf_init(&row, 10000);
    buf_init(&file, 10000);
    for (int i = 0; i < 50; i++) {
        buf_reset(&key);
        buf_reset(&row);
        buf_reset(&file);
        assert_int_equal(auth_key_new(&n, &key, &row, &e), 0);
        assert_int_equal(key.len, 4 + 10 + 1 + 43);
        buf_f(&file, "keys:\n%.*s", STR_ARG(buf_view(&row)));
        buf_c(&file, 0);
        buf_c(&key, 0);
        assert_null(strstr(file.p, key.p + 15)); /* the secret is not in it */
        a = open_auth(file.p, NULL);
        assert_int_equal(ask(a, "x-api-key", key.p, "1.1.1.1:1", 5, &id), 0);
        assert_true(str_eqz(id.tenant, "acme:eu") && auth_model_allowed(&id, STR("big")) &&
                    !auth_model_allowed(&id, STR("huge")));
        auth_identity_put(&id);
        key.p[20] = key.p[20] == 'x' ? 'y' : 'x';
        assert_int_equal(ask(a, "x-api-key", key.p, "1.1.1.1:1", 5, &id), 401);
        auth_close(a);
    }
    assert_int_equal(auth_key_new(&(struct auth_new) { .tenant = "a\"b" }, &key, &row, &e),
                     ERR_INVAL);
    assert_int_equal(
        auth_key_new(&(struct auth_new) { .tenant = "a", .id = "x_y" }, &key, &row, &e), ERR_INVAL);
    assert_int_equal(
        auth_key_new(&(struct auth_new) { .tenant = "a", .expires = "2027-13-01" }, &key, &row, &e),
        ERR_INVAL);
    buf_fini(&key);
    buf_fini(&row);
    buf_fini(&file);
}

/* ---- limits ---- */

static void requests_refill_evenly(void **state)
{
    struct limiter *l = limiter_new();
    struct limit_rates r = { .requests_per_minute = 60 };
    struct limit_ticket t;
    struct limit_state s;

    (void)state;
    for (int i = 0; i < 60; i++) { /* a minute's worth at once */
        assert_int_equal(limit_admit(l, STR("a"), &r, 1000000, 5000, &t, &s), 0);
        assert_int_equal(s.requests_left, 59 - i);
        limit_settle(l, &t, 5, 5000);
    }
    assert_int_equal(limit_admit(l, STR("a"), &r, 0, 5000, &t, &s), ERR_LIMIT);
    assert_true(s.refused_by == LIMIT_REQUESTS && s.retry_ms == 1000 && t.tenant == NULL);
    assert_int_equal(limit_admit(l, STR("b"), &r, 0, 5000, &t, &s), 0); /* others are not touched */
    assert_int_equal(limit_admit(l, STR("a"), &r, 0, 5999, &t, &s), ERR_LIMIT);
    assert_int_equal(s.retry_ms, 1);
    assert_int_equal(limit_admit(l, STR("a"), &r, 0, 6000, &t, &s), 0);
    assert_int_equal(limit_admit(l, STR("a"), &r, 0, 6000, &t, &s), ERR_LIMIT);
    /* asked every millisecond nothing is lost to rounding: 60 s give 60 requests */
    for (uint64_t ms = 6001, given = 0; ms <= 66000; ms++) {
        given += limit_admit(l, STR("a"), &r, 0, ms, &t, &s) == 0;
        if (ms == 66000)
            assert_int_equal(given, 60);
    }
    limiter_free(l);
}

static void tokens_are_reserved_and_settled(void **state)
{
    struct limiter *l = limiter_new();
    struct limit_rates r = { .tokens_per_minute = 6000 }; /* 100 a second */
    struct limit_ticket t, u;
    struct limit_state s;

    (void)state;
    assert_int_equal(limit_admit(l, STR("a"), &r, 5000, 0, &t, &s), 0);
    assert_int_equal(s.tokens_left, 1000);
    assert_int_equal(limit_admit(l, STR("a"), &r, 1001, 0, &u, &s), ERR_LIMIT);
    assert_true(s.refused_by == LIMIT_TOKENS && s.retry_ms == 10);
    limit_settle(l, &t, 100, 0); /* much less was used */
    assert_int_equal(limit_admit(l, STR("a"), &r, 5900, 0, &t, &s), 0);
    assert_int_equal(s.tokens_left, 0);
    limit_settle(l, &t, 8900, 0); /* and more: a debt of 3000 */
    assert_int_equal(limit_admit(l, STR("a"), &r, 1, 30000, &t, &s), ERR_LIMIT);
    assert_int_equal(limit_admit(l, STR("a"), &r, 1, 30010, &t, &s), 0);
    limit_settle(l, &t, 0, 30010);
    /* more than the bucket holds counts as all of it */
    assert_int_equal(limit_admit(l, STR("a"), &r, 1000000, 89999, &t, &s), ERR_LIMIT);
    assert_int_equal(limit_admit(l, STR("a"), &r, 1000000, 91000, &t, &s), 0);
    limit_settle(l, &t, UINT64_MAX, 91000); /* a wrong count costs a minute's debt */
    assert_int_equal(limit_admit(l, STR("a"), &r, 6000, 91000 + 119999, &t, &s), ERR_LIMIT);
    assert_int_equal(limit_admit(l, STR("a"), &r, 6000, 91000 + 120000, &t, &s), 0);
    limiter_free(l);
}

static void no_more_than_so_many_at_once(void **state)
{
    struct limiter *l = limiter_new();
    struct limit_rates r = { .concurrent = 2 };
    struct limit_ticket t[3];
    struct limit_state s;

    (void)state;
    assert_int_equal(limit_admit(l, STR("a"), &r, 1, 0, &t[0], &s), 0);
    assert_int_equal(limit_admit(l, STR("a"), &r, 1, 0, &t[1], &s), 0);
    assert_int_equal(limit_admit(l, STR("a"), &r, 1, 0, &t[2], &s), ERR_LIMIT);
    assert_int_equal(s.refused_by, LIMIT_CONCURRENT);
    limit_settle(l, &t[2], 0, 0); /* holds nothing: nothing happens */
    limit_settle(l, &t[0], 1, 0);
    limit_settle(l, &t[0], 1, 0); /* zeroed: twice is once */
    assert_int_equal(limit_admit(l, STR("a"), &r, 1, 0, &t[2], &s), 0);
    assert_int_equal(limit_admit(l, STR("a"), &r, 1, 0, &t[0], &s), ERR_LIMIT);
    limiter_free(l);
}

static void a_changed_rate_cuts_the_bucket(void **state)
{
    struct limiter *l = limiter_new();
    struct limit_rates r = { .requests_per_minute = 100 };
    struct limit_ticket t;
    struct limit_state s;

    (void)state;
    assert_int_equal(limit_admit(l, STR("a"), &r, 0, 0, &t, &s), 0);
    r.requests_per_minute = 10;
    assert_int_equal(limit_admit(l, STR("a"), &r, 0, 0, &t, &s), 0);
    assert_int_equal(s.requests_left, 9);
    r.requests_per_minute = UINT64_MAX; /* nothing overflows */
    assert_int_equal(limit_admit(l, STR("a"), &r, 0, 60000, &t, &s), 0);
    limiter_free(l);
}

static void tenants_at_rest_make_room(void **state)
{
    struct limiter *l = limiter_new();
    struct limit_rates r = { .requests_per_minute = 60 };
    struct limit_ticket busy, t;
    struct limit_state s;
    char name[16];

    (void)state;
    assert_int_equal(limit_admit(l, STR("busy"), &r, 0, 0, &busy, &s), 0);
    for (int i = 1; i < LIMIT_TENANTS_MAX; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        assert_int_equal(limit_admit(l, str_of(name), &r, 0, 0, &t, &s), 0);
        limit_settle(l, &t, 0, 0);
    }
    assert_int_equal(limit_admit(l, STR("one more"), &r, 0, 999, &t, &s), ERR_LIMIT);
    assert_int_equal(s.refused_by, LIMIT_TENANTS);
    assert_int_equal(limit_admit(l, STR("one more"), &r, 0, 1000, &t, &s), 0);
    assert_int_equal(limiter_tenants(l), 2); /* and the busy one */
    limit_settle(l, &busy, 0, 1000);
    limiter_free(l);
}

static void answers_say_how_things_stand(void **state)
{
    static const struct {
        const char *name, *value;
    } want[] = {
        { "x-ratelimit-limit-requests", "60" },
        { "x-ratelimit-remaining-requests", "0" },
        { "x-ratelimit-reset-requests", "1m0s" },
        { "x-ratelimit-limit-tokens", "6000" },
        { "x-ratelimit-remaining-tokens", "5850" },
        { "x-ratelimit-reset-tokens", "1.500s" },
        { "Retry-After", "2" },
        { "retry-after-ms", "1500" },
    };
    struct limit_state s = { LIMIT_REQUESTS, 1500, { 60, 6000, 0 }, 0, 5850, 60000, 1500 };
    struct http_header h[LIMIT_HEADERS_MAX];
    struct arena a;
    size_t n;

    (void)state;
    arena_init(&a, 65536);
    n = limit_headers(&s, &a, h);
    assert_int_equal(n, COUNT(want));
    for (size_t i = 0; i < n; i++)
        if (!str_eqz(h[i].name, want[i].name) || !str_eqz(h[i].value, want[i].value))
            fail_msg("%.*s: %.*s", STR_ARG(h[i].name), STR_ARG(h[i].value));
    s = (struct limit_state) { 0 };
    assert_int_equal(limit_headers(&s, &a, h), 0);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_open_and_everything_else_is_401),
        cmocka_unit_test(two_credentials_of_a_kind_are_nobodys),
        cmocka_unit_test(a_key_ends_when_it_says),
        cmocka_unit_test(a_key_opens_its_models_only),
        cmocka_unit_test(twenty_failures_in_a_minute_throttle_an_address),
        cmocka_unit_test(wrong_files_are_refused_with_their_place),
        cmocka_unit_test(limits_of_a_tenant_hold_for_all_its_keys),
        cmocka_unit_test(a_reload_changes_keys_and_no_identity),
        cmocka_unit_test(a_changed_file_is_read_by_itself),
        cmocka_unit_test(a_new_key_opens_what_its_row_says),
        cmocka_unit_test(requests_refill_evenly),
        cmocka_unit_test(tokens_are_reserved_and_settled),
        cmocka_unit_test(no_more_than_so_many_at_once),
        cmocka_unit_test(a_changed_rate_cuts_the_bucket),
        cmocka_unit_test(tenants_at_rest_make_room),
        cmocka_unit_test(answers_say_how_things_stand),
    };

    return cmocka_run_group_tests_name("auth", tests, setup, teardown);
}
