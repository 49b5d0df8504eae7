/* Kernels: docs/formats.md of netpress, "Integer arithmetic", defines each of them. */

#if defined(__GNUC__) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__thumb2__) && \
    !defined(__ARM_BIG_ENDIAN)
#define PAIRS 1 /* two products in one instruction: umlal */
#define BLOCK 4
#elif defined(__arm__)
#define BLOCK 4
#else
#define BLOCK 16
#endif

#ifdef __GNUC__
#define APART __attribute__((noinline, unused, hot)) /* a loop that needs all registers */
#else
#define APART
#endif

#if defined(__GNUC__) && defined(__arm__)
#define SHARED __attribute__((noinline, unused)) /* of many layers: where flash is short, once and not once a layer */
#define HOT __attribute__((hot))
#define SMALL __attribute__((cold))                     /* calls these: for size */
#define ALWAYS inline __attribute__((always_inline))
#else
#ifdef __GNUC__
#define SHARED inline __attribute__((unused))
#else
#define SHARED inline
#endif
#define HOT
#define SMALL
#define ALWAYS inline
#endif

#if defined(__GNUC__) && defined(__ARM_FEATURE_SAT)
static inline int32_t saturate(int32_t x) { return __builtin_arm_ssat(x, 16); }
static inline int32_t saturate_u15(int32_t x) { return (int32_t)__builtin_arm_usat(x, 15); }
static inline int32_t saturate_u8(int32_t x) { return (int32_t)__builtin_arm_usat(x, 8); }
#else
static inline int32_t saturate(int32_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : x; }
static inline int32_t saturate_u15(int32_t x) { return x < 0 ? 0 : x > 32767 ? 32767 : x; }
static inline int32_t saturate_u8(int32_t x) { return x < 0 ? 0 : x > 255 ? 255 : x; }
#endif

/* R: both of 16 bits. */
static ALWAYS int32_t rescale(int32_t x, int32_t m) { return (x * m + 16384) >> 15; }

/* S: rounds to the right without leaving 32 bits, saturates to the left. */
static ALWAYS int32_t shift(int32_t x, int n) {
    if (n > 0) return saturate((x >> n) + ((x >> (n - 1)) & 1));
    return saturate(saturate(x) * (1 << -n));
}

/* S(R(x, m), n), or R(S(x, n), m) to the left. */
static ALWAYS int32_t scaled(int32_t x, int32_t m, int n) {
    return n < 0 ? rescale(shift(x, n), m) : shift(rescale(x, m), n);
}
