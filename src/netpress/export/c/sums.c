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
