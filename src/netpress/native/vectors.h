/* Vectors of LANES floats and what the kernels do with them, on the processor that WIDE_512 or WIDE_256 names
   (neither: whatever the compiler makes of 128 bits). */

#ifndef NETPRESS_VECTORS_H
#define NETPRESS_VECTORS_H


#if defined(WIDE_512)
#define LANES 16
#define TILE_ROWS 8 /* of matrices.h: 24 sums in 32 registers */
#elif defined(WIDE_256)
#define LANES 8
#define TILE_ROWS 4 /* 12 sums in 16 registers */
#else
#define LANES 4
#define TILE_ROWS 4
#endif

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int integers __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* Floats lie anywhere: tensors begin at multiples of 64 bytes, but rows of theirs need not. */
INLINE vector load(const float *from) {
    vector values;
    __builtin_memcpy(&values, from, sizeof values);
    return values;
}

INLINE void store(float *to, vector values) { __builtin_memcpy(to, &values, sizeof values); }

/* The first `count` floats, zeros after them; whole vectors where it is LANES or more. */
INLINE vector load_some(const float *from, long count) {
    if (count >= LANES) return load(from);
#if defined(WIDE_512)
    return (vector)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#else
    vector values = {0};
    for (long lane = 0; lane < count; lane++) values[lane] = from[lane];
    return values;
#endif
}

INLINE void store_some(float *to, vector values, long count) {
    if (count >= LANES) {
        store(to, values);
        return;
    }
#if defined(WIDE_512)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)values);
#else
    for (long lane = 0; lane < count; lane++) to[lane] = values[lane];
#endif
}

INLINE vector splat(float value) { return value - (vector){0}; }

#if defined(WIDE_512)
INLINE vector multiply_add(vector a, vector b, vector c) { return (vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vector larger(vector a, vector b) { return (vector)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vector smaller(vector a, vector b) { return (vector)_mm512_min_ps((__m512)a, (__m512)b); }
/* 1 / x for x in [1, 1e38], to 2 units in the last place: much sooner than division is done */
INLINE vector reciprocal(vector x) {
    vector near = (vector)_mm512_rcp14_ps((__m512)x);
    return multiply_add(near, (vector)_mm512_fnmadd_ps((__m512)x, (__m512)near, (__m512)splat(1)), near);
}
/* a where x > limit, b elsewhere */
INLINE vector where_above(vector x, vector limit, vector a, vector b) {
    return (vector)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)limit, _CMP_GT_OQ), (__m512)b, (__m512)a);
}
#elif defined(WIDE_256)
INLINE vector multiply_add(vector a, vector b, vector c) { return (vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vector larger(vector a, vector b) { return (vector)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vector smaller(vector a, vector b) { return (vector)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vector where_above(vector x, vector limit, vector a, vector b) {
    return (vector)_mm256_blendv_ps((__m256)b, (__m256)a, _mm256_cmp_ps((__m256)x, (__m256)limit, _CMP_GT_OQ));
}
#else
INLINE vector multiply_add(vector a, vector b, vector c) { return a * b + c; }
INLINE vector where_above(vector x, vector limit, vector a, vector b) {
    integers above = (integers)(x > limit);
    return (vector)((above & (integers)a) | (~above & (integers)b));
}
INLINE vector larger(vector a, vector b) { return where_above(a, b, a, b); }
INLINE vector smaller(vector a, vector b) { return where_above(b, a, a, b); }
#endif

#if !defined(WIDE_512)
INLINE vector reciprocal(vector x) { return splat(1) / x; }
#endif

/* The nearest whole number, half to even. */
#if defined(WIDE_512)
INLINE vector nearest(vector x) { return (vector)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#elif defined(WIDE_256)
INLINE vector nearest(vector x) { return (vector)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#else
INLINE vector nearest(vector x) {
    for (int lane = 0; lane < LANES; lane++) x[lane] = __builtin_rintf(x[lane]);
    return x;
}
#endif

/* x / scale to the last bit, for a scale of at most 11 significant bits; `inverse`: 1 / scale, rounded. An infinite x may
   give NaN. What is left over of the first guess is exact, so that the second one is rounded as the quotient is. */
INLINE vector quotient(vector x, vector scale, vector inverse) {
#if defined(WIDE_512) || defined(WIDE_256)
    vector guess = x * inverse;
    return multiply_add(multiply_add(-guess, scale, x), inverse, guess);
#else
    (void)inverse;
    return x / scale;
#endif
}

/* x between the limits; NaN, which no comparison holds for, stays NaN: x comes second */
INLINE vector clamped(vector x, vector low, vector high) { return smaller(high, larger(low, x)); }

/* a where x == y, 0 elsewhere */
INLINE vector where_equal(vector x, vector y, vector a) { return (vector)((integers)a & (integers)(x == y)); }

/* x * min(max(x + 3, 0), 6) / 6 */
INLINE vector hardswish(vector x) {
    vector gate = smaller(larger(x + splat(3), splat(0)), splat(6));
    return x * gate * splat(1.0f / 6);
}

/* gradient times the slope of hardswish at x: 0 below -3, 1 above 3, between them x / 3 + 1/2 */
INLINE vector hardswish_gradient(vector gradient, vector x) {
    vector between = gradient * multiply_add(x, splat(1.0f / 3), splat(0.5f));
    vector above = where_above(x, splat(3), gradient, between);
    return where_above(splat(-3), x, splat(0), above);
}

/* exp(x) for x in [-87, 87], to 2 units in the last place: 2^n exp(r) with n whole and |r| <= log(2) / 2. */
INLINE vector exponential(vector x) {
    const vector whole = splat(12582912.0f); /* 1.5 * 2^23: adding it leaves whole numbers in the lowest bits */
    vector shifted = multiply_add(x, splat(1.44269504f), whole), n = shifted - whole;
    /* log(2) in two parts, the first so short that n times it is exact. */
    vector r = multiply_add(n, splat(2.12194440e-4f), multiply_add(n, splat(-0.693359375f), x));
    /* (exp(r) - 1 - r) / r^2, fitted with the least relative error of exp(r). */
    vector sum = splat(1.37494679e-3f);
    sum = multiply_add(sum, r, splat(8.36961996e-3f));
    sum = multiply_add(sum, r, splat(4.16696332e-2f));
    sum = multiply_add(sum, r, splat(0.166665122f));
    sum = multiply_add(sum, r, splat(0.499999881f));
    sum = multiply_add(sum, r * r, r) + splat(1);
    integers power = ((integers)shifted << 23) + (127 << 23);
    return sum * (vector)power;
}

INLINE vector sigmoid(vector x) {
    vector within = smaller(larger(x, splat(-87)), splat(87));
    return reciprocal(splat(1) + exponential(-within));
}

INLINE vector swish(vector x) { return x * sigmoid(x); }

/* The slope of swish at x, where sigmoid(x) is known. */
INLINE vector swish_slope(vector x, vector gate) { return gate * multiply_add(x, splat(1) - gate, splat(1)); }

#endif
