/* llmd up: one of each part on this machine, as processes, supervised.
 *
 *   supervisor -- spawns --> cache, workers, scheduler (the same binary)
 *              -- memfd ---> the workers: one copy of the packed weights
 *              -- polls ---> /health/ready of each until it is there
 *              -- waitpid -> restarts what dies, with back-off
 *
 * Children have process groups of their own, so Ctrl-C reaches only the
 * supervisor, which ends them in order; they die with it (PDEATHSIG).  Internal
 * ports are chosen once and kept across restarts. */
// SPDX-License-Identifier: Apache-2.0
#include "cmd/up.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "net/conn.h"
#include "net/http.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX       (4 * UP_PARTS_MAX)
#define READY_MS       180000
#define USED_MS        5000
#define BACKOFF_MIN_MS 500
#define BACKOFF_MAX_MS 10000
#define EARLY_DEATHS   3
#define STOP_MS        5000

/* Long enough to be worth a split, so that the first answer shows the whole system at work. */
#define FIRST_QUESTION                                                                             \
    "Here is a C function:\n\n"                                                                    \
    "int sum_positive(const int *values, size_t count)\n{\n    int sum = 0;\n\n"                   \
    "    for (size_t i = 0; i < count; i++) {\n        if (values[i] > 0)\n"                       \
    "            sum += values[i];\n    }\n    return sum;\n}\n\n"                                 \
    "It is called with the array {3, -1, 4, -1, 5, -9, 2, 6} and the count 8, and the result is "  \
    "printed with printf. Explain in two short sentences what the function does, and what "        \
    "happens "                                                                                     \
    "to the negative numbers in the array."

#define AT(f) offsetof(struct up_opts, f)

const struct opt_desc up_table[] = {
    { "model", OPT_STR, AT(model), UP_MODEL_DEFAULT, "NAME|FILE", 0, 0,
      "a name of llmd model list (fetched when missing) or a GGUF file" },
    { "listen", OPT_STR, AT(listen), "127.0.0.1:8080", "ADDR:PORT", 0, 0, "where the API answers" },
    { "prefill", OPT_U32, AT(prefill), "1", "N", 0, 16, "prefill workers" },
    { "decode", OPT_U32, AT(decode), "1", "M", 0, 16, "decode workers" },
    { "workers", OPT_U32, AT(workers), "0", "N", 0, 16,
      "N workers that do both, instead of --prefill and --decode" },
    { "threads", OPT_U32, AT(threads), "0", "N", 0, 1024,
      "compute threads of each worker; 0 = the CPUs allowed" },
    { "max-model-len", OPT_U32, AT(max_model_len), "0", "N", 0, 0,
      "longest prompt + answer; 0 = from model and KV reservation" },
    { "kv-cache-memory-bytes", OPT_U64, AT(kv_bytes), "0", "N", 0, 0,
      "KV reservation of each worker; 0 = chosen from the model" },
    { "ask", OPT_STR, AT(ask), FIRST_QUESTION, "TEXT", 0, 0,
      "the first question; --no-first-question asks none" },
    { "no-first-question", OPT_BOOL, AT(no_ask), "false", NULL, 0, 0, "only serve" },
    { "check", OPT_BOOL, AT(check), "false", NULL, 0, 0,
      "start everything, prove each promise by real requests, end with 0 or 1" },
    { "kube", OPT_BOOL, AT(kube), "false", NULL, 0, 0,
      "on the cluster that kubectl reaches, with the small model of the image" },
    { "shutdown-timeout", OPT_U32, AT(shutdown_timeout_s), "5", "SECONDS", 0, 600,
      "grace for running requests at the end" },
    { "log-level", OPT_STR, AT(log_level), "info", "LEVEL", 0, 0, "error, warn, info, debug" },
    { "insecure", OPT_BOOL, AT(insecure), "false", NULL, 0, 0,
      "allow listening beyond loopback without keys and TLS" },
};
const size_t up_table_count = COUNT(up_table);

struct child {
    struct up_part *part;
    char *argv[ARGS_MAX];
    size_t argc;
    uint64_t started_ms, next_ms, backoff_ms;
    uint32_t early_deaths;
    bool ready;
};

