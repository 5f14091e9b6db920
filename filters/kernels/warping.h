/* One row of each step of the interpolation network that is no convolution.
 *
 * Included once per instruction set and dtype of the convolutions: ROWS(name) gives each copy its own
 * names, IS_BF16 selects the dtype.
 *
 * Sources are (H, W, 8) float: 4 features, R, G, B, alpha or unused. Flow is (H, W, 4) float,
 * pixels: x, y of the left frame, x, y of the right one. The output of a block ("detail") is
 * (h/2, w/2, 4, K): the four pixels of a square in reading order, K channels each.
 */

/* Position of a pixel of a finer row in a coarser one: two neighbours and the weight of the second. */
struct ROWS(between) {
    int first, second;
    float weight;
};

static inline struct ROWS(between) ROWS(find)(float position, int length)
{
    struct ROWS(between) found;
    /* also for NaN, for which comparisons are false */
    position = position > 0 ? position : 0;
    position = position < (float)(length - 1) ? position : (float)(length - 1);
    found.first = (int)position;
    found.second = found.first + 1 < length ? found.first + 1 : found.first;
    found.weight = position - (float)found.first;
    return found;
}

static inline struct ROWS(between) ROWS(coarse)(int index, float share, int length)
{
    return ROWS(find)(((float)index + 0.5f) * share - 0.5f, length);
}

static inline eight ROWS(mix)(eight a, eight b, float weight) { return a + (b - a) * weight; }

/* Sample a source where a pixel's flow points; borders repeat. */
static inline eight ROWS(sample)(const float *source, int height, int width, float x, float y)
{
    struct ROWS(between) column = ROWS(find)(x, width), row = ROWS(find)(y, height);
    const float *upper = source + (size_t)row.first * width * 8;
    const float *lower = source + (size_t)row.second * width * 8;
    eight top = ROWS(mix)(ROWS(load)(upper + 8 * column.first), ROWS(load)(upper + 8 * column.second),
                          column.weight);
    eight bottom = ROWS(mix)(ROWS(load)(lower + 8 * column.first), ROWS(load)(lower + 8 * column.second),
                             column.weight);
    return ROWS(mix)(top, bottom, row.weight);
}

/* Offset of the channels of one pixel in a block's output. */
static inline size_t ROWS(place)(int y, int x, int width, int channels)
{
    return (((size_t)(y / 2) * (width / 2) + x / 2) * 4 + (y % 2) * 2 + x % 2) * channels;
}

/* The four pixels of a block's result around one of a finer picture. */
struct ROWS(corners) {
    size_t at[4];
    float right, down;
};

static inline struct ROWS(corners) ROWS(around)(const struct detail *from, struct ROWS(between) row,
                                                struct ROWS(between) column)
{
    int width = from->width, channels = from->channels;
    return (struct ROWS(corners)){ {
        ROWS(place)(row.first, column.first, width, channels),
        ROWS(place)(row.first, column.second, width, channels),
        ROWS(place)(row.second, column.first, width, channels),
        ROWS(place)(row.second, column.second, width, channels),
    }, column.weight, row.weight };
}

#define BILINEAR(load, from, corners, offset) __extension__({ \
    __typeof__(load((from)->values, 0)) a = load((from)->values, (corners).at[0] + (offset)); \
    __typeof__(a) b = load((from)->values, (corners).at[1] + (offset)); \
    __typeof__(a) c = load((from)->values, (corners).at[2] + (offset)); \
    __typeof__(a) d = load((from)->values, (corners).at[3] + (offset)); \
    __typeof__(a) top = a + (b - a) * (corners).right, bottom = c + (d - c) * (corners).right; \
    top + (bottom - top) * (corners).down; \
})

/* A row of sources: an encoder's features, (H/2, W/2, 4, 4), before the image, (C, H, W). */
static void ROWS(pack)(const struct packing *job, int y)
{
    const struct detail *features = &job->features;
    size_t plane = (size_t)features->height * features->width, at = (size_t)y * features->width;
    const float *image = job->image + at;
    for (int x = 0; x < features->width; x++) {
        float *to = job->sources + (at + x) * 8;
        *(four_unaligned *)to = ROWS(four_of)(features->values,
                                              ROWS(place)(y, x, features->width, 4));
        *(four_unaligned *)(to + 4) = (four){ image[x], image[x + plane], image[x + 2 * plane],
                                              job->channels == 4 ? image[x + 3 * plane] : 0 };
    }
}

/* A row of the first block's input: both sources at the middle of each cell, and the moment.
 *
 * Of eight values stored, here and below, the next overwrite the last: they are alpha. */
