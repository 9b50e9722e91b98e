/* Opening a model's text side.  A folder is known by its tokenizer.json; everything else beside it
 * may be missing.  The tree of tokenizer_config.json is dropped once read: templates are compiled,
 * the few texts that are kept are copied. */
// SPDX-License-Identifier: Apache-2.0
#include "text/text_model.h"
#include "base/file.h"
#include "base/mem.h"
#include "codec/json.h"
#include "model/gguf.h"
#include "text/chat.h"
#include "text/tokenizer.h"
#include <string.h>

#define CONFIG_MAX ((size_t)16 << 20)
#define TREE_MAX   ((size_t)256 << 20)
#define PATH_MAX_  ((size_t)4096)

struct opener {
    struct text_model *m;
    struct str dir; /* with its slash, or empty */
    struct buf path, file;
    struct arena tree;
    struct err *e;
};

/* ---- GGUF ---- */

static int open_gguf(struct text_model *m, const char *path, struct err *e)
{
    struct str source;
    int rc = gguf_open(&m->gguf, path, e);

    if (rc == 0)
        rc = tokenizer_new(&m->tokenizer, m->gguf, e);
    if (rc != 0)
        return rc;
    if (tokenizer_bos(m->tokenizer) != UINT32_MAX)
        m->bos = tokenizer_text(m->tokenizer, tokenizer_bos(m->tokenizer));
    if (tokenizer_eos(m->tokenizer) != UINT32_MAX)
        m->eos = tokenizer_text(m->tokenizer, tokenizer_eos(m->tokenizer));
    if (gguf_str(m->gguf, "tokenizer.chat_template", &source))
        rc = chat_template_new(&m->chat_template, source, e);
    return rc;
}

/* ---- a folder ---- */

/* The path of a file of the folder, or NULL when it is not there. */
static const char *beside(struct opener *o, const char *name)
{
    buf_reset(&o->path);
    if (!buf_str(&o->path, o->dir) || !buf_z(&o->path, name) || !buf_c(&o->path, '\0'))
        return NULL;
    return file_exists(o->path.p) ? o->path.p : NULL;
}

/* Reads a file of the folder: 0 with *text, or *text empty when it is not there. */
static int read_beside(struct opener *o, const char *name, struct str *text)
{
    const char *path = beside(o, name);
    int rc;

    *text = STR_NONE;
    if (path == NULL)
        return 0;
    buf_reset(&o->file);
    rc = file_read(path, &o->file, o->e);
    if (rc == 0)
        *text = arena_str(&o->tree, buf_view(&o->file));
    return rc == 0 && text->p == NULL ? err_set(o->e, ERR_NOMEM, "%s: no memory", path) : rc;
}

static int read_object(struct opener *o, const char *name, const struct json **out)
{
    struct json_limits limits = { .members_max = 1u << 22 };
    struct err why = { 0 };
    struct str text;
    int rc = read_beside(o, name, &text);

    *out = NULL;
    if (rc != 0 || text.p == NULL)
        return rc;
    rc = json_parse(&o->tree, text, &limits, out, &why);
    if (rc == 0 && !json_is(*out, JSON_OBJECT)) {
        *out = NULL;
        rc = err_set(&why, ERR_PARSE, "not an object");
    }
    return rc == 0 ? 0 : err_set(o->e, rc, "%s: %s", name, why.msg);
}

/* "<s>" or {"content": "<s>", ...} */
static struct str token_text(const struct json *config, const char *key)
{
    const struct json *j = json_get(config, key);
    struct str s = STR_NONE;

    if (!json_str(j, &s))
        (void)json_str(json_get(j, "content"), &s);
    return s;
}

static int compile(struct opener *o, const char *name, struct str source,
                   struct chat_template **out)
{
    struct err why = { 0 };
    int rc = chat_template_new(out, source, &why);

    return rc == 0 ? 0 : err_set(o->e, rc, "%s: %s", name, why.msg);
}

/* One template as text, or several by name: "tool_use" is for requests with tools. */
static int compile_all(struct opener *o, const char *name, const struct json *j)
{
    struct str source, which;
    int rc = 0;

    if (json_str(j, &source))
        return compile(o, name, source, &o->m->chat_template);
    if (!json_is(j, JSON_ARRAY))
        return 0;
    for (j = j->first; j != NULL && rc == 0; j = j->next) {
        struct chat_template **to = NULL;

        if (!json_str(json_get(j, "name"), &which) || !json_str(json_get(j, "template"), &source))
            return err_set(o->e, ERR_PARSE, "%s: a chat template has no name or text", name);
        if (str_eqz(which, "default"))
            to = &o->m->chat_template;
        else if (str_eqz(which, "tool_use"))
            to = &o->m->tool_template;
        if (to != NULL && *to == NULL)
            rc = compile(o, name, source, to);
    }
    return rc;
}

