// SPDX-License-Identifier: Apache-2.0
#include "kube/pods.h"
#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"
#include <string.h>

#define ACTIVE_BYTES_MAX 256

struct entry {
    struct kube_pod pod; /* its strings are in text */
    char *text;
    size_t bytes;
    bool listed;
};

struct kube_pods {
    struct entry **entry;
    uint32_t count, cap, left_out;
    struct map by_name; /* of entry's pod.name -> place */
};

/* ---- reading one ---- */

static bool is_ready(const struct json *status)
{
    const struct json *list = json_get(status, "conditions");

    for (const struct json *j = json_is(list, JSON_ARRAY) ? list->first : NULL; j != NULL;
         j = j->next) {
        struct str type = STR_NONE, value = STR_NONE;

        (void)json_str(json_get(j, "type"), &type);
        (void)json_str(json_get(j, "status"), &value);
        if (str_eqz(type, "Ready"))
            return str_eqz(value, "True");
    }
    return false;
}

/* Static texts, by what a person would do about it. */
static const char *why_not(const struct json *meta, const struct json *status, struct str ip)
{
    struct str phase = STR_NONE;

    (void)json_str(json_get(status, "phase"), &phase);
    if (json_is(json_get(meta, "deletionTimestamp"), JSON_STRING))
        return KUBE_DELETING;
    if (str_eqz(phase, "Succeeded") || str_eqz(phase, "Failed"))
        return KUBE_ENDED;
    if (ip.n == 0)
        return str_eqz(phase, "Pending") ? "is pending: not started on a node yet"
                                         : "has no address yet";
    return is_ready(status) ? NULL : KUBE_UNREADY;
}

static void read_labels(const struct json *meta, struct kube_pod *out)
{
    const struct json *labels = json_get(meta, "labels");

    out->label_count = 0;
    for (const struct json *j = json_is(labels, JSON_OBJECT) ? labels->first : NULL;
         j != NULL && out->label_count < KUBE_LABELS_MAX; j = j->next)
        if (json_is(j, JSON_STRING))
            out->label[out->label_count++] = (struct kube_label) { j->key, j->text };
}

/* llm-d's annotation, or its older name.  Too long a text lists no port that can be meant. */
static struct str read_active(const struct json *meta)
{
    static const char *const names[] = { "llm-d.ai/active-ports",
                                         "inference.networking.k8s.io/active-ports" };
    const struct json *annotations = json_get(meta, "annotations");
    struct str text = STR_NONE;

    for (size_t i = 0; i < COUNT(names) && text.p == NULL; i++)
        (void)json_str(json_get(annotations, names[i]), &text);
    return text.n <= ACTIVE_BYTES_MAX ? text : STR("");
}

bool kube_pod_has_port(const struct kube_pod *p, uint16_t port)
{
    struct str rest = p->active_ports;
    uint64_t n;

    if (rest.p == NULL)
        return true;
    while (rest.p != NULL)
        if (str_u64(str_trim(str_cut(&rest, ',')), &n) && n == port)
            return true;
    return false;
}

/* An address goes into host:port text: digits, letters, dots, colons. */
static bool address_ok(struct str ip)
{
    for (size_t i = 0; i < ip.n; i++) {
        char c = ip.p[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') ||
              c == '.' || c == ':'))
            return false;
    }
    return ip.n < 64;
}

int kube_pod_read(const struct json *object, struct kube_pod *out, struct err *e)
{
    const struct json *meta = json_get(object, "metadata"), *status = json_get(object, "status");

    out->name = out->namespace = out->ip = STR_NONE;
    out->was_used = false;
    if (!json_str(json_get(meta, "name"), &out->name) || out->name.n == 0 || out->name.n > 253)
        return err_set(e, ERR_PARSE, "a pod without a name");
    (void)json_str(json_get(meta, "namespace"), &out->namespace);
    (void)json_str(json_get(status, "podIP"), &out->ip);
    if (!address_ok(out->ip))
        return err_set(e, ERR_PARSE, "pod %.*s: its podIP is no address", STR_ARG(out->name));
    out->reason = why_not(meta, status, out->ip);
    out->active_ports = read_active(meta);
    read_labels(meta, out);
    return 0;
}

/* ---- keeping them ---- */

struct kube_pods *kube_pods_new(void)
{
    return mem_zalloc(sizeof(struct kube_pods));
}

static void entry_free(struct entry *en)
{
    mem_free(en->text);
    mem_free(en);
}

void kube_pods_free(struct kube_pods *p)
{
    if (p == NULL)
        return;
    for (uint32_t i = 0; i < p->count; i++)
        entry_free(p->entry[i]);
    mem_free(p->entry);
    map_fini(&p->by_name);
    mem_free(p);
}

