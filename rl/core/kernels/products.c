#include "activations.h"

#include <string.h>

/* Eight rows of eight, b's element (k, n) at k + n * n_step, to rows of a panel. */
static void pack_turned(float *packed, const float *b, int64_t n_step)
{
    __m256 r[LANES], pairs[LANES], fours[LANES];
    for (int n = 0; n < LANES; n++) r[n] = _mm256_loadu_ps(b + n * n_step);
    for (int n = 0; n < LANES; n += 2) {
        pairs[n] = _mm256_unpacklo_ps(r[n], r[n + 1]);
        pairs[n + 1] = _mm256_unpackhi_ps(r[n], r[n + 1]);
    }
    for (int n = 0; n < LANES; n += 4)
        for (int i = 0; i < 2; i++) {
            fours[n + 2 * i] = _mm256_shuffle_ps(pairs[n + i], pairs[n + i + 2], 0x44);
            fours[n + 2 * i + 1] = _mm256_shuffle_ps(pairs[n + i], pairs[n + i + 2], 0xee);
        }
    for (int k = 0; k < 4; k++) {
        _mm256_storeu_ps(packed + k * PANEL, _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x20));
        _mm256_storeu_ps(packed + (k + 4) * PANEL,
                         _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x31));
    }
}

void pack(float *packed, const float *b, int64_t k_size, int64_t n_size, int64_t k_step,
          int64_t n_step)
{
    for (int64_t n = 0; n < n_size; n += PANEL, packed += PANEL * k_size) {
        const int64_t width = n_size - n < PANEL ? n_size - n : PANEL;
        const float *from = b + n * n_step;
        int64_t k = 0;
        if (width < PANEL) memset(packed, 0, k_size * PANEL * sizeof(float));
        if (width == PANEL && n_step == 1)
            for (; k < k_size; k++)
                memcpy(packed + k * PANEL, from + k * k_step, PANEL * sizeof(float));
        if (width == PANEL && k_step == 1)
            for (; k + LANES <= k_size; k += LANES)
                for (int half = 0; half < PANEL; half += LANES)
                    pack_turned(packed + k * PANEL + half, from + half * n_step + k, n_step);
        for (; k < k_size; k++)
            for (int64_t j = 0; j < width; j++)
                packed[k * PANEL + j] = from[k * k_step + j * n_step];
    }
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

void product(float *c, int64_t c_stride, int64_t m_size, int64_t n_size, int64_t k_size,
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

