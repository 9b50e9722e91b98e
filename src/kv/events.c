/* KV events: MessagePack in vLLM's two forms, positional arrays and maps.
 *
 * Both forms come down to the same fields: a positional event numbers them, a
 * map names them, and field() reads one wherever it came from.  The tag is
 * looked up first, so that an unknown event is skipped without its fields
 * having to make sense.  Extra keys are read last: which of them is the LoRA
 * name is known only when the other fields are. */
// SPDX-License-Identifier: Apache-2.0
#include "kv/events.h"
#include "base/check.h"
#include "codec/msgpack.h"
#include <string.h>

enum field {
    F_TYPE,
    F_HASHES,
    F_PARENT,
    F_TOKENS,
    F_BLOCK_SIZE,
    F_LORA_ID,
    F_MEDIUM,
    F_LORA_NAME,
    F_EXTRA_KEYS,
    F_GROUP,
    F_KIND,
    F_WINDOW,
    F_SALT,
    F_OTHER
};

static const char *const field_names[] = {
    [F_TYPE] = "type",
    [F_HASHES] = "block_hashes",
    [F_PARENT] = "parent_block_hash",
    [F_TOKENS] = "token_ids",
    [F_BLOCK_SIZE] = "block_size",
    [F_LORA_ID] = "lora_id",
    [F_MEDIUM] = "medium",
    [F_LORA_NAME] = "lora_name",
    [F_EXTRA_KEYS] = "extra_keys",
    [F_GROUP] = "group_idx",
    [F_KIND] = "kv_cache_spec_kind",
    [F_WINDOW] = "kv_cache_spec_sliding_window",
    [F_SALT] = "cache_salt",
};

/* Fields of the positional forms, in order. */
static const uint8_t stored_order[] = { F_TYPE,       F_HASHES,  F_PARENT, F_TOKENS,
                                        F_BLOCK_SIZE, F_LORA_ID, F_MEDIUM, F_LORA_NAME,
                                        F_EXTRA_KEYS, F_GROUP,   F_KIND,   F_WINDOW };
static const uint8_t removed_order[] = { F_TYPE, F_HASHES, F_MEDIUM, F_GROUP };

static const char *const tags[] = {
    [KV_STORED] = "BlockStored", [KV_REMOVED] = "BlockRemoved", [KV_CLEARED] = "AllBlocksCleared"
};

struct reader {
    struct arena *a;
    struct kv_event *ev;
    struct mp_cursor extra_keys; /* p == NULL: none */
    struct str salt;             /* SGLang's, beside the extra keys */
    bool is_odd;                 /* well-formed, but not something that can be indexed */
    unsigned seen;               /* bit per field */
};

/* ERR_UNSUPPORTED inside means: skip this event. */

static int hash_of(const struct mp_value *v, uint64_t *out)
{
    uint64_t h = 0;
    size_t from;

    switch (v->type) {
    case MP_UINT: *out = v->as.u; return 0;
    case MP_INT: *out = (uint64_t)v->as.i; return 0;
    case MP_BIN:
    case MP_STR:
        if (v->as.s.n == 0)
            return ERR_PARSE;
        from = v->as.s.n > 8 ? v->as.s.n - 8 : 0;
        for (size_t i = from; i < v->as.s.n; i++)
            h = h << 8 | (uint8_t)v->as.s.p[i];
        *out = h;
        return 0;
    default: return ERR_PARSE;
    }
}

static int read_hashes(struct reader *r, struct mp_cursor *c)
{
    struct mp_value v;
    uint64_t *out;

    if (mp_next(c, &v) != 0 || v.type != MP_ARRAY)
        return ERR_PARSE;
    if (v.as.n > KV_EVENT_HASHES_MAX)
        return ERR_LIMIT;
    out = arena_try(r->a, v.as.n * sizeof(*out));
    if (out == NULL)
        return ERR_LIMIT;
    r->ev->hashes = out;
    r->ev->hash_count = v.as.n;
    for (uint32_t i = 0; i < r->ev->hash_count; i++)
        if (mp_next(c, &v) != 0 || hash_of(&v, &out[i]) != 0)
            return ERR_PARSE;
    return 0;
}

