/* Rows of a replay buffer: added, drawn and gathered in one call each.
 *
 * R rows of each of B environments; row r of environment b has the index r * B + b. A record is
 * words of 4 bytes: the action, then three more. `rl/core/data/replay.py` says what everything means
 * and has the same in numpy, to the bit.
 */

#include <stdint.h>
#include <string.h>

enum { REWARD = -3, CARRIES_ON = -2, SLOT = -1 }; /* words from the end of a record */
enum { NONE = -1, HEAD = -2 };                     /* in place of a slot */

typedef struct {
    char *observations;   /* [R, B, bytes] */
    int32_t *records;     /* [R, B, acted + 3] */
    const char *finals;   /* [slots, bytes] */
    int64_t *written;     /* [B], transitions ever */
    int64_t *heads, *head_indices, *ends, *offsets; /* [B] each, of `moved` */
    int64_t rows, width, bytes, acted;
    int64_t whole;        /* actions are int64 outside and int32 in records; else both are float */
    int64_t capacity;     /* transitions of an environment */
} replay;

/* Works out what adding and drawing need, after the write heads moved. */
static void moved(const replay *r)
{
    const int64_t columns = r->acted + 3;
    int64_t end = 0;
    for (int64_t b = 0; b < r->width; b++) {
        const int64_t head = r->written[b] % r->rows, index = head * r->width + b;
        end += r->written[b] < r->capacity ? r->written[b] : r->capacity;
        r->heads[b] = head;
        r->head_indices[b] = index;
        r->ends[b] = end;
        r->offsets[b] = head - end;
        r->records[(index + 1) * columns + SLOT] = HEAD;
    }
}

/* Stores T steps of B environments that all write at the same row: observations [T + 1, B, bytes],
 * actions [T, B, acted], rewards [T, B], terminated [T, B].
 * Returns 0, or 1 and nothing is stored: the first observation is another than the one at the write
 * heads, or a row that is overwritten holds a slot, which must be given back. */
int replay_put(const replay *r, int64_t steps, const char *observations, const char *actions,
               const float *rewards, const char *terminated)
{
    const int64_t columns = r->acted + 3, level = r->width * r->bytes, head = r->heads[0];
    if (memcmp(r->observations + head * level, observations, level)) return 1;
    for (int64_t t = 0; t <= steps; t++) {
        const int32_t *record = r->records + (head + t) % r->rows * r->width * columns;
        for (int64_t b = 0; b < r->width; b++, record += columns)
            if (record[columns + SLOT] >= 0) return 1;
    }
    for (int64_t t = 0; t <= steps; t++, observations += level)
        memcpy(r->observations + (head + t) % r->rows * level, observations, level);
    for (int64_t t = 0; t < steps; t++) {
        int32_t *record = r->records + (head + t) % r->rows * r->width * columns;
        for (int64_t b = 0; b < r->width; b++, record += columns, rewards++, terminated++) {
            if (r->whole)
                for (int64_t j = 0; j < r->acted; j++, actions += sizeof(int64_t)) {
                    int64_t action;
                    memcpy(&action, actions, sizeof action);
                    record[j] = (int32_t)action;
                }
            else {
                memcpy(record, actions, r->acted * sizeof(float));
                actions += r->acted * sizeof(float);
            }
            const float carries_on = !*terminated;
            memcpy(record + columns + REWARD, rewards, sizeof *rewards);
            memcpy(record + columns + CARRIES_ON, &carries_on, sizeof carries_on);
            record[columns + SLOT] = NONE;
        }
    }
    for (int64_t b = 0; b < r->width; b++) r->written[b] += steps;
    moved(r);
    return 0;
}

/* Indices [size] of transitions, each as likely as any other, by numbers in [0, 1). */
void replay_draw(const replay *r, int64_t size, const double *chances, int64_t *indices)
{
    const double total = (double)r->ends[r->width - 1];
    for (int64_t i = 0; i < size; i++) {
        const int64_t place = (int64_t)(chances[i] * total);
        int64_t low = 0, high = r->width - 1; /* the first environment whose end is behind it */
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (r->ends[middle] > place) high = middle;
            else low = middle + 1;
        }
        int64_t row = (place + r->offsets[low]) % r->rows;
        if (row < 0) row += r->rows;
        indices[i] = row * r->width + low;
    }
}

/* Transitions of one step at indices [size]: observations and what they led to [size, bytes],
 * actions [size, acted], rewards [size], and discounts [size], gamma or 0 behind a last step.
 * Returns 0, or 1: there is no such index. */
int replay_take(const replay *r, int64_t size, const int64_t *indices, float gamma,
                 char *observations, char *actions, float *rewards, char *following,
                 float *discounts)
{
    const int64_t columns = r->acted + 3, all = r->rows * r->width, bytes = r->bytes;
    for (int64_t i = 0; i < size; i++, observations += bytes, following += bytes) {
        const int64_t at = indices[i];
        if (at < 0 || at >= all) return 1;
        const int32_t *record = r->records + at * columns;
        memcpy(observations, r->observations + at * bytes, bytes);
        if (r->whole)
            for (int64_t j = 0; j < r->acted; j++, actions += sizeof(int64_t)) {
                const int64_t action = record[j];
                memcpy(actions, &action, sizeof action);
            }
        else {
            memcpy(actions, record, r->acted * sizeof(float));
            actions += r->acted * sizeof(float);
        }
        float carries_on;
        memcpy(rewards + i, record + columns + REWARD, sizeof *rewards);
        memcpy(&carries_on, record + columns + CARRIES_ON, sizeof carries_on);
        discounts[i] = carries_on * gamma;
        const int32_t slot = record[columns + SLOT];
        const int64_t next = (at + r->width) % all;
        const char *from = slot < 0 ? r->observations + next * bytes : r->finals + slot * bytes;
        memcpy(following, from, bytes);
    }
    return 0;
}
