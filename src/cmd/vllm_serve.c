/* vllm serve MODEL ...: manifests written for vLLM start our worker unchanged.
 *
 * Flags that mean the same here go on to `llmd worker`.  Those of vLLM that can mean nothing here
 * are rows of a table: each is dropped with one warning that says why.  Any other one is the
 * worker's to refuse, with the nearest name it knows. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include <stdio.h>
#include <string.h>

enum takes {
    NOTHING, /* --name or --no-name */
    VALUE,
    ONE /* a value, which must be 1 */
};

static const struct {
    const char *name;
    enum takes takes;
    const char *why;
} unused[] = {
    { "async-scheduling", NOTHING, "the engine has a thread of its own" },
    { "calculate-kv-scales", NOTHING, "KV is not quantized by scales" },
    { "cpu-offload-gb", VALUE, "weights are in the machine's memory already" },
    { "data-parallel-size", ONE, "start more workers" },
    { "disable-access-log-for-endpoints", VALUE, "a worker has no access log" },
    { "disable-hybrid-kv-cache-manager", NOTHING,
      "layers of one window share their blocks always" },
    { "disable-log-requests", NOTHING, "requests are not logged" },
    { "disable-log-stats", NOTHING, "figures are at /metrics only" },
    { "disable-uvicorn-access-log", NOTHING, "a worker has no access log" },
    { "distributed-executor-backend", VALUE, "a worker is one process" },
    { "dtype", VALUE, "the file says the types of its tensors" },
    { "enable-chunked-prefill", NOTHING, "prompts are always computed in chunks" },
    { "enable-log-requests", NOTHING, "prompts are not logged" },
    { "enable-prompt-tokens-details", NOTHING, "usage always has them" },
    { "enforce-eager", NOTHING, "there are no graphs to capture" },
    { "gpu-memory-utilization", VALUE, "say --kv-cache-memory-bytes" },
    { "kv-transfer-config", VALUE, "workers hand KV over by KVX (docs/protocols/kvx.md), always" },
    { "load-format", VALUE, "the file's format is found out" },
    { "max-log-len", VALUE, "prompts are not logged" },
    { "pipeline-parallel-size", ONE, "start more workers" },
    { "swap-space", VALUE, "what is preempted is computed again" },
    { "tensor-parallel-size", ONE, "one worker uses all threads of its machine" },
    { "trust-remote-code", NOTHING, "no code of a model is run" },
    { "uvicorn-log-level", VALUE, "say --log-level" },
};

/* A copy of `word` in which a flag's name has dashes: vLLM takes both. */
static char *dashed(const char *word)
{
    size_t n = strlen(word);
    char *copy = mem_alloc(n + 1);

    memcpy(copy, word, n + 1);
    if (copy[0] == '-' && copy[1] == '-')
        for (char *p = copy; *p != '\0' && *p != '='; p++)
            if (*p == '_')
                *p = '-';
    return copy;
}

/* The row of `word`, a flag with or without its value, or COUNT(unused). */
static size_t row_of(const char *word)
{
    size_t i, n;

    if (strncmp(word, "--", 2) != 0)
        return COUNT(unused);
    word += 2;
    n = strcspn(word, "=");
    for (i = 0; i < COUNT(unused); i++) {
        const char *name = unused[i].name;

        if (strlen(name) == n && memcmp(name, word, n) == 0)
            break;
        if (unused[i].takes == NOTHING && n > 3 && memcmp(word, "no-", 3) == 0 &&
            strlen(name) == n - 3 && memcmp(name, word + 3, n - 3) == 0)
            break;
    }
    return i;
}

/* Checks and drops what belongs to row `i`.  Returns the words it takes, or -1 (said). */
static int drop(size_t i, const char *word, const char *next)
{
    const char *equals = strchr(word, '='), *value = equals != NULL ? equals + 1 : next;
    int name_len = (int)strcspn(word, "=");

    if (unused[i].takes == NOTHING && equals != NULL) {
        fprintf(stderr, "llmd: %.*s takes no value\n", name_len, word);
        return -1;
    }
    if (unused[i].takes != NOTHING && value == NULL) {
        fprintf(stderr, "llmd: %.*s needs a value\n", name_len, word);
        return -1;
    }
    if (unused[i].takes == ONE && strcmp(value, "1") != 0) {
        fprintf(stderr, "llmd: %.*s %s: only 1 is possible here: %s\n", name_len, word, value,
                unused[i].why);
        return -1;
    }
    if (unused[i].takes != ONE)
        fprintf(stderr, "llmd: warning: %.*s has no effect: %s\n", name_len, word, unused[i].why);
    return unused[i].takes == NOTHING || equals != NULL ? 1 : 2;
}

int cmd_vllm_serve(int argc, char **argv)
{
    char **words = mem_zalloc((size_t)(argc + 1) * sizeof(*words));
    char **kept = mem_zalloc((size_t)(argc + 1) * sizeof(*kept));
    int count = 0, rc = 0;

    for (int i = 0; i < argc; i++)
        words[i] = dashed(argv[i]);
    for (int i = 0; i < argc && rc >= 0;) {
        size_t row = row_of(words[i]);

        rc = 1;
        if (row < COUNT(unused))
            rc = drop(row, words[i], words[i + 1]);
        else
            kept[count++] = words[i];
        i += rc;
    }
    rc = rc < 0 ? 2 : cmd_worker(count, kept);
    for (int i = 0; i < argc; i++)
        mem_free(words[i]);
    mem_free(kept);
    mem_free(words);
    return rc;
}
