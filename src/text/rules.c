/* Running the rules of a tokenizer.json over a text.
 *
 * Added tokens are found from the left, the longest first, as an Aho-Corasick automaton of
 * "leftmost longest" finds them.  Pre-tokenizer steps call each other down the row: step k hands
 * each of its pieces to step k + 1, the last to the model, so that nothing is collected.  A step
 * that changes text has a buffer of its own: only one call of it is active. */
// SPDX-License-Identifier: Apache-2.0
#include "text/rules.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/utf8.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#define MATCH_HEAP_KIB 65536 /* of backtracking; more is ERR_LIMIT */

/* ---- patterns ---- */

int pattern_compile(struct pattern *p, struct str regex, struct err *e)
{
    PCRE2_UCHAR why[128];
    PCRE2_SIZE at;
    int code;

    *p = (struct pattern) { 0 };
    if (regex.n > RULE_LITERAL_MAX)
        return err_set(e, ERR_LIMIT, "a regular expression of %zu bytes is too long", regex.n);
    p->code = pcre2_compile((PCRE2_SPTR)(regex.p != NULL ? regex.p : ""), regex.n,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                            &code, &at, NULL);
    if (p->code == NULL) {
        (void)pcre2_get_error_message(code, why, sizeof(why));
        return err_set(e, ERR_UNSUPPORTED, "regular expression \"%.*s\": %s at byte %zu",
                       STR_ARG(str_sub(regex, 0, 120)), (const char *)why, at);
    }
    (void)pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* without it the same, slower */
    return 0;
}

void pattern_free(struct pattern *p)
{
    pcre2_code_free(p->code);
    p->code = NULL;
}

void pattern_run_fini(struct pattern_run *r)
{
    pcre2_match_data_free(r->data);
    pcre2_match_context_free(r->context);
    *r = (struct pattern_run) { 0 };
}

