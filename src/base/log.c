// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"
#include "base/clock.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#define LINE_MAX_BYTES 8192
#define SITE_PER_S     10

static const char *part_name = "llmd";
static enum log_level level_max = LOG_INFO_LEVEL;
static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* guards call-site counters and the write */

void log_init(const char *part, enum log_level level)
{
    part_name = part;
    level_max = level;
}

bool log_level_parse(struct str s, enum log_level *out)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };

    for (int i = 0; i < 4; i++)
        if (str_eqz(s, names[i])) {
            *out = (enum log_level)i;
            return true;
        }
    return false;
}

bool log_on(enum log_level level)
{
    return level <= level_max;
}

void log_line(struct log_site *site, enum log_level level, const char *fmt, ...)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };
    char line[LINE_MAX_BYTES], stamp[32];
    double now = clock_wall_s();
    time_t second = (time_t)now;
    struct tm tm;
    va_list ap;
    int n;

    gmtime_r(&second, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    pthread_mutex_lock(&lock);
    if (site->second != (uint64_t)second) {
        if (site->muted != 0)
            fprintf(stderr, "ts=%s level=%s part=%s repeated count=%u\n", stamp, names[level],
                    part_name, site->muted);
        *site = (struct log_site) { .second = (uint64_t)second };
    }
    if (++site->count > SITE_PER_S) {
        site->muted++;
        pthread_mutex_unlock(&lock);
        return;
    }
    n = snprintf(line, sizeof(line), "ts=%s.%03dZ level=%s part=%s ", stamp,
                 (int)((now - (double)second) * 1000), names[level], part_name);
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s\n", line);
    pthread_mutex_unlock(&lock);
}
