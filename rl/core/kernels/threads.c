/* A few helping threads that take parts of a job while its caller takes others.
 *
 * A helper that still looks for work begins 0.3 to 0.5 us after a job is there (measured on two cores
 * of a virtual machine, EPYC of the third generation); after SPINS looks it sleeps, and then begins 40
 * to 55 us late, while waking it costs the caller 15 to 75 us. A helper that does not come (another process has its core)
 * costs nothing: the caller takes the parts itself, and waits at most for parts already begun.
 */

#include "threads.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#define MOST_HELPERS 63
#define SPINS 8000 /* some 200 us: longer than what a learner does between two jobs */
#define CLOSED UINT32_MAX
#define FLAGS 0x3fu /* what happened so far, of the register with the rounding modes */

typedef void part_of(const void *job, int64_t i);

/* The number of the job in the upper half, the next part in the lower. */
static _Atomic uint64_t ticket = CLOSED;
static _Atomic(part_of *) job_part;
static _Atomic(const void *) job_data;
static _Atomic int64_t job_count, job_done;
static _Atomic uint32_t job_rounding; /* as the caller's registers have it */

static atomic_flag busy = ATOMIC_FLAG_INIT;
static _Atomic int helpers, wanted, sleeping; /* helpers there are, that may help, that sleep */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;

static int is_open(void)
{
    return (int64_t)(uint32_t)atomic_load(&ticket) < atomic_load(&job_count);
}

/* Takes parts until none is left; whether it took any. The fields belong to the ticket they were
 * read with: a job changes them only while the ticket is closed. */
static int take_parts(void)
{
    int took = 0;
    for (;;) {
        uint64_t seen = atomic_load(&ticket);
        const int64_t i = (uint32_t)seen;
        part_of *part = atomic_load(&job_part);
        const void *job = atomic_load(&job_data);
        const uint32_t rounding = atomic_load(&job_rounding);
        if (i >= atomic_load(&job_count)) return took;
        if (!atomic_compare_exchange_strong(&ticket, &seen, seen + 1)) continue;
        if ((_mm_getcsr() ^ rounding) & ~FLAGS) _mm_setcsr(rounding & ~FLAGS);
        part(job, i);
        atomic_fetch_add(&job_done, 1);
        took = 1;
    }
}

static void *help(void *argument)
{
    const int own = (int)(intptr_t)argument;
    for (int spins = 0;;) {
        const int may = own < atomic_load(&wanted);
        if (may && take_parts()) spins = 0;
        else if (++spins < SPINS) _mm_pause();
        else {
            pthread_mutex_lock(&lock);
            atomic_fetch_add(&sleeping, 1);
            while (own >= atomic_load(&wanted) || !is_open()) pthread_cond_wait(&work, &lock);
            atomic_fetch_sub(&sleeping, 1);
            pthread_mutex_unlock(&lock);
            spins = 0;
        }
    }
    return NULL;
}

void in_parts(part_of *part, const void *job, int64_t count)
{
    if (count < 2 || !atomic_load(&wanted) || atomic_flag_test_and_set(&busy)) {
        for (int64_t i = 0; i < count; i++) part(job, i);
        return;
    }
    const uint64_t number = (atomic_load(&ticket) >> 32) + 1;
    atomic_store(&ticket, number << 32 | CLOSED);
    atomic_store(&job_part, part);
    atomic_store(&job_data, job);
    atomic_store(&job_count, count);
    atomic_store(&job_rounding, _mm_getcsr());
    atomic_store(&job_done, 0);
    atomic_store(&ticket, number << 32);
    if (atomic_load(&sleeping)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&work);
        pthread_mutex_unlock(&lock);
    }
    take_parts();
    for (int spins = 0; atomic_load(&job_done) < count;)
        if (++spins < SPINS) _mm_pause();
        else sched_yield();
    atomic_flag_clear(&busy);
}

/* In a process that was forked there are no helpers, until it asks for threads again. */
static void forget(void)
{
    atomic_store(&helpers, 0);
    atomic_store(&wanted, 0);
    atomic_store(&sleeping, 0);
    atomic_flag_clear(&busy);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&work, NULL);
}

/* Lets jobs use so many threads from now on, the caller's among them, and starts what is missing;
 * returns how many it was. Not from two threads at once. The system may refuse some. */
int set_threads(int count)
{
    static int knows_forks;
    const int before = atomic_load(&wanted) + 1;
    if (count - 1 <= atomic_load(&helpers)) {
        atomic_store(&wanted, count > 1 ? count - 1 : 0);
        return before;
    }
    if (!knows_forks) knows_forks = !pthread_atfork(NULL, NULL, forget);
    int more = count - 1 < MOST_HELPERS ? count - 1 : MOST_HELPERS;
    pthread_attr_t detached;
    sigset_t all, mask;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* signals are for the threads of whoever called */
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    for (int own = atomic_load(&helpers); own < more; own++) {
        pthread_t thread;
        if (pthread_create(&thread, &detached, help, (void *)(intptr_t)own)) break;
        atomic_fetch_add(&helpers, 1);
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    pthread_attr_destroy(&detached);
    if (more > atomic_load(&helpers)) more = atomic_load(&helpers);
    atomic_store(&wanted, more);
    return before;
}

int64_t thread_count(void) { return atomic_load(&wanted) + 1; }
