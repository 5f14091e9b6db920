/* A few tiles of a 3x3 convolution: their sums, the products of these, and what comes of them.
 *
 * Included once per kind of tiles, behind lanes.h and toomcook.h.
 */

/* The rows that tiles see from `top` on; null outside the image. */
static inline void TILES_OF(rows_of)(const struct convolution *job, int image, int top,
                                     const VALUE *rows[WINDOW])
{
    int shift = job->doubled, height = job->height >> shift;
    size_t line = (size_t)(job->width >> shift) * job->input.step;
    for (int row = 0; row < WINDOW; row++) {
        int y = top + row;
        rows[row] = NULL;
        if (y >= 0 && y < job->height)
            rows[row] = job->input_rows ? (const VALUE *)job->input_rows[y]
                : (const VALUE *)job->input.values + ((size_t)image * height + (y >> shift)) * line;
    }
}

/* Column `x` of the window of a tile in these rows, in sums. */
static inline void TILES_OF(column_of)(const struct convolution *job,
                                       const VALUE *const rows[WINDOW], int channel, int x,
                                       WIDE to[PARTS][WINDOW])
{
    WIDE pixels[PARTS][WINDOW];
    int inside = x >= 0 && x < job->width;
    size_t from = channel + (inside ? x >> job->doubled : 0) * job->input.step;
    for (int row = 0; row < WINDOW; row++) {
        WIDE of[PARTS] = { 0 };
        if (inside && rows[row])
            TILES_OF(load)(rows[row] + from, job->present - channel, of);
        for (int part = 0; part < PARTS; part++)
            pixels[part][row] = of[part];
    }
    for (int part = 0; part < PARTS; part++)
        TILES_OF(sums_of)(pixels[part], 1, to[part]);
}

/* Columns of a tile's window to its sums. */
static inline void TILES_OF(store_sums)(const WIDE columns[WINDOW][PARTS][WINDOW], VALUE *to,
                                        size_t step)
{
    for (int row = 0; row < WINDOW; row++) {
        WIDE sums[PARTS][WINDOW];
        for (int part = 0; part < PARTS; part++)
            TILES_OF(sums_of)(&columns[0][part][row], PARTS * WINDOW, sums[part]);
        for (int column = 0; column < WINDOW; column++) {
            WIDE of[PARTS];
            for (int part = 0; part < PARTS; part++)
                of[part] = sums[part][column];
            TILES_OF(store)(to + (row * WINDOW + column) * step, of);
        }
    }
}

/* The sums of tiles from `first` on. */
static void TILES_OF(sum_up)(const struct convolution *job, const struct work *work, int first,
                             int count)
{
    for (int channel = 0; channel < job->in; channel += PARTS * LANES) {
        WIDE columns[WINDOW][PARTS][WINDOW];
        struct place at = place_of(job, first);
        const VALUE *rows[WINDOW];
        int known = 0;
        for (int tile = 0; tile < count; tile++, at = behind(job, at)) {
            if (!at.left)
                known = 0;
            if (!known)
                TILES_OF(rows_of)(job, at.image, at.top - 1, rows);
            for (int column = 0; column < known; column++)
                for (int part = 0; part < PARTS; part++)
                    for (int row = 0; row < WINDOW; row++)
                        columns[column][part][row] = columns[column + EDGE][part][row];
            for (int column = known; column < WINDOW; column++)
                TILES_OF(column_of)(job, rows, channel, at.left - 1 + column, columns[column]);
            known = WINDOW - EDGE;
            TILES_OF(store_sums)(columns, (VALUE *)work->sums + (size_t)tile * job->in + channel,
                                 work->sums_step);
        }
    }
}

/* Multiply `tiles` tiles' sums with the weights of `vectors` times LANES channels. */
#define MULTIPLY(vectors, tiles) \
static inline void TILES_OF(multiply_##vectors)(const VALUE *sums, const VALUE *weights, \
                                                float *products, int in, int width, int out) \
{ \
    WIDE total[tiles][vectors]; \
    for (int tile = 0; tile < tiles; tile++) \
        for (int vector = 0; vector < vectors; vector++) \
            total[tile][vector] = TILES_OF(everywhere)(0); \
    for (int channel = 0; channel < in; channel += PARTS) { \
        FACTOR of[vectors]; \
        for (int vector = 0; vector < vectors; vector++) \
            of[vector] = TILES_OF(weights)(weights + (size_t)channel * width \
                                           + vector * LANES * PARTS); \
        for (int tile = 0; tile < tiles; tile++) { \
            FACTOR sum = TILES_OF(factor)(sums + (size_t)tile * in + channel); \
            for (int vector = 0; vector < vectors; vector++) \
                total[tile][vector] = TILES_OF(added)(total[tile][vector], sum, of[vector]); \
        } \
    } \
    for (int tile = 0; tile < tiles; tile++) \
        for (int vector = 0; vector < vectors; vector++) \
            TILES_OF(put_floats)(products + (size_t)tile * out + vector * LANES, \
                                 total[tile][vector]); \
}

