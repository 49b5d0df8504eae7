/* Written by netpress: what main.c needs of the {{ board.name }} and of the computer at its debugger. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

/* Ticks of SysTick since the start: cycles of the processor; under qemu -icount, instructions times a constant. */
void ticks_start(void);
uint32_t ticks(void);

/* Bytes of the stack that were used at least once since it was painted. */
#define STACK_BYTES {{ stack }}
void stack_paint(void);
uint32_t stack_used(void);

/* Semihosting: files and texts of the computer that runs QEMU, or the debugger of a real board. */
enum { HOST_INPUT = 1, HOST_OUTPUT = 4, HOST_ERRORS = 8 }; /* rb, w, a */
int host_open(const char *name, int mode); /* negative: there is none */
size_t host_read(int file, void *to, size_t count); /* how many bytes came */
void host_write(int file, const char *bytes, size_t count);
void host_say(int file, const char *text);
int host_command(char *line, size_t size); /* 0: it is in `line` */
void host_exit(int failed);

#endif
