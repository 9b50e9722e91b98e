/* The state file of a running `llmd up`: names, pids, addresses, states of its parts.
 * It lives in $XDG_RUNTIME_DIR/llmd or /tmp/llmd-UID (mode 0700), one a port. */
// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/file.h"
#include "cmd/cmd.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void up_state_path(uint16_t port, struct buf *out)
{
    const char *run = getenv("XDG_RUNTIME_DIR");
    struct err e;
    struct buf dir;

    buf_init(&dir, 4096);
    if (run != NULL && run[0] == '/' && access(run, W_OK) == 0)
        buf_f(&dir, "%s/llmd", run);
    else
        buf_f(&dir, "/tmp/llmd-%u", (unsigned)getuid());
    buf_c(&dir, 0);
    if (!dir.failed && file_mkdirs(dir.p, &e) == 0)
        buf_f(out, "%s/up-%u.json", dir.p, port);
    buf_c(out, 0);
    buf_fini(&dir);
}

int up_state_write(uint16_t port, const struct up_state *s, struct err *e)
{
    struct json_w w;
    struct buf b, path;
    int rc;

    buf_init(&b, (size_t)1 << 20);
    buf_init(&path, 4096);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_kz(&w, "url", s->url);
    json_w_kz(&w, "model", s->model);
    json_w_ki64(&w, "pid", s->pid);
    json_w_karr(&w, "parts");
    for (size_t i = 0; i < s->count; i++) {
        const struct up_part *p = &s->part[i];

        json_w_obj(&w);
        json_w_kz(&w, "name", p->name);
        json_w_kz(&w, "role", p->role);
        json_w_kz(&w, "address", p->address);
        json_w_ki64(&w, "pid", p->pid);
        json_w_kz(&w, "state", p->state);
        json_w_kz(&w, "reason", p->reason);
        json_w_ku64(&w, "restarts", p->restarts);
        json_w_end(&w, '}');
    }
    json_w_end(&w, ']');
    json_w_end(&w, '}');
    up_state_path(port, &path);
    rc = b.failed || path.failed ? err_set(e, ERR_LIMIT, "state too large")
                                 : file_write(path.p, buf_view(&b), e);
    buf_fini(&path);
    buf_fini(&b);
    return rc;
}

static void copy(const struct json *j, const char *key, char *out, size_t cap)
{
    struct str s;

    if (json_str(json_get(j, key), &s))
        snprintf(out, cap, "%.*s", STR_ARG(s));
}

int up_state_read(uint16_t port, struct up_state *out, struct err *e)
{
    const struct json *j;
    struct arena a;
    struct buf b, path;
    int64_t v;
    int rc;

    *out = (struct up_state) { 0 };
    arena_init(&a, (size_t)4 << 20);
    buf_init(&b, (size_t)1 << 20);
    buf_init(&path, 4096);
    up_state_path(port, &path);
    rc = file_read(path.p, &b, e);
    if (rc == 0)
        rc = json_parse(&a, buf_view(&b), NULL, &j, e);
    if (rc == 0) {
        copy(j, "url", out->url, sizeof(out->url));
        copy(j, "model", out->model, sizeof(out->model));
        out->pid = json_i64(json_get(j, "pid"), &v) ? (int)v : 0;
        for (const struct json *p =
                 json_is(json_get(j, "parts"), JSON_ARRAY) ? json_get(j, "parts")->first : NULL;
             p != NULL && out->count < UP_PARTS_MAX; p = p->next) {
            struct up_part *t = &out->part[out->count++];

            copy(p, "name", t->name, sizeof(t->name));
            copy(p, "role", t->role, sizeof(t->role));
            copy(p, "address", t->address, sizeof(t->address));
            copy(p, "state", t->state, sizeof(t->state));
            copy(p, "reason", t->reason, sizeof(t->reason));
            t->pid = json_i64(json_get(p, "pid"), &v) ? (int)v : 0;
            t->restarts = json_i64(json_get(p, "restarts"), &v) ? (uint32_t)v : 0;
        }
    }
    buf_fini(&path);
    buf_fini(&b);
    arena_fini(&a);
    return rc;
}

void up_state_remove(uint16_t port)
{
    struct buf path;

    buf_init(&path, 4096);
    up_state_path(port, &path);
    unlink(path.p);
    buf_fini(&path);
}
