/* GGUF reader: one pass over the head of a mapped file, then tables into it.
 *
 *   magic version tensors kvs | key value ... | tensor info ... | pad | tensor data
 *   `------- cursor: every take() is checked against what is left ------'
 *
 * Nothing is believed before it was compared with the bytes that remain, so the
 * memory taken is at most a small multiple of the file.  Texts and tensors are
 * views into the map; only arrays of strings cost memory (one view each).
 * Keys and tensor names are printable ASCII: they end up in messages and logs. */
// SPDX-License-Identifier: Apache-2.0
#include "model/gguf.h"
#include "base/check.h"
#include "base/file.h"
#include "base/map.h"
#include "base/mem.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place");

#define HEAD_BYTES       24
#define KEY_BYTES_MAX    65535
#define STRING_BYTES_MAX ((uint64_t)16 << 20)
#define ARRAY_COUNT_MAX  ((uint64_t)16 << 20)
#define KV_COUNT_MAX     65536
#define TENSOR_COUNT_MAX 65536
#define NAME_BYTES_MAX   63
#define ALIGN_DEFAULT    32
#define ALIGN_MAX        65536

struct kv {
    struct str key;
    struct gguf_value value;
};

struct gguf {
    struct file_map map; /* p == NULL when the bytes are the caller's */
    const uint8_t *bytes;
    size_t size;
    uint64_t data_at; /* where tensor data begins */
    struct kv *kv;
    size_t kv_count;
    struct gguf_tensor *tensor;
    size_t tensor_count;
    struct map keys, names;
};

struct cursor {
    const uint8_t *p, *end;
    struct err *e;
};

/* ---- cursor ---- */

static uint64_t left(const struct cursor *c)
{
    return (uint64_t)(c->end - c->p);
}

static int cut_short(struct cursor *c, const char *what)
{
    return err_set(c->e, ERR_PARSE, "the file is cut short: it ends inside %s; download it again",
                   what);
}

static int take(struct cursor *c, void *out, size_t n, const char *what)
{
    if (left(c) < n)
        return cut_short(c, what);
    memcpy(out, c->p, n);
    c->p += n;
    return 0;
}

static int take_str(struct cursor *c, struct str *out, uint64_t max, const char *what)
{
    uint64_t n = 0;
    int rc = take(c, &n, sizeof(n), what);

    if (rc != 0)
        return rc;
    if (n > max)
        return err_set(c->e, ERR_LIMIT,
                       "damaged file: %s of %" PRIu64 " bytes, at most %" PRIu64 " are taken", what,
                       n, max);
    if (n > left(c))
        return cut_short(c, what);
    *out = (struct str) { (const char *)c->p, (size_t)n };
    c->p += n;
    return 0;
}

static bool is_printable(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < 0x21 || s.p[i] > 0x7e)
            return false;
    return s.n > 0;
}

/* ---- values ---- */

static size_t value_bytes(uint32_t type)
{
    static const uint8_t bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

    return type < COUNT(bytes) ? bytes[type] : 0;
}

static int take_strings(struct cursor *c, struct gguf_value *v)
{
    struct str *s;

    if (v->count > left(c) / 8) /* each has at least its length */
        return cut_short(c, "an array of strings");
    s = mem_try_zero((size_t)v->count, sizeof(*s));
    if (s == NULL)
        return err_set(c->e, ERR_NOMEM, "no memory for an array of %" PRIu64 " strings", v->count);
    v->strings = s; /* freed with the value, whatever happens next */
    for (uint64_t i = 0; i < v->count; i++) {
        int rc = take_str(c, &s[i], STRING_BYTES_MAX, "a string of an array");

        if (rc != 0)
            return rc;
    }
    return 0;
}

