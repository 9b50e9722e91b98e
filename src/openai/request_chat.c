/* Chat requests: messages, tools, and what the template is given.
 *
 * Templates want a conversation in one shape, clients send several.  Messages are
 * therefore copied member by member (values are shared with the received tree):
 *
 *   content: [{type:"text",text:"a"},{type:"text",text:"b"}]   ->  "a\nb"
 *   tool_calls[].function.arguments: "{\"x\":1}"               ->  {"x":1}
 *   reasoning or reasoning_content                             ->  both
 *
 * A message that needs none of these is passed on as it came.  Media parts are
 * refused by name: the models here read text. */
// SPDX-License-Identifier: Apache-2.0
#include "openai/request_priv.h"
#include "base/check.h"
#include <inttypes.h>
#include <string.h>

#define MESSAGES_MAX    4096
#define PARTS_MAX       4096 /* of all messages together */
#define TOOLS_MAX       256
#define TOOL_BYTES_MAX  (64 * 1024)
#define TOOLS_BYTES_MAX (512 * 1024)
#define TOOL_DEPTH_MAX  32
#define NAME_BYTES_MAX  256
#define KWARGS_MAX      256

/* A list of nodes under construction; each node is a copy, so that `next` can change. */
struct node_list {
    struct json *head, *tail;
    uint32_t count;
};

static struct json *node_add(struct request_ctx *c, struct node_list *l, const struct json *from)
{
    struct json *n = arena_try(c->a, sizeof(*n));

    if (n == NULL)
        return NULL;
    *n = *from;
    n->next = NULL;
    if (l->tail != NULL)
        l->tail->next = n;
    else
        l->head = n;
    l->tail = n;
    l->count++;
    return n;
}

static void node_close(struct json *parent, const struct node_list *l)
{
    parent->first = l->head;
    parent->count = l->count;
}

static bool is_text_part(struct str type)
{
    return str_eqz(type, "text") || str_eqz(type, "input_text") || str_eqz(type, "output_text");
}

/* One content part's text. */
static int part_text(struct request_ctx *c, const struct json *part, const char *where, uint32_t i,
                     struct str *out)
{
    struct str type = STR_NONE;

    if (json_str(part, out))
        return 0;
    if (!json_is(part, JSON_OBJECT))
        return BAD(c, "type", request_path(c->a, "%s[%" PRIu32 "]", where, i),
                   "%s[%" PRIu32 "] must be an object, got %s", where, i, request_type_name(part));
    if (!json_str(json_get(part, "type"), &type))
        return BAD(c, "type", request_path(c->a, "%s[%" PRIu32 "].type", where, i),
                   "%s[%" PRIu32 "].type must be a string", where, i);
    if (str_eqz(type, "refusal") && json_str(json_get(part, "refusal"), out))
        return 0;
    if (!is_text_part(type))
        return BAD(c, "unsupported", request_path(c->a, "%s[%" PRIu32 "].type", where, i),
                   "content parts of type '%.*s' are not supported: this model reads text only",
                   CUT(type));
    if (!json_str(json_get(part, "text"), out))
        return BAD(c, "type", request_path(c->a, "%s[%" PRIu32 "].text", where, i),
                   "%s[%" PRIu32 "].text must be a string", where, i);
    return 0;
}

/* Joins the text parts of `content` with newlines, as vLLM does for templates that take strings. */
static int join_parts(struct request_ctx *c, const struct json *content, const char *where,
                      uint32_t *parts, struct json *out)
{
    size_t total = 0, at = 0;
    struct str *text;
    uint32_t i = 0;
    char *p;
    int rc;

    if (content->count > PARTS_MAX - *parts)
        return BAD(c, "limit", where, "at most %d content parts are allowed in one request",
                   PARTS_MAX);
    *parts += content->count;
    text = arena_try_zero(c->a, content->count, sizeof(*text));
    if (text == NULL)
        return request_no_memory(c);
    for (const struct json *j = content->first; j != NULL; j = j->next, i++) {
        rc = part_text(c, j, where, i, &text[i]);
        if (rc != 0)
            return rc;
        total += text[i].n + 1; /* no overflow: the texts lie in one body */
    }
    p = arena_try(c->a, total + 1);
    if (p == NULL)
        return request_no_memory(c);
    for (i = 0; i < content->count; i++) {
        if (i > 0)
            p[at++] = '\n';
        if (text[i].n != 0)
            memcpy(p + at, text[i].p, text[i].n);
        at += text[i].n;
    }
    *out = (struct json) {
        .type = JSON_STRING, .text = { p, at }, .key = content->key, .span = content->span
    };
    return 0;
}

