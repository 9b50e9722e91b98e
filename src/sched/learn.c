/* What answers teach about an endpoint.
 *
 * Prefill: time to first token over computed tokens, only from requests that had little in front of
 * them, because a queue would be learned as slowness and then be counted twice.
 *
 * Decode: milliseconds per token against the streams beside it, as a straight line fitted over
 * decayed sums: its start is the speed alone, its slope what one more stream costs.  Without any
 * spread in the number of streams a slope cannot be seen, so the configured one is assumed. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/sched.h"

#define PREFILL_TOKENS_MIN 32  /* fewer, and the fixed cost of a request is all one sees */
#define DECODE_TOKENS_MIN 4
#define SMOOTH 0.2             /* weight of the newest sample once there are several */
#define DECAY 0.95             /* of the decode line's sums: about the last 20 answers */
#define SPREAD_MIN 0.25        /* variance of streams from which a slope is believed */
#define SLOPE_MAX 2.0
#define MS_MAX 60000.0         /* per token; beyond it a clock or a sleep was measured */

static double clamp(double v, double lo, double hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

static void learn_prefill(struct sched_learner *l, const struct sched_sample *s)
{
    double ms, weight;

    if (s->ttft_ms <= 0 || s->uncached_tokens < PREFILL_TOKENS_MIN ||
        s->queued_tokens > 0.25 * s->uncached_tokens)
        return;
    ms = clamp(s->ttft_ms / (s->uncached_tokens + s->queued_tokens), 1e-4, MS_MAX);
    l->prefill_samples++;
    weight = MAX(SMOOTH, 1.0 / l->prefill_samples);
    l->prefill_ms_per_token += weight * (ms - l->prefill_ms_per_token);
}

static void learn_decode(struct sched_learner *l, const struct sched_conf *c,
                         const struct sched_sample *s)
{
    double y, x = MAX(0.0, s->streams), mean_x, mean_y, var, slope;

    if (s->decode_tokens < DECODE_TOKENS_MIN || s->decode_ms <= 0)
        return;
    y = clamp(s->decode_ms / s->decode_tokens, 1e-4, MS_MAX);
    l->weight = l->weight * DECAY + 1;
    l->sx = l->sx * DECAY + x;
    l->sxx = l->sxx * DECAY + x * x;
    l->sy = l->sy * DECAY + y;
    l->sxy = l->sxy * DECAY + x * y;
    l->decode_samples++;

    mean_x = l->sx / l->weight;
    mean_y = l->sy / l->weight;
    var = l->sxx / l->weight - mean_x * mean_x;
    if (var >= SPREAD_MIN) {
        double base;

        slope = MAX(0.0, (l->sxy / l->weight - mean_x * mean_y) / var);
        base = mean_y - slope * mean_x;
        /* noise can push the start of the line under any speed that was seen */
        l->decode_ms_per_token = MAX(base, mean_y / (1 + SLOPE_MAX * mean_x));
        l->decode_batch_slope = clamp(slope / l->decode_ms_per_token, 0, SLOPE_MAX);
    } else {
        l->decode_ms_per_token = mean_y / (1 + c->decode_batch_slope * mean_x);
        l->decode_batch_slope = 0;
    }
}

void sched_learn(struct sched_learner *l, const struct sched_conf *c, const struct sched_sample *s)
{
    learn_prefill(l, s);
    learn_decode(l, c, s);
}
