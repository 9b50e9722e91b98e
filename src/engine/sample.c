/* Logits to a token, in vLLM's order: min_tokens, bias, penalties; then greedy, or temperature,
 * min_p, top_k, top_p and a draw from the request's own generator.
 *
 * Nothing sorts the vocabulary.  top_k keeps a heap of k while scanning; top_p alone
 * first drops every token below (1 - p) / n of the mass: together they hold less than 1 - p, so the
 * nucleus lies among the rest, which a heap gives in order until the mass is reached.
 * Ties go to the lower id everywhere, so that a seed repeats on every machine. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "engine/engine_priv.h"
#include <float.h>
#include <math.h>
#include <string.h>

#define SEEN_PROMPT ((uint64_t)1 << 32) /* below it: how often in the output */

int scratch_init(struct sample_scratch *s, uint32_t vocab)
{
    s->vocab = vocab;
    s->raw = mem_try_zero(vocab, sizeof(*s->raw));
    s->value = mem_try_zero(vocab, sizeof(*s->value));
    s->id = mem_try_zero(vocab, sizeof(*s->id));
    return s->raw != NULL && s->value != NULL && s->id != NULL ? 0 : ERR_NOMEM;
}

void scratch_fini(struct sample_scratch *s)
{
    mem_free(s->raw);
    mem_free(s->value);
    mem_free(s->id);
    *s = (struct sample_scratch) { 0 };
}

/* ---- state of one request ---- */

int sampler_init(struct sampler *s, const struct engine_sampling *p, const uint32_t *prompt,
                 uint32_t prompt_count)
{
    *s = (struct sampler) { .p = *p };
    s->p.bias = NULL;
    if (p->bias_count != 0) {
        struct engine_bias *b = mem_try_zero(p->bias_count, sizeof(*b));

        if (b == NULL)
            return ERR_NOMEM;
        memcpy(b, p->bias, p->bias_count * sizeof(*b));
        s->p.bias = b;
    }
    rng_seed(&s->rng, p->has_seed ? p->seed : rng_secure_u64());
    s->penalties = (p->repetition_penalty != 1.0f && p->repetition_penalty > 0) ||
                   p->presence_penalty != 0 || p->frequency_penalty != 0;
    for (uint32_t i = 0; s->penalties && i < prompt_count; i++)
        if (!map_put(&s->counts, prompt[i], SEEN_PROMPT))
            return ERR_NOMEM;
    return 0;
}

void sampler_fini(struct sampler *s)
{
    mem_free((void *)(uintptr_t)s->p.bias);
    map_fini(&s->counts);
    *s = (struct sampler) { 0 };
}

bool sampler_accept(struct sampler *s, uint32_t token)
{
    uint64_t v = 0;

    if (!s->penalties)
        return true;
    (void)map_get(&s->counts, token, &v);
    return map_put(&s->counts, token, v + 1);
}

static void adjust(struct sampler *s, float *l, uint32_t vocab, uint32_t output_count,
                   const uint32_t *eog, uint32_t eog_count)
{
    const struct engine_sampling *p = &s->p;

    if (output_count < p->min_tokens) {
        for (uint32_t i = 0; !p->ignore_eos && i < eog_count; i++)
            l[eog[i]] = -INFINITY;
        for (uint32_t i = 0; i < p->stop_id_count; i++)
            if (p->stop_ids[i] < vocab)
                l[p->stop_ids[i]] = -INFINITY;
    }
    for (uint32_t i = 0; i < p->bias_count; i++)
        if (p->bias[i].id < vocab)
            l[p->bias[i].id] += p->bias[i].bias;
    if (!s->penalties)
        return;
    for (size_t i = map_next(&s->counts, 0); i < s->counts.cap; i = map_next(&s->counts, i + 1)) {
        uint32_t id = (uint32_t)s->counts.slot[i].key, n = (uint32_t)s->counts.slot[i].value;

        if (id >= vocab)
            continue;
        if (p->repetition_penalty > 0)
            l[id] = l[id] > 0 ? l[id] / p->repetition_penalty : l[id] * p->repetition_penalty;
        if (n != 0)
            l[id] -= p->frequency_penalty * (float)n + p->presence_penalty;
    }
}