static int take_array(struct cursor *c, struct gguf_value *v)
{
    uint32_t elem = 0;
    int rc;

    rc = take(c, &elem, sizeof(elem), "an array");
    if (rc == 0)
        rc = take(c, &v->count, sizeof(v->count), "an array");
    if (rc != 0)
        return rc;
    if (elem == GGUF_ARRAY)
        return err_set(c->e, ERR_UNSUPPORTED, "nested arrays in the metadata are not read");
    if (elem > GGUF_F64)
        return err_set(c->e, ERR_PARSE, "damaged file: array of unknown type %" PRIu32, elem);
    if (v->count > ARRAY_COUNT_MAX)
        return err_set(c->e, ERR_LIMIT,
                       "damaged file: array of %" PRIu64 " elements, at most %" PRIu64 " are taken",
                       v->count, ARRAY_COUNT_MAX);
    v->elem = (enum gguf_type)elem;
    v->p = c->p;
    if (elem == GGUF_STRING) {
        rc = take_strings(c, v);
    } else {
        if (v->count > left(c) / value_bytes(elem))
            return cut_short(c, "an array");
        c->p += v->count * value_bytes(elem);
    }
    v->end = c->p;
    return rc;
}

static int take_value(struct cursor *c, struct gguf_value *v)
{
    uint32_t type = 0;
    struct str s;
    int rc = take(c, &type, sizeof(type), "a metadata value");

    if (rc != 0)
        return rc;
    if (type > GGUF_F64)
        return err_set(c->e, ERR_PARSE, "damaged file: value of unknown type %" PRIu32, type);
    v->type = (enum gguf_type)type;
    if (type == GGUF_ARRAY)
        return take_array(c, v);
    if (type == GGUF_STRING) {
        rc = take_str(c, &s, STRING_BYTES_MAX, "a metadata string");
        if (rc != 0)
            return rc;
        v->p = (const uint8_t *)s.p;
        v->end = v->p + s.n;
        return 0;
    }
    if (left(c) < value_bytes(type))
        return cut_short(c, "a metadata value");
    v->p = c->p;
    v->end = c->p += value_bytes(type);
    return 0;
}

static int take_kv(struct gguf *g, struct cursor *c)
{
    struct kv *kv = &g->kv[g->kv_count];
    char inner[ERR_MSG_MAX];
    int rc = take_str(c, &kv->key, KEY_BYTES_MAX, "a metadata key");

    if (rc != 0)
        return rc;
    if (!is_printable(kv->key))
        return err_set(c->e, ERR_PARSE, "damaged file: metadata key %zu is not printable ASCII",
                       g->kv_count);
    g->kv_count++; /* from here on its strings are freed with the file */
    rc = take_value(c, &kv->value);
    if (rc != 0) {
        if (c->e == NULL)
            return rc;
        memcpy(inner, c->e->msg, sizeof(inner));
        return err_set(c->e, rc, "key %.*s: %.350s", (int)MIN(kv->key.n, 100), kv->key.p, inner);
    }
    if (map_gets(&g->keys, kv->key, NULL))
        return err_set(c->e, ERR_PARSE, "damaged file: metadata key %.*s is there twice",
                       (int)MIN(kv->key.n, 100), kv->key.p);
    if (!map_puts(&g->keys, kv->key, g->kv_count - 1))
        return err_set(c->e, ERR_NOMEM, "no memory for the metadata");
    return 0;
}

/* ---- tensors ---- */

/* The row size and the product of the dimensions, each step checked. */
static int tensor_bytes(const struct gguf_tensor *t, uint64_t *size, struct err *e)
{
    uint64_t n = t->ne[0];

    if (n % tensor_block_elems(t->type) != 0)
        return err_set(e, ERR_PARSE,
                       "damaged file: tensor %.*s has rows of %" PRIu64
                       " values, not a multiple of %s's block of %" PRIu32,
                       STR_ARG(t->name), n, tensor_type_name(t->type), tensor_block_elems(t->type));
    n /= tensor_block_elems(t->type);
    if (__builtin_mul_overflow(n, tensor_block_bytes(t->type), size) ||
        __builtin_mul_overflow(*size, t->ne[1], size) ||
        __builtin_mul_overflow(*size, t->ne[2], size) ||
        __builtin_mul_overflow(*size, t->ne[3], size) || *size > INT64_MAX)
        return err_set(e, ERR_PARSE, "damaged file: the size of tensor %.*s overflows",
                       STR_ARG(t->name));
    return 0;
}

