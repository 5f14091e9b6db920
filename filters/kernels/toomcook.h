/* Toom-Cook's F(4, 3) along an axis, for the points 0, ±√½, ±√2 and infinity.
 *
 * Included once per kind of tiles, behind lanes.h.
 */

#define ROOT_HALF 0.70710678f
#define ROOT_TWO 1.41421356f

/* Six values of an axis to the six sums of a tile. */
static inline void TILES_OF(sums_of)(const WIDE *from, int step, WIDE *to)
{
    WIDE d0 = from[0], d1 = from[step], d2 = from[2 * step];
    WIDE d3 = from[3 * step], d4 = from[4 * step], d5 = from[5 * step];
    WIDE even = d4 - 2.0f * d2, odd = d3 - 2.0f * d1;
    WIDE far_even = d4 - 0.5f * d2, far_odd = d3 - 0.5f * d1;
    to[0] = d0 + d4 - 2.5f * d2;
    to[1] = even + ROOT_HALF * odd;
    to[2] = even - ROOT_HALF * odd;
    to[3] = far_even + ROOT_TWO * far_odd;
    to[4] = far_even - ROOT_TWO * far_odd;
    to[5] = d1 + d5 - 2.5f * d3;
}

/* Six products of an axis to four values. */
static inline void TILES_OF(values_of)(const WIDE *from, WIDE *to, int to_step)
{
    WIDE near_sum = from[1] + from[2], near = ROOT_HALF * (from[1] - from[2]);
    WIDE far_sum = from[3] + from[4], far = ROOT_TWO * (from[3] - from[4]);
    to[0] = from[0] + (near_sum + far_sum);
    to[to_step] = near + far;
    to[2 * to_step] = 0.5f * near_sum + 2.0f * far_sum;
    to[3 * to_step] = from[5] + (0.5f * near + 2.0f * far);
}
