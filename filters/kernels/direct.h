/* A part of a direct convolution: its pixels with zeros around, their products, what comes of them.
 *
 * A block is 2 rows of 16 pixels by 32 channels of the output, in four tiles of sums; its rows of
 * pixels are read where they lie. While a block multiplies, the one before it is finished.
 *
 * Included once per implementation of amx.h, behind it.
 */

/* What a block has summed up, and where it goes; `next` of 32 pixels is to be finished next. */
struct TILED(block) {
    const float *sums;
    size_t first[2];            /* pixel of the output where each row begins */
    int apart, rows, columns, start;
    __mmask16 kept[2];          /* of each 16 channels: what is stored */
    unsigned next;
};

/* Copy pixels of the input, 32 channels at a time; beyond the edges are zeros. */
static void TILED(gather)(const struct convolution *job, const struct area *area, uint16_t *to)
{
    int shift = job->doubled, width = job->in_width << shift, height = job->in_height << shift;
    int wide = seen(job, area->columns, 16), high = seen(job, area->rows, 2);
    for (int row = 0; row < high; row++) {
        int y = area->top * job->stride - 1 + row, inside = y >= 0 && y < height;
        size_t line = ((size_t)area->image * job->in_height + (inside ? y >> shift : 0))
            * job->in_width;
        for (int column = 0; column < wide; column++, to += job->in) {
            int x = area->left * job->stride - 1 + column;
            int left = inside && x >= 0 && x < width ? job->present : 0;
            const uint16_t *from = (const uint16_t *)job->input.values
                + (left ? (line + (x >> shift)) * job->input.step : 0);
            for (int channel = 0; channel < job->in; channel += 32, left -= 32) {
                __mmask32 mask = left >= 32 ? ~0u : left > 0 ? (1u << left) - 1 : 0;
                _mm512_storeu_si512(to + channel, _mm512_maskz_loadu_epi16(mask, from + channel));
            }
        }
    }
}

static inline __m512 TILED(with)(const struct residual *residual, size_t pixel, int channel,
                                 __mmask16 mask, __m512 value)
{
    const uint16_t *from = (const uint16_t *)residual->to.values + pixel * residual->to.step;
    __m512i of = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from + channel));
    return value * residual->gain + _mm512_castsi512_ps(_mm512_slli_epi32(of, 16));
}

/* 16 channels of a pixel from `channel` on: bias, PReLU where there are slopes, residuals. */
static inline void TILED(finish_part)(const struct convolution *job, size_t pixel, int channel,
                                      __mmask16 mask, const float *sums)
{
    __m512 value = _mm512_load_ps(sums) + _mm512_loadu_ps(job->bias + channel);
    if (job->slopes) {
        __mmask16 below = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
        value = _mm512_mask_mul_ps(value, below, value, _mm512_loadu_ps(job->slopes + channel));
    }
    if (job->near.to.values)
        value = TILED(with)(&job->near, pixel, channel, mask, value);
    if (job->far.to.values)
        value = TILED(with)(&job->far, pixel, channel, mask, value);
    if (!job->picture) {
        uint16_t *to = (uint16_t *)job->output.values + pixel * job->output.step + channel;
        _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(value));
    } else if (!channel) {
        float values[16];
        _mm512_storeu_ps(values, value);
        size_t plane = (size_t)job->height * job->width, image = pixel / plane;
        for (int color = 0; color < 3; color++)
            job->picture[pixel + (2 * image + color) * plane] = values[color];
    }
}

/* Finish up to `count` pixels of a block. */
static inline void TILED(finish)(const struct convolution *job, struct TILED(block) *block,
                                 int count)
{
    for (; count && block->next < 32; count--, block->next++) {
        int row = (int)(block->next / 16), column = (int)(block->next % 16);
        if (row >= block->rows || column >= block->columns)
            continue;
        size_t pixel = block->first[row] + (size_t)column * block->apart;
        const float *sums = block->sums + row * 512 + column * 16;
        TILED(finish_part)(job, pixel, block->start, block->kept[0], sums);
        if (block->kept[1])
            TILED(finish_part)(job, pixel, block->start + 16, block->kept[1], sums + 256);
    }
}

