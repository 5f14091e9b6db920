/* The compact upscaling network behind its convolutions, for CPUs: see laying.h for the steps. */

#include <stddef.h>

#include "instructions.h"
#include "sharing.h"
#include "vectors.h"

struct activation {
    void *values;               /* (height, width, channels), channels a multiple of 8 */
    const float *slopes;        /* (channels,) */
    int height, width, channels;
};

struct laying {
    const float *image;         /* (3, height, width) */
    const void *detail;         /* (height, width, 3, scale, scale) */
    int height, width, scale;
    float weights[4][3];        /* of neighbours, for each pixel of a downscaled square */
    float *result;              /* (3, height * scale, width * scale) */
};

#define ROWS_FILE "laying.h"
#include "variants.h"

EXPORT int upframe_activate(const struct activation *job, int is_bf16, int threads)
{
    RUN(job->height, activate, job, is_bf16, threads);
    return 0;
}

EXPORT int upframe_lay(const struct laying *job, int is_bf16, int threads)
{
    RUN(job->height, lay, job, is_bf16, threads);
    return 0;
}

EXPORT int upframe_shrink(const struct laying *job, int is_bf16, int threads)
{
    RUN(job->height, shrink, job, is_bf16, threads);
    return 0;
}
