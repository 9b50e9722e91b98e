/* Fuzz: whatever parses is written again and must parse to the same tree. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "codec/json.h"
#include "codec/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Recursion is bounded by the depth that the parser accepts. */
static void copy_value(struct json_w *w, const struct json *j)
{
    double d;

    switch (j->type) {
    case JSON_NULL: json_w_null(w); break;
    case JSON_FALSE:
    case JSON_TRUE: json_w_bool(w, j->type == JSON_TRUE); break;
    case JSON_NUMBER:
        (void)json_f64(j, &d);
        json_w_raw(w, j->text);
        break;
    case JSON_STRING:
        ASSERT(utf8_valid(j->text));
        json_w_str(w, j->text);
        break;
    case JSON_ARRAY:
        json_w_arr(w);
        for (const struct json *c = j->first; c != NULL; c = c->next)
            copy_value(w, c);
        json_w_end(w, ']');
        break;
    case JSON_OBJECT:
        json_w_obj(w);
        for (const struct json *c = j->first; c != NULL; c = c->next) {
            json_w_key(w, c->key);
            copy_value(w, c);
        }
        json_w_end(w, '}');
        break;
    }
}

static void same(const struct json *a, const struct json *b, const uint8_t *data, size_t size)
{
    uint32_t n = 0;

    ASSERT(a->type == b->type && a->count == b->count && str_eq(a->text, b->text) &&
           str_eq(a->key, b->key));
    ASSERT(a->span.p >= (const char *)data && a->span.p + a->span.n <= (const char *)data + size &&
           a->span.n != 0);
    for (const struct json *x = a->first, *y = b->first; x != NULL; x = x->next, y = y->next, n++)
        same(x, y, data, size);
    ASSERT(n == a->count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct json_limits strict = { .refuse_duplicates = true, .depth_max = 60 };
    struct arena a;
    const struct json *j, *again;
    struct json_w w;
    struct buf b;
    struct err e;

    arena_init(&a, (size_t)64 << 20);
    buf_init(&b, (size_t)64 << 20);
    if (json_parse(&a, (struct str) { (const char *)data, size }, &strict, &j, &e) == 0)
        ASSERT(j != NULL);
    if (json_parse(&a, (struct str) { (const char *)data, size }, NULL, &j, &e) == 0) {
        json_w_init(&w, &b);
        copy_value(&w, j);
        ASSERT(!b.failed);
        ASSERT(json_parse(&a, buf_view(&b), NULL, &again, &e) == 0);
        same(j, again, data, size);
    }
    buf_reset(&b);
    ASSERT(utf8_lossy(&b, (struct str) { (const char *)data, size }) && utf8_valid(buf_view(&b)));
    ASSERT(utf8_complete((struct str) { (const char *)data, size }) <= size);
    buf_fini(&b);
    arena_fini(&a);
    return 0;
}
