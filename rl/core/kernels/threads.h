/* Jobs whose parts may run on several threads, in any order: see threads.c. */

#include <stdint.h>

/* Calls part(job, i) once for every i below count; returns when all are done. What a part writes
 * no other may read or write: then the numbers are the same whatever the number of threads. */
void in_parts(void (*part)(const void *job, int64_t i), const void *job, int64_t count);

/* How many threads `in_parts` uses now, the caller's among them. */
int64_t thread_count(void);
