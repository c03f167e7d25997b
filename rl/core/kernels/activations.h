/* Activations of eight numbers at once, and their slopes. */

#include "products.h"

enum activation { NONE, TANH, RELU, ELU, SILU };

/* A quotient of polynomials in x^2, fitted to a relative error of 4e-7 on [-8, 8]; beyond, tanh
 * is 1 but for the last bits. Never above 1; NaN stays. */
static inline lanes tanh_of(lanes x)
{
    const lanes limit = _mm256_set1_ps(8.0f);
    x = _mm256_min_ps(limit, _mm256_max_ps(-limit, x)); /* of a NaN the second operand */
    lanes z = x * x;
    lanes above = 9.999999936e-01f + z * (1.344450596e-01f + z * (3.571607435e-03f
                  + z * (2.189481541e-05f + z * 1.523063103e-08f)));
    lanes below = 1.0f + z * (4.677783329e-01f + z * (2.616447889e-02f
                  + z * (3.411307330e-04f + z * 8.522533576e-07f)));
    return x * above / below;
}

/* The values at x, and for SiLU the slopes there. */
static inline lanes activated(int64_t activation, lanes x, lanes *slope)
{
    const lanes zero = {0};
    if (activation == TANH) return tanh_of(x);
    const lanes positive = _mm256_max_ps(zero, x); /* NaN stays */
    if (activation == RELU) return positive;
    if (activation == ELU) { /* exp(x) - 1 = 2 t / (1 - t), t = tanh(x / 2) */
        const lanes t = tanh_of(0.5f * _mm256_min_ps(zero, x));
        return positive + 2.0f * t / (1.0f - t);
    }
    if (activation == SILU) { /* x s, s = (1 + tanh(x / 2)) / 2 */
        lanes s = 0.5f + 0.5f * tanh_of(0.5f * x);
        /* Where tanh stands at its limit, what is wrong in s times a large x would not be small. */
        s = _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-16.0f), _CMP_LT_OQ), s);
        s = _mm256_blendv_ps(s, _mm256_set1_ps(1.0f),
                             _mm256_cmp_ps(x, _mm256_set1_ps(16.0f), _CMP_GT_OQ));
        *slope = s * (1.0f + x * (1.0f - s));
        return x * s;
    }
    return x;
}

/* The gradient before an activation from that behind it, whose values are y; `kept` of SiLU. */
static inline lanes sloped(int64_t activation, lanes gradient, lanes y, const float *kept)
{
    const lanes zero = {0};
    if (activation == TANH) return gradient * (1.0f - y * y);
    if (activation == RELU) return _mm256_and_ps(gradient, _mm256_cmp_ps(y, zero, _CMP_GT_OQ));
    if (activation == ELU) return gradient * (1.0f + _mm256_min_ps(zero, y));
    if (activation == SILU) return gradient * _mm256_loadu_ps(kept);
    return gradient;
}