/* Sum up a block of which the upper left pixel's window begins at `pixels`. */
static inline void TILED(multiply)(const struct convolution *job, const size_t *taps,
                                   const uint16_t *pixels, size_t down, const uint16_t *weights,
                                   int wide, float *sums, struct TILED(block) *before)
{
    size_t across = sizeof *pixels * job->stride * job->in;
    int count = taps_of(job), share = (31 + count * job->in / 32) / (count * job->in / 32);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int tap = 0; tap < count; tap++) {
        const uint16_t *upper = pixels + taps[tap], *lower = upper + down;
        for (int channel = 0; channel < job->in; channel += 32) {
            TILE_LOAD(6, weights, 64);
            TILE_LOAD(4, upper + channel, across);
            TILE_LOAD(5, lower + channel, across);
            TILE_DOT(0, 4, 6);
            TILE_DOT(2, 5, 6);
            if (wide) {
                TILE_LOAD(7, weights + 512, 64);
                TILE_DOT(1, 4, 7);
                TILE_DOT(3, 5, 7);
            }
            weights += wide ? 1024 : 512;
            TILED(finish)(job, before, share);
        }
    }
    TILE_PUT(0, sums);
    TILE_PUT(1, sums + 256);
    TILE_PUT(2, sums + 512);
    TILE_PUT(3, sums + 768);
}

/* 32 or 16 channels of the output from `start` on, for one of its `side` x `side` interleaved grids. */
static void TILED(panel)(const struct convolution *job, const struct work *work,
                         const struct area *area, int grid, int start, struct TILED(block) *before)
{
    int side = job->transposed ? 2 : 1, wide = job->out - start > 16, count = taps_of(job);
    size_t pitch = (size_t)seen(job, area->columns, 16) * job->in, taps[9];
    const uint16_t *weights = (const uint16_t *)job->weights
        + ((size_t)grid * job->out + start) * count * job->in;
    for (int tap = 0; tap < count; tap++)
        taps[tap] = job->transposed ? (grid / 2 + tap / 2) * pitch + (grid % 2 + tap % 2) * job->in
                                    : tap / 3 * pitch + (size_t)(tap % 3) * job->in;
    for (int y = 0; y < area->rows; y += 2)
        for (int x = 0; x < area->columns; x += 16) {
            float *sums = work->sums + (before->sums == work->sums ? 1024 : 0);
            const uint16_t *pixels = work->pixels
                + (size_t)job->stride * (y * pitch + (size_t)x * job->in);
            struct TILED(block) block = { .sums = sums, .apart = side, .start = start,
                                          .rows = area->rows - y, .columns = area->columns - x };
            for (int half = 0, left = job->made - start; half < 2; half++, left -= 16)
                block.kept[half] = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
            for (int row = 0; row < 2; row++) {
                size_t at = (size_t)area->image * job->height + area->top + y + row;
                block.first[row] = (at * side + grid / 2) * job->width * side
                    + (size_t)(area->left + x) * side + grid % 2;
            }
            TILED(multiply)(job, taps, pixels, job->stride * pitch, weights, wide, sums, before);
            *before = block;
        }
}

static void TILED(convolve)(const struct convolution *job, const struct work *work,
                            const struct area *area)
{
    struct TILED(block) before = { .next = 32 };
    TILED(gather)(job, area, work->pixels);
    __asm__ volatile("" ::: "memory");  /* GCC's loads of tiles do not say that they read memory */
    for (int grid = 0; grid < (job->transposed ? 4 : 1); grid++)
        for (int start = 0; start < job->out; start += 32)
            TILED(panel)(job, work, area, grid, start, &before);
    TILED(finish)(job, &before, 32);
}

/* All layers one after the other; every thread of the team calls it. */
static void TILED(layers)(const struct layers *layers, const struct work *work, struct part *parts,
                          int threads)
{
    TILES_BEGIN();
    for (int layer = 0; layer < layers->count; layer++) {
        const struct convolution *job = &layers->jobs[layer];
        struct cut cut = cut_of(job, threads);
        for (int item; work->pixels && (item = next_item(parts + layer * threads, threads)) >= 0;) {
            struct area area = area_of(job, &cut, item);
            TILED(convolve)(job, work, &area);
        }
#pragma omp barrier
    }
    TILES_END();
}

#undef TILES_BEGIN
#undef TILES_END
#undef TILE_ZERO
#undef TILE_LOAD
#undef TILE_PUT
#undef TILE_DOT
