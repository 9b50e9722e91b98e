/* llmd up --kube: the quickstart on a Kubernetes cluster.
 *
 *   kubectl get --raw /version .......................> is there one?
 *   quickstart.yaml (in this binary) --kubectl apply--> cluster
 *   kubectl rollout status of each part ..............> progress; is the image there?
 *   kubectl port-forward svc/llmd-epp <---------------- the first question, then the user's
 *
 * kubectl brings the cluster's address and credentials, so nothing of them is read here.  The
 * manifests are deploy/kustomize/overlays/quickstart as kustomize builds it; a test compares them.
 */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "cmd/up.h"
#include "net/conn.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMESPACE      "llmd"
#define ARGS_MAX       16
#define OUTPUT_MAX     ((size_t)4 << 20)
#define ROLLOUT        "--timeout=600s"
#define LOOK_MS        2000
#define FORWARD_MS     15000
#define READY_MS       120000
#define WORKERS_LISTED 4096

extern char **environ;
extern const char up_kube_quickstart[];

static const char *const parts[] = { "llmd-kv-cache", "llmd-prefill", "llmd-decode", "llmd-epp" };

static volatile sig_atomic_t stopped;

static void on_stop(int signum)
{
    (void)signum;
    stopped = 1;
}

/* ---- kubectl ---- */

/* Starts kubectl with these words (NULL ends them).  in, out: descriptors, -1 = /dev/null and ours.
 */
static int start(pid_t *pid, int in, int out, const char *const *words, struct err *e)
{
    posix_spawn_file_actions_t actions;
    char *argv[ARGS_MAX + 2] = { (char *)"kubectl" };
    int rc;

    for (size_t i = 0; i < ARGS_MAX && words[i] != NULL; i++)
        argv[i + 1] = (char *)words[i];
    posix_spawn_file_actions_init(&actions);
    if (in >= 0)
        posix_spawn_file_actions_adddup2(&actions, in, 0);
    else
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (out >= 0)
        posix_spawn_file_actions_adddup2(&actions, out, 1);
    rc = posix_spawnp(pid, "kubectl", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (rc == ENOENT)
        return err_set(
            e, ERR_NOTFOUND,
            "kubectl is not on the PATH, and --kube applies the manifests with it: install "
            "it, or use the Helm chart in deploy/charts/llmd");
    return rc != 0 ? err_set(e, ERR_IO, "kubectl: %s", strerror(rc)) : 0;
}

static int finish(pid_t pid, const char *what, struct err *e)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return err_set(e, ERR_IO, "kubectl %s: %s", what, strerror(errno));
        else if (stopped)
            kill(pid, SIGTERM);
    if (stopped)
        return err_set(e, ERR_CANCELLED, "stopped");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(e, ERR_IO, "kubectl %s failed; what it said stands above", what);
    return 0;
}

/* Runs kubectl to its end; output goes to *out, or to our own standard output when it is NULL. */
static int run(struct buf *out, int in, const char *const *words, struct err *e)
{
    int ends[2] = { -1, -1 };
    char piece[8192];
    ssize_t n;
    pid_t pid;
    int rc;

    if (out != NULL && pipe2(ends, O_CLOEXEC) != 0)
        return err_set(e, ERR_IO, "pipe: %s", strerror(errno));
    rc = start(&pid, in, ends[1], words, e);
    if (ends[1] >= 0)
        close(ends[1]);
    if (rc == 0) {
        while (out != NULL && ((n = read(ends[0], piece, sizeof(piece))) > 0 ||
                               (n < 0 && errno == EINTR && !stopped)))
            if (n > 0)
                buf_add(out, piece, (size_t)n);
        rc = finish(pid, words[0][0] == '-' ? words[2] : words[0], e);
    }
    if (ends[0] >= 0)
        close(ends[0]);
    return rc;
}

#define KUBECTL(out, in, e, ...) run(out, in, (const char *const[]) { __VA_ARGS__, NULL }, e)

static int apply(struct err *e)
{
    size_t size = strlen(up_kube_quickstart);
    int fd = memfd_create("llmd-quickstart", MFD_CLOEXEC), rc;

    if (fd < 0 || write(fd, up_kube_quickstart, size) != (ssize_t)size ||
        lseek(fd, 0, SEEK_SET) != 0)
        rc = err_set(e, ERR_IO, "the manifests: %s", strerror(errno));
    else
        rc = KUBECTL(NULL, fd, e, "apply", "-f", "-");
    if (rc == ERR_IO)
        rc = err_set(e, rc,
                     "the cluster did not take it all; what kubectl said stands above.  It needs "
                     "the right to make namespace " NAMESPACE " and what is in it: kubectl auth "
                     "can-i create namespaces; in a namespace of yours: helm install llmd "
                     "deploy/charts/llmd");
    if (fd >= 0)
        close(fd);
    return rc;
}

