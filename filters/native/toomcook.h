/* Toom-Cook's F(4, 3) along an axis, for the points 0, ±√½, ±√2 and infinity; AVX-512. */

#define ROOT_HALF 0.70710678f
#define ROOT_TWO 1.41421356f

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
