/* A tree of endpoints into a list: each entry is read alone, the first thing wrong with it is its
 * reason. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/discovery.h"
#include "base/check.h"
#include "base/map.h"
#include "codec/yaml.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define LABELS_MAX 256 /* of one endpoint */

static bool is_ip(struct str s, int family)
{
    unsigned char bytes[16];
    char z[64];

    if (s.n == 0 || s.n >= sizeof(z) || memchr(s.p, 0, s.n) != NULL)
        return false;
    memcpy(z, s.p, s.n);
    z[s.n] = 0;
    return inet_pton(family, z, bytes) == 1;
}

/* RFC 1123 names; one of digits and dots only is a broken IPv4 address. */
static bool is_dns_name(struct str s)
{
    bool letters = false;

    if (s.n == 0 || s.n > 253)
        return false;
    while (s.p != NULL) {
        struct str part = str_cut(&s, '.');

        if (part.n == 0 || part.n > 63 || part.p[0] == '-' || part.p[part.n - 1] == '-')
            return false;
        for (size_t i = 0; i < part.n; i++) {
            unsigned char c = (unsigned char)part.p[i];

            if (c >= 0x80 || (!isalnum(c) && c != '-'))
                return false;
            letters = letters || isalpha(c);
        }
    }
    return letters;
}

static bool parse_port(struct str s, uint16_t *out)
{
    uint64_t v;

    if (!str_u64(s, &v) || v == 0 || v > UINT16_MAX)
        return false;
    *out = (uint16_t)v;
    return true;
}

static struct str without_brackets(struct str s)
{
    bool both = s.n >= 2 && s.p[0] == '[' && s.p[s.n - 1] == ']';

    return both && is_ip(str_sub(s, 1, s.n - 2), AF_INET6) ? str_sub(s, 1, s.n - 2) : s;
}

static bool is_address(struct str s)
{
    return is_ip(s, AF_INET) || is_ip(s, AF_INET6) || is_dns_name(s);
}

/* Text of a member; an absent one is empty.  false: it is no scalar. */
static bool text_of(const struct yaml_node *n, const char *key, struct str *out)
{
    const struct yaml_node *m = yaml_get(n, key);

    *out = STR("");
    return yaml_is_null(m) || yaml_str(m, out);
}

static int take_labels(const struct yaml_node *n, struct arena *a, struct discovery_endpoint *ep,
                       struct err *e)
{
    const struct yaml_node *labels = yaml_get(n, "labels");
    struct sched_label *label;

    if (yaml_is_null(labels))
        return 0;
    if (!yaml_is(labels, YAML_MAP) || labels->count > LABELS_MAX)
        return yaml_err(labels, e, "labels: must be a map of at most %d", LABELS_MAX);
    label = arena_try_zero(a, labels->count, sizeof(*label));
    if (label == NULL)
        return err_set(e, ERR_NOMEM, "no memory");
    ep->label = label;
    for (const struct yaml_node *m = labels->first; m != NULL; m = m->next) {
        struct sched_label *one = &label[ep->label_count++];

        one->key = m->key;
        one->value = STR("");
        if (!yaml_is_null(m) && !yaml_str(m, &one->value))
            return yaml_err(m, e, "labels.%.100s: must be text", m->key.p);
    }
    return 0;
}

/* metricsHost "host:port", then the two labels. */
static int take_metrics(const struct yaml_node *n, struct discovery_endpoint *ep, struct err *e)
{
    struct str host;
    size_t colon = SIZE_MAX;

    ep->metrics_address = ep->address;
    ep->metrics_port = ep->port;
    if (!text_of(n, "metricsHost", &host))
        return yaml_err(yaml_get(n, "metricsHost"), e, "metricsHost: must be text");
    for (size_t i = 0; i < host.n; i++)
        colon = host.p[i] == ':' ? i : colon;
    if (host.n != 0) {
        ep->metrics_address = without_brackets(str_sub(host, 0, colon));
        if (colon == SIZE_MAX || !is_address(ep->metrics_address) ||
            !parse_port(str_sub(host, colon + 1, SIZE_MAX), &ep->metrics_port))
            return yaml_err(yaml_get(n, "metricsHost"), e,
                            "metricsHost: \"%.100s\" is no host:port", host.p);
    }
    for (uint32_t i = 0; i < ep->label_count; i++) {
        const struct sched_label *l = &ep->label[i];

        if (str_eqz(l->key, "metricsAddress") && l->value.n != 0) {
            ep->metrics_address = without_brackets(l->value);
            if (!is_address(ep->metrics_address))
                return yaml_err(n, e, "labels.metricsAddress: \"%.100s\" is no address",
                                l->value.p);
        }
        if (str_eqz(l->key, "metricsPort") && l->value.n != 0 &&
            !parse_port(l->value, &ep->metrics_port))
            return yaml_err(n, e, "labels.metricsPort: must be 1..65535");
    }
    return 0;
}

static int take_endpoint(const struct yaml_node *n, struct arena *a, struct discovery_endpoint *ep,
                         struct err *e)
{
    struct str port;
    int rc;

