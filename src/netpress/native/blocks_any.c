/* The passes for any processor. */

#include "forward.h"
#include "backward.h"
#include "rounding_passes.h"

pass *const passes_any[PASSES] = ALL_PASSES;
round_piece *const rounding_any[2] = BOTH_ROUNDING_PASSES;
