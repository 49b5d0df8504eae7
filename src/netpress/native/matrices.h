/* Products of small matrices that stay in a processor's cache. */

#ifndef NETPRESS_MATRICES_H
#define NETPRESS_MATRICES_H

#include "vectors.h"


/* The left matrix, any strides: element (line, row, k) is at from[line * line_stride + row * row_stride + k * k_stride]. */
typedef struct {
    const float *from;
    long line_stride, row_stride, k_stride;
} operand;

/* Where the product goes: its rows are grouped in lines, as an image's pixels are. */
typedef struct {
    float *to;
    long line_stride, row_stride;
    long columns;       /* that are stored; the right matrix has as many, rounded up to whole vectors */
    const float *start; /* [columns, rounded up] that sums begin with, or NULL for zeros */
    int adds;           /* to what is there already */
} target;

enum { PANEL = 3 }; /* vectors of columns at a time */

/* `rows` x `width` vectors of sums, kept in registers; both are constants where this is inlined. */
INLINE void tile(const int rows, const int width, long depth, const float *a, long row_stride, long k_stride, const float *b,
                 long b_stride, const target *out, float *to, long column) {
    vector sums[TILE_ROWS][PANEL];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < width; v++) {
            sums[r][v] = out->start ? load(out->start + column + v * LANES) : splat(0);
            if (out->adds)
                sums[r][v] += load_some(to + r * out->row_stride + v * LANES, out->columns - column - v * LANES);
        }
    for (long k = 0; k < depth; k++, a += k_stride, b += b_stride) {
        vector right[PANEL];
#pragma GCC unroll 3
        for (int v = 0; v < width; v++) right[v] = load(b + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vector left = splat(a[r * row_stride]);
#pragma GCC unroll 3
            for (int v = 0; v < width; v++) sums[r][v] = multiply_add(left, right[v], sums[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < width; v++) {
            store_some(to + r * out->row_stride + v * LANES, sums[r][v], out->columns - column - v * LANES);
        }
}

/* All rows of one panel of columns. */
INLINE void tiles(const int width, long lines, long rows, long depth, operand a, const float *b, long b_stride,
                  const target *out, long column) {
    for (long line = 0; line < lines; line++) {
        const float *from = a.from + line * a.line_stride;
        float *to = out->to + line * out->line_stride + column;
        long row = 0;
#define TILE(count)                                                                                                    \
    tile(count, width, depth, from + row * a.row_stride, a.row_stride, a.k_stride, b + column, b_stride, out,          \
         to + row * out->row_stride, column)
        for (; row + TILE_ROWS <= rows; row += TILE_ROWS) TILE(TILE_ROWS);
        for (; row + 2 <= rows; row += 2) TILE(2);
        if (row < rows) TILE(1);
#undef TILE
    }
}

/* out = a b: a [lines * rows, depth]; b [depth, columns rounded up to whole vectors], rows b_stride apart. */
static void multiply(long lines, long rows, long depth, operand a, const float *b, long b_stride, target out) {
    long vectors = (out.columns + LANES - 1) / LANES, v = 0;
    for (; v + PANEL <= vectors; v += PANEL) tiles(PANEL, lines, rows, depth, a, b, b_stride, &out, v * LANES);
    if (vectors - v == 2) tiles(2, lines, rows, depth, a, b, b_stride, &out, v * LANES);
    if (vectors - v == 1) tiles(1, lines, rows, depth, a, b, b_stride, &out, v * LANES);
}

#endif
