/* disaggregatedset-rollout-screener: one revision of a fleet serves a request while another is
 * rolled out, for prefill and decode workers of different revisions need not understand each other.
 *
 *   covered   a revision with a ready endpoint of every required role
 *   share     its endpoints of those roles (sum), or of the role that has most (max-role)
 *
 * Without a strict header one covered revision is drawn by share; with one the header's label
 * decides among the covered ones.  Upstream counts pods; here the endpoints of the snapshot are
 * counted, so that a decision stays a function of it. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"
#include <string.h>

enum gating { GATE_SUM, GATE_MAX_ROLE, GATE_OFF };

struct header_selector {
    struct str name, header, label;
    int mode; /* 0 strict, 1 prefer */
};

struct rollout_params {
    struct label_selector scope;
    const struct header_selector *selector;
    uint32_t selector_count;
    int mode;
    struct str_list roles;
    struct str revision_label, role_label;
};

static const char *const HEADER_MODES[] = { "strict", "prefer", NULL };
static const char *const GATES[] = { "sum", "max-role", "disabled", NULL };

/* ---- parameters ---- */

#define P struct rollout_params

static int decode_selector(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    return params_selector(n, a, &((P *)params)->scope, e);
}

static const struct plugin_param SCOPE[] = {
    { .name = "labelSelector", .kind = PARAM_CUSTOM, .decode = decode_selector, .required = true },
};

static int decode_scope(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    return params_decode(n, SCOPE, COUNT(SCOPE), "scope", a, params, e);
}

#define AT(f) offsetof(struct header_selector, f)
static const struct plugin_param HEADER[] = {
    { .name = "name", .kind = PARAM_STR, .at = AT(name) },
    { .name = "headerName", .kind = PARAM_STR, .at = AT(header), .required = true },
    { .name = "labelKey", .kind = PARAM_STR, .at = AT(label), .required = true },
    { .name = "mode", .kind = PARAM_WORD, .at = AT(mode), .words = HEADER_MODES, .required = true },
};
#undef AT

/* In lower case and NUL-ended, as answers' headers are named. */
static struct str lower(struct arena *a, struct str s)
{
    char *p = arena_alloc(a, s.n + 1);

    for (size_t i = 0; i < s.n; i++)
        p[i] = (char)(s.p[i] >= 'A' && s.p[i] <= 'Z' ? s.p[i] + 32 : s.p[i]);
    p[s.n] = 0;
    return (struct str) { p, s.n };
}

static int decode_headers(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    P *c = params;
    void *items = NULL;
    struct header_selector *s;
    int rc = params_maps(n, HEADER, COUNT(HEADER), "headerSelectors", sizeof(*s), a, &items,
                         &c->selector_count, e);

    s = items;
    for (uint32_t i = 0; i < c->selector_count && rc == 0; i++) {
        s[i].header = lower(a, str_trim(s[i].header));
        if (s[i].header.n == 0 || s[i].label.n == 0)
            rc = yaml_err(n, e, "headerSelectors: headerName and labelKey must not be empty");
    }
    c->selector = s;
    return rc;
}

static int decode_values(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    return params_list(n, a, &((P *)params)->roles, e);
}

static const struct plugin_param ROLES[] = {
    { .name = "values", .kind = PARAM_CUSTOM, .decode = decode_values, .required = true },
};

static int decode_roles(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    return params_decode(n, ROLES, COUNT(ROLES), "requireRoles", a, params, e);
}

static const struct plugin_param GATING[] = {
    { .name = "mode",
      .kind = PARAM_WORD,
      .at = offsetof(P, mode),
      .words = GATES,
      .required = true },
    { .name = "requireRoles", .kind = PARAM_CUSTOM, .decode = decode_roles },
    { .name = "revisionLabelKey", .kind = PARAM_STR, .at = offsetof(P, revision_label) },
    { .name = "roleLabelKey", .kind = PARAM_STR, .at = offsetof(P, role_label) },
};

static int decode_gating(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    P *c = params;

    c->revision_label = STR("disaggregatedset.x-k8s.io/revision");
    c->role_label = STR("disaggregatedset.x-k8s.io/role");
    return params_decode(n, GATING, COUNT(GATING), "revisionGating", a, params, e);
}

static const struct plugin_param PARAMS[] = {
    { .name = "scope",
      .kind = PARAM_CUSTOM,
      .decode = decode_scope,
      .required = true,
      .help = "labelSelector: whose endpoints are counted" },
    { .name = "headerSelectors",
      .kind = PARAM_CUSTOM,
      .decode = decode_headers,
      .help = "list of name, headerName, labelKey, mode (strict or prefer)" },
    { .name = "revisionGating",
      .kind = PARAM_CUSTOM,
      .decode = decode_gating,
      .required = true,
      .help = "mode (sum, max-role, disabled), requireRoles.values, revisionLabelKey "
              "(disaggregatedset.x-k8s.io/revision), roleLabelKey "
              "(disaggregatedset.x-k8s.io/role)" },
};

static int check(const void *params, struct err *e)
{
    const P *c = params;

    if (c->mode != GATE_OFF && c->roles.count == 0)
        return err_set(e, ERR_INVAL, "revisionGating: needs requireRoles.values");
    return 0;
}

/* ---- revisions ---- */

struct revision {
    struct str name;
    uint32_t *by_role; /* ready endpoints of each required role */
    bool is_covered, is_present;
    double weight;
};

