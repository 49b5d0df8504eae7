/* Kernels: docs/formats.md of netpress, "Integer arithmetic", defines each of them. */

static inline int32_t saturate(int32_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : x; }

/* R: both of 16 bits. */
static inline int32_t rescale(int32_t x, int32_t m) { return (x * m + 16384) >> 15; }

/* S: rounds to the right without leaving 32 bits, saturates to the left. */
static inline int32_t shift(int32_t x, int n) {
    if (n > 0) return saturate((x >> n) + ((x >> (n - 1)) & 1));
    return saturate(saturate(x) * (1 << -n));
}

/* S(R(x, m), n), or R(S(x, n), m) to the left. */
static inline int32_t scaled(int32_t x, int32_t m, int n) {
    return n < 0 ? rescale(shift(x, n), m) : shift(rescale(x, m), n);
}

/* Weights as they lie in flash: a bit says which exist, or which blocks of them do; each of these takes its bits. */
typedef struct {
    const uint8_t *values, *mask; /* mask 0: all exist */
    uint32_t value_at, mask_at;   /* bits */
    int bits, step, low;          /* a weight is its bits times step plus low */
    uint32_t row, places;         /* weights of an output, and of each of its inputs; row 0: a bit of the mask a weight */
    uint32_t down, across, marks; /* a block is down outputs x across inputs; bits of the mask that a row of blocks takes */
} stream;

/* The bit of the mask that says whether weight n exists. */
static inline uint32_t mark_of(const stream *s, uint32_t n) {
    if (!s->row) return n;
    return n / s->row / s->down * s->marks + n % s->row / s->places / s->across * s->places + n % s->places;
}

static inline int32_t next_weight(stream *s) {
    const uint8_t *at;
    uint32_t raw;
    if (s->mask) {
        const uint32_t place = mark_of(s, s->mask_at++);
        if (!(s->mask[place >> 3] >> (place & 7) & 1)) return 0;
    }
    at = s->values + (s->value_at >> 3);
    raw = ((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16) >> (s->value_at & 7);
    s->value_at += (uint32_t)s->bits;
    return (int32_t)(raw & ((1u << s->bits) - 1u)) * s->step + s->low;
}

typedef struct {
    int inputs, rows, columns;     /* of a kernel */
    int height, width;             /* of the input */
    int high, wide;                /* of the output */
    int down, across, below, beside; /* stride, dilation */
    int top, left;                 /* padding */
    int each;                      /* outputs a group */
    int32_t zero;                  /* what padding is */
    int flat;                      /* a kernel of one place that meets each place of the input once */
} window;

/* The sums of one output channel. */
#define SUMS(NAME, TYPE)                                                                                   \
    static inline void NAME(const window *k, stream *s, const TYPE *in, int channel, int32_t *sums) {      \
        const int plane = k->height * k->width, count = k->high * k->wide;                                 \
        int i, row, column, y, x, p;                                                                       \
        in += (size_t)(channel / k->each) * (size_t)k->inputs * (size_t)plane;                             \
        for (p = 0; p < count; p++) sums[p] = 0;                                                           \
        for (i = 0; i < k->inputs; i++, in += plane)                                                       \
            for (row = 0; row < k->rows; row++)                                                            \
                for (column = 0; column < k->columns; column++) {                                          \
                    const int32_t w = next_weight(s), border = w * k->zero;                                \
                    const int ahead = k->left - column * k->beside, last = k->width - 1 + ahead;           \
                    int from = ahead > 0 ? (ahead + k->across - 1) / k->across : 0;                        \
                    int to = last < 0 ? 0 : last / k->across + 1;                                          \
                    if (w == 0) continue;                                                                  \
                    if (k->flat) {                                                                         \
                        for (p = 0; p < count; p++) sums[p] += w * in[p];                                  \
                        continue;                                                                          \
                    }                                                                                      \
                    if (to > k->wide) to = k->wide;                                                        \
                    if (from > k->wide) from = k->wide;                                                    \
                    if (to < from) to = from;                                                              \
                    for (y = 0; y < k->high; y++) {                                                        \
                        const int line = y * k->down + row * k->below - k->top;                            \
                        int32_t *at = sums + y * k->wide;                                                  \
                        if (line < 0 || line >= k->height) {                                               \
                            for (x = 0; x < k->wide; x++) at[x] += border;                                 \
                        } else {                                                                           \
                            const TYPE *met = in + line * k->width;                                        \
                            const int first = -ahead;                                                      \
                            for (x = 0; x < from; x++) at[x] += border;                                    \
                            if (k->across == 1)                                                            \
                                for (; x < to; x++) at[x] += w * met[x + first];                           \
                            else                                                                           \
                                for (; x < to; x++) at[x] += w * met[x * k->across + first];               \
                            for (; x < k->wide; x++) at[x] += border;                                      \
                        }                                                                                  \
                    }                                                                                      \
                }                                                                                          \
    }
SUMS(sums_u8, uint8_t)
SUMS(sums_s8, int8_t)
SUMS(sums_s16, int16_t)

/* A channel's factor: 6 bits of shift + 15, 10 bits of multiplier below its leading one; 63 is zero. */
static inline void finish(const int32_t *sums, int16_t *v, int count, uint16_t factor, int16_t bias) {
    const int n = (factor >> 10) - 15;
    const int32_t m = factor >> 10 == 63 ? 0 : (1024 + (factor & 1023)) * 16;
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(shift(sums[p], n > 31 ? 31 : n), m) + bias);
}

