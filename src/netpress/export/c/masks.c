/* The bit of a mask in blocks that says whether weight n exists. Weights are counted output by output, in each input by
   input, in each place by place of the kernel. b: weights of an output, and of each of its inputs; outputs and inputs of
   a block; bits that a row of blocks takes. */
static inline uint32_t mark_of(const uint32_t *b, uint32_t n) {
    return n / b[0] / b[2] * b[4] + n % b[0] / b[1] / b[3] * b[1] + n % b[1];
}
