/* Forward and backward passes of plain MLPs, for processors with AVX2 and FMA.
 *
 * Matrices are row-major float32, rows `stride` floats apart; N rows, layers of inputs and outputs.
 * Hidden values and gradients lie in rows padded to whole panels of 16 floats. Every sum runs over
 * its terms in order, in one accumulator: the numbers of a row are the same whatever rows stand
 * beside it, however many threads share the work, and in every run. (A single row takes another
 * way, see `one_row`.) `rl/core/kernels/library.py` has the same structures and calls what is not
 * static.
 */

#include "passes.h"

#include <stdlib.h>
#include <string.h>

#include "activations.h"
#include "threads.h"

#define MOST_ROWS 36     /* of a part: their values stay in the cache from layer to layer, ... */
#define MOST_LINES 24    /* ... of a weight's gradient; whoever is done first waits for one part */
/* What is worth a hand-over to other threads. They begin half a microsecond later if awake, but what
 * another core has written must come over: with two cores PPO's gradient on two networks of 64 x 64
 * took 150 us for 112 on 64 rows (2^19 products), 133 for 204 on 128. */
#define LEAST_PACKED (1 << 15)   /* numbers packed, some 3 us, and ... */
#define LEAST_PRODUCTS (1 << 20) /* ... products, some 20 us */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* In how many parts `size` things are done, of about `most` at most: as many for each thread. */
static int64_t parts_of(int64_t size, int64_t most)
{
    const int64_t threads = thread_count(), turns = (size + threads * most - 1) / (threads * most);
    return least(threads * turns, (size + TILE - 1) / TILE);
}

int64_t row_parts(int64_t rows, int64_t products)
{
    return products < LEAST_PRODUCTS ? 1 : parts_of(rows, MOST_ROWS);
}

/* Parts begin where a tile does, and have as many tiles as the others, but for one. */
int64_t first_of(int64_t size, int64_t count, int64_t part)
{
    const int64_t tiles = (size + TILE - 1) / TILE;
    return part == count ? size : tiles * part / count * TILE;
}

/* Calls a part for every i, on this thread alone where there is too little to do. */
static void in_parts_if(int worth, void (*part)(const void *, int64_t), const void *job,
                        int64_t count)
{
    if (worth) in_parts(part, job, count);
    else for (int64_t i = 0; i < count; i++) part(job, i);
}

/* Packs panel `at` of the columns of b [k_size, n_size] to where all of its panels begin. */
static void pack_panel(float *packed, int64_t at, const float *b, int64_t k_size, int64_t n_size,
                       int64_t k_step, int64_t n_step)
{
    const int64_t n = at * PANEL;
    pack(packed + n * k_size, b + n * n_step, k_size, least(PANEL, n_size - n), k_step, n_step);
}

/* ---- Forward ---- */

typedef struct {
    const layer *layers;
    int64_t depth;
} packing;

static int64_t panels_of(const layer *l) { return padded(l->outputs) / PANEL; }

static void pack_ahead(const layer *l, int64_t i)
{
    const int64_t width = padded(l->outputs), n = i * PANEL, here = least(PANEL, l->outputs - n);
    memset(l->packed + n, 0, PANEL * sizeof(float));
    memcpy(l->packed + n, l->bias + n, here * sizeof(float));
    pack_panel(l->packed + width, i, l->weight, l->inputs, l->outputs, l->in_step, l->out_step);
}

static void pack_layer(const void *job, int64_t i)
{
    const packing *these = job;
    const layer *l = these->layers;
    for (; i >= panels_of(l); l++) i -= panels_of(l);
    pack_ahead(l, i);
}

/* Packs weights and biases for forward passes, until the weights change. */
void pack_layers(const layer *layers, int64_t depth)
{
    const packing these = {layers, depth};
    int64_t panels = 0, numbers = 0;
    for (const layer *l = layers; l < layers + depth; l++) {
        panels += panels_of(l);
        numbers += l->inputs * l->outputs;
    }
    in_parts_if(numbers >= LEAST_PACKED, pack_layer, &these, panels);
}

static void layer_forward(const layer *l, float *output, int64_t stride, float *kept,
                          int64_t rows, const float *x, int64_t x_stride)
{
    const int64_t width = padded(l->outputs);
    const finish how = {.bias = l->packed, .activate = l->activation, .kept = kept};
    product(output, stride, rows, l->outputs, l->inputs, x, x_stride, 1, l->packed + width, &how);
}

int64_t products_of(const pass *p)
{
    int64_t numbers = 0;
    for (int64_t i = 0; i < p->depth; i++) numbers += p->layers[i].inputs * p->layers[i].outputs;
    return numbers * p->rows;
}

void rows_ahead(const going *now, int64_t from, int64_t rows)
{
    const float *x = now->x.data;
    int64_t stride = now->x.row;
    for (const layer *l = now->p->layers; l < now->p->layers + now->p->depth; l++) {
        float *kept = l->kept ? l->kept + from * l->output_stride : NULL;
        layer_forward(l, l->output + from * l->output_stride, l->output_stride, kept, rows,
                      x + from * stride, stride);
        x = l->output, stride = l->output_stride;
    }
}