/* --- value by value, one channel, in place */

static inline void shift_row(int16_t *v, int count, int n) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)shift(v[p], n);
}

static inline void scale_row(int16_t *v, int count, int32_t m, int32_t b) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(v[p], m) + b);
}

static inline void clamp_row(int16_t *v, int count, int low, int high) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)(v[p] < low ? low : v[p] > high ? high : v[p]);
}

static inline void leaky_row(int16_t *v, int count, int32_t m) {
    int p;
    for (p = 0; p < count; p++)
        if (v[p] < 0) v[p] = (int16_t)rescale(v[p], m);
}

static inline int32_t hard_gate(int32_t x, int32_t m, int n) {
    const int32_t gate = scaled(x, m, n) + 16384;
    return gate < 0 ? 0 : gate > 32767 ? 32767 : gate;
}

static inline void hard_gate_row(int16_t *v, int count, int32_t m, int n, int gated) {
    int p;
    for (p = 0; p < count; p++) {
        const int32_t gate = hard_gate(v[p], m, n);
        v[p] = (int16_t)(gated ? saturate(rescale(v[p], gate)) : gate);
    }
}

static inline void curve_row(int16_t *v, int count, const int16_t *table, int n, int gated) {
    int p;
    for (p = 0; p < count; p++) {
        const int32_t u = shift(v[p], n) + 32768, i = u >> 8;
        const int32_t y = table[i] + (((table[i + 1] - table[i]) * (u & 255) + 128) >> 8);
        v[p] = (int16_t)(gated ? saturate(rescale(v[p], y)) : y);
    }
}

static inline void add_row(int16_t *v, int count, const int16_t *other) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(v[p] + other[p]);
}

static inline void add_value(int16_t *v, int count, int32_t other) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(v[p] + other);
}

static inline void multiply_row(int16_t *v, int count, const int16_t *other) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(v[p], other[p]));
}

static inline void multiply_value(int16_t *v, int count, int32_t other) {
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(v[p], other));
}

#define REQUANTIZE(NAME, TYPE)                                                                             \
    static inline void NAME(const int16_t *v, TYPE *out, int count, int32_t m, int n, int32_t zero, int32_t low, \
                            int32_t high) {                                                                \
        int p;                                                                                             \
        for (p = 0; p < count; p++) {                                                                      \
            const int32_t q = scaled(v[p], m, n) + zero;                                                   \
            out[p] = (TYPE)(q < low ? low : q > high ? high : q);                                          \
        }                                                                                                  \
    }
REQUANTIZE(requantize_u8, uint8_t)
REQUANTIZE(requantize_s8, int8_t)
REQUANTIZE(requantize_s16, int16_t)

/* --- one channel of another: pixels, pools, padding */

static inline void pixels_row(const uint8_t *pixels, int16_t *v, int count, int channels, const int16_t *table) {
    int p;
    for (p = 0; p < count; p++) v[p] = table[pixels[(size_t)p * (size_t)channels]];
}

static inline int32_t mean(int32_t sum, int n, int32_t m) {
    const int32_t t = shift(sum, n);
    return saturate(t + rescale(t, m));
}

typedef struct {
    int height, width, high, wide, rows, columns, down, across, top, left, below, beside;
} pool;

static inline void average_row(const pool *k, const int16_t *in, int16_t *v, int n, int32_t m) {
    int y, x, row, column;
    for (y = 0; y < k->high; y++)
        for (x = 0; x < k->wide; x++) {
            int32_t sum = 0;
            for (row = 0; row < k->rows; row++)
                for (column = 0; column < k->columns; column++) {
                    const int line = y * k->down + row - k->top, place = x * k->across + column - k->left;
                    if (line >= 0 && line < k->height && place >= 0 && place < k->width)
                        sum += in[line * k->width + place];
                }
            v[y * k->wide + x] = (int16_t)mean(sum, n, m);
        }
}

static inline void maximum_row(const pool *k, const int16_t *in, int16_t *v) {
    int y, x, row, column;
    for (y = 0; y < k->high; y++)
        for (x = 0; x < k->wide; x++) {
            int16_t most = -32768;
            for (row = 0; row < k->rows; row++)
                for (column = 0; column < k->columns; column++) {
                    const int line = y * k->down + row * k->below - k->top;
                    const int place = x * k->across + column * k->beside - k->left;
                    if (line >= 0 && line < k->height && place >= 0 && place < k->width &&
                        in[line * k->width + place] > most)
                        most = in[line * k->width + place];
                }
            v[y * k->wide + x] = most;
        }
}

static inline void pad_row(const int16_t *in, int16_t *v, int height, int width, int high, int wide, int top, int left,
                           int value) {
    int y, x;
    for (y = 0; y < high; y++)
        for (x = 0; x < wide; x++) {
            const int line = y - top, place = x - left;
            const int inside = in && line >= 0 && line < height && place >= 0 && place < width;
            v[y * wide + x] = (int16_t)(inside ? in[line * width + place] : value);
        }
}

static inline void unit_length(const int16_t *in, int16_t *v, int count) {
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