static int open_templates(struct opener *o, const struct json *config)
{
    const struct json *own;
    struct str source;
    int rc = read_beside(o, "chat_template.jinja", &source);

    if (rc != 0)
        return rc;
    if (source.p != NULL)
        return compile(o, "chat_template.jinja", source, &o->m->chat_template);
    rc = read_object(o, "chat_template.json", &own);
    if (rc != 0)
        return rc;
    if (json_get(own, "chat_template") != NULL)
        return compile_all(o, "chat_template.json", json_get(own, "chat_template"));
    return compile_all(o, "tokenizer_config.json", json_get(config, "chat_template"));
}

/* Classes that make the frame of a text themselves, from add_bos_token and add_eos_token. */
static bool frames_itself(const struct json *config)
{
    static const char *const classes[] = { "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
                                           "CohereTokenizer" };
    struct str name;

    if (!json_str(json_get(config, "tokenizer_class"), &name) ||
        (!json_is(json_get(config, "add_bos_token"), JSON_TRUE) &&
         !json_is(json_get(config, "add_bos_token"), JSON_FALSE)))
        return false;
    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
        if (str_starts(name, str_of(classes[i])))
            return true;
    return false;
}

static int open_tokenizer(struct opener *o, const struct json *config)
{
    struct tokenizer_json_opts t = { .is_configured = config != NULL,
                                     .bos = token_text(config, "bos_token"),
                                     .eos = token_text(config, "eos_token"),
                                     .replace_frame = frames_itself(config) };
    const char *path = beside(o, "tokenizer.json");
    struct file_map map;
    int rc;

    (void)json_bool(json_get(config, "add_bos_token"), &t.add_bos);
    (void)json_bool(json_get(config, "add_eos_token"), &t.add_eos);
    if (path == NULL)
        return err_set(o->e, ERR_NOTFOUND, "%.*stokenizer.json is missing", STR_ARG(o->dir));
    rc = file_map_open(&map, path, o->e);
    if (rc != 0)
        return rc;
    rc = tokenizer_new_json(&o->m->tokenizer, (struct str) { (const char *)map.p, map.size }, &t,
                            o->e);
    file_map_close(&map);
    return rc;
}

static void keep_ends(struct text_model *m, const struct json *config)
{
    const struct tokenizer *t = m->tokenizer;

    m->bos = token_text(config, "bos_token");
    m->eos = token_text(config, "eos_token");
    if (config == NULL && tokenizer_bos(t) != UINT32_MAX)
        m->bos = tokenizer_text(t, tokenizer_bos(t));
    if (config == NULL && tokenizer_eos(t) != UINT32_MAX)
        m->eos = tokenizer_text(t, tokenizer_eos(t));
    if (m->bos.p != NULL)
        m->bos = arena_str(&m->own, m->bos);
    if (m->eos.p != NULL)
        m->eos = arena_str(&m->own, m->eos);
}

static int open_folder(struct text_model *m, struct str dir, struct err *e)
{
    struct opener o = { .m = m, .dir = dir, .e = e };
    const struct json *config;
    int rc;

    buf_init(&o.path, PATH_MAX_);
    buf_init(&o.file, CONFIG_MAX);
    arena_init(&o.tree, TREE_MAX);
    rc = read_object(&o, "tokenizer_config.json", &config);
    if (rc == 0)
        rc = open_tokenizer(&o, config);
    if (rc == 0)
        rc = open_templates(&o, config);
    if (rc == 0)
        keep_ends(m, config);
    buf_fini(&o.path);
    buf_fini(&o.file);
    arena_fini(&o.tree);
    return rc;
}

/* ---- which of them ---- */

/* The folder, with its slash, whose tokenizer.json `path` means; false: it is another file. */
static bool folder_of(struct str path, struct buf *out)
{
    struct str name = STR("tokenizer.json");
    size_t at = path.n;

    buf_str(out, path);
    if (str_ends(path, name) && (path.n == name.n || path.p[path.n - name.n - 1] == '/')) {
        out->len = path.n - name.n;
        return true;
    }
    if (at > 0 && path.p[at - 1] != '/')
        buf_c(out, '/');
    at = out->len;
    if (!buf_str(out, name) || !buf_c(out, '\0'))
        return false;
    out->len = at;
    return file_exists(out->p);
}

int text_model_open(struct text_model **out, const char *path, struct err *e)
{
    struct text_model *m = mem_zalloc(sizeof(*m));
    struct buf dir;
    int rc;

    *out = NULL;
    arena_init(&m->own, (size_t)1 << 20);
    buf_init(&dir, PATH_MAX_);
    rc = folder_of(str_of(path), &dir) ? open_folder(m, buf_view(&dir), e) : open_gguf(m, path, e);
    buf_fini(&dir);
    if (rc != 0) {
        text_model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void text_model_close(struct text_model *m)
{
    if (m == NULL)
        return;
    chat_template_free(m->chat_template);
    chat_template_free(m->tool_template);
    tokenizer_free(m->tokenizer);
    gguf_close(m->gguf);
    arena_fini(&m->own);
    mem_free(m);
}
