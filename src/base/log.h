/* base/log.h - logfmt lines on standard error: an event, then key=value.
 *
 * Ids and lengths, never prompt or reply text.  A call site that repeats more
 * than 10 times a second is muted for the rest of it and the count is said.
 * Threads: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_LOG_H
#define BASE_LOG_H
#include "base/str.h"

enum log_level { LOG_ERROR_LEVEL, LOG_WARN_LEVEL, LOG_INFO_LEVEL, LOG_DEBUG_LEVEL };

struct log_site {
    uint64_t second;
    uint32_t count, muted;
};

/* part: the name in every line ("worker", "scheduler"), borrowed for ever. */
void log_init(const char *part, enum log_level level);
bool log_level_parse(struct str s, enum log_level *out); /* error warn info debug */
bool log_on(enum log_level level);
void log_line(struct log_site *site, enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define LOG_AT(level, ...)                                                                         \
    do {                                                                                           \
        static struct log_site log_site_;                                                          \
        if (log_on(level))                                                                         \
            log_line(&log_site_, level, __VA_ARGS__);                                              \
    } while (0)
#define LOG_ERROR(...) LOG_AT(LOG_ERROR_LEVEL, __VA_ARGS__)
#define LOG_WARN(...)  LOG_AT(LOG_WARN_LEVEL, __VA_ARGS__)
#define LOG_INFO(...)  LOG_AT(LOG_INFO_LEVEL, __VA_ARGS__)
#define LOG_DEBUG(...) LOG_AT(LOG_DEBUG_LEVEL, __VA_ARGS__)
#endif
