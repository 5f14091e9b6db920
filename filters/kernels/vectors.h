/* Four and eight values at a time, which the compiler maps to the CPU's registers. */

#include <stdint.h>

typedef float four __attribute__((vector_size(16)));
typedef float four_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32)));
typedef float eight_unaligned __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t word_four __attribute__((vector_size(16)));
typedef uint32_t word_eight __attribute__((vector_size(32)));
typedef uint16_t short_four __attribute__((vector_size(8), aligned(2), may_alias));
typedef uint16_t short_eight __attribute__((vector_size(16), aligned(2), may_alias));
