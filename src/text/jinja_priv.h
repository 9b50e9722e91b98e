/* text/jinja_priv.h - the template interpreter's parts and what they share.
 *
 * jinja_lex.c      template text -> tokens (white space rules of trim_blocks, lstrip_blocks)
 * jinja_parse.c    tokens -> tree; jinja_parse_expr.c its expressions
 * jinja_value.c    values: text with its origin, lists, dicts, comparison
 * jinja_print.c    values -> text: str(), repr(), json.dumps()
 * jinja_eval.c     the tree walked; jinja_call.c macros, loops and global functions
 * jinja_filter.c jinja_seq.c jinja_test.c jinja_method.c jinja_format.c  what templates call
 *
 * Everything of one rendering lives in one arena and goes with it.  Work is bounded thrice: steps
 * (nodes visited, and bytes handled in bulk), depth, and the arena's and output's ceilings. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_JINJA_PRIV_H
#define TEXT_JINJA_PRIV_H
#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

/* Ceilings; over one of them a template is refused or a rendering ends with ERR_LIMIT. */
#define JINJA_SOURCE_MAX   ((size_t)256 << 10)
#define JINJA_STEPS_MAX    4000000u /* a message costs 100 to 300; 4,096 messages must fit */
#define JINJA_BULK_BYTES   256u     /* bytes handled in one go that count as a step */
#define JINJA_CALLS_MAX    64       /* macros within macros */
#define JINJA_DEPTH_MAX    700      /* C calls within each other: 64-bit frames fit in 512 KiB */
#define JINJA_NESTING_MAX  100      /* of parentheses and blocks in a template */
#define JINJA_RANGE_MAX    100000
#define JINJA_RENDER_BYTES ((size_t)96 << 20)

/* ---- values ---- */

enum jtype {
    J_UNDEF,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_BIG, /* an integer beyond 64 bits: kept as its digits */
    J_STR,
    J_LIST,
    J_TUPLE,
    J_DICT,
    J_NAMESPACE,
    J_LOOP,
    J_MACRO,
    J_FUNC,
    J_METHOD,
    J_CYCLER,
    J_JOINER
};

/* Text whose bytes came from a message, a tool or a keyword is tainted: chat_tokenize finds no
 * control tokens in it.  One flag when all bytes agree, else a byte for each. */
struct jtext {
    const char *p;
    size_t n;
    const uint8_t *taint; /* one a byte, NULL when all are as `tainted` says */
    struct jgrow *grow;   /* the buffer it ends in, so that appending need not copy; or NULL */
    bool tainted;
    bool markup; /* came out of `safe` or `escape`: + escapes what is added to it */
};

/* A buffer that text grows in: `used` bytes have been given out and never change. */
struct jgrow {
    char *p;
    uint8_t *taint; /* NULL while nobody needed it */
    size_t used, cap;
};

struct jv {
    enum jtype type;
    union {
        bool b;
        int64_t i;
        double f;
        struct jtext s;     /* J_STR, J_BIG; J_UNDEF: what was looked for */
        struct jlist *list; /* J_LIST, J_TUPLE */
        struct jdict *dict; /* J_DICT, J_NAMESPACE */
        struct jloop *loop;
        struct jmacro *macro;
        struct {
            uint16_t id;
            struct jv *self;
        } fn;                   /* J_FUNC, J_METHOD */
        struct jcycler *cycler; /* J_CYCLER, J_JOINER */
    };
};

enum jlist_kind { JLIST_PLAIN, JLIST_VIEW, JLIST_ITERATOR };

struct jlist {
    struct jv *v;
    size_t count, cap;
    size_t pos;           /* iterators: how many have been taken */
    enum jlist_kind kind; /* a view has no index, an iterator neither index nor length */
    bool own;             /* made by the template: it may change it */
};

struct jentry {
    struct jv key, value;
};

struct jdict {
    struct jentry *e; /* in order of insertion */
    size_t count, cap;
    uint32_t *index; /* open addressing, entry + 1; NULL while small */
    size_t index_cap;
    bool own;
};

struct jcycler {
    struct jlist *items;
    size_t at;
    bool used;
    struct jtext sep;
};

struct jinja;

/* Arguments of a call, a filter or a test. */
struct jkw {
    struct str name;
    struct jv v;
};
struct jargs {
    struct jv *v;
    size_t count;
    struct jkw *kw;
    size_t kw_count;
};

/* A text under construction, in the arena. */
struct jsb {
    struct jinja *j;
    struct jgrow *g;
    bool any_clean, any_tainted;
    size_t max; /* 0 = the arena's own ceiling */
};

