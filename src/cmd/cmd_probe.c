/* llmd healthcheck and llmd prestop: for probes and hooks of containers, whose images have no
 * shell. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "cmd/cmd.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct health_opts {
    uint32_t timeout_ms;
};

static const struct opt_desc health_table[] = {
    { "timeout-ms", OPT_U32, offsetof(struct health_opts, timeout_ms), "2000", "MS", 1, 600000,
      "longest wait for the answer" },
};

/* http://HOST:PORT/PATH or HOST:PORT[/PATH]: the address into out, returns the path. */
static const char *split(const char *url, char out[512])
{
    const char *host = strstr(url, "://"), *path = strchr(host != NULL ? host + 3 : url, '/');
    size_t n = path != NULL ? (size_t)(path - url) : strlen(url);

    snprintf(out, 512, "%.*s", (int)n, url);
    return path != NULL ? path : "/health/ready";
}

int cmd_healthcheck(int argc, char **argv)
{
    struct health_opts o = { 0 };
    struct opt_list rest = { .count = 0 };
    struct endpoint at;
    struct err e;
    struct buf body;
    const char *path;
    char url[512];
    int status = 0;
    int rc = cmd_options("usage: llmd healthcheck URL [FLAGS]\n\nExit status 0 when URL answers "
                         "with 2xx; without a path /health/ready is asked.",
                         &o, health_table, COUNT(health_table), argc, argv, &rest);

    if (rc >= 0)
        return rc;
    if (rest.count != 1) {
        fprintf(stderr, "llmd: healthcheck needs one URL, such as http://127.0.0.1:8000/health\n");
        return 2;
    }
    path = split(rest.item[0], url);
    if (endpoint_parse_url(url, &at, &e) != 0)
        return cmd_fail(&e);
    buf_init(&body, (size_t)1 << 20);
    rc = endpoint_get(&at, path, o.timeout_ms, &status, &body, &e);
    buf_fini(&body);
    if (rc != 0)
        return cmd_fail(&e);
    if (status / 100 == 2)
        return 0;
    fprintf(stderr, "llmd: %s answers %d\n", rest.item[0], status);
    return 1;
}

struct prestop_opts {
    uint32_t seconds;
};

static const struct opt_desc prestop_table[] = {
    { "seconds", OPT_U32, offsetof(struct prestop_opts, seconds), "10", "N", 0, 3600,
      "so long, as the pod's terminationGracePeriodSeconds counts it in" },
};

/* A pod that is to be deleted leaves routing when its deletion is seen, and only then may its
 * process begin to refuse: SIGTERM comes after this hook. */
int cmd_prestop(int argc, char **argv)
{
    struct prestop_opts o = { 0 };
    struct timespec left;
    int rc = cmd_options("usage: llmd prestop [--seconds N]\n\nWaits, so that every router has "
                         "seen the pod leave before its process is told to stop.",
                         &o, prestop_table, COUNT(prestop_table), argc, argv, NULL);

    if (rc >= 0)
        return rc;
    left = (struct timespec) { .tv_sec = o.seconds };
    while (nanosleep(&left, &left) != 0)
        continue;
    return 0;
}
