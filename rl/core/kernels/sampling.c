/* One category a row of logits [N, k] by noise [N] in [0, 1), with its log-probability. */

#include <math.h>
#include <stdint.h>

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
