/* llmd status: every part and endpoint of a running llmd, asked directly.
 *
 * Two sources are put together: the scheduler's own view (/v1/status: used, or
 * not used because) and the record of llmd up (pids, restarts).  A part that
 * does not answer is listed as such: silence is a state too. */
// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/check.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct opts {
    const char *url;
    bool json;
};

static const struct opt_desc table[] = {
    { "url", OPT_STR, offsetof(struct opts, url), CMD_URL_DEFAULT, "URL", 0, 0,
      "where llmd answers" },
    { "json", OPT_BOOL, offsetof(struct opts, json), "false", NULL, 0, 0, "for programs" },
};

struct row {
    struct up_part p;
    double blocks_in_use;
    bool has_blocks;
    char model[256];
};

struct rows {
    struct row row[UP_PARTS_MAX];
    size_t count;
};

static struct row *find(struct rows *rows, const char *address)
{
    for (size_t i = 0; i < rows->count; i++)
        if (strcmp(rows->row[i].p.address, address) == 0)
            return &rows->row[i];
    return NULL;
}

/* The scheduler's view of endpoints: adds those that llmd up does not know, and reasons. */
static void merge_scheduler(struct rows *rows, const struct json *status)
{
    const struct json *parts = json_get(status, "parts");

    for (const struct json *j = json_is(parts, JSON_ARRAY) ? parts->first : NULL; j != NULL;
         j = j->next) {
        struct str address = STR_NONE, state = STR_NONE, reason = STR_NONE, role = STR_NONE,
                   name = STR_NONE;
        char text[300];
        struct row *r;

        (void)json_str(json_get(j, "address"), &address);
        (void)json_str(json_get(j, "state"), &state);
        (void)json_str(json_get(j, "reason"), &reason);
        (void)json_str(json_get(j, "role"), &role);
        (void)json_str(json_get(j, "name"), &name);
        snprintf(text, sizeof(text), "%.*s", STR_ARG(address));
        r = find(rows, text);
        if (r == NULL && rows->count < UP_PARTS_MAX) {
            r = &rows->row[rows->count++];
            snprintf(r->p.address, sizeof(r->p.address), "%s", text);
            snprintf(r->p.role, sizeof(r->p.role), "%.*s", STR_ARG(role));
            snprintf(r->p.name, sizeof(r->p.name), "%.*s", STR_ARG(name.n != 0 ? name : role));
        }
        if (r == NULL)
            continue;
        snprintf(r->p.state, sizeof(r->p.state), "%.*s", STR_ARG(state));
        if (reason.n != 0)
            snprintf(r->p.reason, sizeof(r->p.reason), "%.*s", STR_ARG(reason));
    }
}

/* Whether the part says that it is ready.  Workers of others have no such page, but /health. */
static int ask_ready(const struct endpoint *at, int *status, struct buf *b, struct err *e)
{
    int rc = endpoint_get(at, "/health/ready", 1000, status, b, e);

    if (rc == 0 && (*status == 404 || *status == 405))
        rc = endpoint_get(at, "/health", 1000, status, b, e);
    return rc;
}

/* Asks the part itself: ready, and its ledger. */
static void ask_part(struct row *r)
{
    struct endpoint at;
    struct buf b;
    struct err e;
    int status = 0;

    if (strcmp(r->p.state, "not_used") == 0 || endpoint_parse_url(r->p.address, &at, &e) != 0)
        return;
    buf_init(&b, (size_t)4 << 20);
    if (ask_ready(&at, &status, &b, &e) != 0) {
        if (strcmp(r->p.state, "frozen") != 0) { /* the scheduler knows more */
            snprintf(r->p.state, sizeof(r->p.state), "unreachable");
            snprintf(r->p.reason, sizeof(r->p.reason), "does not answer");
        }
    } else if (status != 200) {
        snprintf(r->p.state, sizeof(r->p.state), "not ready");
        if (r->p.reason[0] == 0)
            snprintf(r->p.reason, sizeof(r->p.reason),
                     "answers %d to the question whether it is ready", status);
    } else if (r->p.state[0] == 0 || strcmp(r->p.state, "starting") == 0 ||
               strcmp(r->p.state, "dead") == 0) {
        snprintf(r->p.state, sizeof(r->p.state), "ready");
    }
    buf_reset(&b);
    if (status != 0 && endpoint_get(&at, "/metrics", 1000, &status, &b, &e) == 0 && status == 200 &&
        str_find(buf_view(&b), STR("\nllmd_blocks_in_use ")) != SIZE_MAX) {
        r->has_blocks = true;
        r->blocks_in_use = prom_sum(buf_view(&b), "llmd_blocks_in_use", NULL);
    }
    buf_fini(&b);
}

