/* From a worker's events to pairs of the index.
 *
 * An engine hash is opaque.  Each endpoint has its own table of handles:
 *
 *   (engine hash, group, part) --mix--> { prefix of the key : 48 | age : 8 | references : 8 }
 *
 * References count stores minus removals, per tier (3 bits GPU, 3 CPU, 2 other);
 * the pair leaves the index when the last one goes.  A handle may outlive its
 * pair, when the index evicted the key: removing it is then a no-op.
 *
 * Engine blocks of R canonical blocks have a handle for each part.  When R
 * engine blocks make one canonical block only the last of them gets a handle:
 * engines give up the end of a chain first, and its hash is the one that a
 * child names as its parent. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "kv/index_priv.h"

#define HANDLE_SAMPLE 16
#define CHUNK         16 /* canonical blocks whose memory is fetched together */
#define EXTRAS_MAX    64 /* of one canonical block */
#define RATIO_MAX     256
#define PREFIX_SHIFT  16

static const struct {
    unsigned shift, max;
} refs_of[] = {
    [KV_TIER_GPU] = { 0, 7 },
    [KV_TIER_CPU] = { 3, 7 },
    [KV_TIER_OTHER] = { 6, 3 },
};

static const char *const indexable_kinds[] = { "full_attention", "mla_attention",
                                               "sink_full_attention" };

static enum kv_tier tier_of(struct str medium)
{
    if (medium.n == 0 || str_ieq(medium, STR("gpu")))
        return KV_TIER_GPU;
    return str_ieq(medium, STR("cpu")) ? KV_TIER_CPU : KV_TIER_OTHER;
}

static uint64_t handle_hash(const struct kv_index *x, uint64_t engine_hash, uint32_t group,
                            uint32_t part)
{
    uint64_t h = kv_index_mix(x, engine_hash);

    return group == 0 && part == 0 ? h : kv_index_mix(x, h + ((uint64_t)group << 32 | part));
}

static struct kv_table *handle_table(struct kv_endpoint *ep, uint64_t hash)
{
    return &ep->handle[hash >> (64 - KV_HANDLE_SHARD_BITS)];
}

static struct kv_entry *handle_find(struct kv_endpoint *ep, uint64_t hash)
{
    return kv_table_find(handle_table(ep, hash), hash);
}

static void handle_del(struct kv_index *x, uint32_t endpoint, struct kv_table *t, size_t at)
{
    struct kv_endpoint *ep = x->endpoint[endpoint];
    uint64_t prefix = t->e[at].val >> PREFIX_SHIFT;

    kv_table_del(t, at);
    ep->handle_count--;
    x->handle_count--;
    kv_index_pair_del(x, endpoint, prefix);
}

/* Over the ceiling: the oldest of a few handles goes, from the larger of two endpoints. */
static void evict_handle(struct kv_index *x, uint32_t endpoint)
{
    uint32_t other = (uint32_t)(x->inserts % x->endpoint_count), seen = 0;
    struct kv_endpoint *ep;
    struct kv_table *t = NULL;
    size_t victim = 0;
    uint8_t oldest = 0;

    if (x->endpoint[other]->handle_count > x->endpoint[endpoint]->handle_count)
        endpoint = other;
    ep = x->endpoint[endpoint];
    if (ep->handle_count <= HANDLE_SAMPLE)
        return;
    for (uint32_t s = 0; s <= KV_HANDLE_SHARDS && t == NULL; s++) {
        struct kv_table *in = &ep->handle[(x->inserts + s) % KV_HANDLE_SHARDS];
        size_t start = in->alloc != 0 ? ep->hand % in->alloc : 0;

        for (size_t i = 0; i < in->alloc && seen < HANDLE_SAMPLE; i++) {
            size_t at = (start + i) % in->alloc;
            uint8_t age = (uint8_t)(x->age - (uint8_t)(in->e[at].val >> 8));

            if (in->e[at].hash == KV_TABLE_UNUSED)
                continue;
            seen++;
            ep->hand++;
            if (t == NULL || age > oldest) {
                t = in;
                victim = at;
                oldest = age;
            }
        }
    }
    if (t != NULL)
        handle_del(x, endpoint, t, victim);
}

