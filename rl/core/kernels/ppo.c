/* The slopes of PPO's loss at what the networks give, and its advantages.
 *
 * Means are of sums in double precision, in order; one processor gives the same bits every time.
 * `rl/core/kernels/ppo.py` calls what stands here; tests hold it to the torch loss.
 */

#include <math.h>
#include <stdint.h>

typedef struct {
    double clip_range, value_clip, dual_clip; /* the last two take no part where they are NaN */
    double value_coef, entropy_coef, kl_coef;
} ppo_settings;

typedef struct {
    double objective, value_error, entropy, kl, clipped;
} ppo_sums;

/* Of M samples, before the update. */
typedef struct {
    const float *log_probs, *advantages, *targets, *values;
} ppo_samples;

/* Slope of the loss at the log-probability of sample i; adds the sample's terms to the sums. */
static double policy_slope(const ppo_settings *s, double share, const ppo_samples *old, int64_t i,
                           double log_prob, ppo_sums *sums)
{
    const double advantage = old->advantages[i], log_ratio = log_prob - old->log_probs[i];
    const double ratio = expf((float)log_ratio), low = 1 - s->clip_range, high = 1 + s->clip_range;
    const double clipped = ratio < low ? low : ratio > high ? high : ratio;
    double objective = ratio * advantage, slope = objective;
    if (clipped * advantage < objective) objective = clipped * advantage, slope = 0;
    if (advantage < 0 && objective < s->dual_clip * advantage)
        objective = s->dual_clip * advantage, slope = 0;
    sums->objective += objective;
    sums->kl += ratio - 1 - log_ratio;
    sums->clipped += clipped != ratio;
    return share * (s->kl_coef * (ratio - 1) - slope);
}

/* Half the slope of the squared error at value i, and the error; see `_value_errors`. */
static double value_slope(const ppo_settings *s, const ppo_samples *old, int64_t i, double value,
                          ppo_sums *sums)
{
    double slope = value - old->targets[i], error = slope * slope;
    const double moved = value - old->values[i], limit = s->value_clip;
    if (fabs(moved) > limit) {
        const double kept = old->values[i] + (moved > 0 ? limit : -limit) - old->targets[i];
        if (kept * kept > error) error = kept * kept, slope = 0;
    }
    sums->value_error += error;
    return slope;
}

static void value_slopes(const ppo_settings *s, int64_t size, const ppo_samples *old,
                         const float *values, float *gradient, ppo_sums *sums)
{
    for (int64_t i = 0; i < size; i++)
        gradient[i] = (float)(2 * s->value_coef / size * value_slope(s, old, i, values[i], sums));
}

/* One category of k. Gradients at logits [M, k] and at values [M], from logits and values alike.
 * `room` is for 2 k numbers. Returns 0, or 1: an action is none of the k. */
int ppo_categorical(const ppo_settings *s, int64_t size, int64_t k, const float *logits,
                     const int64_t *actions, const ppo_samples *old, const float *values,
                     float *gradient, float *value_gradient, float *room, ppo_sums *sums)
{
    float *chances = room, *logs = room + k;
    const double share = 1.0 / size;
    for (int64_t i = 0; i < size; i++, logits += k, gradient += k) {
        float largest = logits[0], total = 0;
        double entropy = 0;
        for (int64_t j = 1; j < k; j++) largest = logits[j] > largest ? logits[j] : largest;
        for (int64_t j = 0; j < k; j++) {
            logs[j] = logits[j] - largest;
            chances[j] = expf(logs[j]);
            total += chances[j];
        }
        const float log_total = logf(total);
        for (int64_t j = 0; j < k; j++) {
            chances[j] /= total;
            logs[j] -= log_total;
            entropy -= chances[j] * logs[j];
        }
        sums->entropy += entropy;
        if (actions[i] < 0 || actions[i] >= k) return 1;
        const double slope = policy_slope(s, share, old, i, logs[actions[i]], sums);
        /* d log pi(a) / d logit_j = [j = a] - p_j, dH / d logit_j = -p_j (log p_j + H) */
        for (int64_t j = 0; j < k; j++)
            gradient[j] = (float)(slope * ((j == actions[i]) - chances[j])
                                  + s->entropy_coef * share * chances[j] * (logs[j] + entropy));
    }
    value_slopes(s, size, old, values, value_gradient, sums);
    return 0;
}

/* k independent normals around means [M, k], log-deviations a parameter of their own [k]. */
int ppo_gaussian(const ppo_settings *s, int64_t size, int64_t k, const float *means,
                  const float *actions, const ppo_samples *old, const float *values,
                  float *gradient, float *value_gradient, double *room, ppo_sums *sums,
                  const float *log_std, float *log_std_gradient)
{
    double *precision = room, *at_log_std = room + k, constant = 0;
    const double share = 1.0 / size, log_sqrt_2pi = 0.91893853320467274178;
    for (int64_t j = 0; j < k; j++) {
        precision[j] = exp(-(double)log_std[j]);
        at_log_std[j] = 0;
        constant += log_std[j] + log_sqrt_2pi;
    }
    for (int64_t i = 0; i < size; i++, means += k, actions += k, gradient += k) {
        double squares = 0;
        for (int64_t j = 0; j < k; j++) {
            const double scaled = (actions[j] - means[j]) * precision[j];
            squares += scaled * scaled;
        }
        const double slope = policy_slope(s, share, old, i, -0.5 * squares - constant, sums);
        for (int64_t j = 0; j < k; j++) {
            const double scaled = (actions[j] - means[j]) * precision[j];
            gradient[j] = (float)(slope * scaled * precision[j]);
            at_log_std[j] += slope * (scaled * scaled - 1);
        }
    }
    sums->entropy += size * (constant + 0.5 * k);
    for (int64_t j = 0; j < k; j++) log_std_gradient[j] = (float)(at_log_std[j] - s->entropy_coef);
    value_slopes(s, size, old, values, value_gradient, sums);
    return 0;
}

/* The advantages of M samples less their mean, over their deviation + 1e-8. */
void normalize(int64_t size, float *values)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < size; i++) sum += values[i];
    const double mean = sum / size;
    for (int64_t i = 0; i < size; i++) squares += (values[i] - mean) * (values[i] - mean);
    const double scale = 1 / (sqrt(squares / (size - 1)) + 1e-8);
    for (int64_t i = 0; i < size; i++) values[i] = (float)((values[i] - mean) * scale);
}
