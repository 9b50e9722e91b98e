/* base/mem.h - the one home of malloc and free.
 *
 * mem_alloc and its kin are for sizes our own code sets: they abort with a
 * message when memory is gone.  mem_try and its kin are for sizes that a peer,
 * a file or a model sets: they return NULL, and tests can make the Nth fail.
 * Threads: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_MEM_H
#define BASE_MEM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t size);
void *mem_zalloc(size_t size);
void *mem_realloc(void *p, size_t size);
void *mem_dup(const void *p, size_t size);
char *mem_strdup(const char *s);
void mem_free(void *p); /* NULL is fine */

void *mem_try(size_t size);                    /* NULL when refused; size 0 gives a valid pointer */
void *mem_try_zero(size_t count, size_t size); /* checked product, zeroed */
void *mem_try_realloc(void *p, size_t size);

/* Page-backed, zeroed, 64-byte aligned (2 MiB when large, huge pages advised).
 * NULL when refused.  Free with mem_pages_free and the same size. */
void *mem_pages(size_t size);
void mem_pages_free(void *p, size_t size);

/* *out = a * b; false on overflow. */
bool size_mul(size_t a, size_t b, size_t *out);
bool size_add(size_t a, size_t b, size_t *out);

/* Tests only: the Nth mem_try* from now fails (0 = off). */
void mem_fail_at(uint64_t nth);
#endif
