/* The most that the tiles of AMX compute: products of registers alone, in every thread at once. */

#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, OPERATIONS = 2 * 16 * 16 * 32 };

#pragma GCC target("amx-tile,amx-bf16")

static const struct {
    uint8_t palette, start, none[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} shapes = {
    1, 0, { 0 }, { 64, 64, 64, 64, 64, 64, 64, 64 }, { 16, 16, 16, 16, 16, 16, 16, 16 },
};

static void multiply(int rounds)
{
    _tile_loadconfig(&shapes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int round = 0; round < rounds; round++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}

/* Operations a second of all threads together; 0 where Linux does not permit tiles. */
double peak(int rounds, int threads)
{
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA))
        return 0;
    double began = omp_get_wtime();
#pragma omp parallel num_threads(threads)
    multiply(rounds);
    return 4.0 * rounds * OPERATIONS * threads / (omp_get_wtime() - began);
}
