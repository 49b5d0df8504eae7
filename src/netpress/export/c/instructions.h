/* Vectors: what each processor calls them. V has V_WIDE values of 16 bits or V_WIDE / 2 of 32; a `sums` adds up
   V_WIDE / 2 places, each a group of 2 values of 16 bits (or of 4 of 8 bits, where V_QUADS is 1). */

#if VECTORS == 1 || VECTORS == 2 || VECTORS == 3
#include <immintrin.h>
#elif VECTORS == 4
#include <arm_neon.h>
#else
#include <wasm_simd128.h>
#endif

#if VECTORS == 3
typedef __m512i V;
#define V_WIDE 32
#define v_load(at) _mm512_loadu_si512((const void *)(at))
#define v_store(at, a) _mm512_storeu_si512((void *)(at), a)
#define v_set16(x) _mm512_set1_epi16((int16_t)(x))
#define v_set32(x) _mm512_set1_epi32((int32_t)(x))
#define v_and _mm512_and_si512
#define v_or _mm512_or_si512
#define v_add32 _mm512_add_epi32
#define v_right32(a, n) _mm512_sra_epi32(a, _mm_cvtsi32_si128(n))
#define v_left16(a, n) _mm512_sll_epi16(a, _mm_cvtsi32_si128(n))
#define v_add _mm512_adds_epi16
#define v_subtract _mm512_subs_epi16
#define v_most _mm512_max_epi16
#define v_least _mm512_min_epi16
#define v_rescale _mm512_mulhrs_epi16
#define v_rescale_any(a, b) v_mended(_mm512_mulhrs_epi16(a, b))
#define v_low _mm512_unpacklo_epi16
#define v_high _mm512_unpackhi_epi16
#define v_narrow _mm512_packs_epi32
#define v_sorted(a) _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), a)
#define v_spread(a) _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), a)
static inline V v_mended(V a) {
    return _mm512_mask_mov_epi16(a, _mm512_cmpeq_epi16_mask(a, v_set16(-32768)), v_set16(32767));
}
#define v_dot _mm512_dpwssd_epi32
#define v_dot_quads _mm512_dpbusd_epi32
#define V_QUADS 1

#elif VECTORS == 2
typedef __m256i V;
#define V_WIDE 16
#define v_load(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define v_store(at, a) _mm256_storeu_si256((__m256i *)(void *)(at), a)
#define v_set16(x) _mm256_set1_epi16((int16_t)(x))
#define v_set32(x) _mm256_set1_epi32((int32_t)(x))
#define v_and _mm256_and_si256
#define v_or _mm256_or_si256
#define v_add32 _mm256_add_epi32
#define v_right32(a, n) _mm256_sra_epi32(a, _mm_cvtsi32_si128(n))
#define v_left16(a, n) _mm256_sll_epi16(a, _mm_cvtsi32_si128(n))
#define v_add _mm256_adds_epi16
#define v_subtract _mm256_subs_epi16
#define v_most _mm256_max_epi16
#define v_least _mm256_min_epi16
#define v_rescale _mm256_mulhrs_epi16
#define v_rescale_any(a, b) v_mended(_mm256_mulhrs_epi16(a, b))
#define v_low _mm256_unpacklo_epi16
#define v_high _mm256_unpackhi_epi16
#define v_narrow _mm256_packs_epi32
#define v_sorted(a) _mm256_permute4x64_epi64(a, 0xD8)
#define v_spread(a) _mm256_permute4x64_epi64(a, 0xD8)
static inline V v_mended(V a) { return _mm256_xor_si256(a, _mm256_cmpeq_epi16(a, v_set16(-32768))); }
/* By its own name, so that the sum stays where it is: gcc 12 moves it, and runs out of registers. */
static inline V v_dot(V sum, V a, V b) {
    const V products = _mm256_madd_epi16(a, b);
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
    return sum;
}

#elif VECTORS == 1
typedef __m128i V;
#define V_WIDE 8
#define v_load(at) _mm_loadu_si128((const __m128i *)(const void *)(at))
#define v_store(at, a) _mm_storeu_si128((__m128i *)(void *)(at), a)
#define v_set16(x) _mm_set1_epi16((int16_t)(x))
#define v_set32(x) _mm_set1_epi32((int32_t)(x))
#define v_and _mm_and_si128
#define v_or _mm_or_si128
#define v_add32 _mm_add_epi32
#define v_right32(a, n) _mm_sra_epi32(a, _mm_cvtsi32_si128(n))
#define v_left16(a, n) _mm_sll_epi16(a, _mm_cvtsi32_si128(n))
#define v_add _mm_adds_epi16
#define v_subtract _mm_subs_epi16
#define v_most _mm_max_epi16
#define v_least _mm_min_epi16
#define v_rescale _mm_mulhrs_epi16
#define v_rescale_any(a, b) v_mended(_mm_mulhrs_epi16(a, b))
#define v_low _mm_unpacklo_epi16
#define v_high _mm_unpackhi_epi16
#define v_narrow _mm_packs_epi32
#define v_sorted(a) (a)
#define v_spread(a) (a)
static inline V v_mended(V a) { return _mm_xor_si128(a, _mm_cmpeq_epi16(a, v_set16(-32768))); }
#define v_dot(s, a, b) _mm_add_epi32(s, _mm_madd_epi16(a, b))

