/* Matrix products in tiles, for processors with AVX2 and FMA: see products.c. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 8
#define PANEL 16 /* columns of a tile: two registers */
#define TILE 6   /* rows of a tile: 12 sums, 2 of a panel, 1 of the left matrix, of 16 registers */

typedef float lanes __attribute__((vector_size(4 * LANES)));

static inline int64_t padded(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

/* Puts b, element (k, n) at k * k_step + n * n_step, into panels [k][16]; zeros behind it. */
void pack(float *packed, const float *b, int64_t k_size, int64_t n_size, int64_t k_step,
          int64_t n_step);

/* What happens to a tile before it is stored. */
typedef struct {
    const float *bias;     /* the sums begin with it, padded; NULL: with 0 */
    int64_t activate;      /* of a forward pass */
    int64_t slope;         /* of a backward pass: times the slope of this activation ... */
    const float *values;   /* ... whose values are these, laid out as c */
    float *kept;           /* slopes of SiLU, laid out as c: written forward, read backward */
} finish;

/* c[M, N] = a[M, K] b[K, N], b in panels; a's element (m, k) at m * a_row + k * a_step. Whole
 * panels of c are written if its rows have room. Every sum runs over k in order, in one
 * accumulator: an element is the same whatever rows and columns are computed beside it. */
void product(float *c, int64_t c_stride, int64_t m_size, int64_t n_size, int64_t k_size,
             const float *a, int64_t a_row, int64_t a_step, const float *packed,
             const finish *how);

#endif
