/* Passes through plain MLPs, also for C files that put several of them into one job: see passes.c. */

#ifndef PASSES_H
#define PASSES_H

#include <stdint.h>

typedef struct {
    const float *weight;          /* element (o, i) at o * out_step + i * in_step */
    const float *bias;            /* [outputs] */
    float *weight_gradient;       /* steps as `weight` */
    float *bias_gradient;         /* [outputs] */
    float *packed;                /* [panels * (1 + inputs) * 16]: biases, then panels of weights */
    float *packed_back;           /* [panels of inputs * outputs * 16]: weights, for gradients */
    float *packed_side;           /* [N, padded inputs or outputs]: what stands right of a product
                                     that gives the weight's gradient */
    float *output;                /* [N, output_stride] */
    float *kept;                  /* like output: slopes, of SiLU only */
    float *gradient;              /* [N, padded inputs]: at the inputs */
    int64_t inputs, outputs, out_step, in_step, output_stride, activation;
} layer;

typedef struct {
    layer *layers;
    float *top;                   /* [N, padded outputs of the last layer], where it is activated */
    int64_t depth, rows;
} pass;

/* A matrix: element (row, column) at row * row_step + column * step. */
typedef struct {
    const float *data;
    int64_t row, step;
} matrix;

enum { AHEAD = 1, BACK = 2 };

/* A pass with what it begins with, and how far it goes. */
typedef struct {
    const pass *p;
    matrix x;                     /* [N, inputs] */
    matrix g;                     /* gradient at the values of the last layer, [N, outputs] */
    int ways;                     /* AHEAD, BACK or both */
    int to_inputs;                /* back to the inputs, ... */
    int64_t first_input;          /* ... of which these are left out; `gradient` begins behind them */
} going;

/* Products of numbers that a pass forward takes. */
int64_t products_of(const pass *p);

/* Packs the weights of all passes for the ways they go, until the weights change. */
void pack_passes(const going *all, int64_t count);

/* Rows from `from` on of a pass that is packed. Forward: leaves the values of every layer in its
 * `output`. Back: from the gradient at these rows' outputs to those at the values of each layer. */
void rows_ahead(const going *now, int64_t from, int64_t rows);
void rows_back(const going *now, int64_t from, int64_t rows);

/* Writes the gradients of the parameters of all passes, once all rows have gone back. */
void parameter_gradients(const going *all, int64_t count);

/* In how many parts `rows` are done that take so many products, and the first row of a part. */
int64_t row_parts(int64_t rows, int64_t products);
int64_t first_of(int64_t size, int64_t count, int64_t part);

#endif
