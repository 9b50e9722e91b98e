/* Export, import and leases: KV that leaves for, or comes from, another worker.
 *
 *   export: RUNNING --on_prefill--> blocks below export_ready may be copied --end--> LEASED
 * --release, expiry--> (pins == 0) freed import: IMPORTING: destination blocks reserved, network
 * threads copy into them (pins) --done or deadline--> closed --pins == 0--> contiguous blocks are
 * published, WAITING
 *
 * A network thread finds the request under mu, pins it, copies without the lock and unpins.  The
 * engine never frees blocks of a pinned request: that is what keeps late reads and late writes (I2,
 * I3) out. A closed import takes no new writer, so the wait for pins ends within one copy. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_priv.h"
#include <string.h>

/* ---- engine thread ---- */

void kvio_ready(struct engine *en, struct seq *s)
{
    uint32_t n = MIN(s->published, s->prompt_blocks);

    if (s->rq.hold_kv) {
        pthread_mutex_lock(&en->mu);
        s->export_ready = n;
        pthread_mutex_unlock(&en->mu);
    }
    if (n > s->prefill_told && s->rq.on_prefill != NULL)
        s->rq.on_prefill(s->rq.ctx, s->id, n);
    s->prefill_told = MAX(s->prefill_told, n);
}

bool kvio_park(struct engine *en, struct seq *s, bool lease)
{
    uint32_t keep = lease ? MIN(s->published, s->prompt_blocks) : 0;
    bool parked;

    pthread_mutex_lock(&en->mu);
    s->import_closed = true;
    s->import_ready = false;
    s->state = keep != 0 ? SEQ_LEASED : SEQ_ENDED;
    parked = keep != 0 || s->pins != 0;
    if (keep != 0)
        s->deadline_ns = clock_ns() + (uint64_t)en->plan.o.lease_ms * 1000000;
    else
        s->export_ready = 0;
    if (!parked && s->rq.hold_kv)
        en->hold_blocks -= s->prompt_blocks;
    pthread_mutex_unlock(&en->mu);
    if (!parked || keep != 0)
        seq_release(en, s, keep);
    if (!parked)
        return false;
    if (en->parked_count == en->parked_cap) {
        en->parked_cap = en->parked_cap * 2 + 16;
        en->parked = mem_realloc(en->parked, en->parked_cap * sizeof(*en->parked));
    }
    en->parked[en->parked_count++] = s;
    return true;
}

void kvio_parked(struct engine *en, uint64_t now_ns)
{
    for (uint32_t i = 0; i < en->parked_count;) {
        struct seq *s = en->parked[i];
        bool free_now;

        pthread_mutex_lock(&en->mu);
        if (s->state == SEQ_LEASED &&
            (s->lease_released || s->cancelled || en->closing || now_ns >= s->deadline_ns)) {
            s->state = SEQ_ENDED;
            s->export_ready = 0;
        }
        free_now = s->state == SEQ_ENDED && s->pins == 0;
        if (free_now) {
            (void)map_del(&en->ids, s->id);
            if (s->rq.hold_kv)
                en->hold_blocks -= s->prompt_blocks;
        }
        pthread_mutex_unlock(&en->mu);
        if (!free_now) {
            i++;
            continue;
        }
        seq_release(en, s, 0);
        seq_free(s);
        en->parked[i] = en->parked[--en->parked_count];
    }
}

uint64_t kvio_next_deadline(const struct engine *en)
{
    uint64_t at = UINT64_MAX;

    for (uint32_t i = 0; i < en->parked_count; i++)
        if (en->parked[i]->state == SEQ_LEASED)
            at = MIN(at, en->parked[i]->deadline_ns);
    for (uint32_t i = 0; i < en->waiting_count; i++)
        if (en->waiting[i]->state == SEQ_IMPORTING)
            at = MIN(at, en->waiting[i]->deadline_ns);
    return at;
}

/* Leading blocks that are here already, seen from the prompt's last token: the windowed part
 * counts only where that token's window reaches (from `first` on). */
static uint32_t take_local(struct engine *en, struct seq *s, uint32_t first)
{
    uint32_t n = 0;

    if (en->kv.groups == 1 || !en->plan.o.prefix_caching)
        return seq_take_prefix(en, s);
    for (; n < s->prompt_blocks; n++) {
        uint32_t id = blocks_find(&en->kv, &s->keys[n]);

        if (id == BLOCK_NONE || (n >= first && en->kv.block[id].part1 == BLOCK_NONE))
            break;
        s->table[0][n] = id;
    }
    seq_adopt(en, s, n, first);
    return n;
}