struct revisions {
    struct revision *r;
    uint32_t count;
    uint32_t *of; /* by endpoint: its revision, or SCHED_NONE */
};

static uint32_t revision_of(struct revisions *all, struct str name, uint32_t roles, struct arena *a)
{
    uint32_t i = 0;

    while (i < all->count && !str_eq(all->r[i].name, name))
        i++;
    if (i == all->count) {
        size_t bytes = (roles + 1) * sizeof(uint32_t);

        all->r[all->count++] = (struct revision) { .name = name, .by_role = arena_alloc(a, bytes) };
        memset(all->r[i].by_role, 0, bytes);
    }
    return i;
}

static void count_endpoint(const P *c, const struct sched_view *v, uint32_t i,
                           struct revisions *all)
{
    const struct sched_endpoint *e = &v->ep[i];
    struct str revision = sched_endpoint_label(e, c->revision_label);
    struct str role = sched_endpoint_label(e, c->role_label);

    all->of[i] = SCHED_NONE;
    if (revision.n == 0 || role.n == 0 || !label_selector_match(&c->scope, e))
        return;
    all->of[i] = revision_of(all, revision, c->roles.count, v->arena);
    for (uint32_t k = 0; k < c->roles.count && e->use == SCHED_USED; k++)
        all->r[all->of[i]].by_role[k] += str_eq(c->roles.item[k], role);
}

/* The required role that most endpoints have, over all revisions; the earliest of equals. */
static uint32_t largest_role(const P *c, const struct revisions *all)
{
    uint32_t best = 0, most = 0;

    for (uint32_t k = 0; k < c->roles.count; k++) {
        uint32_t sum = 0;

        for (uint32_t i = 0; i < all->count; i++)
            sum += all->r[i].by_role[k];
        if (sum > most) {
            most = sum;
            best = k;
        }
    }
    return best;
}

static void count_all(const P *c, const struct sched_view *v, struct revisions *all)
{
    uint32_t largest;

    all->count = 0;
    all->r = arena_alloc(v->arena, (v->count + 1) * sizeof(*all->r));
    all->of = arena_alloc(v->arena, (v->count + 1) * sizeof(*all->of));
    for (uint32_t i = 0; i < v->count; i++)
        count_endpoint(c, v, i, all);
    largest = largest_role(c, all);
    for (uint32_t i = 0; i < all->count; i++) {
        struct revision *r = &all->r[i];

        r->is_covered = true;
        for (uint32_t k = 0; k < c->roles.count; k++) {
            r->is_covered &= r->by_role[k] != 0;
            if (c->mode == GATE_SUM || k == largest)
                r->weight += r->by_role[k];
        }
    }
}

/* ---- the screen ---- */

static struct str strict_value(const P *c, const struct sched_view *v, uint32_t k)
{
    return c->selector[k].mode == 0 ? sched_view_header(v, c->selector[k].header.p) : STR_NONE;
}

/* The covered revision to use, by share among those that have an endpoint left; SCHED_NONE: none.
 */
static uint32_t draw(const struct sched_view *v, struct revisions *all, const bool *keep)
{
    uint32_t last = SCHED_NONE;
    double sum = 0, at;

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            all->r[all->of[i]].is_present = true;
    for (uint32_t i = 0; i < all->count; i++)
        sum += all->r[i].is_present ? all->r[i].weight : 0;
    at = rng_f64(v->rng) * sum;
    for (uint32_t i = 0; i < all->count; i++) {
        if (!all->r[i].is_present)
            continue;
        last = i;
        at -= all->r[i].weight;
        if (at < 0)
            break;
    }
    return last;
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    const P *c = p->params;
    struct revisions all;
    bool has_strict = false;

    for (uint32_t k = 0; k < c->selector_count; k++)
        has_strict |= strict_value(c, v, k).n != 0;
    if (c->mode != GATE_OFF) {
        count_all(c, v, &all);
        for (uint32_t i = 0; i < v->count; i++)
            keep[i] = keep[i] && v->ep[i].use == SCHED_USED && all.of[i] != SCHED_NONE &&
                      all.r[all.of[i]].is_covered;
        if (!has_strict) {
            uint32_t chosen = draw(v, &all, keep);

            for (uint32_t i = 0; i < v->count; i++)
                keep[i] = keep[i] && all.of[i] == chosen;
        }
    }
    for (uint32_t k = 0; k < c->selector_count; k++) {
        struct str value = strict_value(c, v, k);

        for (uint32_t i = 0; i < v->count && value.n != 0; i++)
            keep[i] =
                keep[i] && str_eq(sched_endpoint_label(&v->ep[i], c->selector[k].label), value);
    }
}

/* The client is told what served it, and can ask for the same again. */
static void responded(struct plugin *p, struct sched_run *run)
{
    const P *c = p->params;
    uint32_t pick = sched_run_pick(run, run->primary);

    for (uint32_t k = 0; k < c->selector_count && pick != SCHED_NONE; k++) {
        struct str value = sched_endpoint_label(&run->v->ep[pick], c->selector[k].label);

        if (value.n != 0)
            sched_run_header(run, c->selector[k].header.p, value);
    }
}
#undef P

const struct plugin_type plugin_rollout_screener = {
    .type = "disaggregatedset-rollout-screener",
    .roles = ROLE_SCREENER | ROLE_RESPONSE,
    .alpha = true,
    .params_size = sizeof(struct rollout_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .check = check,
    .filter = filter,
    .responded = responded,
};
