/* Kernels: docs/formats.md of netpress, "Integer arithmetic", defines each of them. */

#if defined(__GNUC__) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && !defined(__ARM_BIG_ENDIAN) && \
    !defined(__aarch64__)
#define PAIRS 1 /* two products in one instruction: umlal */
#define BLOCK 4
#elif defined(__arm__)
#define BLOCK 4
#else
#define BLOCK 16
#endif

#ifdef __GNUC__
#define APART __attribute__((noinline, unused)) /* a loop that needs all registers */
#else
#define APART
#endif

#if defined(__GNUC__) && defined(__ARM_FEATURE_SAT)
static inline int32_t saturate(int32_t x) { return __builtin_arm_ssat(x, 16); }
static inline int32_t saturate_u15(int32_t x) { return (int32_t)__builtin_arm_usat(x, 15); }
static inline int32_t saturate_u8(int32_t x) { return (int32_t)__builtin_arm_usat(x, 8); }
#else
static inline int32_t saturate(int32_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : x; }
static inline int32_t saturate_u15(int32_t x) { return x < 0 ? 0 : x > 32767 ? 32767 : x; }
static inline int32_t saturate_u8(int32_t x) { return x < 0 ? 0 : x > 255 ? 255 : x; }
#endif

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
    const uint32_t *blocks;       /* of the mask; 0: a bit a weight */
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

/* Add a weight to the list, unless it is zero. */
#define KEEP(WEIGHT)                                              \
    {                                                             \
        const int32_t w = WEIGHT;                                 \
        if (w > 0)                                                \
            plus->size = (uint32_t)w, plus++->at = here;          \
        else if (w < 0)                                           \
            minus--, minus->size = (uint32_t)-w, minus->at = here; \
    }

/* The next weights of a row of the kernel, or of all its inputs where it has one place. */
static APART void unpack_row(stream *s, int count, int32_t at, int32_t apart, products *p) {
    const uint8_t *values = s->values, *mask = s->mask;
    const uint32_t *blocks = s->blocks;
    const uint32_t bits = (uint32_t)s->bits, ones = (1u << bits) - 1u;
    const int32_t step = s->step, low = s->low;
    const uint8_t *from = values + (s->value_at >> 3);
    uint32_t place = s->mask_at, value_at = s->value_at;
    product *plus = p->plus, *minus = p->minus;
    while (count > 0) {
        const uint32_t mark = blocks ? mark_of(blocks, place) : place;
        uint32_t exist = mask ? (uint32_t)mask[mark >> 3] >> (mark & 7) : 255u;
        int run = blocks ? 1 : 8 - (int)(place & 7);
        int32_t here = at;
        if (run > count) run = count;
        exist &= (1u << run) - 1u;
        count -= run;
        place += (uint32_t)run;
        at += apart * run;
        if (bits == 8) {
            for (; exist; exist >>= 1, here += apart)
                if (exist & 1) KEEP(*from++ * step + low)
        } else {
            for (; exist; exist >>= 1, here += apart)
                if (exist & 1) {
                    const uint8_t *three = values + (value_at >> 3);
                    const uint32_t raw = (uint32_t)three[0] | (uint32_t)three[1] << 8 | (uint32_t)three[2] << 16;
                    KEEP((int32_t)(raw >> (value_at & 7) & ones) * step + low)
                    value_at += bits;
                }
        }
    }
    if (bits == 8) value_at = (uint32_t)(from - values) * 8;
    s->mask_at = place;
    s->value_at = value_at;
    p->plus = plus;
    p->minus = minus;
}

