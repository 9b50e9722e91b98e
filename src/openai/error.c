/* Errors in OpenAI's shape.
 *
 * `code` in the body is the HTTP status as a number, as vLLM sends it; our stable
 * word for the reason travels beside it as `reason`, so that neither clients of
 * vLLM nor our own tools have to read sentences. */
// SPDX-License-Identifier: Apache-2.0
#include "openai/openai.h"
#include <stdarg.h>
#include <stdio.h>

int oai_fail(struct oai_error *e, int status, const char *type, const char *code, const char *param,
             const char *fmt, ...)
{
    va_list ap;

    if (e == NULL)
        return ERR_INVAL;
    *e = (struct oai_error) { .status = status, .type = type, .code = code, .param = param };
    va_start(ap, fmt);
    (void)vsnprintf(e->message, sizeof(e->message), fmt, ap);
    va_end(ap);
    return ERR_INVAL;
}

void oai_error_body(const struct oai_error *e, struct buf *out)
{
    struct json_w w;

    json_w_init(&w, out);
    json_w_obj(&w);
    json_w_kobj(&w, "error");
    json_w_kz(&w, "message", e->message);
    json_w_kz(&w, "type", e->type != NULL ? e->type : "InternalServerError");
    if (e->param != NULL)
        json_w_kz(&w, "param", e->param);
    else
        json_w_knull(&w, "param");
    json_w_ki64(&w, "code", e->status);
    if (e->code != NULL)
        json_w_kz(&w, "reason", e->code);
    json_w_end(&w, '}');
    json_w_end(&w, '}');
}

void oai_sse_error(struct buf *out, const struct oai_error *e)
{
    buf_z(out, "data: ");
    oai_error_body(e, out);
    buf_z(out, "\n\n");
}

void oai_sse_done(struct buf *out)
{
    buf_z(out, "data: [DONE]\n\n");
}