/* ---- the tree ---- */

enum jkind {
    /* expressions */
    JN_CONST,
    JN_NAME,
    JN_LIST,
    JN_TUPLE,
    JN_DICT,
    JN_PAIR,
    JN_ATTR,
    JN_ITEM,
    JN_SLICE,
    JN_CALL,
    JN_KWARG,
    JN_STAR,
    JN_STAR2,
    JN_FILTER,
    JN_TEST,
    JN_NOT,
    JN_NEG,
    JN_POS,
    JN_BIN,
    JN_CONCAT,
    JN_AND,
    JN_OR,
    JN_CMP,
    JN_OPERAND,
    JN_COND,
    /* statements */
    JN_DATA,
    JN_OUT,
    JN_IF,
    JN_BRANCH,
    JN_FOR,
    JN_SET,
    JN_SET_BLOCK,
    JN_MACRO,
    JN_PARAM,
    JN_CALL_BLOCK,
    JN_FILTER_BLOCK,
    JN_BREAK,
    JN_CONTINUE,
    JN_SCOPE,
    JN_NSREF
};

enum jop {
    JOP_ADD,
    JOP_SUB,
    JOP_MUL,
    JOP_DIV,
    JOP_FLOORDIV,
    JOP_MOD,
    JOP_POW,
    JOP_EQ,
    JOP_NE,
    JOP_LT,
    JOP_LE,
    JOP_GT,
    JOP_GE,
    JOP_IN,
    JOP_NOT_IN
};

struct jnode {
    enum jkind kind;
    uint16_t op; /* enum jop; index of a filter, a test, or (plus 1) a method of the name */
    bool flag;   /* FOR: recursive; MACRO: reads caller */
    bool flag2;  /* MACRO: reads varargs or kwargs */
    uint32_t line;
    struct str name; /* interned: equal names have equal pointers */
    struct jv value; /* CONST */
    const struct jnode *a, *b, *c;
    const struct jnode *list, *list2;
    struct jnode *next;
};

/* Names that the interpreter itself puts into frames: interned as these pointers. */
extern const char jname_loop[], jname_caller[], jname_varargs[], jname_kwargs[];

/* ---- one rendering ---- */

struct jvar {
    const char *name;
    struct jv v;
};

struct jframe {
    struct jframe *up;
    struct jvar *var;
    size_t count, cap;
    bool captured; /* a macro looks into it: may not be used again for the next turn */
};

struct jmacro {
    const struct jnode *node;
    struct jframe *frame; /* where it was defined */
};

struct jloop {
    const struct jnode *node;
    struct jv *item;
    size_t count, index;
    unsigned depth;
    struct jframe *frame; /* around the loop, for recursion */
    struct jv changed;
    bool has_changed;
};

enum jflow { JFLOW_NEXT, JFLOW_BREAK, JFLOW_CONTINUE };

struct jinja {
    struct arena *a;
    struct jframe *frame;
    struct jsb *out;
    const struct jdict *context; /* what the caller gives */
    double now_s;
    uint32_t steps, depth, calls;
    uint32_t line;
    enum jflow flow;
    int rc;
    struct err *e;
};

/* ---- lexer ---- */

enum jtok {
    JT_EOF,
    JT_DATA,
    JT_OUT_BEGIN,
    JT_OUT_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING,
    JT_INT,
    JT_FLOAT,
    JT_OP
};

/* Two-character operators have a letter as code. */
enum { JC_FLOORDIV = 'F', JC_POW = 'P', JC_EQ = 'E', JC_NE = 'N', JC_LE = 'L', JC_GE = 'G' };

struct jtoken {
    enum jtok type;
    int op;          /* JT_OP */
    struct str text; /* data, names, numbers, decoded strings */
    uint32_t line;
};

struct jtokens {
    struct jtoken *t;
    size_t count, cap;
};

int jinja_lex(struct arena *a, struct str source, struct jtokens *out, struct err *e) MUST_CHECK;

/* ---- parser ---- */

struct jparser {
    struct arena *a;
    struct jtokens tok;
    size_t at;
    struct err *e;
    int rc;
    unsigned depth;
    struct jname {
        struct str text;
        struct jname *next;
    } * *names;          /* interned */
    struct jnode *macro; /* being read, to note what it uses */
    unsigned loops;      /* around here within the same macro */
    unsigned branches;   /* of if statements around here */
};