struct up {
    const struct up_opts *o;
    struct up_state state;
    struct child child[UP_PARTS_MAX];
    struct endpoint door;
    char log_path[4200];
    int weights_fd;
    volatile bool stopping;
};

static volatile sig_atomic_t stop_signals;

static void on_stop(int signum)
{
    (void)signum;
    stop_signals++;
}

/* ---- options ---- */

static bool port_free(const char *host, uint16_t port, uint16_t *got)
{
    struct listener *s = NULL;
    struct loop *l = NULL;
    struct err e;
    bool ok;

    if (loop_new(&l, &e) != 0)
        return false;
    ok = listener_open(l, host, port, NULL, NULL, NULL, &s, &e) == 0;
    if (ok) {
        *got = listener_port(s);
        listener_close(s);
    }
    loop_free(l);
    return ok;
}

static struct engine_opts engine_opts_of(const struct up_opts *o)
{
    return (struct engine_opts) { .block_tokens = 16,
                                  .kv_bytes = o->kv_bytes,
                                  .max_model_len = o->max_model_len,
                                  .max_num_seqs = 64,
                                  .max_batched_tokens = 512,
                                  .queue_max = 256,
                                  .threads = o->threads,
                                  .prefix_caching = true,
                                  .hash_seed = BLOCKKEY_SEED_DEFAULT,
                                  .weights_fd = -1 };
}

static uint32_t validate_model(const struct up_opts *o, struct buf *path, struct buf *out)
{
    struct engine_opts eo = engine_opts_of(o);
    const struct catalogue_entry *c = catalogue_find(str_of(o->model));
    struct model *m = NULL;
    struct err e = { 0 };
    struct buf plan;
    uint32_t errors = 0;

    if (catalogue_resolve(str_of(o->model), path, &e) != 0) {
        buf_reset(path);
        buf_c(path, 0);
        if (c != NULL)
            buf_f(
                out,
                "note: --model %s is not here yet: %.0f MB will be fetched (llmd model fetch %s)\n",
                c->name, (double)c->bytes / 1e6, c->name);
        else
            buf_f(out, "error: --model: %s\n", e.msg);
        return c == NULL;
    }
    buf_c(path, 0);
    buf_init(&plan, 65536);
    if (model_open(&m, path->p, &e) != 0 || engine_plan(m, &eo, &plan, &e) != 0) {
        buf_f(out, "error: --model: %s\n", e.msg);
        errors = 1;
    } else {
        struct str rest = buf_view(&plan);

        while (rest.n != 0) {
            struct str line = str_cut(&rest, '\n');

            if (line.n != 0)
                buf_f(out, "note: %.*s\n", STR_ARG(line));
        }
    }
    buf_fini(&plan);
    model_close(m);
    return errors;
}

static uint32_t worker_count(const struct up_opts *o)
{
    return o->workers != 0 ? o->workers : o->prefill + o->decode;
}

uint32_t up_validate(const struct up_opts *o, struct buf *path, struct buf *out)
{
    uint32_t errors = 0, count = worker_count(o);
    enum log_level level;
    struct err e = { 0 };
    char host[256];
    uint16_t port, got;

    if (!log_level_parse(str_of(o->log_level), &level)) {
        buf_f(out, "error: --log-level: must be error, warn, info or debug, not '%s'\n",
              o->log_level);
        errors++;
    }
    if (addr_parse(str_of(o->listen), host, &port, &e) != 0) {
        buf_f(out, "error: --listen: %s\n", e.msg);
        errors++;
    } else if (cmd_check_listen(host, o->insecure, &e) != 0) {
        buf_f(out, "error: --listen: %s\n", e.msg);
        errors++;
    } else if (!port_free(host, port, &got)) {
        buf_f(out,
              "error: --listen: %s is in use; stop what listens there (another llmd up?) or choose "
              "another, e.g. --listen 127.0.0.1:%u\n",
              o->listen, port + 1u);
        errors++;
    }
    if (count == 0 || (o->workers == 0 && o->decode == 0)) {
        buf_f(out,
              "error: --decode: at least one worker must decode; use --decode 1 or --workers 1\n");
        errors++;
    }
    if (kern_init(NULL, &e) != 0) {
        buf_f(out, "error: %s\n", e.msg);
        errors++;
    } else {
        errors += validate_model(o, path, out);
    }
    return errors;
}

