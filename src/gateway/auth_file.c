/* The key file: YAML to rows, and a new key with its row.
 *
 * Everything is checked before anything is taken: a file is right or refused, with the place of its
 * first mistake.  Limits belong to a tenant, so that a second key for a change-over does not double
 * them: the statements of its rows are put together after all rows are read.
 *
 * Plain keys are wiped from the tree as soon as they are hashed, and the file's bytes by who read
 * them. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "codec/blockkey.h"
#include "codec/yaml.h"
#include "gateway/auth_priv.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SET_BYTES_MAX  ((size_t)64 << 20)
#define TREE_BYTES_MAX ((size_t)64 << 20)
#define ID_BYTES_MAX   64
#define NAME_BYTES_MAX 128
#define MODELS_MAX     1024
#define SECRET_BYTES_MIN                                                                           \
    20 /* of a plain key: its hash is unsalted, so it must not be guessable                        \
        */
#define SECRET_RANDOM 32
#define SECRET_DIGITS 43 /* 62^43 > 2^256 */
#define RATE_MAX      1000000000000

static const char base62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static bool id_ok(struct str id)
{
    for (size_t i = 0; i < id.n; i++)
        if (id.p[i] != '-' && (id.p[i] == 0 || strchr(base62, id.p[i]) == NULL))
            return false;
    return id.n != 0 && id.n <= ID_BYTES_MAX;
}

bool auth_key_split(struct str key, struct str *id, struct str *secret)
{
    if (!str_starts(key, STR("lld_")))
        return false;
    *secret = str_sub(key, 4, SIZE_MAX);
    *id = str_cut(secret, '_');
    return secret->p != NULL && secret->n != 0 && id_ok(*id);
}

const struct auth_row *auth_set_find(const struct auth_set *s, struct str id)
{
    uint64_t at;

    return s != NULL && map_gets(&s->ids, id, &at) ? &s->row[at] : NULL;
}

size_t auth_set_count(const struct auth_set *s)
{
    return s != NULL ? s->count : 0;
}

void auth_set_put(struct auth_set *s)
{
    if (s == NULL || atomic_fetch_sub_explicit(&s->holders, 1, memory_order_acq_rel) != 1)
        return;
    map_fini(&s->ids);
    arena_fini(&s->arena);
    mem_free(s);
}

/* ---- single values ---- */

/* Names go into headers, logs and metric labels. */
static bool name_ok(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= ' ' || (unsigned char)s.p[i] >= 127)
            return false;
    return s.n != 0 && s.n <= NAME_BYTES_MAX;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool hex_hash(struct str s, uint8_t out[AUTH_HASH_BYTES])
{
    if (s.n != (size_t)2 * AUTH_HASH_BYTES)
        return false;
    for (size_t i = 0; i < AUTH_HASH_BYTES; i++) {
        int hi = hex_value(s.p[2 * i]), lo = hex_value(s.p[2 * i + 1]);

        if (hi < 0 || lo < 0)
            return false;
        out[i] = (uint8_t)(hi * 16 + lo);
    }
    return true;
}

static bool digits(struct str s, size_t at, size_t n, int *out)
{
    *out = 0;
    for (size_t i = at; i < at + n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        *out = *out * 10 + (s.p[i] - '0');
    }
    return true;
}

/* 2027-01-31 or 2027-01-31T12:00:00Z, and a day that exists. */
static bool date_parse(struct str s, int64_t *out)
{
    struct tm tm = { 0 }, back;
    time_t t;
    bool ok = (s.n == 10 || s.n == 20) && s.p[4] == '-' && s.p[7] == '-' &&
              digits(s, 0, 4, &tm.tm_year) && digits(s, 5, 2, &tm.tm_mon) &&
              digits(s, 8, 2, &tm.tm_mday);

    if (ok && s.n == 20)
        ok = s.p[10] == 'T' && s.p[13] == ':' && s.p[16] == ':' && s.p[19] == 'Z' &&
             digits(s, 11, 2, &tm.tm_hour) && digits(s, 14, 2, &tm.tm_min) &&
             digits(s, 17, 2, &tm.tm_sec);
    if (!ok || tm.tm_year < 1971)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    back = tm;
    t = timegm(&back); /* carries a 31st of June over, and shows it so */
    *out = (int64_t)t;
    return back.tm_mon == tm.tm_mon && back.tm_mday == tm.tm_mday && back.tm_hour == tm.tm_hour &&
           back.tm_min == tm.tm_min && back.tm_sec == tm.tm_sec;
}

/* ---- a row ---- */

