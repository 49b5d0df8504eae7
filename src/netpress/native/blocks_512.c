/* The passes for x86-64 processors with vectors of 16 floats. */

#include "blocks.h"

#ifdef X86
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define WIDE_512
#include <immintrin.h>

#include "forward.h"
#include "backward.h"

pass *const passes_512[PASSES] = ALL_PASSES;
#endif
