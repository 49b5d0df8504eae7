/* Which variant of the passes runs, on which threads, with which memory. */

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"

/* Floats in a vector of the widest variant that this processor runs. */
int netpress_lanes(void) {
#ifdef X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
    return 4;
}

static pass *find(int number, int lanes) {
#ifdef X86
    if (lanes == 16) return passes_512[number];
    if (lanes == 8) return passes_256[number];
#endif
    (void)lanes;
    return passes_any[number];
}

static size_t scratch_floats(int number, const struct block *s) {
    size_t row = s->width * s->inside, padded_row = padded_row_of(s);
    size_t out_row = s->out_width * s->inside;
    switch (number) {
    case MOMENTS: return (CHUNK + s->inputs + 1) * s->inputs_padded;
    case WIDEN: return s->kernel * padded_row + row + out_row + s->width * s->inputs_padded + s->inside;
    case SQUEEZE: return s->inside;
    case NARROW: return CHUNK * s->inside + s->outputs_padded;
    case GATE_BACKWARD: return CHUNK * (s->outputs_padded + s->inside) + s->outputs * s->inside;
    case NARROW_BACKWARD: return CHUNK * (s->outputs_padded + 3 * s->inside);
    case WIDEN_BACKWARD: return s->kernel * (2 * padded_row + row) + rows_together(s) * (row + s->width * s->inputs_padded) + out_row;
    default: return 0;
    }
}

static size_t product_floats(int number, const struct block *s) {
    switch (number) {
    case GATE_BACKWARD: return s->outputs * s->inside;
    case NARROW_BACKWARD: return s->image_gate ? 0 : s->outputs * s->inside; /* GATE_BACKWARD has done it */
    case WIDEN_BACKWARD: return (s->kernel * s->kernel + s->inputs) * s->inside;
    default: return 0;
    }
}

static size_t sum_doubles(int number, const struct block *s) {
    switch (number) {
    case MOMENTS: return (1 + s->inputs) * s->inputs_padded;
    case WIDEN:
    case NARROW_BACKWARD: return 2 * s->inside;
    case NARROW: return 2 * s->outputs_padded;
    case WIDEN_BACKWARD: return s->inside;
    default: return 0;
    }
}

/* Run pass `number` with vectors of at most `lanes` floats: 0, or 1 where memory is missing. Every thread takes as many
   images; what they sum is added up in their order, so that the same number of threads gives the same bits. */
int netpress_inverted_residual(int number, int lanes, const struct block *s) {
    pass *run = find(number, lanes);
    size_t scratch = scratch_floats(number, s), products = product_floats(number, s), sums = sum_doubles(number, s);
    size_t each = (sums * sizeof(double) + (scratch + products) * sizeof(float)) / 64 * 64 + 64;
    char *memory = aligned_alloc(64, each * s->threads);
    if (!memory) return 1;
#pragma omp parallel num_threads((int)s->threads)
    {
        /* Fewer threads than asked for take more turns: shares and their order do not change. */
        for (long share = omp_get_thread_num(); share < s->threads; share += omp_get_num_threads()) {
            double *own_sums = (double *)(memory + share * each);
            float *own_products = (float *)(own_sums + sums);
            memset(own_sums, 0, sums * sizeof(double) + products * sizeof(float));
            run(s, s->images * share / s->threads, s->images * (share + 1) / s->threads, own_products + products,
                own_products, own_sums);
        }
    }
    for (long share = 0; share < s->threads; share++) {
        const double *own_sums = (double *)(memory + share * each);
        const float *own_products = (float *)(own_sums + sums);
        for (size_t i = 0; i < sums; i++) s->sums[i] = (share ? s->sums[i] : 0) + own_sums[i];
        for (size_t i = 0; i < products; i++) s->products[i] = (share ? s->products[i] : 0) + own_products[i];
    }
    free(memory);
    return 0;
}

/* For the test that `struct block` has the fields that its twin in Python has. */
int netpress_block_bytes(void) { return sizeof(struct block); }
