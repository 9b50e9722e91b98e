// SPDX-License-Identifier: Apache-2.0
#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (e != NULL) {
        va_list ap;

        va_start(ap, fmt);
        e->code = code;
        vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
        va_end(ap);
    }
    return code;
}

const char *err_name(int code)
{
    switch (code) {
    case 0: return "ok";
    case ERR_INVAL: return "invalid";
    case ERR_NOMEM: return "nomem";
    case ERR_IO: return "io";
    case ERR_PARSE: return "parse";
    case ERR_LIMIT: return "limit";
    case ERR_NOTFOUND: return "notfound";
    case ERR_AGAIN: return "again";
    case ERR_TIMEOUT: return "timeout";
    case ERR_CLOSED: return "closed";
    case ERR_CANCELLED: return "cancelled";
    case ERR_UNSUPPORTED: return "unsupported";
    case ERR_MISMATCH: return "mismatch";
    default: return "internal";
    }
}