/* ---- heaps of ids over logits ---- */

/* a stands before b in sampling order. */
static bool before(const float *l, uint32_t a, uint32_t b)
{
    return l[a] != l[b] ? l[a] > l[b] : a < b;
}

/* up: the root is the first in sampling order, else the last. */
static void sift(const float *l, uint32_t *h, uint32_t n, uint32_t i, bool up)
{
    uint32_t v = h[i];

    for (;;) {
        uint32_t c = 2 * i + 1;

        if (c >= n)
            break;
        if (c + 1 < n && before(l, h[c + 1], h[c]) == up)
            c++;
        if (before(l, h[c], v) != up)
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = v;
}

static void heapify(const float *l, uint32_t *h, uint32_t n, bool up)
{
    for (uint32_t i = n / 2; i-- > 0;)
        sift(l, h, n, i, up);
}

/* The k first ids in sampling order, sorted, into h. */
static void select_top(const float *l, uint32_t vocab, float floor, uint32_t k, uint32_t *h,
                       uint32_t *count)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < vocab; i++) {
        if (!(l[i] >= floor))
            continue;
        if (n < k) {
            h[n++] = i;
            if (n == k)
                heapify(l, h, n, false);
        } else if (l[i] > l[h[0]]) {
            h[0] = i;
            sift(l, h, n, 0, false);
        }
    }
    if (n < k)
        heapify(l, h, n, false);
    for (uint32_t m = n; m > 1;) { /* the last one leaves first: the array ends sorted */
        uint32_t v = h[0];

        h[0] = h[--m];
        sift(l, h, m, 0, false);
        h[m] = v;
    }
    *count = n;
}

/* ---- drawing ---- */

struct draw {
    const float *l;
    float max, inv_t, floor; /* floor: min_p as a logit */
    uint32_t vocab;
    struct rng *rng;
};

static double weight(const struct draw *d, uint32_t id)
{
    return (double)expf((d->l[id] - d->max) * d->inv_t);
}

/* Draws from ids in order, whose weights sum to `sum`. */
static uint32_t draw_from(const struct draw *d, const uint32_t *id, uint32_t n, double sum)
{
    double left = rng_f64(d->rng) * sum;

    for (uint32_t i = 0; i + 1 < n; i++) {
        left -= weight(d, id[i]);
        if (left < 0)
            return id[i];
    }
    return id[n - 1];
}

static uint32_t draw_all(const struct draw *d, struct sample_scratch *x)
{
    double sum = 0, left;
    uint32_t last = 0;

    for (uint32_t i = 0; i < d->vocab; i++) {
        x->value[i] = d->l[i] >= d->floor ? (float)weight(d, i) : 0;
        sum += (double)x->value[i];
    }
    left = rng_f64(d->rng) * sum;
    for (uint32_t i = 0; i < d->vocab; i++) {
        if (x->value[i] == 0)
            continue;
        last = i;
        left -= (double)x->value[i];
        if (left < 0)
            break;
    }
    return last;
}

static uint32_t draw_top_k(const struct draw *d, uint32_t k, double top_p, struct sample_scratch *x)
{
    uint32_t n, keep = 0;
    double sum = 0, mass = 0;

    select_top(d->l, d->vocab, d->floor, k, x->id, &n);
    for (uint32_t i = 0; i < n; i++)
        sum += weight(d, x->id[i]);
    while (keep < n) {
        mass += weight(d, x->id[keep++]);
        if (mass >= top_p * sum)
            break;
    }
    return draw_from(d, x->id, keep, mass);
}

