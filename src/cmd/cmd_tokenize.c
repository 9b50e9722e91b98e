/* llmd tokenize: text to token ids with the tokenizer of a model file.  The text is a flag's value
 * or standard input, whole and as it is: no line end is added or removed. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "model/model.h"
#include "text/text_model.h"
#include "text/tokenizer.h"
#include <stdio.h>

#define INPUT_BYTES_MAX ((size_t)16 << 20)

struct tokenize_opts {
    const char *model, *text;
    bool ids, special, json;
};

static const struct opt_desc table[] = {
    { "model", OPT_STR, offsetof(struct tokenize_opts, model), NULL, "FILE|DIR|NAME", 0, 0,
      "GGUF file, folder with tokenizer.json, or a name of llmd model list" },
    { "text", OPT_STR, offsetof(struct tokenize_opts, text), NULL, "TEXT", 0, 0,
      "what to tokenize; without it, standard input" },
    { "ids", OPT_BOOL, offsetof(struct tokenize_opts, ids), NULL, NULL, 0, 0,
      "ids only, on one line" },
    { "special", OPT_BOOL, offsetof(struct tokenize_opts, special), NULL, NULL, 0, 0,
      "texts of control tokens become their ids, and BOS and EOS are added as the file says" },
    { "json", OPT_BOOL, offsetof(struct tokenize_opts, json), NULL, NULL, 0, 0,
      "one JSON object: count, ids, pieces" },
};

static int read_stdin(struct buf *b, struct err *e)
{
    size_t n;

    do {
        if (!buf_reserve(b, 65536))
            return err_set(e, ERR_LIMIT, "standard input is longer than %zu bytes", b->max);
        n = fread(b->p + b->len, 1, 65536, stdin);
        b->len += n;
    } while (n > 0);
    return ferror(stdin) ? err_set(e, ERR_IO, "standard input cannot be read") : 0;
}

/* A token's bytes as JSON text, bad UTF-8 shown as U+FFFD. */
static void put_piece(struct json_w *w, const struct tokenizer *t, uint32_t id)
{
    struct buf piece;

    buf_init(&piece, (size_t)1 << 20);
    if (tokenizer_piece(t, id, true, &piece))
        json_w_str(w, buf_view(&piece));
    else
        json_w_null(w);
    buf_fini(&piece);
}

static void show(const struct tokenize_opts *o, const struct tokenizer *t,
                 const struct token_list *l, struct buf *out)
{
    struct json_w w;

    json_w_init(&w, out);
    if (o->json) {
        json_w_obj(&w);
        json_w_ku64(&w, "count", l->count);
        json_w_karr(&w, "ids");
        for (size_t i = 0; i < l->count; i++)
            json_w_u64(&w, l->id[i]);
        json_w_end(&w, ']');
        json_w_karr(&w, "pieces");
        for (size_t i = 0; i < l->count; i++)
            put_piece(&w, t, l->id[i]);
        json_w_end(&w, ']');
        json_w_end(&w, '}');
        buf_c(out, '\n');
        return;
    }
    for (size_t i = 0; i < l->count; i++) {
        if (o->ids) {
            buf_f(out, "%s%u", i == 0 ? "" : " ", l->id[i]);
            continue;
        }
        buf_f(out, "%8u  ", l->id[i]);
        json_w_init(&w, out);
        put_piece(&w, t, l->id[i]);
        buf_c(out, '\n');
    }
    if (o->ids)
        buf_c(out, '\n');
}

static int tokenize(const struct tokenize_opts *o, struct buf *out, struct err *e)
{
    struct token_list list = { 0 };
    struct text_model *m = NULL;
    struct buf path, in;
    struct str text = str_of(o->text);
    int rc;

    buf_init(&path, 4096);
    buf_init(&in, INPUT_BYTES_MAX);
    rc = catalogue_resolve_text(str_of(o->model), &path, e);
    if (rc == 0 && !buf_c(&path, '\0'))
        rc = err_set(e, ERR_LIMIT, "the path of the model is too long");
    if (rc == 0)
        rc = text_model_open(&m, path.p, e);
    if (rc == 0 && o->text == NULL) {
        rc = read_stdin(&in, e);
        text = buf_view(&in);
    }
    if (rc == 0) {
        rc =
            tokenizer_encode(m->tokenizer, text,
                             o->special ? TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL : 0, &list);
        if (rc != 0)
            err_set(e, rc, "the text cannot be tokenized: %s", err_name(rc));
    }
    if (rc == 0)
        show(o, m->tokenizer, &list, out);
    token_list_fini(&list);
    text_model_close(m);
    buf_fini(&in);
    buf_fini(&path);
    return rc;
}

int cmd_tokenize(int argc, char **argv)
{
    struct tokenize_opts o = { 0 };
    struct err e = { 0 };
    struct buf out;
    int rc =
        cmd_options("usage: llmd tokenize --model FILE|DIR|NAME [--text TEXT | < FILE] [FLAGS]", &o,
                    table, COUNT(table), argc, argv, NULL);

    if (rc >= 0)
        return rc;
    if (o.model == NULL) {
        fprintf(stderr, "llmd: tokenize needs --model FILE|DIR|NAME\n");
        return 2;
    }
    buf_init(&out, (size_t)1 << 30);
    rc = tokenize(&o, &out, &e);
    if (rc == 0 && out.failed)
        rc = err_set(&e, ERR_LIMIT, "the answer is too long");
    if (rc == 0)
        fwrite(out.p, 1, out.len, stdout);
    buf_fini(&out);
    return rc == 0 ? 0 : cmd_fail(&e);
}
