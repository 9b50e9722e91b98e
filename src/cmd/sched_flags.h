/* cmd/sched_flags.h - the flags of llm-d's endpoint picker that are none of ours by name.
 *
 * Manifests written for it start this scheduler unchanged: a flag that means the same here becomes
 * ours, one that can mean nothing here is dropped with a line that says why, one whose absence
 * would change what is promised is refused with what to do.  Words that are not in the table go on
 * as they are.
 * Source: the project's scheduler page, 1.2.
 * Threads: pure, but for what it prints. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_SCHED_FLAGS_H
#define CMD_SCHED_FLAGS_H
#include "base/arena.h"
#include "base/err.h"

struct sched_words {
    char **word; /* in the arena, or argv's own */
    int count;
    /* What was dropped, for the log once it is open. */
    const char *note[64];
    int note_count;
};

/* ERR_INVAL with what to do. */
int sched_flags_translate(struct arena *a, int argc, char **argv, struct sched_words *out,
                          struct err *e) MUST_CHECK;
#endif
