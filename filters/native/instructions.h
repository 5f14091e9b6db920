/* What this compiler and this CPU can do. */

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
