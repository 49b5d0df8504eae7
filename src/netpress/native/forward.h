/* The forward passes of an inverted residual; see blocks.h. Compiled once for each kind of processor. */

#include <string.h>

#include "blocks.h"
#include "matrices.h"
#include "vectors.h"

INLINE void add_to_doubles(double *to, vector values) {
    for (int lane = 0; lane < LANES; lane++) to[lane] += values[lane];
}

/* Turn sums over `count` values less `centre`, and of the squares of that, into sums of values and their squares. Taken near
   their mean, sums in float32 lose little; what is added here is in float64. */
INLINE void uncentre(double *totals, double *squares, const float *centre, long channels, double count) {
    for (long i = 0; i < channels; i++) {
        double away = centre[i];
        squares[i] += away * (2 * totals[i] + count * away);
        totals[i] += count * away;
    }
}

/* The mean of `count` rows of channels. */
INLINE void mean_of(const float *rows, long count, long channels, float *mean) {
    for (long column = 0; column < channels; column += LANES) {
        vector total = splat(0);
        for (long i = 0; i < count; i++) total += load(rows + i * channels + column);
        store(mean + column, total * splat(1.0f / count));
    }
}

INLINE long least(long a, long b) { return a < b ? a : b; }

/* The second norm, of values that the depthwise convolution made. */
INLINE vector normalized(const struct block *s, vector value, long column) {
    return multiply_add(value, load(s->factor + column), load(s->offset + column));
}

/* The activation of this block. */
INLINE vector activated(const struct block *s, vector x) {
    return s->activation == SWISH ? swish(x) : s->activation == RELU ? larger(x, splat(0)) : hardswish(x);
}

/* `count` pixels of the middle, normalized, activated and, with a gate [inside], multiplied by that. */
INLINE void activate_rows(const struct block *s, const float *from, long count, const float *gate, float *to) {
    for (long p = 0; p < count; p++)
        for (long column = 0; column < s->inside; column += LANES) {
            vector value = activated(s, normalized(s, load(from + p * s->inside + column), column));
            if (gate) value *= load(gate + column);
            store(to + p * s->inside + column, value);
        }
}

/* sums: [1 + inputs, inputs_padded], those of x and of x.T @ x */
static void moments(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    (void)products;
    long width = s->inputs_padded, pixels = s->height * s->width;
    float *rows = scratch, *product = rows + CHUNK * width, *centre = product + s->inputs * width;
    memset(centre, 0, width * sizeof(float));
    for (long image = first; image < last; image++)
        for (long pixel = 0; pixel < pixels; pixel += CHUNK) {
            long count = least(CHUNK, pixels - pixel);
            const float *x = s->x + (image * pixels + pixel) * s->inputs;
            if (image == first && pixel == 0)
                for (long column = 0; column < width; column += LANES) {
                    vector total = splat(0);
                    for (long p = 0; p < count; p++)
                        total += load_some(x + p * s->inputs + column, s->inputs - column);
                    store(centre + column, total * splat(1.0f / count));
                }
            for (long column = 0; column < width; column += LANES) {
                vector middle = load(centre + column), total = splat(0);
                for (long p = 0; p < count; p++) {
                    vector values = load_some(x + p * s->inputs + column, s->inputs - column) - middle;
                    store(rows + p * width + column, values);
                    total += values;
                }
                add_to_doubles(sums + column, total);
            }
            operand turned = {rows, 0, 1, width};
            target square = {product, 0, width, width, NULL, 0};
            multiply(1, s->inputs, count, turned, rows, width, square);
            for (long i = 0; i < s->inputs * width; i++) sums[width + i] += product[i];
        }
    double count = (last - first) * pixels;
    for (long i = 0; i < s->inputs; i++)
        for (long j = 0; j < width; j++)
            sums[width + i * width + j] += centre[i] * (sums[j] + count * centre[j]) + sums[i] * centre[j];
    for (long i = 0; i < width; i++) sums[i] += count * centre[i];
}

/* Rows of an image with its padding, of which the last `kept` are in memory: row y lies where row y - kept did. */
typedef struct {
    float *from;
    long size, kept;
} ring;

INLINE float *row_of(ring rows, long y) { return rows.from + y % rows.kept * rows.size; }

