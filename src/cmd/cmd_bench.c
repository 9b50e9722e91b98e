/* llmd bench engine: prefill and decode speed of the engine on one model, beside the read bandwidth
 * of the same minutes, and, with --compare, in turns with llama.cpp on the same file.
 *
 * Machines like these are noisy, so figures are medians over rounds and what counts is the ratio
 * within one run.  The peer is a program of tests/golden (llamacpp_oracle) in the folder given,
 * with the folder libs beside it that holds the one CPU level to compare with; --cpu forces ours.
 */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "engine/engine.h"
#include "kernels/kernels.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS_MAX 15

enum { PREFILL, DECODE1, DECODE4, DECODE16, FIGURES };

static const struct {
    const char *name; /* as the peer prints it */
    uint32_t streams, prompt, output;
} figures[FIGURES] = {
    { "prefill512", 1, 512, 1 },
    { "decode1", 1, 32, 65 },
    { "decode4", 4, 32, 49 },
    { "decode16", 16, 32, 33 },
};

struct bench_opts {
    const char *model, *compare, *cpu;
    uint32_t threads, rounds;
};

static const struct opt_desc table[] = {
    { "model", OPT_STR, offsetof(struct bench_opts, model), NULL, "FILE|NAME", 0, 0,
      "GGUF file, or a name of llmd model list" },
    { "compare", OPT_STR, offsetof(struct bench_opts, compare), NULL, "DIR", 0, 0,
      "folder of llamacpp_oracle and its libs: run it in turns and print ratios" },
    { "cpu", OPT_STR, offsetof(struct bench_opts, cpu), NULL, "LEVEL", 0, 0,
      "scalar, avx2 or avx512" },
    { "threads", OPT_U32, offsetof(struct bench_opts, threads), "0", "N", 0, 1024,
      "compute threads; 0 = CPUs allowed" },
    { "rounds", OPT_U32, offsetof(struct bench_opts, rounds), "5", "N", 1, ROUNDS_MAX,
      "medians over so many" },
};

/* ---- ours ---- */

struct wait_all {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    uint32_t left, failed;
    double prefill_s, decode_s; /* the longest of the round */
    uint64_t decoded;
};

static void on_token(void *ctx, uint64_t id, uint32_t token, const struct engine_logprob *lp)
{
    (void)ctx;
    (void)id;
    (void)token;
    (void)lp;
}

static void on_done(void *ctx, uint64_t id, const struct engine_result *r)
{
    struct wait_all *w = ctx;

    (void)id;
    pthread_mutex_lock(&w->mu);
    w->failed += r->reason != ENGINE_LENGTH;
    w->prefill_s = MAX(w->prefill_s, r->prefill_s);
    w->decode_s = MAX(w->decode_s, r->decode_s);
    w->decoded += r->output_tokens - (r->output_tokens != 0);
    if (--w->left == 0)
        pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mu);
}

