/* Kernels: docs/formats.md of netpress, "Integer arithmetic", defines each of them. */

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && !defined(__ARM_BIG_ENDIAN)
#define PAIRS 1 /* two products in one instruction: umlal */
#define BLOCK 4
#elif defined(__arm__)
#define BLOCK 4
#else
#define BLOCK 16
#endif

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

/* --- weights */

/* A layer's weights as they lie in flash: a bit says which exist, each of these takes its bits. */
typedef struct {
    const uint8_t *values, *mask; /* mask 0: all exist */
    uint32_t value_at, mask_at;   /* bits */
    int bits, step, low;          /* a weight is its bits times step plus low */
} stream;

/* A layer's kernel, and where its input lies: distances are in values. */
typedef struct {
    uint16_t inputs, rows, columns; /* of the kernel */
    uint16_t wide, each;            /* columns of the output; outputs of a group */
    uint16_t across, narrow;        /* stride in a row; whether all sums keep within 24 bits */
    int32_t down, plane;            /* from an output row's input to the next one's; from channel to channel */
    int32_t below, beside;          /* from place to place of the kernel */
} window;

/* A weight without its sign, and where its input lies, from that of the kernel's first place. */
typedef struct {
    uint32_t size;
    int32_t at;
} product;

/* The weights of one output channel that are not zero: list ... plus are positive, minus ... end negative. */
typedef struct {
    product *list, *plus, *minus, *end;
} products;

/* The next weights of a row of the kernel, or of all its inputs where it has one place. */
static inline void unpack_row(stream *s, int count, int32_t at, int32_t apart, products *p) {
    const uint8_t *values = s->values, *mask = s->mask;
    const uint32_t bits = (uint32_t)s->bits, ones = (1u << bits) - 1u;
    const int32_t step = s->step, low = s->low;
    uint32_t place = s->mask_at, value_at = s->value_at;
    product *plus = p->plus, *minus = p->minus;
    while (count > 0) {
        const uint32_t ahead = place & 7;
        uint32_t exist = mask ? (uint32_t)mask[place >> 3] >> ahead : 255u;
        int run = 8 - (int)ahead;
        if (run > count) run = count;
        count -= run;
        place += (uint32_t)run;
        for (; run > 0; run--, exist >>= 1, at += apart) {
            const uint8_t *from = values + (value_at >> 3);
            int32_t weight;
            if (!(exist & 1)) continue;
            if (bits == 8)
                weight = from[0];
            else
                weight = (int32_t)(((uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16) >>
                                   (value_at & 7) & ones);
            value_at += bits;
            weight = weight * step + low;
            if (weight > 0) {
                plus->size = (uint32_t)weight;
                plus++->at = at;
            } else if (weight < 0) {
                minus--;
                minus->size = (uint32_t)-weight;
                minus->at = at;
            }
        }
    }
    s->mask_at = place;
    s->value_at = value_at;
    p->plus = plus;
    p->minus = minus;
}

static inline void unpack(const window *k, stream *s, products *p) {
    int32_t at = 0;
    int i, row;
    p->plus = p->list;
    p->minus = p->end;
    if (k->rows == 1 && k->columns == 1) {
        unpack_row(s, k->inputs, 0, k->plane, p);
        return;
    }
    for (i = 0; i < k->inputs; i++, at += k->plane)
        for (row = 0; row < k->rows; row++) unpack_row(s, k->columns, at + row * k->below, k->beside, p);
}

/* --- sums of products */

#define SUMS(TYPE)                                                                                    \
    static inline int32_t one_##TYPE(const products *p, const TYPE *in) {                             \
        const product *q;                                                                             \
        int32_t sum = 0;                                                                              \
        for (q = p->list; q < p->plus; q++) sum += (int32_t)q->size * in[q->at];                      \
        for (q = p->minus; q < p->end; q++) sum -= (int32_t)q->size * in[q->at];                      \
        return sum;                                                                                   \
    }                                                                                                 \
    static inline void block_##TYPE(const products *p, const TYPE *in, int32_t *sums) {               \
        int32_t sum[BLOCK] = {0};                                                                     \
        const product *q;                                                                             \
        int i;                                                                                        \
        for (q = p->list; q < p->plus; q++)                                                           \
            for (i = 0; i < BLOCK; i++) sum[i] += (int32_t)q->size * in[q->at + i];                   \
        for (q = p->minus; q < p->end; q++)                                                           \
            for (i = 0; i < BLOCK; i++) sum[i] -= (int32_t)q->size * in[q->at + i];                   \
        for (i = 0; i < BLOCK; i++) sums[i] = sum[i];                                                 \
    }                                                                                                 \
    static inline void run_##TYPE(const window *k, const products *p, const TYPE *in, int count, int32_t *sums) { \
        int x = 0;                                                                                    \
        if (k->across == 1) {                                                                         \
            for (; x + BLOCK <= count; x += BLOCK) block_##TYPE(p, in + x, sums + x);                 \
            if (x < count && count >= BLOCK) {                                                        \
                block_##TYPE(p, in + count - BLOCK, sums + count - BLOCK);                            \
                return;                                                                               \
            }                                                                                         \
        }                                                                                             \
        for (; x < count; x++) sums[x] = one_##TYPE(p, in + x * k->across);                           \
    }

