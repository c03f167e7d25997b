/* Forward and backward passes of plain MLPs, for processors with AVX2 and FMA.
 *
 * Matrices are row-major float32, rows `stride` floats apart; N rows, layers of inputs and outputs.
 * Hidden values and gradients lie in rows padded to whole panels of 16 floats. Every sum runs over
 * its terms in order, in one accumulator: the numbers of a row are the same whatever rows stand
 * beside it, and the same in every run. (A single row takes another way, see `one_row`.)
 * `rl/core/kernels/library.py` has the same structures and calls what is not static.
 */

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8
#define PANEL 16  /* columns of a tile: two registers */
#define TILE 6    /* rows of a tile: 12 sums, 2 of a panel, 1 of the left matrix, of 16 registers */

typedef float lanes __attribute__((vector_size(4 * LANES)));

enum activation { NONE, TANH, RELU, ELU, SILU };

typedef struct {
    const float *weight;          /* element (o, i) at o * out_step + i * in_step */
    const float *bias;            /* [outputs] */
    float *weight_gradient;       /* steps as `weight` */
    float *bias_gradient;         /* [outputs] */
    float *packed;                /* [panels * (1 + inputs) * 16]: biases, then panels of weights */
    float *output;                /* [N, output_stride] */
    float *kept;                  /* like output: slopes, of SiLU only */
    float *gradient;              /* [N, padded inputs]: at the inputs */
    int64_t inputs, outputs, out_step, in_step, output_stride, activation;
} layer;

typedef struct {
    layer *layers;
    float *scratch;               /* for the largest right-hand matrix of a backward pass, packed */
    float *top;                   /* [N, padded outputs of the last layer], where it is activated */
    int64_t depth, rows;
} pass;

static inline int64_t padded(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

/* Puts b, element (k, n) at k * k_step + n * n_step, into panels [k][16]; zeros behind it. */
static void pack(float *packed, const float *b, int64_t k_size, int64_t n_size, int64_t k_step,
                 int64_t n_step)
{
    for (int64_t n = 0; n < n_size; n += PANEL) {
        int64_t width = n_size - n < PANEL ? n_size - n : PANEL;
        if (n_step == 1 && width == PANEL) {
            for (int64_t k = 0; k < k_size; k++, packed += PANEL)
                memcpy(packed, b + k * k_step + n, PANEL * sizeof(float));
            continue;
        }
        if (width < PANEL) memset(packed, 0, k_size * PANEL * sizeof(float));
        for (int64_t k = 0; k < k_size; k++, packed += PANEL)
            for (int64_t j = 0; j < width; j++) packed[j] = b[k * k_step + (n + j) * n_step];
    }
}

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

static inline lanes sloped(int64_t activation, lanes gradient, lanes y, const float *kept)
{
    const lanes zero = {0};
    if (activation == TANH) return gradient * (1.0f - y * y);
    if (activation == RELU) return _mm256_and_ps(gradient, _mm256_cmp_ps(y, zero, _CMP_GT_OQ));
    if (activation == ELU) return gradient * (1.0f + _mm256_min_ps(zero, y));
    if (activation == SILU) return gradient * _mm256_loadu_ps(kept);
    return gradient;
}

/* sums[rows][2] = start + a[rows, K] panel[K, 16]; a's element (m, k) at m * a_row + k * a_step.
 * With one half of the panel the other is zeros, and so are its sums. */
static inline __attribute__((always_inline)) void
tile(int rows, int halves, const float *a, int64_t a_row, int64_t a_step, const float *panel,
     int64_t k_size, const float *start, lanes sums[][2])
{
    lanes sum[TILE][2], first = {0}, second = {0};
    if (start) {
        memcpy(&first, start, sizeof first);
        memcpy(&second, start + LANES, sizeof second);
    }
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) sum[m][0] = first, sum[m][1] = second;
    for (int64_t k = 0; k < k_size; k++, panel += PANEL, a += a_step) {
        memcpy(&first, panel, sizeof first);
        memcpy(&second, panel + LANES, sizeof second);
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++) {
            const lanes value = _mm256_set1_ps(a[m * a_row]);
            sum[m][0] += value * first;
            if (halves == 2) sum[m][1] += value * second;
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) sums[m][0] = sum[m][0], sums[m][1] = sum[m][1];
}

/* The same for rows that are known when it runs. */
static inline void tile_of(int rows, int narrow, const float *a, int64_t a_row, int64_t a_step,
                           const float *panel, int64_t k_size, const float *start, lanes sums[][2])
{
    switch (narrow ? -rows : rows) {
    case 6: tile(6, 2, a, a_row, a_step, panel, k_size, start, sums); break;
    case 5: tile(5, 2, a, a_row, a_step, panel, k_size, start, sums); break;
    case 4: tile(4, 2, a, a_row, a_step, panel, k_size, start, sums); break;
    case 3: tile(3, 2, a, a_row, a_step, panel, k_size, start, sums); break;
    case 2: tile(2, 2, a, a_row, a_step, panel, k_size, start, sums); break;
    case 1: tile(1, 2, a, a_row, a_step, panel, k_size, start, sums); break;
    case -6: tile(6, 1, a, a_row, a_step, panel, k_size, start, sums); break;
    case -5: tile(5, 1, a, a_row, a_step, panel, k_size, start, sums); break;
    case -4: tile(4, 1, a, a_row, a_step, panel, k_size, start, sums); break;
    case -3: tile(3, 1, a, a_row, a_step, panel, k_size, start, sums); break;
    case -2: tile(2, 1, a, a_row, a_step, panel, k_size, start, sums); break;
    default: tile(1, 1, a, a_row, a_step, panel, k_size, start, sums);
    }
}

