/* Keys against rows, and the throttle of those who guess.
 *
 * Every check does the same work: one look-up by id, which is no secret, one SHA-256 of what was
 * given, one comparison of 32 bytes that does not stop early; an unknown id is compared with a
 * random row made at start.  Only then it is decided, so that time tells nothing of why.
 *
 * Failures are counted per address (IPv6: per /64) in a table of fixed size, four places a line,
 * where the one with the least to lose makes room.  A request without any credential guesses
 * nothing and is not counted: it could be a probe from behind the same address.
 *
 * Loops share it: the lock guards the pointers to the sets, the throttle and the counts, for some
 * tens of nanoseconds; hashing is done without it.  A set is never changed once it is published.
 *
 * Files that became wrong leave the keys of before in force for a day, counted from the first check
 * that finds them so. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/auth.h"
#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "codec/blockkey.h"
#include "codec/yaml.h"
#include "gateway/auth_priv.h"
#include "net/watch.h"
#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define FAILURES_MAX_DEFAULT 20
#define FAILURES_MS_DEFAULT  60000
#define LINES                1024
#define WAYS                 4
#define STALE_MS_MAX         86400000

struct guesser {
    uint64_t address;  /* hashed; 0: free */
    uint64_t since_ms; /* of the first failure that counts */
    uint64_t until_ms; /* refused until then; 0: not */
    uint32_t failures;
};

struct auth {
    char *file, *admin_file;
    pthread_mutex_t lock;           /* guards everything below, save nobody and seed */
    struct auth_set *keys, *admins; /* NULL: no file given */
    struct watch *watch;
    uint32_t failures_max, failures_ms;
    uint8_t nobody[AUTH_HASH_BYTES];
    uint64_t seed;
    bool stale;           /* a file is wrong: the keys are those of before */
    uint64_t stale_since; /* 0: not looked at yet */
    uint64_t reloads, reload_failures, failures, throttled;
    struct guesser guesser[LINES][WAYS];
};

/* ---- files ---- */

static int set_read(const char *file, bool admin, struct auth_set **out, struct err *e)
{
    struct buf text;
    int rc;

    *out = NULL;
    if (file == NULL)
        return 0;
    buf_init(&text, YAML_BYTES_MAX);
    rc = file_read(file, &text, e);
    if (rc == 0)
        rc = auth_parse(buf_view(&text), file, admin, out, e);
    if (text.p != NULL)
        explicit_bzero(text.p, text.cap);
    buf_fini(&text);
    return rc;
}

/* An id finds one row, whichever file it stands in. */
static int sets_disjoint(const struct auth *a, const struct auth_set *keys,
                         const struct auth_set *admins, struct err *e)
{
    for (size_t i = 0; i < auth_set_count(admins); i++)
        if (auth_set_find(keys, admins->row[i].id) != NULL)
            return err_set(e, ERR_PARSE, "%s:%u: id %.*s stands in %s too", a->admin_file,
                           admins->row[i].line, STR_ARG(admins->row[i].id), a->file);
    return 0;
}

static int load(struct auth *a, struct err *e)
{
    struct auth_set *keys = NULL, *admins = NULL, *old_keys, *old_admins;
    int rc = set_read(a->file, false, &keys, e);

    if (rc == 0)
        rc = set_read(a->admin_file, true, &admins, e);
    if (rc == 0)
        rc = sets_disjoint(a, keys, admins, e);
    if (rc != 0) {
        auth_set_put(keys);
        auth_set_put(admins);
        return rc;
    }
    pthread_mutex_lock(&a->lock);
    old_keys = a->keys;
    old_admins = a->admins;
    a->keys = keys;
    a->admins = admins;
    a->stale = false;
    a->stale_since = 0;
    pthread_mutex_unlock(&a->lock);
    auth_set_put(old_keys);
    auth_set_put(old_admins);
    return 0;
}

int auth_reload(struct auth *a, struct err *e)
{
    int rc = load(a, e);

    pthread_mutex_lock(&a->lock);
    if (rc == 0)
        a->reloads++;
    else
        a->reload_failures++;
    a->stale |= rc != 0;
    pthread_mutex_unlock(&a->lock);
    return rc;
}

static void files_changed(void *ctx)
{
    struct auth *a = ctx;
    struct err e = { 0 };

    if (auth_reload(a, &e) != 0)
        LOG_ERROR("keys not taken, those of before stay why=\"%s\"", e.msg);
    else
        LOG_INFO("keys reloaded keys=%zu admin_keys=%zu", auth_set_count(a->keys),
                 auth_set_count(a->admins));
}

