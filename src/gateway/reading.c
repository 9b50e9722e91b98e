/* Reading a request body.
 *
 * Short bodies are read on the loop; long ones (READ_INLINE_MAX and more, see proxy.c) by one
 * thread with a bounded queue, because a loop must not be held for more than a millisecond.  A job
 * owns a copy of the body, so a client that leaves does not take it away under the thread.
 *
 *   loop: reader_start -> queue -> thread: reader_read -> loop_post -> loop: done(ctx, reading)
 *
 * reader_drop only marks a job; whoever meets the mark frees it, on the loop.
 * Models (tokenizer, template) and the index that computes keys are immutable once opened; the
 * caches of tokenized prefixes have their locks. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/reading.h"
#include "base/arena.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kv/index.h"
#include "text/chat.h"
#include "text/text_model.h"
#include "text/token_cache.h"
#include "text/tokenizer.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define READING_BYTES_MAX ((size_t)128 << 20) /* tree, tokens and keys of one body */
#define TOKENS_MAX        ((size_t)4 << 20)
#define BYTES_PER_TOKEN   4
#define NAMED_DEPTH       2 /* where the members that are read by name lie: stream_options' */
#define CACHE_BYTES_MAX   ((size_t)64 << 20) /* ids of prefixes, 16 million, all models together */

struct reader_job {
    struct reader *r;
    struct reader_job *next;
    enum reading_kind kind;
    char *body;
    size_t body_bytes;
    char *model;
    struct reading out;
    void (*done)(void *ctx, struct reading *r);
    void *ctx;
    bool dropped; /* loop only */
};

struct reader_entry {
    char *name; /* NULL: for all others */
    struct text_model *text;
    struct token_cache *cache; /* has its own lock */
};

/* Of one reader or of several: read only, but for the caches, which have their locks. */
struct reader_models {
    _Atomic uint32_t users;
    struct reader_entry *entry;
    size_t count;
};

struct reader {
    struct str (*rewrite)(void *ctx, struct str model, char *out);
    void *rewrite_ctx;
    struct loop *loop;
    struct reader_models *models;
    struct kv_index *keys; /* never holds a block: it only knows how keys are made */
    uint64_t guess_seed;
    uint32_t block_tokens;
    bool allow_special;

    _Atomic size_t distrusted_count; /* the names: under trust_lock */
    char *distrusted[READER_DISTRUSTED_MAX];
    pthread_mutex_t trust_lock;

    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    struct reader_job *head, **tail;
    uint32_t queued;
    bool stop;
    bool has_thread;
    uint32_t posted; /* loop only: jobs between reader_start and their done */
    bool closing;    /* loop only: the last posted job destroys the reader */
};

/* ---- one body ---- */

static int tokens_from_ids(struct token_list *out, const struct json *ids)
{
    for (const struct json *j = ids->first; j != NULL; j = j->next) {
        uint64_t id;

        if (!json_u64(j, &id) || id > UINT32_MAX)
            return ERR_INVAL;
        if (!token_list_add(out, (uint32_t)id))
            return ERR_LIMIT;
    }
    return 0;
}

/* The bytes of a list without its closing bracket, so that a longer list begins alike. */
static struct str open_span(const struct json *j)
{
    struct str s = j != NULL ? j->span : STR_NONE;

    if (s.n > 0 && (s.p[s.n - 1] == ']' || s.p[s.n - 1] == '"'))
        s.n--;
    return s;
}

/* The model whose name the body has, or the one for all others, or NULL. */
static const struct reader_entry *entry_of(const struct reader *r, struct str name)
{
    const struct reader_entry *other = NULL;

    for (size_t i = 0; i < r->models->count; i++) {
        const struct reader_entry *one = &r->models->entry[i];

        if (one->name == NULL)
            other = one;
        else if (str_eqz(name, one->name))
            return one;
    }
    return other;
}

