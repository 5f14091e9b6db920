/* Operations of tiles.h for a dtype and an instruction set.
 *
 * Included once per kind of tiles: IS_BF16 selects the dtype, LANES is the number of floats in a register,
 * TILES_OF(name) gives each kind its own names.
 */

#if LANES == 16
#define WIDE __m512
static inline WIDE TILES_OF(floats)(const float *from) { return _mm512_loadu_ps(from); }
static inline WIDE TILES_OF(everywhere)(float value) { return _mm512_set1_ps(value); }
static inline void TILES_OF(put_floats)(float *to, WIDE of) { _mm512_storeu_ps(to, of); }

static inline WIDE TILES_OF(sloped)(WIDE value, const float *slopes)
{
    __mmask16 below = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_mul_ps(value, below, value, _mm512_loadu_ps(slopes));
}
#else
#define WIDE __m256
static inline WIDE TILES_OF(floats)(const float *from) { return _mm256_loadu_ps(from); }
static inline WIDE TILES_OF(everywhere)(float value) { return _mm256_set1_ps(value); }
static inline void TILES_OF(put_floats)(float *to, WIDE of) { _mm256_storeu_ps(to, of); }

static inline WIDE TILES_OF(sloped)(WIDE value, const float *slopes)
{
    WIDE below = _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_LT_OQ);
    return _mm256_blendv_ps(value, value * _mm256_loadu_ps(slopes), below);
}
#endif

#if IS_BF16
/* Registers are read as halves: of 32 channels the even ones and the odd ones. */
#define VALUE uint16_t
#define PARTS 2

/* `present` channels of a pixel, or as many as are processed at once. */
static inline void TILES_OF(load)(const VALUE *from, int present, WIDE *to)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i of = _mm512_maskz_loadu_epi16(present < 2 * LANES ? 0xffff : 0xffffffff, from);
    to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(of, 16));
    to[1] = _mm512_castsi512_ps(_mm512_and_si512(of, upper));
}

static inline void TILES_OF(store)(VALUE *to, const WIDE *sums)
{
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(sums[1], sums[0]));
}

static inline WIDE TILES_OF(residual)(const VALUE *from)
{
    __m512i of = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(of, 16));
}

static inline void TILES_OF(put)(VALUE *to, WIDE of)
{
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(of));
}

/* Two channels' sums of a tile in every lane, and what they add with two channels' weights. */
#define FACTOR __m512i
static inline FACTOR TILES_OF(factor)(const VALUE *from)
{
    int both;
    __builtin_memcpy(&both, from, sizeof both);
    return _mm512_set1_epi32(both);
}

static inline FACTOR TILES_OF(weights)(const VALUE *from) { return _mm512_loadu_si512(from); }

static inline WIDE TILES_OF(added)(WIDE total, FACTOR sums, FACTOR weights)
{
    return _mm512_dpbf16_ps(total, (__m512bh)sums, (__m512bh)weights);
}
#else
#define VALUE float
#define PARTS 1

static inline void TILES_OF(load)(const VALUE *from, int present, WIDE *to)
{
    (void)present;
    *to = TILES_OF(floats)(from);
}

static inline void TILES_OF(store)(VALUE *to, const WIDE *sums) { TILES_OF(put_floats)(to, *sums); }
static inline WIDE TILES_OF(residual)(const VALUE *from) { return TILES_OF(floats)(from); }
static inline void TILES_OF(put)(VALUE *to, WIDE of) { TILES_OF(put_floats)(to, of); }

#define FACTOR WIDE
static inline FACTOR TILES_OF(factor)(const VALUE *from) { return TILES_OF(everywhere)(*from); }
static inline FACTOR TILES_OF(weights)(const VALUE *from) { return TILES_OF(floats)(from); }

static inline WIDE TILES_OF(added)(WIDE total, FACTOR sums, FACTOR weights)
{
    return total + sums * weights;
}
#endif