/* `count` rows of x less their mean, [count * width, inputs_padded]. */
INLINE void centre_rows(const struct block *s, long image, long y, long count, float *to) {
    const float *x = s->x + (image * s->height + y) * s->width * s->inputs;
    for (long p = 0; p < count * s->width; p++)
        for (long column = 0; column < s->inputs_padded; column += LANES) {
            vector values = load_some(x + p * s->inputs + column, s->inputs - column);
            store(to + p * s->inputs_padded + column, values - load(s->mean + column));
        }
}

/* The widened row y before its activation, and after it as a row with its padding; `rows`: scratch for one row of x. With
   `slopes`, those of swish take the place of what was before it: one exponential serves both. */
INLINE void widen_row(const struct block *s, long image, long y, const int slopes, float *rows, float *before,
                      float *active) {
    centre_rows(s, image, y, 1, rows);
    operand pixels = {rows, 0, s->inputs_padded, 1};
    target wide = {before, 0, s->inside, s->inside, s->widen_start, 0};
    multiply(1, s->width, s->inputs, pixels, s->widen, s->inside, wide);
    active += s->padding * s->inside;
    for (long i = 0; i < s->width * s->inside; i += LANES) {
        vector value = load(before + i);
        if (s->activation != SWISH) {
            store(active + i, activated(s, value));
            continue;
        }
        vector gate = sigmoid(value);
        store(active + i, value * gate);
        if (slopes) store(before + i, swish_slope(value, gate));
    }
}

/* How many rows must be widened for row `out` of the depthwise convolution's result. */
INLINE long rows_seen(const struct block *s, long out) {
    return least(out * s->stride + s->kernel - s->padding, s->height);
}

/* The activated rows that row `out` is made of, `kernel` of them; those below the image are made zero. */
INLINE void see_rows(const struct block *s, ring active, long out, const float **seen) {
    for (int ky = 0; ky < s->kernel; ky++) {
        long place = out * s->stride + ky;
        if (place >= s->height + s->padding) memset(row_of(active, place), 0, active.size * sizeof(float));
        seen[ky] = row_of(active, place);
    }
}

/* One row of the depthwise convolution's result, for one vector of channels, and its sums less `centre`. */
INLINE void convolve_vector(const int kernel, const struct block *s, const float *const *seen, long column,
                            const float *centre, float *to, double *sums) {
    const vector middle = load(centre + column);
    vector total = splat(0), squares = splat(0), weights[25];
    if (kernel <= 5)
        for (int t = 0; t < kernel * kernel; t++) weights[t] = load(s->depthwise + t * s->inside + column);
    for (long x = 0; x < s->out_width; x++) {
        vector sum = splat(0);
        for (int ky = 0; ky < kernel; ky++)
            for (int kx = 0; kx < kernel; kx++) {
                int t = ky * kernel + kx;
                vector weight = kernel <= 5 ? weights[t] : load(s->depthwise + t * s->inside + column);
                sum = multiply_add(load(seen[ky] + (x * s->stride + kx) * s->inside + column), weight, sum);
            }
        store(to + x * s->inside + column, sum);
        sum -= middle;
        total += sum;
        squares = multiply_add(sum, sum, squares);
    }
    add_to_doubles(sums + column, total);
    add_to_doubles(sums + s->inside + column, squares);
}

static void convolve_row(const struct block *s, const float *const *seen, const float *centre, float *to, double *sums) {
    for (long column = 0; column < s->inside; column += LANES) {
        if (s->kernel == 3)
            convolve_vector(3, s, seen, column, centre, to, sums);
        else if (s->kernel == 5)
            convolve_vector(5, s, seen, column, centre, to, sums);
        else
            convolve_vector(s->kernel, s, seen, column, centre, to, sums);
    }
}