static int read_tokens(struct reader *r, struct mp_cursor *c)
{
    struct mp_cursor whole = *c;
    struct mp_value v;
    uint32_t *out;

    if (mp_next(c, &v) != 0)
        return ERR_PARSE;
    if (v.type == MP_NIL)
        return 0;
    if (v.type != MP_ARRAY)
        return ERR_PARSE;
    if (v.as.n > KV_EVENT_TOKENS_MAX)
        return ERR_LIMIT;
    out = arena_try(r->a, v.as.n * sizeof(*out));
    if (out == NULL)
        return ERR_LIMIT;
    r->ev->tokens = out;
    r->ev->token_count = v.as.n;
    for (uint32_t i = 0; i < r->ev->token_count; i++) {
        if (mp_next(c, &v) != 0)
            return ERR_PARSE;
        if (v.type != MP_UINT || v.as.u > UINT32_MAX) {
            r->is_odd = true;
            *c = whole;
            return mp_skip(c);
        }
        out[i] = (uint32_t)v.as.u;
    }
    return 0;
}

static int read_parent(struct reader *r, struct mp_cursor *c)
{
    struct mp_value v;

    if (mp_next(c, &v) != 0)
        return ERR_PARSE;
    if (v.type == MP_NIL)
        return 0;
    if (hash_of(&v, &r->ev->parent) != 0)
        return ERR_PARSE;
    r->ev->has_parent = r->ev->parent != 0; /* 0 stands for none as well */
    return 0;
}

static int read_u32(struct mp_cursor *c, uint32_t *out, bool *is_set)
{
    struct mp_value v;

    *is_set = false;
    if (mp_next(c, &v) != 0)
        return ERR_PARSE;
    if (v.type == MP_NIL)
        return 0;
    if (v.type == MP_INT) { /* negative: as if it were absent */
        *out = 0;
        return 0;
    }
    if (v.type != MP_UINT || v.as.u > UINT32_MAX)
        return ERR_PARSE;
    *out = (uint32_t)v.as.u;
    *is_set = true;
    return 0;
}

static int read_text(struct mp_cursor *c, struct str *out)
{
    struct mp_value v;

    if (mp_next(c, &v) != 0)
        return ERR_PARSE;
    if (v.type == MP_NIL)
        return 0;
    if (v.type != MP_STR)
        return ERR_PARSE;
    *out = v.as.s;
    return 0;
}

/* SGLang puts a map {"cache_salt", "session_id"} where vLLM has the LoRA name. */
static int read_lora_name(struct reader *r, struct mp_cursor *c)
{
    struct mp_cursor at = *c;
    struct mp_value v, key;

    if (mp_next(&at, &v) != 0)
        return ERR_PARSE;
    if (v.type != MP_MAP)
        return read_text(c, &r->ev->lora_name);
    for (uint32_t i = 0; i < v.as.n; i++) {
        if (mp_next(&at, &key) != 0 || key.type != MP_STR)
            return ERR_PARSE;
        if (str_eqz(key.as.s, field_names[F_SALT]) ? read_text(&at, &r->salt) != 0
                                                   : mp_skip(&at) != 0)
            return ERR_PARSE;
    }
    *c = at;
    return 0;
}

static int read_field(struct reader *r, enum field f, struct mp_cursor *c)
{
    struct kv_event *ev = r->ev;
    bool is_set;

    if (f != F_OTHER)
        r->seen |= 1u << f;
    switch (f) {
    case F_HASHES: return read_hashes(r, c);
    case F_PARENT: return read_parent(r, c);
    case F_TOKENS: return read_tokens(r, c);
    case F_BLOCK_SIZE: return read_u32(c, &ev->block_size, &is_set);
    case F_MEDIUM: return read_text(c, &ev->medium);
    case F_LORA_NAME: return read_lora_name(r, c);
    case F_EXTRA_KEYS: r->extra_keys = *c; return mp_skip(c);
    case F_GROUP: return read_u32(c, &ev->group, &ev->has_group);
    case F_KIND: return read_text(c, &ev->kind_name);
    case F_WINDOW: return read_u32(c, &ev->window, &is_set);
    case F_SALT: return read_text(c, &r->salt);
    case F_TYPE:
    case F_LORA_ID: /* the number is of no use without the worker's table */
    case F_OTHER: break;
    }
    return mp_skip(c);
}

