/* The gradient of PPO's loss in one call, and its advantages.
 *
 * M samples, F features, k logits or means. Between the packing of weights and the gradients of
 * parameters every sample goes its own way through both networks and back: some rows are a part.
 * Means are of sums in double precision, in order, after all parts: no number depends on them.
 * `rl/core/kernels/ppo.py` has the same structures; tests hold all of it to the torch loss.
 */

#include <math.h>

#include "passes.h"
#include "products.h"
#include "threads.h"

typedef struct {
    double clip_range, value_clip, dual_clip; /* the last two take no part where they are NaN */
    double value_coef, entropy_coef, kl_coef;
} ppo_settings;

/* Of a sample, or sums of them. */
typedef struct {
    double objective, value_error, entropy, kl, clipped;
} ppo_terms;

/* M samples: log-probabilities, values and what is made of them are from before the update. */
typedef struct {
    const float *features;
    const void *actions;          /* int64 [M], or float [M, k] */
    const float *log_probs, *advantages, *targets, *values;
} ppo_samples;

typedef struct {
    const pass *torso;            /* of both; NULL: each begins with the features */
    const pass *policy, *value;
    const float *log_std;         /* [k], of normals; NULL: one category of k */
    float *log_std_gradient;      /* [k] */
    float *at_outputs, *at_values; /* gradients there, [M, k] and [M] */
    double *slopes;               /* [M], at log-probabilities */
    ppo_terms *terms;             /* [M] */
    double *precision;            /* [k], of normals */
    int64_t size, features, outputs;
} ppo;

typedef struct {
    const ppo *p;
    const ppo_settings *s;
    const ppo_samples *old;
    going torso, policy, value;
    int64_t parts;
    double constant;              /* of a log-probability of normals */
} ppo_job;

/* Slope of the loss at the log-probability of sample i, and the sample's terms. */
static double policy_slope(const ppo_job *job, int64_t i, double log_prob, double entropy)
{
    const ppo_settings *s = job->s;
    const ppo_samples *old = job->old;
    const double advantage = old->advantages[i], log_ratio = log_prob - old->log_probs[i];
    const double ratio = expf((float)log_ratio), low = 1 - s->clip_range, high = 1 + s->clip_range;
    const double clipped = ratio < low ? low : ratio > high ? high : ratio;
    double objective = ratio * advantage, slope = objective;
    if (clipped * advantage < objective) objective = clipped * advantage, slope = 0;
    if (advantage < 0 && objective < s->dual_clip * advantage)
        objective = s->dual_clip * advantage, slope = 0;
    job->p->terms[i] = (ppo_terms){.objective = objective, .entropy = entropy,
                                   .kl = ratio - 1 - log_ratio, .clipped = clipped != ratio};
    return job->p->slopes[i] = 1.0 / job->p->size * (s->kl_coef * (ratio - 1) - slope);
}

/* Gradients at some values. */
static void value_slopes(const ppo_job *job, int64_t from, int64_t rows)
{
    const ppo_samples *old = job->old;
    const pass *net = job->p->value;
    const layer *last = net->layers + net->depth - 1;
    for (int64_t i = from; i < from + rows; i++) {
        const double value = last->output[i * last->output_stride];
        double slope = value - old->targets[i], error = slope * slope;
        const double moved = value - old->values[i], limit = job->s->value_clip;
        if (fabs(moved) > limit) {
            const double kept = old->values[i] + (moved > 0 ? limit : -limit) - old->targets[i];
            if (kept * kept > error) error = kept * kept, slope = 0;
        }
        job->p->terms[i].value_error = error;
        job->p->at_values[i] = (float)(2 * job->s->value_coef / job->p->size * slope);
    }
}

/* One category of k: gradients at some logits. */
static void category_slopes(const ppo_job *job, int64_t from, int64_t rows)
{
    const int64_t k = job->p->outputs, *actions = job->old->actions;
    const layer *last = job->p->policy->layers + job->p->policy->depth - 1;
    const double share = 1.0 / job->p->size;
    for (int64_t i = from; i < from + rows; i++) {
        const float *logits = last->output + i * last->output_stride;
        float *chances = job->p->at_outputs + i * k; /* until they become the gradient */
        float largest = logits[0], total = 0;
        double entropy = 0;
        for (int64_t j = 1; j < k; j++) largest = logits[j] > largest ? logits[j] : largest;
        for (int64_t j = 0; j < k; j++) total += chances[j] = expf(logits[j] - largest);
        const float log_total = logf(total);
        for (int64_t j = 0; j < k; j++) {
            chances[j] /= total;
            entropy -= chances[j] * (logits[j] - largest - log_total);
        }
        const int64_t done = actions[i];
        const double slope = policy_slope(job, i, logits[done] - largest - log_total, entropy);
        /* d log pi(a) / d logit_j = [j = a] - p_j, dH / d logit_j = -p_j (log p_j + H) */
        for (int64_t j = 0; j < k; j++) {
            const float log_chance = logits[j] - largest - log_total;
            chances[j] = (float)(slope * ((j == done) - chances[j])
                                 + job->s->entropy_coef * share * chances[j]
                                       * (log_chance + entropy));
        }
    }
}