/* What happens to a tile before it is stored. */
typedef struct {
    const float *bias;     /* the sums begin with it, padded; NULL: with 0 */
    int64_t activate;      /* of a forward pass */
    int64_t slope;         /* of a backward pass: times the slope of this activation ... */
    const float *values;   /* ... whose values are these, laid out as c */
    float *kept;           /* slopes of SiLU, laid out as c: written forward, read backward */
} finish;

/* c[M, N] = a[M, K] b[K, N], b in panels. Whole panels of c are written if its rows have room. */
static void product(float *c, int64_t c_stride, int64_t m_size, int64_t n_size, int64_t k_size,
                    const float *a, int64_t a_row, int64_t a_step, const float *packed,
                    const finish *how)
{
    const int whole = c_stride >= padded(n_size);
    for (int64_t n = 0; n < n_size; n += PANEL, packed += PANEL * k_size) {
        const int64_t width = whole || n_size - n > PANEL ? PANEL : n_size - n;
        const float *start = how->bias ? how->bias + n : NULL;
        const int narrow = n_size - n <= LANES;
        for (int64_t m = 0; m < m_size; m += TILE) {
            const int rows = m_size - m < TILE ? (int)(m_size - m) : TILE;
            const float *left = a + m * a_row;
            lanes sums[TILE][2];
            tile_of(rows, narrow, left, a_row, a_step, packed, k_size, start, sums);
            const int64_t at = m * c_stride + n;
            if (how->activate != NONE)
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < 2; j++) {
                        lanes slope;
                        sums[i][j] = activated(how->activate, sums[i][j], &slope);
                        if (how->kept && how->activate == SILU)
                            memcpy(how->kept + at + i * c_stride + j * LANES, &slope, sizeof slope);
                    }
            if (how->slope != NONE)
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < 2; j++) {
                        const int64_t there = at + i * c_stride + j * LANES;
                        lanes y;
                        memcpy(&y, how->values + there, sizeof y);
                        sums[i][j] = sloped(how->slope, sums[i][j], y, how->kept + there);
                    }
            for (int i = 0; i < rows; i++)
                if (width == PANEL) memcpy(c + at + i * c_stride, sums[i], sizeof sums[i]);
                else memcpy(c + at + i * c_stride, sums[i], width * sizeof(float));
        }
    }
}

/* Packs weights and biases for forward passes, until the weights change. */
void pack_layers(const layer *layers, int64_t depth)
{
    for (const layer *l = layers; l < layers + depth; l++) {
        const int64_t width = padded(l->outputs);
        memset(l->packed, 0, width * sizeof(float));
        memcpy(l->packed, l->bias, l->outputs * sizeof(float));
        pack(l->packed + width, l->weight, l->inputs, l->outputs, l->in_step, l->out_step);
    }
}

static void layer_forward(const layer *l, float *output, int64_t stride, float *kept,
                          int64_t rows, const float *x, int64_t x_stride)
{
    const int64_t width = padded(l->outputs);
    const finish how = {.bias = l->packed, .activate = l->activation, .kept = kept};
    product(output, stride, rows, l->outputs, l->inputs, x, x_stride, 1, l->packed + width, &how);
}

/* Leaves the values of every layer in its `output`, and packs the weights first. */
void forward(const pass *p, const float *x, int64_t x_stride)
{
    pack_layers(p->layers, p->depth);
    for (const layer *l = p->layers; l < p->layers + p->depth; l++) {
        layer_forward(l, l->output, l->output_stride, l->kept, p->rows, x, x_stride);
        x = l->output, x_stride = l->output_stride;
    }
}

/* One row through layers whose weights lie [outputs, inputs]: dot products, nothing packed. */
static void one_row(const layer *l, float *y, const float *x)
{
    for (int64_t o = 0; o < l->outputs; o++) {
        const float *w = l->weight + o * l->out_step;
        lanes first = {0}, second = {0}, u, v;
        int64_t i = 0;
        for (; i + 2 * LANES <= l->inputs; i += 2 * LANES) {
            memcpy(&u, w + i, sizeof u), memcpy(&v, x + i, sizeof v);
            first += u * v;
            memcpy(&u, w + i + LANES, sizeof u), memcpy(&v, x + i + LANES, sizeof v);
            second += u * v;
        }
        first += second;
        float sum = l->bias[o];
        for (int j = 0; j < LANES; j++) sum += first[j];
        for (; i < l->inputs; i++) sum += w[i] * x[i];
        y[o] = sum;
    }
    for (int64_t o = 0; o < l->outputs && l->activation != NONE; o += LANES) {
        lanes value = {0}, slope;
        const int64_t width = l->outputs - o < LANES ? l->outputs - o : LANES;
        memcpy(&value, y + o, width * sizeof(float));
        value = activated(l->activation, value, &slope);
        memcpy(y + o, &value, width * sizeof(float));
    }
}