/* One element of a block's list of extra keys: its text, or p == NULL when it carries none. */
static int read_extra(struct mp_cursor *c, struct str *out, bool *is_media)
{
    static const char *const kinds[] = { "mm", "cache_salt" };
    struct mp_value v, item, key;
    struct str text = STR_NONE, type = STR_NONE;
    struct mp_cursor at = *c;

    *out = STR_NONE;
    *is_media = false;
    if (mp_skip(c) != 0 || mp_next(&at, &v) != 0)
        return ERR_PARSE;
    if (v.type == MP_STR) {
        *out = v.as.s;
    } else if (v.type == MP_ARRAY && v.as.n == 2) { /* [media hash, offset] */
        if (mp_next(&at, &item) == 0 && item.type == MP_STR)
            *out = item.as.s;
        *is_media = true;
    } else if (v.type == MP_MAP) { /* {"type": kind, ...: text} */
        for (uint32_t i = 0; i < v.as.n; i++) {
            if (mp_next(&at, &key) != 0 || key.type != MP_STR)
                return 0;
            item.type = MP_NIL;
            if (mp_next(&at, &item) != 0 || item.type == MP_ARRAY || item.type == MP_MAP)
                return 0;
            if (item.type == MP_STR && str_eqz(key.as.s, "type"))
                type = item.as.s;
            else if (item.type == MP_STR && text.p == NULL)
                text = item.as.s;
        }
        for (size_t k = 0; k < COUNT(kinds); k++)
            if (str_eqz(type, kinds[k]))
                *out = text;
        *is_media = str_eqz(type, kinds[0]);
    }
    return 0;
}

/* Walks the extra keys; counts them, and with `out` keeps them. */
static int walk_extras(const struct reader *r, struct kv_extra *out, uint32_t *count)
{
    struct mp_cursor c = r->extra_keys;
    struct mp_value list, block;
    const struct kv_event *ev = r->ev;
    uint32_t n = 0;

    *count = 0;
    if (mp_next(&c, &list) != 0)
        return ERR_PARSE;
    if (list.type == MP_NIL)
        return 0;
    if (list.type != MP_ARRAY || list.as.n != ev->hash_count)
        return ERR_PARSE;
    for (uint32_t b = 0; b < list.as.n; b++) {
        bool lora_pending = ev->lora_name.n != 0;

        if (mp_next(&c, &block) != 0)
            return ERR_PARSE;
        if (block.type == MP_NIL)
            continue;
        if (block.type != MP_ARRAY)
            return ERR_PARSE;
        for (uint32_t i = 0; i < block.as.n; i++) {
            struct str text;
            bool is_media;

            if (read_extra(&c, &text, &is_media) != 0)
                return ERR_PARSE;
            if (text.p == NULL)
                continue;
            if (lora_pending && str_eq(text, ev->lora_name)) {
                lora_pending = false; /* the name is the model already */
                continue;
            }
            if (out != NULL)
                out[n] = (struct kv_extra) { b, is_media, text };
            n++;
        }
    }
    *count = n;
    return 0;
}

static int finish_stored(struct reader *r)
{
    const unsigned needed = 1u << F_HASHES | 1u << F_PARENT | 1u << F_TOKENS | 1u << F_BLOCK_SIZE;
    struct kv_event *ev = r->ev;
    struct kv_extra *extras;
    uint32_t n = 0;
    bool has_salt = r->salt.n != 0 && !ev->has_parent && ev->hash_count != 0;

    if ((r->seen & needed) != needed)
        return ERR_PARSE;
    if (r->extra_keys.p != NULL && walk_extras(r, NULL, &n) != 0)
        return ERR_PARSE;
    if (n + has_salt != 0) {
        extras = arena_try(r->a, ((size_t)n + 1) * sizeof(*extras));
        if (extras == NULL)
            return ERR_LIMIT;
        if (n != 0 && walk_extras(r, extras, &n) != 0)
            return ERR_PARSE;
        if (has_salt && n == 0)
            extras[n++] = (struct kv_extra) { .text = r->salt };
        ev->extras = extras;
        ev->extra_count = n;
        if (extras[0].block == 0)
            ev->salt = extras[0].text;
    }
    return r->is_odd ? ERR_UNSUPPORTED : 0;
}

static int find_tag(struct mp_cursor c, const struct mp_value *head, struct str *tag)
{
    struct mp_value v, key;

    if (head->type == MP_ARRAY) {
        if (head->as.n == 0 || mp_next(&c, &v) != 0 || v.type != MP_STR)
            return ERR_PARSE;
        *tag = v.as.s;
        return 0;
    }
    for (uint32_t i = 0; i < head->as.n; i++) {
        if (mp_next(&c, &key) != 0 || key.type != MP_STR)
            return ERR_PARSE;
        if (!str_eqz(key.as.s, field_names[F_TYPE])) {
            if (mp_skip(&c) != 0)
                return ERR_PARSE;
            continue;
        }
        if (mp_next(&c, &v) != 0 || v.type != MP_STR)
            return ERR_PARSE;
        *tag = v.as.s;
        return 0;
    }
    return ERR_PARSE;
}

