/* What a page calls: it writes pixels, runs, and reads logits, all in memory that is the module's own. */
#include "net.h"

#include <string.h>

#define CALLED(NAME) __attribute__((export_name(NAME)))

static int32_t arena[(NET_ARENA_BYTES + 3) / 4];
static uint8_t pixels[NET_HEIGHT * NET_WIDTH * NET_CHANNELS];
static int32_t logits[NET_CLASSES];

CALLED("pixels") uint8_t *place_of_pixels(void) { return pixels; }
CALLED("logits") int32_t *place_of_logits(void) { return logits; }
CALLED("run") int run(void) { return net_run(arena, pixels, logits); }

/* The attribute keeps the compiler from making a loop that copies into a call of the function that it stands in. */
#define PLAIN __attribute__((no_builtin("memcpy", "memmove", "memset")))

PLAIN void *memcpy(void *to, const void *from, size_t count) {
    unsigned char *out = to;
    const unsigned char *in = from;
    while (count--) *out++ = *in++;
    return to;
}

PLAIN void *memmove(void *to, const void *from, size_t count) {
    unsigned char *out = to;
    const unsigned char *in = from;
    if (out < in) return memcpy(to, from, count);
    while (count--) out[count] = in[count];
    return to;
}

PLAIN void *memset(void *to, int value, size_t count) {
    unsigned char *out = to;
    while (count--) *out++ = (unsigned char)value;
    return to;
}
