/* kube/client.h - the Kubernetes API server: where it is, who we are, and requests to it.
 *
 * In a pod: KUBERNETES_SERVICE_HOST and _PORT, and the service account's files (token, ca.crt,
 * namespace).  Elsewhere: a kubeconfig, its current context; of its users those with a token,
 * a token file or a client certificate (exec and auth-provider plugins are refused by name).
 * The token's file is read before each request, so that a rotated one is used at once; the
 * authority's file is watched (net/tls.h).
 * Source: Kubernetes documentation "Accessing the API from a Pod" and kubeconfig v1.
 * Threads: everything on its loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KUBE_CLIENT_H
#define KUBE_CLIENT_H
#include "base/arena.h"
#include "net/http.h"

struct kube_client;

/* kubeconfig: a file, or NULL: $KUBECONFIG, in a pod its account, ~/.kube/config.  $KUBECONFIG may
 * name several files with colons: those that are not there are passed over, of what two say the
 * first one's word counts, and each one's relative paths begin where it is.  ERR_IO, ERR_PARSE,
 * ERR_UNSUPPORTED, ERR_INVAL. */
int kube_client_open(struct loop *l, const char *kubeconfig, struct kube_client **out,
                     struct err *e) MUST_CHECK;
void kube_client_close(struct kube_client *c); /* after its calls; NULL is fine */
/* Of the pod or of the context; NULL: it says none. */
const char *kube_client_namespace(const struct kube_client *c);
const char *kube_client_server(const struct kube_client *c); /* for messages */

/* GET path (with query).  on_end tells how it went; a call can be cancelled (http_call_cancel). */
int kube_get(struct kube_client *c, struct str path, uint32_t gap_ms,
             const struct http_call_ops *ops, void *ctx, struct http_call **out,
             struct err *e) MUST_CHECK;
/* The same with a method and a JSON body (copied; n == 0: none), whole within total_ms. */
int kube_send(struct kube_client *c, const char *method, struct str path, struct str body,
              uint32_t total_ms, const struct http_call_ops *ops, void *ctx, struct http_call **out,
              struct err *e) MUST_CHECK;

/* ---- where it is (kubeconfig.c) ---- */

struct kube_access {
    char *host, *prefix; /* prefix: of paths, "" or "/k8s/clusters/c" */
    uint16_t port;
    bool is_tls, skip_verify;
    char *server_name, *ca_file, *cert_file, *key_file, *token, *token_file, *namespace;
    int fd[3]; /* of files that hold what the kubeconfig carries itself; -1: none */
};

/* Fills *out, to be freed whatever comes back. */
int kube_access_load(const char *kubeconfig, struct kube_access *out, struct err *e) MUST_CHECK;
/* The same from a kubeconfig's text; dir: what its relative paths begin at. */
int kube_access_parse(struct str text, const char *file, struct kube_access *out,
                      struct err *e) MUST_CHECK;
void kube_access_free(struct kube_access *a);
#endif