#define JNAMES 256
struct jnode *jparse_node(struct jparser *p, enum jkind kind); /* NULL = failed */
void *jparse_fail(struct jparser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct str jparse_intern(struct jparser *p, struct str s);
const struct jtoken *jparse_peek(const struct jparser *p);
const struct jtoken *jparse_next(struct jparser *p);
bool jparse_is_name(const struct jparser *p, const char *name);
bool jparse_is_op(const struct jparser *p, int op);
bool jparse_take_name(struct jparser *p, const char *name);
bool jparse_take_op(struct jparser *p, int op);
bool jparse_want_op(struct jparser *p, int op);
struct jnode *jparse_expr(struct jparser *p, bool with_cond);
/* One expression, or several with commas: a tuple. */
struct jnode *jparse_exprs(struct jparser *p, bool with_cond);
/* a.b | f(x) | g: filters after `base`, which may be NULL (filter blocks). */
struct jnode *jparse_filters(struct jparser *p, struct jnode *base, bool need_first);

/* source is copied into the arena.  ERR_PARSE, ERR_LIMIT. */
int jinja_compile(struct arena *a, struct str source, const struct jnode **out,
                  struct err *e) MUST_CHECK;

/* Renders into out (jsb_init'ed).  context: a J_DICT's dict.  ERR_INVAL, ERR_LIMIT, ERR_NOMEM. */
int jinja_run(struct jinja *j, const struct jnode *root, struct jsb *out) MUST_CHECK;

/* ---- failing; each returns false ---- */

bool jfail(struct jinja *j, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool jfail_memory(struct jinja *j);
/* Counts n steps. */
bool jstep(struct jinja *j, size_t n);
bool jbytes(struct jinja *j, size_t n); /* n bytes handled in bulk */
bool jenter(struct jinja *j);           /* deeper; undo with jleave */
void jleave(struct jinja *j);

/* ---- jinja_value.c ---- */

struct jv jv_none(void);
struct jv jv_bool(bool b);
struct jv jv_int(int64_t i);
struct jv jv_float(double f);
struct jv jv_str(struct str s); /* borrowed, clean */
struct jv jv_text(struct jtext s);
struct jv jv_undef(struct str name);
struct str jv_view(const struct jv *v); /* of J_STR */
struct jtext jtext_sub(struct jtext s, size_t from, size_t n);
const char *jv_type_name(const struct jv *v); /* Python's */
bool jv_truth(const struct jv *v);
bool jv_is_number(const struct jv *v); /* bool, int, float, big */
double jv_double(const struct jv *v);
bool jv_as_int(const struct jv *v, int64_t *out); /* bool and int */
bool jv_equal(struct jinja *j, const struct jv *a, const struct jv *b, bool *out);
/* -1, 0, 1; a TypeError when the two have no order. */
bool jv_order(struct jinja *j, const struct jv *a, const struct jv *b, int *out);
bool jv_contains(struct jinja *j, const struct jv *in, const struct jv *what, bool *out);
/* The items of an iterable; an iterator's are taken.  Text gives its characters, a dict its keys.
 */
bool jv_items(struct jinja *j, const struct jv *v, struct jv **items, size_t *count);
bool jv_length(struct jinja *j, const struct jv *v, size_t *out);

bool jlist_new(struct jinja *j, size_t cap, struct jv *out); /* J_LIST, own */
bool jlist_add(struct jinja *j, struct jlist *l, const struct jv *v);
bool jdict_new(struct jinja *j, struct jv *out);
bool jdict_put(struct jinja *j, struct jdict *d, const struct jv *key, const struct jv *value);
const struct jv *jdict_get(const struct jdict *d, const struct jv *key);
const struct jv *jdict_gets(const struct jdict *d, struct str key);
bool jdict_del(struct jinja *j, struct jdict *d, const struct jv *key, struct jv *out);
bool jv_hashable(struct jinja *j, const struct jv *key);

bool jsb_init(struct jsb *b, struct jinja *j, size_t max);
bool jsb_text(struct jsb *b, struct jtext s);
bool jsb_add(struct jsb *b, const char *p, size_t n, bool tainted);
bool jsb_z(struct jsb *b, const char *z);
struct jtext jsb_done(const struct jsb *b);
bool jtext_concat(struct jinja *j, struct jtext a, struct jtext b, struct jtext *out);
bool jtext_escape(struct jinja *j, struct jtext s, struct jtext *out); /* HTML; markup stays */

/* Text helpers over UTF-8; invalid bytes count as one character each. */
size_t jtext_chars(struct str s);
size_t jtext_at(struct str s,
                size_t index); /* byte offset of character `index`, s.n past the end */
bool jchar_is_space(uint32_t cp);
struct jtext jtext_strip(struct jtext s, const struct jv *chars, bool left, bool right);
size_t jtext_find(struct str s, struct str needle, size_t from); /* SIZE_MAX */
bool jtext_replace(struct jinja *j, struct jtext s, struct str old, struct jtext with,
                   int64_t count, struct jtext *out);
enum jcase { JCASE_UPPER, JCASE_LOWER, JCASE_TITLE, JCASE_CAPITAL, JCASE_FILTER_TITLE };
bool jtext_case(struct jinja *j, struct jtext s, enum jcase how, struct jtext *out);

/* ---- jinja_print.c ---- */

bool jprint_str(struct jsb *b, const struct jv *v); /* str(v) */
bool jprint_repr(struct jsb *b, const struct jv *v);
bool jv_to_text(struct jinja *j, const struct jv *v,
                struct jtext *out);          /* str(v) as a value's text */
size_t jprint_float(double f, char out[40]); /* repr */
struct jdump {
    bool ensure_ascii, sort_keys, has_indent;
    struct str indent, item_sep, key_sep;
};
bool jprint_json(struct jsb *b, const struct jv *v, const struct jdump *o);

/* ---- jinja_eval.c, jinja_call.c ---- */

bool jeval(struct jinja *j, const struct jnode *n, struct jv *out);
bool jexec(struct jinja *j, const struct jnode *list);
bool jeval_args(struct jinja *j, const struct jnode *list, struct jv *first, struct jargs *out);
bool jget_attr(struct jinja *j, const struct jv *obj, struct str name, uint16_t method,
               struct jv *out);
bool jget_item(struct jinja *j, const struct jv *obj, const struct jv *key, struct jv *out);
bool jbinary(struct jinja *j, enum jop op, const struct jv *a, const struct jv *b, struct jv *out);
bool jcompare(struct jinja *j, enum jop op, const struct jv *a, const struct jv *b, bool *out);
bool jcall(struct jinja *j, const struct jv *f, struct jargs *args, struct jv *out);
bool jcall_macro(struct jinja *j, struct jmacro *m, struct jargs *args, struct jv *out);
bool jrun_loop(struct jinja *j, const struct jnode *n, const struct jv *over, struct jframe *frame,
               unsigned depth);
bool jassign(struct jinja *j, const struct jnode *target, const struct jv *v);
bool jframe_put(struct jinja *j, struct jframe *f, const char *name, const struct jv *v);
struct jframe *jframe_new(struct jinja *j, struct jframe *up);
void jframe_capture(struct jframe *f);
uint16_t jfunc_id(struct str name); /* 0 = none */
/* An attribute of a loop; false = none. */
bool jloop_attr(const struct jloop *l, struct str name, struct jv *out);

/* ---- filters, tests, methods: tables by index, found at compile time ---- */

#define JUNKNOWN 0xffffu /* a filter or test that there is not, in a branch that may never run */

/* args->v[0] is the value it is applied to. */
typedef bool jcallee(struct jinja *j, struct jargs *args, struct jv *out);
int jfilter_find(struct str name); /* -1 = none */
bool jfilter_run(struct jinja *j, unsigned id, struct jargs *args, struct jv *out);
int jtest_find(struct str name);
bool jtest_run(struct jinja *j, unsigned id, struct jargs *args, bool *out);
uint16_t jmethod_id(struct str name); /* index of the name plus 1; 0 = no type has it */
bool jmethod_exists(uint16_t id, enum jtype type);
bool jmethod_run(struct jinja *j, uint16_t id, struct jargs *args, struct jv *out);

/* Sequence filters, in a file of their own. */
jcallee jseq_map, jseq_select, jseq_reject, jseq_selectattr, jseq_rejectattr, jseq_join, jseq_sort,
    jseq_unique, jseq_first, jseq_last, jseq_list, jseq_reverse, jseq_min, jseq_max, jseq_sum,
    jseq_batch, jseq_slice, jseq_dictsort, jseq_groupby, jseq_items;

/* Argument at position i (the value of a filter has 0), or by name; NULL when absent. */
const struct jv *jarg(const struct jargs *args, size_t i, const char *name);
/* An integer argument with a default; a TypeError when it is something else. */
bool jarg_int(struct jinja *j, const struct jargs *args, size_t i, const char *name, int64_t def,
              int64_t *out);
/* A path such as "a.b" or 0 applied to v. */
bool jattr_path(struct jinja *j, const struct jv *v, const struct jv *path, struct jv *out);

/* "%s %d" % args, and "{} {name}".format(...). */
bool jformat_percent(struct jinja *j, struct jtext f, const struct jv *args, struct jv *out);
bool jformat_braces(struct jinja *j, struct jtext f, const struct jargs *args, struct jv *out);
#endif