static int read_chat(const struct reader *r, const struct reader_entry *entry, struct arena *tree,
                     const struct json *root, struct token_list *out, struct err *e)
{
    const struct text_model *m = entry->text;
    const struct chat_template *template;
    struct oai_request q;
    struct oai_error refused;
    struct chat_render_opts o = {
        .allow_special_in_content = r->allow_special,
        .bos_token = m->bos,
        .eos_token = m->eos,
        .now_s = clock_wall_s(),
        .cache = entry->cache,
    };

    if (oai_chat_prompt(tree, root, &q, &refused) != 0)
        return err_set(e, ERR_INVAL, "%s", refused.message); /* the worker uses its own words */
    template = q.tools != NULL && m->tool_template != NULL ? m->tool_template : m->chat_template;
    if (template == NULL)
        return err_set(e, ERR_UNSUPPORTED, "the model has no chat template");
    o.messages = q.messages;
    o.tools = q.tools;
    o.kwargs = q.chat_template_kwargs;
    o.add_generation_prompt = q.add_generation_prompt;
    o.continue_final_message = q.continue_final_message;
    return chat_tokenize(template, &o, m->tokenizer, out, e);
}

static int read_prompt(const struct text_model *m, const struct json *prompt, bool add_special,
                       struct token_list *out)
{
    struct str text;

    if (json_str(prompt, &text))
        return tokenizer_encode(m->tokenizer, text,
                                TOKENIZE_PARSE_SPECIAL | (add_special ? TOKENIZE_ADD_SPECIAL : 0u),
                                out);
    return ERR_INVAL;
}

/* The first of several prompts decides where the request goes; *extra: tokens of the others. */
static const struct json *first_prompt(const struct json *root, uint32_t *extra)
{
    const struct json *p = json_get(root, "prompt");

    *extra = 0;
    if (json_is(p, JSON_ARRAY) && p->first != NULL && p->first->type != JSON_NUMBER) {
        *extra = (uint32_t)((p->span.n - p->first->span.n) / BYTES_PER_TOKEN);
        return p->first;
    }
    return p;
}

static int read_exact(const struct reader *r, const struct reader_entry *entry,
                      enum reading_kind kind, struct arena *tree, const struct json *root,
                      struct token_list *out, uint32_t *extra, struct err *e)
{
    const struct text_model *m = entry != NULL ? entry->text : NULL;
    const struct json *prompt = NULL;
    bool add_special = true;

    *extra = 0;
    if (kind == READING_COMPLETION) {
        prompt = first_prompt(root, extra);
        if (json_is(prompt, JSON_ARRAY))
            return tokens_from_ids(out, prompt);
        (void)json_bool(json_get(root, "add_special_tokens"), &add_special);
    }
    if (m == NULL || kind == READING_OTHER)
        return err_set(e, ERR_UNSUPPORTED, "no model to tokenize this with");
    return kind == READING_CHAT ? read_chat(r, entry, tree, root, out, e)
                                : read_prompt(m, prompt, add_special, out);
}

/* A prompt without its model: bytes of the body stand for tokens, four each.  The parts follow one
 * another, each filled up to whole tokens; bytes that begin alike give keys that begin alike, which
 * is all that routing needs of them. */
#define GUESS_PARTS 4

struct guess {
    struct str part[GUESS_PARTS];
    unsigned count;
};

static void guess_add(struct guess *g, struct str bytes)
{
    if (bytes.n != 0)
        g->part[g->count++] = bytes;
}

static void read_estimate(enum reading_kind kind, const struct json *root, struct guess *out,
                          uint32_t *extra)
{
    /* templates put tools, and other APIs their instructions, in front */
    static const char *const front[GUESS_PARTS - 1] = { "tools", "system", "instructions" };
    const struct json *messages = json_get(root, "messages"), *main, *j;

    *out = (struct guess) { 0 };
    *extra = 0;
    main = messages != NULL && kind != READING_COMPLETION ? messages
           : kind == READING_COMPLETION                   ? first_prompt(root, extra)
                                                          : json_get(root, "input");
    for (size_t i = 0; i < COUNT(front); i++)
        if ((j = json_get(root, front[i])) != NULL)
            guess_add(out, j->span);
    guess_add(out, open_span(main));
}