SUMS(uint8_t)
SUMS(int8_t)
SUMS(int16_t)

#ifdef PAIRS
/* Four sums in two registers of 64 bits: the lower 24 bits are one, what is above them another. */
static inline void pairs_add(uint64_t *outer, uint64_t *inner, const product *q, const uint8_t *in) {
    uint32_t x;
    memcpy(&x, in + q->at, 4);
    *outer += (uint64_t)q->size * (x & 0xFF0000FFu);
    *inner += (uint64_t)q->size * ((x >> 16 | x << 16) & 0xFF0000FFu);
}

static inline void pairs_part(uint64_t sum, int32_t *low, int32_t *high) {
    *low = (int32_t)((uint32_t)sum << 8) >> 8;
    *high = (int32_t)(uint32_t)((sum - (uint64_t)(int64_t)*low) >> 24);
}

static inline void pairs_list(uint64_t *outer, uint64_t *inner, const product *q, const product *end, const uint8_t *in) {
    for (; end - q >= 4; q += 4) {
        pairs_add(outer, inner, q, in);
        pairs_add(outer, inner, q + 1, in);
        pairs_add(outer, inner, q + 2, in);
        pairs_add(outer, inner, q + 3, in);
    }
    for (; q < end; q++) pairs_add(outer, inner, q, in);
}

static inline void pairs_block(const products *p, const uint8_t *in, int32_t *sums) {
    uint64_t outer = 0, inner = 0;
    pairs_list(&outer, &inner, p->minus, p->end, in);
    outer = 0 - outer;
    inner = 0 - inner;
    pairs_list(&outer, &inner, p->list, p->plus, in);
    pairs_part(outer, sums, sums + 3);
    pairs_part(inner, sums + 2, sums + 1);
}

static inline void pairs_run(const products *p, const uint8_t *in, int count, int32_t *sums) {
    int x;
    for (x = 0; x + 4 <= count; x += 4) pairs_block(p, in + x, sums + x);
    if (x < count) pairs_block(p, in + count - 4, sums + count - 4);
}
#endif

/* One output channel's sums in some rows; `in` is where the first row's first product lies, in channel 0. */
#define ROWS(NAME, TYPE)                                                                              \
    static inline void NAME(const window *k, stream *s, products *p, const TYPE *in, int o, int rows, int32_t *sums) { \
        int count = k->wide;                                                                          \
        unpack(k, s, p);                                                                              \
        in += o / k->each * k->inputs * k->plane;                                                     \
        if (k->down == count && k->across == 1) count *= rows, rows = 1;                              \
        for (; rows > 0; rows--, in += k->down, sums += count) RUN(TYPE)                              \
    }
#define RUN(TYPE) run_##TYPE(k, p, in, count, sums);
ROWS(sums_s8, int8_t)
ROWS(sums_s16, int16_t)
#ifdef PAIRS
#undef RUN
#define RUN(TYPE)                                 \
    if (k->narrow && k->across == 1 && count >= 4) \
        pairs_run(p, in, count, sums);            \
    else                                          \
        run_##TYPE(k, p, in, count, sums);
