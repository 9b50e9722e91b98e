// SPDX-License-Identifier: Apache-2.0
#include "cmd/kube_flags.h"
#include <stdlib.h>

bool kube_flags_given(const struct kube_flags *f)
{
    return f->pool != NULL || f->selector != NULL;
}

static const char *namespace_of(const struct kube_flags *f, const struct kube_client *c)
{
    static const char *const names[] = { "NAMESPACE", "POD_NAMESPACE" };

    if (f->pool_namespace != NULL)
        return f->pool_namespace;
    for (size_t i = 0; i < 2; i++) {
        const char *v = getenv(names[i]);

        if (v != NULL && *v != 0)
            return v;
    }
    return kube_client_namespace(c) != NULL ? kube_client_namespace(c) : "default";
}

int kube_flags_open(const struct kube_flags *f, struct loop *l, struct kube_client **c,
                    struct kube_discovery_opts *o, struct err *e)
{
    int rc = 0;

    if (f->pool != NULL && f->selector != NULL)
        return err_set(e, ERR_INVAL, "--pool-name and --endpoint-selector exclude each other");
    if (f->selector != NULL && f->ports == NULL)
        return err_set(e, ERR_INVAL,
                       "--endpoint-selector needs --endpoint-target-ports, such as 8000");
    *o = (struct kube_discovery_opts) { .pool = f->pool,
                                        .pool_group = f->pool_group,
                                        .selector = f->selector };
    if (f->ports != NULL)
        rc = kube_ports_parse(str_of(f->ports), o->port, &o->port_count, e);
    if (rc == 0)
        rc = kube_client_open(l, f->kubeconfig, c, e);
    if (rc == 0)
        o->namespace = namespace_of(f, *c);
    return rc;
}
