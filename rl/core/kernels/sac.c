/* Both gradients of SAC with a squashed Gaussian and two critics, each in one call.
 *
 * M samples, F features, d numbers of an action. Between the packing of weights and the gradients of
 * parameters every sample goes its own way through all networks: some rows of it are a part, so that
 * threads meet four times in a gradient, and what a row leaves is in the cache when it is wanted.
 * Means are of sums in double precision, in order, after all parts: no number depends on them.
 * `rl/core/kernels/sac.py` has the same structures; tests hold all of it to the torch losses.
 */

#include <math.h>
#include <string.h>

#include "passes.h"
#include "products.h"
#include "threads.h"

typedef struct {
    const pass *policy, *critics[2], *followers[2]; /* the last: target networks */
    const float *middle, *inverse; /* [d] each: an action as critics see it is
                                      (action - middle) inverse */
    float *done, *drawn;           /* [M, F + d]: what critics see of what was done, and of what the
                                      policy would do */
    double *log_probs;             /* [M], of what it would do */
    float *spread, *inside;        /* [M, d]: noise times deviation; 1, or 0 where the log-deviation
                                      is cut to its bounds */
    float *errors, *slopes;        /* [2, M]: of both critics, and gradients at their values */
    float *gradient;               /* [M, 2 d]: at the policy's outputs */
    int64_t size, features, actions;
    double lowest, highest;        /* of log-deviations */
} sac;

/* M transitions; `weights` may be NULL: all 1. */
typedef struct {
    const float *observations, *actions, *returns, *following, *discounts, *weights;
} transitions;

typedef struct {
    double loss, value, log_prob; /* sums: of both critics' halved squares, of values, of log pi */
} sac_sums;

typedef struct {
    const sac *s;
    const transitions *batch;
    const float *observations, *noise;
    double ent_coef;
    going policy, critics[2], followers[2];
    int64_t parts;
} sac_job;

/* The value of a critic for sample i. */
static float value_of(const pass *critic, int64_t i)
{
    const layer *last = critic->layers + critic->depth - 1;
    return last->output[i * last->output_stride];
}

/* What the policy makes of some samples: actions in (-1, 1), and what the rest needs of them. */
static void sample(const sac_job *job, const float *observations, int64_t from, int64_t rows)
{
    const double log_2 = 0.69314718055994530942, log_sqrt_2pi = 0.91893853320467274178;
    const sac *s = job->s;
    const layer *last = s->policy->layers + s->policy->depth - 1;
    const int64_t d = s->actions, width = s->features + d;
    rows_ahead(&job->policy, from, rows);
    for (int64_t i = from; i < from + rows; i++) {
        const float *outputs = last->output + i * last->output_stride, *noise = job->noise + i * d;
        float *drawn = s->drawn + i * width;
        memcpy(drawn, observations + i * s->features, s->features * sizeof(float));
        double log_prob = 0;
        for (int64_t j = 0; j < d; j++) {
            const double raw = outputs[d + j], low = raw < s->lowest ? s->lowest : raw;
            const double log_std = low > s->highest ? s->highest : low;
            const float spread = (float)(exp(log_std) * noise[j]);
            s->spread[i * d + j] = spread;
            s->inside[i * d + j] = raw == log_std;
            const double before = outputs[j] + spread, size_of = fabs(before);
            const double e = exp(-2 * size_of); /* never above 1, so nothing overflows */
            drawn[s->features + j] = (float)copysign((1 - e) / (1 + e), before);
            /* log(1 - tanh(x)^2) = 2 (log 2 - |x| - log(1 + exp(-2 |x|))) */
            const double log_slope = 2 * (log_2 - size_of - log(1 + e));
            log_prob -= 0.5 * noise[j] * noise[j] + log_std + log_sqrt_2pi + log_slope;
        }
        s->log_probs[i] = log_prob;
    }
}

static int64_t part_of_rows(const sac_job *job, int64_t i, int64_t *rows)
{
    const int64_t from = first_of(job->s->size, job->parts, i);
    *rows = first_of(job->s->size, job->parts, i + 1) - from;
    return from;
}

/* ---- The critics ---- */

/* Errors of some samples, gradients of the mean of their halved squares. The targets are returns +
 * discounts (the lesser value of the followers - ent_coef log pi). */
static void critic_slopes(const sac_job *job, int64_t from, int64_t rows)
{
    const sac *s = job->s;
    const transitions *b = job->batch;
    const float share = 1.0f / s->size;
    for (int64_t i = from; i < from + rows; i++) {
        const float first = value_of(s->followers[0], i), second = value_of(s->followers[1], i);
        /* A NaN of either stays. */
        const double lesser = first <= second || isnan(first) ? first : second;
        const float target = (float)(b->returns[i] + b->discounts[i]
                                     * (lesser - job->ent_coef * (float)s->log_probs[i]));
        for (int critic = 0; critic < 2; critic++) {
            const int64_t at = critic * s->size + i;
            const float error = value_of(s->critics[critic], i) - target;
            s->errors[at] = error;
            s->slopes[at] = (b->weights ? error * b->weights[i] : error) * share;
        }
    }
}

