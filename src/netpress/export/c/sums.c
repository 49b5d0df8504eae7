/* --- weights */

/* A layer's weights as they lie in flash: a bit says which exist, each of these takes its bits. */
typedef struct {
    const uint8_t *values, *mask; /* mask 0: all exist */
    const uint32_t *blocks;       /* of the mask; 0: a bit a weight */
    uint8_t bits;
    int8_t step;
    int16_t low; /* a weight is its bits times step plus low */
} packed;

/* Weights that are read one after the other. */
typedef struct {
    packed w;
    uint32_t value_at, mask_at; /* bits */
} stream;

/* A layer's kernel, and where its input lies: distances are in values. */
typedef struct {
    uint16_t inputs, rows, columns; /* of the kernel */
    uint16_t wide, each;            /* columns of the output; outputs of a group */
    uint16_t across, narrow;        /* stride in a row; whether all sums keep within 24 bits */
    uint16_t beside;                /* from place to place of the kernel */
    int32_t below;                  /* from a row of it to the next */
    int32_t down, plane;            /* from an output row's input to the next one's; from channel to channel */
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

/* The next weights of a row of the kernel, or of all its inputs where it has one place: of 8 bits, with a bit each in
   the mask, as most are. */
static APART void unpack_bytes(stream *s, int count, int32_t here, int32_t apart, products *p) {
    const uint8_t *from = s->w.values + (s->value_at >> 3), *mask = s->w.mask + (s->mask_at >> 3);
    int start = (int)(s->mask_at & 7);
    product *plus = p->plus, *minus = p->minus;
    s->mask_at += (uint32_t)count;
    for (; count > 0; start = 0) {
        const int run = 8 - start < count ? 8 - start : count;
        uint32_t exist = (uint32_t)*mask++ >> start;
        count -= run;
        exist = (exist & ((1u << run) - 1u)) | 1u << run; /* a last bit says where they end */
#ifdef PAIRS
        {
            uint32_t w;
            __asm__ volatile("1:\n\tlsrs %[exist], %[exist], #1\n\tbcc 3f\n\t"
                             "ldrb %[w], [%[from]], #1\n\tsubs %[w], %[w], #128\n\tble 2f\n\t"
                             "strd %[w], %[here], [%[plus]], #8\n\t"
                             "add %[here], %[apart]\n\tcmp %[exist], #1\n\tbne 1b\n\tb 4f\n"
                             "2:\n\tbeq 3f\n\trsb %[w], %[w], #0\n\tstrd %[w], %[here], [%[minus], #-8]!\n"
                             "3:\n\tadd %[here], %[apart]\n\tcmp %[exist], #1\n\tbne 1b\n4:"
                             : [exist] "+r"(exist), [from] "+r"(from), [here] "+r"(here), [plus] "+r"(plus),
                               [minus] "+r"(minus), [w] "=&r"(w)
                             : [apart] "r"(apart)
                             : "cc", "memory");
        }
#else
        for (; exist != 1; exist >>= 1, here += apart)
            if (exist & 1) KEEP(*from++ - 128)
#endif
    }
    s->value_at = (uint32_t)(from - s->w.values) * 8;
    p->plus = plus;
    p->minus = minus;
}

/* The same for any weights. */
static APART void unpack_row(stream *s, int count, int32_t at, int32_t apart, products *p) {
    const uint8_t *values = s->w.values, *mask = s->w.mask;
    const uint32_t *blocks = s->w.blocks;
    const uint32_t bits = (uint32_t)s->w.bits, ones = (1u << bits) - 1u;
    const int32_t step = s->w.step, low = s->w.low;
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

#define NEXT(COUNT, AT, APART_BY)                       \
    {                                                   \
        if (bytes)                                      \
            unpack_bytes(s, COUNT, AT, APART_BY, p);    \
        else                                            \
            unpack_row(s, COUNT, AT, APART_BY, p);      \
    }

static APART void unpack(const window *k, stream *s, products *p) {
    static const product nothing = {0, 0};
    const int bytes = s->w.bits == 8 && s->w.step == 1 && s->w.low == -128 && s->w.mask && !s->w.blocks;
    int32_t at = 0;
    int i, row;
    p->plus = p->list;
    p->minus = p->end;
    if (k->rows == 1 && k->columns == 1)
        NEXT(k->inputs, 0, k->plane)
    else
        for (i = 0; i < k->inputs; i++, at += k->plane)
            for (row = 0; row < k->rows; row++) NEXT(k->columns, at + row * k->below, k->beside)
    /* Loops take two at a time. */
    if ((p->plus - p->list) & 1) *p->plus++ = nothing;
    if ((p->end - p->minus) & 1) *--p->minus = nothing;
}

/* --- sums of products */

#define SUMS(TYPE)                                                                                    \
    static inline int32_t one_##TYPE(const products *p, const TYPE *in) {                             \
        const product *q;                                                                             \
        int32_t sum = 0;                                                                              \
        for (q = p->list; q < p->plus; q += 2)                                                        \
            sum += (int32_t)q[0].size * in[q[0].at] + (int32_t)q[1].size * in[q[1].at];               \
        for (q = p->minus; q < p->end; q += 2)                                                        \
            sum -= (int32_t)q[0].size * in[q[0].at] + (int32_t)q[1].size * in[q[1].at];               \
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
    static SHARED HOT void run_##TYPE(const window *k, const products *p, const TYPE *in, int count, int32_t *sums) { \
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
/* Weights times four pixels, two or four weights a turn: bytes 0 and 3 in one pair of registers, 2 and 1 in the other. Compilers do without
   loads of 64 bits here, and take sums of such products apart until they run out of registers. */
#define PAIRS_EACH                        \
    "ldrd %[size], %[at], [%[q]], #8\n\t" \
    "ldr %[x], [%[in], %[at]]\n\t"        \
    "and %[at], %[x], %[mask]\n\t"        \
    "umlal %[a], %[b], %[size], %[at]\n\t" \
    "and %[x], %[mask], %[x], ror #16\n\t" \
    "umlal %[c], %[d], %[size], %[x]\n\t"
#define PAIRS_LIST(FROM, TO, IN)                                                                           \
    q = FROM, end = TO;                                                                                    \
    if (q != end)                                                                                          \
        __asm__ volatile("sub %[x], %[end], %[q]\n\tlsls %[x], %[x], #28\n\tbcs 2f\n"                    \
                         "1:\n\t" PAIRS_EACH PAIRS_EACH "2:\n\t" PAIRS_EACH PAIRS_EACH                    \
                         "cmp %[q], %[end]\n\tbne 1b"                                                  \
                         : [a] "+r"(low), [b] "+r"(high), [c] "+r"(low2), [d] "+r"(high2), [q] "+r"(q), \
                           [size] "=&r"(size), [at] "=&r"(at), [x] "=&r"(x)                             \
                         : [in] "r"(IN), [mask] "r"(0xFF0000FFu), [end] "r"(end)                           \
                         : "cc", "memory");

/* Four sums. It begins with a half below the upper ones, which makes them whole numbers: ~(~half + negative). */
#define PAIRS_SUMS(P, IN)                                                            \
    uint32_t low = ~HALF, high = ~0u, low2 = ~HALF, high2 = ~0u, size, at, x;        \
    const product *q, *end;                                                          \
    PAIRS_LIST((P)->minus, (P)->end, IN)                                             \
    low = ~low, high = ~high, low2 = ~low2, high2 = ~high2;                          \
    PAIRS_LIST((P)->list, (P)->plus, IN)
#define HALF (1u << 23)

/* Two sums in a pair of registers: the lower 24 bits are one, what is above them the other. */
static inline int32_t lower_sum(uint32_t low) { return (int32_t)(low & 0xFFFFFFu); } /* plus HALF */

static inline int32_t upper_sum(uint32_t low, uint32_t high) { return (int32_t)(high << 8 | low >> 24); }

static APART void pairs_run(const products *p, const uint8_t *in, int count, int32_t *sums) {
    const uint8_t *const last = in + count;
    for (; in != last; in += 4, sums += 4) {
        PAIRS_SUMS(p, in)
        sums[0] = lower_sum(low) - (int32_t)HALF;
        sums[1] = upper_sum(low2, high2);
        sums[2] = lower_sum(low2) - (int32_t)HALF;
        sums[3] = upper_sum(low, high);
    }
}
#endif

/* One output channel's sums in some rows; `in` is where the first row's first product lies, in channel 0. */
#define ROWS(NAME, TYPE)                                                                              \
    static SHARED void NAME(const window *k, stream *s, products *p, const TYPE *in, int o, int rows, int32_t *sums) { \
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