static size_t guess_tokens(const struct guess *g)
{
    size_t n = 0;

    for (unsigned i = 0; i < g->count; i++)
        n += (g->part[i].n + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN;
    return n;
}

/* Keys of the full blocks of `bytes` each.  They meet only keys that were made here, so the hash
 * is the fastest there is; block: room for one that spans two parts. */
static uint32_t guess_keys(const struct guess *g, uint64_t key, size_t bytes, char *block,
                           uint64_t *out)
{
    uint32_t n = 0;
    size_t had = 0;

    for (unsigned i = 0; i < g->count; i++) {
        struct str s = g->part[i];

        while (s.n > 0) {
            bool in_place = had == 0 && s.n >= bytes;
            size_t take = MIN(bytes - had, s.n);

            if (!in_place)
                memcpy(block + had, s.p, take);
            had += take;
            for (; take == s.n && had % BYTES_PER_TOKEN != 0; had++)
                block[had] = 0;
            if (had == bytes) {
                key = XXH3_64bits_withSeed(in_place ? s.p : block, bytes, key);
                out[n++] = key;
                had = 0;
            }
            s = str_sub(s, take, s.n);
        }
    }
    return n;
}

static void read_fields(const struct json *root, struct str body, struct reading *out)
{
    static const char *const limits[] = { "max_completion_tokens", "max_tokens",
                                          "max_output_tokens" };
    const struct json *options = json_get(root, "stream_options");

    const struct json *model = json_get(root, "model");

    if (model != NULL) {
        out->model_at = (size_t)(model->span.p - body.p);
        out->model_bytes = model->span.n;
    }
    (void)json_str(model, &out->model);
    if (out->model.n == 0)
        out->model = STR_NONE;
    (void)json_bool(json_get(root, "stream"), &out->stream);
    (void)json_bool(json_get(options, "include_usage"), &out->include_usage);
    (void)json_str(json_get(root, "cache_salt"), &out->salt);
    for (size_t i = 0; i < COUNT(limits); i++) {
        uint64_t n;

        if (json_u64(json_get(root, limits[i]), &n)) {
            out->max_tokens = (uint32_t)MIN(n, (uint64_t)UINT32_MAX);
            break;
        }
    }
}

/* Fields that steer hand-overs between workers are ours to set: a client could point a worker at
 * any address with them. */
static const char *reserved_field(const struct json *root)
{
    static const char *const names[] = { "kv_transfer_params", "ec_transfer_params" };
    static const struct str prefixes[] = { { "bootstrap_", 10 },
                                           { "remote_", 7 },
                                           { "do_remote_", 10 } };

    for (const struct json *j = root->first; j != NULL; j = j->next) {
        if (j->type == JSON_NULL)
            continue;
        for (size_t i = 0; i < COUNT(names); i++)
            if (str_eqz(j->key, names[i]))
                return names[i];
        for (size_t i = 0; i < COUNT(prefixes); i++)
            if (str_starts(j->key, prefixes[i]))
                return prefixes[i].p;
    }
    return NULL;
}

static struct str put(char **at, struct str s)
{
    struct str copy = { s.p != NULL ? *at : NULL, s.n };

    if (s.n != 0)
        memcpy(*at, s.p, s.n);
    *at += s.n;
    return copy;
}

/* Copies what still points into the body or its tree, which are not ours to keep, with room for
 * the keys: one block of just the size, since it lives as long as the answer streams. */
static uint64_t *keep(struct reading *out, size_t key_count)
{
    size_t key_bytes = key_count * sizeof(*out->keys);
    uint64_t *keys = mem_try(key_bytes + out->model.n + out->salt.n + out->target.n);
    char *at;

    if (keys == NULL) {
        out->model = out->salt = out->target = STR_NONE;
        (void)oai_fail(&out->error, 503, "ServiceUnavailableError", "overloaded", NULL,
                       "no memory for the request");
        return NULL;
    }
    out->memory = (char *)keys;
    at = out->memory + key_bytes;
    out->model = put(&at, out->model);
    out->salt = put(&at, out->salt);
    out->target = put(&at, out->target);
    if (key_count != 0)
        out->keys = keys;
    return keys;
}

/* The name that its worker knows it by. */
static struct str worker_model(const struct reading *out, struct str otherwise)
{
    if (out->target.p != NULL)
        return out->target;
    return out->model.p != NULL ? out->model : otherwise;
}

static void keep_exact(const struct reader *r, struct str model, struct reading *out,
                       const struct token_list *tokens, uint32_t extra)
{
    uint64_t *keys = keep(out, tokens->count / r->block_tokens);

    out->prompt_tokens = (uint32_t)MIN((uint64_t)tokens->count + extra, (uint64_t)UINT32_MAX);
    if (keys != NULL && tokens->count > 0)
        out->key_count = kv_index_keys(r->keys, worker_model(out, model), out->salt, tokens->id,
                                       (uint32_t)tokens->count, keys);
}

static void keep_guess(const struct reader *r, enum reading_kind kind, struct arena *tree,
                       const struct json *root, struct str model, struct reading *out)
{
    size_t block_bytes = (size_t)r->block_tokens * BYTES_PER_TOKEN, tokens;
    struct guess g;
    uint64_t *keys, key;
    uint32_t extra;
    char *block;

    read_estimate(kind, root, &g, &extra);
    tokens = guess_tokens(&g);
    out->estimated = true;
    out->prompt_tokens = (uint32_t)MIN((uint64_t)tokens + extra, (uint64_t)UINT32_MAX);
    block = arena_try(tree, block_bytes);
    if (tokens > TOKENS_MAX || block == NULL)
        g.count = 0; /* routed without its prefix */
    keys = keep(out, g.count == 0 ? 0 : tokens / r->block_tokens);
    if (keys == NULL || g.count == 0)
        return;
    model = worker_model(out, model);
    key = XXH3_64bits_withSeed(model.p, model.n, r->guess_seed);
    if (out->salt.n != 0)
        key = XXH3_64bits_withSeed(out->salt.p, out->salt.n, key + 1);
    out->key_count = guess_keys(&g, key, block_bytes, block, keys);
}

static void refuse_body(struct reading *out, int rc)
{
    (void)oai_fail(&out->error, 400, "BadRequestError", rc == ERR_LIMIT ? "limit" : "invalid_json",
                   NULL, "the body %s",
                   rc == ERR_LIMIT ? "has too many values or is nested too deeply"
                   : rc != 0       ? "is not valid JSON"
                                   : "must be a JSON object");
}

static bool is_distrusted(struct reader *r, struct str model)
{
    bool found = false;

    if (atomic_load_explicit(&r->distrusted_count, memory_order_relaxed) == 0)
        return false;
    pthread_mutex_lock(&r->trust_lock);
    for (size_t i = 0; i < r->distrusted_count && !found; i++)
        found = str_eqz(model, r->distrusted[i]);
    pthread_mutex_unlock(&r->trust_lock);
    return found;
}

void reader_distrust(struct reader *r, const struct str *model, size_t count)
{
    pthread_mutex_lock(&r->trust_lock);
    for (size_t i = 0; i < r->distrusted_count; i++)
        mem_free(r->distrusted[i]);
    r->distrusted_count = 0;
    for (size_t i = 0; i < MIN(count, (size_t)READER_DISTRUSTED_MAX); i++)
        r->distrusted[r->distrusted_count++] = str_dup(model[i]);
    pthread_mutex_unlock(&r->trust_lock);
}

static void read_prompt_of(struct reader *r, enum reading_kind kind, struct arena *tree,
                           const struct json *root, struct str model, struct reading *out)
{
    struct str name = worker_model(out, model);
    const struct reader_entry *entry = is_distrusted(r, name) ? NULL : entry_of(r, name);
    struct token_list tokens = { .max = TOKENS_MAX };
    uint32_t extra = 0;

    if (read_exact(r, entry, kind, tree, root, &tokens, &extra, NULL) == 0) {
        keep_exact(r, model, out, &tokens, extra);
    } else {
        out->render_failed = entry != NULL && kind != READING_OTHER;
        keep_guess(r, kind, tree, root, model, out);
    }
    token_list_fini(&tokens);
}

void reader_read(struct reader *r, enum reading_kind kind, struct str body, struct str model,
                 struct reading *out)
{
    /* without a model only spans of what is nested are looked at: no need to decode it */
    struct json_limits limits = { .decode_depth_max = r->models->count == 0 ? NAMED_DEPTH : 0 };
    struct arena tree;
    const struct json *root;
    const char *reserved;
    char target[READER_NAME_MAX + 1];
    struct err e;
    int rc;

    memset(out, 0, sizeof(*out));
    arena_init(&tree, READING_BYTES_MAX);
    rc = json_parse(&tree, body, &limits, &root, &e);
    if (rc != 0 || !json_is(root, JSON_OBJECT)) {
        refuse_body(out, rc);
    } else if ((reserved = reserved_field(root)) != NULL) {
        (void)oai_fail(&out->error, 400, "BadRequestError", "reserved_field", reserved,
                       "%s is set by the scheduler, not by clients", reserved);
    } else {
        read_fields(root, body, out);
        if (r->rewrite != NULL)
            out->target = r->rewrite(r->rewrite_ctx, out->model, target);
        read_prompt_of(r, kind, &tree, root, model, out);
    }
    arena_fini(&tree);
}

int reader_tokens(const struct reader *r, enum reading_kind kind, struct str body, struct str model,
                  struct token_list *out, struct err *e)
{
    struct arena tree;
    const struct json *root;
    size_t count = out->count;
    struct str named;
    uint32_t extra;
    int rc;

    *e = (struct err) { 0 };
    arena_init(&tree, READING_BYTES_MAX);
    rc = json_parse(&tree, body, NULL, &root, e);
    if (rc == 0) {
        if (json_str(json_get(root, "model"), &named) && named.n != 0)
            model = named;
        rc = read_exact(r, entry_of(r, model), kind, &tree, root, out, &extra, e);
    }
    arena_fini(&tree);
    if (rc == 0)
        return 0;
    out->count = count;
    return e->msg[0] != '\0' ? rc : err_set(e, rc, "no prompt to tokenize: %s", err_name(rc));
}

void reading_free(struct reading *r)
{
    mem_free(r->memory);
    memset(r, 0, sizeof(*r));
}

/* ---- the thread ---- */

static void job_free(struct reader_job *j)
{
    mem_free(j->body);
    mem_free(j->model);
    mem_free(j);
}

static void models_leave(struct reader_models *m)
{
    if (atomic_fetch_sub(&m->users, 1) != 1)
        return;
    for (size_t i = 0; i < m->count; i++) {
        token_cache_free(m->entry[i].cache);
        text_model_close(m->entry[i].text);
        mem_free(m->entry[i].name);
    }
    mem_free(m->entry);
    mem_free(m);
}

static void reader_destroy(struct reader *r)
{
    models_leave(r->models);
    kv_index_free(r->keys);
    reader_distrust(r, NULL, 0);
    pthread_mutex_destroy(&r->trust_lock);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->wake);
    mem_free(r);
}