static void print_json(const char *url, const char *model, const struct rows *rows)
{
    struct json_w w;
    struct buf b;

    buf_init(&b, (size_t)1 << 20);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_kz(&w, "url", url);
    json_w_kz(&w, "model", model);
    json_w_karr(&w, "parts");
    for (size_t i = 0; i < rows->count; i++) {
        const struct row *r = &rows->row[i];

        json_w_obj(&w);
        json_w_kz(&w, "name", r->p.name);
        json_w_kz(&w, "role", r->p.role);
        json_w_kz(&w, "address", r->p.address);
        if (r->p.pid != 0)
            json_w_ki64(&w, "pid", r->p.pid);
        else
            json_w_knull(&w, "pid");
        json_w_kz(&w, "state", r->p.state);
        json_w_kz(&w, "reason", r->p.reason);
        if (r->has_blocks)
            json_w_kf64(&w, "blocks_in_use", r->blocks_in_use);
        else
            json_w_knull(&w, "blocks_in_use");
        json_w_ku64(&w, "restarts", r->p.restarts);
        json_w_end(&w, '}');
    }
    json_w_end(&w, ']');
    json_w_end(&w, '}');
    printf("%.*s\n", STR_ARG(buf_view(&b)));
    buf_fini(&b);
}

static void print_table(const char *url, const char *model, const struct rows *rows)
{
    printf("%s  %s\n%-14s %-10s %-22s %8s %-12s %9s  %s\n", url, model, "NAME", "ROLE", "ADDRESS",
           "PID", "STATE", "KV BLOCKS", "REASON");
    for (size_t i = 0; i < rows->count; i++) {
        const struct row *r = &rows->row[i];
        char pid[16] = "-", blocks[16] = "-";

        if (r->p.pid != 0)
            snprintf(pid, sizeof(pid), "%d", r->p.pid);
        if (r->has_blocks)
            snprintf(blocks, sizeof(blocks), "%.0f", r->blocks_in_use);
        printf("%-14s %-10s %-22s %8s %-12s %9s  %s\n", r->p.name, r->p.role, r->p.address, pid,
               r->p.state, blocks, r->p.reason);
    }
}

int cmd_status(int argc, char **argv)
{
    struct opts o = { 0 };
    struct endpoint at;
    struct up_state *up = mem_zalloc(sizeof(*up));
    struct rows *rows = mem_zalloc(sizeof(*rows));
    const struct json *j = NULL;
    struct arena a;
    struct buf b;
    struct err e = { 0 };
    int status,
        rc = cmd_options(
            "usage: llmd status [--url URL] [--json]\n\nThe key in $LLMD_API_KEY is shown to it.",
            &o, table, COUNT(table), argc, argv, NULL);
    bool known;

    arena_init(&a, (size_t)16 << 20);
    buf_init(&b, (size_t)4 << 20);
    if (rc >= 0)
        goto out;
    rc = endpoint_parse_url(o.url, &at, &e);
    if (rc != 0) {
        rc = cmd_fail(&e);
        goto out;
    }
    endpoint_take_key(&at);
    known = up_state_read(at.port, up, &e) == 0;
    for (size_t i = 0; known && i < up->count; i++)
        rows->row[rows->count++].p = up->part[i];
    rc = endpoint_get(&at, "/v1/status", 2000, &status, &b, &e);
    if (rc != 0 && !known) {
        fprintf(stderr, "llmd: nothing answers on %s; start it with: llmd up\n", o.url);
        rc = 1;
        goto out;
    }
    if (rc == 0 && status != 200 && !known) {
        fprintf(stderr,
                "llmd: %s answers %d to /v1/status; where there are API keys only an administrator "
                "sees it: put a key of --admin-key-file into LLMD_API_KEY\n",
                o.url, status);
        rc = 1;
        goto out;
    }
    if (rc == 0 && json_parse(&a, buf_view(&b), NULL, &j, &e) == 0)
        merge_scheduler(rows, j);
    for (size_t i = 0; i < rows->count; i++)
        ask_part(&rows->row[i]);
    (o.json ? print_json : print_table)(o.url, up->model, rows);
    rc = 0;
out:
    buf_fini(&b);
    arena_fini(&a);
    mem_free(rows);
    mem_free(up);
    return rc;
}
