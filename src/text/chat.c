/* Chat templates: a conversation becomes the text, or the tokens, that a model was trained on.
 *
 *   messages, tools, kwargs (JSON) -> values, their text marked as foreign
 *   template text, bos and eos     -> not marked
 *   rendered text with a mark a byte -> control tokens are found in unmarked bytes only
 *
 * so a user who writes "<|im_end|>" sends ten characters, not the end of the turn.  The one
 * exception is the role: templates build control tokens of it ('<|' + role + '|>'), hence the
 * few names that roles commonly have count as the template's own. */
// SPDX-License-Identifier: Apache-2.0
#include "text/chat.h"
#include "base/check.h"
#include "base/mem.h"
#include "text/jinja_priv.h"
#include "text/token_cache.h"
#include <string.h>

#define OUTPUT_MAX       ((size_t)8 << 20)
#define OUTPUT_BASE      ((size_t)1 << 20)
#define OUTPUT_PER_INPUT 4
#define COMPILED_BYTES   ((size_t)64 << 20)

struct chat_template {
    struct arena a;
    const struct jnode *root;
    size_t source_bytes;
};

int chat_template_new(struct chat_template **out, struct str source, struct err *e)
{
    struct chat_template *t = mem_try_zero(1, sizeof(*t));
    int rc;

    *out = NULL;
    if (t == NULL)
        return err_set(e, ERR_NOMEM, "chat template: no memory");
    arena_init(&t->a, COMPILED_BYTES);
    t->source_bytes = source.n;
    rc = jinja_compile(&t->a, source, &t->root, e);
    if (rc != 0) {
        chat_template_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void chat_template_free(struct chat_template *t)
{
    if (t == NULL)
        return;
    arena_fini(&t->a);
    mem_free(t);
}

/* ---- JSON to values ---- */

struct input {
    struct jinja *j;
    size_t bytes; /* of all text, for the output's ceiling */
};

static bool is_known_role(struct str s)
{
    static const char *const roles[] = {
        "system", "user",    "assistant",   "tool",        "developer", "function",
        "model",  "ipython", "environment", "observation", "context",   "documents",
    };

    for (size_t i = 0; i < COUNT(roles); i++)
        if (str_eqz(s, roles[i]))
            return true;
    return false;
}

static bool convert(struct input *in, const struct json *from, struct jv *out);

static bool convert_number(const struct json *from, struct jv *out)
{
    bool integer = true;
    int64_t i;
    double d;

    for (size_t k = 0; k < from->text.n; k++)
        integer = integer && strchr(".eE", from->text.p[k]) == NULL;
    if (json_i64(from, &i))
        *out = jv_int(i);
    else if (integer)
        *out = (struct jv) { .type = J_BIG, .s = { .p = from->text.p, .n = from->text.n } };
    else
        *out = jv_float(json_f64(from, &d) ? d : 0);
    return true;
}

static bool convert_list(struct input *in, const struct json *from, struct jv *out)
{
    if (!jlist_new(in->j, from->count, out))
        return false;
    out->list->own = false;
    for (const struct json *k = from->first; k != NULL; k = k->next) {
        struct jv v;

        if (!convert(in, k, &v) || !jlist_add(in->j, out->list, &v))
            return false;
    }
    return true;
}

static bool convert_dict(struct input *in, const struct json *from, struct jv *out)
{
    if (!jdict_new(in->j, out))
        return false;
    out->dict->own = false;
    for (const struct json *k = from->first; k != NULL; k = k->next) {
        struct jv key = jv_text((struct jtext) { .p = k->key.p, .n = k->key.n, .tainted = true }),
                  v;

        in->bytes += k->key.n;
        if (!convert(in, k, &v) || !jdict_put(in->j, out->dict, &key, &v))
            return false;
    }
    return true;
}

static bool convert(struct input *in, const struct json *from, struct jv *out)
{
    bool ok = true;

    if (!jenter(in->j))
        return false;
    switch (from->type) {
    case JSON_NULL: *out = jv_none(); break;
    case JSON_TRUE:
    case JSON_FALSE: *out = jv_bool(from->type == JSON_TRUE); break;
    case JSON_NUMBER: ok = convert_number(from, out); break;
    case JSON_STRING:
        *out = jv_text((struct jtext) { .p = from->text.p, .n = from->text.n, .tainted = true });
        in->bytes += from->text.n;
        break;
    case JSON_ARRAY: ok = convert_list(in, from, out); break;
    case JSON_OBJECT: ok = convert_dict(in, from, out); break;
    }
    jleave(in->j);
    return ok;
}

/* The roles of messages that are plain names are the template's own words. */
static bool trust_roles(struct input *in, const struct jv *messages)
{
    struct jv key = jv_str(STR("role"));

    for (size_t i = 0; messages->type == J_LIST && i < messages->list->count; i++) {
        const struct jv *m = &messages->list->v[i], *role;
        struct jv clean;

        role = m->type == J_DICT ? jdict_get(m->dict, &key) : NULL;
        if (role == NULL || role->type != J_STR || !is_known_role(jv_view(role)))
            continue;
        clean = jv_str(jv_view(role));
        if (!jdict_put(in->j, m->dict, &key, &clean))
            return false;
    }
    return true;
}

static bool put(struct input *in, struct jdict *context, const char *name, const struct jv *v)
{
    struct jv key = jv_str(str_of(name));

    return jdict_put(in->j, context, &key, v);
}

static bool put_json(struct input *in, struct jdict *context, const char *name,
                     const struct json *from)
{
    struct jv v = jv_none();

    return (from == NULL || convert(in, from, &v)) && put(in, context, name, &v);
}

/* What the template sees.  Keywords come last: they may set what has a default, but not replace
 * the conversation. */
static bool build(struct input *in, const struct chat_render_opts *o, struct jdict *context)
{
    struct jv prompt = jv_bool(o->add_generation_prompt), bos = jv_str(o->bos_token),
              eos = jv_str(o->eos_token);
    const struct jv *messages;

    if (!put_json(in, context, "messages", o->messages) ||
        !put_json(in, context, "tools", o->tools) || !put_json(in, context, "documents", NULL) ||
        !put(in, context, "add_generation_prompt", &prompt) ||
        (o->bos_token.p != NULL && !put(in, context, "bos_token", &bos)) ||
        (o->eos_token.p != NULL && !put(in, context, "eos_token", &eos)))
        return false;
    messages = jdict_gets(context, STR("messages"));
    if (!trust_roles(in, messages))
        return false;
    for (const struct json *k = o->kwargs != NULL ? o->kwargs->first : NULL; k != NULL;
         k = k->next) {
        struct jv key = jv_text((struct jtext) { .p = k->key.p, .n = k->key.n, .tainted = true }),
                  v;

        if (str_eqz(k->key, "messages") || str_eqz(k->key, "tools"))
            return jfail(in->j, ERR_INVAL,
                         "chat_template_kwargs may not replace messages or tools");
        if (!convert(in, k, &v) || !jdict_put(in->j, context, &key, &v))
            return false;
    }
    return true;
}

/* ---- rendering ---- */

static struct str last_content(const struct chat_render_opts *o)
{
    const struct json *last = o->messages != NULL ? o->messages->first : NULL;
    struct str s = STR_NONE;

    while (last != NULL && last->next != NULL)
        last = last->next;
    (void)json_str(json_get(last, "content"), &s);
    return s;
}

static size_t find_last(struct str s, struct str needle)
{
    for (size_t at = s.n >= needle.n ? s.n - needle.n + 1 : 0; at > 0; at--)
        if (memcmp(s.p + at - 1, needle.p, needle.n) == 0)
            return at - 1;
    return SIZE_MAX;
}

/* Cuts the rendered text right after the last message's content, as Hugging Face does: with its
 * trailing blanks when the template kept them. */
static bool cut_after_content(struct jinja *j, const struct chat_render_opts *o, struct jtext *text)
{
    struct jv content = jv_str(last_content(o));
    struct jtext bare = jtext_strip(content.s, NULL, true, true),
                 left = jtext_strip(content.s, NULL, true, false);
    struct str all = { text->p, text->n };
    size_t at;

    if (content.s.p == NULL)
        return jfail(j, ERR_INVAL,
                     "continue_final_message is set but the last message has no text to continue");
    at = bare.n == 0 ? all.n : find_last(all, (struct str) { bare.p, bare.n });
    if (at == SIZE_MAX)
        return jfail(j, ERR_INVAL,
                     "continue_final_message is set but the last message does not appear in the "
                     "rendered conversation");
    if (!str_eq(str_sub(all, at, left.n), jv_view(&content)))
        left = bare;
    *text = jtext_sub(*text, 0, MIN(at + left.n, all.n));
    return true;
}

/* Renders into an arena that the caller ends. */
static int render(const struct chat_template *t, const struct chat_render_opts *o, struct arena *a,
                  struct jtext *out, struct err *e)
{
    struct jinja j = { .a = a, .e = e, .now_s = o->now_s };
    struct input in = { .j = &j, .bytes = t->source_bytes };
    struct jv context;
    struct jsb text;
    int rc;

    if (!jdict_new(&j, &context) || !build(&in, o, context.dict))
        return j.rc;
    j.context = context.dict;
    j.steps = 0;
    if (!jsb_init(&text, &j, MIN(OUTPUT_MAX, OUTPUT_BASE + OUTPUT_PER_INPUT * in.bytes)))
        return j.rc;
    rc = jinja_run(&j, t->root, &text);
    if (rc != 0)
        return rc;
    *out = jsb_done(&text);
    if (o->continue_final_message && !cut_after_content(&j, o, out))
        return j.rc;
    return 0;
}

int chat_render(const struct chat_template *t, const struct chat_render_opts *o, struct buf *out,
                struct err *e)
{
    struct jtext text;
    struct arena a;
    int rc;

    arena_init(&a, JINJA_RENDER_BYTES);
    rc = render(t, o, &a, &text, e);
    if (rc == 0 && !buf_add(out, text.p, text.n))
        rc = err_set(e, ERR_LIMIT, "the rendered conversation is too large");
    arena_fini(&a);
    return rc;
}

static int tokenize(const struct chat_render_opts *o, const struct tokenizer *tok,
                    const struct jtext *text, struct token_list *out)
{
    bool all = o->allow_special_in_content || (text->taint == NULL && !text->tainted);
    const uint8_t *mark = all ? NULL : text->taint;
    struct str s = { text->p, text->n };

    if (!all && mark == NULL) /* nothing of it is the template's */
        return tokenizer_encode(tok, s, 0, out);
    if (o->cache != NULL)
        return token_cache_encode(o->cache, s, mark, out);
    return all ? tokenizer_encode(tok, s, TOKENIZE_PARSE_SPECIAL, out)
               : tokenizer_encode_marked(tok, s, mark, out);
}

int chat_tokenize(const struct chat_template *t, const struct chat_render_opts *o,
                  const struct tokenizer *tok, struct token_list *out, struct err *e)
{
    struct jtext text;
    struct arena a;
    int rc;

    arena_init(&a, JINJA_RENDER_BYTES);
    rc = render(t, o, &a, &text, e);
    if (rc == 0) {
        rc = tokenize(o, tok, &text, out);
        if (rc != 0)
            rc = err_set(e, rc, "the rendered conversation cannot be tokenized: %s", err_name(rc));
    }
    arena_fini(&a);
    return rc;
}
