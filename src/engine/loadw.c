/* Weights and the memory plan.
 *
 * Every matrix is packed once (kern_pack) into one image:
 *
 *   [header 4 KiB | matrix | matrix | ...]   each on 64 bytes
 *
 * The image lies in private huge pages, or in a memfd when the caller gives one:
 * the first process to lock it packs and writes the header last; the others map
 * it read-only and skip packing.  The lock is a POSIX record lock, because the
 * descriptor is inherited and only such locks tell processes apart.
 * Norms and biases are small: f32 copies on the heap, so that the GGUF's pages
 * can be dropped afterwards. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_HEADER_BYTES   4096
#define IMAGE_VERSION        1
#define KV_BYTES_DEFAULT_MAX ((uint64_t)1 << 30)
#define KV_TOKENS_DEFAULT    (4u * 4096)
#define SLACK_BYTES          ((uint64_t)64 << 20) /* stacks, tokenizer, requests */

struct image_header {
    char magic[8];
    uint32_t version, level;
    uint64_t size;
    uint64_t layout; /* over types, shapes and packed sizes */
    uint8_t digest[32];
};

struct mat_ref {
    const struct gguf_tensor *t;
    struct kern_mat *to;
};

/* ---- what there is ---- */

/* The number in a line "NAME number ..." of a small file; name "" takes the file's first word.
 * False: no such file or line, or no number ("max": no limit). */
static bool file_number(const char *path, struct str name, uint64_t *out)
{
    struct buf b;
    struct err e;
    struct str rest, line;
    bool ok = false;

    buf_init(&b, 1u << 18);
    if (file_read(path, &b, &e) == 0) {
        rest = buf_view(&b);
        while (!ok && rest.p != NULL) {
            line = str_cut(&rest, '\n');
            if (!str_starts(line, name))
                continue;
            line = str_trim(str_sub(line, name.n, line.n));
            ok = str_u64(str_cut(&line, ' '), out);
        }
    }
    buf_fini(&b);
    return ok;
}

/* What a control group leaves: its page cache can be reclaimed, so it does not count as used. */
static uint64_t cgroup_left(const char *max_path, const char *used_path, const char *stat_path)
{
    uint64_t max, used = 0, active = 0, inactive = 0;

    if (!file_number(max_path, STR(""), &max) || max >= UINT64_MAX / 2)
        return UINT64_MAX;
    (void)file_number(used_path, STR(""), &used);
    (void)file_number(stat_path, STR("active_file "), &active);
    (void)file_number(stat_path, STR("inactive_file "), &inactive);
    used -= MIN(used, active + inactive);
    return used < max ? max - used : 0;
}

static uint64_t memory_available(void)
{
    uint64_t kib, best = UINT64_MAX, v;

    if (file_number("/proc/meminfo", STR("MemAvailable:"), &kib))
        best = kib * 1024;
    v = cgroup_left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
                    "/sys/fs/cgroup/memory.stat");
    best = MIN(best, v);
    v = cgroup_left("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                    "/sys/fs/cgroup/memory/memory.stat");
    return MIN(best, v);
}

/* ---- plan ---- */

static size_t block_stride(const struct model *m, uint32_t g, uint32_t tokens)
{
    return model_kv_bytes_per_token(m, g) * tokens;
}

/* Blocks of both groups for `bytes`: the windowed group is smaller when windows are short
 * beside the context, since a sequence holds only its window there. */
static void split_blocks(struct plan *p, const struct model *m, uint64_t bytes, uint32_t len)
{
    double f = 0;
    uint64_t n0;

    if (m->group_count > 1) {
        f = 2.0 * (m->groups[1].window + p->o.max_batched_tokens) / MAX(len, 1u);
        f = f < 0.25 ? 0.25 : f > 1 ? 1 : f;
    }
    n0 = (uint64_t)((double)bytes / ((double)p->stride[0] + f * (double)p->stride[1]));
    n0 = MIN(n0, (uint64_t)UINT32_MAX / 4);
    p->blocks[0] = (uint32_t)n0;
    p->blocks[1] = m->group_count > 1 ? (uint32_t)ceil((double)n0 * f) : 0;
}

