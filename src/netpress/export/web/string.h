/* Where there is no C library: what the network's C and the compiler's own calls need. module.c defines it. */
#ifndef NETPRESS_STRING_H
#define NETPRESS_STRING_H

#include <stddef.h>

void *memcpy(void *to, const void *from, size_t count);
void *memmove(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);

#endif