static void job_done(void *ctx) /* on the loop */
{
    struct reader_job *j = ctx;
    struct reader *r = j->r;

    r->posted--;
    if (j->dropped || r->closing)
        reading_free(&j->out);
    else
        j->done(j->ctx, &j->out);
    job_free(j);
    if (r->closing && r->posted == 0)
        reader_destroy(r);
}

static void *reader_main(void *ctx)
{
    struct reader *r = ctx;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        struct reader_job *j;

        while (r->head == NULL && !r->stop)
            pthread_cond_wait(&r->wake, &r->lock);
        if (r->stop)
            break;
        j = r->head;
        r->head = j->next;
        if (r->head == NULL)
            r->tail = &r->head;
        r->queued--;
        pthread_mutex_unlock(&r->lock);
        reader_read(r, j->kind, (struct str) { j->body, j->body_bytes }, str_of(j->model), &j->out);
        loop_post(r->loop, job_done, j);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

struct reader_job *reader_start(struct reader *r, enum reading_kind kind, struct str body,
                                struct str model, void (*done)(void *ctx, struct reading *r),
                                void *ctx)
{
    struct reader_job *j;
    char *copy;

    if (r->posted >= READER_QUEUE_MAX)
        return NULL;
    copy = mem_try(body.n);
    if (copy == NULL)
        return NULL;
    memcpy(copy, body.p, body.n);
    j = mem_zalloc(sizeof(*j));
    *j = (struct reader_job) { .r = r,
                               .kind = kind,
                               .body = copy,
                               .body_bytes = body.n,
                               .model = str_dup(model),
                               .done = done,
                               .ctx = ctx };
    r->posted++;
    pthread_mutex_lock(&r->lock);
    *r->tail = j;
    r->tail = &j->next;
    r->queued++;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    return j;
}

void reader_drop(struct reader_job *job)
{
    if (job != NULL)
        job->dropped = true;
}

/* ---- opening ---- */

static int open_model(struct reader_models *m, const char *name, const char *path, size_t models,
                      struct err *e)
{
    struct reader_entry *entry = &m->entry[m->count];
    int rc = text_model_open(&entry->text, path, e);

    if (rc != 0)
        return rc;
    entry->cache = token_cache_new(entry->text->tokenizer, CACHE_BYTES_MAX / models);
    entry->name = name != NULL ? mem_strdup(name) : NULL;
    m->count++;
    return 0;
}

static int open_models(struct reader *r, const struct reader_opts *o, struct err *e)
{
    struct reader_models *m = o->share != NULL ? o->share->models : mem_zalloc(sizeof(*m));
    size_t models = o->model_count + (o->model != NULL);
    int rc = 0;

    r->models = m;
    atomic_fetch_add(&m->users, 1);
    if (o->share != NULL)
        return 0;
    m->entry = mem_zalloc((o->model_count + 1) * sizeof(*m->entry));
    if (o->model != NULL)
        rc = open_model(m, NULL, o->model, models, e);
    for (size_t i = 0; i < o->model_count && rc == 0; i++)
        rc = open_model(m, o->models[i].name, o->models[i].path, models, e);
    return rc;
}

int reader_new(struct reader **out, struct loop *l, const struct reader_opts *o, struct err *e)
{
    struct reader *r = mem_zalloc(sizeof(*r));
    struct kv_index_opts k = {
        .block_tokens = o->block_tokens, .hash = INDEX_HASH_XXH64, .seed = o->seed, .blocks_max = 16
    };
    int rc;

    *out = NULL;
    r->loop = l;
    r->rewrite = o->rewrite;
    r->rewrite_ctx = o->rewrite_ctx;
    r->block_tokens = o->block_tokens;
    r->guess_seed = o->seed != NULL ? str_hash(str_of(o->seed)) : 0;
    r->allow_special = o->allow_special_in_content;
    r->tail = &r->head;
    r->keys = kv_index_new(&k);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    pthread_mutex_init(&r->trust_lock, NULL);
    rc = open_models(r, o, e);
    if (rc == 0 && pthread_create(&r->thread, NULL, reader_main, r) != 0)
        rc = err_set(e, ERR_NOMEM, "cannot start the thread that reads requests");
    if (rc != 0) {
        reader_free(r);
        return rc;
    }
    r->has_thread = true;
    *out = r;
    return 0;
}

void reader_free(struct reader *r)
{
    if (r == NULL)
        return;
    if (r->has_thread) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_signal(&r->wake);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->thread, NULL);
    }
    for (struct reader_job *j = r->head, *next; j != NULL; j = next) {
        next = j->next;
        r->posted--;
        job_free(j);
    }
    r->head = NULL;
    r->closing = true;
    if (r->posted == 0)
        reader_destroy(r);
}

bool reader_has_model(const struct reader *r)
{
    return r->models->count != 0;
}
