/* What answers teach about an endpoint.
 *
 * Prefill: time to first token over computed tokens, only from requests that had little in front of
 * them, because a queue would be learned as slowness and then be counted twice.
 *
 * Decode: milliseconds per token against the streams beside it, as a straight line fitted over
 * decayed sums: its start is the speed alone, its slope what one more stream costs.  Without any
 * spread in the number of streams a slope cannot be seen, so the configured one is assumed.
 *
 * An answer that comes in one piece shows only its end: ms = p * uncached + d * tokens.  Requests
 * that were alone on their endpoint give such equations, and least squares over their decayed sums
 * give p and d, with what is believed already as the prior. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/sched.h"
#include <math.h>

#define PREFILL_TOKENS_MIN 32 /* fewer, and the fixed cost of a request is all one sees */
#define DECODE_TOKENS_MIN  4
#define SMOOTH             0.2  /* weight of the newest sample once there are several */
#define DECAY              0.95 /* of sums: about the last 20 answers */
#define SPREAD_MIN         0.25 /* variance of streams from which a slope is believed */
#define SLOPE_MAX          2.0
#define MS_MIN             1e-4
#define MS_MAX             60000.0 /* per token; beyond it a clock or a sleep was measured */
#define PRIOR_UNCACHED     64.0    /* tokens: the weight of what was believed before */
#define PRIOR_TOKENS       8.0
#define RATE_EQUAL         1.25
#define RATE_SAMPLES       8.0 /* so many samples count as much as the fleet's word */

static double clamp(double v, double lo, double hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

static void prefill_seen(struct sched_learner *l, double ms)
{
    ms = clamp(ms, MS_MIN, MS_MAX);
    l->prefill_samples++;
    l->prefill_ms_per_token +=
        MAX(SMOOTH, 1.0 / l->prefill_samples) * (ms - l->prefill_ms_per_token);
}

static void learn_prefill(struct sched_learner *l, const struct sched_sample *s)
{
    if (s->ttft_ms > 0 && s->uncached_tokens >= PREFILL_TOKENS_MIN &&
        s->queued_tokens <= 0.25 * s->uncached_tokens)
        prefill_seen(l, s->ttft_ms / (s->uncached_tokens + s->queued_tokens));
}

static void decode_seen(struct sched_learner *l, const struct sched_conf *c, double streams,
                        double ms)
{
    double x = MAX(0.0, streams), y = clamp(ms, MS_MIN, MS_MAX), mean_x, mean_y, var, slope;

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
        slope = MAX(0.0, (l->sxy / l->weight - mean_x * mean_y) / var);
        /* noise can push the start of the line under any speed that was seen */
        l->decode_ms_per_token = MAX(mean_y - slope * mean_x, mean_y / (1 + SLOPE_MAX * mean_x));
        l->decode_batch_slope = clamp(slope / l->decode_ms_per_token, 0, SLOPE_MAX);
    } else {
        l->decode_ms_per_token = mean_y / (1 + c->decode_batch_slope * mean_x);
        l->decode_batch_slope = 0;
    }
}

static void learn_decode(struct sched_learner *l, const struct sched_conf *c,
                         const struct sched_sample *s)
{
    if (s->decode_tokens >= DECODE_TOKENS_MIN && s->decode_ms > 0)
        decode_seen(l, c, s->streams, s->decode_ms / s->decode_tokens);
}

static double believed(double learned, double otherwise)
{
    return learned > 0 ? learned : otherwise;
}

static void learn_whole(struct sched_learner *l, const struct sched_conf *c,
                        const struct sched_sample *s)
{
    double p0 = believed(l->prefill_ms_per_token, c->default_prefill_ms_per_token);
    double d0 = believed(l->decode_ms_per_token, c->default_decode_ms_per_token);
    double u = s->uncached_tokens, n = s->decode_tokens, a, b, det;

    if (s->whole_ms <= 0 || (u < PREFILL_TOKENS_MIN && n < DECODE_TOKENS_MIN))
        return;
    l->suu = l->suu * DECAY + u * u;
    l->sun = l->sun * DECAY + u * n;
    l->snn = l->snn * DECAY + n * n;
    l->sut = l->sut * DECAY + u * s->whole_ms;
    l->snt = l->snt * DECAY + n * s->whole_ms;

    a = l->suu + PRIOR_UNCACHED * PRIOR_UNCACHED;
    b = l->snn + PRIOR_TOKENS * PRIOR_TOKENS;
    det = a * b - l->sun * l->sun; /* > 0: Cauchy-Schwarz, and the priors */
    if (u >= PREFILL_TOKENS_MIN)
        prefill_seen(l, ((l->sut + PRIOR_UNCACHED * PRIOR_UNCACHED * p0) * b -
                         l->sun * (l->snt + PRIOR_TOKENS * PRIOR_TOKENS * d0)) /
                            det);
    if (n >= DECODE_TOKENS_MIN)
        decode_seen(l, c, 0,
                    (a * (l->snt + PRIOR_TOKENS * PRIOR_TOKENS * d0) -
                     l->sun * (l->sut + PRIOR_UNCACHED * PRIOR_UNCACHED * p0)) /
                        det);
}

void sched_learn(struct sched_learner *l, const struct sched_conf *c, const struct sched_sample *s)
{
    learn_prefill(l, s);
    learn_decode(l, c, s);
    learn_whole(l, c, s);
}

/* ---- the fleet ---- */

static double rate(double learned, uint32_t samples, double fleet)
{
    double ratio;

    if (learned <= 0)
        return fleet;
    ratio = log(learned / fleet);
    ratio = ratio > 0 ? MAX(0.0, ratio - log(RATE_EQUAL)) : MIN(0.0, ratio + log(RATE_EQUAL));
    return fleet * exp(ratio * samples / (samples + RATE_SAMPLES));
}

void sched_rates(const struct sched_learner *l, const struct sched_conf *c, double fleet_prefill,
                 double fleet_decode, struct sched_endpoint *ep)
{
    double share = l->decode_samples / (l->decode_samples + 2 * RATE_SAMPLES);

    ep->prefill_ms_per_token = rate(l->prefill_ms_per_token, l->prefill_samples,
                                    believed(fleet_prefill, c->default_prefill_ms_per_token));
    ep->decode_ms_per_token = rate(l->decode_ms_per_token, l->decode_samples,
                                   believed(fleet_decode, c->default_decode_ms_per_token));
    ep->decode_batch_slope = c->decode_batch_slope;
    if (l->decode_batch_slope > 0)
        ep->decode_batch_slope += share * (l->decode_batch_slope - c->decode_batch_slope);
}

double sched_median(double *v, uint32_t count)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < count; i++) {
        double x = v[i];
        uint32_t at = n;

        if (x <= 0)
            continue;
        for (; at > 0 && v[at - 1] > x; at--)
            v[at] = v[at - 1];
        v[at] = x;
        n++;
    }
    if (n == 0)
        return 0;
    return n % 2 != 0 ? v[n / 2] : sqrt(v[n / 2 - 1] * v[n / 2]);
}
