/* base/err.h - error codes and the sentence that goes with one.
 *
 * Every fallible call returns 0 or a negative ERR_*.  Set-up calls also fill a
 * struct err with one line an operator can act on.  Threads: a struct err
 * belongs to its caller. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_ERR_H
#define BASE_ERR_H
#include <stddef.h>

enum {
    ERR_INVAL = -1,        /* an argument or option is out of range */
    ERR_NOMEM = -2,        /* memory could not be had */
    ERR_IO = -3,           /* disk or socket failed */
    ERR_PARSE = -4,        /* bytes are not of the format */
    ERR_LIMIT = -5,        /* a ceiling was reached */
    ERR_NOTFOUND = -6,     /* no such thing */
    ERR_AGAIN = -7,        /* not now; a later try can succeed */
    ERR_TIMEOUT = -8,      /* a deadline passed */
    ERR_CLOSED = -9,       /* the other side is gone */
    ERR_CANCELLED = -10,   /* the caller withdrew */
    ERR_UNSUPPORTED = -11, /* well-formed, but not something we do */
    ERR_MISMATCH = -12,    /* fingerprint, epoch or checksum differs */
    ERR_INTERNAL = -13     /* our own fault */
};

#define ERR_MSG_MAX 512

struct err {
    int code;
    char msg[ERR_MSG_MAX]; /* NUL-ended, one line; cut when too long */
};

#define MUST_CHECK __attribute__((warn_unused_result))

/* Fills *e (may be NULL) and returns code, so that failing is one line. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A short constant name such as "limit" for logs and metric labels. */
const char *err_name(int code);
#endif
