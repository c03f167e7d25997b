/* A flat vector that follows another: target networks. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#include "threads.h"

#define PART (1 << 14) /* numbers that are worth a hand-over to another thread */

typedef struct {
    int64_t size;
    float *target;
    const float *values;
    float share;
} following;

static void follow_part(const void *job, int64_t part)
{
    const following *all = job;
    const int64_t from = part * PART, size = all->size - from < PART ? all->size - from : PART;
    float *target = all->target + from;
    const float *values = all->values + from;
    const __m256 share = _mm256_set1_ps(all->share);
    int64_t i = 0;
    for (; i + 8 <= size; i += 8) {
        const __m256 old = _mm256_loadu_ps(target + i);
        const __m256 gap = _mm256_loadu_ps(values + i) - old;
        _mm256_storeu_ps(target + i, _mm256_fmadd_ps(share, gap, old));
    }
    for (; i < size; i++) target[i] = fmaf(all->share, values[i] - target[i], target[i]);
}

/* target += share (values - target), each [size]. */
void follow(int64_t size, float *target, const float *values, float share)
{
    const following all = {size, target, values, share};
    in_parts(follow_part, &all, (size + PART - 1) / PART);
}
