/* Choices of rows [N, k] by noise [N] in [0, 1). */

#include <math.h>
#include <stdint.h>

/* One category of each row of logits, with its log-probability. */
void sample_categories(int64_t rows, int64_t k, const float *logits, int64_t row_step,
                       const float *noise, int64_t noise_step, int64_t *actions, float *log_probs)
{
    for (int64_t i = 0; i < rows; i++, logits += row_step) {
        double largest = logits[0], total = 0, cumulative = 0;
        for (int64_t j = 1; j < k; j++) largest = logits[j] > largest ? logits[j] : largest;
        for (int64_t j = 0; j < k; j++) total += exp(logits[j] - largest);
        /* The first category where the sum of chances exceeds the noise: one of chance 0 never. */
        const double wanted = noise[i * noise_step] * total;
        int64_t chosen = 0;
        while (chosen < k - 1 && (cumulative += exp(logits[chosen] - largest)) <= wanted) chosen++;
        actions[i] = chosen;
        log_probs[i] = (float)(logits[chosen] - largest - log(total));
    }
}

/* The largest of each row of values, the first of several, a NaN before all; with noise below
 * epsilon any of the k, whose number that noise over epsilon tells. `noise` may be NULL. */
void choose_largest(int64_t rows, int64_t k, const float *values, int64_t row_step,
                    const float *noise, int64_t noise_step, float epsilon, int64_t *actions)
{
    for (int64_t i = 0; i < rows; i++, values += row_step) {
        const float share = noise ? noise[i * noise_step] / epsilon : 1;
        int64_t best = 0;
        if (share < 1) {
            best = (int64_t)(share * (float)k);
            if (best > k - 1) best = k - 1;
        } else
            for (int64_t j = 1; j < k && !isnan(values[best]); j++)
                if (!(values[j] <= values[best])) best = j;
        actions[i] = best;
    }
}
