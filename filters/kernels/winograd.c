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

/* A stack of layers runs in strips of about so many bytes, but of no fewer rows. */
enum { STRIP_BYTES = 2000000, FEWEST_ROWS = 4 * EDGE };

/* Layers one after the other, at the same size: those between have no addresses of input and output. */
struct stack {
    const struct convolution *jobs;
    int count;
};

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

static struct cut cut_of(const struct convolution *job, int tiles, int threads)
{
    struct cut cut = { tiles, TILES, 0, 1 };
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

/* Work space for all threads, for jobs no wider than this one; returns -1 on failure. */
static int prepare_all(struct work *works, const struct convolution *job, size_t value, int threads)
{
    int failed = 0;
    for (int thread = 0; thread < threads; thread++) {
        works[thread] = prepared(job, value);
        failed |= !works[thread].sums;
    }
    return -failed;
}

static void free_all(struct work *works, int threads)
{
    for (int thread = 0; thread < threads; thread++)
        free(works[thread].sums);
}

/* The lines of tiles from `first` to `end`, counted through all images. */
static void convolve_lines(const struct convolution *job, blocks block, const struct work *works,
                           int threads, int first, int end)
{
    struct cut cut = cut_of(job, (end - first) * tiles_across(job), threads);
    struct part parts[threads];
    share_out(parts, threads, cut.count * cut.panels);
#pragma omp parallel num_threads(threads)
    for (int index; (index = next_item(parts, threads)) >= 0;) {
        struct block of = block_of(job, &cut, index);
        of.first += first * tiles_across(job);
        block(job, &works[omp_get_thread_num()], &of);
    }
}

/* Rows that lie anywhere: `at` has the address of each row of each layer's output, `spare` those of
 * rows that hold nothing now. The last one returned is taken first, since it is in a cache. */
struct rows {
    void **at, **spare;
    int num_spare;
    char *memory;
};

/* Strips of `strip` rows, in which every layer lags behind the one before by a line of tiles: that
 * has made what it needs, and no row is computed twice. A single strip has no lag. */
struct course {
    int strip, lag;
};

/* Rows of all layers that hold something at once: what a layer has made of a strip, and the one
 * behind it; and of each the last line of tiles and a row above that are still needed. */
static int most_rows(const struct stack *stack, const struct course *course)
{
    return 2 * course->strip + (course->lag ? (EDGE + 1) * stack->count : 0);
}

static int prepare_rows(struct rows *rows, const struct stack *stack, const struct course *course,
                        size_t value)
{
    const struct convolution *first = stack->jobs;
    int most = most_rows(stack, course), widest = 0;
    for (int layer = 0; layer + 1 < stack->count; layer++)
        if (stack->jobs[layer].out > widest)
            widest = stack->jobs[layer].out;
    size_t bytes = (size_t)first->width * widest * value, layers = stack->count;
    rows->at = calloc(layers * first->height + most, sizeof *rows->at);
    void *memory = NULL;
    if (!rows->at || posix_memalign(&memory, 64, bytes * most)) {
        free(rows->at);
        return -1;
    }
    rows->spare = rows->at + layers * first->height;
    rows->memory = memory;
    for (rows->num_spare = 0; rows->num_spare < most; rows->num_spare++)
        rows->spare[rows->num_spare] = rows->memory + bytes * rows->num_spare;
    return 0;
}

static inline int clamped(int row, int height)
{
    return row < 0 ? 0 : row < height ? row : height;
}

/* One layer's rows from `start` to `end`; rows of its input that no other row needs become spare. */
static void convolve_rows(const struct stack *stack, int layer, struct rows *rows, blocks block,
                          const struct work *works, int threads, int start, int end)
{
    struct convolution job = stack->jobs[layer];
    void **from = rows->at + (size_t)(layer - 1) * job.height, **to = from + job.height;
    if (layer)
        job.input_rows = from;
    if (layer + 1 < stack->count) {
        job.output_rows = to;
        for (int row = start; row < end; row++)
            to[row] = rows->spare[--rows->num_spare];
    }
    convolve_lines(&job, block, works, threads, start / EDGE, (end + EDGE - 1) / EDGE);
    if (!layer)
        return;
    int done = end < job.height ? end - 1 : end;
    for (int row = start ? start - 1 : 0; row < done; row++)
        rows->spare[rows->num_spare++] = from[row];
}

static void convolve_strips(const struct stack *stack, const struct course *course,
                            struct rows *rows, blocks block, const struct work *works, int threads)
{
    int height = stack->jobs[0].height, last = (stack->count - 1) * course->lag;
    for (int top = 0; top - last < height; top += course->strip)
        for (int layer = 0; layer < stack->count; layer++) {
            int begin = top - layer * course->lag;
            int start = clamped(begin, height), end = clamped(begin + course->strip, height);
            if (start < end)
                convolve_rows(stack, layer, rows, block, works, threads, start, end);
        }
}

/* Strips whose rows stay in the caches from a layer to the next; one if all rows do. */
static struct course course_of(const struct stack *stack, size_t value)
{
    const struct convolution *job = stack->jobs;
    size_t bytes = (size_t)job->width * job->out * value;
    int strip = (int)(STRIP_BYTES / (bytes * EDGE)) * EDGE, whole = tiles_down(job) * EDGE;
    strip = strip < FEWEST_ROWS ? FEWEST_ROWS : strip;
    if (strip * 2 >= whole)
        return (struct course){ whole, 0 };
    return (struct course){ strip, EDGE };
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
    struct work works[threads];
    int failed = prepare_all(works, job, is_bf16 ? sizeof(uint16_t) : sizeof(float), threads);
    if (!failed)
        convolve_lines(job, block, works, threads, 0, job->images * tiles_down(job));
    free_all(works, threads);
    return failed;
#else
    (void)job;
    (void)is_bf16;
    (void)threads;
    return -2;
#endif
}

/* Layers one after the other, in strips; the results are those of `upframe_convolve`. */
EXPORT int upframe_stack(const struct stack *stack, int is_bf16, int threads)
{
#if HAS_AVX2
    const struct convolution *job = stack->jobs;
    blocks block = chosen(job, is_bf16);
    if (!block)
        return -2;
    if (!tiles_down(job) || !tiles_across(job))
        return 0;
    size_t value = is_bf16 ? sizeof(uint16_t) : sizeof(float);
    struct convolution widest = *job;
    for (int layer = 1; layer < stack->count; layer++) {
        widest.in = job[layer].in > widest.in ? job[layer].in : widest.in;
        widest.out = job[layer].out > widest.out ? job[layer].out : widest.out;
    }
    struct work works[threads];
    struct course course = course_of(stack, value);
    struct rows rows;
    int failed = prepare_all(works, &widest, value, threads);
    if (!failed && !(failed = prepare_rows(&rows, stack, &course, value))) {
        convolve_strips(stack, &course, &rows, block, works, threads);
        free(rows.at);
        free(rows.memory);
    }
    free_all(works, threads);
    return failed;
#else
    (void)stack;
    (void)is_bf16;
    (void)threads;
    return -2;
#endif
}
