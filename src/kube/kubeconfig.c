// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "codec/b64.h"
#include "codec/yaml.h"
#include "kube/client.h"
#include "net/conn.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ACCOUNT_DIR    "/var/run/secrets/kubernetes.io/serviceaccount"
#define FILE_BYTES_MAX ((size_t)1 << 20)
#define FILES_MAX      16

static const char *env_or(const char *name, const char *otherwise)
{
    const char *v = getenv(name);

    return v != NULL && *v != 0 ? v : otherwise;
}

static char *take_z(struct str s)
{
    return s.p != NULL && s.n != 0 ? str_dup(s) : NULL;
}

/* A file of few bytes, without the blanks around them; NULL: it is not there, or empty. */
static char *small_file(const char *path)
{
    struct buf b;
    struct err e;
    char *text = NULL;

    buf_init(&b, FILE_BYTES_MAX);
    if (file_read(path, &b, &e) == 0)
        text = take_z(str_trim(buf_view(&b)));
    buf_fini(&b);
    return text;
}

static int in_pod(struct kube_access *a, struct err *e)
{
    const char *host = env_or("KUBERNETES_SERVICE_HOST", NULL);
    const char *port = env_or("KUBERNETES_SERVICE_PORT", "443");
    /* the directory can be elsewhere in tests and under telepresence-like tools */
    const char *dir = env_or("KUBERNETES_SERVICE_ACCOUNT_DIR", ACCOUNT_DIR);
    char path[4096];
    uint64_t n;

    if (host == NULL)
        return err_set(e, ERR_INVAL,
                       "not in a pod (KUBERNETES_SERVICE_HOST is not set): give --kubeconfig FILE");
    if (!str_u64(str_of(port), &n) || n == 0 || n > 65535)
        return err_set(e, ERR_INVAL, "KUBERNETES_SERVICE_PORT is %s, which is no port", port);
    a->host = mem_strdup(host);
    a->port = (uint16_t)n;
    a->is_tls = true;
    snprintf(path, sizeof(path), "%s/token", dir);
    a->token_file = mem_strdup(path);
    snprintf(path, sizeof(path), "%s/ca.crt", dir);
    a->ca_file = mem_strdup(path);
    snprintf(path, sizeof(path), "%s/namespace", dir);
    a->namespace = small_file(path);
    if (access(a->token_file, R_OK) != 0)
        return err_set(e, ERR_IO,
                       "%s: %s; the pod needs a service account whose token is mounted "
                       "(automountServiceAccountToken)",
                       a->token_file, strerror(errno));
    return 0;
}

/* https://HOST[:PORT][/PREFIX] */
static int read_server(const struct yaml_node *cluster, struct kube_access *a, struct err *e)
{
    const struct yaml_node *n = yaml_get(cluster, "server");
    struct str url = STR_NONE, at, prefix;
    char host[256], *text;
    int rc;

    if (!yaml_str(n, &url))
        return yaml_err(cluster, e, "server is missing");
    a->is_tls = str_starts(url, STR("https://"));
    if (!a->is_tls && !str_starts(url, STR("http://")))
        return yaml_err(n, e, "server must be a https:// URL");
    url = str_sub(url, a->is_tls ? 8 : 7, url.n);
    prefix = url;
    at = str_cut(&prefix, '/');
    while (prefix.n != 0 && prefix.p[prefix.n - 1] == '/')
        prefix.n--;
    if (prefix.n != 0)
        prefix = (struct str) { prefix.p - 1, prefix.n + 1 };
    a->prefix = str_dup(prefix.n != 0 ? prefix : STR(""));
    text = str_dup(at);
    rc = addr_parse(str_of(text), host, &a->port, e);
    if (rc != 0 && str_chr(at, ':') == SIZE_MAX && at.n != 0 && at.n < sizeof(host)) {
        snprintf(host, sizeof(host), "%s", text);
        a->port = a->is_tls ? 443 : 80;
        rc = 0;
    }
    mem_free(text);
    if (rc != 0)
        return yaml_err(n, e, "server must be a https://HOST:PORT URL");
    if (a->port == 0)
        a->port = a->is_tls ? 443 : 80;
    a->host = mem_strdup(host);
    if (!a->is_tls && !addr_is_loopback(host))
        return yaml_err(n, e, "http:// would send the token in the clear: use https://");
    return 0;
}

/* The files of one kubeconfig: of what several say the first one's word counts, whole entries. */
struct files {
    struct {
        const struct yaml_node *root;
        char *dir; /* where its relative paths begin */
    } file[FILES_MAX];
    uint32_t count;
};