static struct str keep(char **at, struct str s)
{
    struct str out = { *at, s.n };

    if (s.n != 0)
        memcpy(*at, s.p, s.n);
    *at += s.n;
    return out;
}

static struct entry *entry_new(const struct kube_pod *pod)
{
    struct entry *en = mem_zalloc(sizeof(*en));
    size_t bytes = pod->name.n + pod->namespace.n + pod->ip.n + pod->active_ports.n;
    char *at;

    for (uint32_t i = 0; i < pod->label_count; i++)
        bytes += pod->label[i].key.n + pod->label[i].value.n;
    en->text = at = mem_alloc(bytes + 1);
    en->bytes = bytes;
    en->pod = *pod;
    en->pod.was_used = pod->reason == NULL;
    en->pod.name = keep(&at, pod->name);
    en->pod.namespace = keep(&at, pod->namespace);
    en->pod.ip = keep(&at, pod->ip);
    if (pod->active_ports.p != NULL)
        en->pod.active_ports = keep(&at, pod->active_ports);
    for (uint32_t i = 0; i < pod->label_count; i++)
        en->pod.label[i] =
            (struct kube_label) { keep(&at, pod->label[i].key), keep(&at, pod->label[i].value) };
    en->listed = true;
    return en;
}

static bool same_ports(const struct kube_pod *a, const struct kube_pod *b)
{
    return (a->active_ports.p == NULL) == (b->active_ports.p == NULL) &&
           str_eq(a->active_ports, b->active_ports);
}

static bool same_labels(const struct kube_pod *a, const struct kube_pod *b)
{
    if (a->label_count != b->label_count)
        return false;
    for (uint32_t i = 0; i < a->label_count; i++)
        if (!str_eq(a->label[i].key, b->label[i].key) ||
            !str_eq(a->label[i].value, b->label[i].value))
            return false;
    return true;
}

bool kube_pods_put(struct kube_pods *p, const struct kube_pod *pod)
{
    struct entry *en;
    uint64_t at;

    if (map_gets(&p->by_name, pod->name, &at)) {
        const struct kube_pod *old = &p->entry[at]->pod;

        p->entry[at]->listed = true;
        if (str_eq(old->ip, pod->ip) && old->reason == pod->reason && same_labels(old, pod) &&
            same_ports(old, pod))
            return false;
        en = entry_new(pod);
        en->pod.was_used |= old->was_used;
        (void)map_dels(&p->by_name, pod->name);
        entry_free(p->entry[at]);
        p->entry[at] = en;
        (void)map_puts(&p->by_name, en->pod.name, at);
        return true;
    }
    if (p->count == KUBE_PODS_MAX) {
        p->left_out++;
        return false;
    }
    if (p->count == p->cap) {
        p->cap = MAX(p->cap * 2, 16);
        p->entry = mem_realloc(p->entry, p->cap * sizeof(struct entry *));
    }
    en = entry_new(pod);
    if (!map_puts(&p->by_name, en->pod.name, p->count)) {
        entry_free(en);
        return false;
    }
    p->entry[p->count++] = en;
    return true;
}

static void drop(struct kube_pods *p, uint32_t at)
{
    struct entry *last = p->entry[p->count - 1], *gone = p->entry[at];

    (void)map_dels(&p->by_name, gone->pod.name);
    p->count--;
    if (last != gone) {
        p->entry[at] = last;
        (void)map_dels(&p->by_name, last->pod.name);
        (void)map_puts(&p->by_name, last->pod.name, at);
    }
    entry_free(gone);
}

bool kube_pods_del(struct kube_pods *p, struct str name)
{
    uint64_t at;

    if (!map_gets(&p->by_name, name, &at))
        return false;
    drop(p, (uint32_t)at);
    return true;
}

void kube_pods_begin(struct kube_pods *p)
{
    p->left_out = 0;
    for (uint32_t i = 0; i < p->count; i++)
        p->entry[i]->listed = false;
}

bool kube_pods_end(struct kube_pods *p)
{
    bool changed = false;

    for (uint32_t i = p->count; i-- > 0;)
        if (!p->entry[i]->listed) {
            drop(p, i);
            changed = true;
        }
    return changed;
}

uint32_t kube_pods_count(const struct kube_pods *p)
{
    return p->count;
}

uint32_t kube_pods_left_out(const struct kube_pods *p)
{
    return p->left_out;
}

uint32_t kube_pods_listed(const struct kube_pods *p)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->count; i++)
        n += p->entry[i]->listed;
    return n;
}

const struct kube_pod *kube_pods_at(const struct kube_pods *p, uint32_t i)
{
    return &p->entry[i]->pod;
}