static int take_secret(const struct yaml_node *n, struct auth_row *r, struct err *e)
{
    const struct yaml_node *hash = yaml_get(n, "sha256"), *plain = yaml_get(n, "key");
    struct str text, id, secret;
    int rc = 0;

    if ((hash == NULL) == (plain == NULL))
        return yaml_err(n, e, "want sha256 or key, and one of them");
    if (hash != NULL)
        return yaml_str(hash, &text) && hex_hash(text, r->hash)
                   ? 0
                   : yaml_err(hash, e, "sha256 must be 64 hexadecimal digits");
    if (!yaml_str(plain, &text))
        return yaml_err(plain, e, "key must be a text");
    if (!auth_key_split(text, &id, &secret) || !str_eq(id, r->id) || text.n > AUTH_CREDENTIAL_MAX)
        rc = yaml_err(plain, e, "key must have the form lld_<id>_<secret> with the id of this row");
    else if (secret.n < SECRET_BYTES_MIN)
        rc = yaml_err(plain, e, "the secret must have %d characters or more", SECRET_BYTES_MIN);
    else
        hash_sha256(secret.p, secret.n, r->hash);
    explicit_bzero((char *)(uintptr_t)text.p, text.n);
    return rc;
}

static int take_models(struct auth_set *s, const struct yaml_node *n, struct auth_row *r,
                       struct err *e)
{
    struct str *list;

    r->all_models = n == NULL;
    if (n == NULL)
        return 0;
    if (!yaml_is(n, YAML_LIST) || n->count > MODELS_MAX)
        return yaml_err(n, e, "models must be a list of at most %d names", MODELS_MAX);
    list = arena_try_zero(&s->arena, n->count, sizeof(*list));
    if (list == NULL)
        return yaml_err(n, e, "the file is too large");
    r->models = list;
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next) {
        struct str name;

        if (!yaml_str(m, &name) || name.n == 0)
            return yaml_err(m, e, "a model's name must be a text");
        list[r->model_count] = arena_str(&s->arena, name);
        if (list[r->model_count++].p == NULL)
            return yaml_err(m, e, "the file is too large");
    }
    return 0;
}

static int take_number(const struct yaml_node *n, const char *key, int64_t min, int64_t max,
                       int64_t *out, struct err *e)
{
    const struct yaml_node *v = yaml_get(n, key);

    if (v == NULL || (yaml_i64(v, out) && *out >= min && *out <= max))
        return 0;
    return yaml_err(v, e, "%s must be a whole number from %lld to %lld", key, (long long)min,
                    (long long)max);
}

static int take_numbers(const struct yaml_node *n, struct auth_row *r, struct err *e)
{
    int64_t priority = 0, weight = 1, requests = 0, tokens = 0, concurrent = 0;
    const struct yaml_node *expires = yaml_get(n, "expires"), *admin = yaml_get(n, "admin");
    struct str text;
    int rc;

    if ((rc = take_number(n, "priority", -1000, 1000, &priority, e)) != 0 ||
        (rc = take_number(n, "weight", 1, 1000, &weight, e)) != 0 ||
        (rc = take_number(n, "requests_per_minute", 1, RATE_MAX, &requests, e)) != 0 ||
        (rc = take_number(n, "tokens_per_minute", 1, RATE_MAX, &tokens, e)) != 0 ||
        (rc = take_number(n, "concurrent", 1, RATE_MAX, &concurrent, e)) != 0)
        return rc;
    if (expires != NULL && !(yaml_str(expires, &text) && date_parse(text, &r->expires)))
        return yaml_err(expires, e,
                        "expires must be a date like 2027-01-31 or "
                        "2027-01-31T12:00:00Z");
    if (admin != NULL && !yaml_bool(admin, &r->admin))
        return yaml_err(admin, e, "admin must be true or false");
    r->priority = (int32_t)priority;
    r->weight = (uint32_t)weight;
    r->rates = (struct limit_rates) { (uint64_t)requests, (uint64_t)tokens, (uint64_t)concurrent };
    return 0;
}