static int fetch_model(const struct up_opts *o, struct buf *path, struct err *e)
{
    char *argv[] = { (char *)(uintptr_t) "fetch", (char *)(uintptr_t)o->model, NULL };
    int rc;

    buf_reset(path);
    if (cmd_model(2, argv) != 0)
        return err_set(e, ERR_IO, "the model %s could not be fetched", o->model);
    rc = catalogue_resolve(str_of(o->model), path, e);
    buf_c(path, 0);
    return rc;
}

/* ---- parts ---- */

static void arg(struct child *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void arg(struct child *c, const char *fmt, ...)
{
    struct buf b;
    va_list ap;
    size_t n;

    ASSERT(c->argc + 1 < ARGS_MAX);
    buf_init(&b, 65536);
    va_start(ap, fmt);
    buf_vf(&b, fmt, ap);
    va_end(ap);
    buf_c(&b, 0);
    c->argv[c->argc++] = buf_take(&b, &n);
    c->argv[c->argc] = NULL;
}

static struct child *add_part(struct up *u, const char *command, const char *role, const char *name,
                              uint16_t port)
{
    struct child *c = &u->child[u->state.count];

    c->part = &u->state.part[u->state.count++];
    snprintf(c->part->name, sizeof(c->part->name), "%s", name);
    snprintf(c->part->role, sizeof(c->part->role), "%s", role);
    snprintf(c->part->address, sizeof(c->part->address), "127.0.0.1:%u", port);
    snprintf(c->part->state, sizeof(c->part->state), "starting");
    c->backoff_ms = BACKOFF_MIN_MS;
    arg(c, "llmd-%s", name);
    arg(c, "%s", command);
    arg(c, "--log-level");
    arg(c, "%s", u->o->log_level);
    return c;
}

static uint16_t free_port(void)
{
    uint16_t port = 0;

    (void)port_free("127.0.0.1", 0, &port);
    return port;
}

static void add_worker(struct up *u, const char *role, uint32_t i, const char *model,
                       struct child *cache, struct child *sched)
{
    uint16_t port = free_port(), events = free_port(), replay = free_port();
    char name[32];
    struct child *c;

    snprintf(name, sizeof(name), "%s-%u", strcmp(role, "both") == 0 ? "worker" : role, i);
    c = add_part(u, "worker", role, name, port);
    arg(c, "--model");
    arg(c, "%s", model);
    if (catalogue_find(str_of(u->o->model)) != NULL) {
        arg(c, "--served-model-name");
        arg(c, "%s", catalogue_find(str_of(u->o->model))->name);
    }
    arg(c, "--role");
    arg(c, "%s", role);
    arg(c, "--listen");
    arg(c, "127.0.0.1:%u", port);
    arg(c, "--kv-events-config");
    arg(c,
        "{\"enable_kv_cache_events\":true,\"publisher\":\"zmq\","
        "\"endpoint\":\"tcp://127.0.0.1:%u\",\"replay_endpoint\":\"tcp://127.0.0.1:%u\"}",
        events, replay);
    arg(c, "--weights-fd");
    arg(c, "%d", u->weights_fd);
    arg(c, "--threads");
    arg(c, "%u", u->o->threads);
    arg(c, "--max-model-len");
    arg(c, "%u", u->o->max_model_len);
    arg(c, "--kv-cache-memory-bytes");
    arg(c, "%llu", (unsigned long long)u->o->kv_bytes);
    arg(c, "--shutdown-timeout");
    arg(c, "%u", u->o->shutdown_timeout_s);
    arg(cache, "--endpoint");
    arg(cache, "%s=127.0.0.1:%u@127.0.0.1:%u@127.0.0.1:%u", name, port, events, replay);
    arg(sched, "--endpoint");
    arg(sched, "127.0.0.1:%u=%s", port, role);
}

static void plan_parts(struct up *u, const char *model)
{
    uint16_t cache_port = free_port();
    struct child *sched = add_part(u, "scheduler", "scheduler", "scheduler", u->door.port);
    struct child *cache = add_part(u, "cache", "cache", "cache", cache_port);

    snprintf(sched->part->address, sizeof(sched->part->address), "%s:%u", u->door.host,
             u->door.port);
    arg(sched, "--listen");
    arg(sched, "%s", u->o->listen);
    arg(sched, "--cache");
    arg(sched, "127.0.0.1:%u", cache_port);
    arg(sched, "--model");
    arg(sched, "%s", model);
    arg(sched, "--loops"); /* the cores are for the workers */
    arg(sched, "1");
    if (u->o->insecure)
        arg(sched, "--insecure");
    arg(cache, "--listen");
    arg(cache, "127.0.0.1:%u", cache_port);
    if (u->o->workers != 0) {
        for (uint32_t i = 0; i < u->o->workers; i++)
            add_worker(u, "both", i, model, cache, sched);
        return;
    }
    for (uint32_t i = 0; i < u->o->prefill; i++)
        add_worker(u, "prefill", i, model, cache, sched);
    for (uint32_t i = 0; i < u->o->decode; i++)
        add_worker(u, "decode", i, model, cache, sched);
}

static int spawn(struct up *u, struct child *c, struct err *e)
{
    int log = open(u->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pid_t parent = getpid(), pid;

    if (log < 0)
        return err_set(e, ERR_IO, "%s: cannot open: %s", u->log_path, strerror(errno));
    pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent)
            _exit(1);
        dup2(log, 2);
        execv("/proc/self/exe", c->argv);
        _exit(127);
    }
    close(log);
    if (pid < 0)
        return err_set(e, ERR_NOMEM, "cannot start %s: %s", c->part->name, strerror(errno));
    c->part->pid = pid;
    c->started_ms = clock_ms();
    c->ready = false;
    snprintf(c->part->state, sizeof(c->part->state), "starting");
    return 0;
}

