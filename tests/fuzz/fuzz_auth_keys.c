/* Fuzz: key files.  The first byte says whose; what is accepted finds each of its rows, and no key
 * is found that was not given. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "gateway/auth_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct auth_set *s;
    struct str id, secret;
    struct err e;
    bool admin = size != 0 && data[0] == 'a';

    if (size == 0)
        return 0;
    (void)auth_key_split((struct str) { (const char *)data, size }, &id, &secret);
    if (auth_parse((struct str) { (const char *)data + 1, size - 1 }, "f", admin, &s, &e) != 0) {
        ASSERT(s == NULL && e.msg[0] != 0);
        return 0;
    }
    for (size_t i = 0; i < auth_set_count(s); i++) {
        const struct auth_row *r = &s->row[i];

        ASSERT(auth_set_find(s, r->id) == r && r->tenant.n != 0 && r->admin == admin);
        ASSERT(r->weight >= 1 && r->weight <= 1000 && r->all_models == (r->models == NULL));
    }
    ASSERT(auth_set_find(s, STR("_")) == NULL);
    auth_set_put(s);
    return 0;
}