#endif
ROWS(sums_u8, uint8_t)

/* A channel's factor: 6 bits of shift + 15, 10 bits of multiplier below its leading one; 63 is zero. */
static inline int factor_shift(uint16_t factor) { return factor >> 10 == 63 ? 31 : (factor >> 10) - 15; }

static inline int32_t factor_multiplier(uint16_t factor) {
    return factor >> 10 == 63 ? 0 : (1024 + (factor & 1023)) * 16;
}

static inline void finish(const int32_t *sums, int16_t *v, int count, uint16_t factor, int16_t bias) {
    const int n = factor_shift(factor);
    const int32_t m = factor_multiplier(factor);
    int p;
    for (p = 0; p < count; p++) v[p] = (int16_t)saturate(rescale(shift(sums[p], n), m) + bias);
}

/* --- value by value, some rows of one channel, in place */

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

/* What a layer's stored input is made by, and the distance of its rows in memory. */
typedef struct {
    int16_t m;
    int8_t n;
    int16_t zero, low, high;
    uint16_t wide, pitch;
} grid;

#define REQUANTIZE(NAME, TYPE)                                                                        \
    static inline void NAME(const int16_t *v, TYPE *out, int rows, const grid *g) {                          \
        const int32_t m = g->m, n = g->n, zero = g->zero, low = g->low, high = g->high;               \
        int p;                                                                                        \
        for (; rows > 0; rows--, out += g->pitch, v += g->wide)                                       \
            for (p = 0; p < g->wide; p++) {                                                           \
                const int32_t q = scaled(v[p], m, n) + zero;                                          \
                out[p] = (TYPE)(q < low ? low : q > high ? high : q);                                 \
            }                                                                                         \
    }
REQUANTIZE(requantize_u8, uint8_t)
REQUANTIZE(requantize_s8, int8_t)
REQUANTIZE(requantize_s16, int16_t)

/* --- some rows of one channel of another buffer: pixels, pools, padding */

static inline void pixels_row(const uint8_t *pixels, int16_t *v, int count, int channels, const int16_t *table) {
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
static inline void average_rows(const pool *k, const int16_t *in, int first, int from, int to, int16_t *v, int n, int32_t m) {
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

static inline void maximum_rows(const pool *k, const int16_t *in, int first, int from, int to, int16_t *v) {
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

static inline void pad_rows(const border *k, const int16_t *in, int first, int from, int to, int16_t *v) {
    int y, x;
    for (y = from; y < to; y++)
        for (x = 0; x < k->wide; x++) {
            const int line = y - k->top, place = x - k->left;
            const int inside = in && line >= 0 && line < k->height && place >= 0 && place < k->width;
            *v++ = (int16_t)(inside ? in[(line - first) * k->width + place] : k->value);
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

/* --- windows of rows */

/* Move the rows that are still read to the beginning of each channel: `kept` bytes from behind `dropped` bytes. */
static inline void slide(uint8_t *at, int channels, size_t plane, size_t dropped, size_t kept) {
    int o;
    if (dropped && kept)
        for (o = 0; o < channels; o++, at += plane) memmove(at, at + dropped, kept);
}

/* Fill `count` values of each channel with padding; `plane` is in bytes. */
static inline void fill(uint8_t *at, int channels, size_t plane, size_t count, int each, int value) {
    size_t i;
    for (; channels > 0; channels--, at += plane)
        for (i = 0; i < count; i++)
            if (each == 1)
                at[i] = (uint8_t)value;
            else
                ((int16_t *)(void *)at)[i] = (int16_t)value;
}

/* Fill the rows below an image that a strip is the first to read: rows `was` ... `is` - 1, where beyond `height`. */
static inline void pad_below(uint8_t *at, int channels, size_t plane, int height, int dropped, int was, int is, int pitch,
                             int each, int value) {
    const int from = was > height ? was : height;
    if (is > from)
        fill(at + (size_t)((from - dropped) * pitch * each), channels, plane, (size_t)((is - from) * pitch), each, value);
}
