/* R'G'B' to coded planes, for CPUs: matrix, chroma's filters and rounding in one pass. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "instructions.h"
#include "sharing.h"

enum { ACROSS_WHOLE, ACROSS_FIRST, ACROSS_BETWEEN };

struct coding {
    const float *pixels;        /* (3, height, width), [0, 1] */
    int height, width;          /* even where chroma is halved, and at least 12 there */
    int halved_down, across;
    float most;                 /* the largest code: 8 bits a sample up to 255, else 16 */
    float matrix[3][3], offset[3];
    float taps[12];             /* of halving where a sample lies between two, on 2k-5 to 2k+6 */
    void *planes[3];
};

/* Index of a row or column, mirrored at the border. */
static inline int mirrored(int index, int length)
{
    return index < 0 ? -1 - index : index >= length ? 2 * length - 1 - index : index;
}

#define ROWS(name) JOINED(name, _plain)
#include "coding.h"
#undef ROWS

#if HAS_AVX2
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define ROWS(name) JOINED(name, _avx2)
#include "coding.h"
#undef ROWS
#pragma GCC pop_options
#endif

/* Returns 0, or -1 if a buffer of a few rows could not be allocated. */
EXPORT int upframe_code(const struct coding *job, int is_bf16, int threads)
{
    void (*step)(const struct coding *, int, float *) = code_plain;
    int rows = job->halved_down ? job->height / 2 : job->height, failed = 0;
    (void)is_bf16;
#if HAS_AVX2
    if (has_avx2())
        step = code_avx2;
#endif
    struct part parts[threads];
    share_out(parts, threads, rows);
#pragma omp parallel num_threads(threads)
    {
        float *work = malloc((6 * (size_t)job->width + 64) * sizeof *work);
        if (!work)
#pragma omp atomic write
            failed = 1;
        for (int y; work && (y = next_item(parts, threads)) >= 0;)
            step(job, y, work);
        free(work);
    }
    return -failed;
}
