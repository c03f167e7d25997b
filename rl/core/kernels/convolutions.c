/* Convolutions without padding, a ReLU behind each: images to features, and gradients back.
 *
 * Images, values and gradients lie as [height, width, channels], floats. A patch of an image is
 * then `size` segments of size * channels numbers that lie close, and a product takes its left rows
 * from where they lie, without copies of patches. Outputs come in panels of 16; so must the
 * channels of all layers but the first. Every sum runs in one order, so the numbers are the same
 * for any number of threads, and those of an image whatever images stand beside it.
 * `convolutions.py` has the same structures.
 */

#include <stdlib.h>
#include <string.h>

#include "products.h"
#include "threads.h"

#define IMAGES 8 /* of a part */

typedef struct {
    const float *weight;     /* [outputs, channels, size, size] */
    const float *bias;       /* [outputs] */
    float *weight_gradient;  /* as `weight` */
    float *bias_gradient;    /* [outputs] */
    float *packed;           /* [panels of outputs, size * size * channels, 16] */
    float *packed_back;      /* [panels of size * size * channels, outputs, 16] */
    float *sums;             /* [size * size * channels, outputs]: the weight's gradient */
    float *output;           /* [N, height, width, outputs] */
    float *gradient;         /* there, of what stands before the ReLU */
    int64_t channels, outputs, size, stride, in_height, in_width, height, width;
} convolution;

typedef struct {
    const convolution *layers;
    int64_t depth, rows;
    const void *pixels;      /* [N, channels, height, width], with steps */
    int64_t image_step, channel_step, row_step, pixel_step;
    int64_t bytes;           /* whether pixels are bytes, to be scaled to [0, 1]; else floats */
    float *features;         /* [N, outputs * height * width], in the order of torch; or gradients */
    int64_t keep;            /* whether values are kept in `output`, for gradients */
    int64_t parts;           /* of a weight's gradient */
    int64_t failed;          /* whether there was no room */
} images;

