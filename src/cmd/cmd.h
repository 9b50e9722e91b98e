/* cmd/cmd.h - the sub-commands, and what the tools among them share. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_CMD_H
#define CMD_CMD_H
#include "base/buf.h"
#include "base/err.h"
#include "base/opt.h"
#include "codec/json.h"

/* Each takes the words after its name and returns the exit status. */
int cmd_bench(int argc, char **argv);
int cmd_cache(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_healthcheck(int argc, char **argv);
int cmd_key(int argc, char **argv);
int cmd_model(int argc, char **argv);
int cmd_prestop(int argc, char **argv);
int cmd_scheduler(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_up(int argc, char **argv);
int cmd_vllm_serve(int argc, char **argv);
int cmd_worker(int argc, char **argv);

/* Parses flags; on --help prints usage and the table to stdout.  Returns -1 to go on, else the
 * exit status (0 after help, 2 after a wrong flag, said in one line). */
int cmd_options(const char *usage, void *opts, const struct opt_desc *table, size_t count, int argc,
                char **argv, struct opt_list *rest);
/* One line on stderr, returns 1. */
int cmd_fail(const struct err *e);
/* Off loopback without --insecure: refuses with what to do. */
int cmd_check_listen(const char *host, bool insecure, struct err *e) MUST_CHECK;

/* ---- talking to a running llmd (client.c) ---- */
#define CMD_URL_DEFAULT "http://127.0.0.1:8080"

struct endpoint {
    char host[256];
    uint16_t port;
    const char *key; /* an API key to show, or NULL */
    bool is_tls;
};
/* The key in $LLMD_API_KEY is shown there from now on. */
void endpoint_take_key(struct endpoint *at);
/* HOST:PORT, http://... or https://...; what follows the port is dropped. */
int endpoint_parse_url(const char *url, struct endpoint *out, struct err *e) MUST_CHECK;
/* Whole answer of one exchange.  *status is the HTTP status. */
int endpoint_get(const struct endpoint *at, const char *path, uint32_t timeout_ms, int *status,
                 struct buf *body, struct err *e) MUST_CHECK;

struct ask_result {
    struct buf text; /* the whole answer */
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    double first_token_s, total_s;
    char request_id[130];
    char error[512]; /* message of an error reply or event; "" = none */
    int status;
    bool done; /* [DONE] was seen */
};
void ask_result_fini(struct ask_result *r);
/* Streams a chat answer for `messages` (a JSON array); text goes to `out` as it comes (NULL:
 * nowhere). extra: more members of the body, "" or ",\"max_tokens\":5". */
int ask_chat(const struct endpoint *at, const char *model, struct str messages, const char *extra,
             void *out_file, struct ask_result *r, struct err *e) MUST_CHECK;
/* First id of /v1/models. */
int ask_model(const struct endpoint *at, char out[256], struct err *e) MUST_CHECK;
/* Sum of a family's samples in Prometheus text whose labels contain `label` (NULL: all). */
double prom_sum(struct str text, const char *name, const char *label);

/* ---- llmd up's record of itself, one file per listening port (state.c) ---- */
#define UP_PARTS_MAX 80
struct up_part {
    char name[32], role[16], address[300], state[16], reason[128];
    int pid;
    uint32_t restarts;
};
struct up_state {
    char url[300], model[256];
    int pid;
    struct up_part part[UP_PARTS_MAX];
    size_t count;
};
void up_state_path(uint16_t port, struct buf *out);
int up_state_write(uint16_t port, const struct up_state *s, struct err *e) MUST_CHECK;
int up_state_read(uint16_t port, struct up_state *out, struct err *e) MUST_CHECK;
void up_state_remove(uint16_t port);
#endif