/* One figure once: tokens per second. */
static int measure(struct engine *en, int which, uint32_t salt, double *out, struct err *e)
{
    struct wait_all w = { .mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
    uint32_t n = figures[which].prompt, started = 0, vocab = engine_model(en)->n_vocab;
    uint32_t *prompt = mem_alloc(n * sizeof(*prompt));
    int rc = 0;

    w.left = figures[which].streams;
    for (; started < figures[which].streams && rc == 0; started++) {
        struct engine_request r = {
            .prompt = prompt, .prompt_count = n, .on_token = on_token, .on_done = on_done, .ctx = &w
        };
        uint64_t id;

        for (uint32_t i = 0; i < n; i++)
            prompt[i] = (i * 7 + started * 131 + salt * 17) % MIN(vocab, 1000u);
        r.sampling = (struct engine_sampling) { .top_p = 1,
                                                .repetition_penalty = 1,
                                                .ignore_eos = true,
                                                .max_tokens = figures[which].output,
                                                .logprobs = -1,
                                                .prompt_logprobs = -1 };
        rc = engine_submit(en, &r, &id, e);
    }
    pthread_mutex_lock(&w.mu);
    if (rc != 0)
        w.left -= figures[which].streams - (started - 1);
    while (w.left != 0)
        pthread_cond_wait(&w.cond, &w.mu);
    pthread_mutex_unlock(&w.mu);
    mem_free(prompt);
    if (rc == 0 && w.failed != 0)
        rc = err_set(e, ERR_INTERNAL, "%s: %u requests failed", figures[which].name, w.failed);
    if (rc == 0)
        *out = which == PREFILL ? (double)n / w.prefill_s : (double)w.decoded / w.decode_s;
    return rc;
}

/* ---- the peer ---- */

static void peer_read(FILE *f, double *out)
{
    char line[256];

    while (fgets(line, sizeof(line), f) != NULL) {
        struct str rest = str_trim(str_of(line)), name = str_cut(&rest, ' ');
        double v;

        for (int i = 0; i < FIGURES; i++)
            if (str_eqz(name, figures[i].name) && str_f64(str_trim(rest), &v))
                out[i] = v;
    }
}

static int peer_run(const struct bench_opts *o, uint32_t threads, double *out, struct err *e)
{
    char program[4096], libs[4096], count[16];
    int fd[2], status = 0;
    pid_t pid;
    FILE *f;

    if ((size_t)snprintf(program, sizeof(program), "%s/llamacpp_oracle", o->compare) >=
            sizeof(program) ||
        (size_t)snprintf(libs, sizeof(libs), "%s/libs", o->compare) >= sizeof(libs))
        return err_set(e, ERR_INVAL, "--compare: path too long");
    (void)snprintf(count, sizeof(count), "%u", threads);
    if (pipe(fd) != 0)
        return err_set(e, ERR_IO, "--compare: no pipe");
    pid = fork();
    if (pid == 0) {
        (void)dup2(fd[1], STDOUT_FILENO);
        close(fd[0]);
        close(fd[1]);
        execl(program, program, "bench", o->model, libs, count, (char *)NULL);
        _exit(127);
    }
    close(fd[1]);
    f = pid > 0 ? fdopen(fd[0], "r") : NULL;
    if (f == NULL) {
        close(fd[0]);
        return err_set(e, ERR_IO, "--compare: %s could not be started", program);
    }
    peer_read(f, out);
    (void)fclose(f);
    (void)waitpid(pid, &status, 0);
    for (int i = 0; i < FIGURES; i++)
        if (status != 0 || !(out[i] > 0))
            return err_set(e, ERR_IO, "--compare: %s failed (status %d)", program, status);
    return 0;
}

/* ---- the report ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof(*v), by_value);
    return n % 2 == 1 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

struct results {
    double ours[FIGURES][ROUNDS_MAX], peer[FIGURES][ROUNDS_MAX], gbps[ROUNDS_MAX];
};

static void report(const struct bench_opts *o, const struct model *m, struct results *r,
                   uint32_t threads)
{
    size_t stream = model_weight_bytes(m) - (m->output != m->token_embd ? m->token_embd->size : 0);
    double gbps = median(r->gbps, o->rounds), d1 = median(r->ours[DECODE1], o->rounds);

    printf("model %.*s, cpu %s, %u threads, medians of %u rounds\n", STR_ARG(m->name),
           kern_level_name(), threads, o->rounds);
    for (int i = 0; i < FIGURES; i++) {
        double ours = median(r->ours[i], o->rounds);

        printf("%-12s %9.1f tok/s", figures[i].name, ours);
        if (o->compare != NULL) {
            double peer = median(r->peer[i], o->rounds);

            printf("   llama.cpp %9.1f tok/s   ratio %.2f", peer, ours / peer);
        }
        printf("\n");
    }
    printf("%-12s %9.1f GB/s; decode1 streams %.1f GB/s of weights, %.0f %%\n", "read", gbps,
           d1 * (double)stream * 1e-9, 100 * d1 * (double)stream * 1e-9 / gbps);
}

static int rounds(const struct bench_opts *o, const struct model *m, struct results *r,
                  uint32_t *threads, struct err *e)
{
    struct kern_pool *pool = kern_pool_new(o->threads);
    struct engine_opts eo = { .weights_fd = -1, .threads = o->threads };
    struct engine *en = NULL;
    double warm;
    int rc;

    if (pool == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the thread pool");
    *threads = kern_pool_threads(pool);
    rc = engine_open(&en, m, NULL, &eo, NULL, NULL, e);
    for (int i = 0; rc == 0 && i < FIGURES; i++) /* first touch of KV and work space */
        rc = measure(en, i, 999, &warm, e);
    for (uint32_t k = 0; rc == 0 && k < o->rounds; k++) {
        double peer[FIGURES] = { 0 };

        r->gbps[k] = kern_measure_read_gbps(pool);
        kern_pool_quiet(pool);
        for (int i = 0; rc == 0 && i < FIGURES; i++)
            rc = measure(en, i, k, &r->ours[i][k], e);
        clock_sleep_ms(50); /* our threads are parked when the peer begins */
        if (rc == 0 && o->compare != NULL)
            rc = peer_run(o, *threads, peer, e);
        for (int i = 0; i < FIGURES; i++)
            r->peer[i][k] = peer[i];
    }
    engine_close(en);
    kern_pool_free(pool);
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    struct bench_opts o = { 0 };
    struct opt_list rest = { 0 };
    struct results *r;
    struct model *m = NULL;
    struct buf path;
    struct err e = { 0 };
    uint32_t threads = 0;
    int rc = cmd_options("usage: llmd bench engine --model FILE [FLAGS]", &o, table, COUNT(table),
                         argc, argv, &rest);

    if (rc >= 0)
        return rc;
    if (rest.count != 1 || strcmp(rest.item[0], "engine") != 0 || o.model == NULL) {
        fprintf(stderr, "llmd: usage: llmd bench engine --model FILE; see llmd bench --help\n");
        return 2;
    }
    buf_init(&path, 8192);
    r = mem_zalloc(sizeof(*r));
    rc = catalogue_resolve(str_of(o.model), &path, &e);
    if (rc == 0 && !buf_c(&path, '\0'))
        rc = err_set(&e, ERR_LIMIT, "--model: path too long");
    if (rc == 0) {
        o.model = path.p;
        rc = kern_init(o.cpu, &e);
    }
    if (rc == 0)
        rc = model_open(&m, o.model, &e);
    if (rc == 0)
        rc = rounds(&o, m, r, &threads, &e);
    if (rc == 0)
        report(&o, m, r, threads);
    model_close(m);
    mem_free(r);
    buf_fini(&path);
    return rc == 0 ? 0 : cmd_fail(&e);
}