void kvio_import_try(struct engine *en, struct seq *s)
{
    uint32_t T = en->kv.tokens, end = s->prompt_blocks, hits, first;
    bool ok = true;

    pthread_mutex_lock(&en->mu);
    ok = !s->import_ready && !s->import_closed;
    pthread_mutex_unlock(&en->mu);
    if (!ok)
        return;
    first = seq_window_first(en, s->prompt_count - 1);
    hits = take_local(en, s, first);
    while (ok && s->table_count < end) {
        uint32_t i = s->table_count, id = blocks_alloc(&en->kv);

        if (id == BLOCK_NONE) {
            ok = false;
            break;
        }
        s->table[0][i] = id;
        s->table[1][i] = BLOCK_NONE;
        s->table_count++;
        if (en->kv.groups > 1 && i >= first) {
            ok = blocks_alloc_part(&en->kv, id);
            if (ok)
                s->table[1][i] = en->kv.block[id].part1;
        }
    }
    if (!ok) {
        seq_release(en, s, 0);
        return;
    }
    s->cached_tokens = MIN(hits * T, s->computed);
    pthread_mutex_lock(&en->mu);
    for (uint32_t i = 0; i < end; i++)
        s->arrived[i] = i < hits;
    s->import_ready = true;
    if (hits == end) /* nothing to wait for */
        s->import_closed = true;
    pthread_mutex_unlock(&en->mu);
}

/* The longest run of blocks that are here and from which the windowed group can go on. */
static uint32_t usable(const struct engine *en, const struct seq *s)
{
    uint32_t n = s->published;

    while (n < s->prompt_blocks && s->arrived[n])
        n++;
    for (; en->kv.groups > 1 && n > 0; n--) {
        uint32_t first = seq_window_first(en, MIN(n * en->kv.tokens, s->count - 1)), i = n;

        while (i > first && s->table[1][i - 1] != BLOCK_NONE)
            i--;
        if (i == first)
            break;
    }
    return n;
}

bool kvio_import_poll(struct engine *en, struct seq *s, uint64_t now_ns)
{
    bool wait, ready;
    uint32_t n, first;

    pthread_mutex_lock(&en->mu);
    if (now_ns >= s->deadline_ns && !s->import_closed) {
        s->import_closed = true;
        s->import_rc = ERR_TIMEOUT;
    }
    wait = !s->import_closed || s->pins != 0;
    ready = s->import_ready;
    if (!wait) {
        s->state = SEQ_WAITING;
        s->import_ready = false;
    }
    pthread_mutex_unlock(&en->mu);
    if (wait)
        return false;
    if (!ready)
        return true; /* never had blocks: an ordinary request from here on */
    n = usable(en, s);
    if (n < s->published) { /* too little came for the window: begin again from the local cache */
        seq_release(en, s, 0);
        s->cached_tokens = 0;
        return true;
    }
    seq_publish(en, s, n);
    s->computed = MIN(n * en->kv.tokens, s->count - 1);
    first = seq_window_first(en, s->computed);
    s->first_part = MIN(s->first_part, first); /* less came than was reserved for */
    seq_slide_to(en, s, first);
    s->imported_tokens = s->computed > s->cached_tokens ? s->computed - s->cached_tokens : 0;
    return true;
}

/* ---- any thread ---- */

static struct seq *find(struct engine *en, uint64_t id)
{
    uint64_t v;

    return map_get(&en->ids, id, &v) ? (struct seq *)(uintptr_t)v : NULL;
}

static void unpin(struct engine *en, struct seq *s)
{
    if (--s->pins == 0 && (s->state == SEQ_ENDED || s->import_closed)) {
        en->mail = true;
        pthread_cond_signal(&en->wake);
    }
}

size_t engine_kv_group_bytes(const struct engine *en, uint32_t g)
{
    return g < en->kv.groups ? en->kv.stride[g] : 0;
}

size_t engine_kv_block_bytes(const struct engine *en)
{
    return engine_kv_group_bytes(en, 0) + engine_kv_group_bytes(en, 1);
}

int engine_export_block(struct engine *en, uint64_t id, uint32_t index, void *dst,
                        struct blockkey *key, uint32_t *parts)
{
    uint32_t place[GROUPS] = { BLOCK_NONE, BLOCK_NONE };
    struct seq *s;
    int rc = 0;

