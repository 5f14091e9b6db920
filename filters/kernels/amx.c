/* Direct convolutions in bf16 by AMX: 3x3 of stride 1 and 2, and transposed 4x4 of stride 2.
 *
 * Winograd's way is not worth it there: its sums take longer than the multiplications that it saves.
 * Several layers are one call: threads wait for each other between them.
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

#if HAS_AVX2 && defined(__linux__) && __GNUC__ >= 11
#define HAS_TILES 1
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

/* Rows or columns of the input that so many of an area see: blocks are whole, even where it is not. */
static inline int seen(const struct convolution *job, int count, int block)
{
    return ((count + block - 1) / block * block - 1) * job->stride + 3;
}

/* Areas of which the input stays in the second cache, but enough for all threads. */
static struct cut cut_of(const struct convolution *job, int threads)
{
    struct cut cut = { MOST_ROWS, MOST_COLUMNS, 0, 0 };
    for (;; *(cut.rows > 2 ? &cut.rows : &cut.columns) /= 2) {
        cut.down = (job->height + cut.rows - 1) / cut.rows;
        cut.across = (job->width + cut.columns - 1) / cut.columns;
        long long items = (long long)job->images * cut.down * cut.across;
        if (threads == 1 || items >= ITEMS_EACH * threads || cut.columns == 16)
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

/* Memory for the largest area of all layers: freed by its `sums`. */
static struct work work_for(const struct layers *layers)
{
    size_t most = 0;
    for (int layer = 0; layer < layers->count; layer++) {
        const struct convolution *job = &layers->jobs[layer];
        size_t size = (size_t)seen(job, MOST_ROWS, 2) * seen(job, MOST_COLUMNS, 16) * job->in;
        most = size > most ? size : most;
    }
    void *memory;
    if (posix_memalign(&memory, 64, SUMS * sizeof(float) + most * sizeof(uint16_t)))
        return (struct work){ NULL, NULL };
    return (struct work){ memory, (uint16_t *)((float *)memory + SUMS) };
}
#endif

/* Returns 0, -1 without memory, -2 on an unsupported CPU; no layers test this. */
EXPORT int upframe_tiles(const struct layers *layers, int is_bf16, int threads)
{
#ifdef HAS_TILES
    if (!__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")
        || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512bf16")
        || !is_bf16 || !(layers->emulated || may_use_tiles()))
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
        struct work work = work_for(layers);
        if (!work.pixels)
#pragma omp atomic write
            failed = 1;
        (layers->emulated ? layers_emulated : layers_amx)(layers, &work, parts, threads);
        free(work.sums);
    }
    free(parts);
    return -failed;
#else
    (void)layers, (void)is_bf16, (void)threads;
    return -2;
#endif
}
