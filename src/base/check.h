/* base/check.h - assertions (our own errors only) and small compile-time helpers. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_CHECK_H
#define BASE_CHECK_H
#include <assert.h>
#include <stddef.h>

/* Always compiled in: says where and what, then aborts. */
_Noreturn void check_failed(const char *file, int line, const char *what);

#define ASSERT(x) ((x) ? (void)0 : check_failed(__FILE__, __LINE__, #x))
#ifdef NDEBUG
#define DEBUG_ASSERT(x) ((void)0)
#else
#define DEBUG_ASSERT(x) ASSERT(x)
#endif

#define COUNT(a)                      (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)                     ((a) < (b) ? (a) : (b))
#define MAX(a, b)                     ((a) > (b) ? (a) : (b))
#define CONTAINER_OF(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))
#endif
