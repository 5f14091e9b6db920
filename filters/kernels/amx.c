/* Direct convolutions in bf16 by AMX: 3x3 of stride 1 and 2, and transposed 4x4 of stride 2.
 *
 * Winograd's way is not worth it there: its sums take longer than the multiplications that it saves.
 * Several layers are one call: a thread that is done with its part of one waits for the others.
 *
 * A transposed convolution of stride 2 makes four grids of pixels, interleaved; each of them is a
 * convolution with 2x2 of the weights.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "convolution.h"
#include "instructions.h"
#include "sharing.h"

struct layers {
    const struct convolution *jobs;
    int count, emulated;
};

#define HAS_TILES (HAS_AVX2 && defined(__linux__) && __GNUC__ >= 11)
#if HAS_TILES
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
enum { MOST_ROWS = 8, MOST_COLUMNS = 64, SUMS = 2 * 4 * 256, ITEMS_EACH = 3 };

struct work {
    float *sums;                /* of two blocks: four tiles each */
    uint16_t *pixels;           /* of an area's input, (rows, columns, in); null without memory */
};

/* How the output, for a transposed convolution one of its grids, is cut into areas. */
struct cut {
    int rows, columns, down, across;
};

struct area {
    int image, top, left, rows, columns;
};

static inline int taps_of(const struct convolution *job) { return job->transposed ? 4 : 9; }

/* Rows and columns of the input that an area sees: blocks are whole, even where it is not. */
static inline int rows_of(const struct convolution *job, int rows)
{
    return ((rows + 1) / 2 * 2 - 1) * job->stride + 3;
}

static inline int columns_of(const struct convolution *job, int columns)
{
    return ((columns + 15) / 16 * 16 - 1) * job->stride + 3;
}

/* Areas of which the input stays in the second cache, but enough for all threads. */
static struct cut cut_of(const struct convolution *job, int threads)
{
    struct cut cut = { MOST_ROWS, MOST_COLUMNS, 0, 0 };
    for (;;) {
        cut.down = (job->height + cut.rows - 1) / cut.rows;
        cut.across = (job->width + cut.columns - 1) / cut.columns;
        if (threads == 1 || (long long)job->images * cut.down * cut.across >= ITEMS_EACH * threads)
            return cut;
        if (cut.rows > 2)
            cut.rows /= 2;
        else if (cut.columns > 16)
            cut.columns /= 2;
        else
            return cut;
    }
}

static struct area area_of(const struct convolution *job, const struct cut *cut, int item)
{
    int line = item / cut->across;
    struct area area = { .image = line / cut->down, .top = line % cut->down * cut->rows,
                         .left = item % cut->across * cut->columns };
    area.rows = job->height - area.top < cut->rows ? job->height - area.top : cut->rows;
    area.columns = job->width - area.left < cut->columns ? job->width - area.left : cut->columns;
    return area;
}

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#define EMULATED 1
#define TILED(name) JOINED(name, _emulated)
#include "amx.h"
#include "direct.h"
#undef EMULATED
#undef TILED
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#define EMULATED 0
#define TILED(name) JOINED(name, _amx)
#include "amx.h"
#include "direct.h"
#pragma GCC pop_options

/* Whether this CPU has AMX and Linux lets this process use it, which has to be asked for, once. */
static int may_use_tiles(void)
{
    static int known = -1;
    unsigned a, b, c, d, wanted = AMX_BF16 | AMX_TILE;
    if (__atomic_load_n(&known, __ATOMIC_RELAXED) < 0) {
        int is_there = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & wanted) == wanted;
        is_there = is_there && !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
        __atomic_store_n(&known, is_there, __ATOMIC_RELAXED);
    }
    return known;
}

static int is_supported(int emulated)
{
    if (!__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")
        || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512bf16"))
        return 0;
    return emulated || may_use_tiles();
}

/* Memory for the largest area of all layers: freed by its `sums`. */
static struct work work_for(const struct layers *layers, int threads)
{
    size_t most = 0;
    for (int layer = 0; layer < layers->count; layer++) {
        const struct convolution *job = &layers->jobs[layer];
        struct cut cut = cut_of(job, threads);
        size_t size = (size_t)rows_of(job, cut.rows) * columns_of(job, cut.columns) * job->in;
        most = size > most ? size : most;
    }
    void *memory;
    size_t sums = SUMS * sizeof(float);
    if (posix_memalign(&memory, 64, sums + most * sizeof(uint16_t)))
        return (struct work){ NULL, NULL };
    return (struct work){ memory, (uint16_t *)((char *)memory + sums) };
}
#endif

/* Returns 0, -1 without memory, -2 on an unsupported CPU; no layers test this. */
EXPORT int upframe_tiles(const struct layers *layers, int is_bf16, int threads)
{
#if HAS_TILES
    if (!is_bf16 || !is_supported(layers->emulated))
        return -2;
    struct part *parts = malloc(((size_t)layers->count * threads + 1) * sizeof *parts);
    if (!parts)
        return -1;
    for (int layer = 0; layer < layers->count; layer++) {
        struct cut cut = cut_of(&layers->jobs[layer], threads);
        share_out(parts + layer * threads, threads,
                  layers->jobs[layer].images * cut.down * cut.across);
    }
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        struct work work = work_for(layers, threads);
        if (!work.pixels)
#pragma omp atomic write
            failed = 1;
        if (layers->emulated)
            layers_emulated(layers, &work, parts, threads);
        else
            layers_amx(layers, &work, parts, threads);
        free(work.sums);
    }
    free(parts);
    return -failed;
#else
    (void)layers;
    (void)is_bf16;
    (void)threads;
    return -2;
#endif
}
