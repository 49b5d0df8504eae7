/* The passes for x86-64 processors with vectors of 16 floats. */

#include "blocks.h"

#ifdef X86
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define WIDE_512
#include <immintrin.h>

#include "forward.h"
#include "backward.h"
#include "rounding_passes.h"

pass *const passes_512[PASSES] = ALL_PASSES;
round_piece *const rounding_512[2] = BOTH_ROUNDING_PASSES;
#endif
