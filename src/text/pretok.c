/* Pre-tokenizers as scanners.
 *
 * Characters fall into classes by Unicode general category (utf8proc).  A scan_* function takes
 * a text and a position and gives the end of the piece that begins there: the alternatives of
 * the regular expression, in order.  Kinds that apply several expressions one after the other
 * keep the bounds of the enclosing piece in pretok.cut: the inner scanner sees only up to there,
 * which matters for "blanks not followed by a non-blank".
 * Every position is looked at a bounded number of times. */
// SPDX-License-Identifier: Apache-2.0
#include "text/pretok.h"
#include "base/check.h"
#include <string.h>
#include <utf8proc.h>

enum { /* classes, as bits for sets */
       CL_LETTER = 1,
       CL_NUMBER = 2,
       CL_SPACE = 4,
       CL_MARK = 8,
       CL_PUNCT = 16,
       CL_OTHER = 32, /* symbols, controls, unassigned */
       CL_WORD = CL_LETTER | CL_NUMBER | CL_SPACE
};

/* clang-format off */
static const uint8_t ascii_class[128] = {
    32, 32, 32, 32, 32, 32, 32, 32, 32,  4,  4,  4,  4,  4, 32, 32,
    32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32,
     4, 16, 16, 16, 32, 16, 16, 16, 16, 16, 16, 32, 16, 16, 16, 16, /*  !"#$%&'()*+,-./ */
     2,  2,  2,  2,  2,  2,  2,  2,  2,  2, 16, 16, 32, 32, 32, 16, /* 0-9 : ; < = > ? */
    16,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1, /* @ A-O */
     1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1, 16, 16, 16, 32, 16, /* P-Z [ \ ] ^ _ */
    32,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1, /* ` a-o */
     1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1, 16, 32, 16, 32, 32, /* p-z { | } ~ DEL */
};
/* clang-format on */

static unsigned class_of(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return CL_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return CL_NUMBER;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return CL_SPACE;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return CL_MARK;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return CL_PUNCT;
    case UTF8PROC_CATEGORY_CN:
        /* Unicode 15.1's Extension I: the reference has it, utf8proc 2.8 (15.0) does not. */
        return cp >= 0x2ebf0 && cp <= 0x2ee5d ? CL_LETTER : CL_OTHER;
    default: return cp == 0x85 ? CL_SPACE : CL_OTHER; /* NEL is White_Space */
    }
}

