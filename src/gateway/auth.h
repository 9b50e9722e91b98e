/* gateway/auth.h - who a request comes from: API keys per tenant, from a file.
 *
 * A key is lld_<id>_<secret>: the id finds its row, the SHA-256 of the secret is compared with the
 * row's in constant time, and an unknown id is compared with a row that nothing equals.  The file
 * (YAML, or JSON) holds hashes:
 *
 *   keys:
 *   - id: k3Vq8TzL0a            # 1..64 letters, digits, '-'
 *     tenant: acme
 *     sha256: 9f86d0...         # hex; or `key: lld_...` in plain, discouraged, wiped after loading
 *     models: [a, b]            # default: all
 *     priority: 0               # -1000..1000, higher first
 *     weight: 1                 # its share among tenants, 1..1000
 *     expires: 2027-01-31       # or with a time: 2027-01-31T12:00:00Z
 *     requests_per_minute: 600  # these three belong to the tenant: its keys must agree
 *     tokens_per_minute: 100000
 *     concurrent: 32
 *     admin: false
 *
 * Administrators' keys stand in a file of their own, each with `admin: true`; such a row in the
 * tenants' file is refused, and so is one without it in the other.  Both files are watched; one
 * that is wrong is refused whole, logged and counted, and the keys before it go on for 24 hours.
 *
 * Requirements AUTH-01, 02, 04, 05.  Threads: auth_check, auth_retry_s, auth_info
 * and all of identities and sets from any; auth_open, auth_reload and auth_close on the one loop
 * that watches. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_AUTH_H
#define GATEWAY_AUTH_H
#include "gateway/limit.h"
#include "net/http.h"
#include "net/loop.h"

#define AUTH_CHALLENGE      "Bearer" /* WWW-Authenticate of a 401 */
#define AUTH_KEYS_MAX       10000
#define AUTH_CREDENTIAL_MAX 512

struct auth;
struct auth_set;

struct auth_opts {
    const char *key_file, *admin_key_file; /* copied; NULL: none of these keys */
    uint32_t failures_max;                 /* from one address in failures_ms; 0 = 20 */
    uint32_t failures_ms;                  /* also how long it is refused then; 0 = 60 s */
};

struct auth_identity {
    struct auth_set *set; /* held */
    uint32_t row;
    struct str tenant, key_id; /* valid while it is held */
    bool admin;
    int32_t priority;
    uint32_t weight;
    struct limit_rates rates;
};

struct auth_info {
    size_t keys, admin_keys;
    uint64_t reloads, reload_failures;
    uint64_t failures, throttled; /* 401s and 429s */
};

/* l NULL: files are not watched.  Returns 0, ERR_INVAL (no file), or why a file is wrong. */
int auth_open(struct loop *l, const struct auth_opts *o, struct auth **out,
              struct err *e) MUST_CHECK;
void auth_close(struct auth *a); /* NULL is fine; identities may outlive it */
/* Reads the files again now.  On an error the old keys stay, and it was counted. */
int auth_reload(struct auth *a, struct err *e);
void auth_info(struct auth *a, struct auth_info *out);

/* peer: http_req_peer().  now_ms: of a clock that never goes back; wall_s: seconds since 1970.
 * Returns 0 and *out (to be put), or the status to answer: 401 or 429. */
int auth_check(struct auth *a, const struct http_headers *h, const char *peer, uint64_t now_ms,
               double wall_s, struct auth_identity *out) MUST_CHECK;
/* Seconds until a throttled address is heard again, >= 1. */
uint32_t auth_retry_s(struct auth *a, const char *peer, uint64_t now_ms);
bool auth_model_allowed(const struct auth_identity *id, struct str model);
/* Zeroes it; a zeroed one is fine. */
void auth_identity_put(struct auth_identity *id);

/* ---- the file ---- */

/* As auth_open reads one: for tools and tests.  Freed with auth_set_put. */
int auth_parse(struct str text, const char *file, bool admin, struct auth_set **out,
               struct err *e) MUST_CHECK;
size_t auth_set_count(const struct auth_set *s);
void auth_set_put(struct auth_set *s); /* NULL is fine */

struct auth_new {
    const char *tenant;
    const char *id;      /* NULL: a fresh one */
    const char *models;  /* comma-separated; NULL: all */
    const char *expires; /* as in the file; NULL: never */
    bool admin;
};
/* A fresh key: itself into key, its row (for the list under `keys:`) into row. */
int auth_key_new(const struct auth_new *n, struct buf *key, struct buf *row,
                 struct err *e) MUST_CHECK;
#endif