static int take_row(struct auth_set *s, const struct yaml_node *n, bool admin, struct err *e)
{
    static const char *const known[] = { "id",
                                         "tenant",
                                         "sha256",
                                         "key",
                                         "models",
                                         "priority",
                                         "weight",
                                         "admin",
                                         "expires",
                                         "requests_per_minute",
                                         "tokens_per_minute",
                                         "concurrent",
                                         NULL };
    struct auth_row *r = &s->row[s->count];
    const struct yaml_node *odd = yaml_unknown(n, known), *id = yaml_get(n, "id");
    const struct yaml_node *tenant = yaml_get(n, "tenant");
    struct str text;
    int rc;

    if (!yaml_is(n, YAML_MAP))
        return yaml_err(n, e, "a key must be a map with id, tenant and sha256");
    if (odd != NULL)
        return yaml_err_key(odd, e, "unknown key \"%.*s\"", STR_ARG(str_sub(odd->key, 0, 64)));
    *r = (struct auth_row) { .line = n->line };
    if (!yaml_str(id, &text) || !id_ok(text))
        return yaml_err(id != NULL ? id : n, e, "id must be 1..%d letters, digits or '-'",
                        ID_BYTES_MAX);
    r->id = arena_str(&s->arena, text);
    if (auth_set_find(s, text) != NULL)
        return yaml_err(id, e, "id %.*s comes twice, first in line %u", STR_ARG(text),
                        auth_set_find(s, text)->line);
    text = admin && tenant == NULL ? STR("admin") : STR_NONE;
    if (text.p == NULL && (!yaml_str(tenant, &text) || !name_ok(text)))
        return yaml_err(tenant != NULL ? tenant : n, e,
                        "tenant must be 1..%d visible ASCII characters", NAME_BYTES_MAX);
    r->tenant = arena_str(&s->arena, text);
    if (r->id.p == NULL || r->tenant.p == NULL)
        return yaml_err(n, e, "the file is too large");
    if ((rc = take_secret(n, r, e)) != 0 ||
        (rc = take_models(s, yaml_get(n, "models"), r, e)) != 0 ||
        (rc = take_numbers(n, r, e)) != 0)
        return rc;
    if (r->admin != admin)
        return yaml_err(n, e,
                        admin ? "every key of an administrators' file says admin: true"
                              : "administrators' keys stand in a file of their own");
    if (!map_puts(&s->ids, r->id, s->count))
        return err_set(e, ERR_NOMEM, "%s: no memory", n->file);
    s->count++;
    return 0;
}

/* ---- the limits of a tenant ---- */

static bool agree(uint64_t *all, uint64_t one)
{
    if (one != 0 && *all != 0 && one != *all)
        return false;
    if (one != 0)
        *all = one;
    return true;
}

static int join_limits(struct auth_set *s, const char *file, struct err *e)
{
    struct map first = { 0 }; /* tenant -> its first row, which gathers the statements */
    int rc = 0;

    for (uint32_t i = 0; i < s->count && rc == 0; i++) {
        struct limit_rates *mine = &s->row[i].rates, *all;
        uint64_t at = i;

        if (!map_gets(&first, s->row[i].tenant, &at)) {
            if (!map_puts(&first, s->row[i].tenant, i))
                rc = err_set(e, ERR_NOMEM, "%s: no memory", file);
            continue;
        }
        all = &s->row[at].rates;
        if (!agree(&all->requests_per_minute, mine->requests_per_minute) ||
            !agree(&all->tokens_per_minute, mine->tokens_per_minute) ||
            !agree(&all->concurrent, mine->concurrent))
            rc =
                err_set(e, ERR_PARSE,
                        "%s:%u: the limits of tenant %.*s differ from those of another of its keys",
                        file, s->row[i].line, STR_ARG(s->row[i].tenant));
    }
    for (uint32_t i = 0; i < s->count && rc == 0; i++) {
        uint64_t at = i;

        (void)map_gets(&first, s->row[i].tenant, &at);
        s->row[i].rates = s->row[at].rates;
    }
    map_fini(&first);
    return rc;
}

/* Wherever reading stopped, no plain key stays behind in the tree. */
static void wipe_plain(const struct yaml_node *keys)
{
    if (!yaml_is(keys, YAML_LIST))
        return;
    for (const struct yaml_node *n = keys->first; n != NULL; n = n->next) {
        const struct yaml_node *plain = yaml_get(n, "key");

        if (yaml_is(plain, YAML_SCALAR))
            explicit_bzero((char *)(uintptr_t)plain->text.p, plain->text.n);
    }
}

static int fill(struct auth_set *s, const struct yaml_node *root, bool admin, struct err *e)
{
    static const char *const known[] = { "keys", NULL };
    const struct yaml_node *odd = yaml_unknown(root, known), *keys = yaml_get(root, "keys");
    int rc = 0;

    if (odd != NULL)
        return yaml_err_key(odd, e, "unknown key \"%.*s\"", STR_ARG(str_sub(odd->key, 0, 64)));
    if (!yaml_is(keys, YAML_LIST))
        return yaml_err(keys != NULL ? keys : root, e, "want a list under keys:");
    if (keys->count > AUTH_KEYS_MAX)
        return yaml_err(keys, e, "more than %d keys", AUTH_KEYS_MAX);
    s->row = arena_try_zero(&s->arena, keys->count, sizeof(*s->row));
    if (s->row == NULL)
        return yaml_err(keys, e, "the file is too large");
    for (const struct yaml_node *n = keys->first; n != NULL && rc == 0; n = n->next)
        rc = take_row(s, n, admin, e);
    return rc != 0 ? rc : join_limits(s, root->file, e);
}

