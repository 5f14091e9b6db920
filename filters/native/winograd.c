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

#include "instructions.h"

struct convolution {
    const uint16_t *input;      /* (height, width, in), bf16; in and out are multiples of 16 */
    const uint16_t *weights;    /* (36, in/2, out, 2), bf16: see winograd.py */
    const float *bias;          /* (out,) */
    const float *slopes;        /* (out,), of PReLU, or null */
    uint16_t *output;           /* (height, width, out), bf16 */
    int height, width, in, out;
};

#if HAS_AVX2
#include <immintrin.h>

enum { EDGE = 4, WINDOW = 6, SUMS = WINDOW * WINDOW, TILES = 24, LANES = 16 };

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

#define ROOT_HALF 0.70710678f
#define ROOT_TWO 1.41421356f

struct work {
    uint16_t *sums;             /* (36, 24, in), with a gap behind each of the 36 */
    float *products;            /* (36, 24, out), the same */
    size_t sums_step, products_step;
};

static inline __m512 widened(const uint16_t *from)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

static inline void store_rounded(uint16_t *to, __m512 value)
{
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(value));
}

/* Six values of an axis to the six sums of a tile. */
static inline void sums_of(const __m512 *from, int step, __m512 *to, int to_step)
{
    __m512 d0 = from[0], d1 = from[step], d2 = from[2 * step];
    __m512 d3 = from[3 * step], d4 = from[4 * step], d5 = from[5 * step];
    __m512 minus_two = _mm512_set1_ps(-2.0f), minus_half = _mm512_set1_ps(-0.5f);
    __m512 middle = _mm512_set1_ps(-2.5f);
    __m512 even = _mm512_fmadd_ps(minus_two, d2, d4), odd = _mm512_fmadd_ps(minus_two, d1, d3);
    __m512 far_even = _mm512_fmadd_ps(minus_half, d2, d4);
    __m512 far_odd = _mm512_fmadd_ps(minus_half, d1, d3);
    __m512 half = _mm512_set1_ps(ROOT_HALF), two = _mm512_set1_ps(ROOT_TWO);
    to[0] = _mm512_fmadd_ps(middle, d2, _mm512_add_ps(d0, d4));
    to[to_step] = _mm512_fmadd_ps(half, odd, even);
    to[2 * to_step] = _mm512_fnmadd_ps(half, odd, even);
    to[3 * to_step] = _mm512_fmadd_ps(two, far_odd, far_even);
    to[4 * to_step] = _mm512_fnmadd_ps(two, far_odd, far_even);
    to[5 * to_step] = _mm512_fmadd_ps(middle, d3, _mm512_add_ps(d1, d5));
}

/* Six products of an axis to four values. */
static inline void values_of(const __m512 *from, int step, __m512 *to, int to_step)
{
    __m512 p1 = from[step], p2 = from[2 * step], p3 = from[3 * step], p4 = from[4 * step];
    __m512 near_sum = _mm512_add_ps(p1, p2), near = _mm512_sub_ps(p1, p2);
    __m512 far_sum = _mm512_add_ps(p3, p4), far = _mm512_sub_ps(p3, p4);
    __m512 half = _mm512_set1_ps(0.5f), two = _mm512_set1_ps(2.0f);
    /* near and far times √½ and √2: first, and times ½ and 2 as often as the power asks */
    near = _mm512_mul_ps(near, _mm512_set1_ps(ROOT_HALF));
    far = _mm512_mul_ps(far, _mm512_set1_ps(ROOT_TWO));
    to[0] = _mm512_add_ps(from[0], _mm512_add_ps(near_sum, far_sum));
    to[to_step] = _mm512_add_ps(near, far);
    to[2 * to_step] = _mm512_fmadd_ps(half, near_sum, _mm512_mul_ps(two, far_sum));
    to[3 * to_step] = _mm512_add_ps(from[5 * step],
                                    _mm512_fmadd_ps(half, near, _mm512_mul_ps(two, far)));
}

/* Column `x` of the window of a tile that begins at `top`, in sums. */
static inline void column_of(const struct convolution *job, int top, int x, int channel,
                             __m512 *to)
{
    __m512 pixels[WINDOW];
    size_t line = (size_t)job->width * job->in;
    if (x >= 0 && x < job->width && top >= 0 && top + WINDOW <= job->height) {
        const uint16_t *from = job->input + top * line + (size_t)x * job->in + channel;
        for (int row = 0; row < WINDOW; row++)
            pixels[row] = widened(from + row * line);
    } else {
        for (int row = 0; row < WINDOW; row++) {
            int y = top + row, inside = y >= 0 && y < job->height && x >= 0 && x < job->width;
            pixels[row] = inside
                ? widened(job->input + y * line + (size_t)x * job->in + channel)
                : _mm512_setzero_ps();
        }
    }
    sums_of(pixels, 1, to, 1);
}

/* The sums of tiles from `first` on. */
static void sum_up(const struct convolution *job, const struct work *work, int first, int count)
{
    int across = (job->width + EDGE - 1) / EDGE;
    for (int channel = 0; channel < job->in; channel += LANES) {
        __m512 columns[WINDOW][WINDOW];
        int known = 0;
        for (int tile = 0; tile < count; tile++) {
            int top = (first + tile) / across * EDGE - 1, left = (first + tile) % across * EDGE - 1;
            if (left < 0)
                known = 0;
            for (int column = 0; column < known; column++)
                for (int row = 0; row < WINDOW; row++)
                    columns[column][row] = columns[column + EDGE][row];
            for (int column = known; column < WINDOW; column++)
                column_of(job, top, left + column, channel, columns[column]);
            known = WINDOW - EDGE;
            uint16_t *to = work->sums + (size_t)tile * job->in + channel;
            for (int row = 0; row < WINDOW; row++) {
                __m512 sums[WINDOW];
                sums_of(&columns[0][row], WINDOW, sums, 1);
                for (int column = 0; column < WINDOW; column++)
                    store_rounded(to + (row * WINDOW + column) * work->sums_step, sums[column]);
            }
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

/* The output of tiles from `first` on: bias, and where there are slopes, PReLU. */
static void finish(const struct convolution *job, const struct work *work, int first, int count)
{
    int across = (job->width + EDGE - 1) / EDGE;
    __m512 zero = _mm512_setzero_ps();
    for (int channel = 0; channel < job->out; channel += LANES) {
        __m512 bias = _mm512_loadu_ps(job->bias + channel);
        __m512 slope = job->slopes ? _mm512_loadu_ps(job->slopes + channel) : _mm512_set1_ps(1);
        for (int tile = 0; tile < count; tile++) {
            int top = (first + tile) / across * EDGE, left = (first + tile) % across * EDGE;
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
                uint16_t *to = job->output
                    + ((size_t)(top + row) * job->width + left) * job->out + channel;
                for (int column = 0; column < EDGE && left + column < job->width; column++) {
                    __m512 value = _mm512_add_ps(values[column], bias);
                    __mmask16 below = _mm512_cmp_ps_mask(value, zero, _CMP_LT_OQ);
                    value = _mm512_mask_mul_ps(value, below, value, slope);
                    store_rounded(to + (size_t)column * job->out, value);
                }
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
#pragma omp for schedule(static)
        for (int index = 0; index < blocks; index++)
            if (memory) {
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