    *ep = (struct discovery_endpoint) { .line = n->line };
    if (!yaml_is(n, YAML_MAP))
        return yaml_err(n, e, "must be a map");
    if (!text_of(n, "name", &ep->name) || ep->name.n == 0)
        return yaml_err(n, e, "name: missing");
    if (!text_of(n, "namespace", &ep->namespace))
        return yaml_err(n, e, "namespace: must be text");
    if (ep->namespace.n == 0)
        ep->namespace = STR("default");
    if (!text_of(n, "address", &ep->address) || ep->address.n == 0)
        return yaml_err(n, e, "address: missing");
    ep->address = without_brackets(ep->address);
    if (!is_address(ep->address))
        return yaml_err(yaml_get(n, "address"), e, "address: \"%.100s\" is no IP address or name",
                        ep->address.p);
    ep->is_ipv4 = is_ip(ep->address, AF_INET);
    ep->is_ipv6 = is_ip(ep->address, AF_INET6);
    if (!text_of(n, "port", &port) || port.n == 0)
        return yaml_err(n, e, "port: missing");
    if (!parse_port(port, &ep->port))
        return yaml_err(yaml_get(n, "port"), e, "port: \"%.40s\" is not 1..65535", port.p);
    rc = take_labels(n, a, ep, e);
    return rc != 0 ? rc : take_metrics(n, ep, e);
}

/* An entry is left out; the place stands first, then the index. */
static void leave_out(struct arena *a, struct discovery_list *out, uint32_t index, const char *file,
                      const struct err *why)
{
    size_t file_len = strlen(file);
    unsigned line, column;
    char text[ERR_MSG_MAX + 160];
    int used = 0, len;

    out->bad_count++;
    if (out->reason_count == DISCOVERY_REASONS_MAX)
        return;
    if (strncmp(why->msg, file, file_len) == 0 &&
        sscanf(why->msg + file_len, ":%u:%u: %n", &line, &column, &used) == 2 && used != 0)
        len = snprintf(text, sizeof(text), "%s:%u:%u: endpoints[%u].%s", file, line, column, index,
                       why->msg + file_len + used);
    else
        len = snprintf(text, sizeof(text), "%s: endpoints[%u]: %s", file, index, why->msg);
    out->reason[out->reason_count] =
        arena_str(a, (struct str) { text, MIN((size_t)len, sizeof(text) - 1) });
    if (out->reason[out->reason_count].p != NULL)
        out->reason_count++;
}

/* Whether an endpoint of this name is in the list already; notes it if not. */
static int note_name(struct map *names, struct arena *a, const struct discovery_endpoint *ep,
                     const struct yaml_node *n, struct err *e)
{
    size_t len = ep->namespace.n + 1 + ep->name.n;
    char *id = arena_try(a, len + 1);
    uint64_t other;

    if (id == NULL)
        return err_set(e, ERR_NOMEM, "no memory");
    memcpy(id, ep->namespace.p, ep->namespace.n);
    id[ep->namespace.n] = '/';
    memcpy(id + ep->namespace.n + 1, ep->name.p, ep->name.n);
    if (map_gets(names, (struct str) { id, len }, &other))
        return yaml_err(n, e, "name: %.*s is in line %u already", (int)MIN(len, (size_t)150), id,
                        (unsigned)other);
    return map_puts(names, (struct str) { id, len }, ep->line) ? 0
                                                               : err_set(e, ERR_NOMEM, "no memory");
}

static int take_list(struct arena *a, const struct yaml_node *list, struct discovery_list *out,
                     struct err *e)
{
    struct discovery_endpoint *ep = arena_try_zero(a, MAX(list->count, 1u), sizeof(*ep));
    struct map names = { 0 };
    uint32_t index = 0;
    int rc = ep != NULL ? 0 : err_set(e, ERR_NOMEM, "%s: no memory", list->file);

    out->endpoint = ep;
    for (const struct yaml_node *n = list->first; n != NULL && rc == 0; n = n->next, index++) {
        struct err own = { 0 };
        int bad = take_endpoint(n, a, &ep[out->count], &own);

        if (bad == 0)
            bad = note_name(&names, a, &ep[out->count], n, &own);
        if (bad == ERR_NOMEM)
            rc = err_set(e, ERR_NOMEM, "%s: no memory", list->file);
        else if (bad != 0)
            leave_out(a, out, index, list->file, &own);
        else
            out->count++;
    }
    map_fini(&names);
    return rc;
}

int discovery_parse(struct arena *a, struct str text, const char *file, struct discovery_list *out,
                    struct err *e)
{
    const struct yaml_node *root, *list;
    int rc;

    *out = (struct discovery_list) { 0 };
    rc = yaml_parse(a, text, file, &root, e);
    if (rc != 0)
        return rc;
    if (yaml_is_null(root))
        return 0;
    if (!yaml_is(root, YAML_MAP))
        return yaml_err(root, e, "must be a map with the list endpoints");
    list = yaml_get(root, "endpoints");
    if (yaml_is_null(list))
        return 0;
    if (!yaml_is(list, YAML_LIST))
        return yaml_err(list, e, "endpoints: must be a list");
    if (list->count > DISCOVERY_ENDPOINTS_MAX)
        return err_set(e, ERR_LIMIT, "%s: %u endpoints; at most %d are taken", file, list->count,
                       DISCOVERY_ENDPOINTS_MAX);
    return take_list(a, list, out, e);
}
