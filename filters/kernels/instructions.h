/* Features of this compiler and this CPU. */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_AVX2 1
static inline __attribute__((unused)) int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
#define HAS_AVX2 0
#endif

#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)

#define EXPORT __attribute__((visibility("default")))

#if HAS_AVX2
#define CHOOSE(name, is_bf16) \
    (has_avx2() ? ((is_bf16) ? name##_avx2_bf16 : name##_avx2_fp32) \
                : ((is_bf16) ? name##_plain_bf16 : name##_plain_fp32))
#else
#define CHOOSE(name, is_bf16) ((is_bf16) ? name##_plain_bf16 : name##_plain_fp32)
#endif

/* Run all rows of a job on this CPU in that many threads. Requires sharing.h. */
#define RUN(rows, name, job, is_bf16, threads) do { \
    void (*step)(const __typeof__(*(job)) *, int) = CHOOSE(name, is_bf16); \
    struct part parts[threads]; \
    share_out(parts, threads, rows); \
    _Pragma("omp parallel num_threads(threads)") \
    for (int y; (y = next_item(parts, threads)) >= 0;) \
        step(job, y); \
} while (0)