/* The entry of that name in a list, "contexts", and its member, "context"; *dir: of its file. */
static const struct yaml_node *named(const struct files *f, const char *list, struct str name,
                                     const char *member, const char **dir)
{
    struct str s;

    for (uint32_t i = 0; i < f->count; i++) {
        const struct yaml_node *n = yaml_get(f->file[i].root, list);

        *dir = f->file[i].dir;
        for (n = yaml_is(n, YAML_LIST) ? n->first : NULL; n != NULL; n = n->next)
            if (yaml_str(yaml_get(n, "name"), &s) && str_eq(s, name))
                return yaml_get(n, member);
    }
    return NULL;
}

/* KEY-data as a file in memory, or KEY as a path relative to the kubeconfig. */
static int file_or_data(const struct yaml_node *n, const char *key, const char *dir, int *fd,
                        char **out, struct err *e)
{
    char name[64], path[4096];
    const struct yaml_node *data;
    struct arena a;
    struct str s, bytes;
    int rc = 0;

    snprintf(name, sizeof(name), "%s-data", key);
    data = yaml_get(n, name);
    if (!yaml_str(data, &s)) {
        if (yaml_str(yaml_get(n, key), &s)) {
            snprintf(path, sizeof(path), s.n > 0 && s.p[0] == '/' ? "%.0s%.*s" : "%s/%.*s", dir,
                     STR_ARG(s));
            *out = mem_strdup(path);
        }
        return 0;
    }
    arena_init(&a, FILE_BYTES_MAX);
    bytes = base64_decode(&a, s);
    *fd = bytes.p == NULL ? -1 : memfd_create(name, MFD_CLOEXEC);
    if (bytes.p == NULL)
        rc = yaml_err(data, e, "%s is no base64", name);
    else if (*fd < 0 || write(*fd, bytes.p, bytes.n) != (ssize_t)bytes.n)
        rc = err_set(e, ERR_IO, "cannot keep %s in memory: %s", name, strerror(errno));
    arena_fini(&a);
    if (rc != 0)
        return rc;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
    *out = mem_strdup(path);
    return 0;
}

static int read_user(const struct yaml_node *user, const char *dir, struct kube_access *a,
                     struct err *e)
{
    static const char *const plugins[] = { "exec", "auth-provider", "username" };
    struct str s;
    int fd = -1, rc;

    for (size_t i = 0; i < COUNT(plugins); i++)
        if (yaml_get(user, plugins[i]) != NULL) {
            (void)yaml_err(yaml_get(user, plugins[i]), e,
                           "users with %s are not supported: give one with a token or a client "
                           "certificate (kubectl create token NAME prints a token)",
                           plugins[i]);
            return e->code = ERR_UNSUPPORTED;
        }
    if (yaml_str(yaml_get(user, "token"), &s))
        a->token = take_z(s);
    rc = file_or_data(user, "tokenFile", dir, &fd, &a->token_file, e); /* has no -data form */
    if (rc == 0)
        rc = file_or_data(user, "client-certificate", dir, &a->fd[1], &a->cert_file, e);
    if (rc == 0)
        rc = file_or_data(user, "client-key", dir, &a->fd[2], &a->key_file, e);
    if (rc == 0 && (a->cert_file == NULL) != (a->key_file == NULL))
        return yaml_err(user, e, "client-certificate and client-key belong together");
    return rc;
}

static const struct yaml_node *current_context(const struct files *f, struct str *name)
{
    const struct yaml_node *n = NULL;

    *name = STR_NONE;
    for (uint32_t i = 0; i < f->count && name->n == 0; i++) {
        n = yaml_get(f->file[i].root, "current-context");
        (void)yaml_str(n, name);
    }
    return n;
}

