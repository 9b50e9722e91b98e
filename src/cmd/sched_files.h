/* cmd/sched_files.h - the files that a scheduler reads, and reads again when they change; and what
 * its workers' names resolve to.
 *
 * Configuration, endpoints and objects are loaded once before the start (any fault is fatal, with
 * its line) and watched after it: a file with a fault is refused, said in one line, counted, and
 * what was there before stays.
 * Threads: the gateway's first loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_SCHED_FILES_H
#define CMD_SCHED_FILES_H
#include "base/err.h"
#include "base/opt.h"
#include "gateway/gateway.h"

struct sched_files_opts {
    const char *config_file, *config_text; /* at most one */
    const char *endpoints_file; /* llm-d's file discovery format; or the configuration's */
    const char *objects_file;
    struct opt_list aliases;   /* NAME=TARGET */
    struct opt_list endpoints; /* ADDR:PORT[=ROLE], beside the file's */
    struct opt_list dns;       /* NAME:PORT[=ROLE], likewise */
    uint32_t dns_ms;           /* how often they are asked for */
    bool allow_experimental;
};

struct sched_files;

/* Reads everything into go: endpoints, config, rules.  Owned by *out until sched_files_free. */
int sched_files_load(struct sched_files **out, const struct sched_files_opts *o,
                     struct gateway_opts *go, struct err *e) MUST_CHECK;
/* Watches, and resolves names, from now on. */
void sched_files_watch(struct sched_files *s, struct loop *l, struct gateway *g);
void sched_files_free(struct sched_files *s); /* NULL is fine; before the loop goes */
#endif
