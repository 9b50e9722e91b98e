/* llmd key: makes API keys, and checks the file that holds their hashes. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "cmd/cmd.h"
#include "codec/yaml.h"
#include "gateway/auth.h"
#include <stdio.h>
#include <string.h>

struct key_opts {
    const char *tenant, *id, *models, *expires;
    bool admin;
};

static const struct opt_desc table[] = {
    { "tenant", OPT_STR, offsetof(struct key_opts, tenant), NULL, "NAME", 0, 0,
      "new: who the key belongs to (with --admin: default admin)" },
    { "id", OPT_STR, offsetof(struct key_opts, id), NULL, "ID", 0, 0,
      "new: its name in logs; default: a fresh one" },
    { "models", OPT_STR, offsetof(struct key_opts, models), NULL, "A,B", 0, 0,
      "new: what it may ask for; default: every model" },
    { "expires", OPT_STR, offsetof(struct key_opts, expires), NULL, "DATE", 0, 0,
      "new: when it ends, 2027-01-31 or 2027-01-31T12:00:00Z" },
    { "admin", OPT_BOOL, offsetof(struct key_opts, admin), NULL, NULL, 0, 0,
      "an administrator's key, or an administrators' file" },
};

static const char usage[] =
    "usage: llmd key new --tenant NAME [--models A,B] [--expires DATE]   a key, and its row\n"
    "       llmd key check FILE [--admin]                                is the file right?";

static int key_new(const struct key_opts *o)
{
    struct auth_new n = { o->tenant == NULL && o->admin ? "admin" : o->tenant, o->id, o->models,
                          o->expires, o->admin };
    struct buf key, row;
    struct err e;
    int rc;

    if (n.tenant == NULL) {
        fprintf(stderr, "llmd: key new: say --tenant NAME\n");
        return 2;
    }
    buf_init(&key, 4096);
    buf_init(&row, 65536);
    rc = auth_key_new(&n, &key, &row, &e);
    if (rc != 0)
        rc = cmd_fail(&e);
    else
        printf("# The key, shown once; give it to the tenant: %.*s\n# Its row, for the key file:\n"
               "keys:\n%.*s",
               STR_ARG(buf_view(&key)), STR_ARG(buf_view(&row)));
    if (key.p != NULL)
        explicit_bzero(key.p, key.cap);
    buf_fini(&key);
    buf_fini(&row);
    return rc;
}

static int key_check(const char *path, bool admin)
{
    struct auth_set *s = NULL;
    struct buf text;
    struct err e;
    int rc;

    buf_init(&text, YAML_BYTES_MAX);
    rc = file_read(path, &text, &e);
    if (rc == 0)
        rc = auth_parse(buf_view(&text), path, admin, &s, &e);
    if (rc != 0)
        rc = cmd_fail(&e);
    else
        printf("ok: %zu keys\n", auth_set_count(s));
    if (text.p != NULL)
        explicit_bzero(text.p, text.cap);
    buf_fini(&text);
    auth_set_put(s);
    return rc;
}

int cmd_key(int argc, char **argv)
{
    struct key_opts o = { 0 };
    struct opt_list rest = { 0 };
    int rc = cmd_options(usage, &o, table, COUNT(table), argc, argv, &rest);

    if (rc >= 0)
        return rc;
    if (rest.count == 1 && strcmp(rest.item[0], "new") == 0)
        return key_new(&o);
    if (rest.count == 2 && strcmp(rest.item[0], "check") == 0)
        return key_check(rest.item[1], o.admin);
    fprintf(stderr, "%s\n", usage);
    return 2;
}
