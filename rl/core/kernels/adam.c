/* One step of Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1) on a flat vector. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#include "threads.h"

#define PART (1 << 14) /* numbers that are worth a hand-over to another thread */

typedef struct {
    float scale;          /* of the gradient, which stays as it is */
    float beta1, beta2;
    float rate;           /* learning rate over 1 - beta1^t */
    float root;           /* 1 / sqrt(1 - beta2^t) */
    float epsilon;
} adam_step;

typedef struct {
    const adam_step *s;
    int64_t size;
    float *values;
    const float *gradient;
    float *mean, *square;
} adam_job;

static void adam_part(const void *job, int64_t part)
{
    const adam_job *all = job;
    const adam_step *s = all->s;
    const int64_t from = part * PART, size = all->size - from < PART ? all->size - from : PART;
    float *values = all->values + from, *mean = all->mean + from, *square = all->square + from;
    const float *gradient = all->gradient + from;
    const float rest1 = 1 - s->beta1, rest2 = 1 - s->beta2;
    const __m256 scale = _mm256_set1_ps(s->scale), beta2 = _mm256_set1_ps(s->beta2);
    const __m256 new1 = _mm256_set1_ps(rest1), new2 = _mm256_set1_ps(rest2);
    const __m256 rate = _mm256_set1_ps(s->rate), root = _mm256_set1_ps(s->root);
    const __m256 epsilon = _mm256_set1_ps(s->epsilon);
    int64_t i = 0;
    for (; i + 8 <= size; i += 8) {
        const __m256 g = _mm256_loadu_ps(gradient + i) * scale;
        __m256 m = _mm256_loadu_ps(mean + i), v = _mm256_loadu_ps(square + i);
        m += (g - m) * new1;
        v = v * beta2 + g * g * new2;
        _mm256_storeu_ps(mean + i, m);
        _mm256_storeu_ps(square + i, v);
        _mm256_storeu_ps(values + i, _mm256_loadu_ps(values + i)
                                         - rate * m / (_mm256_sqrt_ps(v) * root + epsilon));
    }
    for (; i < size; i++) {
        const float g = gradient[i] * s->scale;
        mean[i] += (g - mean[i]) * rest1;
        square[i] = square[i] * s->beta2 + g * g * rest2;
        values[i] -= s->rate * mean[i] / (sqrtf(square[i]) * s->root + s->epsilon);
    }
}

void adam(const adam_step *s, int64_t size, float *values, const float *gradient, float *mean,
          float *square)
{
    const adam_job all = {s, size, values, gradient, mean, square};
    in_parts(adam_part, &all, (size + PART - 1) / PART);
}