/* Nucleus: ids leave the heap in order until the mass is reached; they gather at the array's end.
 */
static uint32_t draw_top_p(const struct draw *d, double top_p, struct sample_scratch *x)
{
    double sum = 0, mass = 0, left;
    uint32_t n = 0, count = 0, out;
    float cut;

    for (uint32_t i = 0; i < d->vocab; i++)
        if (d->l[i] >= d->floor) {
            x->value[i] = (float)weight(d, i);
            sum += (double)x->value[i];
            count++;
        } else {
            x->value[i] = 0;
        }
    cut = (float)((1 - top_p) * sum / count *
                  0.999); /* a little lower: rounding must not cut the nucleus */
    for (uint32_t i = 0; i < d->vocab; i++)
        if (x->value[i] > 0 && x->value[i] >= cut)
            x->id[n++] = i;
    heapify(d->l, x->id, n, true);
    for (out = n; out > 0;) {
        uint32_t v = x->id[0];

        mass += (double)x->value[v];
        x->id[0] = x->id[--out];
        sift(d->l, x->id, out, 0, true);
        x->id[out] = v;
        if (mass >= top_p * sum)
            break;
    }
    left = rng_f64(d->rng) * mass;
    for (uint32_t i = n; i-- > out + 1;) {
        left -= (double)x->value[x->id[i]];
        if (left < 0)
            return x->id[i];
    }
    return x->id[out];
}

uint32_t sampler_pick(struct sampler *s, float *logits, uint32_t vocab, uint32_t output_count,
                      const uint32_t *eog, uint32_t eog_count, struct sample_scratch *scratch,
                      struct engine_logprob *lp)
{
    const struct engine_sampling *p = &s->p;
    struct draw d = { .l = logits, .vocab = vocab, .rng = &s->rng, .floor = -INFINITY };
    uint32_t id, best, k = p->top_k;
    double top_p = (double)p->top_p;

    if (lp != NULL)
        memcpy(scratch->raw, logits, vocab * sizeof(*logits));
    adjust(s, logits, vocab, output_count, eog, eog_count);
    best = kern_argmax(logits, vocab);
    id = best;
    if (p->temperature > 1e-5f && isfinite(logits[best])) {
        d.max = logits[best];
        d.inv_t = 1.0f / p->temperature;
        if (p->min_p > 0)
            d.floor = d.max + p->temperature * logf(p->min_p);
        else
            d.floor = -FLT_MAX; /* barred tokens are at -inf */
        if (k == 1)
            id = best;
        else if (k != 0 && k < vocab)
            id = draw_top_k(&d, k, top_p < 1 ? top_p : 2, scratch); /* 2: never reached, all stay */
        else if (top_p < 1)
            id = draw_top_p(&d, top_p, scratch);
        else
            id = draw_all(&d, scratch);
    }
    if (lp != NULL)
        sample_logprob(scratch->raw, vocab, id, p->logprobs, lp);
    return id;
}

void sample_logprob(const float *logits, uint32_t vocab, uint32_t id, int n,
                    struct engine_logprob *lp)
{
    uint32_t top = n > 0 ? MIN((uint32_t)n, (uint32_t)ENGINE_LOGPROBS_MAX) : 0, rank = 1;
    float max = logits[0];
    double sum = 0, norm;

    for (uint32_t i = 1; i < vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < vocab; i++) {
        sum += (double)expf(logits[i] - max);
        rank += logits[i] > logits[id];
    }
    norm = (double)max + log(sum);
    *lp = (struct engine_logprob) { .id = id,
                                    .logprob = (float)((double)logits[id] - norm),
                                    .rank = rank };
    if (top == 0)
        return;
    select_top(logits, vocab, -INFINITY, top, lp->top_id, &lp->top_count);
    for (uint32_t i = 0; i < lp->top_count; i++)
        lp->top_logprob[i] = (float)((double)logits[lp->top_id[i]] - norm);
}