#elif VECTORS == 4
typedef int16x8_t V;
#define V_WIDE 8
#define V_AS32(a) vreinterpretq_s32_s16(a)
#define V_AS16(a) vreinterpretq_s16_s32(a)
#define v_load(at) vld1q_s16((const int16_t *)(const void *)(at))
#define v_store(at, a) vst1q_s16((int16_t *)(void *)(at), a)
#define v_set16(x) vdupq_n_s16((int16_t)(x))
#define v_set32(x) V_AS16(vdupq_n_s32((int32_t)(x)))
#define v_and vandq_s16
#define v_or vorrq_s16
#define v_add32(a, b) V_AS16(vaddq_s32(V_AS32(a), V_AS32(b)))
#define v_right32(a, n) V_AS16(vshlq_s32(V_AS32(a), vdupq_n_s32(-(n))))
#define v_left16(a, n) vshlq_s16(a, vdupq_n_s16((int16_t)(n)))
#define v_add vqaddq_s16
#define v_subtract vqsubq_s16
#define v_most vmaxq_s16
#define v_least vminq_s16
#define v_rescale vqrdmulhq_s16
#define v_rescale_any vqrdmulhq_s16
#define v_low vzip1q_s16
#define v_high vzip2q_s16
#define v_narrow(a, b) vcombine_s16(vqmovn_s32(V_AS32(a)), vqmovn_s32(V_AS32(b)))
#define v_sorted(a) (a)
#define v_spread(a) (a)
/* Products of both values of a place stay apart until all are added. */
typedef struct {
    int32x4_t first, second;
} sums;
static inline sums v_start(uint32_t x) {
    sums s;
    s.first = s.second = vreinterpretq_s32_u64(vdupq_n_u64(x));
    return s;
}
static inline sums v_dot(sums s, V a, V b) {
    s.first = vmlal_s16(s.first, vget_low_s16(a), vget_low_s16(b));
    s.second = vmlal_high_s16(s.second, a, b);
    return s;
}
#define v_total(s) V_AS16(vpaddq_s32((s).first, (s).second))

#else
typedef v128_t V;
#define V_WIDE 8
#define v_load(at) wasm_v128_load(at)
#define v_store(at, a) wasm_v128_store(at, a)
#define v_set16(x) wasm_i16x8_splat((int16_t)(x))
#define v_set32(x) wasm_i32x4_splat((int32_t)(x))
#define v_and wasm_v128_and
#define v_or wasm_v128_or
#define v_add32 wasm_i32x4_add
#define v_right32(a, n) wasm_i32x4_shr(a, (uint32_t)(n))
#define v_left16(a, n) wasm_i16x8_shl(a, (uint32_t)(n))
#define v_add wasm_i16x8_add_sat
#define v_subtract wasm_i16x8_sub_sat
#define v_most wasm_i16x8_max
#define v_least wasm_i16x8_min
#define v_rescale wasm_i16x8_q15mulr_sat
#define v_rescale_any wasm_i16x8_q15mulr_sat
#define v_low(a, b) wasm_i16x8_shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define v_high(a, b) wasm_i16x8_shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define v_narrow wasm_i16x8_narrow_i32x4
#define v_sorted(a) (a)
#define v_spread(a) (a)
#define v_dot(s, a, b) wasm_i32x4_add(s, wasm_i32x4_dot_i16x8(a, b))
/* LLVM 14 makes a load that is only spread one instruction and forgets that a later store to its place must wait for
   it. Behind the empty asm it is a load like any other. */
static inline __attribute__((unused)) V v_all(const int16_t *at) {
    int32_t x = *at;
    __asm__("" : "+r"(x));
    return v_set16(x);
}
#define v_all v_all
#endif

/* A number of the arena in all places. */
#ifndef v_all
#define v_all(at) v_set16(*(at))
#endif

#if VECTORS != 4
typedef V sums;
#define v_start(x) v_set32(x)
#define v_total(s) (s)
#endif
#ifndef V_QUADS
#define V_QUADS 0
#endif
