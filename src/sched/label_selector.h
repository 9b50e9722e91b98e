/* sched/label_selector.h - a Kubernetes LabelSelector over an endpoint's labels.
 *
 * All requirements must hold; none at all matches everything.
 * Threads: pure. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_LABEL_SELECTOR_H
#define SCHED_LABEL_SELECTOR_H
#include "base/str.h"

struct sched_endpoint;

enum label_op { LABEL_IN, LABEL_NOT_IN, LABEL_EXISTS, LABEL_DOES_NOT_EXIST };

struct label_requirement {
    struct str key;
    int op;
    const struct str *value;
    uint32_t count;
};

struct label_selector {
    const struct label_requirement *requirement;
    uint32_t count;
};

bool label_selector_match(const struct label_selector *s, const struct sched_endpoint *ep);
#endif
