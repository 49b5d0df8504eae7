/* Kernels in vectors. Values of 16 bits lie as rows, [channel][pixel], or as places, [tile][channel / 2][pixel][2] (of 8
   bits [tile][channel / 4][pixel][4] where V_QUADS is 1), so that what one tile's sums read lies together. Rows and places
   are padded to whole vectors, whose rest is any number. */

#define V_TILE 64 /* pixels that are made at once, at most, and of a tile of places where there are more than 32 */
#define V_PASTE(a, b) a##b
#define V_EACH4(...) {enum {g = 0}; __VA_ARGS__} {enum {g = 1}; __VA_ARGS__} {enum {g = 2}; __VA_ARGS__} \
    {enum {g = 3}; __VA_ARGS__}
#define V_EACH1(...) {enum {g = 0}; __VA_ARGS__}
#define V_OVER1(...) {enum {j = 0}; __VA_ARGS__}
#define V_OVER2(...) V_OVER1(__VA_ARGS__) {enum {j = 1}; __VA_ARGS__}
#define V_OVER4(...) V_OVER2(__VA_ARGS__) {enum {j = 2}; __VA_ARGS__} {enum {j = 3}; __VA_ARGS__}
#define V_OVER8(...) V_OVER4(__VA_ARGS__) {enum {j = 4}; __VA_ARGS__} {enum {j = 5}; __VA_ARGS__} \
    {enum {j = 6}; __VA_ARGS__} {enum {j = 7}; __VA_ARGS__}
#define V_UP(x, n) (((x) + (n) - 1) / (n) * (n))

/* A network needs some of them. */
#define V_KERNEL static inline __attribute__((unused))
/* Not inlined: what a step reads of the arena it does not write, so that no load depends on the order of stores. */
#define V_STEP static __attribute__((noinline))
/* Not inlined: its loop shall have all registers. */
#define V_ALONE static __attribute__((noinline, unused))

typedef struct v_tail v_tail;
struct v_tail {
    void (*run)(const v_tail *, uint8_t *, const int16_t *, int, int, int, int);
    const int32_t *k;           /* numbers */
    const int16_t *const *each; /* numbers of each channel */
    uint32_t out;               /* in the arena */
    int pitch;                  /* pixels from one channel to the next */
    int channels;               /* of places, a multiple of 4 */
};

typedef struct {
    const uint8_t *values, *mask; /* mask 0: all weights exist */
    const uint32_t *blocks;       /* of the mask; 0: a bit a weight */
    int bits, step, low;
} v_packed;

typedef struct {
    v_packed packed;
    const uint16_t *factors;
    const int16_t *biases;
    int apart[2];                     /* 1 where each output has a factor, a bias */
    int outputs, groups, inputs;      /* inputs: of a group */
    int rows, columns, down, across, below, beside, top, left;
    int height, width, high, wide;
    int pitch, zero;                  /* of the input */
    int kind;                         /* 0 reads places, 1 reads rows, 2 is depthwise */
    int bytes, wide_sums;             /* whether values and weights have 8 bits; whether rounding may leave 32 bits */
    int together[2];                  /* outputs at once, of pairs and of quads */
    int masks;                        /* of its first column */
    uint32_t in, scratch;
} v_layer;

/* --- weights, unpacked at the first call */

typedef struct {
    const v_packed *from;
    uint32_t value, place; /* bits, weights */
} v_reader;

