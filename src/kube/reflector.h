/* kube/reflector.h - one kind of object of a namespace, listed and then watched.
 *
 *   list (pages of 500) --complete--> watch from its resourceVersion --ends--> watch again
 *        ^                                 |
 *        +---- 410 Gone: too far behind ---+
 *
 * While the API is away the watch is tried again from where it was, with back-off from 0.5 s to
 * 30 s and jitter, so that many replicas do not come back at once, and not before the server's
 * Retry-After (up to 5 min); nothing is taken away meanwhile.
 * A watch asks to end after WATCH_S seconds, so that a server that vanished is noticed.
 * An optional kind that the server does not know (404) is looked for again every 30 s.
 * Source: Kubernetes API Concepts, "Efficient detection of changes", "Retrieving large results
 * sets in chunks", "Watch bookmarks".
 * Threads: everything on the client's loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KUBE_REFLECTOR_H
#define KUBE_REFLECTOR_H
#include "codec/json.h"
#include "kube/client.h"

struct kube_reflector;

struct kube_reflector_ops {
    /* A list begins: what it does not name until on_synced is gone. */
    void (*on_begin)(void *ctx);
    /* object is borrowed for the call. */
    void (*on_object)(void *ctx, bool is_deleted, const struct json *object);
    void (*on_synced)(void *ctx); /* the list was complete */
    /* Optional kinds: the server knows the kind, or not; told on every change, the first time
     * before anything else. */
    void (*on_present)(void *ctx, bool is_present);
};

struct kube_reflector_opts {
    const char *path;     /* "/api/v1/namespaces/x/pods" */
    const char *selector; /* "labelSelector=a%3Db", or NULL: all */
    const char *what;     /* "pods": for messages */
    bool optional;
};

struct kube_reflector_stats {
    uint64_t lists, watches, errors, objects;
    bool synced;    /* a list was complete */
    bool connected; /* the last request was answered well */
    bool absent;
};

struct kube_reflector *kube_reflector_new(struct loop *l, struct kube_client *c,
                                          const struct kube_reflector_opts *o,
                                          const struct kube_reflector_ops *ops, void *ctx);
void kube_reflector_free(struct kube_reflector *r); /* NULL is fine; not from on_object */
/* From on_synced: what the list said is not believed, so it is asked for again, after 2 s. */
void kube_reflector_relist(struct kube_reflector *r);
const struct kube_reflector_stats *kube_reflector_stats(const struct kube_reflector *r);

/* ---- what a watch says, a line at a time (object.c; pure) ---- */

enum kube_change { KUBE_ADDED, KUBE_MODIFIED, KUBE_DELETED, KUBE_BOOKMARK, KUBE_ERROR };

struct kube_event {
    enum kube_change change;
    const struct json *object;
    struct str version; /* its resourceVersion; p == NULL: none */
    int64_t code;       /* of an error: an HTTP status */
    struct str message;
};

/* {"type":"ADDED","object":{...}}.  Returns 0, ERR_PARSE or ERR_LIMIT. */
int kube_event_parse(struct arena *a, struct str line, struct kube_event *out,
                     struct err *e) MUST_CHECK;
#endif
