/* 3x3 convolutions with a quarter of the multiplications, in bf16 for CPUs with AVX512-BF16, in fp32
 * for those with AVX-512 or AVX2.
 *
 * Winograd's F(4x4, 3x3): each tile of 6x6 input pixels becomes 36 sums, each of which is multiplied
 * separately, and 36 products become 4x4 output pixels. The points are 0, ±√½, ±√2 and infinity: with
 * these, rounding the sums to bf16 costs some 2 dB; with the usual 0, ±1, ±2 it costs 7. In fp32 the
 * error is about torch's own: whole networks are as close to float64. F(6x6, 3x3), with 64 sums for
 * 36 pixels, was not faster, since it is bound by memory, and 8 dB worse;
 * F(2x2, 3x3) has nearly twice the multiplications.
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

enum { EDGE = 4, WINDOW = 6, SUMS = WINDOW * WINDOW, TILES = 24, GAP = 128 };

struct work {
    void *sums;                 /* (36, 24, in), with a gap behind each of the 36 */
    float *products;            /* (36, 24, out), the same */
    size_t sums_step, products_step;
};

/* Tiles and channels of the output that a thread does at once. */
struct block {
    int first, count, start, end;
};

struct place {
    int image, top, left;
};

static inline int tiles_across(const struct convolution *job)
{
    return (job->width + EDGE - 1) / EDGE;
}

static inline int tiles_down(const struct convolution *job)
{
    return (job->height + EDGE - 1) / EDGE;
}

static inline struct place place_of(const struct convolution *job, int tile)
{
    int across = tiles_across(job), down = tiles_down(job), line = tile / across;
    return (struct place){ line / down, line % down * EDGE, tile % across * EDGE };
}

/* The next tile's position, without slow divisions. */
static inline struct place behind(const struct convolution *job, struct place at)
{
    if ((at.left += EDGE) < job->width)
        return at;
    at.left = 0;
    if ((at.top += EDGE) < job->height)
        return at;
    return (struct place){ at.image + 1, 0, 0 };
}

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#define IS_BF16 1
#define LANES 16
#define OF_TWO 12
#define TILES_OF(name) JOINED(name, _avx512_bf16)
#include "lanes.h"
#include "toomcook.h"
#include "tiles.h"
#undef IS_BF16
#undef TILES_OF
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f")
#define IS_BF16 0
#define TILES_OF(name) JOINED(name, _avx512_fp32)
#include "lanes.h"
#include "toomcook.h"
#include "tiles.h"
#undef LANES
#undef OF_TWO
#undef TILES_OF
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
#define OF_TWO 6
#define TILES_OF(name) JOINED(name, _avx2_fp32)
#include "lanes.h"
#include "toomcook.h"
#include "tiles.h"
#pragma GCC pop_options

typedef void (*blocks)(const struct convolution *, const struct work *, const struct block *);

/* How a job is cut into blocks: tiles that few threads can share are cut by channels, too. */
struct cut {
    int tiles, most, count, panels;
};

/* The implementation for this CPU; null if there is none for that dtype. */
static blocks chosen(const struct convolution *job, int is_bf16)
{
    int is_wide = !job->narrow && __builtin_cpu_supports("avx512f");
    if (!is_bf16)
        return is_wide ? block_avx512_fp32 : has_avx2() ? block_avx2_fp32 : NULL;
    is_wide = is_wide && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    is_wide = is_wide && __builtin_cpu_supports("avx512bw");
    return is_wide && __builtin_cpu_supports("avx512bf16") ? block_avx512_bf16 : NULL;
}

static struct cut cut_of(const struct convolution *job, int threads)
{
    struct cut cut = { job->images * tiles_down(job) * tiles_across(job), TILES, 0, 1 };
    int panels = (job->out + job->panel - 1) / job->panel;
    if (threads > 1 && cut.tiles < 2 * TILES * threads)
        cut.panels = panels;
    int sharing = (threads + cut.panels - 1) / cut.panels;
    int share = (cut.tiles + sharing - 1) / sharing;
    if (share < TILES)          /* at least one block per thread */
        cut.most = (share + 5) / 6 * 6;
    cut.count = (cut.tiles + cut.most - 1) / cut.most;
    return cut;
}

static struct block block_of(const struct convolution *job, const struct cut *cut, int index)
{
    int first = index % cut->count * cut->most, start = index / cut->count * job->panel;
    int count = cut->tiles - first < cut->most ? cut->tiles - first : cut->most;
    int end = cut->panels > 1 && start + job->panel < job->out ? start + job->panel : job->out;
    return (struct block){ first, count, start, end };
}

/* Work space of a thread: one allocation, freed by its `sums`, which are null on failure. */
static struct work prepared(const struct convolution *job, size_t value)
{
    struct work work = { NULL, NULL, 0, 0 };
    work.sums_step = (size_t)TILES * job->in + GAP / value;
    work.products_step = (size_t)TILES * job->out + GAP / sizeof *work.products;
    size_t sums = (SUMS * work.sums_step * value + 63) / 64 * 64;
    if (posix_memalign(&work.sums, 64, sums + SUMS * work.products_step * sizeof *work.products))
        work.sums = NULL;
    else
        work.products = (float *)((char *)work.sums + sums);
    return work;
}
#endif

/* Returns 0, -1 without memory, -2 on an unsupported CPU; a job without pixels tests this. */
EXPORT int upframe_convolve(const struct convolution *job, int is_bf16, int threads)
{
#if HAS_AVX2
    blocks block = chosen(job, is_bf16);
    if (!block)
        return -2;
    if (!tiles_down(job) || !tiles_across(job))
        return 0;
    int failed = 0;
    struct cut cut = cut_of(job, threads);
    struct part parts[threads];
    share_out(parts, threads, cut.count * cut.panels);
#pragma omp parallel num_threads(threads)
    {
        struct work work = prepared(job, is_bf16 ? sizeof(uint16_t) : sizeof(float));
        if (!work.sums)
#pragma omp atomic write
            failed = 1;
        for (int index; work.sums && (index = next_item(parts, threads)) >= 0;) {
            struct block of = block_of(job, &cut, index);
            block(job, &work, &of);
        }
        free(work.sums);
    }
    return -failed;
#else
    (void)job;
    (void)is_bf16;
    (void)threads;
    return -2;
#endif
}