/* y[rows, outputs of the last layer], contiguous, and nothing else kept; safe in several threads.
 * With `from_packed` from what `pack_layers` left, else for one row. Returns 0, or 1: no memory. */
int act(const layer *layers, int64_t depth, int64_t rows, const float *x, int64_t x_stride,
        float *y, int from_packed)
{
    int64_t widest = 0;
    for (int64_t i = 0; i + 1 < depth; i++)
        if (padded(layers[i].outputs) > widest) widest = padded(layers[i].outputs);
    float *hidden = malloc((2 * rows * widest + 1) * sizeof(float));
    if (!hidden) return 1;
    float *turns[2] = {hidden, hidden + rows * widest};
    for (int64_t i = 0; i < depth; i++) {
        const layer *l = layers + i;
        float *to = i + 1 < depth ? turns[i % 2] : y;
        const int64_t stride = i + 1 < depth ? padded(l->outputs) : l->outputs;
        if (from_packed) layer_forward(l, to, stride, NULL, rows, x, x_stride);
        else one_row(l, to, x);
        x = to, x_stride = stride;
    }
    free(hidden);
    return 0;
}

static void bias_gradient(const layer *l, int64_t rows, const float *g, int64_t g_row,
                          int64_t g_step)
{
    float *sums = l->bias_gradient;
    if (g_step != 1) {
        for (int64_t o = 0; o < l->outputs; o++) {
            float sum = 0;
            for (int64_t r = 0; r < rows; r++) sum += g[r * g_row + o * g_step];
            sums[o] = sum;
        }
        return;
    }
    memset(sums, 0, l->outputs * sizeof(float));
    for (int64_t r = 0; r < rows; r++, g += g_row)
        for (int64_t o = 0; o < l->outputs; o++) sums[o] += g[o];
}

static void parameter_gradients(const layer *l, float *scratch, int64_t rows, const float *x,
                                int64_t x_stride, const float *g, int64_t g_row, int64_t g_step)
{
    const finish plainly = {0};
    bias_gradient(l, rows, g, g_row, g_step);
    if (l->in_step == 1) {
        pack(scratch, x, rows, l->inputs, x_stride, 1);
        product(l->weight_gradient, l->out_step, l->outputs, l->inputs, rows, g, g_step, g_row,
                scratch, &plainly);
    } else {
        pack(scratch, g, rows, l->outputs, g_row, g_step);
        product(l->weight_gradient, l->in_step, l->inputs, l->outputs, rows, x, 1, x_stride,
                scratch, &plainly);
    }
}

/* From the gradient at the values of the last forward pass, element (row, output) at row * g_row +
 * output * g_step: writes those of parameters, and at the inputs, where they are wanted. */
void backward(const pass *p, const float *x, int64_t x_stride, const float *g, int64_t g_row,
              int64_t g_step, int to_inputs, int parameters)
{
    const layer *last = p->layers + p->depth - 1;
    if (last->activation != NONE) {
        for (int64_t r = 0; r < p->rows; r++)
            for (int64_t o = 0; o < last->outputs; o += LANES) {
                const int64_t there = r * last->output_stride + o;
                lanes gradient = {0}, y;
                for (int j = 0; j < LANES && o + j < last->outputs; j++)
                    gradient[j] = g[r * g_row + (o + j) * g_step];
                memcpy(&y, last->output + there, sizeof y);
                gradient = sloped(last->activation, gradient, y, last->kept + there);
                memcpy(p->top + there, &gradient, sizeof gradient);
            }
        g = p->top, g_row = last->output_stride, g_step = 1;
    }
    for (const layer *l = last; l >= p->layers; l--) {
        const layer *below = l == p->layers ? NULL : l - 1;
        if (parameters)
            parameter_gradients(l, p->scratch, p->rows, below ? below->output : x,
                                below ? below->output_stride : x_stride, g, g_row, g_step);
        if (!below && !to_inputs) return;
        const finish times_slope = {
            .slope = below ? below->activation : NONE,
            .values = below ? below->output : NULL,
            .kept = below ? below->kept : NULL,
        };
        pack(p->scratch, l->weight, l->outputs, l->inputs, l->out_step, l->in_step);
        product(l->gradient, padded(l->inputs), p->rows, l->inputs, l->outputs, g, g_row, g_step,
                p->scratch, &times_slope);
        g = l->gradient, g_row = padded(l->inputs), g_step = 1;
    }
}

/* What all C files were when this was compiled, by their hash; empty: nobody said. */
#ifndef SOURCES
#define SOURCES ""
#endif
const char *sources(void) { return SOURCES; }

/* Whether this processor can run what stands above. */
int supported(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