/* middle = depthwise(activated((x - mean) @ widen + widen_start)); sums: [2, inside] of it and of the squares */
static void widen(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    (void)products;
    long padded_row = padded_row_of(s), out_row = s->out_width * s->inside;
    ring active = {scratch, padded_row, s->kernel};
    float *before = active.from + active.kept * active.size, *row = before + s->width * s->inside;
    float *x = row + out_row, *centre = x + s->width * s->inputs_padded;
    const float *seen[MOST_TAPS];
    memset(centre, 0, s->inside * sizeof(float));
    for (long image = first; image < last; image++) {
        memset(scratch, 0, active.kept * active.size * sizeof(float));
        for (long y = 0, widened = 0; y < s->out_height; y++) {
            for (; widened < rows_seen(s, y); widened++)
                widen_row(s, image, widened, 0, x, before, row_of(active, widened + s->padding));
            see_rows(s, active, y, seen);
            convolve_row(s, seen, centre, row, sums);
            if (image == first && y == 0) { /* now it is known where values lie */
                mean_of(row, s->out_width, s->inside, centre);
                memset(sums, 0, 2 * s->inside * sizeof(double));
                convolve_row(s, seen, centre, row, sums);
            }
            /* Whole rows go to memory in order. */
            memcpy(s->middle + (image * s->out_height + y) * out_row, row, out_row * sizeof(float));
        }
    }
    uncentre(sums, sums + s->inside, centre, s->inside, (last - first) * s->out_height * s->out_width);
}

/* image_sums: [images, inside] of activated(middle * factor + offset) */
static void squeeze(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    (void)products, (void)sums;
    long size = s->out_height * s->out_width;
    for (long image = first; image < last; image++) {
        double *totals = s->image_sums + image * s->inside;
        memset(totals, 0, s->inside * sizeof(double));
        for (long start = 0; start < size; start += CHUNK) {
            memset(scratch, 0, s->inside * sizeof(float));
            for (long p = start; p < least(size, start + CHUNK); p++) {
                const float *from = s->middle + (image * size + p) * s->inside;
                for (long column = 0; column < s->inside; column += LANES) {
                    vector value = activated(s, normalized(s, load(from + column), column));
                    store(scratch + column, load(scratch + column) + value);
                }
            }
            for (long column = 0; column < s->inside; column += LANES)
                add_to_doubles(totals + column, load(scratch + column));
        }
    }
}

/* narrowed = (activated(middle * factor + offset) * image_gate) @ narrow; image_sums[0] of it; sums: [2, outputs_padded] of it and of the
   squares */
static void narrow(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    (void)products;
    long size = s->out_height * s->out_width, width = s->outputs_padded;
    float *centre = scratch + CHUNK * s->inside;
    for (long image = first; image < last; image++) {
        double *totals = s->image_sums + image * width;
        memset(totals, 0, width * sizeof(double));
        for (long pixel = 0; pixel < size; pixel += CHUNK) {
            long count = least(CHUNK, size - pixel);
            const float *from = s->middle + (image * size + pixel) * s->inside;
            float *to = s->narrowed + (image * size + pixel) * width;
            activate_rows(s, from, count, s->image_gate ? s->image_gate + image * s->inside : NULL, scratch);
            operand active = {scratch, 0, s->inside, 1};
            target out = {to, 0, width, width, NULL, 0};
            multiply(1, count, s->inside, active, s->narrow, width, out);
            if (image == first && pixel == 0) mean_of(to, count, width, centre);
            for (long column = 0; column < width; column += LANES) {
                vector middle = load(centre + column), total = splat(0), squares = splat(0);
                for (long p = 0; p < count; p++) {
                    vector value = load(to + p * width + column) - middle;
                    total += value;
                    squares = multiply_add(value, value, squares);
                }
                add_to_doubles(totals + column, total);
                add_to_doubles(sums + width + column, squares);
            }
        }
        for (long column = 0; column < width; column++) {
            sums[column] += totals[column];
            totals[column] += (double)size * centre[column];
        }
    }
    if (first < last) uncentre(sums, sums + width, centre, width, (last - first) * size);
}

/* out = narrowed * image_factor + image_offset + shortcut */
static void finish(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    (void)scratch, (void)products, (void)sums;
    long size = s->out_height * s->out_width, width = s->outputs_padded;
    for (long image = first; image < last; image++) {
        const float *factor = s->image_factor + image * width, *offset = s->image_offset + image * width;
        for (long pixel = image * size; pixel < (image + 1) * size; pixel++)
            for (long column = 0; column < s->outputs; column += LANES) {
                long place = pixel * s->outputs + column, count = s->outputs - column;
                vector value = load(s->narrowed + pixel * width + column);
                value = multiply_add(value, load(factor + column), load(offset + column));
                if (s->shortcut) value += load_some(s->shortcut + place, count);
                store_some(s->out + place, value, count);
            }
    }
}
