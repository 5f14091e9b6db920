/* What `winograd.c` is told, as in winograd.py. */

#include <stdint.h>

struct pixels {
    uint16_t *values;           /* (height, width, channels), bf16 */
    int64_t step;               /* values from a pixel to the next: they may be more than channels */
};

struct residual {               /* result * gain + to */
    struct pixels to;           /* values: or null */
    float gain;
};

struct convolution {
    struct pixels input;
    const uint16_t *weights;    /* (36, in/2, out, 2), bf16, in an order of their own: turned.py */
    const float *bias;          /* (out,) */
    const float *slopes;        /* (out,), of PReLU, or null */
    struct pixels output;       /* values: or null, where there is */
    float *picture;             /* (3, height, width), or null */
    struct residual near, far;  /* one after the other */
    int present;                /* channels of the input, a multiple of 16 */
    int height, width, in, out; /* of the output; in: present up to the next multiple of 32 */
    int doubled;                /* whether a pixel of the input stands for two by two */
};
