/* Arguments of `winograd.c` and `amx.c`; the same structures are in cpu_convolution.py. */

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
    const void *weights;        /* of the dtype, as cpu_convolution.py lays them out */
    const float *bias;          /* (out,) */
    const float *slopes;        /* (out,), of PReLU, or null */
    struct pixels output;       /* values: or null, where there is */
    float *picture;             /* (images, 3, height, width), or null */
    struct residual near, far;  /* one after the other */
    int present;                /* channels of the input; for winograd.c a multiple of 16 */
    int images;
    int height, width, in, out; /* of the output; in: present, for bf16 up to a multiple of 32 */
    int panel;                  /* channels of the output whose weights are adjacent */
    int doubled;                /* whether an input pixel stands for two by two */
    int narrow;                 /* whether to use AVX2 even with AVX-512 */
    /* only inside winograd.c: addresses of each row, if they are not adjacent; one image then */
    void *const *input_rows, *const *output_rows;
    /* only for amx.c, where in is a multiple of 32; height and width are those of a grid there */
    int made;                   /* channels of the output that are stored; out: up to one of 16 */
    int in_height, in_width;    /* of the input as it lies there */
    int stride, transposed;     /* 1 or 2; whether 4x4 of stride 2, transposed, with stride 1 here */
};