    *parts = 0;
    pthread_mutex_lock(&en->mu);
    s = find(en, id);
    if (s == NULL || s->state == SEQ_ENDED || !s->rq.hold_kv || index >= s->prompt_blocks)
        rc = ERR_NOTFOUND;
    else if (index >= s->export_ready)
        rc = ERR_AGAIN;
    if (rc == 0) {
        s->pins++;
        for (uint32_t g = 0; g < en->kv.groups; g++)
            place[g] = s->table[g][index];
        *key = s->keys[index];
    }
    pthread_mutex_unlock(&en->mu);
    if (rc != 0)
        return rc;
    for (uint32_t g = 0; g < en->kv.groups; g++) {
        uint8_t *to = (uint8_t *)dst + (g != 0 ? en->kv.stride[0] : 0);

        if (place[g] == BLOCK_NONE) { /* nothing of ours leaves unasked */
            memset(to, 0, en->kv.stride[g]);
            continue;
        }
        memcpy(to, blocks_at(&en->kv, g, place[g]), en->kv.stride[g]);
        *parts |= 1u << g;
    }
    pthread_mutex_lock(&en->mu);
    unpin(en, s);
    pthread_mutex_unlock(&en->mu);
    return 0;
}

/* Under mu: may a network thread write this block?  0, an error, or 1 when it is here already. */
static int import_check(const struct engine *en, const struct seq *s, uint32_t index,
                        const struct blockkey *key, uint32_t parts)
{
    uint32_t need;

    if (s == NULL || s->state == SEQ_ENDED || s->arrived == NULL)
        return ERR_NOTFOUND;
    if (index >= s->prompt_blocks || !blockkey_eq(key, &s->keys[index]))
        return ERR_MISMATCH;
    if (s->arrived[index])
        return 1;
    if (s->import_closed)
        return ERR_NOTFOUND;
    if (!s->import_ready)
        return ERR_AGAIN;
    need = 1u | (en->kv.groups > 1 && s->table[1][index] != BLOCK_NONE ? 2u : 0);
    return (parts & need) == need ? 0 : ERR_INVAL;
}

int engine_import_block(struct engine *en, uint64_t id, uint32_t index, const struct blockkey *key,
                        uint32_t parts, const void *src)
{
    uint32_t place[GROUPS] = { BLOCK_NONE, BLOCK_NONE };
    struct seq *s;
    int rc;

    pthread_mutex_lock(&en->mu);
    s = find(en, id);
    rc = import_check(en, s, index, key, parts);
    if (rc == 0) {
        s->pins++;
        for (uint32_t g = 0; g < en->kv.groups; g++)
            place[g] = s->table[g][index];
    }
    pthread_mutex_unlock(&en->mu);
    if (rc != 0)
        return rc == 1 ? 0 : rc;
    for (uint32_t g = 0; g < en->kv.groups; g++)
        if (place[g] != BLOCK_NONE)
            memcpy(blocks_at(&en->kv, g, place[g]),
                   (const uint8_t *)src + (g != 0 ? en->kv.stride[0] : 0), en->kv.stride[g]);
    pthread_mutex_lock(&en->mu);
    s->arrived[index] = true;
    unpin(en, s);
    pthread_mutex_unlock(&en->mu);
    return 0;
}

void engine_import_done(struct engine *en, uint64_t id, int rc)
{
    struct seq *s;

    pthread_mutex_lock(&en->mu);
    s = find(en, id);
    if (s != NULL && s->state == SEQ_IMPORTING && !s->import_closed) {
        s->import_closed = true;
        s->import_rc = rc;
        en->mail = true;
        pthread_cond_signal(&en->wake);
    }
    pthread_mutex_unlock(&en->mu);
}

void engine_lease_renew(struct engine *en, uint64_t id, uint32_t ms)
{
    struct seq *s;

    pthread_mutex_lock(&en->mu);
    s = find(en, id);
    if (s != NULL &&
        s->state == SEQ_LEASED) { /* never shortens; the engine re-reads it when it wakes */
        uint64_t until = clock_ns() + (uint64_t)ms * 1000000;

        s->deadline_ns = MAX(s->deadline_ns, until);
    }
    pthread_mutex_unlock(&en->mu);
}

void engine_lease_release(struct engine *en, uint64_t id)
{
    struct seq *s;

    pthread_mutex_lock(&en->mu);
    s = find(en, id);
    if (s != NULL) { /* also before its end: then no lease begins */
        s->lease_released = true;
        en->mail = true;
        pthread_cond_signal(&en->wake);
    }
    pthread_mutex_unlock(&en->mu);
}

uint32_t engine_prefix_blocks(struct engine *en, const uint32_t *prompt, uint32_t count,
                              struct str salt)
{
    struct blockkey_extra extra = { salt };
    struct blockkey key = en->root, next;
    uint32_t T = en->kv.tokens, n = 0;

    for (; (n + 1) * T <= count; n++) {
        bool salted = n == 0 && salt.n != 0;

        blockkey_next(&key, prompt + (size_t)n * T, T, salted ? &extra : NULL, salted, &next);
        key = next;
        if (blocks_count_prefix(&en->kv, &key, 1) == 0)
            break;
    }
    return n;
}
