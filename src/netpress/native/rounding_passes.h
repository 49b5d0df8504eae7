/* The two passes of rounding.h. */

#include "rounding.h"
#include "vectors.h"

/* Beyond every range: integers have 16 bits, and a zero point. Clamped there first, no quotient overflows. */
#define REACH 0x1p20f

/* out = clamp(round(x / scale)) */
static void round_forward(const struct rounding *s, long first, long last, double *sum) {
    (void)sum;
    const vector scale = splat(s->scale), inverse = splat(1 / s->scale), low = splat(s->low), high = splat(s->high);
    const vector reach = splat(s->scale * REACH);
    for (long i = first; i < last; i += LANES) {
        vector x = clamped(load_some(s->x + i, last - i), -reach, reach);
        store_some(s->out + i, clamped(nearest(quotient(x, scale, inverse)), low, high), last - i);
    }
}

/* out = gradient / scale where x / scale rounds to a number within the limits, 0 elsewhere; the sum of out * x */
static void round_backward(const struct rounding *s, long first, long last, double *sum) {
    const vector scale = splat(s->scale), inverse = splat(1 / s->scale), low = splat(s->low), high = splat(s->high);
    const vector reach = splat(s->scale * REACH);
    vector total = splat(0);
    for (long i = first; i < last; i += LANES) {
        vector x = clamped(load_some(s->x + i, last - i), -reach, reach), whole = nearest(quotient(x, scale, inverse));
        vector given = quotient(load_some(s->gradient + i, last - i), scale, inverse);
        given = where_equal(clamped(whole, low, high), whole, given);
        store_some(s->out + i, given, last - i);
        if (sum) total = multiply_add(given, x, total);
    }
    if (sum) {
        *sum = 0;
        for (int lane = 0; lane < LANES; lane++) *sum += total[lane];
    }
}

#define BOTH_ROUNDING_PASSES {round_forward, round_backward}
