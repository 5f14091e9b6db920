/* The interpolation network between its convolutions, for CPUs: see warping.h for the steps.
 *
 * Every function works on one pair of frames, in `threads` threads. The CPU's features
 * are detected once, at the first call.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "instructions.h"
#include "sharing.h"
#include "vectors.h"

/* Output of a block: (height/2, width/2, 4, channels), float or bf16. */
struct detail {
    const void *values;
    int height, width, channels;
};

struct packing {
    struct detail features;
    const float *image;         /* (channels, height, width), of the features' size */
    int channels;
    float *sources;             /* (height, width, 8) */
};

struct joining {
    const float *left, *right;  /* sources, (height, width, 8) */
    const float *flow;          /* (height, width, 4) */
    struct detail state;        /* at half the height and width of the input */
    int height, width, cell;
    float timestep;
    void *input;                /* (height/cell, width/cell, 15 or 28) */
};

struct adding {
    struct detail detail;
    int cell, begins, height, width;
    float *flow;
};

struct blending {
    const float *left, *right, *flow;
    struct detail detail;
    int cell, channels, height, width;
    float *image;               /* (channels, height, width) */
};

#define ROWS_FILE "warping.h"
#include "variants.h"

EXPORT int upframe_pack(const struct packing *job, int is_bf16, int threads)
{
    RUN(job->features.height, pack, job, is_bf16, threads);
    return 0;
}

EXPORT int upframe_first(const struct joining *job, int is_bf16, int threads)
{
    RUN(job->height / job->cell, first, job, is_bf16, threads);
    return 0;
}

EXPORT int upframe_add(const struct adding *job, int is_bf16, int threads)
{
    RUN(job->height, add, job, is_bf16, threads);
    return 0;
}

EXPORT int upframe_next(const struct joining *job, int is_bf16, int threads)
{
    RUN(job->height / job->cell, next, job, is_bf16, threads);
    return 0;
}

EXPORT int upframe_blend(const struct blending *job, int is_bf16, int threads)
{
    RUN(job->height, blend, job, is_bf16, threads);
    return 0;
}
