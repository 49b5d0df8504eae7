/* --- layers: sums and what follows them, channel by channel */

typedef struct {
    window k;
    stream weights;
    const uint16_t *factors;
    const int16_t *biases;
    uint8_t factor_each, bias_each; /* 0: one for all channels */
    uint16_t outputs, room;         /* room: of the list of products */
    int32_t sums, list, plane;      /* where in the arena; plane: from an output's channel to the next */
} layer;

/* What a layer works with. */
typedef struct {
    stream s;
    products p;
    int32_t *sums;
} work;

static SHARED void begin(uint8_t *arena, const layer *l, work *w) {
    w->s = l->weights;
    w->sums = (int32_t *)(void *)(arena + l->sums);
    w->p.list = (product *)(void *)(arena + l->list);
    w->p.end = w->p.list + l->room;
}

#define LAYER(NAME, SUMS, TYPE)                                                                                          \
    /* Some rows of one channel. */                                                                                      \
    static SHARED void values_##NAME(const layer *l, work *w, const TYPE *in, int o, int rows, int16_t *v) {             \
        SUMS(&l->k, &w->s, &w->p, in, o, rows, w->sums);                                                                 \
        finish(w->sums, v, rows *l->k.wide, l->factors[o * l->factor_each], l->biases[o * l->bias_each], l->k.narrow);   \
    }                                                                                                                    \
    /* Some rows of all channels. */                                                                                     \
    static SHARED void layer_##NAME(uint8_t *arena, const layer *l, const TYPE *in, int rows, int16_t *v) {              \
        work w;                                                                                                          \
        int o;                                                                                                           \
        begin(arena, l, &w);                                                                                             \
        for (o = 0; o < l->outputs; o++, v += l->plane) values_##NAME(l, &w, in, o, rows, v);                            \
    }                                                                                                                    \
    /* The same with a hard-swish, and rounded to 0 ... 255. */                                                          \
    static SHARED void swish_##NAME(uint8_t *arena, const layer *l, const TYPE *in, int rows, uint8_t *out,              \
                                    const swish *a, const grid *g) {                                                     \
        work w;                                                                                                          \
        int o;                                                                                                           \
        begin(arena, l, &w);                                                                                             \
        for (o = 0; o < l->outputs; o++, out += l->plane) {                                                              \
            const uint16_t factor = l->factors[o * l->factor_each];                                                      \
            const int16_t bias = l->biases[o * l->bias_each];                                                            \
            AT_ONCE(TYPE)                                                                                                \
            SUMS(&l->k, &w.s, &w.p, in, o, rows, w.sums);                                                                \
            finish_swish_u8(w.sums, out, rows, factor, bias, a, g);                                                      \
        }                                                                                                                \
    }

#define AT_ONCE(TYPE)
LAYER(s8, sums_s8, int8_t)
LAYER(s16, sums_s16, int16_t)

#ifdef PAIRS
#define SWISH(SUM, OUT)                                                                                        \
    {                                                                                                          \
        const int32_t value = saturate((saturate((SUM) >> down) * m + more) >> 15);                            \
        const int32_t gate = saturate_u15((saturate(value * (1 << left)) * am + middle) >> 15);                \
        OUT = (uint8_t)saturate_u8((((value * gate + step) >> 15) * gm + last) >> right);                      \
    }

/* Four pixels at a time from sums to 8 bits. */
static APART void pairs_swish(const window *k, const products *p, const uint8_t *in, uint8_t *out, int rows, uint16_t factor,
                              int16_t bias, const swish *a, const grid *g) {
    const int down = factor_shift(factor), right = g->n + 15, left = a->left;
    const int32_t m = factor_multiplier(factor), half = down > 0 ? 1 << (down - 1) : 0, more = 16384 + bias * 32768;
    const int32_t am = a->m, gm = g->m, last = last_rounding(g), step = a->half, middle = a->middle;
    int wide = k->wide;
    if (k->down == wide && g->pitch == wide) wide *= rows, rows = 1;
    for (; rows > 0; rows--, in += k->down, out += g->pitch) {
        int x4 = 0;
        for (;;) {
            PAIRS_SUMS(p, in + x4)
            uint8_t *four = out + x4;
            SWISH(lower_sum(low) + (half - (int32_t)HALF), four[0])
            SWISH(upper_sum(low2, high2) + half, four[1])
            SWISH(lower_sum(low2) + (half - (int32_t)HALF), four[2])
            SWISH(upper_sum(low, high) + half, four[3])
            if (x4 + 4 == wide) break;
            x4 = x4 + 8 > wide ? wide - 4 : x4 + 4;
        }
    }
}

#undef AT_ONCE
#define AT_ONCE(TYPE)                                                                          \
    if (l->k.across == 1 && l->k.wide >= 4 && factor_shift(factor) >= 0) {                     \
        unpack(&l->k, &w.s, &w.p);                                                             \
        pairs_swish(&l->k, &w.p, in + o / l->k.each * l->k.inputs * l->k.plane, out, rows, factor, bias, a, g); \
        continue;                                                                              \
    }
#endif
LAYER(u8, sums_u8, uint8_t)
