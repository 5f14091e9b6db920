/* Arguments of `winograd.c`; the same structures are in winograd.py. */

#include <stdint.h>

struct pixels {
    void *values;               /* (images, height, width, channels), float or bf16 */
    int64_t step;               /* values from a pixel to the next: may be more than channels */
};

struct residual {               /* result * gain + to */
    struct pixels to;           /* values: or null */
    float gain;
};

struct convolution {
    struct pixels input;
    const void *weights;        /* transformed, of the dtype, in panels: winograd.py */
    const float *bias;          /* (out,) */
    const float *slopes;        /* (out,), of PReLU, or null */
    struct pixels output;       /* values: or null, where there is */
    float *picture;             /* (images, 3, height, width), or null */
    struct residual near, far;  /* one after the other */
    int present;                /* channels of the input, a multiple of 16 */
    int images;
    int height, width, in, out; /* of the output; in: present, for bf16 up to a multiple of 32 */
    int panel;                  /* channels of the output whose weights are adjacent */
    int doubled;                /* whether an input pixel stands for two by two */
    int narrow;                 /* whether to use AVX2 even with AVX-512 */
};
