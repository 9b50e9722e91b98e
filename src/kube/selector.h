/* kube/selector.h - label selectors as the query of a list.
 *
 * The grammar is Kubernetes' own, equality and sets: `a=b`, `a==b`, `a!=b`, `a in (b,c)`,
 * `a notin (b,c)`, `a`, `!a`, `a>1`, `a<1`, joined by commas.  It is only checked here; the server
 * does the selecting.
 * Source: Kubernetes "Labels and Selectors".
 * Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KUBE_SELECTOR_H
#define KUBE_SELECTOR_H
#include "base/buf.h"
#include "base/err.h"

/* The query labelSelector=...  ERR_INVAL with the place that is wrong. */
int kube_selector_query(struct str text, struct buf *out, struct err *e) MUST_CHECK;
/* [PREFIX/]NAME; and a value, which may be empty. */
bool kube_label_key_ok(struct str s);
bool kube_label_value_ok(struct str s);
/* Appends s as a part of a URL's query. */
void kube_percent(struct buf *out, struct str s);
#endif
