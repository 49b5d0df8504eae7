/* The passes for x86-64 processors with vectors of 8 floats. */

#include "blocks.h"

#ifdef X86
#pragma GCC target("avx2,fma")
#define WIDE_256
#include <immintrin.h>

#include "forward.h"
#include "backward.h"
#include "rounding_passes.h"

pass *const passes_256[PASSES] = ALL_PASSES;
round_piece *const rounding_256[2] = BOTH_ROUNDING_PASSES;
#endif
