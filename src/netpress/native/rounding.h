/* A tensor's values as whole numbers of a grid, in one pass. Compiled once for each kind of processor. */

#ifndef NETPRESS_ROUNDING_H
#define NETPRESS_ROUNDING_H

/* Kept in step with `_Rounding` in rounding.py. Whole numbers here are less the zero point, as `low` and `high` are. */
struct rounding {
    long count, threads;
    float scale, low, high;
    const float *x, *gradient;
    float *out;
    double *sums; /* one for each piece, in the backward pass; or NULL */
};

enum { PIECE = 1 << 14 }; /* values that are summed together, whatever the number of threads */

/* Of the values `first` to `last`, a piece of them. */
typedef void round_piece(const struct rounding *, long first, long last, double *sum);

/* Forward, then backward. */
extern round_piece *const rounding_512[2], *const rounding_256[2], *const rounding_any[2];

#endif
