/* The backward passes of an inverted residual; see blocks.h. Included after forward.h. */

/* image_sums: of the gradient, and of gradient * (narrowed - centre) */
static void finish_backward(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    (void)scratch, (void)products, (void)sums;
    long size = s->out_height * s->out_width, width = s->outputs_padded;
    for (long image = first; image < last; image++) {
        double *totals = s->image_sums + image * width, *against = totals + s->images * width;
        memset(totals, 0, width * sizeof(double));
        memset(against, 0, width * sizeof(double));
        for (long start = 0; start < size; start += CHUNK)
            for (long column = 0; column < width; column += LANES) {
                vector centre = load(s->centre + column), total = splat(0), product = splat(0);
                for (long p = start; p < least(size, start + CHUNK); p++) {
                    long pixel = image * size + p;
                    vector gradient = load_some(s->gradient + pixel * s->outputs + column, s->outputs - column);
                    total += gradient;
                    product = multiply_add(gradient, load(s->narrowed + pixel * width + column) - centre, product);
                }
                add_to_doubles(totals + column, total);
                add_to_doubles(against + column, product);
            }
    }
}

INLINE vector activated_gradient(const struct block *s, vector gradient, vector x) {
    if (s->activation == SWISH) return gradient * swish_slope(x, sigmoid(x));
    return s->activation == RELU ? where_above(x, splat(0), gradient, splat(0)) : hardswish_gradient(gradient, x);
}

/* The gradient for `count` pixels of `narrowed` from `start` on: gradient * image_factor + narrowed * by_value + image_offset. */
INLINE void narrowed_gradient(const struct block *s, long image, long start, long count, float *to) {
    long width = s->outputs_padded, pixel = image * s->out_height * s->out_width + start;
    const float *factor = s->image_factor + image * width, *offset = s->image_offset + image * width;
    for (long p = 0; p < count; p++)
        for (long column = 0; column < width; column += LANES) {
            const float *gradient = s->gradient + (pixel + p) * s->outputs + column;
            vector value = multiply_add(load(s->narrowed + (pixel + p) * width + column), load(s->by_value + column),
                                        load(offset + column));
            value = multiply_add(load_some(gradient, s->outputs - column), load(factor + column), value);
            store(to + p * width + column, value);
        }
}

/* Where a gate stands before narrowing. products: [outputs, inside] for `narrow_turned`; image_sums: [images, inside], the gate's
   gradient. Both follow from the same product of an image, of its narrowed gradient and its activated values: */
static void gate_backward(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    (void)sums;
    long size = s->out_height * s->out_width, width = s->outputs_padded;
    float *given = scratch, *active = given + CHUNK * width, *product = active + CHUNK * s->inside;
    for (long image = first; image < last; image++) {
        const float *gate = s->image_gate + image * s->inside;
        double *for_gate = s->image_sums + image * s->inside;
        for (long start = 0; start < size; start += CHUNK) {
            long count = least(CHUNK, size - start);
            narrowed_gradient(s, image, start, count, given);
            activate_rows(s, s->middle + (image * size + start) * s->inside, count, NULL, active);
            operand turned = {given, 0, 1, width};
            target weights = {product, 0, s->inside, s->inside, NULL, start > 0};
            multiply(1, s->outputs, count, turned, active, s->inside, weights);
        }
        memset(for_gate, 0, s->inside * sizeof(double));
        for (long column = 0; column < s->inside; column += LANES) {
            vector total = splat(0), factor = load(gate + column);
            for (long place = column; place < s->outputs * s->inside; place += s->inside) {
                vector value = load(product + place);
                total = multiply_add(value, load(s->narrow_turned + place), total);
                store(products + place, multiply_add(value, factor, load(products + place)));
            }
            add_to_doubles(for_gate + column, total);
        }
    }
}

/* From the gradient for `narrowed`, middle_gradient, for the normalized middle; products: [outputs, inside] for
   `narrow_turned`, where no gate has asked for them; sums: [2, inside] of middle_gradient and of
   middle_gradient * (middle - centre). */