static void save(struct up *u)
{
    struct err e;

    if (up_state_write(u->door.port, &u->state, &e) != 0)
        fprintf(stderr, "llmd: %s\n", e.msg);
}

static bool poll_ready(struct child *c)
{
    struct endpoint at;
    struct buf body;
    struct err e;
    int status = 0;
    bool ok;

    if (endpoint_parse_url(c->part->address, &at, &e) != 0)
        return false;
    buf_init(&body, 65536);
    ok = endpoint_get(&at, "/health/ready", 300, &status, &body, &e) == 0 && status == 200;
    buf_fini(&body);
    if (ok != c->ready) {
        c->ready = ok;
        snprintf(c->part->state, sizeof(c->part->state), ok ? "ready" : "not ready");
        if (ok)
            c->part->reason[0] = 0;
    }
    return ok;
}

/* The last line of the log that says an error of a part. */
static void last_words(const struct up *u, char *out, size_t cap)
{
    struct str rest, line;
    struct buf b;
    struct err e;

    snprintf(out, cap, "see %.300s", u->log_path);
    buf_init(&b, (size_t)64 << 20);
    if (file_read(u->log_path, &b, &e) == 0)
        for (rest = buf_view(&b); rest.n != 0;) {
            line = str_cut(&rest, '\n');
            if (str_starts(line, STR("llmd: ")))
                snprintf(out, cap, "%.*s", STR_ARG(str_sub(line, 6, SIZE_MAX)));
        }
    buf_fini(&b);
}

