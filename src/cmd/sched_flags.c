// SPDX-License-Identifier: Apache-2.0
#include "cmd/sched_flags.h"
#include "base/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FROZEN_MS 3000 /* the default of --frozen-ms */

enum what {
    DROP,       /* a value */
    DROP_BOOL,  /* a switch */
    DROP_QUIET, /* a value, and nobody misses it */
    QUIET_BOOL,
    TO_MS, /* a duration becomes our flag in milliseconds */
    TO_S,  /* or in seconds */
    TO_LEVEL,
    TO_LEVEL_NUMBER,
    TRACING,
    REFUSE,
    REFUSE_BOOL, /* when it is true */
};

static const struct {
    const char *name;
    enum what what;
    const char *text; /* our flag, or why */
} table[] = {
    { "refresh-metrics-interval", TO_MS, "scrape-ms" },
    { "metrics-staleness-threshold", TO_MS, "stale-ms" },
    { "drain-timeout", TO_S, "shutdown-timeout" },
    { "refresh-prometheus-metrics-interval", DROP_QUIET, NULL },
    { "enable-cert-reload", QUIET_BOOL, NULL },
    { "health-checking", QUIET_BOOL, NULL },
    { "enable-pprof", QUIET_BOOL, NULL },
    { "zap-devel", QUIET_BOOL, NULL },
    { "zap-encoder", DROP_QUIET, NULL },
    { "zap-stacktrace-level", DROP_QUIET, NULL },
    { "zap-time-encoding", DROP_QUIET, NULL },
    { "zap-log-level", TO_LEVEL, NULL },
    { "v", TO_LEVEL_NUMBER, NULL },
    { "tracing", TRACING, NULL },
    { "enable-grpc-stream-metrics", DROP_BOOL, "ext_proc streams have no metrics of their own" },
    { "grpc-max-recv-msg-size", DROP, "--max-body-bytes bounds what is taken" },
    { "grpc-max-send-msg-size", DROP, "answers to Envoy are small" },
    { "tls-min-version", DROP, "TLS 1.2 is the least that is spoken" },
    { "tls-cipher-suites", DROP, "the suites are those with ECDHE and AEAD" },
    { "emit-endpoint-scores", DROP_BOOL, "ask for a receipt (x-llmd-explain: 1) instead" },
    { "disable-endpoint-subset-filter", REFUSE_BOOL, "the proxy's subset is always kept to" },
    { "metrics-cert-dir", REFUSE,
      "the metrics port speaks plain text: leave it out, or scrape "
      "--listen with --tls-dir" },
    { "metrics-client-ca-file", REFUSE, "the metrics port speaks plain text: leave it out" },
    { "total-queued-requests-metric", REFUSE, "name metrics in the configuration's engineConfigs" },
    { "total-running-requests-metric", REFUSE,
      "name metrics in the configuration's engineConfigs" },
    { "kv-cache-usage-percentage-metric", REFUSE,
      "name metrics in the configuration's engineConfigs" },
    { "lora-info-metric", REFUSE, "name metrics in the configuration's engineConfigs" },
    { "cache-info-metric", REFUSE, "name metrics in the configuration's engineConfigs" },
};

static size_t row_of(struct str name)
{
    size_t i = 0;

    while (i < COUNT(table) && !str_eqz(name, table[i].name))
        i++;
    return i;
}

static char *text(struct arena *a, const char *fmt, const char *name, const char *value)
{
    size_t n = strlen(fmt) + strlen(name) + strlen(value) + 1;
    char *out = arena_alloc(a, n);

    snprintf(out, n, fmt, name, value);
    return out;
}

static void pass(struct sched_words *out, char *word)
{
    out->word[out->count++] = word;
}

/* Go's durations of one unit or several: "50ms", "1.5s", "1m30s". */
static bool duration_ms(const char *s, double *out)
{
    static const struct {
        const char *unit;
        double ms;
    } units[] = { { "ms", 1 },      { "us", 1e-3 }, { "ns", 1e-6 },
                  { "h", 3600000 }, { "m", 60000 }, { "s", 1000 } };
    double sum = 0;

    if (*s == 0)
        return false;
    while (*s != 0) {
        char *end;
        double v = strtod(s, &end);
        size_t i = 0;

        if (end == s || !(v >= 0 && v < 1e9))
            return false;
        while (i < COUNT(units) && strncmp(end, units[i].unit, strlen(units[i].unit)) != 0)
            i++;
        if (i == COUNT(units))
            return false;
        sum += v * units[i].ms;
        s = end + strlen(units[i].unit);
    }
    *out = sum;
    return true;
}