static void narrow_backward(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    long size = s->out_height * s->out_width, width = s->outputs_padded;
    float *given = scratch, *middle = given + CHUNK * width, *active = middle + CHUNK * s->inside;
    float *back = active + CHUNK * s->inside;
    for (long image = first; image < last; image++) {
        const float *gate = s->image_gate ? s->image_gate + image * s->inside : NULL;
        const float *pooled = s->image_gate ? s->image_pooled + image * s->inside : NULL;
        for (long start = 0; start < size; start += CHUNK) {
            long count = least(CHUNK, size - start), pixel = image * size + start;
            narrowed_gradient(s, image, start, count, given);
            operand rows = {given, 0, width, 1}, turned = {given, 0, 1, width};
            target wide = {back, 0, s->inside, s->inside, NULL, 0};
            multiply(1, count, s->outputs, rows, s->narrow_turned, s->inside, wide);
            memcpy(middle, s->middle + pixel * s->inside, count * s->inside * sizeof(float));
            for (long column = 0; column < s->inside; column += LANES) {
                const vector centre = load(s->centre + column);
                vector total = splat(0), against = splat(0);
                for (long place = column; place < count * s->inside; place += s->inside) {
                    vector before = load(middle + place), value = normalized(s, before, column);
                    vector gradient = load(back + place);
                    if (gate)
                        gradient = multiply_add(gradient, load(gate + column), load(pooled + column));
                    else
                        store(active + place, activated(s, value));
                    gradient = activated_gradient(s, gradient, value);
                    store(back + place, gradient);
                    total += gradient;
                    against = multiply_add(gradient, before - centre, against);
                }
                add_to_doubles(sums + column, total);
                add_to_doubles(sums + s->inside + column, against);
            }
            memcpy(s->middle_gradient + pixel * s->inside, back, count * s->inside * sizeof(float));
            if (gate) continue;
            target weights = {products, 0, s->inside, s->inside, NULL, 1};
            multiply(1, s->outputs, count, turned, active, s->inside, weights);
        }
    }
}

/* What one row of gradients adds to the depthwise weights, for one vector of channels. `seen`: the activated rows that the
   kernel saw. */
INLINE void learn_row(const int kernel, const struct block *s, const float *const *seen, const float *given, long column,
                      float *products) {
    if (kernel == 3 || kernel == 5) {
        vector sums[25];
        for (int t = 0; t < kernel * kernel; t++) sums[t] = load(products + t * s->inside + column);
        for (long x = 0; x < s->out_width; x++) {
            vector gradient = load(given + x * s->inside + column);
            for (int ky = 0; ky < kernel; ky++)
                for (int kx = 0; kx < kernel; kx++) {
                    vector value = load(seen[ky] + (x * s->stride + kx) * s->inside + column);
                    sums[ky * kernel + kx] = multiply_add(value, gradient, sums[ky * kernel + kx]);
                }
        }
        for (int t = 0; t < kernel * kernel; t++) store(products + t * s->inside + column, sums[t]);
        return;
    }
    for (int t = 0; t < kernel * kernel; t++) {
        const float *from = seen[t / kernel] + t % kernel * s->inside + column;
        vector sum = load(products + t * s->inside + column);
        for (long x = 0; x < s->out_width; x++)
            sum = multiply_add(load(from + x * s->stride * s->inside), load(given + x * s->inside + column), sum);
        store(products + t * s->inside + column, sum);
    }
}

/* Spread one row of gradients over the rows `to` that it came from. */
INLINE void scatter_row(const struct block *s, const float *given, float *const *to) {
    for (long x = 0; x < s->out_width; x++)
        for (long ky = 0; ky < s->kernel; ky++)
            for (long kx = 0; kx < s->kernel; kx++) {
                float *place = to[ky] + (x * s->stride + kx) * s->inside;
                const float *weights = s->depthwise + (ky * s->kernel + kx) * s->inside, *from = given + x * s->inside;
                for (long column = 0; column < s->inside; column += LANES) {
                    vector sum = multiply_add(load(from + column), load(weights + column), load(place + column));
                    store(place + column, sum);
                }
            }
}

