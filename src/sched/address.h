/* sched/address.h - parts of "host:port" and "[v6]:port".  Threads: pure. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_ADDRESS_H
#define SCHED_ADDRESS_H
#include "base/str.h"

/* The host without brackets; the whole when there is no port. */
struct str sched_address_host(struct str address);
#endif
