/* Targets of DQN, and the slopes of its loss at what the network gives.
 *
 * Values [M, k] lie `stride` floats apart. Means are of sums in double precision, in order.
 * `rl/core/kernels/dqn.py` calls what stands here; tests hold it to the torch loss.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    double loss, value;
} dqn_sums;

/* targets = returns + discounts next_values[best], where best is the first largest of `choosing`; a
 * NaN is larger than everything. */
void dqn_targets(int64_t size, int64_t k, const float *next_values, int64_t next_stride,
                 const float *choosing, int64_t choosing_stride, const float *returns,
                 const float *discounts, float *targets)
{
    for (int64_t i = 0; i < size; i++, next_values += next_stride, choosing += choosing_stride) {
        int64_t best = 0;
        for (int64_t j = 1; j < k && !isnan(choosing[best]); j++)
            if (!(choosing[j] <= choosing[best])) best = j;
        targets[i] = next_values[best] * discounts[i] + returns[i];
    }
}

/* Of Huber's loss, quadratic within 1: its mean's gradient at values [M, k], errors [M], and sums of
 * the loss and of the values of the actions. `weights` [M] may be NULL: all 1.
 * Returns 0, or 1: an action is none of the k. */
int dqn_slopes(int64_t size, int64_t k, const float *values, int64_t stride,
               const int64_t *actions, const float *targets, const float *weights,
               float *gradient, float *errors, dqn_sums *sums)
{
    const float share = -1.0f / size;
    memset(gradient, 0, size * k * sizeof *gradient);
    for (int64_t i = 0; i < size; i++, values += stride, gradient += k) {
        if (actions[i] < 0 || actions[i] >= k) return 1;
        const float value = values[actions[i]], error = targets[i] - value;
        const float slope = error < -1 ? -1 : error > 1 ? 1 : error;
        const float weighted = weights ? slope * weights[i] : slope;
        errors[i] = error;
        gradient[actions[i]] = weighted * share;
        sums->loss += weighted * (error - 0.5 * slope);
        sums->value += value;
    }
    return 0;
}
