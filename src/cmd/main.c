/* llmd: one program, a sub-command for each part and tool. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "net/conn.h"
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*fn)(int argc, char **argv);
    const char *help;
} commands[] = {
    { "up", cmd_up,
      "everything on this machine: scheduler, cache manager, prefill and decode worker" },
    { "chat", cmd_chat, "talk to a running llmd in the terminal" },
    { "status", cmd_status, "every part and endpoint: used, or not used because" },
    { "check", cmd_check, "validate a set-up before starting it" },
    { "key", cmd_key, "make API keys for tenants, check the file of their hashes" },
    { "model", cmd_model, "list, inspect and fetch models" },
    { "scheduler", cmd_scheduler, "the front door: routes requests to workers" },
    { "cache", cmd_cache, "the cache manager: who holds which KV block" },
    { "worker", cmd_worker, "a prefill or decode worker around one model" },
    { "tokenize", cmd_tokenize, "text to token ids with a model's tokenizer" },
    { "bench", cmd_bench, "measure the engine" },
    { "healthcheck", cmd_healthcheck, "ask a URL: for probes of containers" },
    { "prestop", cmd_prestop, "wait until routers saw a pod leave: for hooks of containers" },
};

static void usage(FILE *to)
{
    fprintf(to,
            "llmd %s - run large language models on your own machines\n\nusage: llmd COMMAND "
            "[FLAGS]\n\n",
            LLMD_VERSION);
    for (size_t i = 0; i < COUNT(commands); i++)
        fprintf(to, "  %-12s %s\n", commands[i].name, commands[i].help);
    fprintf(to, "\nllmd COMMAND --help lists the flags of a command; begin with: llmd up\n");
}

/* Manifests of llm-d call `vllm serve MODEL ...`: images have a link of that name. */
static bool called_vllm(const char *argv0)
{
    const char *slash = strrchr(argv0, '/');

    return strcmp(slash != NULL ? slash + 1 : argv0, "vllm") == 0;
}

int main(int argc, char **argv)
{
    const char *names[COUNT(commands)], *near;

    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        if (argc > 2 && strcmp(argv[2], "--json") == 0)
            printf("{\"name\":\"llmd\",\"version\":\"%s\"}\n", LLMD_VERSION);
        else
            printf("llmd %s\n", LLMD_VERSION);
        return 0;
    }
    if (called_vllm(argv[0]) && strcmp(argv[1], "serve") == 0)
        return cmd_vllm_serve(argc - 2, argv + 2);
    for (size_t i = 0; i < COUNT(commands); i++) {
        names[i] = commands[i].name;
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].fn(argc - 2, argv + 2);
    }
    near = opt_nearest(str_of(argv[1]), names, COUNT(commands));
    if (near != NULL)
        fprintf(stderr, "llmd: '%s' is no command; did you mean '%s'?\n", argv[1], near);
    else
        fprintf(stderr, "llmd: '%s' is no command; llmd --help lists them\n", argv[1]);
    return 2;
}

int cmd_options(const char *usage_line, void *opts, const struct opt_desc *table, size_t count,
                int argc, char **argv, struct opt_list *rest)
{
    struct err e = { 0 };
    struct buf b;
    int rc = opt_parse(opts, table, count, argc, argv, rest, &e);

    if (rc == 0)
        return -1;
    if (rc != ERR_CANCELLED) {
        fprintf(stderr, "llmd: %s\n", e.msg);
        return 2;
    }
    buf_init(&b, (size_t)1 << 20);
    opt_help(table, count, &b);
    printf("%s\n\n%.*s", usage_line, STR_ARG(buf_view(&b)));
    buf_fini(&b);
    return 0;
}

int cmd_fail(const struct err *e)
{
    fprintf(stderr, "llmd: %s\n", e->msg);
    return 1;
}

int cmd_check_listen(const char *host, bool insecure, struct err *e)
{
    if (addr_is_loopback(host) || insecure)
        return 0;
    return err_set(
        e, ERR_INVAL,
        "%s is reachable from other machines and this build has no keys or TLS yet: listen on "
        "127.0.0.1, or say --insecure if the network is yours",
        host);
}