static void store_block(struct kv_index *x, uint32_t endpoint, uint64_t hash, uint64_t mixed,
                        enum kv_tier tier)
{
    struct kv_endpoint *ep = x->endpoint[endpoint];
    uint64_t prefix = mixed >> PREFIX_SHIFT, refs;
    bool is_new;
    struct kv_entry *en = kv_table_put(handle_table(ep, hash), hash, &is_new);

    if (en == NULL)
        return; /* no memory: one hint less */
    if (is_new) {
        ep->handle_count++;
        x->handle_count++;
    } else if (en->val >> PREFIX_SHIFT != prefix) { /* the engine gave the hash to other tokens */
        kv_index_pair_del(x, endpoint, en->val >> PREFIX_SHIFT);
        en->val = 0;
    }
    refs = en->val & 0xff;
    if ((refs >> refs_of[tier].shift & refs_of[tier].max) < refs_of[tier].max)
        refs += (uint64_t)1 << refs_of[tier].shift;
    en->val = prefix << PREFIX_SHIFT | (uint64_t)x->age << 8 | refs;
    (void)kv_index_pair_add(x, endpoint, mixed);
    while (x->handle_count > x->handles_max) {
        uint64_t before = x->handle_count;

        evict_handle(x, endpoint);
        if (x->handle_count == before)
            break;
    }
}

/* Extra keys of canonical block i.  A bare text of a prompt's first engine block is taken for the
 * salt, which belongs to the first canonical block alone.  false = too many. */
static bool extras_of(const struct kv_event *ev, uint32_t i, uint32_t ratio, uint32_t join,
                      uint32_t *at, struct blockkey_extra *out, size_t *count)
{
    uint32_t first = join > 1 ? i * join : i / ratio, last = join > 1 ? first + join - 1 : first;

    *count = 0;
    while (*at < ev->extra_count && ev->extras[*at].block < first)
        ++*at;
    for (uint32_t k = *at; k < ev->extra_count && ev->extras[k].block <= last; k++) {
        const struct kv_extra *e = &ev->extras[k];

        if (e->block == 0 && !ev->has_parent && !e->is_media && i != 0)
            continue;
        if (*count == EXTRAS_MAX)
            return false;
        out[(*count)++].text = e->text;
    }
    return true;
}

/* How an event's blocks map to canonical ones. */
struct shape {
    uint32_t group; /* 0 = none, else index + 1 */
    uint32_t ratio; /* canonical blocks an engine block, >= 1 */
    uint32_t join;  /* engine blocks a canonical one, >= 1 */
};

static bool shape_of(const struct kv_index *x, const struct kv_event *ev, uint32_t group,
                     struct shape *s, enum kv_skip *why)
{
    uint32_t size = ev->block_size, c = x->block_tokens;

    *why = KV_SKIP_SPAN;
    if (ev->hash_count == 0 || (size != 0 && (uint64_t)size * ev->hash_count != ev->token_count))
        return false;
    *why = KV_SKIP_BLOCK_SIZE;
    if (size == 0)
        return false;
    *s = (struct shape) { .group = group, .ratio = 1, .join = 1 };
    if (size >= c && size % c == 0 && size / c <= RATIO_MAX)
        s->ratio = size / c;
    else if (size < c && c % size == 0)
        s->join = c / size;
    else
        return false;
    return true;
}

/* The group's number + 1, 0 without one; false = not to be indexed. */
static bool group_of(struct kv_endpoint *ep, const struct kv_event *ev, uint32_t *out,
                     enum kv_skip *why)
{
    struct kv_group *g;