static const char *type_withdrawn(uint32_t type)
{
    switch (type) {
    case 4: return "Q4_2";
    case 5: return "Q4_3";
    case 31: return "Q4_0_4_4";
    case 32: return "Q4_0_4_8";
    case 33: return "Q4_0_8_8";
    case 36: return "IQ4_NL_4_4";
    case 37: return "IQ4_NL_4_8";
    case 38: return "IQ4_NL_8_8";
    default: return NULL;
    }
}

static const char *type_unread(uint32_t type)
{
    static const char *const names[] = {
        [9] = "Q8_1",    [10] = "Q2_K",    [11] = "Q3_K",  [15] = "Q8_K",   [16] = "IQ2_XXS",
        [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",
        [22] = "IQ2_S",  [23] = "IQ4_XS",  [24] = "I8",    [25] = "I16",    [26] = "I32",
        [27] = "I64",    [28] = "F64",     [29] = "IQ1_M", [34] = "TQ1_0",  [35] = "TQ2_0",
        [39] = "MXFP4",  [40] = "NVFP4",   [41] = "Q1_0",  [42] = "Q2_0"
    };

    return type < COUNT(names) ? names[type] : NULL;
}

static int type_refused(struct str tensor, uint32_t type, struct err *e)
{
    if (type_withdrawn(type) != NULL)
        return err_set(e, ERR_UNSUPPORTED,
                       "tensor %.*s has the withdrawn type %s; use a newer "
                       "conversion of this model",
                       STR_ARG(tensor), type_withdrawn(type));
    if (type_unread(type) != NULL)
        return err_set(e, ERR_UNSUPPORTED,
                       "tensor %.*s has type %s, which is not supported; use "
                       "a conversion in F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K or Q6_K",
                       STR_ARG(tensor), type_unread(type));
    return err_set(e, ERR_PARSE, "damaged file: tensor %.*s has unknown type %" PRIu32,
                   STR_ARG(tensor), type);
}

static int take_dims(struct cursor *c, struct gguf_tensor *t)
{
    int rc = take(c, &t->n_dims, sizeof(t->n_dims), "a tensor's description");

    if (rc != 0)
        return rc;
    if (t->n_dims > COUNT(t->ne))
        return err_set(c->e, ERR_LIMIT,
                       "damaged file: tensor %.*s has %" PRIu32 " dimensions, at most 4 are taken",
                       STR_ARG(t->name), t->n_dims);
    for (uint32_t i = 0; i < COUNT(t->ne); i++)
        t->ne[i] = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        rc = take(c, &t->ne[i], sizeof(t->ne[i]), "a tensor's description");
        if (rc != 0)
            return rc;
        if (t->ne[i] == 0 || t->ne[i] > INT64_MAX)
            return err_set(c->e, ERR_PARSE, "damaged file: tensor %.*s has a dimension of %" PRIu64,
                           STR_ARG(t->name), t->ne[i]);
    }
    return 0;
}

/* *offset is relative to the data section, whose start is not known yet. */
static int take_tensor(struct gguf *g, struct cursor *c, uint64_t *offset)
{
    struct gguf_tensor *t = &g->tensor[g->tensor_count];
    uint64_t size = 0;
    uint32_t type = 0;
    int rc = take_str(c, &t->name, NAME_BYTES_MAX, "a tensor's name");

    if (rc != 0)
        return rc;
    if (!is_printable(t->name))
        return err_set(c->e, ERR_PARSE,
                       "damaged file: the name of tensor %zu is not printable "
                       "ASCII",
                       g->tensor_count);
    rc = take_dims(c, t);
    if (rc == 0)
        rc = take(c, &type, sizeof(type), "a tensor's description");
    if (rc == 0)
        rc = take(c, offset, sizeof(*offset), "a tensor's description");
    if (rc != 0)
        return rc;
    if (!tensor_type_known(type))
        return type_refused(t->name, type, c->e);
    t->type = (enum tensor_type)type;
    rc = tensor_bytes(t, &size, c->e);
    if (rc != 0)
        return rc;
    t->size = (size_t)size;
    if (map_gets(&g->names, t->name, NULL))
        return err_set(c->e, ERR_PARSE, "damaged file: tensor %.*s is there twice",
                       STR_ARG(t->name));
    if (!map_puts(&g->names, t->name, g->tensor_count))
        return err_set(c->e, ERR_NOMEM, "no memory for the table of tensors");
    g->tensor_count++;
    return 0;
}