static int64_t patch_size(const convolution *l) { return l->size * l->size * l->channels; }
static int64_t in_size(const convolution *l) { return l->in_height * l->in_width * l->channels; }
static int64_t out_size(const convolution *l) { return l->height * l->width * l->outputs; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* sums[r] += sum over segments and steps of a[r][at] * b, 16 columns of it. */
static inline __attribute__((always_inline)) void
tile(int rows, const float *const *a, int64_t segments, int64_t segment, int64_t length,
     int64_t step, const float *b, int64_t b_step, lanes sums[][2])
{
    const float *from[TILE];
    lanes sum[TILE][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) from[r] = a[r], sum[r][0] = sums[r][0], sum[r][1] = sums[r][1];
    for (int64_t s = 0; s < segments; s++) {
        const int64_t begin = s * segment, end = begin + length * step;
        for (int64_t at = begin; at < end; at += step, b += b_step) {
            lanes first, second;
            memcpy(&first, b, sizeof first);
            memcpy(&second, b + LANES, sizeof second);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const lanes value = _mm256_set1_ps(from[r][at]);
                sum[r][0] += value * first;
                sum[r][1] += value * second;
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) sums[r][0] = sum[r][0], sums[r][1] = sum[r][1];
}

static inline void tile_of(int rows, const float *const *a, int64_t segments, int64_t segment,
                           int64_t length, int64_t step, const float *b, int64_t b_step,
                           lanes sums[][2])
{
    switch (rows) {
    case 6: tile(6, a, segments, segment, length, step, b, b_step, sums); break;
    case 5: tile(5, a, segments, segment, length, step, b, b_step, sums); break;
    case 4: tile(4, a, segments, segment, length, step, b, b_step, sums); break;
    case 3: tile(3, a, segments, segment, length, step, b, b_step, sums); break;
    case 2: tile(2, a, segments, segment, length, step, b, b_step, sums); break;
    default: tile(1, a, segments, segment, length, step, b, b_step, sums);
    }
}

/* Four planes of bytes, one behind the other in every pixel, as floats in [0, 1]. */
static void four_planes(float *to, const uint8_t *planes, int64_t plane_step, int64_t pixels)
{
    const __m256 scale = _mm256_set1_ps(1.0f / 255.0f);
    int64_t i = 0;
    for (; i + 8 <= pixels; i += 8, to += 32) {
        const __m128i a = _mm_loadl_epi64((const __m128i *)(planes + i));
        const __m128i b = _mm_loadl_epi64((const __m128i *)(planes + plane_step + i));
        const __m128i c = _mm_loadl_epi64((const __m128i *)(planes + 2 * plane_step + i));
        const __m128i d = _mm_loadl_epi64((const __m128i *)(planes + 3 * plane_step + i));
        const __m128i ab = _mm_unpacklo_epi8(a, b), cd = _mm_unpacklo_epi8(c, d);
        const __m128i all[2] = {_mm_unpacklo_epi16(ab, cd), _mm_unpackhi_epi16(ab, cd)};
        for (int j = 0; j < 4; j++) {
            const __m128i eight = j % 2 ? _mm_srli_si128(all[j / 2], 8) : all[j / 2];
            const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
            _mm256_storeu_ps(to + 8 * j, values * scale);
        }
    }
    for (; i < pixels; i++)
        for (int64_t c = 0; c < 4; c++) *to++ = planes[c * plane_step + i] * (1.0f / 255.0f);
}

/* Image n as floats [height, width, channels]. */
static void convert(const images *p, int64_t n, float *to)
{
    const convolution *l = p->layers;
    const uint8_t *bytes = (const uint8_t *)p->pixels + n * p->image_step;
    const float *floats = (const float *)p->pixels + n * p->image_step;
    if (p->bytes && l->channels == 4 && p->pixel_step == 1 && p->row_step == l->in_width) {
        four_planes(to, bytes, p->channel_step, l->in_height * l->in_width);
        return;
    }
    for (int64_t y = 0; y < l->in_height; y++)
        for (int64_t x = 0; x < l->in_width; x++)
            for (int64_t c = 0; c < l->channels; c++) {
                const int64_t at = y * p->row_step + x * p->pixel_step + c * p->channel_step;
                *to++ = p->bytes ? bytes[at] * (1.0f / 255.0f) : floats[at];
            }
}

/* Values [height, width, outputs] of one image. */
static void convolve(const convolution *l, float *to, const float *image)
{
    const int64_t segment = l->in_width * l->channels, pixels = l->height * l->width;
    const lanes zero = {0};
    for (int64_t n = 0; n < l->outputs; n += PANEL)
        for (int64_t m = 0; m < pixels; m += TILE) {
            const int rows = (int)least(TILE, pixels - m);
            const float *from[TILE];
            lanes sums[TILE][2];
            for (int r = 0; r < rows; r++) {
                const int64_t y = (m + r) / l->width, x = (m + r) % l->width;
                from[r] = image + y * l->stride * segment + x * l->stride * l->channels;
                memcpy(sums[r], l->bias + n, sizeof sums[r]);
            }
            tile_of(rows, from, l->size, segment, l->size * l->channels, 1,
                    l->packed + n * patch_size(l), PANEL, sums);
            for (int r = 0; r < rows; r++) {
                sums[r][0] = _mm256_max_ps(zero, sums[r][0]); /* NaN stays */
                sums[r][1] = _mm256_max_ps(zero, sums[r][1]);
                memcpy(to + (m + r) * l->outputs + n, sums[r], sizeof sums[r]);
            }
        }
}

static void fail(const void *job)
{
    __atomic_store_n(&((images *)job)->failed, 1, __ATOMIC_RELAXED);
}

static void forward_part(const void *job, int64_t i)
{
    const images *p = job;
    const convolution *last = p->layers + p->depth - 1;
    int64_t room = in_size(p->layers);
    for (const convolution *l = p->layers; l <= last; l++) room += out_size(l);
    float *own = malloc(room * sizeof(float));
    if (!own) {
        fail(job);
        return;
    }
    const int64_t end = least(p->rows, (i + 1) * IMAGES);
    for (int64_t n = i * IMAGES; n < end; n++) {
        const float *image = own;
        float *free_room = own + in_size(p->layers);
        convert(p, n, own);
        for (const convolution *l = p->layers; l <= last; l++) {
            float *to = p->keep ? l->output + n * out_size(l) : free_room;
            convolve(l, to, image);
            image = to, free_room += out_size(l);
        }
        const int64_t pixels = last->height * last->width;
        float *to = p->features + n * out_size(last);
        for (int64_t o = 0; o < last->outputs; o++)
            for (int64_t m = 0; m < pixels; m++) *to++ = image[m * last->outputs + o];
    }
    free(own);
}

/* Returns 0, or 1: no memory. */
int convolve_images(images *p)
{
    for (const convolution *l = p->layers; l < p->layers + p->depth; l++) {
        const int64_t square = l->size * l->size, whole = l->channels * square;
        for (int64_t o = 0; o < l->outputs; o++) {
            float *to = l->packed + o / PANEL * PANEL * patch_size(l) + o % PANEL;
            for (int64_t k = 0; k < square; k++)
                for (int64_t c = 0; c < l->channels; c++, to += PANEL)
                    *to = l->weight[o * whole + c * square + k];
        }
    }
    in_parts(forward_part, p, (p->rows + IMAGES - 1) / IMAGES);
    return (int)p->failed;
}

/* ---- Back ---- */

/* From the gradient of one image's values [height, width, outputs] that at its pixels. */
static void spread(const convolution *l, float *to, const float *gradient)
{
    const int64_t segment = l->in_width * l->channels, pixels = l->height * l->width;
    memset(to, 0, in_size(l) * sizeof(float));
    for (int64_t k = 0; k < patch_size(l); k += PANEL) {
        const int64_t line = k / (l->size * l->channels), rest = k % (l->size * l->channels);
        float *corner = to + line * segment + rest;
        for (int64_t m = 0; m < pixels; m += TILE) {
            const int rows = (int)least(TILE, pixels - m);
            const float *from[TILE];
            float *target[TILE];
            lanes sums[TILE][2];
            for (int r = 0; r < rows; r++) {
                const int64_t y = (m + r) / l->width, x = (m + r) % l->width;
                from[r] = gradient + (m + r) * l->outputs;
                target[r] = corner + y * l->stride * segment + x * l->stride * l->channels;
                memcpy(sums[r], target[r], sizeof sums[r]);
            }
            tile_of(rows, from, 1, 0, l->outputs, 1, l->packed_back + k * l->outputs, PANEL, sums);
            for (int r = 0; r < rows; r++) memcpy(target[r], sums[r], sizeof sums[r]);
        }
    }
}

/* Zero where the ReLU was. */
static void pass_relu(float *gradient, const float *values, int64_t size)
{
    for (int64_t i = 0; i < size; i++) gradient[i] = values[i] > 0 ? gradient[i] : 0;
}

static void backward_part(const void *job, int64_t i)
{
    const images *p = job;
    const convolution *last = p->layers + p->depth - 1;
    const int64_t end = least(p->rows, (i + 1) * IMAGES), pixels = last->height * last->width;
    for (int64_t n = i * IMAGES; n < end; n++) {
        const float *from = p->features + n * out_size(last);
        float *to = last->gradient + n * out_size(last);
        for (int64_t o = 0; o < last->outputs; o++)
            for (int64_t m = 0; m < pixels; m++) to[m * last->outputs + o] = *from++;
        for (const convolution *l = last;; l--) {
            const int64_t at = n * out_size(l);
            pass_relu(l->gradient + at, l->output + at, out_size(l));
            if (l == p->layers) break;
            spread(l, l[-1].gradient + n * in_size(l), l->gradient + at);
        }
    }
}

/* A part of the patch, of the weight's gradient: over all images, in their order. */
static void gather_part(const void *job, int64_t i)
{
    const images *p = job;
    const convolution *l = p->layers + i / p->parts;
    const int first = l == p->layers;
    const int64_t tiles = (patch_size(l) + TILE - 1) / TILE, part = i % p->parts;
    const int64_t begin = part * tiles / p->parts * TILE;
    const int64_t end = least(patch_size(l), (part + 1) * tiles / p->parts * TILE);
    const int64_t segment = l->in_width * l->channels;
    float *own = first ? malloc(in_size(l) * sizeof(float)) : NULL;
    if (first && !own) {
        fail(job);
        return;
    }
    memset(l->sums + begin * l->outputs, 0, (end - begin) * l->outputs * sizeof(float));
    if (!part) memset(l->bias_gradient, 0, l->outputs * sizeof(float));
    for (int64_t n = 0; n < p->rows; n++) {
        const float *image = first ? own : l[-1].output + n * in_size(l);
        const float *gradient = l->gradient + n * out_size(l);
        if (first) convert(p, n, own);
        for (int64_t k = begin; k < end; k += TILE) {
            const int rows = (int)least(TILE, end - k);
            const float *from[TILE];
            for (int r = 0; r < rows; r++) {
                const int64_t line = (k + r) / (l->size * l->channels);
                from[r] = image + line * segment + (k + r) % (l->size * l->channels);
            }
            for (int64_t o = 0; o < l->outputs; o += PANEL) {
                float *to = l->sums + k * l->outputs + o;
                lanes sums[TILE][2];
                for (int r = 0; r < rows; r++) memcpy(sums[r], to + r * l->outputs, sizeof sums[r]);
                tile_of(rows, from, l->height, l->stride * segment, l->width,
                        l->stride * l->channels, gradient + o, l->outputs, sums);
                for (int r = 0; r < rows; r++) memcpy(to + r * l->outputs, sums[r], sizeof sums[r]);
            }
        }
        if (!part)
            for (int64_t m = 0; m < l->height * l->width; m++, gradient += l->outputs)
                for (int64_t o = 0; o < l->outputs; o++) l->bias_gradient[o] += gradient[o];
    }
    const int64_t square = l->size * l->size;
    for (int64_t k = begin; k < end; k++)
        for (int64_t o = 0; o < l->outputs; o++)
            l->weight_gradient[(o * l->channels + k % l->channels) * square + k / l->channels] =
                l->sums[k * l->outputs + o];
    free(own);
}

/* From the gradient at the features, in `features`: writes those of weights and biases. Returns 0,
 * or 1: no memory. */
int convolve_back(images *p)
{
    for (const convolution *l = p->layers + 1; l < p->layers + p->depth; l++) {
        const int64_t square = l->size * l->size;
        float *to = l->packed_back;
        for (int64_t k = 0; k < patch_size(l); k += PANEL)
            for (int64_t o = 0; o < l->outputs; o++)
                for (int64_t j = k; j < k + PANEL; j++)
                    *to++ = l->weight[(o * l->channels + j % l->channels) * square
                                      + j / l->channels];
    }
    in_parts(backward_part, p, (p->rows + IMAGES - 1) / IMAGES);
    p->parts = thread_count();
    in_parts(gather_part, p, p->depth * p->parts);
    return (int)p->failed;
}
