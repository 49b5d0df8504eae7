/* --- layers: sums and what follows them, channel by channel */

typedef struct {
    window k;
    packed weights;
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
    w->s.w = l->weights;
    w->s.value_at = w->s.mask_at = 0;
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
    static SHARED HOT void swish_##NAME(uint8_t *arena, const layer *l, const TYPE *in, int rows, uint8_t *out,              \
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
/* What follows the sums of one channel, as pairs_swish takes it. */
typedef struct {
    int32_t down, half, m, more, left, am, step, gm, last, right;
} ending;

static ALWAYS void end_with(ending *e, uint16_t factor, int16_t bias, const swish *a, const grid *g) {
    e->down = factor_shift(factor);
    e->half = e->down > 0 ? 1 << (e->down - 1) : 0;
    e->m = factor_multiplier(factor);
    e->more = 16384 + bias * 32768;
    e->left = a->left + 1;
    e->am = a->m * 65536;
    e->step = 16384;
    e->gm = g->m;
    e->last = last_rounding(g);
    e->right = g->n + 15;
}

#define FINISHED(SUM) saturate((saturate((SUM) >> down) * m + more) >> 15)

/* A gate of more than a half a step saturates wherever what it is made of does: R in the upper 32 of 64 bits. */
#define SWISH(X, OUT)                                                                                            \
    {                                                                                                            \
        int32_t gate;                                                                                            \
        __asm__("smmlar %0, %1, %2, %3" : "=r"(gate) : "r"((X) * (1 << left)), "r"(am), "r"(step));              \
        OUT = (uint8_t)saturate_u8((int32_t)((((X) * saturate_u15(gate) + step) >> 15) * gm + last) >> right);   \
    }

/* Four pixels at a time from sums to 8 bits. All of `e` is read again for each four: there are no registers for it. */
static APART void pairs_swish(const window *k, const products *p, const uint8_t *in, uint8_t *out, int rows, int pitch,
                              const ending *e) {
    const uint8_t *stop;
    int wide = k->wide;
    if (k->down == wide && pitch == wide) wide *= rows, rows = 1;
    for (; rows > 0; rows--, in += k->down - wide, out += pitch - wide)
        for (stop = in + wide; in != stop;) {
            PAIRS_SUMS(p, in)
            const int32_t down = e->down, m = e->m, more = e->more, upper = e->half, lower = upper - (int32_t)HALF;
            int32_t x0 = FINISHED(lower_sum(low) + lower), x1 = FINISHED(upper_sum(low2, high2) + upper);
            int32_t x2 = FINISHED(lower_sum(low2) + lower), x3 = FINISHED(upper_sum(low, high) + upper);
            __asm__ volatile("" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : : "memory"); /* now the other numbers */
            const int32_t left = e->left, am = e->am, step = e->step, gm = e->gm, last = e->last, right = e->right;
            SWISH(x0, out[0])
            SWISH(x1, out[1])
            SWISH(x2, out[2])
            SWISH(x3, out[3])
            in += 4, out += 4;
            if (stop - in < 4 && in != stop) { /* the last four again, as far as they are new */
                out -= 4 - (stop - in);
                in = stop - 4;
            }
        }
}

#undef AT_ONCE
#define AT_ONCE(TYPE)                                                                          \
    if (l->k.across == 1 && l->k.wide >= 4 && factor_shift(factor) >= 0) {                     \
        ending e;                                                                              \
        unpack(&l->k, &w.s, &w.p);                                                             \
        end_with(&e, factor, bias, a, g);                                                      \
        pairs_swish(&l->k, &w.p, in + o / l->k.each * l->k.inputs * l->k.plane, out, rows, g->pitch, &e); \
        continue;                                                                              \
    }
#endif
LAYER(u8, sums_u8, uint8_t)
