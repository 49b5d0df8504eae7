/* --- what follows the sums */

/* A channel's factor: 6 bits of shift + 15, 10 bits of multiplier below its leading one; 63 is zero. */
static inline int factor_shift(uint16_t factor) { return factor >> 10 == 63 ? 31 : (factor >> 10) - 15; }

static inline int32_t factor_multiplier(uint16_t factor) {
    return factor >> 10 == 63 ? 0 : (1024 + (factor & 1023)) * 16;
}

static SHARED HOT void finish(const int32_t *sums, int16_t *v, int count, uint16_t factor, int16_t bias, int narrow) {
    const int n = factor_shift(factor);
    const int32_t m = factor_multiplier(factor), half = n > 0 ? 1 << (n - 1) : 0, more = 16384 + bias * 32768;
    int p;
    if (narrow && n > 0) /* nothing can leave 32 bits, and saturate(R(x, m) + bias) is one shift */
        for (p = 0; p < count; p++) v[p] = (int16_t)saturate((saturate((sums[p] + half) >> n) * m + more) >> 15);
    else
        for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(shift(sums[p], n), m) + bias);
}

/* --- value by value, some rows of one channel, in place */

static SHARED void shift_row(int16_t *v, int count, int n) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)shift(v[p], n);
}

static SHARED void scale_row(int16_t *v, int count, int32_t m, int32_t b) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(v[p], m) + b);
}

static SHARED void clamp_row(int16_t *v, int count, int low, int high) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)(v[p] < low ? low : v[p] > high ? high : v[p]);
}

static SHARED void leaky_row(int16_t *v, int count, int32_t m) {
    int p;
    for (p = 0; p < count; p++)
        if (v[p] < 0) v[p] = (int16_t)rescale(v[p], m);
}

static inline int32_t hard_gate(int32_t x, int32_t m, int n) {
    return saturate_u15(scaled(x, m, n) + 16384);
}

static SHARED HOT void hard_gate_row(int16_t *v, int count, int32_t m, int n, int gated) {
    int p;
    for (p = 0; p < count; p++) {
        const int32_t gate = hard_gate(v[p], m, n);
        v[p] = (int16_t)(gated ? saturate(rescale(v[p], gate)) : gate);
    }
}

static SHARED void curve_row(int16_t *v, int count, const int16_t *table, int n, int gated) {
    int p;
    for (p = 0; p < count; p++) {
        const int32_t u = shift(v[p], n) + 32768, i = u >> 8;
        const int32_t y = table[i] + (((table[i + 1] - table[i]) * (u & 255) + 128) >> 8);
        v[p] = (int16_t)(gated ? saturate(rescale(v[p], y)) : y);
    }
}

static SHARED HOT void add_row(int16_t *v, int count, const int16_t *other) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(v[p] + other[p]);
}

static SHARED void add_value(int16_t *v, int count, int32_t other) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(v[p] + other);
}

static SHARED void multiply_row(int16_t *v, int count, const int16_t *other) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(v[p], other[p]));
}

static SHARED HOT void multiply_value(int16_t *v, int count, int32_t other) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(v[p], other));
}

/* What a layer's stored input is made by, and the distance of its rows in memory. */
typedef struct {
    int16_t m;
    int8_t n;
    int16_t zero, low, high;
    uint16_t wide, pitch;
} grid;

#define REQUANTIZE(NAME, TYPE)                                                                        \
    static SHARED void NAME(const int16_t *v, TYPE *out, int rows, const grid *g) {                          \
        const int32_t m = g->m, n = g->n, zero = g->zero, low = g->low, high = g->high;               \
        int p;                                                                                        \
        for (; rows > 0; rows--, out += g->pitch, v += g->wide)                                       \
            for (p = 0; p < g->wide; p++) {                                                           \
                const int32_t q = scaled(v[p], m, n) + zero;                                          \
                out[p] = (TYPE)(q < low ? low : q > high ? high : q);                                 \
            }                                                                                         \
    }
