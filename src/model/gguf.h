/* model/gguf.h - GGUF v3 reader: metadata and tensor infos over a mapped file.
 *
 * Every count, offset and string is checked against the file before use; the
 * reader takes memory in proportion to what the file really holds.  Source:
 * ggml's docs/gguf.md.  An open gguf is immutable: any thread may read it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H
#include "base/err.h"
#include "base/str.h"

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

/* ggml tensor types that we read. */
enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,
    TENSOR_Q4_1 = 3,
    TENSOR_Q5_0 = 6,
    TENSOR_Q5_1 = 7,
    TENSOR_Q8_0 = 8,
    TENSOR_Q4_K = 12,
    TENSOR_Q5_K = 13,
    TENSOR_Q6_K = 14,
    TENSOR_BF16 = 30
};

struct gguf_tensor {
    struct str name;
    enum tensor_type type;
    uint32_t n_dims;
    uint64_t ne[4];      /* ne[0] runs fastest; missing dims are 1 */
    const uint8_t *data; /* into the map */
    size_t size;         /* bytes */
};

struct gguf_value {
    enum gguf_type type;       /* of the value */
    enum gguf_type elem;       /* arrays */
    uint64_t count;            /* arrays */
    const uint8_t *p, *end;    /* raw bytes, unaligned; of a string its text */
    const struct str *strings; /* arrays of strings: views into the file */
};

struct gguf;

/* Refuses in one line that names cause and remedy: truncated, not GGUF, version, type ... */
int gguf_open(struct gguf **out, const char *path, struct err *e) MUST_CHECK;
/* The same over bytes that the caller keeps (tests, fuzzing). */
int gguf_open_bytes(struct gguf **out, struct str bytes, struct err *e) MUST_CHECK;
void gguf_close(struct gguf *g);
/* Drops the file's pages from this process once weights were packed; metadata stays readable. */
void gguf_release_tensors(struct gguf *g);

size_t gguf_kv_count(const struct gguf *g);
struct str gguf_kv_key(const struct gguf *g, size_t i);
const struct gguf_value *gguf_kv_value(const struct gguf *g, size_t i);
const struct gguf_value *gguf_get(const struct gguf *g, const char *key); /* NULL = absent */
/* Any integer type is taken where an integer is meant; false = absent or of another kind. */
bool gguf_u64(const struct gguf *g, const char *key, uint64_t *out);
bool gguf_f64(const struct gguf *g, const char *key, double *out);
bool gguf_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_str(const struct gguf *g, const char *key, struct str *out);
/* Element of an array, or a scalar at index 0; bools count as 0 and 1 here.  v may be NULL. */
bool gguf_value_u64(const struct gguf_value *v, uint64_t index, uint64_t *out);
bool gguf_value_f64(const struct gguf_value *v, uint64_t index, double *out);

size_t gguf_tensor_count(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);
size_t gguf_file_bytes(const struct gguf *g);

const char *tensor_type_name(enum tensor_type t);
bool tensor_type_known(uint32_t t);
uint32_t tensor_block_elems(enum tensor_type t); /* 1, 32 or 256 */
uint32_t tensor_block_bytes(enum tensor_type t);
/* One row (n elements, a multiple of the block) to f32: the definition of each type. */
void tensor_dequant_row(enum tensor_type t, const void *src, float *dst, size_t n);
#endif
