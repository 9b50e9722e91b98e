/* What an API server sends, and a kubeconfig: an event's pod goes into a list of pods, whose
 * invariants hold; a Lease; selectors and ports become a query that cannot say more than it should.
 */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kube/discovery.h"
#include "kube/elect.h"
#include "kube/selector.h"
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void event(struct str line, struct kube_pods *pods)
{
    struct kube_event ev;
    struct kube_pod pod;
    struct arena a;
    struct err e;

    arena_init(&a, (size_t)64 << 20);
    if (kube_event_parse(&a, line, &ev, &e) == 0 && kube_pod_read(ev.object, &pod, &e) == 0) {
        uint32_t before = kube_pods_count(pods);

        ASSERT(pod.name.n != 0 && pod.name.n <= 253 && pod.label_count <= KUBE_LABELS_MAX);
        ASSERT(pod.reason != NULL || pod.ip.n != 0);
        ASSERT(pod.active_ports.p != NULL || kube_pod_has_port(&pod, 1));
        if (ev.change == KUBE_DELETED) {
            (void)kube_pods_del(pods, pod.name);
            ASSERT(kube_pods_count(pods) <= before);
        } else {
            (void)kube_pods_put(pods, &pod);
            ASSERT(!kube_pods_put(pods, &pod));
            ASSERT(kube_pods_count(pods) - before <= 1);
        }
    }
    arena_fini(&a);
}

static void lease(struct str text)
{
    const struct json *root;
    struct kube_lease l;
    struct arena a;
    struct err e;

    arena_init(&a, (size_t)64 << 20);
    if (json_parse(&a, text, NULL, &root, &e) == 0 && kube_lease_read(root, &l, &e) == 0)
        ASSERT(l.metadata.p[0] == '{' && l.spec.p[0] == '{' && l.duration_s <= 3600);
    arena_fini(&a);
}

static void flags(struct str text)
{
    uint16_t port[KUBE_PORTS_MAX];
    uint32_t count;
    struct err e;
    struct buf b;

    buf_init(&b, 1 << 16);
    if (kube_selector_query(text, &b, &e) == 0)
        ASSERT(memchr(b.p, '&', b.len) == NULL && memchr(b.p, ' ', b.len) == NULL);
    buf_fini(&b);
    if (kube_ports_parse(text, port, &count, &e) == 0)
        ASSERT(count >= 1 && count <= KUBE_PORTS_MAX && port[0] != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = { (const char *)data, size }, rest = text;
    struct kube_pods *pods = kube_pods_new();
    struct kube_access at;
    struct err e;

    while (rest.p != NULL)
        event(str_cut(&rest, '\n'), pods);
    kube_pods_begin(pods);
    (void)kube_pods_end(pods);
    ASSERT(kube_pods_count(pods) == 0);
    kube_pods_free(pods);
    flags(text);
    lease(text);
    if (kube_access_parse(text, "f", &at, &e) == 0)
        ASSERT(at.host != NULL && at.port != 0 && at.prefix != NULL);
    kube_access_free(&at);
    return 0;
}