static int place_tensors(struct gguf *g, const uint64_t *offset, uint64_t align, struct err *e)
{
    const struct gguf_tensor *last = NULL;
    uint64_t need = 0;

    for (size_t i = 0; i < g->tensor_count; i++) {
        struct gguf_tensor *t = &g->tensor[i];
        uint64_t end;

        if (offset[i] % align != 0)
            return err_set(e, ERR_PARSE,
                           "damaged file: tensor %.*s is not aligned to %" PRIu64 " bytes",
                           STR_ARG(t->name), align);
        if (__builtin_add_overflow(offset[i], t->size, &end) ||
            __builtin_add_overflow(end, g->data_at, &end))
            return err_set(e, ERR_PARSE, "damaged file: the place of tensor %.*s overflows",
                           STR_ARG(t->name));
        if (end > need) {
            need = end;
            last = t;
        }
        if (end <= g->size)
            t->data = g->bytes + g->data_at + offset[i];
    }
    if (need > g->size)
        return err_set(e, ERR_PARSE,
                       "the file is cut short: it has %zu bytes, tensor %.*s ends "
                       "at %" PRIu64 "; download it again",
                       g->size, STR_ARG(last->name), need);
    return 0;
}

static int take_tensors(struct gguf *g, struct cursor *c, uint64_t count)
{
    uint64_t align = ALIGN_DEFAULT, *offset = NULL;
    int rc = 0;

    if (gguf_get(g, "general.alignment") != NULL &&
        (!gguf_u64(g, "general.alignment", &align) || align < 8 || align > ALIGN_MAX ||
         (align & (align - 1)) != 0))
        return err_set(c->e, ERR_LIMIT,
                       "damaged file: general.alignment must be a power of two "
                       "from 8 to %d",
                       ALIGN_MAX);
    g->tensor = mem_try_zero((size_t)count, sizeof(*g->tensor));
    offset = mem_try_zero((size_t)count, sizeof(*offset));
    if (g->tensor == NULL || offset == NULL)
        rc = err_set(c->e, ERR_NOMEM, "no memory for the table of %" PRIu64 " tensors", count);
    for (uint64_t i = 0; rc == 0 && i < count; i++)
        rc = take_tensor(g, c, &offset[i]);
    if (rc == 0) {
        g->data_at = ((uint64_t)(c->p - g->bytes) + align - 1) / align * align;
        rc = place_tensors(g, offset, align, c->e);
    }
    mem_free(offset);
    return rc;
}

/* ---- the head ---- */

/* What people really hand over instead of a model, by its first bytes. */
static int not_gguf(const struct gguf *g, struct err *e)
{
    static const struct {
        const char *bytes, *what;
    } known[] = {
        { "version https://git-lfs", "a Git LFS pointer, not the model itself: fetch the real "
                                     "file (git lfs pull, or the download link)" },
        { "<!DOCTYPE", "a web page, not a model: check the download link" },
        { "<!doctype", "a web page, not a model: check the download link" },
        { "<html", "a web page, not a model: check the download link" },
        { "PK\3\4", "a zip archive or PyTorch file: unpack or convert it to GGUF" },
        { "\x1f\x8b", "compressed with gzip: unpack it first" },
        { "\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first" },
        { "ggjt", "an old GGML file: convert it to GGUF version 3" },
        { "tjgg", "an old GGML file: convert it to GGUF version 3" },
        { "lmgg", "an old GGML file: convert it to GGUF version 3" },
        { "FUGG", "a big-endian GGUF file: use a little-endian one" },
    };
    struct str head = { (const char *)g->bytes, g->size };

    for (size_t i = 0; i < COUNT(known); i++)
        if (str_starts(head, str_of(known[i].bytes)))
            return err_set(e, ERR_PARSE, "not a GGUF model: %s", known[i].what);
    if (head.n > 9 && head.p[8] == '{')
        return err_set(e, ERR_PARSE,
                       "not a GGUF model: it looks like safetensors; convert it to "
                       "GGUF");
    return err_set(e, ERR_PARSE,
                   "not a GGUF model: it does not begin with \"GGUF\"; give a .gguf "
                   "file, or a name of `llmd model list`");
}

