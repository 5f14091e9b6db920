/* The rows of a file, behind values.h, for each instruction set and dtype of the convolutions. */

#define IS_BF16 0
#define ROWS(name) JOINED(name, _plain_fp32)
#include "values.h"
#include ROWS_FILE
#undef IS_BF16
#undef ROWS
#define IS_BF16 1
#define ROWS(name) JOINED(name, _plain_bf16)
#include "values.h"
#include ROWS_FILE
#undef IS_BF16
#undef ROWS

#if HAS_AVX2
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define IS_BF16 0
#define ROWS(name) JOINED(name, _avx2_fp32)
#include "values.h"
#include ROWS_FILE
#undef IS_BF16
#undef ROWS
#define IS_BF16 1
#define ROWS(name) JOINED(name, _avx2_bf16)
#include "values.h"
#include ROWS_FILE
#undef IS_BF16
#undef ROWS
#pragma GCC pop_options
#endif