    *out = 0;
    if (!ev->has_group)
        return true;
    *why = KV_SKIP_UNKNOWN_GROUP;
    if (ev->group >= KV_GROUPS_MAX)
        return false;
    *out = ev->group + 1;
    g = &ep->group[*out];
    if (ev->kind == KV_STORED && ev->kind_name.p != NULL) {
        g->is_known = true;
        g->is_indexable = false;
        for (size_t i = 0; i < COUNT(indexable_kinds); i++)
            g->is_indexable = g->is_indexable || str_eqz(ev->kind_name, indexable_kinds[i]);
    }
    if (g->is_known)
        *why = KV_SKIP_KIND;
    return g->is_known && g->is_indexable;
}

const char *kv_skip_name(enum kv_skip s)
{
    static const char *const names[KV_SKIPS] = {
        [KV_SKIP_UNKNOWN_TAG] = "unknown_tag",     [KV_SKIP_UNKNOWN_GROUP] = "unknown_group",
        [KV_SKIP_KIND] = "unsupported_cache_kind", [KV_SKIP_BLOCK_SIZE] = "invalid_block_size",
        [KV_SKIP_SPAN] = "non_dense_block_span",   [KV_SKIP_UNKNOWN_BLOCK] = "unknown_block",
        [KV_SKIP_EXTRAS] = "too_many_extra_keys",
    };

    return names[s];
}

static void skip_store(struct kv_apply_stats *st, enum kv_skip why)
{
    st->skipped++;
    st->store_skips[why]++;
}

/* The key that children of this engine block chain from. */
static bool parent_key(struct kv_index *x, struct kv_endpoint *ep, const struct kv_event *ev,
                       const struct shape *s, uint64_t *out)
{
    const struct {
        uint32_t group, ratio;
    } tries[] = {
        { s->group, s->ratio },
        { s->group, ep->group[s->group].ratio },
        { 0, ep->group[0].ratio },
    };

    for (size_t i = 0; i < COUNT(tries); i++) {
        struct kv_entry *en, *key;

        if (tries[i].ratio == 0)
            continue;
        en = handle_find(ep, handle_hash(x, ev->parent, tries[i].group, tries[i].ratio - 1));
        key = en != NULL ? kv_index_by_prefix(x, en->val >> PREFIX_SHIFT) : NULL;
        if (key == NULL)
            continue;
        key->val = kv_holders_aged(key->val, x->age); /* in use, or it would have no child */
        *out = kv_index_unmix(x, key->hash);
        return true;
    }
    return false;
}

/* A block already announced is in one more tier: no tokens come with it. */
static void apply_tier(struct kv_index *x, uint32_t endpoint, const struct kv_event *ev,
                       uint32_t group, enum kv_tier tier, struct kv_apply_stats *st)
{
    struct kv_endpoint *ep = x->endpoint[endpoint];
    const uint32_t groups[] = { group, 0 };
    bool any = false;

    for (uint32_t i = 0; i < ev->hash_count; i++)
        for (size_t g = 0; g < (group != 0 ? COUNT(groups) : 1); g++) {
            uint32_t parts = ep->group[groups[g]].ratio;
            bool found = false;

            for (uint32_t part = 0; part < parts; part++) {
                uint64_t hash = handle_hash(x, ev->hashes[i], groups[g], part);
                struct kv_entry *en = handle_find(ep, hash);
                struct kv_entry *key =
                    en != NULL ? kv_index_by_prefix(x, en->val >> PREFIX_SHIFT) : NULL;

                if (key != NULL) {
                    store_block(x, endpoint, hash, key->hash, tier);
                    found = true;
                }
            }
            if (found) {
                st->stored++;
                any = true;
                break;
            }
        }
    if (!any && ev->hash_count != 0)
        skip_store(st, KV_SKIP_UNKNOWN_BLOCK);
}

static void apply_stored(struct kv_index *x, uint32_t endpoint, const struct kv_event *ev,
                         struct kv_apply_stats *st)
{
    struct kv_endpoint *ep = x->endpoint[endpoint];
    enum kv_tier tier = tier_of(ev->medium);
    struct blockkey_extra extras[EXTRAS_MAX];
    uint64_t hash[CHUNK], mixed[CHUNK], key;
    uint32_t group, blocks, at = 0;
    enum kv_skip why;
    struct shape s;