static int pass_duration(struct arena *a, size_t row, const char *value, struct sched_words *out,
                         struct err *e)
{
    char number[32];
    double ms;

    if (!duration_ms(value, &ms))
        return err_set(e, ERR_INVAL, "--%s: '%s' is no duration such as 50ms or 2s",
                       table[row].name, value);
    snprintf(number, sizeof(number), "%.0f", table[row].what == TO_S ? ms / 1000 : ms);
    pass(out, text(a, "--%s=%s", table[row].text, number));
    if (strcmp(table[row].text, "stale-ms") == 0 && ms > FROZEN_MS) /* it comes before frozen */
        pass(out, text(a, "--%s=%s", "frozen-ms", number));
    return 0;
}

/* zap's words, or its numbers, of which greater ones say more; our words. */
static const char *level_of(const char *value, bool is_number)
{
    char *end;
    long n = strtol(value, &end, 10);

    if (*value != 0 && *end == 0)
        return n >= (is_number ? 4 : 1) ? "debug" : "info";
    if (is_number)
        return NULL;
    return strcmp(value, "debug") == 0   ? "debug"
           : strcmp(value, "info") == 0  ? "info"
           : strcmp(value, "error") == 0 ? "error"
           : strcmp(value, "panic") == 0 ? "error"
                                         : NULL;
}

/* The collector is named by the standard variables. */
static void pass_tracing(struct arena *a, const char *value, struct sched_words *out)
{
    const char *url = getenv("OTEL_EXPORTER_OTLP_ENDPOINT");

    if (strcmp(value, "true") == 0 && url != NULL && strncmp(url, "http://", 7) == 0)
        pass(out, text(a, "--%s=%s", "otlp-endpoint", url));
}

static void note(struct arena *a, size_t row, struct sched_words *out)
{
    if (out->note_count < (int)COUNT(out->note))
        out->note[out->note_count++] =
            text(a, "--%s has no effect here: %s", table[row].name, table[row].text);
}

static int translate(struct arena *a, size_t row, const char *value, struct sched_words *out,
                     struct err *e)
{
    bool is_true = strcmp(value, "true") == 0;
    const char *level;

    switch (table[row].what) {
    case DROP: note(a, row, out); return 0;
    case DROP_BOOL:
        if (is_true)
            note(a, row, out);
        return 0;
    case DROP_QUIET:
    case QUIET_BOOL: return 0;
    case TO_MS:
    case TO_S: return pass_duration(a, row, value, out, e);
    case TO_LEVEL:
    case TO_LEVEL_NUMBER:
        level = level_of(value, table[row].what == TO_LEVEL_NUMBER);
        if (level == NULL)
            return err_set(e, ERR_INVAL, "--%s: must be debug, info, error or a number, not '%s'",
                           table[row].name, value);
        pass(out, text(a, "--%s=%s", "log-level", level));
        return 0;
    case TRACING: pass_tracing(a, value, out); return 0;
    case REFUSE_BOOL:
        if (!is_true)
            return 0;
        break;
    case REFUSE: break;
    }
    return err_set(e, ERR_INVAL, "--%s: %s", table[row].name, table[row].text);
}

static bool is_switch(enum what w)
{
    return w == DROP_BOOL || w == QUIET_BOOL || w == TRACING || w == REFUSE_BOOL;
}

int sched_flags_translate(struct arena *a, int argc, char **argv, struct sched_words *out,
                          struct err *e)
{
    *out = (struct sched_words) { .word = arena_alloc(a, (2 * (size_t)argc + 1) * sizeof(char *)) };
    for (int i = 0; i < argc; i++) {
        struct str value = str_of(argv[i]), name = str_cut(&value, '=');
        const char *given = value.p;
        size_t row;
        int rc;

        if (str_eqz(name, "-v")) /* as -v=4 or -v 4 */
            name = STR("--v");
        row = str_starts(name, STR("--")) ? row_of(str_sub(name, 2, SIZE_MAX)) : COUNT(table);
        if (row == COUNT(table)) {
            pass(out, argv[i]);
            continue;
        }
        if (given == NULL && is_switch(table[row].what))
            given = "true";
        if (given == NULL && i + 1 < argc)
            given = argv[++i];
        if (given == NULL)
            return err_set(e, ERR_INVAL, "--%s needs a value", table[row].name);
        rc = translate(a, row, given, out, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}