static void reap(struct up *u)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (size_t i = 0; i < u->state.count; i++) {
            struct child *c = &u->child[i];

            if (c->part->pid != pid)
                continue;
            c->part->pid = 0;
            c->ready = false;
            if (clock_ms() - c->started_ms > 10000) {
                c->backoff_ms = BACKOFF_MIN_MS;
                c->early_deaths = 0;
            } else {
                c->early_deaths++;
            }
            c->next_ms = clock_ms() + c->backoff_ms;
            c->backoff_ms = MIN(c->backoff_ms * 2, BACKOFF_MAX_MS);
            snprintf(c->part->state, sizeof(c->part->state), "dead");
            if (WIFSIGNALED(status))
                snprintf(c->part->reason, sizeof(c->part->reason), "killed by signal %d",
                         WTERMSIG(status));
            else
                snprintf(c->part->reason, sizeof(c->part->reason), "exited with status %d",
                         WEXITSTATUS(status));
            if (!u->stopping && stop_signals == 0)
                fprintf(stderr, "llmd: %s %s; starting it again\n", c->part->name, c->part->reason);
            save(u);
        }
}

static void restart_due(struct up *u)
{
    struct err e;

    for (size_t i = 0; i < u->state.count; i++) {
        struct child *c = &u->child[i];

        if (c->part->pid != 0 || clock_ms() < c->next_ms)
            continue;
        c->part->restarts++;
        if (spawn(u, c, &e) != 0)
            c->next_ms = clock_ms() + BACKOFF_MAX_MS;
        save(u);
    }
}

static int wait_ready(struct up *u, struct err *e)
{
    uint64_t deadline = clock_ms() + READY_MS;
    char words[ERR_MSG_MAX];

    for (;;) {
        size_t ready = 0;

        reap(u);
        for (size_t i = 0; i < u->state.count; i++) {
            ready += u->child[i].ready || poll_ready(&u->child[i]);
            if (u->child[i].part->pid == 0 && u->child[i].part->state[0] == 'd') {
                last_words(u, words, sizeof(words) - 64);
                return err_set(e, ERR_IO, "%s: %s", u->child[i].part->name, words);
            }
        }
        if (ready == u->state.count)
            return 0;
        if (stop_signals != 0)
            return err_set(e, ERR_CANCELLED, "stopped");
        if (clock_ms() > deadline)
            return err_set(e, ERR_TIMEOUT, "not everything was ready after %d s; see %s",
                           READY_MS / 1000, u->log_path);
        clock_sleep_ms(30);
    }
}

static void stop_all(struct up *u)
{
    uint64_t deadline = clock_ms() + (uint64_t)u->o->shutdown_timeout_s * 1000 + STOP_MS;
    size_t left;

    u->stopping = true;
    for (size_t i = 0; i < u->state.count; i++)
        if (u->child[i].part->pid != 0)
            kill(u->child[i].part->pid, SIGTERM);
    for (;;) {
        reap(u);
        left = 0;
        for (size_t i = 0; i < u->state.count; i++)
            left += u->child[i].part->pid != 0;
        if (left == 0)
            break;
        if (clock_ms() > deadline || stop_signals > 1) {
            for (size_t i = 0; i < u->state.count; i++)
                if (u->child[i].part->pid != 0)
                    kill(u->child[i].part->pid, SIGKILL);
            deadline = UINT64_MAX;
            stop_signals = 1;
        }
        clock_sleep_ms(20);
    }
}

/* ---- first question ---- */

static double metric_of(const struct endpoint *at, const char *name, const char *label)
{
    struct buf b;
    struct err e;
    double v = 0;
    int status;

    buf_init(&b, (size_t)4 << 20);
    if (endpoint_get(at, "/metrics", 2000, &status, &b, &e) == 0)
        v = prom_sum(buf_view(&b), name, label);
    buf_fini(&b);
    return v;
}

void up_wait_used(const struct endpoint *door, uint32_t workers)
{
    uint64_t deadline = clock_ms() + USED_MS;

    while (clock_ms() < deadline && stop_signals == 0 &&
           metric_of(door, "llm_d_epp_ready_endpoints", NULL) < workers)
        clock_sleep_ms(50);
}

static double handed_over(void *ctx)
{
    const struct up *u = ctx;
    struct endpoint at;
    struct err e;
    double v = 0;

    for (size_t i = 0; i < u->state.count; i++)
        if ((strcmp(u->state.part[i].role, "decode") == 0 ||
             strcmp(u->state.part[i].role, "both") == 0) &&
            endpoint_parse_url(u->state.part[i].address, &at, &e) == 0)
            v += metric_of(&at, "llmd_kvx_bytes_total", "dir=\"recv\"");
    return v;
}