/* The rows of one pass, in parts. */
typedef struct {
    const going *now;
    int64_t count;
    void (*go)(const going *now, int64_t from, int64_t rows);
} rowwise;

static void some_rows(const void *job, int64_t i)
{
    const rowwise *all = job;
    const int64_t rows = all->now->p->rows, from = first_of(rows, all->count, i);
    all->go(all->now, from, first_of(rows, all->count, i + 1) - from);
}

static void all_rows(const going *now, void (*go)(const going *, int64_t, int64_t))
{
    const rowwise all = {now, row_parts(now->p->rows, products_of(now->p)), go};
    in_parts(some_rows, &all, all.count);
}

/* Leaves the values of every layer in its `output`, and packs the weights first. */
void forward(const pass *p, const float *x, int64_t x_stride)
{
    const going now = {.p = p, .x = {x, x_stride, 1}};
    pack_layers(p->layers, p->depth);
    all_rows(&now, rows_ahead);
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

/* ---- Backward ---- */

/* Where the weights lie [outputs, inputs] the inputs stand right in the product that gives their
 * gradient, else what comes back does. */
static int lies_out_in(const layer *l) { return l->in_step == 1; }

static matrix inputs_of(const going *now, const layer *l)
{
    if (l == now->p->layers) return now->x;
    return (matrix){l[-1].output, l[-1].output_stride, 1};
}

/* What comes back to the values of a layer, before its activation. */
static matrix coming_back(const going *now, const layer *l)
{
    const layer *last = now->p->layers + now->p->depth - 1;
    if (l < last) return (matrix){l[1].gradient, padded(l->outputs), 1};
    if (l->activation == NONE) return now->g;
    return (matrix){now->p->top, l->output_stride, 1};
}

static int goes_on(const going *now, const layer *l)
{
    return now->to_inputs || l > now->p->layers;
}

/* The layer after this one, of this pass or the next. */
static void next_layer(const going **now, const layer **l)
{
    if (++*l == (*now)->p->layers + (*now)->p->depth) *l = (++*now)->p->layers;
}

/* Columns of the gradient at a layer's inputs that are left out. */
static int64_t left_out(const going *now, const layer *l)
{
    return l == now->p->layers ? now->first_input : 0;
}

/* Panels of a layer that are packed for the way ahead, and for the way back. */
static int64_t ahead_of(const going *now, const layer *l)
{
    return now->ways & AHEAD ? panels_of(l) : 0;
}

static int64_t back_of(const going *now, const layer *l)
{
    if (!(now->ways & BACK) || !goes_on(now, l)) return 0;
    return padded(l->inputs - left_out(now, l)) / PANEL;
}

/* Some passes at once. */
typedef struct {
    const going *all;
    int64_t count;
} passes;

static void pack_some(const void *job, int64_t i)
{
    const passes *these = job;
    const going *now = these->all;
    const layer *l = now->p->layers;
    while (i >= ahead_of(now, l) + back_of(now, l)) {
        i -= ahead_of(now, l) + back_of(now, l);
        next_layer(&now, &l);
    }
    const int64_t out = left_out(now, l);
    if (i < ahead_of(now, l)) pack_ahead(l, i);
    else pack_panel(l->packed_back, i - ahead_of(now, l), l->weight + out * l->in_step, l->outputs,
                    l->inputs - out, l->out_step, l->in_step);
}

void pack_passes(const going *all, int64_t count)
{
    const passes these = {all, count};
    int64_t panels = 0, numbers = 0;
    for (const going *now = all; now < all + count; now++)
        for (const layer *l = now->p->layers; l < now->p->layers + now->p->depth; l++) {
            const int64_t ahead = ahead_of(now, l), back = back_of(now, l);
            panels += ahead + back;
            numbers += l->inputs * l->outputs * ((ahead > 0) + (back > 0));
        }
    in_parts_if(numbers >= LEAST_PACKED, pack_some, &these, panels);
}

/* The gradient before the last activation, of some rows. */
static void top_slopes(const going *now, const layer *l, int64_t from, int64_t rows)
{
    for (int64_t r = from; r < from + rows; r++)
        for (int64_t o = 0; o < l->outputs; o += LANES) {
            const int64_t there = r * l->output_stride + o;
            lanes gradient = {0}, y;
            for (int j = 0; j < LANES && o + j < l->outputs; j++)
                gradient[j] = now->g.data[r * now->g.row + (o + j) * now->g.step];
            memcpy(&y, l->output + there, sizeof y);
            gradient = sloped(l->activation, gradient, y, l->kept + there);
            memcpy(now->p->top + there, &gradient, sizeof gradient);
        }
}

/* From the last layer down. */
void rows_back(const going *now, int64_t from, int64_t rows)
{
    const layer *last = now->p->layers + now->p->depth - 1;
    if (last->activation != NONE) top_slopes(now, last, from, rows);
    for (const layer *l = last; l >= now->p->layers && goes_on(now, l); l--) {
        const layer *below = l == now->p->layers ? NULL : l - 1;
        const matrix g = coming_back(now, l);
        const int64_t stride = padded(l->inputs), start = from * stride;
        const finish times_slope = {
            .slope = below ? below->activation : NONE,
            .values = below ? below->output + start : NULL,
            .kept = below && below->kept ? below->kept + start : NULL,
        };
        product(l->gradient + start, stride, rows, l->inputs - left_out(now, l), l->outputs,
                g.data + from * g.row, g.row, g.step, l->packed_back, &times_slope);
    }
}

static int64_t panels_beside(const layer *l)
{
    return padded(lies_out_in(l) ? l->inputs : l->outputs) / PANEL;
}

/* Panels of what stands right in the products that give the weights' gradients. */
static void pack_side(const void *job, int64_t i)
{
    const passes *these = job;
    const going *now = these->all;
    const layer *l = now->p->layers;
    while (i >= panels_beside(l)) {
        i -= panels_beside(l);
        next_layer(&now, &l);
    }
    const matrix side = lies_out_in(l) ? inputs_of(now, l) : coming_back(now, l);
    pack_panel(l->packed_side, i, side.data, now->p->rows, lies_out_in(l) ? l->inputs : l->outputs,
               side.row, side.step);
}

/* Sums over rows, in order, of some outputs. */
static void bias_gradient(const layer *l, int64_t rows, matrix g, int64_t from, int64_t size)
{
    float *sums = l->bias_gradient + from;
    const float *row = g.data + from * g.step;
    memset(sums, 0, size * sizeof(float));
    if (g.step == 1)
        for (int64_t r = 0; r < rows; r++, row += g.row)
            for (int64_t o = 0; o < size; o++) sums[o] += row[o];
    else
        for (int64_t r = 0; r < rows; r++, row += g.row)
            for (int64_t o = 0; o < size; o++) sums[o] += row[o * g.step];
}

/* Rows of a weight's gradient, as it lies, and in how many parts they are computed. */
static int64_t lines_of(const layer *l) { return lies_out_in(l) ? l->outputs : l->inputs; }

static int64_t line_parts(const going *now, const layer *l)
{
    if (l->inputs * l->outputs * now->p->rows < LEAST_PRODUCTS) return 1;
    return parts_of(lines_of(l), MOST_LINES);
}

/* Some lines of a weight's gradient, and of the bias's. */
static void some_lines(const void *job, int64_t i)
{
    const passes *these = job;
    const finish plainly = {0};
    const going *now = these->all;
    const layer *l = now->p->layers;
    while (i >= line_parts(now, l)) {
        i -= line_parts(now, l);
        next_layer(&now, &l);
    }
    const matrix x = inputs_of(now, l), g = coming_back(now, l);
    const int64_t count = line_parts(now, l), from = first_of(lines_of(l), count, i);
    const int64_t size = first_of(lines_of(l), count, i + 1) - from, rows = now->p->rows;
    if (lies_out_in(l)) {
        bias_gradient(l, rows, g, from, size);
        product(l->weight_gradient + from * l->out_step, l->out_step, size, l->inputs, rows,
                g.data + from * g.step, g.step, g.row, l->packed_side, &plainly);
    } else {
        if (!i) bias_gradient(l, rows, g, 0, l->outputs);
        product(l->weight_gradient + from * l->in_step, l->in_step, size, l->outputs, rows,
                x.data + from * x.step, x.step, x.row, l->packed_side, &plainly);
    }
}

void parameter_gradients(const going *all, int64_t count)
{
    const passes these = {all, count};
    int64_t panels = 0, numbers = 0, lines = 0, products = 0;
    for (const going *now = all; now < all + count; now++) {
        products += products_of(now->p);
        for (const layer *l = now->p->layers; l < now->p->layers + now->p->depth; l++) {
            panels += panels_beside(l);
            numbers += panels_beside(l) * PANEL * now->p->rows;
            lines += line_parts(now, l);
        }
    }
    in_parts_if(numbers >= LEAST_PACKED, pack_side, &these, panels);
    in_parts_if(products >= LEAST_PRODUCTS, some_lines, &these, lines);
}

/* From the gradient at the values of the last forward pass, element (row, output) at row * g_row +
 * output * g_step: writes those of parameters, and at the inputs, where they are wanted. */
void backward(const pass *p, const float *x, int64_t x_stride, const float *g, int64_t g_row,
              int64_t g_step, int to_inputs, int parameters)
{
    const going now = {.p = p, .x = {x, x_stride, 1}, .g = {g, g_row, g_step}, .ways = BACK,
                       .to_inputs = to_inputs};
    pack_passes(&now, 1);
    all_rows(&now, rows_back);
    if (parameters) parameter_gradients(&now, 1);
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