/* The gradient of one row of widened values before their activation, for one vector of channels, and the sum of it.
   `before`: these values, or, of swish, its slopes there.
   `spread`: where this gathers from `gathers` rows (a kernel of 3 or 5, stride 1), rows of the gradient of the depthwise convolution's result, with
   zeros around; else one row of the gradient that `scatter_row` made. */
INLINE void activate_row(const int gathers, const struct block *s, const float *const *spread, const float *before,
                         float *to, long column, double *sums) {
    vector total = splat(0), weights[25];
    for (int t = 0; t < gathers * gathers; t++)
        weights[t] = load(s->depthwise + (gathers * gathers - 1 - t) * s->inside + column);
    for (long x = 0; x < s->width; x++) {
        vector sum = splat(0);
        if (gathers)
            for (int ky = 0; ky < gathers; ky++)
                for (int kx = 0; kx < gathers; kx++)
                    sum = multiply_add(load(spread[ky] + (x + kx) * s->inside + column), weights[ky * gathers + kx], sum);
        else
            sum = load(spread[0] + (x + s->padding) * s->inside + column);
        vector value = load(before + x * s->inside + column);
        sum = s->activation == SWISH ? sum * value : activated_gradient(s, sum, value);
        store(to + x * s->inside + column, sum);
        total += sum;
    }
    add_to_doubles(sums + column, total);
}

/* The gradient for the depthwise convolution's row y, which is middle_gradient * factor + middle * by_value + constant. */
INLINE void middle_row(const struct block *s, long image, long y, float *to) {
    long row = (image * s->out_height + y) * s->out_width * s->inside;
    const float *middle = s->middle + row, *normal = s->middle_gradient + row;
    for (long x = 0; x < s->out_width; x++, middle += s->inside, normal += s->inside, to += s->inside)
        for (long column = 0; column < s->inside; column += LANES) {
            vector sum = multiply_add(load(middle + column), load(s->by_value + column), load(s->constant + column));
            store(to + column, multiply_add(load(normal + column), load(s->factor + column), sum));
        }
}

/* Back through the first norm and the widening, as far as that needs no sums over all images: of `count` rows y, y + 1, ...
   with their gradients `wide`; `x`: scratch for these rows. */
INLINE void narrow_rows(const struct block *s, long image, long y, long count, float *x, const float *wide, float *product) {
    long place = (image * s->height + y) * s->width * s->inputs, pixels = count * s->width;
    centre_rows(s, image, y, count, x);
    operand turned = {x, 0, 1, s->inputs_padded}, gradients = {wide, 0, s->inside, 1};
    target weights = {product, 0, s->inside, s->inside, NULL, 1};
    multiply(1, s->inputs, pixels, turned, wide, s->inside, weights);
    target back = {s->out + place, 0, s->inputs, s->inputs, NULL, 0};
    multiply(1, pixels, s->inside, gradients, s->widen_turned, s->inputs_padded, back);
}

/* Row by row, all that row y needs of the others at hand: its depthwise rows are done once row y * stride + kernel - 1 of the
   padded image is there, and its own gradient once all of these are.

   out = gradient of the normalized widened values @ widen_turned; products: [kernel * kernel, inside] for `depthwise`, then
   [inputs, inside] of (x - mean).T @ that gradient; sums: [inside] of it */