/* A call's arguments as the object that templates expect. */
static int parse_arguments(struct request_ctx *c, const struct json *args, const char *where,
                           struct json *out)
{
    const struct json *value = NULL;
    struct str text;

    if (json_is(args, JSON_OBJECT) || !json_str(args, &text))
        return json_is(args, JSON_OBJECT)
                   ? 0
                   : BAD(c, "type", where, "%s must be a string of JSON", where);
    if (str_trim(text).n == 0)
        text = STR("{}");
    if (json_parse(c->a, text, NULL, &value, NULL) != 0)
        return BAD(c, "value", where, "%s is not valid JSON", where);
    *out = *value;
    out->key = args->key;
    out->next = args->next;
    return 0;
}

static int copy_call(struct request_ctx *c, const struct json *call, const char *where,
                     struct json *out)
{
    struct node_list members = { 0 };
    struct str name;

    if (!json_is(call, JSON_OBJECT))
        return BAD(c, "type", where, "%s must be an object, got %s", where,
                   request_type_name(call));
    if (!json_str(json_get(json_get(call, "function"), "name"), &name) || name.n == 0)
        return BAD(c, "type", request_path(c->a, "%s.function.name", where),
                   "%s.function.name must be a non-empty string", where);
    for (const struct json *m = call->first; m != NULL; m = m->next) {
        struct node_list inner = { 0 };
        struct json *f = node_add(c, &members, m);

        if (f == NULL)
            return request_no_memory(c);
        if (!str_eqz(m->key, "function") || m->type != JSON_OBJECT)
            continue;
        for (const struct json *a = m->first; a != NULL; a = a->next) {
            struct json *n = node_add(c, &inner, a);
            int rc = 0;

            if (n == NULL)
                return request_no_memory(c);
            if (str_eqz(a->key, "arguments") && a->type != JSON_NULL) {
                rc = parse_arguments(c, a, request_path(c->a, "%s.function.arguments", where), n);
                n->next = NULL;
            }
            if (rc != 0)
                return rc;
        }
        node_close(f, &inner);
    }
    node_close(out, &members);
    return 0;
}

static int copy_calls(struct request_ctx *c, const struct json *calls, const char *where,
                      struct json *out)
{
    struct node_list list = { 0 };
    uint32_t i = 0;

    if (calls->type == JSON_NULL)
        return 0;
    if (calls->type != JSON_ARRAY)
        return BAD(c, "type", where, "%s must be an array, got %s", where,
                   request_type_name(calls));
    if (calls->count > PARTS_MAX)
        return BAD(c, "limit", where, "%s may have at most %d items", where, PARTS_MAX);
    for (const struct json *j = calls->first; j != NULL; j = j->next, i++) {
        struct json *n = node_add(c, &list, j);
        int rc = n == NULL ? request_no_memory(c)
                           : copy_call(c, j, request_path(c->a, "%s[%" PRIu32 "]", where, i), n);

        if (rc != 0)
            return rc;
    }
    node_close(out, &list);
    return 0;
}

static bool needs_content(struct str role)
{
    return str_eqz(role, "user") || str_eqz(role, "system") || str_eqz(role, "developer");
}