    if (!group_of(ep, ev, &group, &why)) {
        skip_store(st, why);
        return;
    }
    if (ev->token_count == 0) {
        apply_tier(x, endpoint, ev, group, tier, st);
        return;
    }
    if (!shape_of(x, ev, group, &s, &why)) {
        skip_store(st, why);
        return;
    }
    if (!ev->has_parent) {
        key = indexkey_root(x->hash, str_of(x->seed),
                            ev->lora_name.n != 0 ? ev->lora_name : str_of(ep->model));
    } else if (!parent_key(x, ep, ev, &s, &key)) {
        st->orphans += ev->hash_count;
        return;
    }
    ep->group[group].ratio = (uint16_t)MAX(ep->group[group].ratio, s.ratio);
    blocks = ev->token_count / x->block_tokens;
    for (uint32_t i = 0; i < blocks; i += CHUNK) {
        uint32_t n = MIN(blocks - i, (uint32_t)CHUNK);

        for (uint32_t j = 0; j < n; j++) {
            uint32_t b = i + j;
            size_t count;

            if (!extras_of(ev, b, s.ratio, s.join, &at, extras, &count)) {
                skip_store(st, KV_SKIP_EXTRAS);
                return;
            }
            key = indexkey_next(x->hash, key, ev->tokens + (size_t)b * x->block_tokens,
                                x->block_tokens, count != 0 ? extras : NULL, count);
            mixed[j] = kv_index_mix(x, key);
            hash[j] = s.join > 1 ? handle_hash(x, ev->hashes[(b + 1) * s.join - 1], group, 0)
                                 : handle_hash(x, ev->hashes[b / s.ratio], group, b % s.ratio);
            kv_table_prefetch(kv_index_shard(x, mixed[j]), mixed[j]);
            kv_table_prefetch(handle_table(ep, hash[j]), hash[j]);
        }
        for (uint32_t j = 0; j < n; j++)
            store_block(x, endpoint, hash[j], mixed[j], tier);
    }
    st->stored += ev->hash_count;
}

static void apply_removed(struct kv_index *x, uint32_t endpoint, const struct kv_event *ev,
                          struct kv_apply_stats *st)
{
    struct kv_endpoint *ep = x->endpoint[endpoint];
    enum kv_tier tier = tier_of(ev->medium);
    uint32_t group;
    enum kv_skip why;

    if (!group_of(ep, ev, &group, &why)) {
        st->skipped++;
        st->removal_skips[why]++;
        return;
    }
    for (uint32_t i = 0; i < ev->hash_count; i++) {
        bool found = false, is_last = false;

        for (uint32_t part = 0; part < ep->group[group].ratio; part++) {
            uint64_t hash = handle_hash(x, ev->hashes[i], group, part);
            struct kv_table *t = handle_table(ep, hash);
            struct kv_entry *en = kv_table_find(t, hash);

            if (en == NULL || (en->val >> refs_of[tier].shift & refs_of[tier].max) == 0)
                continue;
            found = true;
            en->val -= (uint64_t)1 << refs_of[tier].shift;
            if ((en->val & 0xff) != 0)
                continue;
            is_last = true;
            handle_del(x, endpoint, t, (size_t)(en - t->e));
        }
        st->removed += is_last;
        st->suppressed += found && !is_last;
    }
}

void kv_index_apply(struct kv_index *x, uint32_t endpoint, const struct kv_batch *b,
                    struct kv_apply_stats *s)
{
    struct kv_apply_stats st = { .skipped = b->skipped,
                                 .store_skips[KV_SKIP_UNKNOWN_TAG] = b->skipped };

    for (uint32_t i = 0; endpoint < x->endpoint_count && i < b->count; i++)
        switch (b->events[i].kind) {
        case KV_STORED: apply_stored(x, endpoint, &b->events[i], &st); break;
        case KV_REMOVED: apply_removed(x, endpoint, &b->events[i], &st); break;
        case KV_CLEARED: kv_index_clear(x, endpoint); break;
        }
    kv_index_sweep_step(x);
    if (s != NULL)
        *s = st;
}