/* k independent normals: gradients at some means. */
static void normal_slopes(const ppo_job *job, int64_t from, int64_t rows)
{
    const int64_t k = job->p->outputs;
    const layer *last = job->p->policy->layers + job->p->policy->depth - 1;
    const double *precision = job->p->precision;
    for (int64_t i = from; i < from + rows; i++) {
        const float *means = last->output + i * last->output_stride;
        const float *actions = (const float *)job->old->actions + i * k;
        double squares = 0;
        for (int64_t j = 0; j < k; j++) {
            const double scaled = (actions[j] - means[j]) * precision[j];
            squares += scaled * scaled;
        }
        const double entropy = job->constant + 0.5 * k;
        const double slope = policy_slope(job, i, -0.5 * squares - job->constant, entropy);
        for (int64_t j = 0; j < k; j++) {
            const double scaled = (actions[j] - means[j]) * precision[j];
            job->p->at_outputs[i * k + j] = (float)(slope * scaled * precision[j]);
        }
    }
}

/* Gradients at log-deviations, from the slopes of all samples. */
static void log_std_slopes(const ppo_job *job)
{
    const int64_t k = job->p->outputs;
    const layer *last = job->p->policy->layers + job->p->policy->depth - 1;
    const float *actions = job->old->actions;
    for (int64_t j = 0; j < k; j++) {
        double sum = 0;
        for (int64_t i = 0; i < job->p->size; i++) {
            const float mean = last->output[i * last->output_stride + j];
            const double scaled = (actions[i * k + j] - mean) * job->p->precision[j];
            sum += job->p->slopes[i] * (scaled * scaled - 1);
        }
        job->p->log_std_gradient[j] = (float)(sum - job->s->entropy_coef);
    }
}

static void ppo_rows(const void *all, int64_t part)
{
    const ppo_job *job = all;
    const ppo *p = job->p;
    const int64_t from = first_of(p->size, job->parts, part);
    const int64_t rows = first_of(p->size, job->parts, part + 1) - from;
    if (p->torso) rows_ahead(&job->torso, from, rows);
    rows_ahead(&job->policy, from, rows);
    rows_ahead(&job->value, from, rows);
    if (p->log_std) normal_slopes(job, from, rows);
    else category_slopes(job, from, rows);
    value_slopes(job, from, rows);
    rows_back(&job->policy, from, rows);
    rows_back(&job->value, from, rows);
    if (!p->torso) return;
    const int64_t width = padded(p->policy->layers->inputs);
    float *back = p->policy->layers->gradient;
    const float *other = p->value->layers->gradient;
    for (int64_t i = from * width; i < (from + rows) * width; i++) back[i] += other[i];
    rows_back(&job->torso, from, rows);
}

/* Writes the gradient of the mean loss, and sums of the samples' terms. Returns 0, or 1: an action
 * is none of the k. */
int ppo_gradient(const ppo *p, const ppo_settings *s, const ppo_samples *old, ppo_terms *sums)
{
    const matrix x = {old->features, p->features, 1};
    ppo_job job = {.p = p, .s = s, .old = old};
    for (int64_t i = 0; !p->log_std && i < p->size; i++) {
        const int64_t action = ((const int64_t *)old->actions)[i];
        if (action < 0 || action >= p->outputs) return 1;
    }
    for (int64_t j = 0; p->log_std && j < p->outputs; j++) {
        p->precision[j] = exp(-(double)p->log_std[j]);
        job.constant += p->log_std[j] + 0.91893853320467274178; /* log sqrt(2 pi) */
    }
    job.policy = (going){.p = p->policy, .x = x, .g = {p->at_outputs, p->outputs, 1},
                         .ways = AHEAD | BACK};
    job.value = (going){.p = p->value, .x = x, .g = {p->at_values, 1, 1}, .ways = AHEAD | BACK};
    int64_t products = products_of(p->policy) + products_of(p->value);
    if (p->torso) {
        const layer *last = p->torso->layers + p->torso->depth - 1;
        const layer *head = p->policy->layers;
        job.policy.x = job.value.x = (matrix){last->output, last->output_stride, 1};
        job.policy.to_inputs = job.value.to_inputs = 1;
        job.torso = (going){.p = p->torso, .x = x, .g = {head->gradient, padded(head->inputs), 1},
                            .ways = AHEAD | BACK};
        products += products_of(p->torso);
    }
    const going all[] = {job.policy, job.value, job.torso};
    const int64_t count = p->torso ? 3 : 2;
    job.parts = row_parts(p->size, products);
    pack_passes(all, count);
    in_parts(ppo_rows, &job, job.parts);
    parameter_gradients(all, count);
    if (p->log_std) log_std_slopes(&job);
    for (int64_t i = 0; i < p->size; i++) {
        sums->objective += p->terms[i].objective;
        sums->value_error += p->terms[i].value_error;
        sums->entropy += p->terms[i].entropy;
        sums->kl += p->terms[i].kl;
        sums->clipped += p->terms[i].clipped;
    }
    return 0;
}

/* The advantages of M samples less their mean, over their deviation + 1e-8. */
void normalize(int64_t size, float *values)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < size; i++) sum += values[i];
    const double mean = sum / size;
    for (int64_t i = 0; i < size; i++) squares += (values[i] - mean) * (values[i] - mean);
    const double scale = 1 / (sqrt(squares / (size - 1)) + 1e-8);
    for (int64_t i = 0; i < size; i++) values[i] = (float)((values[i] - mean) * scale);
}
