/* Which variant of the rounding passes runs, on which threads. */

#include <stddef.h>

#include "blocks.h"
#include "rounding.h"

/* Pass `number` of a tensor, with vectors of at most `lanes` floats. Threads take pieces in turn; a piece has a sum of its own,
   so that any number of threads gives the same bits. */
void netpress_rounding(int number, int lanes, const struct rounding *s) {
    round_piece *run = rounding_any[number];
#ifdef X86
    if (lanes == 16) run = rounding_512[number];
    if (lanes == 8) run = rounding_256[number];
#endif
    (void)lanes;
    long pieces = (s->count + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) num_threads((int)s->threads)
    for (long piece = 0; piece < pieces; piece++) {
        long first = piece * PIECE, last = first + PIECE < s->count ? first + PIECE : s->count;
        run(s, first, last, s->sums ? s->sums + piece : NULL);
    }
}