static void widen_backward(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    const int gathers = (s->kernel == 3 || s->kernel == 5) && s->stride == 1 && 2 * s->padding + 1 == s->kernel && !s->padding_more;
    const long row = s->width * s->inside, padded_row = padded_row_of(s);
    const long together = rows_together(s), kept = s->kernel;
    ring active = {scratch, padded_row, kept};
    ring spread = {active.from + kept * padded_row, padded_row, kept};
    ring before = {spread.from + kept * padded_row, row, kept};
    float *wide = before.from + kept * row, *given = wide + together * row;
    float *x = given + s->out_width * s->inside;
    float *product = products + s->kernel * s->kernel * s->inside;
    const float *seen[MOST_TAPS];
    float *spreads[MOST_TAPS];

    for (long image = first; image < last; image++) {
        memset(scratch, 0, 2 * kept * padded_row * sizeof(float));
        long widened = 0, out = 0; /* rows that are done */
        for (long y = 0; y < s->height; y++) {
            /* All results that row y had a part in: the last one begins at it. */
            long needed = gathers ? least(y + s->padding + 1, s->out_height) : least((y + s->padding) / s->stride + 1, s->out_height);
            for (; out < needed; out++) {
                for (; widened < rows_seen(s, out); widened++) {
                    long place = widened + s->padding;
                    widen_row(s, image, widened, 1, x, row_of(before, place), row_of(active, place));
                    if (!gathers) memset(row_of(spread, place), 0, padded_row * sizeof(float));
                }
                see_rows(s, active, out, seen);
                for (int ky = 0; ky < s->kernel; ky++) spreads[ky] = row_of(spread, out * s->stride + ky);
                float *gradient = gathers ? row_of(spread, out + s->padding) + s->padding * s->inside : given;
                middle_row(s, image, out, gradient);
                for (long column = 0; column < s->inside; column += LANES) {
                    if (s->kernel == 3)
                        learn_row(3, s, seen, gradient, column, products);
                    else if (s->kernel == 5)
                        learn_row(5, s, seen, gradient, column, products);
                    else
                        learn_row(s->kernel, s, seen, gradient, column, products);
                }
                if (!gathers) scatter_row(s, gradient, spreads);
            }
            for (; widened <= y; widened++) { /* a last row that no result saw */
                long place = widened + s->padding;
                widen_row(s, image, widened, 1, x, row_of(before, place), row_of(active, place));
                memset(row_of(spread, place), 0, padded_row * sizeof(float));
            }
            if (gathers && y + s->padding >= s->out_height)
                memset(row_of(spread, y + 2 * s->padding), 0, padded_row * sizeof(float));
            const float *rows[MOST_TAPS] = {row_of(spread, y + s->padding)};
            for (int ky = 0; gathers && ky < s->kernel; ky++) rows[ky] = row_of(spread, y + ky);
            const float *values = row_of(before, y + s->padding);
            float *to = wide + y % together * row;
            for (long column = 0; column < s->inside; column += LANES) {
                if (gathers && s->kernel == 3)
                    activate_row(3, s, rows, values, to, column, sums);
                else if (gathers)
                    activate_row(5, s, rows, values, to, column, sums);
                else
                    activate_row(0, s, rows, values, to, column, sums);
            }
            if (y % together == together - 1 || y == s->height - 1)
                narrow_rows(s, image, y - y % together, y % together + 1, x, wide, product);
        }
    }
}

/* out += x @ by_row + constant, and the shortcut's gradient */
static void input_backward(const struct block *s, long first, long last, float *scratch, float *products, double *sums) {
    (void)scratch, (void)products, (void)sums;
    long size = s->height * s->width;
    for (long pixel = first * size; pixel < last * size; pixel += CHUNK) {
        long count = least(CHUNK, last * size - pixel), start = pixel * s->inputs, stop = start + count * s->inputs;
        operand rows = {s->x + start, 0, s->inputs, 1};
        target out = {s->out + start, 0, s->inputs, s->inputs, s->constant, 1};
        multiply(1, count, s->inputs, rows, s->by_row, s->inputs_padded, out);
        if (!s->shortcut) continue;
        for (long i = start; i < stop; i += LANES)
            store_some(s->out + i, load_some(s->out + i, stop - i) + load_some(s->shortcut + i, stop - i), stop - i);
    }
}

#define ALL_PASSES \
    {moments,         widen,         squeeze,         narrow,         finish, \
     finish_backward, gate_backward, narrow_backward, widen_backward, input_backward}
