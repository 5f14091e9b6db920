/* Work stealing: items 0 to `count` - 1 are shared by the threads of a team.
 *
 * Each thread has its own part, whose data is in its caches, and helps the others when it is done: if
 * a thread loses its core, to an encoder for instance, the team does not wait for all of its part.
 */

#include <omp.h>

struct part {
    int next, end;
    char apart[56];             /* a cache line for each */
};

static inline void share_out(struct part *parts, int threads, int count)
{
    for (int thread = 0; thread < threads; thread++) {
        parts[thread].next = (int)((long long)count * thread / threads);
        parts[thread].end = (int)((long long)count * (thread + 1) / threads);
    }
}

/* The next item for the calling thread, or -1. */
static inline int next_item(struct part *parts, int threads)
{
    int own = omp_get_thread_num();
    for (int step = 0; step < threads; step++) {
        struct part *part = &parts[(own + step) % threads];
        if (__atomic_load_n(&part->next, __ATOMIC_RELAXED) >= part->end)
            continue;
        int item = __atomic_fetch_add(&part->next, 1, __ATOMIC_RELAXED);
        if (item < part->end)
            return item;
    }
    return -1;
}