#define MULTIPLY_ALL(vectors, tiles) do { \
    for (int tile = 0; tile < count; tile += tiles) \
        TILES_OF(multiply_##vectors)(sums + (size_t)tile * in, weights + (channel - start) * PARTS, \
                                     products + (size_t)tile * out + channel, in, width, out); \
    channel += vectors * LANES; \
} while (0)

/* As many tiles and vectors at once as there are registers for their totals. */
MULTIPLY(2, OF_TWO)
#if LANES == 16
MULTIPLY(4, 6)
MULTIPLY(3, 8)
MULTIPLY(1, 24)
#endif

/* The products of one of the 36 sums with the weights of channels from `start` on. */
static void TILES_OF(multiply)(const struct convolution *job, const struct work *work, int sum,
                               int start, int width, int count)
{
    int in = job->in, out = job->out;
    const VALUE *sums = (const VALUE *)work->sums + sum * work->sums_step;
    const VALUE *weights = (const VALUE *)job->weights + ((size_t)sum * out + start) * in;
    float *products = work->products + sum * work->products_step;
    for (int channel = start; channel < start + width;) {
#if LANES == 16
        int vectors = (start + width - channel) / LANES;
        if (vectors >= 4)
            MULTIPLY_ALL(4, 6);
        else if (vectors == 3)
            MULTIPLY_ALL(3, 8);
        else if (vectors == 1)
            MULTIPLY_ALL(1, 24);
        else
#endif
            MULTIPLY_ALL(2, OF_TWO);
    }
}

static inline WIDE TILES_OF(with)(const struct residual *residual, size_t pixel, int channel,
                                  WIDE value)
{
    const VALUE *from = (const VALUE *)residual->to.values + pixel * residual->to.step + channel;
    return value * residual->gain + TILES_OF(residual)(from);
}

/* LANES channels of a pixel from `channel` on: bias, PReLU where there are slopes, residuals. */
static inline void TILES_OF(finish_pixel)(const struct convolution *job, size_t pixel, VALUE *to,
                                          int channel, WIDE value)
{
    value += TILES_OF(floats)(job->bias + channel);
    if (job->slopes)
        value = TILES_OF(sloped)(value, job->slopes + channel);
    if (job->near.to.values)
        value = TILES_OF(with)(&job->near, pixel, channel, value);
    if (job->far.to.values)
        value = TILES_OF(with)(&job->far, pixel, channel, value);
    if (!job->picture) {
        TILES_OF(put)(to + channel, value);
    } else if (!channel) {
        float values[LANES];
        TILES_OF(put_floats)(values, value);
        size_t plane = (size_t)job->height * job->width, image = pixel / plane;
        for (int color = 0; color < 3; color++)
            job->picture[pixel + (2 * image + color) * plane] = values[color];
    }
}

/* The output of tiles from `first` on, in channels from `start` to `end`. */
static void TILES_OF(finish)(const struct convolution *job, const struct work *work, int start,
                             int end, int first, int count)
{
    struct place at = place_of(job, first);
    for (int tile = 0; tile < count; tile++, at = behind(job, at))
        for (int channel = start; channel < end; channel += LANES) {
            const float *from = work->products + (size_t)tile * job->out + channel;
            WIDE rows[EDGE][WINDOW];
            for (int column = 0; column < WINDOW; column++) {
                WIDE products[WINDOW];
                for (int row = 0; row < WINDOW; row++)
                    products[row] = TILES_OF(floats)(
                        from + (row * WINDOW + column) * work->products_step);
                TILES_OF(values_of)(products, &rows[0][column], WINDOW);
            }
            for (int row = 0; row < EDGE && at.top + row < job->height; row++) {
                WIDE values[EDGE];
                TILES_OF(values_of)(rows[row], values, 1);
                size_t line = ((size_t)at.image * job->height + at.top + row) * job->width;
                VALUE *to = job->output_rows ? (VALUE *)job->output_rows[at.top + row]
                    : (VALUE *)job->output.values + line * job->output.step;
                for (int x = at.left; x < at.left + EDGE && x < job->width; x++)
                    TILES_OF(finish_pixel)(job, line + x, to + x * job->output.step, channel,
                                           values[x - at.left]);
            }
        }
}

static void TILES_OF(block)(const struct convolution *job, const struct work *work,
                            const struct block *block)
{
    TILES_OF(sum_up)(job, work, block->first, block->count);
    for (int start = block->start; start < block->end; start += job->panel) {
        int width = job->out - start < job->panel ? job->out - start : job->panel;
        for (int sum = 0; sum < SUMS; sum++)
            TILES_OF(multiply)(job, work, sum, start, width, block->count);
    }
    TILES_OF(finish)(job, work, block->start, block->end, block->first, block->count);
}

#undef WIDE
#undef VALUE
#undef PARTS
#undef FACTOR
#undef MULTIPLY
#undef MULTIPLY_ALL