static int read_context(const struct files *f, struct kube_access *a, struct err *e)
{
    const struct yaml_node *current, *context, *cluster;
    struct str name, s;
    const char *dir;
    int rc;

    current = current_context(f, &name);
    if (name.n == 0)
        return yaml_err(f->file[0].root, e,
                        "current-context is missing: kubectl config use-context NAME");
    context = named(f, "contexts", name, "context", &dir);
    if (context == NULL)
        return yaml_err(current, e, "there is no context of that name");
    if (yaml_str(yaml_get(context, "namespace"), &s))
        a->namespace = take_z(s);
    s = STR_NONE;
    (void)yaml_str(yaml_get(context, "cluster"), &s);
    cluster = named(f, "clusters", s, "cluster", &dir);
    if (cluster == NULL)
        return yaml_err(context, e, "its cluster is not in the file");
    (void)yaml_bool(yaml_get(cluster, "insecure-skip-tls-verify"), &a->skip_verify);
    if (yaml_str(yaml_get(cluster, "tls-server-name"), &s))
        a->server_name = take_z(s);
    rc = read_server(cluster, a, e);
    if (rc == 0)
        rc = file_or_data(cluster, "certificate-authority", dir, &a->fd[0], &a->ca_file, e);
    s = STR_NONE;
    if (rc == 0 && yaml_str(yaml_get(context, "user"), &s)) {
        const struct yaml_node *user = named(f, "users", s, "user", &dir);

        rc = read_user(user, dir, a, e);
    }
    return rc;
}

static int add_file(struct files *f, struct arena *a, struct str text, const char *name,
                    struct err *e)
{
    const char *slash = strrchr(name, '/');
    int rc;

    if (f->count == FILES_MAX)
        return err_set(e, ERR_LIMIT, "more than %d files of kubeconfig", FILES_MAX);
    rc = yaml_parse(a, text, name, &f->file[f->count].root, e);
    if (rc != 0)
        return rc;
    f->file[f->count++].dir =
        slash == NULL ? mem_strdup(".") : str_dup((struct str) { name, (size_t)(slash - name) });
    return 0;
}

static void files_fini(struct files *f)
{
    for (uint32_t i = 0; i < f->count; i++)
        mem_free(f->file[i].dir);
}

int kube_access_parse(struct str text, const char *file, struct kube_access *out, struct err *e)
{
    struct files f = { 0 };
    struct arena a;
    int rc;

    *out = (struct kube_access) { .fd = { -1, -1, -1 } };
    arena_init(&a, 16 * FILE_BYTES_MAX);
    rc = add_file(&f, &a, text, file, e);
    if (rc == 0)
        rc = read_context(&f, out, e);
    files_fini(&f);
    arena_fini(&a);
    return rc;
}

/* Files with sep between them; those that are not there are passed over. */
static int load_files(const char *list, char sep, struct kube_access *out, struct err *e)
{
    struct str rest = str_of(list);
    struct files f = { 0 };
    struct arena a;
    struct buf text;
    int rc = 0;

    arena_init(&a, 16 * FILE_BYTES_MAX);
    while (rest.p != NULL && rc == 0) {
        struct str part = str_cut(&rest, sep);
        char *path = arena_alloc(&a, part.n + 1);

        snprintf(path, part.n + 1, "%.*s", STR_ARG(part));
        if (part.n == 0 || (access(path, F_OK) != 0 && errno == ENOENT))
            continue;
        buf_init(&text, FILE_BYTES_MAX);
        rc = file_read(path, &text, e);
        if (rc == 0)
            rc = add_file(&f, &a, buf_view(&text), path, e);
        buf_fini(&text);
    }
    if (rc == 0 && f.count == 0)
        rc = err_set(e, ERR_IO, "%s: there is no such file", list);
    if (rc == 0)
        rc = read_context(&f, out, e);
    files_fini(&f);
    arena_fini(&a);
    return rc;
}

int kube_access_load(const char *kubeconfig, struct kube_access *out, struct err *e)
{
    const char *home = env_or("HOME", NULL);
    char path[4096];

    *out = (struct kube_access) { .fd = { -1, -1, -1 } };
    if (kubeconfig != NULL)
        return load_files(kubeconfig, 0, out, e);
    if (env_or("KUBECONFIG", NULL) != NULL)
        return load_files(getenv("KUBECONFIG"), ':', out, e);
    snprintf(path, sizeof(path), "%s/.kube/config", home != NULL ? home : "");
    if (env_or("KUBERNETES_SERVICE_HOST", NULL) == NULL && access(path, R_OK) == 0)
        return load_files(path, 0, out, e);
    out->prefix = mem_strdup("");
    return in_pod(out, e);
}

void kube_access_free(struct kube_access *a)
{
    for (size_t i = 0; i < COUNT(a->fd); i++)
        if (a->fd[i] >= 0)
            close(a->fd[i]);
    mem_free(a->host);
    mem_free(a->prefix);
    mem_free(a->server_name);
    mem_free(a->ca_file);
    mem_free(a->cert_file);
    mem_free(a->key_file);
    mem_free(a->token);
    mem_free(a->token_file);
    mem_free(a->namespace);
    *a = (struct kube_access) { .fd = { -1, -1, -1 } };
}