REQUANTIZE(any_u8, uint8_t)
REQUANTIZE(requantize_s8, int8_t)
REQUANTIZE(requantize_s16, int16_t)

/* A hard-swish whose gate shifts to the left (or not at all). */
typedef struct {
    int16_t m;
    int8_t left;
} swish;

/* S(R(y, m), n) + zero to the right is (y * m + this) >> n + 15, where that keeps within 32 bits. */
static inline int32_t last_rounding(const grid *g) {
    return 16384 + ((1 << (g->n - 1)) + g->zero * (1 << g->n)) * 32768;
}

static SHARED HOT void requantize_u8(const int16_t *v, uint8_t *out, int rows, const grid *g) {
    const int32_t m = g->m;
    const int right = g->n + 15, wide = g->wide;
    int p;
    if (g->n > 0 && g->n < 15 && g->low == 0 && g->high == 255 && (g->zero + 1) << g->n < 32768 && g->zero >= 0) {
        const int32_t last = last_rounding(g);
        for (; rows > 0; rows--, out += g->pitch, v += wide)
            for (p = 0; p < wide; p++) out[p] = (uint8_t)saturate_u8((v[p] * m + last) >> right);
    } else
        any_u8(v, out, rows, g);
}

/* finish, hard_gate_row and requantize_u8 to 0 ... 255 in one, for sums within 24 bits. */
static APART void finish_swish_u8(int32_t *sums, uint8_t *out, int rows, uint16_t factor, int16_t bias, const swish *a,
                                  const grid *g) {
    const int n = factor_shift(factor), right = g->n + 15, down = n > 0 ? n : 0, wide = g->wide, pitch = g->pitch;
    const int32_t m = factor_multiplier(factor), half = n > 0 ? 1 << (n - 1) : 0, more = 16384 + bias * 32768;
    const int32_t am = a->m, gm = g->m, last = last_rounding(g), step = 16384, middle = 16384 + (1 << 29);
    const int left = a->left;
    const int32_t *end;
    int i;
    if (n < 0)
        for (i = 0; i < rows * wide; i++) sums[i] = shift(sums[i], n);
    for (; rows > 0; rows--, out += pitch - wide)
        for (end = sums + wide; sums != end;) {
            const int32_t x = saturate((saturate((*sums++ + half) >> down) * m + more) >> 15);
            const int32_t gate = saturate_u15((saturate(x * (1 << left)) * am + middle) >> 15);
            const int32_t y = (x * gate + step) >> 15;
            *out++ = (uint8_t)saturate_u8((y * gm + last) >> right);
        }
}

/* --- some rows of one channel of another buffer: pixels, pools, padding */

static SHARED void pixels_row(const uint8_t *pixels, int16_t *v, int count, int channels, const int16_t *table) {
    int p;
    for (p = 0; p < count; p++) v[p] = table[pixels[(size_t)p * (size_t)channels]];
}

static inline int32_t mean(int32_t sum, int n, int32_t m) {
    const int32_t t = shift(sum, n);
    return saturate(t + rescale(t, m));
}

typedef struct {
    uint16_t height, width, wide, rows, columns, down, across, top, left, below, beside;
} pool;

/* Rows from ... to - 1 of a pool. `in` is a channel's row `first`, the first one that memory holds. */
static SHARED HOT void average_rows(const pool *k, const int16_t *in, int first, int from, int to, int16_t *v, int n, int32_t m) {
    int y, x, row, column;
    for (y = from; y < to; y++)
        for (x = 0; x < k->wide; x++) {
            int32_t sum = 0;
            for (row = 0; row < k->rows; row++) {
                const int line = y * k->down + row - k->top;
                if (line < 0 || line >= k->height) continue;
                for (column = 0; column < k->columns; column++) {
                    const int place = x * k->across + column - k->left;
                    if (place >= 0 && place < k->width) sum += in[(line - first) * k->width + place];
                }
            }
            *v++ = (int16_t)mean(sum, n, m);
        }
}