static void plan_defaults(struct engine_opts *o)
{
    if (o->block_tokens == 0)
        o->block_tokens = BLOCKKEY_TOKENS_DEFAULT;
    if (o->max_num_seqs == 0)
        o->max_num_seqs = 64;
    if (o->max_batched_tokens == 0)
        o->max_batched_tokens = 512;
    if (o->queue_max == 0)
        o->queue_max = 256;
    if (o->step_budget_ms == 0)
        o->step_budget_ms = 50;
    if (o->lease_ms == 0)
        o->lease_ms = LEASE_MS;
    if (o->hash_seed == NULL)
        o->hash_seed = BLOCKKEY_SEED_DEFAULT;
}

static int plan_check(const struct engine_opts *o, struct err *e)
{
    if (o->block_tokens < 8 || o->block_tokens > 256 ||
        (o->block_tokens & (o->block_tokens - 1)) != 0)
        return err_set(e, ERR_INVAL, "block size %u: must be a power of two, 8..256",
                       o->block_tokens);
    if (o->max_num_seqs > 4096)
        return err_set(e, ERR_INVAL, "max-num-seqs %u: must be 1..4096", o->max_num_seqs);
    if (o->max_batched_tokens < o->max_num_seqs || o->max_batched_tokens > 65536)
        return err_set(e, ERR_INVAL, "max-num-batched-tokens %u: must be max-num-seqs (%u)..65536",
                       o->max_batched_tokens, o->max_num_seqs);
    if (o->queue_max > 1u << 20)
        return err_set(e, ERR_INVAL, "queue-max %u: must be 1..1048576", o->queue_max);
    return 0;
}

int plan_make(struct plan *p, const struct model *m, const struct engine_opts *o, struct err *e)
{
    uint32_t T, len;
    uint64_t bytes, least;
    int rc;

    *p = (struct plan) { .o = *o };
    plan_defaults(&p->o);
    rc = plan_check(&p->o, e);
    if (rc != 0)
        return rc;
    T = p->o.block_tokens;
    len = p->o.max_model_len != 0 ? p->o.max_model_len : m->context_max;
    if (m->output->ne[1] != m->n_vocab || m->token_embd->ne[1] != m->n_vocab)
        return err_set(e, ERR_UNSUPPORTED, "embedding of %" PRIu64 " rows for %u tokens",
                       m->token_embd->ne[1], m->n_vocab);
    if (len > m->context_max)
        return err_set(e, ERR_INVAL, "max-model-len %u: the model was trained for %u", len,
                       m->context_max);
    for (uint32_t g = 0; g < m->group_count; g++)
        p->stride[g] = block_stride(m, g, T);
    bytes = p->o.kv_bytes;
    if (bytes == 0)
        bytes = MIN((uint64_t)KV_TOKENS_DEFAULT / T * (p->stride[0] + p->stride[1]),
                    KV_BYTES_DEFAULT_MAX);
    split_blocks(p, m, bytes, MIN(len, 4096u));
    if (p->o.max_model_len != 0 && (uint64_t)p->blocks[0] * T < len)
        return err_set(e, ERR_INVAL,
                       "max-model-len %u needs %" PRIu64 " bytes of KV, %" PRIu64
                       " are reserved: raise --kv-bytes",
                       len, (uint64_t)((len + T - 1) / T) * (p->stride[0] + p->stride[1]), bytes);
    len = (uint32_t)MIN((uint64_t)len, (uint64_t)p->blocks[0] * T);
    if (m->group_count > 1) { /* one long prompt must always fit */
        least =
            (MIN((uint64_t)len, (uint64_t)m->groups[1].window + p->o.max_batched_tokens) + T - 1) /
                T +
            2;
        p->blocks[1] = (uint32_t)MAX((uint64_t)p->blocks[1], least);
    }
    if (len < 2 * T)
        return err_set(e, ERR_INVAL, "kv-bytes %" PRIu64 ": room for %u tokens only", bytes, len);
    p->o.max_model_len = len;
    p->o.kv_bytes = bytes;
    p->logit_rows = (uint32_t)(LOGITS_BYTES_MAX / ((size_t)m->n_vocab * sizeof(float)));
    p->logit_rows = MAX(MIN(p->logit_rows, MIN(p->o.max_num_seqs, 64u)), 8u);
    p->weight_bytes = weights_packed_bytes(m);
    p->kv_bytes = (uint64_t)p->blocks[0] * p->stride[0] + (uint64_t)p->blocks[1] * p->stride[1];
    p->work_bytes = forward_work_bytes(m, p->o.max_batched_tokens, p->logit_rows);
    p->need_bytes = p->weight_bytes + p->kv_bytes + p->work_bytes + SLACK_BYTES;
    p->available_bytes = memory_available();
    if (p->need_bytes > p->available_bytes)
        return err_set(e, ERR_NOMEM,
                       "needs %" PRIu64 " MiB (weights %" PRIu64 ", KV %" PRIu64 ", work %" PRIu64
                       "), %" PRIu64
                       " MiB are available: lower --kv-cache-memory-bytes, or take a smaller model",
                       p->need_bytes >> 20, p->weight_bytes >> 20, p->kv_bytes >> 20,
                       (p->work_bytes + SLACK_BYTES) >> 20, p->available_bytes >> 20);
    return 0;
}

