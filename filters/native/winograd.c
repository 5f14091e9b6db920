/* 3x3 convolutions in bf16 with a quarter of the multiplications, for CPUs with AVX512-BF16.
 *
 * Winograd's F(4x4, 3x3): each tile of 6x6 input pixels becomes 36 sums, each of which is multiplied
 * for itself, and 36 products become 4x4 output pixels. The points are 0, ±√½, ±√2 and infinity: with
 * these, rounding the sums to bf16 costs some 2 dB; with the usual 0, ±1, ±2 it costs 7.
 *
 * Source: Lavin, Gray 2016, Fast Algorithms for Convolutional Neural Networks; Toom-Cook's matrices
 * for any points: Barabasz et al. 2020, Error Analysis and Improving the Accuracy of Winograd
 * Convolution.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "convolution.h"
#include "instructions.h"
#include "sharing.h"

#if HAS_AVX2
#include <immintrin.h>

enum { EDGE = 4, WINDOW = 6, SUMS = WINDOW * WINDOW, TILES = 24, LANES = 16 };

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

#include "toomcook.h"

struct work {
    uint16_t *sums;             /* (36, 24, in), with a gap behind each of the 36 */
    float *products;            /* (36, 24, out), the same */
    size_t sums_step, products_step;
};

/* 32 channels of a line's pixels, those with even numbers and those with odd ones. */
struct both {
    __m512 even[WINDOW], odd[WINDOW];
};

/* Column `x` of the window of a tile that begins at `top`, in sums. */
static inline void column_of(const struct convolution *job, int channel, int top, int x,
                             struct both *to)
{
    struct both pixels;
    int shift = job->doubled, inside = x >= 0 && x < job->width;
    size_t line = (size_t)(job->width >> shift) * job->input.step;
    const uint16_t *from = job->input.values + channel;
    from += (inside ? x >> shift : 0) * job->input.step;
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __mmask32 present = job->present - channel < 2 * LANES ? 0xffff : 0xffffffff;
    for (int row = 0; row < WINDOW; row++) {
        int y = top + row;
        __m512i of = _mm512_setzero_si512();
        if (inside && y >= 0 && y < job->height)
            of = _mm512_maskz_loadu_epi16(present, from + (y >> shift) * line);
        pixels.even[row] = _mm512_castsi512_ps(_mm512_slli_epi32(of, 16));
        pixels.odd[row] = _mm512_castsi512_ps(_mm512_and_si512(of, upper));
    }
    sums_of(pixels.even, 1, to->even, 1);
    sums_of(pixels.odd, 1, to->odd, 1);
}

/* Columns of a tile's window to its sums: of 32 channels first the even ones, then the odd. */
static inline void store_sums(const struct both *columns, uint16_t *to, size_t step)
{
    for (int row = 0; row < WINDOW; row++) {
        struct both sums;
        sums_of(&columns->even[row], 2 * WINDOW, sums.even, 1);
        sums_of(&columns->odd[row], 2 * WINDOW, sums.odd, 1);
        for (int column = 0; column < WINDOW; column++)
            _mm512_storeu_si512(to + (row * WINDOW + column) * step,
                                (__m512i)_mm512_cvtne2ps_pbh(sums.odd[column], sums.even[column]));
    }
}

/* The sums of tiles from `first` on. */
static void sum_up(const struct convolution *job, const struct work *work, int first, int count)
{
    int across = (job->width + EDGE - 1) / EDGE;
    for (int channel = 0; channel < job->in; channel += 2 * LANES) {
        struct both columns[WINDOW];
        int known = 0;
        for (int tile = 0; tile < count; tile++) {
            int top = (first + tile) / across * EDGE - 1, left = (first + tile) % across * EDGE - 1;
            if (left < 0)
                known = 0;
            for (int column = 0; column < known; column++)
                columns[column] = columns[column + EDGE];
            for (int column = known; column < WINDOW; column++)
                column_of(job, channel, top, left + column, &columns[column]);
            known = WINDOW - EDGE;
            store_sums(columns, work->sums + (size_t)tile * job->in + channel, work->sums_step);
        }
    }
}

/* Multiply `tiles` tiles' sums with the weights of `vectors` times 16 channels. */
#define MULTIPLY(vectors, tiles) \
static inline void multiply_##vectors(const uint16_t *sums, const uint16_t *weights, \
                                      float *products, int in, int out) \
{ \
    __m512 total[tiles][vectors]; \
    for (int tile = 0; tile < tiles; tile++) \
        for (int vector = 0; vector < vectors; vector++) \
            total[tile][vector] = _mm512_setzero_ps(); \
    for (int pair = 0; pair < in / 2; pair++) { \
        __m512i of[vectors]; \
        for (int vector = 0; vector < vectors; vector++) \
            of[vector] = _mm512_loadu_si512(weights + ((size_t)pair * out + vector * LANES) * 2); \
        for (int tile = 0; tile < tiles; tile++) { \
            int both; \
            __builtin_memcpy(&both, sums + (size_t)tile * in + 2 * pair, 4); \
            __m512i value = _mm512_set1_epi32(both); \
            for (int vector = 0; vector < vectors; vector++) \
                total[tile][vector] = _mm512_dpbf16_ps(total[tile][vector], (__m512bh)value, \
                                                       (__m512bh)of[vector]); \
        } \
    } \
    for (int tile = 0; tile < tiles; tile++) \
        for (int vector = 0; vector < vectors; vector++) \
            _mm512_storeu_ps(products + (size_t)tile * out + vector * LANES, total[tile][vector]); \
}

MULTIPLY(4, 6)
MULTIPLY(3, 8)
MULTIPLY(2, 12)
MULTIPLY(1, 24)