static void ROWS(first)(const struct joining *job, int y)
{
    int start = job->cell / 2 - 1, width = job->width / job->cell;
    for (int x = 0; x < width; x++) {
        size_t to = ((size_t)y * width + x) * 15;
        size_t tap = ((size_t)(y * job->cell + start) * job->width + x * job->cell + start) * 8;
        for (int side = 0; side < 2; side++) {
            const float *upper = (side ? job->right : job->left) + tap;
            const float *lower = upper + (size_t)job->width * 8;
            eight sum = ROWS(load)(upper) + ROWS(load)(upper + 8) + ROWS(load)(lower)
                + ROWS(load)(lower + 8);
            ROWS(put8)(job->input, to + 7 * side, sum * 0.25f);
        }
        ROWS(put)(job->input, to + 14, job->timestep);
    }
}

/* Add the output of a block to a row of the flow, or set it. */
static void ROWS(add)(const struct adding *job, int y)
{
    const struct detail *from = &job->detail;
    float cell = (float)job->cell, share = 1 / cell;
    struct ROWS(between) row = ROWS(coarse)(y, share, from->height);
    for (int x = 0; x < job->width; x++) {
        struct ROWS(corners) corners =
            ROWS(around)(from, row, ROWS(coarse)(x, share, from->width));
        four_unaligned *flow = (four_unaligned *)(job->flow + ((size_t)y * job->width + x) * 4);
        four change = BILINEAR(ROWS(four_of), from, corners, 0) * cell;
        if (!job->begins)
            change += *flow;
        *flow = change;
    }
}

/* A row of a later block's input: sources moved by the flow, the state, the moment, the flow. */
static void ROWS(next)(const struct joining *job, int y)
{
    int cell = job->cell, width = job->width / cell;
    int edge = cell == 1 ? 1 : 2, start = cell == 1 ? 0 : cell / 2 - 1;
    float share = 1.0f / (float)(edge * edge);
    struct ROWS(between) row = ROWS(coarse)(y, 0.5f, job->state.height);
    for (int x = 0; x < width; x++) {
        eight left = { 0 }, right = { 0 };
        four sum = { 0 };
        for (int tap = 0; tap < edge * edge; tap++) {
            int py = y * cell + start + tap / edge, px = x * cell + start + tap % edge;
            four flow = *(const four_unaligned *)(job->flow + ((size_t)py * job->width + px) * 4);
            left += ROWS(sample)(job->left, job->height, job->width,
                                 (float)px + flow[0], (float)py + flow[1]);
            right += ROWS(sample)(job->right, job->height, job->width,
                                  (float)px + flow[2], (float)py + flow[3]);
            sum += flow;
        }
        struct ROWS(corners) corners =
            ROWS(around)(&job->state, row, ROWS(coarse)(x, 0.5f, job->state.width));
        size_t to = ((size_t)y * width + x) * 28;
        ROWS(put8)(job->input, to, left * share);
        ROWS(put8)(job->input, to + 7, right * share);
        ROWS(put8)(job->input, to + 14, BILINEAR(ROWS(eight_of), &job->state, corners, 4));
        ROWS(put)(job->input, to + 22, BILINEAR(ROWS(one_of), &job->state, corners, 12));
        ROWS(put)(job->input, to + 23, job->timestep);
        ROWS(put4)(job->input, to + 24, sum * (share / (float)cell));
    }
}

/* A row of the in-between: both images moved by the finished flow and mixed by the mask. */
static void ROWS(blend)(const struct blending *job, int y)
{
    const struct detail *last = &job->detail;
    float cell = (float)job->cell, share = 1 / cell;
    size_t plane = (size_t)job->height * job->width;
    struct ROWS(between) row = ROWS(coarse)(y, share, last->height);
    for (int x = 0; x < job->width; x++) {
        size_t at = (size_t)y * job->width + x;
        struct ROWS(corners) corners =
            ROWS(around)(last, row, ROWS(coarse)(x, share, last->width));
        four flow = *(const four_unaligned *)(job->flow + at * 4)
            + BILINEAR(ROWS(four_of), last, corners, 0) * cell;
        eight left = ROWS(sample)(job->left, job->height, job->width,
                                  (float)x + flow[0], (float)y + flow[1]);
        eight right = ROWS(sample)(job->right, job->height, job->width,
                                   (float)x + flow[2], (float)y + flow[3]);
        float mask = BILINEAR(ROWS(one_of), last, corners, 4);
        eight mixed = ROWS(mix)(right, left, 1 / (1 + expf(-mask)));
        for (int channel = 0; channel < job->channels; channel++)
            job->image[channel * plane + at] = mixed[4 + channel];
    }
}
