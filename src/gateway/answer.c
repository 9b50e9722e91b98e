/* Answers are looked at, never parsed: lines that begin with "data:" are counted, and only a text
 * that contains a usage object has that object read.  Inside JSON strings a quote is escaped and a
 * line end cannot stand, so neither a forged usage nor a forged end mark can come out of content.
 */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/answer.h"
#include "base/arena.h"
#include "base/check.h"
#include "codec/json.h"
#include <string.h>

#define USAGE_BYTES_MAX 4096

size_t answer_whole_events(struct str s)
{
    size_t n = s.n;

    while (n > 0) {
        const char *nl = memrchr(s.p, '\n', n);
        size_t at;

        if (nl == NULL)
            return 0;
        at = (size_t)(nl - s.p);
        if (at >= 1 && s.p[at - 1] == '\n')
            return at + 1;
        if (at >= 2 && s.p[at - 1] == '\r' && s.p[at - 2] == '\n')
            return at + 1;
        n = at;
    }
    return 0;
}

/* The object that begins at s.p[0], by its braces; n == 0: it does not end. */
static struct str object_at(struct str s)
{
    size_t depth = 0, n = MIN(s.n, (size_t)USAGE_BYTES_MAX);
    bool in_string = false;

    for (size_t i = 0; i < n; i++) {
        char c = s.p[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{') {
            depth++;
        } else if (c == '}' && --depth == 0) {
            return str_sub(s, 0, i + 1);
        }
    }
    return STR("");
}

static bool tokens_of(const struct json *j, const char *key, const char *other, uint32_t *out)
{
    uint64_t v;

    if (!json_u64(json_get(j, key), &v) && !json_u64(json_get(j, other), &v))
        return false;
    *out = (uint32_t)MIN(v, (uint64_t)UINT32_MAX);
    return true;
}

static void read_usage(struct str object, struct answer_usage *usage)
{
    struct arena a;
    const struct json *j, *details;
    struct answer_usage u = { .known = true };
    struct err e;

    arena_init(&a, (size_t)256 << 10);
    if (json_parse(&a, object, NULL, &j, &e) == 0 &&
        tokens_of(j, "prompt_tokens", "input_tokens", &u.prompt_tokens)) {
        (void)tokens_of(j, "completion_tokens", "output_tokens", &u.completion_tokens);
        details = json_get(j, "prompt_tokens_details");
        if (details == NULL)
            details = json_get(j, "input_tokens_details");
        u.cached_known = tokens_of(details, "cached_tokens", "cached_tokens", &u.cached_tokens);
        *usage = u;
    }
    arena_fini(&a);
}

void answer_find_usage(struct str text, struct answer_usage *usage)
{
    static const struct str name = { "\"usage\"", 7 };

    for (size_t at; (at = str_find(text, name)) != SIZE_MAX;) {
        bool escaped = at > 0 && text.p[at - 1] == '\\';
        struct str rest = str_trim(str_sub(text, at + name.n, SIZE_MAX)), object;

        text = str_sub(text, at + name.n, SIZE_MAX);
        if (escaped || rest.n == 0 || rest.p[0] != ':')
            continue;
        rest = str_trim(str_sub(rest, 1, SIZE_MAX));
        if (rest.n == 0 || rest.p[0] != '{')
            continue;
        object = object_at(rest);
        if (object.n != 0)
            read_usage(object, usage);
    }
}

static void inspect_line(struct str line, struct answer_seen *seen)
{
    struct str data;

    if (!str_starts(line, STR("data:")))
        return;
    data = str_sub(line, 5, SIZE_MAX);
    if (data.n > 0 && data.p[0] == ' ')
        data = str_sub(data, 1, SIZE_MAX);
    if (str_starts(data, STR("[DONE]"))) {
        seen->done = true;
        return;
    }
    seen->events++;
    if (str_starts(data, STR("{\"error\"")) || str_starts(data, STR("{\"object\":\"error\"")) ||
        str_starts(data, STR("{\"type\":\"error\"")))
        seen->error = true;
}

void answer_inspect(struct str events, struct answer_seen *seen, struct answer_usage *usage)
{
    struct str rest = events;

    while (rest.n > 0) {
        struct str line = str_cut(&rest, '\n');

        if (line.n > 0)
            inspect_line(line, seen);
    }
    answer_find_usage(events, usage);
}

void answer_rename(struct str text, struct str from, struct str to, struct buf *out)
{
    static const struct str key = { "\"model\":", 8 };

    while (text.n > 0) {
        size_t at = str_find(text, key), value;

        if (at == SIZE_MAX)
            break;
        value = at + key.n;
        if (value < text.n && text.p[value] == ' ')
            value++;
        buf_str(out, str_sub(text, 0, value));
        text = str_sub(text, value, SIZE_MAX);
        if (text.n >= from.n + 2 && text.p[0] == '"' && text.p[from.n + 1] == '"' &&
            str_eq(str_sub(text, 1, from.n), from)) {
            struct json_w w;

            json_w_init(&w, out);
            json_w_str(&w, to);
            text = str_sub(text, from.n + 2, SIZE_MAX);
        }
    }
    buf_str(out, text);
}
