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

/* The list's member with that name. */
static const struct yaml_node *named(const struct yaml_node *list, struct str name,
                                     const char *what)
{
    const struct yaml_node *n = yaml_is(list, YAML_LIST) ? list->first : NULL;
    struct str s;

    for (; n != NULL; n = n->next)
        if (yaml_str(yaml_get(n, "name"), &s) && str_eq(s, name))
            return yaml_get(n, what);
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

static int read_context(const struct yaml_node *root, const char *dir, struct kube_access *a,
                        struct err *e)
{
    const struct yaml_node *current = yaml_get(root, "current-context"), *context, *cluster;
    struct str name = STR_NONE, s;
    int rc;

    if (!yaml_str(current, &name))
        return yaml_err(root, e, "current-context is missing: kubectl config use-context NAME");
    context = named(yaml_get(root, "contexts"), name, "context");
    if (context == NULL)
        return yaml_err(current, e, "there is no context of that name");
    if (yaml_str(yaml_get(context, "namespace"), &s))
        a->namespace = take_z(s);
    s = STR_NONE;
    (void)yaml_str(yaml_get(context, "cluster"), &s);
    cluster = named(yaml_get(root, "clusters"), s, "cluster");
    if (cluster == NULL)
        return yaml_err(context, e, "its cluster is not in the file");
    (void)yaml_bool(yaml_get(cluster, "insecure-skip-tls-verify"), &a->skip_verify);
    if (yaml_str(yaml_get(cluster, "tls-server-name"), &s))
        a->server_name = take_z(s);
    rc = read_server(cluster, a, e);
    if (rc == 0)
        rc = file_or_data(cluster, "certificate-authority", dir, &a->fd[0], &a->ca_file, e);
    s = STR_NONE;
    if (rc == 0 && yaml_str(yaml_get(context, "user"), &s))
        rc = read_user(named(yaml_get(root, "users"), s, "user"), dir, a, e);
    return rc;
}

int kube_access_parse(struct str text, const char *file, struct kube_access *out, struct err *e)
{
    const struct yaml_node *root;
    const char *slash = strrchr(file, '/');
    char *dir =
        slash == NULL ? mem_strdup(".") : str_dup((struct str) { file, (size_t)(slash - file) });
    struct arena a;
    int rc;

    *out = (struct kube_access) { .fd = { -1, -1, -1 } };
    arena_init(&a, 16 * FILE_BYTES_MAX);
    rc = yaml_parse(&a, text, file, &root, e);
    if (rc == 0)
        rc = read_context(root, dir, out, e);
    arena_fini(&a);
    mem_free(dir);
    return rc;
}

int kube_access_load(const char *kubeconfig, struct kube_access *out, struct err *e)
{
    struct buf text;
    int rc;

    *out = (struct kube_access) { .fd = { -1, -1, -1 } };
    if (kubeconfig == NULL)
        kubeconfig = env_or("KUBECONFIG", NULL);
    if (kubeconfig == NULL) {
        out->prefix = mem_strdup("");
        return in_pod(out, e);
    }
    buf_init(&text, FILE_BYTES_MAX);
    rc = file_read(kubeconfig, &text, e);
    if (rc == 0)
        rc = kube_access_parse(buf_view(&text), kubeconfig, out, e);
    buf_fini(&text);
    return rc;
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
