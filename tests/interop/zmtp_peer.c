/* One end of our ZMTP sockets as a program, for zmtp_libzmq.py to talk to.
 *
 *   zmtp_peer pub N           binds, prints "port P"; N messages once a subscriber is there
 *   zmtp_peer pubconnect P N  the same, connecting to a subscriber that binds on port P
 *   zmtp_peer sub P N         connects, prints N messages as hexadecimal frames
 *   zmtp_peer subbind N       binds, prints "port P", then N messages
 *   zmtp_peer router          binds, prints "port P", answers replay requests until killed
 *   zmtp_peer dealer P SEQ    asks for a replay, prints the replies until the end marker */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "net/zmtp.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct loop *loop;
static struct zmtp_pub *pub;
static struct zmtp_client *client;
static struct loop_timer *tick;
static uint64_t left, seq, ask_from;
static char payload[300000];

static void be64(char out[8], uint64_t v)
{
    for (int i = 0; i < 8; i++)
        out[i] = (char)(v >> (56 - 8 * i));
}

static void print_msg(const struct zmtp_msg *m)
{
    for (size_t f = 0; f < m->count; f++) {
        if (f != 0)
            putchar(' ');
        putchar('-');
        for (size_t i = 0; i < m->frame[f].n; i++)
            printf("%02x", (unsigned char)m->frame[f].p[i]);
    }
    putchar('\n');
    fflush(stdout);
}

static void on_msg(void *ctx, const struct zmtp_msg *m)
{
    static const char end[8] = { -1, -1, -1, -1, -1, -1, -1, -1 };

    (void)ctx;
    print_msg(m);
    if (client != NULL && ask_from != UINT64_MAX) {
        if (m->count == 4 && str_eq(m->frame[2], (struct str) { end, 8 }))
            loop_stop(loop);
    } else if (--left == 0) {
        loop_stop(loop);
    }
}

static void on_bound_msg(void *ctx, const char *peer, const struct zmtp_msg *m)
{
    (void)peer;
    on_msg(ctx, m);
}

static void on_up(void *ctx)
{
    char from[8];
    struct zmtp_msg m = { .frame = { STR(""), { from, 8 } }, .count = 2 };

    (void)ctx;
    be64(from, ask_from);
    if (ask_from != UINT64_MAX && zmtp_client_send(client, &m) != 0)
        exit(1);
}

/* Every size class: empty, short, the last short, the first long, large. */
static void publish(void *ctx)
{
    static const size_t sizes[] = { 0, 1, 255, 256, 300000 };
    char number[8];
    struct zmtp_msg m = { .frame = { STR("kv@10.0.0.7:8000@m"), { number, 8 } }, .count = 3 };

    (void)ctx;
    if (zmtp_pub_peers(pub) == 0)
        return;
    if (left == 0) {
        loop_stop(loop);
        return;
    }
    be64(number, seq);
    memset(payload, (int)seq, sizeof(payload));
    m.frame[2] = (struct str) { payload, sizes[seq % COUNT(sizes)] };
    zmtp_pub_send(pub, &m);
    m.frame[0] = STR("other"); /* which nobody subscribed to */
    zmtp_pub_send(pub, &m);
    seq++;
    left--;
}

static void on_request(void *ctx, struct zmtp_peer *peer, const struct zmtp_msg *m)
{
    char number[8];
    struct zmtp_msg out = { .frame = { STR(""), STR("kv@a@m"), { number, 8 }, STR("\x93") },
                            .count = 4 };

    (void)ctx;
    print_msg(m);
    for (uint64_t i = 0; i < 3; i++) {
        be64(number, (unsigned char)m->frame[1].p[7] + i);
        if (zmtp_router_send(peer, &out) != 0)
            exit(1);
    }
    out = (struct zmtp_msg) { .frame = { STR(""), STR(""), { number, 8 }, STR("") }, .count = 4 };
    be64(number, UINT64_MAX);
    if (zmtp_router_send(peer, &out) != 0)
        exit(1);
}

static uint64_t number_arg(int argc, char **argv, int i)
{
    uint64_t v;

    if (i >= argc || !str_u64(str_of(argv[i]), &v)) {
        fprintf(stderr, "zmtp_peer: bad arguments\n");
        exit(2);
    }
    return v;
}

int main(int argc, char **argv)
{
    static const struct zmtp_client_ops ops = { on_up, NULL, on_msg };
    const char *mode = argc > 1 ? argv[1] : "";
    struct zmtp_router *router = NULL;
    struct zmtp_sub *sub = NULL;
    struct err e = { 0 };
    int rc = loop_new(&loop, &e);

    ask_from = UINT64_MAX;
    if (rc == 0 && strcmp(mode, "pub") == 0) {
        left = number_arg(argc, argv, 2);
        rc = zmtp_pub_open(loop, "127.0.0.1", 0, 0, &pub, &e);
        printf("port %u\n", rc == 0 ? zmtp_pub_port(pub) : 0);
    } else if (rc == 0 && strcmp(mode, "pubconnect") == 0) {
        left = number_arg(argc, argv, 3);
        rc = zmtp_pub_open(loop, "127.0.0.1", 0, 0, &pub, &e);
        if (rc == 0)
            rc = zmtp_pub_connect(pub, "127.0.0.1", (uint16_t)number_arg(argc, argv, 2), &e);
    } else if (rc == 0 && strcmp(mode, "sub") == 0) {
        left = number_arg(argc, argv, 3);
        rc = zmtp_client_open(loop, ZMTP_SUB, "127.0.0.1", (uint16_t)number_arg(argc, argv, 2),
                              STR("kv@"), &ops, NULL, &client, &e);
    } else if (rc == 0 && strcmp(mode, "subbind") == 0) {
        left = number_arg(argc, argv, 2);
        rc = zmtp_sub_bind(loop, "127.0.0.1", 0, STR("kv@"), on_bound_msg, NULL, &sub, &e);
        printf("port %u\n", rc == 0 ? zmtp_sub_port(sub) : 0);
    } else if (rc == 0 && strcmp(mode, "router") == 0) {
        rc = zmtp_router_open(loop, "127.0.0.1", 0, on_request, NULL, &router, &e);
        printf("port %u\n", rc == 0 ? zmtp_router_port(router) : 0);
    } else if (rc == 0 && strcmp(mode, "dealer") == 0) {
        ask_from = number_arg(argc, argv, 3);
        rc = zmtp_client_open(loop, ZMTP_DEALER, "127.0.0.1", (uint16_t)number_arg(argc, argv, 2),
                              STR_NONE, &ops, NULL, &client, &e);
    } else {
        rc = err_set(&e, ERR_INVAL, "unknown mode");
    }
    if (rc != 0) {
        fprintf(stderr, "zmtp_peer: %s\n", e.msg);
        return 1;
    }
    fflush(stdout);
    if (pub != NULL) {
        tick = loop_timer_new(loop, publish, NULL);
        loop_timer_arm(tick, 300, 2); /* the subscription follows the handshake */
    }
    loop_run(loop);
    zmtp_pub_close(pub);
    zmtp_client_close(client);
    zmtp_router_close(router);
    zmtp_sub_close(sub);
    loop_free(loop);
    return 0;
}
