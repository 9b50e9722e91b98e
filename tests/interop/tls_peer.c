/* Our HTTPS as a program, for tls_peers.py to set real peers at.
 *
 *   tls_peer serve DIR [CA]            prints "port P"; answers until killed:
 *                                      POST echoes, GET /big streams 8 MiB, else "hello"
 *   tls_peer fetch PORT CA [CRT KEY]   GET / from localhost, prints status and body
 *   CA "-": without verification */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "net/http.h"
#include "net/tls.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char big[64 << 10];

struct stream {
    struct http_req *r;
    size_t left;
};

static void go_on(void *ctx)
{
    struct stream *s = ctx;

    while (s->left != 0) {
        size_t n = s->left < sizeof(big) ? s->left : sizeof(big);

        if (http_reply_chunk(s->r, (struct str) { big, n }) != 0)
            return; /* on_drain, or gone */
        s->left -= n;
    }
    http_reply_end(s->r);
}

static void answer(void *ctx, struct http_req *r)
{
    (void)ctx;
    if (str_eqz(http_req_method(r), "POST")) {
        http_reply(r, 200, "application/octet-stream", http_req_body(r), NULL);
    } else if (str_eqz(http_req_path(r), "/big")) {
        struct stream *s = arena_alloc(http_req_arena(r), sizeof(*s));

        *s = (struct stream) { r, (size_t)8 << 20 };
        http_req_on_drain(r, go_on, s);
        http_reply_start(r, 200, "application/octet-stream", NULL);
        go_on(s);
    } else {
        http_reply(r, 200, "text/plain", STR("hello\n"), NULL);
    }
}

static int serve(const char *dir, const char *ca)
{
    struct http_server_opts o = { .write_bytes_max = 128 << 10 };
    struct tls_server *tls;
    struct http_server *s;
    struct loop *loop;
    struct err e;

    memset(big, 'b', sizeof(big));
    if (loop_new(&loop, &e) != 0 ||
        tls_server_open(
            loop,
            &(struct tls_server_opts) { .dir = dir, .client_ca_file = ca, .alpn = "http/1.1" },
            &tls, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    o.tls = tls;
    if (http_server_open(loop, &o, answer, NULL, &s, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    printf("port %u\n", http_server_port(s));
    fflush(stdout);
    loop_run(loop);
    return 0;
}

static struct tls_client *trust(const char *ca, const char *crt, const char *key)
{
    struct tls_client *tls;
    struct err e;
    bool any = strcmp(ca, "-") == 0;

    if (tls_client_open(
            NULL,
            &(struct tls_client_opts) {
                .ca_file = any ? NULL : ca, .cert_file = crt, .key_file = key, .skip_verify = any },
            &tls, &e) == 0)
        return tls;
    fprintf(stderr, "%s\n", e.msg);
    exit(1);
}

static int fetch(const char *port, const char *ca, const char *crt, const char *key)
{
    struct http_call_opts o = { .host = "localhost",
                                .port = (uint16_t)strtoul(port, NULL, 10),
                                .method = STR("GET"),
                                .path = STR("/") };
    struct buf body;
    struct err e;
    int status, rc;

    o.tls = trust(ca, crt, key);
    buf_init(&body, (size_t)64 << 20);
    rc = http_fetch(&o, &status, &body, NULL, NULL, &e);
    if (rc != 0)
        printf("failed %s\n", err_name(rc));
    else
        printf("%d %.*s", status, STR_ARG(buf_view(&body)));
    buf_fini(&body);
    tls_client_close(o.tls);
    return rc != 0 ? 2 : 0;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2], argc > 3 ? argv[3] : NULL);
    if (argc >= 4 && strcmp(argv[1], "fetch") == 0)
        return fetch(argv[2], argv[3], argc > 5 ? argv[4] : NULL, argc > 5 ? argv[5] : NULL);
    fprintf(stderr, "tls_peer serve DIR [CA] | fetch PORT CA [CRT KEY]\n");
    return 64;
}
