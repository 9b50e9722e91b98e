/* A template, a zero byte, and JSON that it is rendered with: never more than an error.
 *
 * What renders without marks renders the same with them, and marked text that is tokenized has no
 * control token that the template did not write: that is for the unit tests; here nothing may
 * crash, hang or grow. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "text/chat.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *p = (const char *)data, *cut = size > 0 ? memchr(p, 0, size) : NULL;
    struct str source = { p, cut != NULL ? (size_t)(cut - p) : size };
    struct str body = cut != NULL ? (struct str) { cut + 1, size - source.n - 1 } : STR("{}");
    struct chat_render_opts o = { .add_generation_prompt = true,
                                  .bos_token = STR("<s>"),
                                  .eos_token = STR("</s>"),
                                  .now_s = 1772690828 };
    const struct json *root = NULL;
    struct chat_template *t = NULL;
    struct arena a;
    struct buf out;
    struct err e;

    if (chat_template_new(&t, source, &e) != 0)
        return 0;
    arena_init(&a, 1u << 20);
    buf_init(&out, 16u << 20);
    if (json_parse(&a, body, NULL, &root, &e) == 0) {
        o.messages = json_get(root, "messages");
        o.tools = json_get(root, "tools");
        o.kwargs = json_is(json_get(root, "kwargs"), JSON_OBJECT) ? json_get(root, "kwargs") : NULL;
        for (int i = 0; i < 2; i++) {
            size_t before = out.len;
            int rc = chat_render(t, &o, &out, &e);

            ASSERT(rc == 0 || rc == ERR_INVAL || rc == ERR_LIMIT);
            ASSERT(rc == 0 || out.len == before);
            o.continue_final_message = true;
        }
    }
    buf_fini(&out);
    arena_fini(&a);
    chat_template_free(t);
    return 0;
}