static unsigned class_wide(const uint8_t *p, size_t *next)
{
    uint32_t cp;

    if (p[0] < 0xe0) {
        cp = (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
        *next += 2;
    } else if (p[0] < 0xf0) {
        cp = (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
        *next += 3;
    } else {
        cp = (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
             (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
        *next += 4;
    }
    return class_of(cp);
}

/* Class of the character at pos, *next is where the following one begins. */
static inline unsigned class_at(const uint8_t *p, size_t pos, size_t *next)
{
    *next = pos;
    if (p[pos] < 0x80) {
        *next += 1;
        return ascii_class[p[pos]];
    }
    return class_wide(p + pos, next);
}

/* End of the run of characters whose class is in set (or is not, when out). */
static inline size_t run_in(const uint8_t *p, size_t pos, size_t end, unsigned set)
{
    size_t next;

    while (pos < end && (class_at(p, pos, &next) & set) != 0)
        pos = next;
    return pos;
}

static inline size_t run_out(const uint8_t *p, size_t pos, size_t end, unsigned set)
{
    size_t next;

    while (pos < end && (class_at(p, pos, &next) & set) == 0)
        pos = next;
    return pos;
}

/* Bytes of a contraction ('s 't 're 've 'm 'll 'd) at pos, or 0; fold is 0x20 to take capitals. */
static size_t contraction(const uint8_t *p, size_t pos, size_t end, uint8_t fold)
{
    uint8_t a, b;

    if (pos + 1 >= end)
        return 0;
    a = p[pos + 1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (pos + 2 >= end)
        return 0;
    b = p[pos + 2] | fold;
    return (b == 'e' && (a == 'r' || a == 'v')) || (b == 'l' && a == 'l') ? 3 : 0;
}

/* Case folding makes the long s (U+017F) an s. */
static size_t contraction_folded(const uint8_t *p, size_t pos, size_t end)
{
    if (end - pos > 2 && p[pos + 1] == 0xc5 && p[pos + 2] == 0xbf)
        return 3;
    return contraction(p, pos, end, 0x20);
}

/* \s+(?!\S)|\s+ : all blanks but the last when something follows; with lines, first
 * \s*[\r\n]+ : up to the last line end.  At least one blank is at pos. */
static size_t scan_blanks(const uint8_t *p, size_t pos, size_t end, bool lines)
{
    size_t at = pos, last = pos, line_end = 0, next;

    while (at < end && class_at(p, at, &next) == CL_SPACE) {
        if (p[at] == '\r' || p[at] == '\n')
            line_end = next;
        last = at;
        at = next;
    }
    if (lines && line_end != 0)
        return line_end;
    return at < end && last > pos ? last : at;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t scan_gpt2(const uint8_t *p, size_t pos, size_t end)
{
    size_t at = pos, next, n;
    unsigned k;

    if (p[pos] == '\'' && (n = contraction(p, pos, end, 0)) != 0)
        return pos + n;
    if (p[pos] == ' ') {
        at = pos + 1;
        if (at == end)
            return end;
    }
    k = class_at(p, at, &next);
    if (k == CL_LETTER || k == CL_NUMBER)
        return run_in(p, next, end, k);
    if (k != CL_SPACE)
        return run_out(p, next, end, CL_WORD);
    return scan_blanks(p, pos, end, false);
}

/* (?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?{letter}+|
 * \p{N}{1,digits}| ?[^\s{letter}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * where {letter} is \p{L}, or [\p{L}\p{M}] in newer Qwen. */
static size_t scan_llama3(const uint8_t *p, size_t pos, size_t end, unsigned letter, int digits,
                          bool fold)
{
    size_t next, after, n;
    unsigned k;
    uint8_t c = p[pos];

    if (c == '\'' &&
        (n = fold ? contraction_folded(p, pos, end) : contraction(p, pos, end, 0x20)) != 0)
        return pos + n;
    k = class_at(p, pos, &next);
    if (c != '\r' && c != '\n' && k != CL_NUMBER) {
        if ((k & letter) != 0)
            return run_in(p, next, end, letter);
        if (next < end && (class_at(p, next, &after) & letter) != 0)
            return run_in(p, after, end, letter);
    }
    if (k == CL_NUMBER) {
        while (--digits > 0 && next < end && class_at(p, next, &after) == CL_NUMBER)
            next = after;
        return next;
    }
    if (c == ' ' && next < end)
        k = class_at(p, next, &next);
    if ((k & (CL_WORD | letter)) == 0) {
        next = run_out(p, next, end, CL_WORD | letter);
        while (next < end && (p[next] == '\r' || p[next] == '\n'))
            next++;
        return next;
    }
    return scan_blanks(p, pos, end, true);
}

enum { CASE_UP = 1, CASE_LOW = 2, CASE_NONE = 4 /* Lm, Lo, marks: go with either */ };

static unsigned case_at(const uint8_t *p, size_t pos, size_t *next)
{
    unsigned k = class_at(p, pos, next);
    uint32_t cp;

    if (p[pos] < 0x80)
        return k != CL_LETTER ? 0 : p[pos] < 'a' ? CASE_UP : CASE_LOW;
    if (k == CL_MARK)
        return CASE_NONE;
    if (k != CL_LETTER)
        return 0;
    cp = p[pos] & (0x7fu >> (*next - pos));
    for (size_t i = pos + 1; i < *next; i++)
        cp = cp << 6 | (p[i] & 0x3f);
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT: return CASE_UP;
    case UTF8PROC_CATEGORY_LL: return CASE_LOW;
    default: return CASE_NONE;
    }
}

/* [Lu Lt Lm Lo M]*[Ll Lm Lo M]+ from pos, or pos when it does not match.  The first part takes all
 * it can and gives back until the second has a character: its last one without case. */
static size_t scan_cased(const uint8_t *p, size_t pos, size_t end, size_t *upper_end)
{
    size_t at = pos, match = pos, next = pos;
    unsigned k = 0;

    while (at < end && ((k = case_at(p, at, &next)) & (CASE_UP | CASE_NONE)) != 0) {
        at = next;
        if (k == CASE_NONE)
            match = at;
    }
    *upper_end = at;
    if (at == end || k != CASE_LOW)
        return match;
    while (at < end && (case_at(p, at, &next) & (CASE_LOW | CASE_NONE)) != 0)
        at = next;
    return at;
}

/* A word with its contraction, or pos: first with the character before it, then without; first
 * one that has a lower part, then one of capitals alone. */
static size_t scan_cased_word(const uint8_t *p, size_t pos, size_t end)
{
    size_t next, upper = pos, upper_after = pos, at;
    unsigned k = class_at(p, pos, &next);
    bool prefix = k != CL_LETTER && k != CL_NUMBER && p[pos] != '\r' && p[pos] != '\n';

    at = prefix ? scan_cased(p, next, end, &upper_after) : pos;
    if (!prefix || at == next)
        at = scan_cased(p, pos, end, &upper);
    if (at == pos)
        at = prefix && upper_after > next ? upper_after : upper;
    if (at > pos && at < end && p[at] == '\'')
        at += contraction_folded(p, at, end);
    return at;
}

/* x?{upper}*{lower}+c?|x?{upper}+{lower}*c?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|
 * \s+(?!\S)|\s+ where x is [^\r\n\p{L}\p{N}], {upper} [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], {lower}
 * [\p{Ll}\p{Lm}\p{Lo}\p{M}] and c a contraction. */
static size_t scan_o200k(const uint8_t *p, size_t pos, size_t end)
{
    size_t next, after, at = scan_cased_word(p, pos, end);
    unsigned k;
    int digits = 3;

    if (at > pos)
        return at;
    k = class_at(p, pos, &next);
    if (k == CL_NUMBER) {
        while (--digits > 0 && next < end && class_at(p, next, &after) == CL_NUMBER)
            next = after;
        return next;
    }
    if (p[pos] == ' ' && next < end)
        k = class_at(p, next, &next);
    if ((k & CL_WORD) != 0)
        return scan_blanks(p, pos, end, true);
    next = run_out(p, next, end, CL_WORD);
    while (next < end && (p[next] == '\r' || p[next] == '\n' || p[next] == '/'))
        next++;
    return next;
}

/* [\p{P}$+<=>^~|]+ (Falcon: and the grave accent): runs of it and what is between. */
static size_t scan_punct(const uint8_t *p, size_t pos, size_t end, bool grave)
{
    size_t next = pos;
    int inside = -1;

    while (pos < end) {
        unsigned k = class_at(p, pos, &next);
        uint8_t c = p[pos];
        int is = k == CL_PUNCT || (c > ' ' && c < 0x7f && k == CL_OTHER && (grave || c != '`'));

        if (inside >= 0 && is != inside)
            break;
        inside = is;
        pos = next;
    }
    return pos;
}

static bool three_digits(const uint8_t *p, size_t pos, size_t end)
{
    if (end - pos < 3)
        return false;
    for (size_t i = pos; i < pos + 3; i++)
        if (p[i] < '0' || p[i] > '9')
            return false;
    return true;
}

/* [0-9][0-9][0-9]: threes from the left, and what is between. */
static size_t scan_threes(const uint8_t *p, size_t pos, size_t end)
{
    if (three_digits(p, pos, end))
        return pos + 3;
    while (pos < end && !three_digits(p, pos, end))
        pos++;
    return pos;
}

static size_t next_smollm(struct pretok *s)
{
    size_t next;

    if (s->pos == s->cut[0]) { /* \p{N}: each number character alone */
        if (class_at(s->p, s->pos, &next) == CL_NUMBER)
            return s->cut[0] = next;
        s->cut[0] = run_out(s->p, next, s->end, CL_NUMBER);
    }
    return scan_gpt2(s->p, s->pos, s->cut[0]);
}

static size_t next_falcon(struct pretok *s)
{
    if (s->pos == s->cut[0])
        s->cut[0] = scan_punct(s->p, s->pos, s->end, true);
    if (s->pos == s->cut[1])
        s->cut[1] = scan_gpt2(s->p, s->pos, s->cut[0]);
    return scan_threes(s->p, s->pos, s->cut[1]);
}

static size_t next_default(struct pretok *s)
{
    size_t next;

    if (s->pos == s->cut[0])
        s->cut[0] = scan_punct(s->p, s->pos, s->end, false);
    if (s->pos == s->cut[1])
        s->cut[1] = scan_gpt2(s->p, s->pos, s->cut[0]);
    if (s->pos == s->cut[2]) { /* \p{N}+ */
        if (class_at(s->p, s->pos, &next) == CL_NUMBER)
            s->cut[2] = run_in(s->p, next, s->cut[1], CL_NUMBER);
        else
            s->cut[2] = run_out(s->p, next, s->cut[1], CL_NUMBER);
    }
    return scan_threes(s->p, s->pos, s->cut[2]);
}

void pretok_init(struct pretok *s, enum pretok_kind kind, struct str text)
{
    *s = (struct pretok) { .p = (const uint8_t *)text.p, .kind = kind, .end = text.n };
}

bool pretok_next(struct pretok *s, struct str *piece)
{
    size_t from = s->pos;

    if (from == s->end)
        return false;
    switch (s->kind) {
    case PRETOK_GPT2: s->pos = scan_gpt2(s->p, from, s->end); break;
    case PRETOK_SMOLLM: s->pos = next_smollm(s); break;
    case PRETOK_LLAMA3: s->pos = scan_llama3(s->p, from, s->end, CL_LETTER, 3, false); break;
    case PRETOK_QWEN2: s->pos = scan_llama3(s->p, from, s->end, CL_LETTER, 1, false); break;
    case PRETOK_QWEN35:
        s->pos = scan_llama3(s->p, from, s->end, CL_LETTER | CL_MARK, 1, false);
        break;
    case PRETOK_FALCON: s->pos = next_falcon(s); break;
    case PRETOK_DEFAULT: s->pos = next_default(s); break;
    case PRETOK_LLAMA3_FOLD: s->pos = scan_llama3(s->p, from, s->end, CL_LETTER, 3, true); break;
    case PRETOK_QWEN2_FOLD: s->pos = scan_llama3(s->p, from, s->end, CL_LETTER, 1, true); break;
    case PRETOK_O200K_FOLD: s->pos = scan_o200k(s->p, from, s->end); break;
    }
    DEBUG_ASSERT(s->pos > from && s->pos <= s->end);
    *piece = (struct str) { (const char *)s->p + from, s->pos - from };
    return true;
}

/* Bytes of the character whose lead byte is at p, or 0: continuation bytes are checked, overlong
 * forms and surrogates are not. */
static size_t lax_len(const uint8_t *p, size_t n)
{
    size_t len = p[0] < 0x80 ? 1 : p[0] < 0xc0 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

    if (len == 0 || len > n || p[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

size_t pretok_repair(struct str text, uint8_t *out)
{
    const uint8_t *p = (const uint8_t *)text.p, *end = p + text.n;
    uint8_t *o = out;

    while (p < end) {
        size_t len = lax_len(p, (size_t)(end - p));
        uint32_t cp = len == 0 ? 0xfffd : len == 1 ? p[0] : p[0] & (0x7fu >> len);

        for (size_t i = 1; i < len; i++)
            cp = cp << 6 | (p[i] & 0x3f);
        if (cp > 0x10ffff) { /* no such character: its bytes are bad one by one */
            cp = 0xfffd;
            len = 1;
        }
        p += len == 0 ? 1 : len;
        if (cp < 0x80) {
            *o++ = (uint8_t)cp;
        } else if (cp < 0x800) {
            *o++ = (uint8_t)(0xc0 | cp >> 6);
            *o++ = (uint8_t)(0x80 | (cp & 0x3f));
        } else if (cp < 0x10000) {
            *o++ = (uint8_t)(0xe0 | cp >> 12);
            *o++ = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
            *o++ = (uint8_t)(0x80 | (cp & 0x3f));
        } else {
            *o++ = (uint8_t)(0xf0 | cp >> 18);
            *o++ = (uint8_t)(0x80 | (cp >> 12 & 0x3f));
            *o++ = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
            *o++ = (uint8_t)(0x80 | (cp & 0x3f));
        }
    }
    return (size_t)(o - out);
}

static const struct pretok_name names[] = {
    { "default", PRETOK_DEFAULT, false, false },
    { "gpt-2", PRETOK_GPT2, false, false },
    { "phi-2", PRETOK_GPT2, false, false },
    { "mpt", PRETOK_GPT2, false, false },
    { "olmo", PRETOK_GPT2, false, false },
    { "jais", PRETOK_GPT2, false, false },
    { "trillion", PRETOK_GPT2, false, false },
    { "exaone4", PRETOK_GPT2, false, false },
    { "mellum", PRETOK_GPT2, false, false },
    { "gigachat", PRETOK_GPT2, false, false },
    { "a.x-4.0", PRETOK_GPT2, false, false },
    { "granite-docling", PRETOK_GPT2, false, false },
    { "smollm", PRETOK_SMOLLM, false, false },
    { "starcoder", PRETOK_SMOLLM, false, false },
    { "refact", PRETOK_SMOLLM, false, false },
    { "command-r", PRETOK_SMOLLM, false, false },
    { "codeshell", PRETOK_SMOLLM, false, false },
    { "exaone", PRETOK_SMOLLM, false, false },
    { "minerva-7b", PRETOK_SMOLLM, false, false },
    { "mellum2", PRETOK_SMOLLM, false, false },
    { "llama-bpe", PRETOK_LLAMA3, true, true },
    { "llama3", PRETOK_LLAMA3, true, true },
    { "llama-v3", PRETOK_LLAMA3, true, true },
    { "falcon3", PRETOK_LLAMA3, true, true },
    { "falcon-h1", PRETOK_LLAMA3, true, true },
    { "pixtral", PRETOK_LLAMA3, true, true },
    { "midm-2.0", PRETOK_LLAMA3, true, true },
    { "lfm2", PRETOK_LLAMA3, true, true },
    { "dbrx", PRETOK_LLAMA3, false, false },
    { "smaug-bpe", PRETOK_LLAMA3, false, false },
    { "chatglm-bpe", PRETOK_LLAMA3, false, false },
    { "glm4", PRETOK_LLAMA3, true, false },
    { "qwen2", PRETOK_QWEN2, false, false },
    { "deepseek-r1-qwen", PRETOK_QWEN2, false, false },
    { "kormo", PRETOK_QWEN2, false, false },
    { "megrez", PRETOK_QWEN2, false, false },
    { "stablelm2", PRETOK_QWEN2, false, false },
    { "hunyuan", PRETOK_QWEN2, false, false },
    { "solar-open", PRETOK_QWEN2, false, false },
    { "grok-2", PRETOK_QWEN2, false, false },
    { "qwen35", PRETOK_QWEN35, false, false },
    { "falcon", PRETOK_FALCON, false, false },
};

const struct pretok_name *pretok_at(size_t i)
{
    return i < COUNT(names) ? &names[i] : NULL;
}

const struct pretok_name *pretok_find(struct str name)
{
    for (size_t i = 0; i < COUNT(names); i++)
        if (str_eqz(name, names[i].name))
            return &names[i];
    return NULL;
}