static inline void unpack(const window *k, stream *s, products *p) {
    static const product nothing = {0, 0};
    int32_t at = 0;
    int i, row;
    p->plus = p->list;
    p->minus = p->end;
    if (k->rows == 1 && k->columns == 1)
        unpack_row(s, k->inputs, 0, k->plane, p);
    else
        for (i = 0; i < k->inputs; i++, at += k->plane)
            for (row = 0; row < k->rows; row++) unpack_row(s, k->columns, at + row * k->below, k->beside, p);
    /* Loops take two at a time. */
    if ((p->plus - p->list) & 1) *p->plus++ = nothing;
    if ((p->end - p->minus) & 1) *--p->minus = nothing;
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
/* high:low += a * b. Left to itself, the compiler takes such sums apart and runs out of registers. */
#define UMLAL(low, high, a, b) __asm__("umlal %0, %1, %2, %3" : "+r"(low), "+r"(high) : "r"(a), "r"(b))

/* Two weights times four pixels: bytes 0 and 3 in one pair of registers, 2 and 1 in the other. */
#define PAIRS_LIST(FROM, TO)                                                 \
    for (q = FROM, end = TO; q != end; q += 2) {                             \
        uint32_t x, y;                                                       \
        memcpy(&x, in + q[0].at, 4);                                         \
        memcpy(&y, in + q[1].at, 4);                                         \
        UMLAL(low, high, q[0].size, x & 0xFF0000FFu);                        \
        UMLAL(low2, high2, q[0].size, (x >> 16 | x << 16) & 0xFF0000FFu);    \
        UMLAL(low, high, q[1].size, y & 0xFF0000FFu);                        \
        UMLAL(low2, high2, q[1].size, (y >> 16 | y << 16) & 0xFF0000FFu);    \
    }

/* Two sums in a pair of registers: the lower 24 bits are one, what is above them the other. */
static inline int32_t lower_sum(uint32_t low) { return (int32_t)(low << 8) >> 8; }

static inline int32_t upper_sum(uint32_t low, uint32_t high) {
    return (int32_t)((high << 8 | low >> 24) + (low >> 23 & 1));
}

static APART void pairs_run(const products *p, const uint8_t *in, int count, int32_t *sums) {
    const uint8_t *const last = in + count;
    for (; in != last; in += 4, sums += 4) {
        uint32_t low = 0, high = 0, low2 = 0, high2 = 0;
        const product *q, *end;
        PAIRS_LIST(p->minus, p->end)
        high = ~high + !low, low = 0 - low;
        high2 = ~high2 + !low2, low2 = 0 - low2;
        PAIRS_LIST(p->list, p->plus)
        sums[0] = lower_sum(low);
        sums[1] = upper_sum(low2, high2);
        sums[2] = lower_sum(low2);
        sums[3] = upper_sum(low, high);
    }
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
    if (k->narrow && k->across == 1 && count >= 4) {                                  \
        pairs_run(p, in, count & ~3, sums);                                           \
        if (count & 3) pairs_run(p, in + count - 4, 4, sums + count - 4);             \
    } else                                                                            \
        run_##TYPE(k, p, in, count, sums);
#endif
ROWS(sums_u8, uint8_t)

/* A channel's factor: 6 bits of shift + 15, 10 bits of multiplier below its leading one; 63 is zero. */
static inline int factor_shift(uint16_t factor) { return factor >> 10 == 63 ? 31 : (factor >> 10) - 15; }

static inline int32_t factor_multiplier(uint16_t factor) {
    return factor >> 10 == 63 ? 0 : (1024 + (factor & 1023)) * 16;
}

static inline void finish(const int32_t *sums, int16_t *v, int count, uint16_t factor, int16_t bias, int narrow) {
    const int n = factor_shift(factor);
    const int32_t m = factor_multiplier(factor), half = n > 0 ? 1 << (n - 1) : 0, more = 16384 + bias * 32768;
    int p;
    if (narrow && n > 0) /* nothing can leave 32 bits, and saturate(R(x, m) + bias) is one shift */
        for (p = 0; p < count; p++) v[p] = (int16_t)saturate((saturate((sums[p] + half) >> n) * m + more) >> 15);
    else
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
    return saturate_u15(scaled(x, m, n) + 16384);
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

/* A hard-swish whose gate shifts to the left (or not at all). What is one number for all stands here, too, so that
   compilers keep it in a register. */
typedef struct {
    int16_t m;
    int8_t left;
    int32_t half, middle; /* 2**14; 2**14 + 2**29: half a step of R, and with 1/2 of a gate */
} swish;

/* finish, hard_gate_row and requantize_u8 to 0 ... 255 in one, for sums within 24 bits. */
static APART void finish_swish_u8(int32_t *sums, uint8_t *out, int rows, uint16_t factor, int16_t bias, const swish *a,
                                  const grid *g) {
    const int n = factor_shift(factor), right = g->n, down = n > 0 ? n : 0, wide = g->wide, pitch = g->pitch;
    const int32_t m = factor_multiplier(factor), half = n > 0 ? 1 << (n - 1) : 0, more = 16384 + bias * 32768;
    const int32_t am = a->m, gm = g->m, rest = (1 << (right - 1)) + g->zero * (1 << right);
    const int32_t step = a->half, middle = a->middle;
    const int left = a->left;
    const int32_t *end;
    int i;
    if (n < 0)
        for (i = 0; i < rows * wide; i++) sums[i] = shift(sums[i], n);
    for (; rows > 0; rows--, out += pitch - wide)
        for (end = sums + wide; sums != end;) {
            const int32_t x = saturate((saturate((*sums++ + half) >> down) * m + more) >> 15);
            const int32_t gate = saturate_u15((saturate(x * (1 << left)) * am + middle) >> 15);
            const int32_t y = (x * gate + step) >> 15, z = (y * gm + step) >> 15;
            *out++ = (uint8_t)saturate_u8((z + rest) >> right);
        }
}

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