static int check_version(uint32_t version, struct err *e)
{
    if (version == 2 || version == 3)
        return 0;
    if (version == 0x03000000 || version == 0x02000000)
        return err_set(e, ERR_UNSUPPORTED, "a big-endian GGUF file; use a little-endian one");
    if (version == 1)
        return err_set(e, ERR_UNSUPPORTED,
                       "GGUF version 1 is not read; use a newer conversion of "
                       "this model");
    return err_set(e, ERR_UNSUPPORTED,
                   "GGUF version %" PRIu32 " is not known; versions 2 and 3 "
                   "are read",
                   version);
}

static int parse(struct gguf *g, struct err *e)
{
    struct cursor c = { g->bytes, g->bytes + g->size, e };
    uint64_t tensors = 0, kvs = 0;
    uint32_t version = 0;
    int rc;

    if (g->size < 4 || memcmp(c.p, "GGUF", 4) != 0)
        return not_gguf(g, e);
    c.p += 4;
    rc = take(&c, &version, sizeof(version), "its head");
    if (rc == 0)
        rc = check_version(version, e);
    if (rc == 0)
        rc = take(&c, &tensors, sizeof(tensors), "its head");
    if (rc == 0)
        rc = take(&c, &kvs, sizeof(kvs), "its head");
    if (rc != 0)
        return rc;
    if (kvs > KV_COUNT_MAX || tensors > TENSOR_COUNT_MAX)
        return err_set(e, ERR_LIMIT,
                       "damaged file: %" PRIu64 " metadata keys and %" PRIu64
                       " tensors, at most %d of each are taken",
                       kvs, tensors, KV_COUNT_MAX);
    /* The smallest key takes 14 bytes, the smallest tensor 25. */
    if (kvs > left(&c) / 14 || tensors > left(&c) / 25)
        return cut_short(&c, "its metadata");
    g->kv = mem_try_zero((size_t)kvs, sizeof(*g->kv));
    if (g->kv == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %" PRIu64 " metadata keys", kvs);
    for (uint64_t i = 0; i < kvs; i++) {
        rc = take_kv(g, &c);
        if (rc != 0)
            return rc;
    }
    return take_tensors(g, &c, tensors);
}

int gguf_open_bytes(struct gguf **out, struct str bytes, struct err *e)
{
    struct gguf *g = mem_zalloc(sizeof(*g));
    int rc;

    *out = NULL;
    g->bytes = (const uint8_t *)bytes.p;
    g->size = bytes.n;
    rc = parse(g, e);
    if (rc != 0)
        gguf_close(g);
    else
        *out = g;
    return rc;
}

int gguf_open(struct gguf **out, const char *path, struct err *e)
{
    struct file_map map;
    struct err inner = { 0 };
    int rc;

    *out = NULL;
    rc = file_map_open(&map, path, e);
    if (rc != 0)
        return rc;
    rc = gguf_open_bytes(out, (struct str) { (const char *)map.p, map.size }, &inner);
    if (rc != 0) {
        file_map_close(&map);
        return err_set(e, rc, "%.150s: %.350s", path, inner.msg);
    }
    (*out)->map = map;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (g == NULL)
        return;
    for (size_t i = 0; i < g->kv_count; i++)
        mem_free((void *)(uintptr_t)g->kv[i].value.strings);
    mem_free(g->kv);
    mem_free(g->tensor);
    map_fini(&g->keys);
    map_fini(&g->names);
    file_map_close(&g->map);
    mem_free(g);
}

void gguf_release_tensors(struct gguf *g)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t from = (g->data_at + page - 1) / page * page;

    /* The map is shared and clean: the pages come back from the file when touched again. */
    if (g->map.p != NULL && from < g->size)
        (void)madvise((void *)(uintptr_t)(g->bytes + from), g->size - from, MADV_DONTNEED);
}

/* ---- look-ups ---- */

