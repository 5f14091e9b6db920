/* Values in the dtype of the convolutions, one, four or eight at a time, as floats.
 *
 * Included once per instruction set and dtype: ROWS(name) gives each copy its own names, IS_BF16 selects
 * the dtype.
 */

static inline eight ROWS(load)(const float *from) { return *(const eight_unaligned *)from; }

/* Load outputs of a convolution from `index` on. */
static inline float ROWS(one_of)(const void *values, size_t index)
{
#if IS_BF16
    union { uint32_t bits; float value; } wide = { (uint32_t)((const uint16_t *)values)[index] << 16 };
    return wide.value;
#else
    return ((const float *)values)[index];
#endif
}

static inline four ROWS(four_of)(const void *values, size_t index)
{
#if IS_BF16
    const short_four *at = (const short_four *)((const uint16_t *)values + index);
    return (four)(__builtin_convertvector(*at, word_four) << 16);
#else
    return *(const four_unaligned *)((const float *)values + index);
#endif
}

static inline eight ROWS(eight_of)(const void *values, size_t index)
{
#if IS_BF16
    const short_eight *at = (const short_eight *)((const uint16_t *)values + index);
    return (eight)(__builtin_convertvector(*at, word_eight) << 16);
#else
    return ROWS(load)((const float *)values + index);
#endif
}

/* Store inputs of a convolution; bf16 is rounded to nearest, ties to even. */
static inline void ROWS(put)(void *values, size_t index, float value)
{
#if IS_BF16
    union { float value; uint32_t bits; } wide = { value };
    uint32_t rounded = wide.bits + 0x7fff + (wide.bits >> 16 & 1);
    ((uint16_t *)values)[index] = (uint16_t)((value == value ? rounded : wide.bits | 0x400000) >> 16);
#else
    ((float *)values)[index] = value;
#endif
}

static inline void ROWS(put4)(void *values, size_t index, four value)
{
#if IS_BF16
    word_four bits = (word_four)value, number = (word_four)(value == value);
    word_four rounded = bits + 0x7fff + (bits >> 16 & 1);
    word_four chosen = (rounded & number) | ((bits | 0x400000) & ~number);
    *(short_four *)((uint16_t *)values + index) = __builtin_convertvector(chosen >> 16, short_four);
#else
    *(four_unaligned *)((float *)values + index) = value;
#endif
}

static inline void ROWS(put8)(void *values, size_t index, eight value)
{
#if IS_BF16
    word_eight bits = (word_eight)value, number = (word_eight)(value == value);
    word_eight rounded = bits + 0x7fff + (bits >> 16 & 1);
    word_eight chosen = (rounded & number) | ((bits | 0x400000) & ~number);
    *(short_eight *)((uint16_t *)values + index) = __builtin_convertvector(chosen >> 16, short_eight);
#else
    *(eight_unaligned *)((float *)values + index) = value;
#endif
}
