/* llmd check: what llmd up would say of these flags, without starting anything. */
// SPDX-License-Identifier: Apache-2.0
#include "cmd/up.h"
#include <stdio.h>

int cmd_check(int argc, char **argv)
{
    struct up_opts o = { 0 };
    struct buf path, out;
    uint32_t errors;
    int rc = cmd_options("usage: llmd check [the flags of llmd up]", &o, up_table, up_table_count,
                         argc, argv, NULL);

    if (rc >= 0)
        return rc;
    buf_init(&path, 4096);
    buf_init(&out, (size_t)1 << 20);
    errors = up_validate(&o, &path, &out);
    printf("%.*s", STR_ARG(buf_view(&out)));
    if (errors == 0)
        printf("ok: llmd up would start with these flags\n");
    buf_fini(&out);
    buf_fini(&path);
    return errors != 0;
}