static void multiply(const struct convolution *job, const struct work *work, int count)
{
    int in = job->in, out = job->out;
    for (int sum = 0; sum < SUMS; sum++) {
        const uint16_t *sums = work->sums + sum * work->sums_step;
        float *products = work->products + sum * work->products_step;
        int channel = 0;
        while (channel < out) {
            const uint16_t *weights = job->weights + ((size_t)sum * in / 2 * out + channel) * 2;
            int vectors = (out - channel) / LANES;
            if (vectors >= 4) {
                for (int tile = 0; tile < count; tile += 6)
                    multiply_4(sums + (size_t)tile * in, weights,
                               products + (size_t)tile * out + channel, in, out);
                channel += 4 * LANES;
            } else if (vectors == 3) {
                for (int tile = 0; tile < count; tile += 8)
                    multiply_3(sums + (size_t)tile * in, weights,
                               products + (size_t)tile * out + channel, in, out);
                channel += 3 * LANES;
            } else if (vectors == 2) {
                for (int tile = 0; tile < count; tile += 12)
                    multiply_2(sums + (size_t)tile * in, weights,
                               products + (size_t)tile * out + channel, in, out);
                channel += 2 * LANES;
            } else {
                multiply_1(sums, weights, products + channel, in, out);
                channel += LANES;
            }
        }
    }
}

static inline __m512 with(const struct residual *residual, size_t pixel, int channel, __m512 value)
{
    const uint16_t *from = residual->to.values + pixel * residual->to.step + channel;
    __m512 to = _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
    return _mm512_fmadd_ps(value, _mm512_set1_ps(residual->gain), to);
}

/* A pixel's 16 channels from `channel` on: bias, PReLU where there are slopes, and residuals. */
static inline void finish_pixel(const struct convolution *job, size_t pixel, int channel,
                                __m512 value)
{
    value = _mm512_add_ps(value, _mm512_loadu_ps(job->bias + channel));
    if (job->slopes) {
        __mmask16 below = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
        value = _mm512_mask_mul_ps(value, below, value, _mm512_loadu_ps(job->slopes + channel));
    }
    if (job->near.to.values)
        value = with(&job->near, pixel, channel, value);
    if (job->far.to.values)
        value = with(&job->far, pixel, channel, value);
    if (!job->picture) {
        uint16_t *to = job->output.values + pixel * job->output.step + channel;
        _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(value));
    } else if (!channel) {
        float values[LANES];
        _mm512_storeu_ps(values, value);
        for (int plane = 0; plane < 3; plane++)
            job->picture[(size_t)plane * job->height * job->width + pixel] = values[plane];
    }
}

/* The output of tiles from `first` on. */
static void finish(const struct convolution *job, const struct work *work, int first, int count)
{
    int across = (job->width + EDGE - 1) / EDGE;
    for (int tile = 0; tile < count; tile++) {
        int top = (first + tile) / across * EDGE, left = (first + tile) % across * EDGE;
        for (int channel = 0; channel < job->out; channel += LANES) {
            const float *from = work->products + (size_t)tile * job->out + channel;
            __m512 rows[EDGE][WINDOW];
            for (int column = 0; column < WINDOW; column++) {
                __m512 products[WINDOW];
                for (int row = 0; row < WINDOW; row++)
                    products[row] = _mm512_loadu_ps(
                        from + (row * WINDOW + column) * work->products_step);
                values_of(products, 1, &rows[0][column], WINDOW);
            }
            for (int row = 0; row < EDGE && top + row < job->height; row++) {
                __m512 values[EDGE];
                values_of(rows[row], 1, values, 1);
                size_t pixel = (size_t)(top + row) * job->width + left;
                for (int column = 0; column < EDGE && left + column < job->width; column++)
                    finish_pixel(job, pixel + column, channel, values[column]);
            }
        }
    }
}

static void block(const struct convolution *job, const struct work *work, int first, int count)
{
    sum_up(job, work, first, count);
    multiply(job, work, count);
    finish(job, work, first, count);
}
#pragma GCC pop_options

static int has_bf16(void)
{
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}
#endif

/* Returns 0, -1 without memory, -2 on a CPU that has no AVX512-BF16. A job of no pixels tells. */
EXPORT int upframe_convolve(const struct convolution *job, int is_bf16, int threads)
{
    int failed = 0;
    (void)is_bf16;
#if HAS_AVX2
    if (!has_bf16())
        return -2;
    int across = (job->width + EDGE - 1) / EDGE, down = (job->height + EDGE - 1) / EDGE;
    if (!across || !down)
        return 0;
    int tiles = across * down, share = (tiles + threads - 1) / threads;
    int most = share < TILES ? (share + 5) / 6 * 6 : TILES; /* few tiles: something for everybody */
    int blocks = (tiles + most - 1) / most;
    struct part parts[threads];
    share_out(parts, threads, blocks);
#pragma omp parallel num_threads(threads)
    {
        struct work work;
        work.sums_step = (size_t)TILES * job->in + 2 * LANES;
        work.products_step = (size_t)TILES * job->out + LANES;
        size_t sums = SUMS * work.sums_step * sizeof *work.sums;
        size_t products = SUMS * work.products_step * sizeof *work.products;
        void *memory = NULL;
        if (posix_memalign(&memory, 64, sums + products + 64))
#pragma omp atomic write
            failed = 1;
        work.sums = memory;
        work.products = (float *)((char *)memory + (sums + 63) / 64 * 64);
        for (int index; memory && (index = next_item(parts, threads)) >= 0;) {
            int first = index * most;
            block(job, &work, first, tiles - first < most ? tiles - first : most);
        }
        free(memory);
    }
    return -failed;
#else
    (void)job;
    (void)threads;
    return -2;
#endif
}