int auth_parse(struct str text, const char *file, bool admin, struct auth_set **out, struct err *e)
{
    struct auth_set *s = mem_zalloc(sizeof(*s));
    const struct yaml_node *root;
    struct arena tree;
    int rc;

    *out = NULL;
    s->holders = 1;
    arena_init(&s->arena, SET_BYTES_MAX);
    arena_init(&tree, TREE_BYTES_MAX);
    rc = yaml_parse(&tree, text, file, &root, e);
    if (rc == 0) {
        rc = fill(s, root, admin, e);
        wipe_plain(yaml_get(root, "keys"));
    }
    arena_fini(&tree);
    if (rc == 0)
        *out = s;
    else
        auth_set_put(s);
    return rc;
}

/* ---- a new key ---- */

/* A big number in base 62, all digits: the bytes are divided by 62 again and again. */
static void to_base62(uint8_t *bytes, size_t n, char *out, size_t count)
{
    for (size_t d = count; d-- > 0;) {
        unsigned rest = 0;

        for (size_t i = 0; i < n; i++) {
            unsigned v = rest * 256 + bytes[i];

            bytes[i] = (uint8_t)(v / 62);
            rest = v % 62;
        }
        out[d] = base62[rest];
    }
}

static int row_write(const struct auth_new *n, const char *id, const uint8_t *hash, struct buf *row,
                     struct err *e)
{
    struct str rest = str_of(n->models);
    int64_t when;

    buf_f(row, "- id: %s\n  tenant: \"%s\"\n  sha256: ", id, n->tenant);
    for (size_t i = 0; i < AUTH_HASH_BYTES; i++)
        buf_f(row, "%02x", hash[i]);
    buf_c(row, '\n');
    if (n->models != NULL) {
        buf_z(row, "  models: [");
        for (bool more = false; rest.p != NULL; more = true) {
            struct str name = str_trim(str_cut(&rest, ','));

            if (!name_ok(name) || strpbrk(n->models, "\"\\") != NULL)
                return err_set(e, ERR_INVAL, "models: want names, comma-separated");
            buf_f(row, "%s\"%.*s\"", more ? ", " : "", STR_ARG(name));
        }
        buf_z(row, "]\n");
    }
    if (n->expires != NULL) {
        if (!date_parse(str_of(n->expires), &when))
            return err_set(e, ERR_INVAL, "expires: want a date like 2027-01-31");
        buf_f(row, "  expires: %s\n", n->expires);
    }
    if (n->admin)
        buf_z(row, "  admin: true\n");
    return row->failed ? err_set(e, ERR_LIMIT, "the row is too long") : 0;
}

int auth_key_new(const struct auth_new *n, struct buf *key, struct buf *row, struct err *e)
{
    uint8_t random[SECRET_RANDOM], hash[AUTH_HASH_BYTES];
    char secret[SECRET_DIGITS], id[ID_BYTES_MAX + 1] = { 0 };
    int rc;

    if (n->tenant == NULL || !name_ok(str_of(n->tenant)) || strpbrk(n->tenant, "\"\\") != NULL)
        return err_set(e, ERR_INVAL, "tenant: want 1..%d visible ASCII characters", NAME_BYTES_MAX);
    if (n->id != NULL && !id_ok(str_of(n->id)))
        return err_set(e, ERR_INVAL, "id: want 1..%d letters, digits or '-'", ID_BYTES_MAX);
    rng_secure(random, sizeof(random));
    if (n->id != NULL)
        memcpy(id, n->id, strlen(n->id));
    else
        to_base62(random, 8, id, 10);
    rng_secure(random, sizeof(random));
    to_base62(random, sizeof(random), secret, sizeof(secret));
    hash_sha256(secret, sizeof(secret), hash);
    rc = row_write(n, id, hash, row, e);
    if (rc == 0 && !buf_f(key, "lld_%s_%.*s", id, SECRET_DIGITS, secret))
        rc = err_set(e, ERR_LIMIT, "no room for the key");
    explicit_bzero(random, sizeof(random));
    explicit_bzero(secret, sizeof(secret));
    return rc;
}
