/* The tiles of a CPU: eight registers of 16 rows of 64 bytes, and the product of two of them.
 *
 * Included once per implementation, TILED(name) gives each its own names: by AMX, or where EMULATED
 * is 1 by AVX512-BF16, in memory, which is slow and only there to test what uses it.
 */

#if EMULATED
static _Thread_local __m512i TILED(tiles)[8][16];

static inline void TILED(load)(__m512i *tile, const void *from, size_t stride)
{
    for (int row = 0; row < 16; row++)
        tile[row] = _mm512_loadu_si512((const char *)from + row * stride);
}

/* Row m of `sums` += over all k: pair k of row m of `left` times row k of `right`. */
static inline void TILED(dot)(__m512i *sums, const __m512i *left, const __m512i *right)
{
    for (int row = 0; row < 16; row++) {
        __m512 sum = (__m512)sums[row];
        for (int pair = 0; pair < 16; pair++) {
            __m512i both = _mm512_set1_epi32(((const int *)&left[row])[pair]);
            sum = _mm512_dpbf16_ps(sum, (__m512bh)both, (__m512bh)right[pair]);
        }
        sums[row] = (__m512i)sum;
    }
}

#define TILES_BEGIN() ((void)0)
#define TILES_END() ((void)0)
#define TILE_ZERO(tile) memset(TILED(tiles)[tile], 0, sizeof TILED(tiles)[tile])
#define TILE_LOAD(tile, from, stride) TILED(load)(TILED(tiles)[tile], from, stride)
#define TILE_PUT(tile, to) memcpy(to, TILED(tiles)[tile], sizeof TILED(tiles)[tile])
#define TILE_DOT(sums, left, right) \
    TILED(dot)(TILED(tiles)[sums], TILED(tiles)[left], TILED(tiles)[right])
#else
/* All eight tiles are whole: palette 1, 64 bytes in each of 16 rows. */
static const struct {
    uint8_t palette, start, none[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TILED(shapes) = {
    1, 0, { 0 }, { 64, 64, 64, 64, 64, 64, 64, 64 }, { 16, 16, 16, 16, 16, 16, 16, 16 },
};

#define TILES_BEGIN() _tile_loadconfig(&TILED(shapes))
#define TILES_END() _tile_release()
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define TILE_PUT(tile, to) _tile_stored(tile, to, 64)
#define TILE_DOT(sums, left, right) _tile_dpbf16ps(sums, left, right)
#endif