static int check_role(struct request_ctx *c, const struct json *m, uint32_t i, struct str *role)
{
    const char *where = request_path(c->a, "messages[%" PRIu32 "].role", i);
    const struct json *j = json_get(m, "role");

    if (j == NULL)
        return BAD(c, "missing", where, "%s is required", where);
    if (!json_str(j, role))
        return BAD(c, "type", where, "%s must be a string, got %s", where, request_type_name(j));
    if (role->n == 0 || role->n > NAME_BYTES_MAX)
        return BAD(c, "value", where, "%s must have 1 to %d bytes", where, NAME_BYTES_MAX);
    return 0;
}

static int copy_message(struct request_ctx *c, const struct json *m, uint32_t i, uint32_t *parts,
                        struct json *out)
{
    const struct json *content = json_get(m, "content");
    const char *where = request_path(c->a, "messages[%" PRIu32 "].content", i);
    const struct json *thought = json_get(m, "reasoning"),
                      *alias = json_get(m, "reasoning_content");
    struct node_list members = { 0 };
    struct str role = STR_NONE;
    int rc = check_role(c, m, i, &role);

    if (rc != 0)
        return rc;
    if (needs_content(role) && (content == NULL || content->type == JSON_NULL))
        return BAD(c, "missing", where, "%s is required for role '%.*s'", where, CUT(role));
    for (const struct json *j = m->first; j != NULL && rc == 0; j = j->next) {
        struct json *n = node_add(c, &members, j);

        if (n == NULL)
            return request_no_memory(c);
        if (str_eqz(j->key, "content") && j->type == JSON_ARRAY)
            rc = join_parts(c, j, where, parts, n);
        else if (str_eqz(j->key, "content") && j->type != JSON_STRING && j->type != JSON_NULL)
            rc = BAD(c, "type", where, "%s must be a string or an array of parts, got %s", where,
                     request_type_name(j));
        else if (str_eqz(j->key, "tool_calls"))
            rc = copy_calls(c, j, request_path(c->a, "messages[%" PRIu32 "].tool_calls", i), n);
    }
    if (rc == 0 && (thought != NULL) != (alias != NULL)) {
        struct json *n = node_add(c, &members, thought != NULL ? thought : alias);

        if (n == NULL)
            return request_no_memory(c);
        n->key = thought != NULL ? STR("reasoning_content") : STR("reasoning");
    }
    node_close(out, &members);
    return rc;
}

int request_messages(struct request_ctx *c)
{
    const struct json *messages = request_field(c, "messages");
    struct node_list list = { 0 };
    uint32_t i = 0, parts = 0;
    struct json *out;

    if (messages == NULL)
        return BAD(c, "missing", "messages", "messages is required");
    if (!json_is(messages, JSON_ARRAY))
        return BAD(c, "type", "messages", "messages must be an array, got %s",
                   request_type_name(messages));
    if (messages->count == 0)
        return BAD(c, "value", "messages", "messages must not be empty");
    if (messages->count > MESSAGES_MAX)
        return BAD(c, "limit", "messages", "at most %d messages are allowed, got %" PRIu32,
                   MESSAGES_MAX, messages->count);
    out = arena_try(c->a, sizeof(*out));
    if (out == NULL)
        return request_no_memory(c);
    *out = *messages;
    for (const struct json *j = messages->first; j != NULL; j = j->next, i++) {
        struct json *n;
        int rc;

        if (!json_is(j, JSON_OBJECT))
            return BAD(c, "type", request_path(c->a, "messages[%" PRIu32 "]", i),
                       "messages[%" PRIu32 "] must be an object, got %s", i, request_type_name(j));
        n = node_add(c, &list, j);
        if (n == NULL)
            return request_no_memory(c);
        rc = copy_message(c, j, i, &parts, n);
        if (rc != 0)
            return rc;
    }
    node_close(out, &list);
    c->r->messages = out;
    return 0;
}

/* Depth of a tree the parser has bounded already. */
static unsigned depth_of(const struct json *j)
{
    unsigned deepest = 0;

    for (const struct json *k = j->first; k != NULL; k = k->next) {
        unsigned depth = depth_of(k); /* once: within MAX it would run twice a level */

        deepest = MAX(deepest, depth);
    }
    return deepest + 1;
}

