/* Functions of single values in vectors, and what is made number by number. */

V_KERNEL int32_t v_saturate(int32_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : x; }

V_KERNEL int32_t v_rounded(int32_t x, int n) {
    return n > 0 ? v_saturate((x >> n) + ((x >> (n - 1)) & 1)) : v_saturate(v_saturate(x) * (1 << -n));
}

/* S of 16 bits. */
V_KERNEL V v_shifted(V a, int n) {
    if (n > 0) return n > 15 ? v_set16(0) : v_rescale(a, v_set16(1 << (15 - n)));
    for (; n < 0; n++) a = v_add(a, a);
    return a;
}

V_KERNEL V v_scaled(V a, V m, int n) {
    return n < 0 ? v_rescale(v_shifted(a, n), m) : v_shifted(v_rescale(a, m), n);
}

V_KERNEL V v_hard_gate(V a, V m, int n) {
    return v_most(v_add(v_scaled(a, m, n), v_set16(16384)), v_set16(0));
}

/* The same for a factor of 1/6 and a shift of `n` bits to the left: what the shift would saturate is beyond 0 ... 1. */
V_KERNEL V v_hard_gate_left(V a, V m, int n, V low, V high) {
    return v_most(v_add(v_rescale(v_left16(v_least(v_most(a, low), high), n), m), v_set16(16384)), v_set16(0));
}

V_KERNEL V v_leaky(V a, V m) {
    const V zero = v_set16(0);
    return v_add(v_most(a, zero), v_rescale_any(v_least(a, zero), m));
}

V_KERNEL V v_curve(V a, const int16_t *table, int n) {
    int16_t v[V_WIDE];
    int p;
    v_store(v, a);
    for (p = 0; p < V_WIDE; p++) {
        const int32_t u = v_rounded(v[p], n) + 32768, i = u >> 8;
        v[p] = (int16_t)(table[i] + (((table[i + 1] - table[i]) * (u & 255) + 128) >> 8));
    }
    return v_load(v);
}

/* Where channels from o on, pixels from p on lie among places. */
V_KERNEL uint8_t *v_place(const v_tail *t, uint8_t *arena, int o, int p, int group) {
    const uint32_t many = t->pitch > V_TILE, tile = many ? V_TILE : (uint32_t)t->pitch, at = (uint32_t)p;
    const uint32_t before = many ? at / V_TILE * ((uint32_t)t->channels / (uint32_t)group) : 0;
    return arena + t->out + ((before + (uint32_t)(o / group)) * tile + (many ? at % V_TILE : at)) * 4;
}

V_KERNEL void v_store_pairs(const v_tail *t, uint8_t *arena, int o, int p, V a, V b, V c, V d) {
    const V a0 = v_spread(a), b0 = v_spread(b), c0 = v_spread(c), d0 = v_spread(d);
    uint8_t *out = v_place(t, arena, o, p, 2);
    v_store(out, v_low(a0, b0));
    v_store(out + 2 * V_WIDE, v_high(a0, b0));
    out += 4 * (t->pitch > V_TILE ? V_TILE : t->pitch);
    v_store(out, v_low(c0, d0));
    v_store(out + 2 * V_WIDE, v_high(c0, d0));
}

#if V_QUADS
V_KERNEL void v_store_bytes(const v_tail *t, uint8_t *arena, int o, int p, V a, V b, V c, V d) {
    const V first = v_spread(v_or(a, v_left16(b, 8))), second = v_spread(v_or(c, v_left16(d, 8)));
    uint8_t *out = v_place(t, arena, o, p, 4);
    v_store(out, v_low(first, second));
    v_store(out + 2 * V_WIDE, v_high(first, second));
}
#else
#define v_store_bytes v_store_pairs
#endif

/* --- what is done number by number */

V_KERNEL void v_pixels(const uint8_t *pixels, int16_t *v, int count, int channels, const int16_t *table) {
    int p;
    for (p = 0; p < count; p++) v[p] = table[pixels[(size_t)p * (size_t)channels]];
}

typedef struct {
    int height, width, high, wide, rows, columns, down, across, top, left, below, beside;
} v_window;

V_KERNEL void v_average(const v_window *k, const int16_t *in, int16_t *v, int n, int32_t m) {
    int y, x, row, column;
    for (y = 0; y < k->high; y++)
        for (x = 0; x < k->wide; x++) {
            const int first = y * k->down - k->top, start = x * k->across - k->left;
            int32_t sum = 0, t;
            for (row = first < 0 ? -first : 0; row < k->rows && first + row < k->height; row++)
                for (column = start < 0 ? -start : 0; column < k->columns && start + column < k->width; column++)
                    sum += in[(first + row) * k->width + start + column];
            t = v_rounded(sum, n);
            *v++ = (int16_t)v_saturate(t + ((t * m + 16384) >> 15));
        }
}

V_KERNEL void v_maximum(const v_window *k, const int16_t *in, int16_t *v) {
    int y, x, row, column;
    for (y = 0; y < k->high; y++)
        for (x = 0; x < k->wide; x++) {
            int16_t found = -32768;
            for (row = 0; row < k->rows; row++) {
                const int at = y * k->down + row * k->below - k->top;
                if (at < 0 || at >= k->height) continue;
                for (column = 0; column < k->columns; column++) {
                    const int place = x * k->across + column * k->beside - k->left;
                    if (place < 0 || place >= k->width) continue;
                    if (in[at * k->width + place] > found) found = in[at * k->width + place];
                }
            }
            *v++ = found;
        }
}

/* in: 0 where the whole channel is padding. */
V_KERNEL void v_pad(const v_window *k, const int16_t *in, int16_t *v, int value) {
    int y, x;
    for (y = -k->top; y < k->high - k->top; y++)
        for (x = -k->left; x < k->wide - k->left; x++)
            *v++ = (int16_t)(in && y >= 0 && y < k->height && x >= 0 && x < k->width ? in[y * k->width + x] : value);
}

V_KERNEL void v_unit_length(const int16_t *in, int16_t *v, int channels, int plane, int pitch) {
    uint64_t squares = 0, root = 0, bit;
    int e = 0, o, p;
    for (o = 0; o < channels; o++)
        for (p = o * pitch; p < o * pitch + plane; p++) squares += (uint64_t)((int64_t)in[p] * in[p]);
    for (; squares && squares < (uint64_t)1 << 60; squares <<= 2) e++;
    for (bit = (uint64_t)1 << 60; bit; bit >>= 2) {
        const int fits = squares >= root + bit;
        if (fits) squares -= root + bit;
        root = (root >> 1) + (fits ? bit : 0);
    }
    for (o = 0; o < channels; o++)
        for (p = o * pitch; p < o * pitch + plane; p++) {
            const int64_t wide = (int64_t)in[p] * ((int64_t)1 << (15 + e)) + (int64_t)(root >> 1);
            const int64_t whole = root ? (int64_t)root : 1, y = wide / whole - (wide % whole < 0);
            v[p] = (int16_t)(y < -32768 ? -32768 : y > 32767 ? 32767 : y);
        }
}

/* Values from `first` on, in channels of `wide` pixels. */
V_KERNEL void v_copy(const int16_t *in, int16_t *v, int first, int channels, int plane, int pitch, int wide,
                          int apart) {
    int o, p;
    for (o = 0; o < channels; o++)
        for (p = 0; p < plane; p++, first++) v[first / wide * apart + first % wide] = in[o * pitch + p];
}
