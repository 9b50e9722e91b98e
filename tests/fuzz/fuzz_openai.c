/* Requests of both routes: an error names itself, and what is taken keeps its ceilings. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "openai/openai.h"
#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_taken(const struct oai_request *r)
{
    ASSERT(r->n >= 1 && r->n <= OAI_N_MAX && r->stop_count <= OAI_STOP_MAX &&
           r->stop_id_count <= OAI_STOP_IDS_MAX);
    ASSERT(r->bias_count <= OAI_BIAS_MAX && r->logprobs >= -1 && r->logprobs <= OAI_LOGPROBS_MAX);
    ASSERT(r->temperature >= 0 && r->temperature <= 2 && r->top_p > 0 && r->top_p <= 1);
    ASSERT(r->min_p >= 0 && r->min_p <= 1 && r->repetition_penalty > 0 &&
           isfinite(r->repetition_penalty));
    ASSERT(r->max_tokens >= -1 && r->prompt_count <= OAI_PROMPTS_MAX);
    ASSERT(r->max_tokens <= 0 || (int64_t)r->min_tokens <= r->max_tokens || r->max_tokens == 16);
    for (uint32_t i = 0; i < r->stop_count; i++)
        ASSERT(r->stop[i].n > 0 && r->stop[i].n <= OAI_STOP_BYTES_MAX);
    for (uint32_t i = 0; i < r->bias_count; i++)
        ASSERT(fabsf(r->bias[i].bias) <= 100);
    if (!r->is_chat) {
        ASSERT(r->prompt_count > 0);
        return;
    }
    ASSERT(json_is(r->messages, JSON_ARRAY) && r->messages->count > 0);
    for (const struct json *m = r->messages->first; m != NULL; m = m->next) {
        const struct json *content = json_get(m, "content");

        ASSERT(json_is(m, JSON_OBJECT) && json_is(json_get(m, "role"), JSON_STRING));
        ASSERT(content == NULL || content->type == JSON_STRING || content->type == JSON_NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str body = { (const char *)data, size };

    for (int chat = 0; chat < 2; chat++) {
        struct oai_error e = { 0 };
        struct oai_request r;
        struct arena a;
        struct buf b;
        int rc;

        arena_init(&a, 1u << 20);
        rc = chat ? oai_parse_chat(&a, body, &r, &e) : oai_parse_completion(&a, body, &r, &e);
        if (rc == 0) {
            check_taken(&r);
        } else {
            ASSERT(rc == ERR_INVAL && e.status >= 400 && e.status < 500 && e.code != NULL &&
                   e.message[0] != 0);
            buf_init(&b, 16384);
            oai_error_body(&e, &b);
            ASSERT(!b.failed);
            buf_fini(&b);
        }
        arena_fini(&a);
    }
    return 0;
}