static int check_tool(struct request_ctx *c, const struct json *t, uint32_t i)
{
    const char *where = request_path(c->a, "tools[%" PRIu32 "]", i);
    const struct json *f = json_get(t, "function"), *p = json_get(f, "parameters");
    struct str type = STR_NONE, name = STR_NONE;

    if (!json_is(t, JSON_OBJECT))
        return BAD(c, "type", where, "%s must be an object, got %s", where, request_type_name(t));
    if (!json_str(json_get(t, "type"), &type))
        return BAD(c, "type", request_path(c->a, "%s.type", where), "%s.type must be a string",
                   where);
    if (!str_eqz(type, "function"))
        return BAD(c, "unsupported", request_path(c->a, "%s.type", where),
                   "tools of type '%.*s' are not supported: only 'function' is", CUT(type));
    if (!json_is(f, JSON_OBJECT))
        return BAD(c, "type", request_path(c->a, "%s.function", where),
                   "%s.function must be an object", where);
    if (!json_str(json_get(f, "name"), &name) || name.n == 0 || name.n > NAME_BYTES_MAX)
        return BAD(c, "value", request_path(c->a, "%s.function.name", where),
                   "%s.function.name must be a string of 1 to %d bytes", where, NAME_BYTES_MAX);
    if (p != NULL && p->type != JSON_OBJECT && p->type != JSON_NULL)
        return BAD(c, "type", request_path(c->a, "%s.function.parameters", where),
                   "%s.function.parameters must be an object, got %s", where, request_type_name(p));
    if (t->span.n > TOOL_BYTES_MAX || depth_of(t) > TOOL_DEPTH_MAX)
        return BAD(c, "limit", where, "a tool may have at most %d bytes and %d levels",
                   TOOL_BYTES_MAX, TOOL_DEPTH_MAX);
    return 0;
}

int request_tool_choice(struct request_ctx *c)
{
    const struct json *choice = request_field(c, "tool_choice"),
                      *old = request_field(c, "function_call"),
                      *calls = request_field(c, "parallel_tool_calls");
    struct str s = STR_NONE;
    bool b;

    if (calls != NULL && !json_bool(calls, &b))
        return BAD(c, "type", "parallel_tool_calls",
                   "parallel_tool_calls must be true or false, got %s", request_type_name(calls));
    if (old != NULL && !(json_str(old, &s) && (str_eqz(s, "none") || str_eqz(s, "auto"))))
        return BAD(c, "unsupported", "function_call", "function_call is not supported: use tools");
    if (choice == NULL)
        return 0;
    if (json_is(choice, JSON_OBJECT))
        return BAD(c, "unsupported", "tool_choice",
                   "a named tool_choice is not supported by this server: use 'auto' or 'none'");
    if (!json_str(choice, &s))
        return BAD(c, "type", "tool_choice", "tool_choice must be a string or an object, got %s",
                   request_type_name(choice));
    if (str_eqz(s, "none"))
        return 0;
    if (str_eqz(s, "required"))
        return BAD(c, "unsupported", "tool_choice",
                   "tool_choice 'required' is not supported by this server: use 'auto' or 'none'");
    if (!str_eqz(s, "auto"))
        return BAD(c, "value", "tool_choice", "tool_choice must be 'none' or 'auto', got '%.*s'",
                   CUT(s));
    if (c->r->tools == NULL)
        return BAD(c, "combination", "tool_choice",
                   "tool_choice is only allowed when tools are given");
    return 0;
}