static bool has_chat_template(const char *path)
{
    struct gguf *g = NULL;
    struct err e;
    struct str s;
    bool has = gguf_open(&g, path, &e) == 0 && gguf_str(g, "tokenizer.chat_template", &s);

    gguf_close(g);
    return has;
}

void up_ask(const struct endpoint *door, const char *model, const char *ask,
            double (*moved_bytes)(void *ctx), void *ctx)
{
    struct ask_result r;
    struct err e = { 0 };
    struct json_w w;
    struct buf m;
    double before = moved_bytes(ctx), moved;
    int rc;

    buf_init(&m, 65536);
    json_w_init(&w, &m);
    json_w_arr(&w);
    json_w_obj(&w);
    json_w_kz(&w, "role", "user");
    json_w_kz(&w, "content", ask);
    json_w_end(&w, '}');
    json_w_end(&w, ']');
    printf("\n> %s\n\n", ask);
    fflush(stdout);
    rc = ask_chat(door, model, buf_view(&m), ",\"temperature\":0,\"max_tokens\":120", stdout, &r,
                  &e);
    moved = moved_bytes(ctx) - before;
    if (rc != 0 || r.error[0] != 0 || !r.done)
        printf("\n(no answer: %s)\n", rc != 0           ? e.msg
                                      : r.error[0] != 0 ? r.error
                                                        : "the stream was cut");
    else
        printf("\n\n(%u prompt tokens, %u cached; first token after %.2f s; %u tokens at %.1f "
               "tokens/s; %.1f KB of KV handed over)\n",
               r.prompt_tokens, r.cached_tokens, r.first_token_s, r.completion_tokens,
               r.total_s > r.first_token_s
                   ? (r.completion_tokens - 1) / (r.total_s - r.first_token_s)
                   : 0,
               moved / 1e3);
    ask_result_fini(&r);
    buf_fini(&m);
}

static void where_next(const struct up *u)
{
    char url[320] = "";

    if (u->door.port != 8080 || strcmp(u->door.host, "127.0.0.1") != 0)
        snprintf(url, sizeof(url), " --url http://%.256s", u->o->listen);
    printf("\nllmd serves %s on http://%s (Ctrl-C ends it)\n"
           "  talk      llmd chat%s\n"
           "  see       llmd status%s\n"
           "  metrics   http://%s/metrics\n"
           "  log       %s\n"
           "  curl      curl http://%s/v1/chat/completions -H 'Content-Type: application/json' \\\n"
           "              -d "
           "'{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'\n",
           u->state.model, u->o->listen, url, url, u->o->listen, u->log_path, u->o->listen,
           u->state.model);
    fflush(stdout);
}

/* ---- run ---- */

static void supervise(struct up *u)
{
    uint64_t polled = 0;

    while (stop_signals == 0) {
        reap(u);
        restart_due(u);
        if (clock_ms() - polled > 1000) {
            bool changed = false;

            for (size_t i = 0; i < u->state.count && stop_signals == 0; i++) {
                bool was = u->child[i].ready;

                changed |= u->child[i].part->pid != 0 && poll_ready(&u->child[i]) != was;
            }
            if (changed)
                save(u);
            polled = clock_ms();
        }
        clock_sleep_ms(50);
    }
}

