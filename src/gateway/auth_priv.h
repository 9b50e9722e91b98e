/* gateway/auth_priv.h - the rows of a key file, for auth.c and auth_file.c. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_AUTH_PRIV_H
#define GATEWAY_AUTH_PRIV_H
#include "base/map.h"
#include "gateway/auth.h"

#define AUTH_HASH_BYTES 32

struct auth_row {
    struct str id, tenant;
    uint8_t hash[AUTH_HASH_BYTES]; /* SHA-256 of the secret */
    const struct str *models;
    size_t model_count;
    bool all_models, admin;
    int32_t priority;
    uint32_t weight;
    int64_t expires; /* seconds since 1970; 0: never */
    struct limit_rates rates;
    uint32_t line; /* where it stands, for complaints */
};

/* One file's rows.  Counted: each identity holds one, so that a reload leaves them alone. */
struct auth_set {
    _Atomic uint32_t holders; /* the last to let go frees: acq_rel in auth_set_put */
    struct arena arena;       /* all texts and rows */
    struct auth_row *row;
    uint32_t count;
    struct map ids; /* id -> row */
};

/* The row of an id, or NULL. */
const struct auth_row *auth_set_find(const struct auth_set *s, struct str id);
/* Cuts lld_<id>_<secret>.  false: not of that form. */
bool auth_key_split(struct str key, struct str *id, struct str *secret);
#endif