void plan_describe(const struct plan *p, const struct model *m, struct buf *out)
{
    buf_f(out, "weights   %8.1f MiB  packed for %s\n", (double)p->weight_bytes / 1048576,
          kern_level_name());
    buf_f(out, "KV cache  %8.1f MiB  %u blocks of %u tokens (%u tokens)",
          (double)p->kv_bytes / 1048576, p->blocks[0], p->o.block_tokens,
          p->blocks[0] * p->o.block_tokens);
    if (m->group_count > 1)
        buf_f(out, ", %u windowed blocks (window %u)", p->blocks[1], m->groups[1].window);
    buf_f(out, "\nwork      %8.1f MiB  %u rows a step, %u requests at once\n",
          (double)(p->work_bytes + SLACK_BYTES) / 1048576, p->o.max_batched_tokens,
          p->o.max_num_seqs);
    buf_f(out, "total     %8.1f MiB  of %.1f MiB available; longest request %u tokens\n",
          (double)p->need_bytes / 1048576, (double)p->available_bytes / 1048576,
          p->o.max_model_len);
}

int engine_plan(const struct model *m, const struct engine_opts *o, struct buf *out, struct err *e)
{
    struct plan p;
    int rc = plan_make(&p, m, o, e);

    if (rc == 0)
        plan_describe(&p, m, out);
    return rc;
}

/* ---- matrices ---- */

static size_t mat_list(const struct model *m, struct weights *w, struct mat_ref *out)
{
    size_t n = 0;

    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        struct layer_weights none, *x = w != NULL ? &w->layer[i] : &none;

        out[n++] = (struct mat_ref) { l->q, &x->q };
        out[n++] = (struct mat_ref) { l->k, &x->k };
        out[n++] = (struct mat_ref) { l->v, &x->v };
        out[n++] = (struct mat_ref) { l->o, &x->o };
        out[n++] = (struct mat_ref) { l->gate, &x->gate };
        out[n++] = (struct mat_ref) { l->up, &x->up };
        out[n++] = (struct mat_ref) { l->down, &x->down };
    }
    out[n++] = (struct mat_ref) { m->token_embd, w != NULL ? &w->embd : NULL };
    if (m->output != m->token_embd)
        out[n++] = (struct mat_ref) { m->output, w != NULL ? &w->head : NULL };
    return n;
}

static size_t mat_bytes(const struct gguf_tensor *t)
{
    size_t n = kern_packed_size((uint32_t)t->type, (uint32_t)t->ne[1], (uint32_t)t->ne[0]);

    return (n + 63) / 64 * 64;
}

static size_t image_bytes(const struct model *m, uint64_t *layout)
{
    struct mat_ref *r = mem_alloc(((size_t)m->n_layers * 7 + 2) * sizeof(*r));
    size_t n = mat_list(m, NULL, r), size = IMAGE_HEADER_BYTES;
    uint64_t h = (uint64_t)kern_level() + 1;

    for (size_t i = 0; i < n; i++) {
        h = map_mix(h ^ (uint64_t)r[i].t->type) + r[i].t->ne[0];
        h = map_mix(h ^ r[i].t->ne[1]) + mat_bytes(r[i].t);
        size += mat_bytes(r[i].t);
    }
    mem_free(r);
    *layout = h;
    return size;
}

