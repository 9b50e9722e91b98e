/* base/opt.h - command-line flags as a table: parser, defaults and --help in one.
 *
 * Flags are GNU style: --name VALUE, --name=VALUE, --flag, --no-flag.  A wrong
 * flag gives one line that names it and the nearest known one. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_OPT_H
#define BASE_OPT_H
#include "base/buf.h"
#include "base/err.h"

enum opt_kind {
    OPT_BOOL, /* bool */
    OPT_U32,  /* uint32_t, min..max */
    OPT_U64,  /* uint64_t, min..max */
    OPT_F64,  /* double */
    OPT_STR,  /* const char *, borrowed from argv or the table */
    OPT_LIST  /* struct opt_list: may be repeated */
};

#define OPT_LIST_MAX 256

struct opt_list {
    const char *item[OPT_LIST_MAX];
    size_t count;
};

struct opt_desc {
    const char *name; /* without dashes */
    enum opt_kind kind;
    size_t at;         /* offsetof in the options struct */
    const char *value; /* default as text; NULL = as the caller left it (zero the struct first) */
    const char *arg;   /* what help shows for the value, e.g. "ADDR:PORT" */
    uint64_t min, max; /* numbers; max 0 = no bound beyond the type */
    const char *help;
};

/* Sets defaults, then reads argv[0..argc).  Words that are not flags go to rest (may be NULL:
 * then they are an error).  Returns 0, ERR_INVAL, or ERR_CANCELLED when --help was asked for. */
int opt_parse(void *opts, const struct opt_desc *table, size_t count, int argc, char **argv,
              struct opt_list *rest, struct err *e) MUST_CHECK;
void opt_help(const struct opt_desc *table, size_t count, struct buf *out);
/* The nearest of names (by edit distance, at most 3) or NULL. */
const char *opt_nearest(struct str word, const char *const *names, size_t count);
#endif