static int run(struct up *u, const char *path, struct err *e)
{
    uint64_t begin = clock_ms();
    uint32_t failed = 0;
    int rc = 0;

    plan_parts(u, path);
    for (size_t i = 0; i < u->state.count && rc == 0; i++)
        rc = spawn(u, &u->child[i], e);
    save(u);
    printf("starting %zu parts; log: %s\n", u->state.count, u->log_path);
    fflush(stdout);
    if (rc == 0)
        rc = wait_ready(u, e);
    if (rc == 0)
        rc = ask_model(&u->door, u->state.model, e);
    save(u);
    if (rc == 0) {
        up_wait_used(&u->door, worker_count(u->o));
        printf("ready after %.1f s\n", (double)(clock_ms() - begin) / 1000);
        if (u->o->check) {
            failed = up_prove(&u->door, &u->state);
        } else {
            if (!u->o->no_ask && has_chat_template(path))
                up_ask(&u->door, u->state.model, u->o->ask, handed_over, u);
            where_next(u);
            supervise(u);
            printf("\nstopping ...\n");
        }
    }
    stop_all(u);
    up_state_remove(u->door.port);
    for (size_t i = 0; i < u->state.count; i++)
        for (size_t k = 0; k < u->child[i].argc; k++)
            mem_free(u->child[i].argv[k]);
    if (rc == 0 && failed != 0)
        rc = err_set(e, ERR_MISMATCH, "%u promises were not kept", failed);
    return rc;
}

/* Prints the notes of `findings`; an error among them goes to *e. */
static int tell(struct str findings, struct err *e)
{
    while (findings.n != 0) {
        struct str line = str_cut(&findings, '\n');

        if (str_starts(line, STR("error: ")))
            return err_set(e, ERR_INVAL, "%.*s", STR_ARG(str_sub(line, 7, SIZE_MAX)));
        if (line.n != 0)
            printf("%.*s\n", STR_ARG(str_sub(line, 6, SIZE_MAX)));
    }
    fflush(stdout);
    return 0;
}

static int find_model(struct up *u, struct buf *path, struct err *e)
{
    struct buf findings;
    int rc;

    buf_init(&findings, (size_t)1 << 20);
    (void)up_validate(u->o, path, &findings);
    rc = tell(buf_view(&findings), e);
    if (rc == 0 && path->p[0] == 0) {
        rc = fetch_model(u->o, path, e);
        buf_reset(&findings);
        if (rc == 0) {
            buf_reset(path);
            (void)validate_model(u->o, path, &findings);
            rc = tell(buf_view(&findings), e);
        }
    }
    buf_fini(&findings);
    return rc;
}

static int prepare(struct up *u, struct buf *path, struct err *e)
{
    struct sigaction sa = { .sa_handler = on_stop };
    struct buf log;

    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    if (find_model(u, path, e) != 0)
        return e->code;
    if (endpoint_parse_url(u->o->listen, &u->door, e) != 0)
        return e->code;
    snprintf(u->state.url, sizeof(u->state.url), "http://%s", u->o->listen);
    u->state.pid = getpid();
    buf_init(&log, 4096);
    up_state_path(u->door.port, &log);
    snprintf(u->log_path, sizeof(u->log_path), "%.*s.log", (int)strlen(log.p) - 5, log.p);
    buf_fini(&log);
    (void)unlink(u->log_path);
    u->weights_fd = memfd_create("llmd-weights", 0);
    if (u->weights_fd < 0)
        return err_set(e, ERR_NOMEM, "cannot create the shared weights: %s", strerror(errno));
    return 0;
}

int cmd_up(int argc, char **argv)
{
    struct up_opts o = { 0 };
    struct up *u;
    struct err e = { 0 };
    struct buf path;
    int rc = cmd_options("usage: llmd up [--model NAME|FILE] [--listen ADDR:PORT] [--prefill N "
                         "--decode M | --workers N] [FLAGS]",
                         &o, up_table, up_table_count, argc, argv, NULL);

    if (rc >= 0)
        return rc;
    if (o.kube) {
        rc = up_kube(&o, &e);
        return rc == 0 || rc == ERR_CANCELLED ? 0 : cmd_fail(&e);
    }
    u = mem_zalloc(sizeof(*u));
    u->o = &o;
    buf_init(&path, 4096);
    rc = prepare(u, &path, &e);
    if (rc == 0)
        rc = run(u, path.p, &e);
    if (u->weights_fd > 0)
        close(u->weights_fd);
    buf_fini(&path);
    mem_free(u);
    if (rc == ERR_CANCELLED)
        return 130;
    return rc != 0 ? cmd_fail(&e) : 0;
}
