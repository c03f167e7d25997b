/* What SAC with a squashed Gaussian and two critics computes between passes through its networks.
 *
 * M samples of d numbers of an action. Means are of sums in double precision, in order.
 * `rl/core/kernels/sac.py` calls what stands here; tests hold it to the torch losses.
 */

#include <math.h>
#include <stdint.h>

/* Of both critics: the values [M] of each, `stride` floats apart. */
typedef struct {
    const float *first, *second;
    int64_t first_stride, second_stride;
} both;

typedef struct {
    double loss, value;
} sac_sums;

/* Of each sample an action in (-1, 1), its log-density, noise times deviation [M, d], and 1 or, where
 * the log-deviation is cut to its bounds, 0 [M, d]. `outputs` [M, 2 d]: means, log-deviations.
 * Returns the sum of log-densities. */
double squashed_sample(int64_t size, int64_t d, const float *outputs, int64_t stride,
                       const float *noise, double lowest, double highest, float *actions,
                       int64_t actions_stride, float *log_probs, float *spread, float *inside)
{
    const double log_2 = 0.69314718055994530942, log_sqrt_2pi = 0.91893853320467274178;
    double sum = 0;
    for (int64_t i = 0; i < size; i++, outputs += stride, actions += actions_stride) {
        double log_prob = 0;
        for (int64_t j = 0; j < d; j++, noise++, spread++, inside++) {
            const double raw = outputs[d + j], low = raw < lowest ? lowest : raw;
            const double log_std = low > highest ? highest : low;
            *spread = (float)(exp(log_std) * *noise);
            *inside = raw == log_std;
            const double before = outputs[j] + *spread, size_of = fabs(before);
            const double e = exp(-2 * size_of); /* never above 1, so nothing overflows */
            actions[j] = (float)copysign((1 - e) / (1 + e), before);
            /* log(1 - tanh(x)^2) = 2 (log 2 - |x| - log(1 + exp(-2 |x|))) */
            const double log_slope = 2 * (log_2 - size_of - log(1 + e));
            log_prob -= 0.5 * *noise * *noise + log_std + log_sqrt_2pi + log_slope;
        }
        *log_probs++ = (float)log_prob;
        sum += log_prob;
    }
    return sum;
}

/* targets = returns + discounts (min(values) - ent_coef log_probs), [M] each. */
void soft_targets(int64_t size, const both *values, const float *log_probs, double ent_coef,
                  const float *returns, const float *discounts, float *targets)
{
    for (int64_t i = 0; i < size; i++) {
        const float first = values->first[i * values->first_stride];
        const float second = values->second[i * values->second_stride];
        /* A NaN of either stays. */
        const double lesser = first <= second || isnan(first) ? first : second;
        targets[i] = (float)(returns[i] + discounts[i] * (lesser - ent_coef * log_probs[i]));
    }
}

/* Errors [2, M] of both critics, gradients [2, M] of the mean of their halved squares; sums over
 * both of the halved squares and of the values. `weights` [M] may be NULL: all 1. */
void critic_slopes(int64_t size, const both *values, const float *targets, const float *weights,
                   float *errors, float *gradient, sac_sums *sums)
{
    const float share = 1.0f / size;
    for (int critic = 0; critic < 2; critic++) {
        const float *own = critic ? values->second : values->first;
        const int64_t stride = critic ? values->second_stride : values->first_stride;
        for (int64_t i = 0; i < size; i++, errors++, gradient++) {
            const float value = own[i * stride], error = value - targets[i];
            const float weighted = weights ? error * weights[i] : error;
            *errors = error;
            *gradient = weighted * share;
            sums->loss += 0.5 * weighted * error;
            sums->value += value;
        }
    }
}

/* The gradient [2, M] of minus the mean of the lesser value; returns the sum of the lesser ones. */
double lesser_slopes(int64_t size, const both *values, float *gradient)
{
    const float share = -1.0f / size;
    double sum = 0;
    for (int64_t i = 0; i < size; i++) {
        const float first = values->first[i * values->first_stride];
        const float second = values->second[i * values->second_stride];
        const int lesser = first <= second;
        gradient[i] = lesser ? share : 0;
        gradient[size + i] = lesser ? 0 : share;
        sum += lesser || isnan(first) ? first : second;
    }
    return sum;
}

/* The gradient [M, 2 d] of the policy's loss at its outputs, from that of both critics at the
 * actions, rows `stride` floats apart; the rest is as `squashed_sample` left it. */
void squashed_slopes(int64_t size, int64_t d, const both *back, const float *actions,
                     int64_t actions_stride, const float *spread, const float *inside,
                     double ent_coef, float *gradient)
{
    const double weight = ent_coef / size;
    for (int64_t i = 0; i < size; i++, gradient += 2 * d, actions += actions_stride) {
        const float *first = back->first + i * back->first_stride;
        const float *second = back->second + i * back->second_stride;
        for (int64_t j = 0; j < d; j++, spread++, inside++) {
            const double action = actions[j];
            const double before = ((double)first[j] + second[j]) * (1 - action * action)
                                  + 2 * weight * action; /* the last of log(1 - tanh^2) */
            gradient[j] = (float)before;
            gradient[d + j] = (float)((before * *spread - weight) * *inside);
        }
    }
}