int request_tools(struct request_ctx *c)
{
    const struct json *tools = request_field(c, "tools");
    uint32_t i = 0;

    if (tools == NULL)
        return 0;
    if (!json_is(tools, JSON_ARRAY))
        return BAD(c, "type", "tools", "tools must be an array, got %s", request_type_name(tools));
    if (tools->count == 0)
        return BAD(c, "value", "tools", "tools must not be empty: leave it out");
    if (tools->count > TOOLS_MAX)
        return BAD(c, "limit", "tools", "at most %d tools are allowed, got %" PRIu32, TOOLS_MAX,
                   tools->count);
    if (tools->span.n > TOOLS_BYTES_MAX)
        return BAD(c, "limit", "tools", "tools may have at most %d bytes together, got %zu",
                   TOOLS_BYTES_MAX, tools->span.n);
    for (const struct json *j = tools->first; j != NULL; j = j->next, i++) {
        int rc = check_tool(c, j, i);

        if (rc != 0)
            return rc;
    }
    c->r->tools = tools;
    return 0;
}

static int check_modalities(struct request_ctx *c)
{
    const struct json *m = request_field(c, "modalities");

    if (m == NULL)
        return 0;
    if (!json_is(m, JSON_ARRAY))
        return BAD(c, "type", "modalities", "modalities must be an array, got %s",
                   request_type_name(m));
    for (const struct json *j = m->first; j != NULL; j = j->next)
        if (!json_is(j, JSON_STRING) || !str_eqz(j->text, "text"))
            return BAD(c, "unsupported", "modalities",
                       "modalities other than 'text' are not supported");
    return 0;
}

static int read_effort(struct request_ctx *c, struct node_list *members)
{
    static const char *const efforts[] = { "none", "minimal", "low", "medium",
                                           "high", "xhigh",   "max" };
    const struct json *effort = request_field(c, "reasoning_effort");
    bool known = false;
    struct json *n;
    struct str s;

    if (effort == NULL)
        return 0;
    if (!json_str(effort, &s))
        return BAD(c, "type", "reasoning_effort", "reasoning_effort must be a string, got %s",
                   request_type_name(effort));
    for (size_t i = 0; i < COUNT(efforts); i++)
        known = known || str_eqz(s, efforts[i]);
    if (!known)
        return BAD(c, "value", "reasoning_effort", "reasoning_effort '%.*s' is not known", CUT(s));
    if (node_add(c, members, effort) == NULL)
        return request_no_memory(c);
    if (json_get(c->r->chat_template_kwargs, "enable_thinking") != NULL)
        return 0;
    n = node_add(c, members,
                 &(struct json) { .type = str_eqz(s, "none") ? JSON_FALSE : JSON_TRUE,
                                  .key = STR("enable_thinking") });
    return n == NULL ? request_no_memory(c) : 0;
}

/* reasoning_effort and documents reach the template like chat_template_kwargs do, which win. */
int request_template_args(struct request_ctx *c)
{
    const struct json *docs = request_field(c, "documents"), *args = c->r->chat_template_kwargs;
    struct node_list members = { 0 };
    struct json *out;
    int rc = check_modalities(c);

    if (rc != 0)
        return rc;
    if (args != NULL && args->count > KWARGS_MAX)
        return BAD(c, "limit", "chat_template_kwargs",
                   "chat_template_kwargs may have at most %d members", KWARGS_MAX);
    if (docs != NULL && !json_is(docs, JSON_ARRAY))
        return BAD(c, "type", "documents", "documents must be an array, got %s",
                   request_type_name(docs));
    if (docs != NULL && node_add(c, &members, docs) == NULL)
        return request_no_memory(c);
    rc = read_effort(c, &members);
    if (rc != 0)
        return rc;
    if (c->r->continue_final_message) {
        bool both = false;

        if (json_bool(request_field(c, "add_generation_prompt"), &both) && both)
            return BAD(c, "combination", "continue_final_message",
                       "continue_final_message and add_generation_prompt cannot both be true");
        c->r->add_generation_prompt = false;
    }
    if (members.count == 0)
        return 0;
    for (const struct json *j = args != NULL ? args->first : NULL; j != NULL; j = j->next)
        if (node_add(c, &members, j) == NULL)
            return request_no_memory(c);
    out = arena_try_zero(c->a, 1, sizeof(*out));
    if (out == NULL)
        return request_no_memory(c);
    out->type = JSON_OBJECT;
    node_close(out, &members);
    c->r->chat_template_kwargs = out;
    return 0;
}