V_KERNEL int v_next(v_reader *r) {
    const v_packed *k = r->from;
    const uint8_t *at;
    uint32_t raw;
    if (k->mask) {
        const uint32_t n = r->place++, place = k->blocks ? mark_of(k->blocks, n) : n;
        if (!(k->mask[place >> 3] >> (place & 7) & 1)) return 0;
    }
    at = k->values + (r->value >> 3);
    raw = ((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16) >> (r->value & 7);
    r->value += (uint32_t)k->bits;
    return (int)(raw & ((1u << k->bits) - 1u)) * k->step + k->low;
}

/* What finishes an output: where its sums begin, the shift, multiplier and bias. */
V_KERNEL uint32_t *v_head(const v_layer *k, int o, int32_t more, uint32_t *to) {
    const int here = o < k->outputs;
    const uint32_t factor = here ? k->factors[o * k->apart[0]] : 63u << 10;
    const int32_t shift = (int32_t)(factor >> 10) - 15, n = shift > 31 ? 31 : shift;
    const uint32_t m = factor >> 10 == 63 ? 0 : (1024 + (factor & 1023)) * 16;
    const uint16_t bias = here ? (uint16_t)k->biases[o * k->apart[1]] : 0;
    const uint32_t half = n > 0 && !k->wide_sums ? 1u << (n - 1) : 0;
    to[0] = half + (uint32_t)more;
    to[1] = (uint32_t)(n > 0 && k->wide_sums ? n + 64 : n);
    to[2] = m | (uint32_t)bias << 16;
    return to + 3;
}

V_KERNEL int v_quads(const v_layer *k) { return V_QUADS && k->bytes && k->kind == 0; }

/* For each block of outputs: how many groups of weights there are, the heads, then where each group's inputs lie and
   its weights, unless all are 0. */
V_KERNEL uint32_t *v_unpack_dense(const v_layer *k, int16_t *line, uint32_t *to) {
    const int taps = k->inputs * k->rows * k->columns, group = v_quads(k) ? 4 : 2, each = k->outputs / k->groups;
    const int length = V_UP(taps * k->groups, 4), together = k->together[v_quads(k)];
    const uint32_t apart = k->kind || k->pitch > V_TILE ? V_TILE : (uint32_t)k->pitch;
    v_reader reader = {&k->packed, 0, 0};
    int o, b, i, j;
    for (o = 0; o < V_UP(k->outputs, 4); o += together) {
        uint32_t *count = to++;
        memset(line, 0, sizeof *line * (size_t)(together * length));
        for (b = 0; b < together && o + b < k->outputs; b++) {
            int16_t *at = line + b * length + (o + b) / each * taps;
            for (i = 0; i < taps; i++) at[i] = (int16_t)v_next(&reader);
        }
        for (b = 0; b < together; b++) to = v_head(k, o + b, 0, to);
        for (*count = 0, i = 0; i < length; i += group) {
            int any = 0;
            for (b = 0; b < together; b++)
                for (j = 0; j < group; j++) any |= line[b * length + i + j];
            if (!any) continue;
            ++*count;
            *to++ = (uint32_t)(i / group) * apart * 4;
            for (b = 0; b < together; b++) {
                const int16_t *w = line + b * length + i;
                uint32_t word = 0;
                for (j = 0; j < group; j++)
                    word |= ((uint32_t)w[j] & (group == 4 ? 255u : 65535u)) << (group == 4 ? 8 * j : 16 * j);
                *to++ = word;
            }
        }
    }
    return to;
}

/* For each channel: how many pairs of taps there are, the head, then of each pair where it lies and its weights. */
V_KERNEL uint32_t *v_unpack_depthwise(const v_layer *k, uint32_t *to) {
    const int length = V_UP(k->height * k->width, 32) + 32;
    v_reader reader = {&k->packed, 0, 0};
    int o, i;
    for (o = 0; o < V_UP(k->outputs, 4); o++) {
        uint32_t *count = to, *head = to + 1;
        int32_t total = 0, taps = 0;
        to += 4;
        for (i = 0; o < k->outputs && i < k->rows * k->columns; i++) {
            const int w = v_next(&reader), column = i % k->columns, row = i / k->columns;
            uint32_t *at = to + taps / 2 * 5;
            if (!w) continue;
            total += w;
            if (taps % 2 == 0) at[1] = at[3] = at[4] = 0;
            at[taps % 2] = (uint32_t)((row * k->below - k->top) * k->width + column * k->beside - k->left);
            at[2 + taps % 2] = (uint32_t)(k->masks + column * length);
            at[4] |= ((uint32_t)w & 65535u) << (16 * (taps % 2));
            taps++;
        }
        *count = (uint32_t)(taps + 1) / 2;
        to += *count * 5;
        v_head(k, o, total * k->zero, head);
    }
    return to;
}

/* --- sums */

/* n: what v_head says. */
V_KERNEL V v_finish(V low, V high, int32_t n, V m, V bias) {
    V a;
    if (n > 64) {
        const V one = v_set32(1), x = v_right32(low, n - 65), y = v_right32(high, n - 65);
        a = v_narrow(v_add32(v_right32(x, 1), v_and(x, one)), v_add32(v_right32(y, 1), v_and(y, one)));
    } else if (n > 0) {
        a = v_narrow(v_right32(low, n), v_right32(high, n));
    } else {
        a = v_narrow(low, high);
        for (; n < 0; n++) a = v_add(a, a);
    }
    return v_add(v_rescale(a, m), bias);
}

#define V_SUMS(NAME, OUTPUTS, COUNT, EACH, OVER, HALF, DOT)                                                \
    V_ALONE const uint32_t *NAME(const uint32_t *w, const uint8_t *in, int16_t *rows) {                    \
        const uint32_t *head = w + 1;                                                                      \
        uint32_t count = w[0];                                                                             \
        sums s[OUTPUTS][COUNT];                                                                            \
        EACH(OVER(s[g][j] = v_start(head[3 * g]);))                                                        \
        for (w += 1 + 3 * OUTPUTS; count; count--, w += 1 + OUTPUTS) {                                     \
            const uint8_t *at = in + w[0];                                                                 \
            V x[COUNT];                                                                                    \
            OVER(x[j] = v_load(at + 2 * V_WIDE * j);)                                                      \
            EACH(const V m = v_set32(w[1 + g]); OVER(s[g][j] = DOT(s[g][j], x[j], m);))                    \
        }                                                                                                  \
        EACH(const int32_t n = (int32_t)head[3 * g + 1]; const V m = v_set16(head[3 * g + 2] & 65535u);    \
             const V bias = v_set16(head[3 * g + 2] >> 16);                                                \
             HALF(v_store(rows + V_TILE * g + V_WIDE * j,                                                  \
                          v_sorted(v_finish(v_total(s[g][2 * j]), v_total(s[g][2 * j + 1]), n, m, bias)));)) \
        return w;                                                                                          \
    }
V_SUMS(v_one_short, 1, 2, V_EACH1, V_OVER2, V_OVER1, v_dot)
V_SUMS(v_four_short, 4, 2, V_EACH4, V_OVER2, V_OVER1, v_dot)
#if V_WIDE == 32
#define V_LONG_ONE 64
#define V_LONG_FOUR 64
V_SUMS(v_one_long, 1, 4, V_EACH1, V_OVER4, V_OVER2, v_dot)
V_SUMS(v_four_long, 4, 4, V_EACH4, V_OVER4, V_OVER2, v_dot)
#else
#define V_LONG_ONE (4 * V_WIDE)
#define V_LONG_FOUR V_WIDE
V_SUMS(v_one_long, 1, 8, V_EACH1, V_OVER8, V_OVER4, v_dot)
#define v_four_long v_four_short
#endif

/* One block of outputs for a tile. */
#define V_BLOCK(NAME, LONG, MANY, FEW)                                                                     \
    V_KERNEL const uint32_t *NAME(const uint32_t *w, const uint8_t *in, int16_t *rows, int size) {         \
        const uint32_t *next = w;                                                                          \
        int p = 0;                                                                                         \
        for (; p + LONG <= size; p += LONG) next = MANY(w, in + 4 * p, rows + p);                          \
        for (; p < size; p += V_WIDE) next = FEW(w, in + 4 * p, rows + p);                                 \
        return next;                                                                                       \
    }
V_BLOCK(v_one, V_LONG_ONE, v_one_long, v_one_short)
V_BLOCK(v_four, V_LONG_FOUR, v_four_long, v_four_short)

#if V_QUADS
V_SUMS(v_one_short_quads, 1, 2, V_EACH1, V_OVER2, V_OVER1, v_dot_quads)
V_SUMS(v_four_short_quads, 4, 2, V_EACH4, V_OVER2, V_OVER1, v_dot_quads)
V_SUMS(v_one_long_quads, 1, 4, V_EACH1, V_OVER4, V_OVER2, v_dot_quads)
V_SUMS(v_four_long_quads, 4, 4, V_EACH4, V_OVER4, V_OVER2, v_dot_quads)
V_BLOCK(v_one_quads, V_LONG_ONE, v_one_long_quads, v_one_short_quads)
V_BLOCK(v_four_quads, V_LONG_FOUR, v_four_long_quads, v_four_short_quads)
#else
#define v_one_quads v_one
#define v_four_quads v_four
#endif

/* What one tap of a kernel meets at pixels at ... at + size. */
V_KERNEL void v_meet(const v_layer *k, const int16_t *in, int row, int column, int at, int size, int16_t *out) {
    const int16_t zero = (int16_t)k->zero;
    const int ahead = column * k->beside - k->left;
    int p, y = at / k->wide, x = at % k->wide;
    for (p = 0; p < size; y++, x = 0) {
        const int line = y * k->down + row * k->below - k->top, end = k->wide - x < size - p ? k->wide : x + size - p;
        const int inside = y < k->high && line >= 0 && line < k->height;
        const int16_t *met = in + (inside ? line * k->width : 0);
        for (; x < end && (!inside || x * k->across + ahead < 0); x++) out[p++] = zero;
        if (k->across == 1) {
            const int last = k->width - ahead < end ? k->width - ahead : end;
            for (; x < last; x++) out[p++] = met[x + ahead];
        }
        for (; x < end && x * k->across + ahead < k->width; x++) out[p++] = met[x * k->across + ahead];
        for (; x < end; x++) out[p++] = zero;
    }
}

/* What a kernel meets there, as places [taps / 2][V_TILE][2]. */
V_KERNEL void v_gather(const v_layer *k, uint8_t *arena, int at, int size) {
    const int16_t *in = (const int16_t *)(const void *)(arena + k->in);
    const int kernel = k->rows * k->columns, taps = kernel * k->inputs * k->groups;
    uint8_t *to = arena + k->scratch;
    int16_t met[2][V_TILE];
    int tap, p;
    for (tap = 0; tap < V_UP(taps, 4); tap++) {
        const int place = tap % kernel;
        if (tap < taps)
            v_meet(k, in + tap / kernel * k->pitch, place / k->columns, place % k->columns, at, size, met[tap % 2]);
        else
            memset(met[tap % 2], 0, sizeof met[0]);
        for (p = 0; tap % 2 && p < size; p += V_WIDE) {
            const V a = v_spread(v_load(met[0] + p)), b = v_spread(v_load(met[1] + p));
            uint8_t *out = to + (tap / 2 * V_TILE + p) * 4;
            v_store(out, v_low(a, b));
            v_store(out + 2 * V_WIDE, v_high(a, b));
        }
    }
}

V_KERNEL void v_dense(const v_layer *k, const v_tail *t, const uint32_t *weights, uint8_t *arena) {
    const int count = V_UP(k->high * k->wide, V_WIDE), quads = v_quads(k), together = k->together[quads];
    const int tile = k->kind || k->pitch > V_TILE ? V_TILE : k->pitch;
    const int groups = V_UP(k->inputs * k->groups, 4) / (quads ? 4 : 2);
    int16_t rows[4 * V_TILE];
    int at, o, b;
    for (at = 0; at < count; at += tile) {
        const int size = count - at < tile ? count - at : tile;
        const uint32_t *w = weights;
        const uint8_t *in = arena + (k->kind ? k->scratch : k->in + (uint32_t)(at * groups) * 4);
        if (k->kind) v_gather(k, arena, at, size);
        for (o = 0; o < k->outputs; o += 4) {
            for (b = 0; b < 4; b += together) {
                int16_t *to = rows + V_TILE * b;
                if (quads)
                    w = together == 4 ? v_four_quads(w, in, to, size) : v_one_quads(w, in, to, size);
                else
                    w = together == 4 ? v_four(w, in, to, size) : v_one(w, in, to, size);
            }
            t->run(t, arena, rows, V_TILE, o, at, size);
        }
    }
}

/* Sums of pairs of taps in COUNT vectors of pixels, of w as v_unpack_depthwise wrote it. */
#define V_TAPS(NAME, COUNT, OVER)                                                                          \
    V_ALONE void NAME(const uint32_t *w, const int16_t *in, const int16_t *masks, int16_t *out) {          \
        const int32_t n = (int32_t)w[2];                                                                   \
        const V m = v_set16(w[3] & 65535u), bias = v_set16(w[3] >> 16);                                    \
        uint32_t pairs = w[0];                                                                             \
        sums low[COUNT], high[COUNT];                                                                      \
        OVER(low[j] = high[j] = v_start(w[1]);)                                                            \
        for (w += 4; pairs; pairs--, w += 5) {                                                             \
            const int16_t *const first = in + (int32_t)w[0], *const second = in + (int32_t)w[1];           \
            const int16_t *const one = masks + w[2], *const two = masks + w[3];                            \
            const V weights = v_set32(w[4]);                                                               \
            OVER(const V x = v_and(v_load(first + V_WIDE * j), v_load(one + V_WIDE * j));                  \
                 const V y = v_and(v_load(second + V_WIDE * j), v_load(two + V_WIDE * j));                 \
                 low[j] = v_dot(low[j], v_low(x, y), weights);                                             \
                 high[j] = v_dot(high[j], v_high(x, y), weights);)                                         \
        }                                                                                                  \
        OVER(v_store(out + V_WIDE * j, v_finish(v_total(low[j]), v_total(high[j]), n, m, bias));)          \
    }
V_TAPS(v_taps_long, 4, V_OVER4)
V_TAPS(v_taps_two, 2, V_OVER2)
V_TAPS(v_taps_short, 1, V_OVER1)

/* Sums at the input's pixels from ... from + count; zeros lie before and after the channel. */
V_KERNEL void v_taps(const uint32_t *w, const int16_t *in, const int16_t *masks, int16_t *out, int from, int count) {
    int p = 0;
    for (; p + 4 * V_WIDE <= count; p += 4 * V_WIDE) v_taps_long(w, in + from + p, masks + from + p, out + p);
    for (; p + 2 * V_WIDE <= count; p += 2 * V_WIDE) v_taps_two(w, in + from + p, masks + from + p, out + p);
    for (; p < count; p += V_WIDE) v_taps_short(w, in + from + p, masks + from + p, out + p);
}

V_KERNEL void v_depthwise(const v_layer *k, const v_tail *t, const uint32_t *w, const int16_t *masks, uint8_t *arena) {
    const int plane = k->height * k->width, whole = k->across == 1 && k->down == 1 && k->wide == k->width;
    const int apart = V_UP(k->high * k->wide, 32), run = V_UP((k->wide - 1) * k->across + 1, V_WIDE);
    int16_t *in = (int16_t *)(void *)(arena + k->in), *rows = (int16_t *)(void *)(arena + k->scratch);
    int16_t *line = rows + 4 * apart;
    const int before = k->pitch - V_UP(plane, 32);
    int o, b, x, y;
    memset(in - before, 0, sizeof *in * (size_t)before);
    for (o = 0; o < k->outputs; o += 4) {
        for (b = 0; b < 4; b++, in += k->pitch) {
            int16_t *to = rows + b * apart;
            memset(in + plane, 0, sizeof *in * (size_t)(k->pitch - plane));
            if (whole) {
                v_taps(w, in, masks, to, 0, V_UP(k->high * k->wide, V_WIDE));
            } else {
                for (y = 0; y < k->high; y++, to += k->wide) {
                    v_taps(w, in, masks, line, y * k->down * k->width, run);
                    for (x = 0; x < k->wide; x++) to[x] = line[x * k->across];
                }
            }
            w += 4 + 5 * w[0];
        }
        t->run(t, arena, rows, apart, o, 0, V_UP(k->high * k->wide, V_WIDE));
    }
}