static int reach(struct err *e)
{
    struct buf version;
    int rc;

    buf_init(&version, OUTPUT_MAX);
    rc = KUBECTL(&version, -1, e, "get", "--raw", "/version", "--request-timeout=10s");
    buf_fini(&version);
    if (rc == ERR_IO)
        rc = err_set(e, rc,
                     "kubectl reaches no cluster; what it said stands above: kubectl config "
                     "get-contexts lists those it knows, KUBECONFIG names its file");
    return rc;
}

static int scale(const char *name, uint32_t replicas, struct err *e)
{
    char count[32];

    if (replicas == 1)
        return 0;
    snprintf(count, sizeof(count), "--replicas=%" PRIu32, replicas);
    return KUBECTL(NULL, -1, e, "-n", NAMESPACE, "scale", name, count);
}

/* Why pods wait.  An image that no registry has does not come by waiting: an error; room on a node
 * may come: told once. */
static int look(bool *told, struct err *e)
{
    struct buf why;
    struct err none;
    int rc = 0;

    buf_init(&why, OUTPUT_MAX);
    if (KUBECTL(&why, -1, &none, "-n", NAMESPACE, "get", "pods", "-o",
                "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}"
                "{.items[*].status.conditions[?(@.reason==\"Unschedulable\")].message}") != 0)
        goto out;
    if (str_find(buf_view(&why), STR("ImagePull")) != SIZE_MAX ||
        str_find(buf_view(&why), STR("ErrImage")) != SIZE_MAX) {
        rc =
            err_set(e, ERR_NOTFOUND,
                    "a node does not have the image, which no registry has: make images, then "
                    "load it into the nodes (docs/ops/kubernetes.md, Images); kubectl -n " NAMESPACE
                    " describe pods names it");
    } else if (!*told && str_find(buf_view(&why), STR("nodes are available")) != SIZE_MAX) {
        printf("a pod finds no room: kubectl -n " NAMESPACE " describe pods; waiting for it\n");
        fflush(stdout);
        *told = true;
    }
out:
    buf_fini(&why);
    return rc;
}

static int rollout(const char *part, bool *told, struct err *e)
{
    uint64_t look_ms = clock_ms() + LOOK_MS;
    char name[64];
    siginfo_t ended = { 0 };
    pid_t pid;
    int rc;

    snprintf(name, sizeof(name), "deploy/%s", part);
    rc = start(&pid, -1, -1,
               (const char *const[]) { "-n", NAMESPACE, "rollout", "status", name, ROLLOUT, NULL },
               e);
    if (rc != 0)
        return rc;
    while (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           ended.si_pid == 0 && rc == 0 && !stopped) {
        clock_sleep_ms(50);
        if (clock_ms() < look_ms)
            continue;
        look_ms = clock_ms() + LOOK_MS;
        rc = look(told, e);
    }
    if (ended.si_pid == 0)
        kill(pid, SIGTERM);
    if (rc != 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        return rc;
    }
    rc = finish(pid, "rollout", e);
    if (rc != 0 && rc != ERR_CANCELLED)
        rc =
            err_set(e, rc, "%s did not become ready: kubectl -n " NAMESPACE " describe pods", part);
    return rc;
}

/* ---- the way in ---- */

struct forward {
    pid_t pid;
    struct endpoint door;
};

static bool answers(const struct endpoint *at)
{
    struct buf body;
    struct err e;
    int status = 0;
    bool ok;

    buf_init(&body, 65536);
    ok = endpoint_get(at, "/health/ready", 500, &status, &body, &e) == 0 && status == 200;
    buf_fini(&body);
    return ok;
}

static int forward_open(struct forward *f, const char *listen, struct err *e)
{
    char ports[32], address[300];
    uint64_t deadline = clock_ms() + FORWARD_MS;
    int rc, null;

    f->pid = 0;
    rc = endpoint_parse_url(listen, &f->door, e);
    if (rc != 0)
        return rc;
    snprintf(ports, sizeof(ports), "%u:80", f->door.port);
    snprintf(address, sizeof(address), "--address=%s", f->door.host);
    null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    rc = start(&f->pid, -1, null,
               (const char *const[]) { "-n", NAMESPACE, "port-forward", "svc/llmd-epp", ports,
                                       address, NULL },
               e);
    close(null);
    while (rc == 0 && !answers(&f->door)) {
        if (stopped)
            rc = err_set(e, ERR_CANCELLED, "stopped");
        else if (waitpid(f->pid, NULL, WNOHANG) == f->pid) {
            f->pid = 0;
            rc = err_set(e, ERR_IO,
                         "kubectl port-forward to %s failed; is the port taken? --listen "
                         "127.0.0.1:PORT chooses another",
                         listen);
        } else if (clock_ms() > deadline) {
            rc = err_set(e, ERR_TIMEOUT,
                         "the Service does not answer: kubectl -n " NAMESPACE
                         " logs deploy/llmd-epp");
        } else {
            clock_sleep_ms(50);
        }
    }
    return rc;
}