static enum field named(struct str name)
{
    for (size_t f = 0; f < COUNT(field_names); f++)
        if (str_eqz(name, field_names[f]))
            return (enum field)f;
    return F_OTHER;
}

/* The fields after the head; c stands at the first. */
static int read_fields(struct reader *r, struct mp_cursor *c, const struct mp_value *head)
{
    const uint8_t *order = r->ev->kind == KV_STORED ? stored_order : removed_order;
    size_t known = r->ev->kind == KV_STORED    ? COUNT(stored_order)
                   : r->ev->kind == KV_REMOVED ? COUNT(removed_order)
                                               : 1;

    for (uint32_t i = 0; i < head->as.n; i++) {
        enum field f = i < known ? (enum field)order[i] : F_OTHER;
        struct mp_value key;
        int rc;

        if (head->type == MP_MAP) {
            if (mp_next(c, &key) != 0 || key.type != MP_STR)
                return ERR_PARSE;
            f = r->ev->kind == KV_CLEARED ? F_OTHER : named(key.as.s);
        }
        rc = read_field(r, f, c);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* One event at the cursor.  0, ERR_UNSUPPORTED (skipped), ERR_PARSE, ERR_LIMIT. */
static int read_event(struct arena *a, struct mp_cursor *c, struct kv_event *ev)
{
    struct reader r = { .a = a, .ev = ev };
    struct mp_cursor inner = *c;
    struct mp_value head;
    struct str tag;
    size_t kind;
    int rc;

    *ev = (struct kv_event) { 0 };
    if (mp_skip(c) != 0 || mp_next(&inner, &head) != 0)
        return ERR_PARSE;
    if (head.type == MP_BIN) { /* some encoders wrap each event */
        mp_init(&inner, head.as.s);
        if (mp_next(&inner, &head) != 0)
            return ERR_PARSE;
    }
    if (head.type != MP_ARRAY && head.type != MP_MAP)
        return ERR_PARSE;
    if (find_tag(inner, &head, &tag) != 0)
        return ERR_PARSE;
    for (kind = 0; kind < COUNT(tags); kind++)
        if (str_eqz(tag, tags[kind]))
            break;
    if (kind == COUNT(tags))
        return ERR_UNSUPPORTED;
    ev->kind = (enum kv_event_kind)kind;
    rc = read_fields(&r, &inner, &head);
    if (rc == 0 && ev->kind == KV_STORED)
        rc = finish_stored(&r);
    else if (rc == 0 && ev->kind == KV_REMOVED && (r.seen & 1u << F_HASHES) == 0)
        rc = ERR_PARSE;
    return rc;
}

static int read_events(struct arena *a, struct mp_cursor *c, struct kv_batch *out)
{
    struct mp_value v;
    struct kv_event *ev;
    uint32_t n = 0;

    if (mp_next(c, &v) != 0 || v.type != MP_ARRAY)
        return ERR_PARSE;
    if (v.as.n > KV_EVENTS_MAX)
        return ERR_LIMIT;
    ev = arena_try(a, v.as.n * sizeof(*ev));
    if (ev == NULL)
        return ERR_LIMIT;
    for (uint32_t i = 0; i < v.as.n; i++) {
        int rc = read_event(a, c, &ev[n]);

        if (rc == 0)
            n++;
        else if (rc == ERR_UNSUPPORTED)
            out->skipped++;
        else
            return rc;
    }
    out->events = ev;
    out->count = n;
    return 0;
}

static int read_ts(struct mp_cursor *c, double *out)
{
    struct mp_value v;

    if (mp_next(c, &v) != 0)
        return ERR_PARSE;
    switch (v.type) {
    case MP_FLOAT: *out = v.as.f; return 0;
    case MP_UINT: *out = (double)v.as.u; return 0;
    default: return ERR_PARSE;
    }
}

static int read_batch(struct arena *a, struct mp_cursor *c, struct kv_batch *out)
{
    struct mp_value head, key;
    bool has_events = false;
    int rc;

    if (mp_next(c, &head) != 0)
        return ERR_PARSE;
    if (head.type == MP_ARRAY) {
        if (head.as.n < 2 || read_ts(c, &out->ts) != 0)
            return ERR_PARSE;
        rc = read_events(a, c, out);
        for (uint32_t i = 2; rc == 0 && i < head.as.n; i++)
            rc = mp_skip(c);
        return rc;
    }
    if (head.type != MP_MAP)
        return ERR_PARSE;
    for (uint32_t i = 0; i < head.as.n; i++) {
        if (mp_next(c, &key) != 0 || key.type != MP_STR)
            return ERR_PARSE;
        if (str_eqz(key.as.s, "ts")) {
            rc = read_ts(c, &out->ts);
        } else if (str_eqz(key.as.s, "events") && !has_events) {
            has_events = true;
            rc = read_events(a, c, out);
        } else {
            rc = mp_skip(c);
        }
        if (rc != 0)
            return rc;
    }
    return has_events ? 0 : ERR_PARSE;
}

int kv_batch_decode(struct arena *a, struct str bytes, struct kv_batch *out, struct err *e)
{
    struct mp_cursor c;
    int rc;

    *out = (struct kv_batch) { 0 };
    mp_init(&c, bytes);
    rc = read_batch(a, &c, out);
    if (rc == 0 && c.p != c.end)
        rc = ERR_PARSE;
    if (rc == 0)
        return 0;
    *out = (struct kv_batch) { 0 };
    return rc == ERR_LIMIT
               ? err_set(e, rc, "KV event batch of %zu bytes is over a ceiling", bytes.n)
               : err_set(e, rc, "KV event batch of %zu bytes does not parse at byte %zu", bytes.n,
                         bytes.n - (size_t)(c.end - c.p));
}

static void put_text(struct buf *out, struct str s)
{
    if (s.p != NULL)
        mp_w_str(out, s);
    else
        mp_w_nil(out);
}

static void put_hashes(struct buf *out, const struct kv_event *ev)
{
    mp_w_array(out, ev->hash_count);
    for (uint32_t i = 0; i < ev->hash_count; i++)
        mp_w_uint(out, ev->hashes[i]);
}

/* One list a hash, or nil as a whole; with a LoRA name that comes first in each, as vLLM has it. */
static void put_extras(struct buf *out, const struct kv_event *ev)
{
    struct kv_extra only_salt = { .text = ev->salt };
    const struct kv_extra *x = ev->extra_count != 0 ? ev->extras : &only_salt;
    uint32_t n = ev->extra_count != 0 ? ev->extra_count : ev->salt.p != NULL && !ev->has_parent;
    bool has_lora = ev->lora_name.n != 0;

    if (n == 0 && !has_lora) {
        mp_w_nil(out);
        return;
    }
    mp_w_array(out, ev->hash_count);
    for (uint32_t b = 0, at = 0; b < ev->hash_count; b++) {
        uint32_t mine = 0;

        while (at + mine < n && x[at + mine].block == b)
            mine++;
        if (mine == 0 && !has_lora) {
            mp_w_nil(out);
            continue;
        }
        mp_w_array(out, mine + has_lora);
        if (has_lora)
            mp_w_str(out, ev->lora_name);
        for (; mine != 0; mine--, at++)
            mp_w_str(out, x[at].text);
    }
}

static void put_stored(struct buf *out, const struct kv_event *ev)
{
    mp_w_array(out, !ev->has_group ? 9 : ev->window == 0 ? 11 : 12);
    mp_w_str(out, str_of(tags[KV_STORED]));
    put_hashes(out, ev);
    if (ev->has_parent)
        mp_w_uint(out, ev->parent);
    else
        mp_w_nil(out);
    mp_w_array(out, ev->token_count);
    for (uint32_t i = 0; i < ev->token_count; i++)
        mp_w_uint(out, ev->tokens[i]);
    mp_w_uint(out, ev->block_size);
    mp_w_nil(out); /* lora_id */
    put_text(out, ev->medium);
    put_text(out, ev->lora_name);
    put_extras(out, ev);
    if (!ev->has_group)
        return;
    mp_w_uint(out, ev->group);
    put_text(out, ev->kind_name);
    if (ev->window != 0)
        mp_w_uint(out, ev->window);
}

void kv_batch_encode(struct buf *out, const struct kv_batch *b)
{
    mp_w_array(out, 3);
    mp_w_f64(out, b->ts);
    mp_w_array(out, b->count);
    for (uint32_t i = 0; i < b->count; i++) {
        const struct kv_event *ev = &b->events[i];

        switch (ev->kind) {
        case KV_STORED: put_stored(out, ev); break;
        case KV_REMOVED:
            mp_w_array(out, ev->has_group ? 4 : 3);
            mp_w_str(out, str_of(tags[KV_REMOVED]));
            put_hashes(out, ev);
            put_text(out, ev->medium);
            if (ev->has_group)
                mp_w_uint(out, ev->group);
            break;
        case KV_CLEARED:
            mp_w_array(out, 1);
            mp_w_str(out, str_of(tags[KV_CLEARED]));
            break;
        }
    }
    mp_w_uint(out, 0); /* rank */
}