static SHARED void maximum_rows(const pool *k, const int16_t *in, int first, int from, int to, int16_t *v) {
    int y, x, row, column;
    for (y = from; y < to; y++)
        for (x = 0; x < k->wide; x++) {
            int16_t most = -32768;
            for (row = 0; row < k->rows; row++) {
                const int line = y * k->down + row * k->below - k->top;
                if (line < 0 || line >= k->height) continue;
                for (column = 0; column < k->columns; column++) {
                    const int place = x * k->across + column * k->beside - k->left;
                    if (place >= 0 && place < k->width && in[(line - first) * k->width + place] > most)
                        most = in[(line - first) * k->width + place];
                }
            }
            *v++ = most;
        }
}

typedef struct {
    int16_t height, width, wide, top, left, value;
} border;

static SHARED void pad_rows(const border *k, const int16_t *in, int first, int from, int to, int16_t *v) {
    int y, x;
    for (y = from; y < to; y++)
        for (x = 0; x < k->wide; x++) {
            const int line = y - k->top, place = x - k->left;
            const int inside = in && line >= 0 && line < k->height && place >= 0 && place < k->width;
            *v++ = (int16_t)(inside ? in[(line - first) * k->width + place] : k->value);
        }
}

static SHARED void unit_length(const int16_t *in, int16_t *v, int count) {
    uint64_t squares = 0, root = 0, bit;
    int e = 0, p;
    for (p = 0; p < count; p++) squares += (uint64_t)((int64_t)in[p] * in[p]);
    if (squares)
        for (; squares < (uint64_t)1 << 60; squares <<= 2) e++;
    for (bit = (uint64_t)1 << 60; bit; bit >>= 2) {
        if (squares >= root + bit) {
            squares -= root + bit;
            root = (root >> 1) + bit;
        } else
            root >>= 1;
    }
    for (p = 0; p < count; p++) {
        const int64_t wide = (int64_t)in[p] * ((int64_t)1 << (15 + e)) + (int64_t)(root >> 1);
        const int64_t whole = root ? (int64_t)root : 1;
        const int64_t y = wide / whole - (wide % whole < 0);
        v[p] = (int16_t)(y < -32768 ? -32768 : y > 32767 ? 32767 : y);
    }
}

/* --- windows of rows */

/* Move the rows that are still read to the beginning of each channel: `kept` bytes from behind `dropped` bytes. */
static SHARED void slide(uint8_t *at, int channels, size_t plane, size_t dropped, size_t kept) {
    int o;
    if (dropped && kept)
        for (o = 0; o < channels; o++, at += plane) {
#if defined(__arm__) /* small C libraries move byte by byte */
            size_t i;
            int32_t four;
            for (i = 0; i + 4 <= kept; i += 4) memcpy(&four, at + dropped + i, 4), memcpy(at + i, &four, 4);
            for (; i < kept; i++) at[i] = at[dropped + i];
#else
            memmove(at, at + dropped, kept);
#endif
        }
}

/* Fill `count` values of each channel with padding; `plane` is in bytes. */
static SHARED void fill(uint8_t *at, int channels, size_t plane, size_t count, int each, int value) {
    const int32_t four = (int32_t)((uint8_t)value * 0x1010101u);
    size_t i;
    for (; channels > 0; channels--, at += plane) {
        if (each == 1) {
            for (i = 0; i + 4 <= count; i += 4) memcpy(at + i, &four, 4);
            for (; i < count; i++) at[i] = (uint8_t)value;
        } else
            for (i = 0; i < count; i++) ((int16_t *)(void *)at)[i] = (int16_t)value;
    }
}

/* Fill the rows below an image that a strip is the first to read: rows `was` ... `is` - 1, where beyond `height`. */
static SHARED void pad_below(uint8_t *at, int channels, size_t plane, int height, int dropped, int was, int is, int pitch,
                             int each, int value) {
    const int from = was > height ? was : height;
    if (is > from)
        fill(at + (size_t)((from - dropped) * pitch * each), channels, plane, (size_t)((is - from) * pitch), each, value);
}