static void forward_close(struct forward *f)
{
    if (f->pid == 0)
        return;
    kill(f->pid, SIGTERM);
    while (waitpid(f->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    f->pid = 0;
}

/* KV bytes that the decode pods received, by the API server's proxy to them. */
static double handed_over(void *ctx)
{
    struct buf names, page;
    struct str rest, name;
    char path[400];
    struct err e;
    double sum = 0;

    (void)ctx;
    buf_init(&names, WORKERS_LISTED * 64);
    if (KUBECTL(&names, -1, &e, "-n", NAMESPACE, "get", "pods", "-l", "llm-d.ai/role=decode", "-o",
                "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}") == 0)
        for (rest = buf_view(&names); rest.n != 0;) {
            name = str_cut(&rest, '\n');
            if (name.n == 0)
                continue;
            snprintf(path, sizeof(path),
                     "/api/v1/namespaces/" NAMESPACE "/pods/%.*s:8000/proxy/metrics",
                     STR_ARG(name));
            buf_init(&page, OUTPUT_MAX);
            if (KUBECTL(&page, -1, &e, "get", "--raw", path) == 0)
                sum += prom_sum(buf_view(&page), "llmd_kvx_bytes_total", "dir=\"recv\"");
            buf_fini(&page);
        }
    buf_fini(&names);
    return sum;
}

/* ---- run ---- */

static int validate(const struct up_opts *o, struct err *e)
{
    if (strcmp(o->model, UP_MODEL_DEFAULT) != 0 && strcmp(o->model, "smollm2-135m") != 0)
        return err_set(
            e, ERR_UNSUPPORTED,
            "--kube serves the model inside the image, smollm2-135m; for %s: helm install "
            "llmd deploy/charts/llmd --set model.uri=... (docs/ops/kubernetes.md)",
            o->model);
    if (o->workers != 0 || o->prefill == 0 || o->decode == 0)
        return err_set(
            e, ERR_UNSUPPORTED,
            "--kube starts prefill and decode workers; for workers that do both: kubectl "
            "apply -k deploy/kustomize/overlays/aggregated");
    if (o->check)
        return err_set(e, ERR_UNSUPPORTED,
                       "--check proves a set-up on this machine; not with --kube");
    return 0;
}

static int install(const struct up_opts *o, struct err *e)
{
    bool told = false;
    int rc;

    rc = reach(e);
    if (rc != 0)
        return rc;
    printf("applying the quickstart to namespace " NAMESPACE "\n");
    fflush(stdout);
    rc = apply(e);
    if (rc == 0)
        rc = scale("deploy/llmd-prefill", o->prefill, e);
    if (rc == 0)
        rc = scale("deploy/llmd-decode", o->decode, e);
    for (size_t i = 0; i < COUNT(parts) && rc == 0; i++)
        rc = rollout(parts[i], &told, e);
    return rc;
}

static void where_next(const struct up_opts *o, const char *model)
{
    printf("\nllmd serves %s on http://%s, forwarded to the Service llmd-epp (Ctrl-C ends the\n"
           "forwarding, not the cluster's part)\n"
           "  talk      llmd chat --url http://%s\n"
           "  see       llmd status --url http://%s\n"
           "  inside    http://llmd-epp." NAMESPACE "/v1\n"
           "  remove    kubectl delete namespace " NAMESPACE "\n"
           "  curl      curl http://%s/v1/chat/completions -H 'Content-Type: application/json' \\\n"
           "              -d '{\"model\":\"%s\",\"max_tokens\":64,\"messages\":"
           "[{\"role\":\"user\",\"content\":\"Hello\"}]}'\n",
           model, o->listen, o->listen, o->listen, o->listen, model);
    fflush(stdout);
}

int up_kube(const struct up_opts *o, struct err *e)
{
    struct sigaction sa = { .sa_handler = on_stop };
    struct forward f = { 0 };
    uint64_t begin = clock_ms();
    char model[256] = "";
    int rc;

    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    rc = validate(o, e);
    if (rc == 0)
        rc = install(o, e);
    if (rc == 0)
        rc = forward_open(&f, o->listen, e);
    while (rc == 0 && (rc = ask_model(&f.door, model, e)) == ERR_AGAIN && !stopped &&
           clock_ms() - begin < READY_MS) {
        clock_sleep_ms(200);
        rc = 0;
    }
    if (rc == 0) {
        up_wait_used(&f.door, o->prefill + o->decode);
        printf("ready after %.1f s\n", (double)(clock_ms() - begin) / 1000);
        if (!o->no_ask)
            up_ask(&f.door, model, o->ask, handed_over, NULL);
        where_next(o, model);
        while (!stopped && waitpid(f.pid, NULL, WNOHANG) == 0)
            clock_sleep_ms(100);
        if (!stopped) {
            f.pid = 0;
            rc = err_set(
                e, ERR_IO,
                "kubectl port-forward ended; the cluster still serves: kubectl -n " NAMESPACE
                " port-forward svc/llmd-epp %u:80",
                f.door.port);
        }
    }
    forward_close(&f);
    return rc;
}