size_t gguf_kv_count(const struct gguf *g)
{
    return g->kv_count;
}

struct str gguf_kv_key(const struct gguf *g, size_t i)
{
    return g->kv[i].key;
}

const struct gguf_value *gguf_kv_value(const struct gguf *g, size_t i)
{
    return &g->kv[i].value;
}

const struct gguf_value *gguf_get(const struct gguf *g, const char *key)
{
    uint64_t i;

    return map_gets(&g->keys, str_of(key), &i) ? &g->kv[i].value : NULL;
}

/* The raw bytes of element `index`, zero-extended; its type is the result. */
static bool element(const struct gguf_value *v, uint64_t index, enum gguf_type *type, uint64_t *raw)
{
    size_t size;

    *type = v->type == GGUF_ARRAY ? v->elem : v->type;
    size = value_bytes(*type);
    if (size == 0 || index >= (v->type == GGUF_ARRAY ? v->count : 1))
        return false;
    *raw = 0;
    memcpy(raw, v->p + index * size, size);
    return true;
}

bool gguf_value_u64(const struct gguf_value *v, uint64_t index, uint64_t *out)
{
    enum gguf_type type;
    uint64_t raw;
    int64_t s;

    if (v == NULL || !element(v, index, &type, &raw))
        return false;
    switch (type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64: *out = raw; return true;
    case GGUF_BOOL: *out = raw != 0; return true;
    case GGUF_I8: s = (int8_t)raw; break;
    case GGUF_I16: s = (int16_t)raw; break;
    case GGUF_I32: s = (int32_t)raw; break;
    case GGUF_I64: s = (int64_t)raw; break;
    default: return false;
    }
    *out = (uint64_t)s;
    return s >= 0;
}

bool gguf_value_f64(const struct gguf_value *v, uint64_t index, double *out)
{
    enum gguf_type type;
    uint64_t raw;
    uint32_t low;
    float f;

    if (v == NULL || !element(v, index, &type, &raw))
        return false;
    switch (type) {
    case GGUF_F32:
        low = (uint32_t)raw;
        memcpy(&f, &low, sizeof(f));
        *out = (double)f;
        return true;
    case GGUF_F64: memcpy(out, &raw, sizeof(*out)); return true;
    case GGUF_I8: *out = (int8_t)raw; return true;
    case GGUF_I16: *out = (int16_t)raw; return true;
    case GGUF_I32: *out = (int32_t)raw; return true;
    case GGUF_I64: *out = (double)(int64_t)raw; return true;
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64: *out = (double)raw; return true;
    default: return false;
    }
}

static const struct gguf_value *scalar(const struct gguf *g, const char *key)
{
    const struct gguf_value *v = gguf_get(g, key);

    return v != NULL && v->type != GGUF_ARRAY ? v : NULL;
}

bool gguf_u64(const struct gguf *g, const char *key, uint64_t *out)
{
    const struct gguf_value *v = scalar(g, key);
    uint64_t value;

    /* A bool is not meant where a number is. */
    if (v == NULL || v->type == GGUF_BOOL || !gguf_value_u64(v, 0, &value))
        return false;
    *out = value;
    return true;
}

bool gguf_f64(const struct gguf *g, const char *key, double *out)
{
    return gguf_value_f64(scalar(g, key), 0, out);
}

bool gguf_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct gguf_value *v = gguf_get(g, key);

    if (v == NULL || v->type != GGUF_BOOL)
        return false;
    *out = *v->p != 0;
    return true;
}

bool gguf_str(const struct gguf *g, const char *key, struct str *out)
{
    const struct gguf_value *v = gguf_get(g, key);

    if (v == NULL || v->type != GGUF_STRING)
        return false;
    *out = (struct str) { (const char *)v->p, (size_t)(v->end - v->p) };
    return true;
}

size_t gguf_tensor_count(const struct gguf *g)
{
    return g->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    return i < g->tensor_count ? &g->tensor[i] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    uint64_t i;

    return map_gets(&g->names, str_of(name), &i) ? &g->tensor[i] : NULL;
}

size_t gguf_file_bytes(const struct gguf *g)
{
    return g->size;
}
