/* The passes for any processor. */

#include "forward.h"
#include "backward.h"

pass *const passes_any[PASSES] = ALL_PASSES;