int pattern_next(const struct pattern *p, struct pattern_run *r, struct str text, size_t from,
                 size_t *at, size_t *end)
{
    const char *found;
    PCRE2_SIZE *v;
    int n;

    if (p->literal.p != NULL) {
        found = p->literal.n == 0 || from > text.n
                    ? NULL
                    : memmem(text.p + from, text.n - from, p->literal.p, p->literal.n);
        if (found == NULL)
            return 0;
        *at = (size_t)(found - text.p);
        *end = *at + p->literal.n;
        return 1;
    }
    if (r->data == NULL)
        r->data = pcre2_match_data_create(1, NULL);
    if (r->context == NULL)
        r->context = pcre2_match_context_create(NULL);
    if (r->data == NULL || r->context == NULL)
        return ERR_NOMEM;
    (void)pcre2_set_heap_limit(r->context, MATCH_HEAP_KIB);
    n = pcre2_match(p->code, (PCRE2_SPTR)text.p, text.n, from, PCRE2_NO_UTF_CHECK, r->data,
                    r->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(p->code, (PCRE2_SPTR)text.p, text.n, from,
                        PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, r->data, r->context);
    if (n == PCRE2_ERROR_NOMATCH)
        return 0;
    if (n < 0)
        return n == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_LIMIT;
    v = pcre2_get_ovector_pointer(r->data);
    *at = v[0];
    *end = MAX(v[0], v[1]);
    return 1;
}

/* ---- one run ---- */

struct run {
    struct enc *e;
    const struct rules *r;
    bool control;
    struct pattern_run pattern;
    struct buf norm[2], pre[RULE_STEPS_MAX];
};

static int pre_step(struct run *r, unsigned step, struct str s, bool at_start);

/* Pieces of one step on their way to the next. */
struct splitter {
    struct run *r;
    unsigned step;
    enum split_behavior behavior;
    struct str text;
    size_t from, to; /* the piece that may still grow; empty: none */
    bool at_start, has, was_match;
};

static int split_flush(struct splitter *s)
{
    bool had = s->has;

    s->has = false;
    return had && s->to > s->from
               ? pre_step(s->r, s->step + 1, str_sub(s->text, s->from, s->to - s->from),
                          s->at_start && s->from == 0)
               : 0;
}

static int split_push(struct splitter *s, size_t from, size_t to)
{
    int rc = split_flush(s);

    s->from = from;
    s->to = to;
    s->has = true;
    return rc;
}

static int split_add(struct splitter *s, size_t from, size_t to, bool is_match)
{
    bool was = s->was_match, joins = false;

    if (from == to)
        return 0;
    s->was_match = is_match;
    switch (s->behavior) {
    case SPLIT_ISOLATED: break;
    case SPLIT_REMOVED:
        if (is_match)
            return split_flush(s);
        break;
    case SPLIT_WITH_PREVIOUS: joins = is_match && !was; break;
    case SPLIT_WITH_NEXT: joins = !is_match && was; break;
    case SPLIT_CONTIGUOUS: joins = is_match == was; break;
    }
    if (!joins || !s->has)
        return split_push(s, from, to);
    s->to = to;
    return 0;
}

static int run_split(struct run *r, unsigned step, struct str text, bool at_start)
{
    const struct pre_step *p = &r->r->pre[step];
    struct splitter s = {
        .r = r, .step = step, .behavior = p->behavior, .text = text, .at_start = at_start
    };
    size_t done = 0, from = 0, at, end;
    int rc = 0;

    while (rc == 0 && from <= text.n) {
        rc = pattern_next(&p->pattern, &r->pattern, text, from, &at, &end);
        if (rc <= 0)
            break;
        from = end;
        if (end == at) { /* an empty match cuts, and the search goes on one character later */
            size_t len = 1;

            if (at < text.n)
                (void)utf8_next(str_sub(text, at, 4), &len);
            from = at + len;
        }
        rc = split_add(&s, done, at, p->invert);
        if (rc == 0)
            rc = split_add(&s, at, end, !p->invert);
        done = end;
    }
    if (rc == 0)
        rc = split_add(&s, done, text.n, p->invert);
    return rc == 0 ? split_flush(&s) : rc;
}

static bool class_matches(enum pre_kind k, uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

    switch (k) {
    case PRE_DIGITS: return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
    case PRE_PUNCTUATION:
        if (cp < 0x80)
            return (cp > ' ' && cp < '0') || (cp > '9' && cp < 'A') || (cp > 'Z' && cp < 'a') ||
                   (cp > 'z' && cp < 0x7f);
        return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
    default:
        return (cp >= '\t' && cp <= '\r') || cp == 0x85 ||
               (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_ZP);
    }
}

static int run_classes(struct run *r, unsigned step, struct str text, bool at_start)
{
    const struct pre_step *p = &r->r->pre[step];
    struct splitter s = {
        .r = r, .step = step, .behavior = p->behavior, .text = text, .at_start = at_start
    };
    size_t done = 0, len;
    int rc = 0;

    for (size_t at = 0; at < text.n && rc == 0; at += len) {
        if (!class_matches(p->kind, utf8_next(str_sub(text, at, 4), &len)))
            continue;
        rc = split_add(&s, done, at, false);
        if (rc == 0)
            rc = split_add(&s, at, at + len, true);
        done = at + len;
    }
    if (rc == 0)
        rc = split_add(&s, done, text.n, false);
    return rc == 0 ? split_flush(&s) : rc;
}

static int run_scan(struct run *r, unsigned step, struct str text)
{
    struct pretok s;
    struct str piece;
    int rc = 0;

    pretok_init(&s, r->r->pre[step].scan, text);
    if (step + 1 == r->r->pre_count && r->e->t->kind == TOK_KIND_BPE) {
        while (rc == 0 && pretok_next(&s, &piece))
            rc = bpe_encode_piece(r->e, (const uint8_t *)piece.p, piece.n);
        return rc;
    }
    while (rc == 0 && pretok_next(&s, &piece))
        rc = pre_step(r, step + 1, piece, false);
    return rc;
}

static int run_metaspace(struct run *r, unsigned step, struct str text, bool at_start)
{
    const struct pre_step *p = &r->r->pre[step];
    struct splitter s = { .r = r, .step = step, .behavior = SPLIT_WITH_NEXT, .at_start = at_start };
    struct pattern mark = { .literal = p->mark };
    struct buf *b = &r->pre[step];
    size_t done = 0, at, end;
    bool prepend = p->prepend == METASPACE_ALWAYS || (p->prepend == METASPACE_FIRST && at_start);
    int rc = 0;

    buf_reset(b);
    if (prepend && text.p[0] != ' ' && !str_starts(text, p->mark))
        buf_str(b, p->mark);
    for (size_t from = 0; from < text.n; from += at + 1) {
        struct str left = str_sub(text, from, text.n);

        at = str_chr(left, ' ');
        buf_str(b, str_sub(left, 0, at));
        if (at == SIZE_MAX)
            break;
        buf_str(b, p->mark);
    }
    if (b->failed)
        return ERR_LIMIT;
    s.text = buf_view(b);
    if (!p->split)
        return pre_step(r, step + 1, s.text, at_start);
    while (rc == 0 && pattern_next(&mark, &r->pattern, s.text, done, &at, &end) == 1) {
        rc = split_add(&s, done, at, false);
        if (rc == 0)
            rc = split_add(&s, at, end, true);
        done = end;
    }
    if (rc == 0)
        rc = split_add(&s, done, s.text.n, false);
    return rc == 0 ? split_flush(&s) : rc;
}

static int pre_step(struct run *r, unsigned step, struct str s, bool at_start)
{
    struct buf *b;

    if (s.n == 0)
        return 0;
    if (step == r->r->pre_count)
        return r->e->t->kind == TOK_KIND_BPE ? bpe_encode_piece(r->e, (const uint8_t *)s.p, s.n)
                                             : char_encode(r->e, s);
    b = &r->pre[step];
    switch (r->r->pre[step].kind) {
    case PRE_SCAN: return run_scan(r, step, s);
    case PRE_SPLIT: return run_split(r, step, s, at_start);
    case PRE_DIGITS:
    case PRE_PUNCTUATION:
    case PRE_SPACES: return run_classes(r, step, s, at_start);
    case PRE_METASPACE: return run_metaspace(r, step, s, at_start);
    case PRE_PREFIX_SPACE: break;
    }
    if (s.p[0] == ' ')
        return pre_step(r, step + 1, s, at_start);
    buf_reset(b);
    if (!buf_c(b, ' ') || !buf_str(b, s))
        return ERR_LIMIT;
    return pre_step(r, step + 1, buf_view(b), at_start);
}

/* ---- added tokens ---- */

static bool is_word(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

    return cp != UTF8_BAD &&
           ((c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
            (c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME) || c == UTF8PROC_CATEGORY_ND ||
            c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_PC);
}

/* Where the character before `at` begins. */
static size_t char_before(struct str s, size_t at)
{
    size_t from = at - 1;

    while (from > 0 && at - from < 4 && ((uint8_t)s.p[from] & 0xc0) == 0x80)
        from--;
    return from;
}

static bool stands_alone(struct str s, size_t at, size_t end)
{
    size_t len;

    if (at > 0 && is_word(utf8_next(str_sub(s, char_before(s, at), 4), &len)))
        return false;
    return end == s.n || !is_word(utf8_next(str_sub(s, end, 4), &len));
}

static size_t blanks_before(struct str s, size_t at, size_t floor)
{
    size_t len;

    while (at > floor &&
           class_matches(PRE_SPACES, utf8_next(str_sub(s, char_before(s, at), 4), &len)))
        at = char_before(s, at);
    return MAX(at, floor);
}

static size_t blanks_after(struct str s, size_t at)
{
    size_t len;

    while (at < s.n && class_matches(PRE_SPACES, utf8_next(str_sub(s, at, 4), &len)))
        at += len;
    return at;
}

typedef int piece_fn(struct run *r, struct str s, bool at_start, const uint8_t *mark);

/* Cuts s at the tokens of set; what lies between goes to `rest`. */
static int cut_added(struct run *r, const struct special_set *set, struct str s, bool at_start,
                     const uint8_t *mark, piece_fn *rest)
{
    const uint8_t *p = (const uint8_t *)s.p;
    size_t done = 0;
    int rc;

    for (size_t i = 0; i < s.n && set->count > 0;) {
        uint32_t rank = TOK_NONE, id;
        size_t start, end;
        unsigned flags;

        if (special_may_begin(set, p + i, s.n - i))
            rank = special_longest(set, s, i, s.n - i, r->control, mark);
        if (rank == TOK_NONE) {
            i++;
            continue;
        }
        id = set->id[rank];
        flags = r->r->added[id];
        start = i;
        end = i + set->len[rank];
        i = end;
        if ((flags & ADDED_SINGLE_WORD) != 0 && !stands_alone(s, start, end))
            continue;
        if ((flags & ADDED_LSTRIP) != 0)
            start = blanks_before(s, start, done);
        if ((flags & ADDED_RSTRIP) != 0)
            end = blanks_after(s, end);
        if (start > done) {
            rc = rest(r, str_sub(s, done, start - done), at_start && done == 0,
                      mark != NULL ? mark + done : NULL);
            if (rc != 0)
                return rc;
        }
        if (!token_list_push(r->e->out, id))
            return token_list_error(r->e->out);
        done = MAX(done, end);
    }
    return done < s.n ? rest(r, str_sub(s, done, s.n - done), at_start && done == 0,
                             mark != NULL ? mark + done : NULL)
                      : 0;
}

static int run_model(struct run *r, struct str s, bool at_start, const uint8_t *mark)
{
    (void)mark;
    return pre_step(r, 0, s, at_start);
}

static int run_normalized(struct run *r, struct str s, bool at_start, const uint8_t *mark)
{
    struct str text = s;
    bool control = r->control;
    int rc;

    if (!utf8_valid(s)) {
        if (!enc_tmp(r->e, s.n * 3))
            return ERR_NOMEM;
        text = (struct str) { (const char *)r->e->tmp, pretok_repair(s, r->e->tmp) };
    }
    rc = normalize(r->r, text, &r->pattern, r->norm, &text);
    if (rc != 0)
        return rc;
    if (r->r->normalized.count == 0)
        return run_model(r, text, at_start, NULL);
    if (text.p != s.p && mark != NULL) {
        /* marks do not fit the changed text: control tokens count only where none was */
        for (size_t i = 0; i < s.n; i++)
            r->control = r->control && mark[i] == 0;
        mark = NULL;
    }
    rc = cut_added(r, &r->r->normalized, text, at_start, mark, run_model);
    r->control = control;
    return rc;
}

int rules_encode(struct enc *e, struct str text, size_t at, bool control, const uint8_t *mark)
{
    struct run r = { .e = e, .r = e->t->rules, .control = control };
    int rc;

    for (size_t i = 0; i < 2; i++)
        buf_init(&r.norm[i], RULE_TEXT_MAX);
    for (size_t i = 0; i < RULE_STEPS_MAX; i++)
        buf_init(&r.pre[i], RULE_TEXT_MAX);
    rc = cut_added(&r, &r.r->raw, text, at == 0, mark, run_normalized);
    for (size_t i = 0; i < 2; i++)
        buf_fini(&r.norm[i]);
    for (size_t i = 0; i < RULE_STEPS_MAX; i++)
        buf_fini(&r.pre[i]);
    pattern_run_fini(&r.pattern);
    return rc;
}

void rules_free(struct rules *r)
{
    if (r == NULL)
        return;
    for (unsigned i = 0; i < r->norm_count; i++) {
        pattern_free(&r->norm[i].pattern);
        mem_free(r->norm[i].stable);
    }
    for (unsigned i = 0; i < r->pre_count; i++)
        pattern_free(&r->pre[i].pattern);
    special_fini(&r->raw);
    special_fini(&r->normalized);
    mem_free(r->added);
    mem_free(r);
}