size_t weights_packed_bytes(const struct model *m)
{
    uint64_t layout;

    return image_bytes(m, &layout);
}

/* Lays the matrices over the image; packs when `pack`. */
static void mats_fill(struct weights *w, const struct model *m, bool pack, struct kern_pool *pool)
{
    struct mat_ref *r = mem_alloc(((size_t)m->n_layers * 7 + 2) * sizeof(*r));
    size_t n = mat_list(m, w, r), at = IMAGE_HEADER_BYTES;

    for (size_t i = 0; i < n; i++) {
        uint32_t rows = (uint32_t)r[i].t->ne[1], cols = (uint32_t)r[i].t->ne[0];

        if (pack)
            kern_pack(r[i].to, (uint32_t)r[i].t->type, rows, cols, r[i].t->data, w->image + at,
                      pool);
        else
            *r[i].to = (struct kern_mat) {
                .type = (uint32_t)r[i].t->type, .rows = rows, .cols = cols, .data = w->image + at
            };
        r[i].to->size = kern_packed_size((uint32_t)r[i].t->type, rows, cols);
        r[i].to->borrowed = true;
        at += mat_bytes(r[i].t);
    }
    if (m->output == m->token_embd)
        w->head = w->embd;
    mem_free(r);
}

static int record_lock(int fd, short type)
{
    struct flock l = { .l_type = type, .l_whence = SEEK_SET };
    int rc;

    do
        rc = fcntl(fd, F_SETLKW, &l);
    while (rc != 0 && errno == EINTR);
    return rc;
}

/* Maps the image of a memfd, packing it first when nobody did. */
static int image_shared(struct weights *w, const struct model *m, int fd,
                        const struct image_header *want, bool *pack, struct err *e)
{
    struct image_header have = { 0 };
    bool ready;
    ssize_t n;

    if (record_lock(fd, F_WRLCK) != 0)
        return err_set(e, ERR_IO, "shared weights: lock: %s", strerror(errno));
    n = pread(fd, &have, sizeof(have), 0);
    ready = n == (ssize_t)sizeof(have) && have.version != 0;
    if (ready && memcmp(&have, want, sizeof(have)) != 0)
        return err_set(e, ERR_MISMATCH,
                       "shared weights: the image belongs to another model or CPU level than %s",
                       m->path != NULL ? m->path : "this one");
    if (!ready && ftruncate(fd, (off_t)want->size) != 0)
        return err_set(e, ERR_NOMEM, "shared weights: %" PRIu64 " bytes: %s", want->size,
                       strerror(errno));
    w->image =
        mmap(NULL, want->size, ready ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (w->image == MAP_FAILED) {
        w->image = NULL;
        return err_set(e, ERR_NOMEM, "shared weights: map: %s", strerror(errno));
    }
    (void)madvise(w->image, want->size, MADV_HUGEPAGE);
    w->fd = fd;
    *pack = !ready;
    return 0;
}

/* ---- small vectors ---- */

static size_t small_count(const struct gguf_tensor *t)
{
    return t != NULL ? (size_t)(t->ne[0] * t->ne[1] + 15) / 16 * 16 : 0;
}

static float *small_copy(float **at, const struct gguf_tensor *t)
{
    float *to = *at;

    if (t == NULL)
        return NULL;
    tensor_dequant_row(t->type, t->data, to, (size_t)(t->ne[0] * t->ne[1]));
    *at += small_count(t);
    return to;
}

static int small_fill(struct weights *w, const struct model *m, struct err *e)
{
    size_t n = small_count(m->output_norm);
    float *at;

    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];

        n += small_count(l->attn_norm) + small_count(l->ffn_norm) + small_count(l->q_bias) +
             small_count(l->k_bias) + small_count(l->v_bias) + small_count(l->o_bias) +
             small_count(l->q_norm) + small_count(l->k_norm) + small_count(l->post_attn_norm) +
             small_count(l->post_ffn_norm);
    }
    w->small = mem_try_zero(n, sizeof(float));
    if (w->small == NULL)
        return err_set(e, ERR_NOMEM, "norms and biases: %zu floats refused", n);
    at = w->small;
    w->output_norm = small_copy(&at, m->output_norm);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        struct layer_weights *x = &w->layer[i];

        x->attn_norm = small_copy(&at, l->attn_norm);
        x->ffn_norm = small_copy(&at, l->ffn_norm);
        x->q_bias = small_copy(&at, l->q_bias);
        x->k_bias = small_copy(&at, l->k_bias);
        x->v_bias = small_copy(&at, l->v_bias);
        x->o_bias = small_copy(&at, l->o_bias);
        x->q_norm = small_copy(&at, l->q_norm);
        x->k_norm = small_copy(&at, l->k_norm);
        x->post_attn_norm = small_copy(&at, l->post_attn_norm);
        x->post_ffn_norm = small_copy(&at, l->post_ffn_norm);
    }
    return 0;
}

