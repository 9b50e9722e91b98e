/* Fuzz: a tree keeps its promises (depth, counts, unique keys, places), and what is accepted once
 * is accepted again after it was written as JSON, with the same shape. */
// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/check.h"
#include "codec/json.h"
#include "codec/utf8.h"
#include "codec/yaml.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct yaml_node *n)
{
    struct str s;
    uint64_t u;
    int64_t i;
    double d;
    bool b;

    ASSERT(!yaml_u64(n, &u) || yaml_f64(n, &d));
    ASSERT(!yaml_i64(n, &i) || yaml_f64(n, &d));
    ASSERT(!yaml_bool(n, &b) || (yaml_str(n, &s) && !yaml_f64(n, &d)));
    ASSERT(n->type != YAML_SCALAR || yaml_str(n, &s) == !yaml_is_null(n));
}

/* Recursion is bounded by the depth that the parser accepts. */
static void visit(struct json_w *w, const struct yaml_node *n, unsigned depth)
{
    uint32_t count = 0;

    ASSERT(depth <= YAML_DEPTH_MAX + 1 && n->line != 0 && n->column != 0);
    ask(n);
    if (n->type == YAML_SCALAR) {
        ASSERT(n->first == NULL && utf8_valid(n->text) && strlen(n->text.p) == n->text.n);
        json_w_str(w, n->text);
        return;
    }
    if (n->type == YAML_MAP)
        json_w_obj(w);
    else
        json_w_arr(w);
    for (const struct yaml_node *c = n->first; c != NULL; c = c->next, count++) {
        ASSERT((c->key.p != NULL) == (n->type == YAML_MAP));
        if (c->key.p != NULL) {
            if (count < 64)
                ASSERT(yaml_get(n, c->key.p) == c);
            json_w_key(w, c->key);
        }
        visit(w, c, depth + 1);
    }
    ASSERT(count == n->count);
    json_w_end(w, n->type == YAML_MAP ? '}' : ']');
}

static void same(const struct yaml_node *x, const struct yaml_node *y)
{
    ASSERT(x->type == y->type && x->count == y->count && str_eq(x->text, y->text) &&
           str_eq(x->key, y->key));
    for (x = x->first, y = y->first; x != NULL; x = x->next, y = y->next)
        same(x, y);
}

/* libyaml's own bounds on the way back: a simple key has at most 1,024 bytes, and JSON writes what
 * is outside of Unicode's planes of text as it is. */
static bool goes_back(const struct yaml_node *n)
{
    if (n->key.n > 150)
        return false;
    for (const struct yaml_node *c = n->first; c != NULL; c = c->next)
        if (!goes_back(c))
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct yaml_node *n, *again;
    struct arena a;
    struct json_w w;
    struct buf b;
    struct err e;

    arena_init(&a, (size_t)64 << 20);
    buf_init(&b, YAML_BYTES_MAX);
    if (yaml_parse(&a, (struct str) { (const char *)data, size }, "f", &n, &e) == 0) {
        json_w_init(&w, &b);
        visit(&w, n, 0);
        if (!b.failed && goes_back(n) && !yaml_is_null(n)) {
            ASSERT(yaml_parse(&a, buf_view(&b), "g", &again, &e) == 0);
            same(n, again);
        }
    } else {
        ASSERT(n == NULL && e.code != 0 && e.msg[0] == 'f');
    }
    buf_fini(&b);
    arena_fini(&a);
    return 0;
}