int auth_open(struct loop *l, const struct auth_opts *o, struct auth **out, struct err *e)
{
    struct auth *a;
    int rc;

    *out = NULL;
    if (o->key_file == NULL && o->admin_key_file == NULL)
        return err_set(e, ERR_INVAL, "keys: no file given");
    a = mem_zalloc(sizeof(*a));
    pthread_mutex_init(&a->lock, NULL);
    a->file = o->key_file != NULL ? mem_strdup(o->key_file) : NULL;
    a->admin_file = o->admin_key_file != NULL ? mem_strdup(o->admin_key_file) : NULL;
    a->failures_max = o->failures_max != 0 ? o->failures_max : FAILURES_MAX_DEFAULT;
    a->failures_ms = o->failures_ms != 0 ? o->failures_ms : FAILURES_MS_DEFAULT;
    a->seed = rng_secure_u64();
    rng_secure(a->nobody, sizeof(a->nobody));
    if (l != NULL) { /* before the first reading: a change in between is seen */
        const char *const path[] = { a->file, a->admin_file };

        a->watch = watch_new(l, path, COUNT(path), files_changed, a);
    }
    rc = load(a, e);
    if (rc != 0) {
        auth_close(a);
        return rc;
    }
    *out = a;
    return 0;
}

void auth_close(struct auth *a)
{
    if (a == NULL)
        return;
    watch_free(a->watch);
    auth_set_put(a->keys);
    auth_set_put(a->admins);
    mem_free(a->file);
    mem_free(a->admin_file);
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

void auth_info(struct auth *a, struct auth_info *out)
{
    pthread_mutex_lock(&a->lock);
    *out = (struct auth_info) { auth_set_count(a->keys),
                                auth_set_count(a->admins),
                                a->reloads,
                                a->reload_failures,
                                a->failures,
                                a->throttled };
    pthread_mutex_unlock(&a->lock);
}

/* ---- who guesses ---- */

static uint64_t address_of(const struct auth *a, const char *peer)
{
    struct str host = str_of(peer);
    char text[INET6_ADDRSTRLEN];
    unsigned char b[16];
    uint64_t h;

    while (host.n != 0 && host.p[host.n - 1] != ':') /* the port */
        host.n--;
    host.n -= host.n != 0;
    if (host.n > 2 && host.p[0] == '[')
        host = str_sub(host, 1, host.n - 2);
    h = str_hash(host);
    if (host.n < sizeof(text)) {
        memcpy(text, host.p != NULL ? host.p : "", host.n);
        text[host.n] = 0;
        /* Who has one IPv6 address has 2^64 of them; an IPv4 in its clothes is itself. */
        if (inet_pton(AF_INET6, text, b) == 1 && !IN6_IS_ADDR_V4MAPPED((struct in6_addr *)b))
            h = str_hash((struct str) { (const char *)b, 8 });
    }
    h = map_mix(h ^ a->seed);
    return h != 0 ? h : 1;
}

static struct guesser *guesser_find(const struct auth *a, uint64_t address)
{
    const struct guesser *line = a->guesser[address % LINES];

    for (size_t i = 0; i < WAYS; i++)
        if (line[i].address == address)
            return (struct guesser *)(uintptr_t)&line[i];
    return NULL;
}

static bool worth_less(const struct guesser *x, const struct guesser *y, uint64_t now_ms)
{
    bool x_refused = x->until_ms > now_ms, y_refused = y->until_ms > now_ms;

    if (x_refused != y_refused)
        return y_refused;
    return x->since_ms < y->since_ms;
}

static void guessed_wrong(struct auth *a, uint64_t address, uint64_t now_ms)
{
    struct guesser *line = a->guesser[address % LINES], *g = guesser_find(a, address);

    if (g == NULL) {
        g = &line[0];
        for (size_t i = 0; i < WAYS; i++)
            if (line[i].address == 0 || (g->address != 0 && worth_less(&line[i], g, now_ms)))
                g = &line[i];
        *g = (struct guesser) { .address = address, .since_ms = now_ms };
    }
    if (now_ms - g->since_ms >= a->failures_ms) {
        g->since_ms = now_ms;
        g->failures = 0;
    }
    if (++g->failures >= a->failures_max) {
        g->until_ms = now_ms + a->failures_ms;
        g->since_ms = now_ms;
        g->failures = 0;
    }
}

uint32_t auth_retry_s(struct auth *a, const char *peer, uint64_t now_ms)
{
    const struct guesser *g;
    uint64_t left = 0;

    pthread_mutex_lock(&a->lock);
    g = guesser_find(a, address_of(a, peer));
    if (g != NULL && g->until_ms > now_ms)
        left = g->until_ms - now_ms;
    pthread_mutex_unlock(&a->lock);
    return MAX(1U, (uint32_t)((left + 999) / 1000));
}

/* ---- the check ---- */

enum given { GIVEN_NONE, GIVEN_BAD, GIVEN_KEY };

/* Authorization counts before x-api-key; either given twice is nobody's. */
static enum given credential(const struct http_headers *h, struct str *out)
{
    struct str bearer = STR_NONE, key = STR_NONE;
    size_t bearers = 0, keys = 0;

    for (size_t i = 0; i < h->count; i++) {
        if (str_ieq(h->list[i].name, STR("authorization"))) {
            bearer = h->list[i].value;
            bearers++;
        } else if (str_ieq(h->list[i].name, STR("x-api-key"))) {
            key = h->list[i].value;
            keys++;
        }
    }
    if (bearers + keys == 0)
        return GIVEN_NONE;
    if (bearers > 1 || keys > 1)
        return GIVEN_BAD;
    if (bearers == 0) {
        *out = str_trim(key);
    } else {
        if (!str_ieq(str_sub(bearer, 0, 7), STR("bearer ")))
            return GIVEN_BAD;
        *out = str_trim(str_sub(bearer, 7, SIZE_MAX));
    }
    return out->n != 0 && out->n <= AUTH_CREDENTIAL_MAX ? GIVEN_KEY : GIVEN_BAD;
}

static bool too_stale(struct auth *a, uint64_t now_ms)
{
    if (!a->stale)
        return false;
    if (a->stale_since == 0)
        a->stale_since = now_ms != 0 ? now_ms : 1;
    return now_ms - MIN(a->stale_since, now_ms) >= STALE_MS_MAX;
}

/* The row that the text is a key of, or NULL; always the same work.  Of the two sets the one that
 * the row is in is left in *set. */
static const struct auth_row *match(const struct auth *a, struct str text, struct auth_set *keys,
                                    struct auth_set *admins, struct auth_set **set)
{
    const struct auth_row *row = NULL;
    struct str id = STR_NONE, secret = STR_NONE;
    uint8_t hash[AUTH_HASH_BYTES];
    bool formed = auth_key_split(text, &id, &secret), equal;

    *set = keys;
    if (formed)
        row = auth_set_find(keys, id);
    if (formed && row == NULL) {
        *set = admins;
        row = auth_set_find(admins, id);
    }
    if (!formed)
        secret = text;
    hash_sha256(secret.p, secret.n, hash);
    equal = CRYPTO_memcmp(hash, row != NULL ? row->hash : a->nobody, sizeof(hash)) == 0;
    return equal ? row : NULL;
}

static struct auth_set *hold(struct auth_set *s)
{
    if (s != NULL)
        atomic_fetch_add_explicit(&s->holders, 1, memory_order_relaxed);
    return s;
}

/* The sets in force, held; false: the address is throttled. */
static bool begin(struct auth *a, uint64_t address, uint64_t now_ms, struct auth_set **keys,
                  struct auth_set **admins, bool *usable)
{
    const struct guesser *g;
    bool heard;

    pthread_mutex_lock(&a->lock);
    g = guesser_find(a, address);
    heard = g == NULL || g->until_ms <= now_ms;
    a->throttled += !heard;
    *usable = !too_stale(a, now_ms);
    *keys = heard ? hold(a->keys) : NULL;
    *admins = heard ? hold(a->admins) : NULL;
    pthread_mutex_unlock(&a->lock);
    return heard;
}

static void refused(struct auth *a, enum given given, uint64_t address, uint64_t now_ms)
{
    pthread_mutex_lock(&a->lock);
    a->failures++;
    if (given != GIVEN_NONE)
        guessed_wrong(a, address, now_ms);
    pthread_mutex_unlock(&a->lock);
}

int auth_check(struct auth *a, const struct http_headers *h, const char *peer, uint64_t now_ms,
               double wall_s, struct auth_identity *out)
{
    uint64_t address = address_of(a, peer);
    struct auth_set *keys, *admins, *set;
    const struct auth_row *row;
    struct str text = STR_NONE;
    enum given given = credential(h, &text);
    bool usable;

    *out = (struct auth_identity) { 0 };
    if (!begin(a, address, now_ms, &keys, &admins, &usable))
        return 429;
    row = match(a, given == GIVEN_KEY ? text : STR("-"), keys, admins, &set);
    if (row != NULL && usable && (row->expires == 0 || wall_s < (double)row->expires))
        *out = (struct auth_identity) { .set = hold(set),
                                        .row = (uint32_t)(row - set->row),
                                        .tenant = row->tenant,
                                        .key_id = row->id,
                                        .admin = row->admin,
                                        .priority = row->priority,
                                        .weight = row->weight,
                                        .rates = row->rates };
    else
        refused(a, given, address, now_ms);
    auth_set_put(keys);
    auth_set_put(admins);
    return out->set != NULL ? 0 : 401;
}

bool auth_model_allowed(const struct auth_identity *id, struct str model)
{
    const struct auth_row *row;

    if (id->set == NULL)
        return false;
    row = &id->set->row[id->row];
    for (size_t i = 0; i < row->model_count; i++)
        if (str_eq(row->models[i], model))
            return true;
    return row->all_models;
}

void auth_identity_put(struct auth_identity *id)
{
    auth_set_put(id->set);
    *id = (struct auth_identity) { 0 };
}