static void critic_rows(const void *all, int64_t part)
{
    const sac_job *job = all;
    const sac *s = job->s;
    int64_t rows, from = part_of_rows(job, part, &rows);
    sample(job, job->batch->following, from, rows);
    for (int64_t i = from; i < from + rows; i++) {
        float *done = s->done + i * (s->features + s->actions);
        const float *action = job->batch->actions + i * s->actions;
        memcpy(done, job->batch->observations + i * s->features, s->features * sizeof(float));
        for (int64_t j = 0; j < s->actions; j++)
            done[s->features + j] = (action[j] - s->middle[j]) * s->inverse[j];
    }
    for (int critic = 0; critic < 2; critic++) {
        rows_ahead(&job->followers[critic], from, rows);
        rows_ahead(&job->critics[critic], from, rows);
    }
    critic_slopes(job, from, rows);
    for (int critic = 0; critic < 2; critic++) rows_back(&job->critics[critic], from, rows);
}

/* Writes the gradients of both critics, and `errors`. `noise` [M, d] is that of the actions that
 * follow. */
void sac_critics(const sac *s, const transitions *batch, const float *noise, double ent_coef,
                 sac_sums *sums)
{
    const int64_t width = s->features + s->actions;
    sac_job job = {.s = s, .batch = batch, .noise = noise, .ent_coef = ent_coef,
                   .policy = {.p = s->policy, .ways = AHEAD,
                              .x = {batch->following, s->features, 1}}};
    int64_t products = products_of(s->policy);
    for (int i = 0; i < 2; i++) {
        job.followers[i] = (going){.p = s->followers[i], .ways = AHEAD, .x = {s->drawn, width, 1}};
        job.critics[i] = (going){.p = s->critics[i], .ways = AHEAD | BACK,
                                 .x = {s->done, width, 1}, .g = {s->slopes + i * s->size, 1, 1}};
        products += products_of(s->followers[i]) + products_of(s->critics[i]);
    }
    job.parts = row_parts(s->size, products);
    const going all[] = {job.policy, job.followers[0], job.followers[1], job.critics[0],
                         job.critics[1]};
    pack_passes(all, 5);
    in_parts(critic_rows, &job, job.parts);
    parameter_gradients(job.critics, 2);
    for (int critic = 0; critic < 2; critic++)
        for (int64_t i = 0; i < s->size; i++) {
            const float error = s->errors[critic * s->size + i];
            sums->loss += 0.5 * (batch->weights ? error * batch->weights[i] : error) * error;
            sums->value += value_of(s->critics[critic], i);
        }
}

/* ---- The policy ---- */

static float lesser_of(const sac *s, int64_t i, int *which)
{
    const float first = value_of(s->critics[0], i), second = value_of(s->critics[1], i);
    *which = !(first <= second);
    return !*which || isnan(first) ? first : second;
}

/* The gradient of the policy's loss at its outputs, from those of both critics at the actions. */
static void squashed_slopes(const sac_job *job, int64_t from, int64_t rows)
{
    const sac *s = job->s;
    const int64_t d = s->actions, width = s->features + d;
    const int64_t stride = padded(width);
    const double weight = job->ent_coef / s->size;
    for (int64_t i = from; i < from + rows; i++) {
        float *gradient = s->gradient + i * 2 * d;
        for (int64_t j = 0; j < d; j++) {
            const double action = s->drawn[i * width + s->features + j];
            double back = s->critics[0]->layers->gradient[i * stride + j];
            back += s->critics[1]->layers->gradient[i * stride + j];
            const double before = back * (1 - action * action)
                                  + 2 * weight * action; /* the last of log(1 - tanh^2) */
            gradient[j] = (float)before;
            gradient[d + j] =
                (float)((before * s->spread[i * d + j] - weight) * s->inside[i * d + j]);
        }
    }
}

static void policy_rows(const void *all, int64_t part)
{
    const sac_job *job = all;
    const sac *s = job->s;
    const float share = -1.0f / s->size;
    int64_t rows, from = part_of_rows(job, part, &rows);
    sample(job, job->observations, from, rows);
    for (int critic = 0; critic < 2; critic++) rows_ahead(&job->critics[critic], from, rows);
    for (int64_t i = from; i < from + rows; i++) {
        int lesser;
        lesser_of(s, i, &lesser);
        s->slopes[i] = lesser ? 0 : share;
        s->slopes[s->size + i] = lesser ? share : 0;
    }
    for (int critic = 0; critic < 2; critic++) rows_back(&job->critics[critic], from, rows);
    squashed_slopes(job, from, rows);
    rows_back(&job->policy, from, rows);
}

/* Writes the gradient of the policy; that of the critics stays as it is. */
void sac_policy(const sac *s, const float *observations, const float *noise, double ent_coef,
                sac_sums *sums)
{
    const int64_t width = s->features + s->actions;
    sac_job job = {.s = s, .observations = observations, .noise = noise, .ent_coef = ent_coef,
                   .policy = {.p = s->policy, .ways = AHEAD | BACK,
                              .x = {observations, s->features, 1}, .g = {s->gradient, 2 * s->actions, 1}}};
    int64_t products = products_of(s->policy);
    for (int i = 0; i < 2; i++) {
        job.critics[i] = (going){.p = s->critics[i], .ways = AHEAD | BACK,
                                 .x = {s->drawn, width, 1}, .g = {s->slopes + i * s->size, 1, 1},
                                 .to_inputs = 1, .first_input = s->features};
        products += products_of(s->critics[i]);
    }
    job.parts = row_parts(s->size, products);
    const going all[] = {job.policy, job.critics[0], job.critics[1]};
    pack_passes(all, 3);
    in_parts(policy_rows, &job, job.parts);
    parameter_gradients(&job.policy, 1);
    for (int64_t i = 0; i < s->size; i++) {
        int lesser;
        sums->value += lesser_of(s, i, &lesser);
        sums->log_prob += s->log_probs[i];
    }
}
