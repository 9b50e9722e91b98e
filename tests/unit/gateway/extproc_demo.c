/* A picker for tests: extproc_demo GRPC_PORT ENDPOINT...  takes the endpoints in turn and tells on
 * standard output what happens, one line an event.  The request says how it wants to be treated:
 *
 *   x-test-refuse: N     an immediate response with status N
 *   x-test-delay-ms: N   the answer comes later
 *   x-test-skip: 1       no processing of the response
 *   x-test-rename: A=B   model A of the response becomes B
 *   x-test-body: TEXT    replaces the request's body
 *
 * SIGTERM drains. */
// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "gateway/extproc.h"
#include "gateway/health_grpc.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

static struct loop *loop;
static struct grpc_server *server;
static struct loop_timer *leaving;
static char **endpoint;
static size_t endpoint_count, next_endpoint, open_requests;
static bool draining;

struct job {
    struct extproc_stream *s;
    struct loop_timer *later;
    struct str destination, rename, body;
    size_t request_bytes, response_bytes;
    char *text[3];
    bool skip, has_body;
    uint64_t refuse;
};

static void answer(void *ctx)
{
    struct job *j = ctx;
    struct extproc_header reason = { STR(EXTPROC_REASON_HEADER), STR("rejected-saturated") };
    struct extproc_header set[] = { { STR("x-test-added"), STR("yes") } };
    struct extproc_score score = { j->destination, 0.5 };
    struct extproc_pick pick = { .destination = j->destination,
                                 .set = set,
                                 .set_count = COUNT(set),
                                 .score = &score,
                                 .score_count = 1,
                                 .has_body = j->has_body,
                                 .body = j->body,
                                 .skip_response = j->skip };

    if (j->refuse != 0) {
        extproc_refuse(j->s, (int)j->refuse, STR("inference error: test"), &reason, 1);
        return;
    }
    pick.model_shown = j->rename;
    pick.model_sent = str_cut(&pick.model_shown, '=');
    extproc_continue(j->s, &pick);
}

static struct str copy(struct job *j, size_t slot, struct str s)
{
    j->text[slot] = str_dup(s);
    return (struct str) { j->text[slot], s.n };
}

static void request(void *ctx, struct extproc_stream *s, const struct extproc_request *q)
{
    struct job *j = mem_zalloc(sizeof(*j));
    uint64_t delay = 0;

    (void)ctx;
    open_requests++;
    j->s = s;
    extproc_set(s, j);
    j->request_bytes = q->body.n;
    j->destination = str_of(endpoint[next_endpoint++ % endpoint_count]);
    for (size_t i = 0; i < q->header_count; i++) {
        struct str name = q->header[i].name, value = q->header[i].value;

        if (str_eqz(name, "x-test-refuse"))
            (void)str_u64(value, &j->refuse);
        else if (str_eqz(name, "x-test-delay-ms"))
            (void)str_u64(value, &delay);
        else if (str_eqz(name, "x-test-skip"))
            j->skip = true;
        else if (str_eqz(name, "x-test-rename"))
            j->rename = copy(j, 0, value);
        else if (str_eqz(name, "x-test-body")) {
            j->body = copy(j, 1, value);
            j->has_body = true;
        }
    }
    printf("request path=%.*s bytes=%zu bodyless=%d subset=%d\n", STR_ARG(q->path), q->body.n,
           q->bodyless, q->has_subset ? (int)q->subset_count : -1);
    fflush(stdout);
    j->later = loop_timer_new(loop, answer, j);
    if (delay != 0)
        loop_timer_arm(j->later, delay, 0);
    else
        answer(j);
}

static void response_headers(void *ctx, struct extproc_stream *s, const struct extproc_response *r)
{
    (void)ctx;
    (void)r;
    extproc_response_set(s, STR("x-test-response"), STR("seen"));
}

static void response_body(void *ctx, struct extproc_stream *s, struct str bytes, bool end)
{
    struct job *j = extproc_get(s);

    (void)ctx;
    (void)end;
    j->response_bytes += bytes.n;
}

static void done(void *ctx, struct extproc_stream *s, enum extproc_cause cause)
{
    static const char *const names[] = { "natural", "client_disconnect", "error" };
    struct job *j = extproc_get(s);

    (void)ctx;
    printf("done cause=%s request=%zu response=%zu open=%zu\n", names[cause], j->request_bytes,
           j->response_bytes, --open_requests);
    fflush(stdout);
    loop_timer_free(j->later);
    for (size_t i = 0; i < COUNT(j->text); i++)
        mem_free(j->text[i]);
    mem_free(j);
}

static enum health_status health(void *ctx, struct str service)
{
    (void)ctx;
    if (str_eqz(service, "nobody"))
        return HEALTH_SERVICE_UNKNOWN;
    return draining ? HEALTH_NOT_SERVING : HEALTH_SERVING;
}

static void leave_when_empty(void *ctx)
{
    (void)ctx;
    if (grpc_server_streams(server) == 0)
        loop_stop(loop);
}

static void terminated(void *ctx)
{
    (void)ctx;
    draining = true;
    grpc_server_drain(server);
    loop_timer_arm(leaving, 1500, 100);
}

int main(int argc, char **argv)
{
    static const struct extproc_ops ops = { request, response_headers, response_body, done };
    static const char *const names[] = { EXTPROC_SERVICE };
    struct health_grpc health_rows = { health, NULL, names, COUNT(names) };
    struct grpc_method method[1 + HEALTH_GRPC_METHODS];
    struct grpc_server_opts opts = { 0 };
    struct extproc_opts x_opts = { 0 };
    struct extproc *x;
    uint64_t port;
    struct err e;

    if (argc < 3 || !str_u64(str_of(argv[1]), &port) || port > 65535 || loop_new(&loop, &e) != 0)
        return 2;
    endpoint = argv + 2;
    endpoint_count = (size_t)argc - 2;
    opts.port = (uint16_t)port;
    x = extproc_open(&x_opts, &ops, NULL);
    method[0] = extproc_method(x);
    health_grpc_methods(&health_rows, method + 1);
    if (grpc_server_open(loop, &opts, method, COUNT(method), &server, &e) != 0 ||
        loop_signal(loop, SIGTERM, terminated, NULL, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    leaving = loop_timer_new(loop, leave_when_empty, NULL);
    printf("port %u\n", grpc_server_port(server));
    fflush(stdout);
    loop_run(loop);
    loop_timer_free(leaving);
    grpc_server_close(server);
    extproc_close(x);
    loop_free(loop);
    return 0;
}
