// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kube/reflector.h"

int kube_event_parse(struct arena *a, struct str line, struct kube_event *out, struct err *e)
{
    static const char *const names[] = { "ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR" };
    const struct json *root;
    struct str type = STR_NONE;
    size_t i = 0;
    int rc = json_parse(a, line, NULL, &root, e);

    if (rc != 0)
        return rc;
    *out = (struct kube_event) { .object = json_get(root, "object") };
    (void)json_str(json_get(root, "type"), &type);
    while (i < COUNT(names) && !str_eqz(type, names[i]))
        i++;
    if (i == COUNT(names) || !json_is(out->object, JSON_OBJECT))
        return err_set(e, ERR_PARSE, "no watch event: %.*s", STR_ARG(str_sub(line, 0, 120)));
    out->change = (enum kube_change)i;
    (void)json_str(json_get(json_get(out->object, "metadata"), "resourceVersion"), &out->version);
    if (out->change == KUBE_ERROR) {
        (void)json_i64(json_get(out->object, "code"), &out->code);
        (void)json_str(json_get(out->object, "message"), &out->message);
    }
    return 0;
}
