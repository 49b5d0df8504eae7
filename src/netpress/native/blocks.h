/* Training passes of an inverted residual (Sandler et al. 2018) for float32 images with channels last: a pointwise
   convolution that widens, norm, activation, a depthwise convolution, norm, activation, a pointwise convolution that
   narrows, norm, then a gate for each image and channel, and the shortcut. The activation is hard-swish, swish or ReLU; the gate may
   also stand before the narrowing.

   Layer by layer each wide tensor passes through memory a dozen times in a step. Here an image's widened values live in
   the cache alone, and are computed again when they are needed in the backward pass; what the depthwise convolution makes of
   them is written once, since its norm wants sums over the whole batch, and so is its gradient.

   What a norm does is a factor and an offset for each channel, which the caller knows: of the first from the moments of the
   narrow input, of the others from sums that the passes take on their way. Widths inside and the narrowed result are padded
   to multiples of 16, `inputs_padded` and `outputs_padded` likewise: weights, factors and offsets with zeros. */

#ifndef NETPRESS_BLOCKS_H
#define NETPRESS_BLOCKS_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define X86 1
#endif

/* Kept in step with the fields of `_Block` in blocks.py. Arrays are float32 and dense, with channels last; a pass uses those
   that its function names. */
struct block {
    long images, height, width, inputs, inputs_padded, inside, outputs, outputs_padded;
    long kernel, stride, padding;
    long padding_more; /* below and right, beyond `padding` */
    long activation;   /* HARD_SWISH, SWISH or RELU */
    long out_height, out_width, threads;
    const float *x;              /* [images, height, width, inputs] */
    const float *mean;           /* [inputs_padded] of x: what is linear in it is computed from what lies near zero */
    const float *widen;          /* [inputs, inside], with its norm multiplied in */
    const float *widen_start;    /* [inside], what that norm adds */
    const float *widen_turned;   /* [inside, inputs_padded], the transpose of widen */
    const float *depthwise;      /* [kernel * kernel, inside] */
    const float *centre;         /* [inside] or [outputs_padded], a norm's mean */
    const float *factor;         /* [inside] of the second norm */
    const float *offset;         /* [inside] */
    const float *by_value;       /* [inside] or [outputs_padded]: what a norm's backward pass multiplies values with */
    const float *constant;       /* [inside] or [inputs_padded], and adds */
    const float *narrow;         /* [inside, outputs_padded] */
    const float *narrow_turned;  /* [outputs, inside] */
    const float *image_factor;   /* [images, outputs_padded] for the narrowed values, or for their gradients */
    const float *image_offset;   /* [images, outputs_padded] */
    const float *image_gate;     /* [images, inside] what activated values are multiplied with before narrowing; or NULL */
    const float *image_pooled;   /* [images, inside] what the gate's backward pass adds to the activated values' gradient */
    const float *by_row;         /* [inputs, inputs_padded] what the first norm's backward pass multiplies pixels with */
    const float *shortcut;       /* as out, to be added; or NULL */
    const float *gradient;       /* [images, out_height, out_width, outputs] */
    float *middle;               /* [images, out_height, out_width, inside], what the depthwise convolution makes */
    float *middle_gradient;      /* as middle, for its normalized values */
    float *narrowed;             /* [images, out_height, out_width, outputs_padded] */
    float *out;                  /* [images, out_height, out_width, outputs], or as x */
    float *products;             /* [outputs, inside], or [kernel * kernel + inputs, inside] */
    double *sums;                /* over all pixels, as each pass says */
    double *image_sums;          /* [2, images, outputs_padded] or [images, inside], over each image's pixels */
};

/* In the order in which a step runs them. */
enum {
    MOMENTS,
    WIDEN,
    SQUEEZE,
    NARROW,
    FINISH,
    FINISH_BACKWARD,
    GATE_BACKWARD,
    NARROW_BACKWARD,
    WIDEN_BACKWARD,
    INPUT_BACKWARD,
    PASSES
};

/* Kept in step with ACTIVATIONS in blocks.py. */
enum { HARD_SWISH, SWISH, RELU };

enum {
    CHUNK = 64,   /* pixels that go through the cache together, where a pass does not take rows */
    MOST_TAPS = 7 /* the largest kernel's side */
};

/* Floats in a row of the widened image with its padding. */
static inline long padded_row_of(const struct block *s) {
    return (s->width + 2 * s->padding + s->padding_more) * s->inside;
}

/* Rows of widened gradients that go on together: about as many pixels. */
static inline long rows_together(const struct block *s) {
    long rows = (CHUNK + s->width - 1) / s->width;
    return rows < s->height ? rows : s->height;
}

/* A pass over images `first` to `last`, with scratch memory and sums of its own that begin at zero. */
typedef void pass(const struct block *, long first, long last, float *scratch, float *products, double *sums);

/* For processors with vectors of 16 floats, of 8, and for any. */
extern pass *const passes_512[PASSES], *const passes_256[PASSES], *const passes_any[PASSES];

#endif