/* Angles of one position, in double: positions up to 10^6 need it. */
static int rope_fill(struct weights *w, const struct model *m, struct err *e)
{
    uint32_t half = m->rope_dim / 2;
    float *factor = NULL;

    if (m->rope_freqs != NULL) {
        factor = mem_try_zero((size_t)m->rope_freqs->ne[0], sizeof(*factor));
        if (factor == NULL || m->rope_freqs->ne[0] < half) {
            mem_free(factor);
            return err_set(e, ERR_NOMEM, "rope factors: %" PRIu64 " of %u", m->rope_freqs->ne[0],
                           half);
        }
        tensor_dequant_row(m->rope_freqs->type, m->rope_freqs->data, factor,
                           (size_t)m->rope_freqs->ne[0]);
    }
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        double **f = &w->inv_freq[l->group];
        double step = l->rope_scale > 0 ? 1 / l->rope_scale : 1;

        if (*f == NULL)
            *f = mem_try_zero(half, sizeof(**f));
        if (*f == NULL) {
            mem_free(factor);
            return err_set(e, ERR_NOMEM, "rope table: %u values refused", half);
        }
        for (uint32_t j = 0; j < half; j++) {
            double v = pow(l->rope_base, -2.0 * j / m->rope_dim) * step;

            if (factor != NULL)
                v /= (double)factor[j];
            if ((*f)[j] > 0 && fabs((*f)[j] - v) > 1e-12 * v) {
                mem_free(factor);
                return err_set(e, ERR_UNSUPPORTED, "layer %u: another rope base than its KV group",
                               i);
            }
            (*f)[j] = v;
        }
    }
    mem_free(factor);
    return 0;
}

int weights_load(struct weights *w, const struct model *m, int fd, struct kern_pool *pool,
                 struct err *e)
{
    struct image_header h = { .magic = "LLMDPAK",
                              .version = IMAGE_VERSION,
                              .level = (uint32_t)kern_level() };
    bool pack = true;
    int rc;

    *w = (struct weights) { .fd = -1 };
    w->size = image_bytes(m, &h.layout);
    h.size = w->size;
    memcpy(h.digest, m->digest, sizeof(h.digest));
    w->layer = mem_try_zero(m->n_layers, sizeof(*w->layer));
    if (w->layer == NULL)
        return err_set(e, ERR_NOMEM, "weights: %u layers refused", m->n_layers);
    rc = small_fill(w, m, e);
    if (rc == 0)
        rc = rope_fill(w, m, e);
    if (rc == 0 && fd >= 0) {
        rc = image_shared(w, m, fd, &h, &pack, e);
    } else if (rc == 0) {
        w->image = mem_pages(w->size);
        if (w->image == NULL)
            rc = err_set(e, ERR_NOMEM, "weights: %zu bytes refused", w->size);
    }
    if (rc == 0) {
        mats_fill(w, m, pack, pool);
        if (pack)
            memcpy(w->image, &h, sizeof(h));
    }
    if (fd >= 0)
        (void)record_lock(fd, F_UNLCK);
    if (rc != 0)
        weights_free(w);
    return rc;
}

void weights_free(struct weights *w)
{
    if (w->image != NULL && w->fd >= 0)
        munmap(w->image, w->size);
    else if (w->image != NULL)
        mem_pages_free(w->image, w->size);
    for (uint32_t g = 0; g < GROUPS; g++)
        mem_free(w->inv_freq[g]);
    mem_free(w->layer);
    mem_free(w->small);
    *w = (struct weights) { .fd = -1 };
}
