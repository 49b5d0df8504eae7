/* Written by netpress: the {{ board.name }} ({{ board.core }}) before main, its tick counter, its stack. */
#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define TICK_CONTROL REGISTER(0xE000E010u)
#define TICK_RELOAD REGISTER(0xE000E014u)
#define TICK_VALUE REGISTER(0xE000E018u)
#define TICK_TURN 0x1000000u /* SysTick has 24 bits */

#define PAINT 0xC5C5C5C5u

extern uint32_t stack_bottom[], stack_top[], data_load[], data_start[], data_end[], bss_start[], bss_end[];

int main(void);
void reset(void);

static volatile uint32_t turns;

static void tick(void) { turns++; }

/* The stack lies at the lowest addresses of the memory, so what outgrows it overwrites nothing, and on most boards ends here. */
__attribute__((used)) static void tell_fault(void) {
    host_say(host_open(":tt", HOST_ERRORS),
             "fault: an address that the board does not have, or a stack that is too small\n");
    host_exit(1);
}

__attribute__((naked)) static void fault(void) {
    __asm volatile("ldr r0, =stack_top\n mov sp, r0\n bl tell_fault\n b .");
}

void reset(void) {
    uint32_t *from = data_load, *to;
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    REGISTER(0xE000ED88u) |= 0xF00000u; /* CPACR: the unit for floats and vectors may be used */
    __asm volatile("dsb\n isb");
#endif
    for (to = data_start; to < data_end;) *to++ = *from++;
    for (to = bss_start; to < bss_end;) *to++ = 0;
    host_exit(main());
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, reset, fault, fault, fault, fault, fault, fault,
    fault, fault, fault, fault, fault, fault, fault, tick};

void ticks_start(void) {
    int wait; /* not for ever: a Cortex-M0 may lack SysTick, as a real micro:bit does, and count nothing */
    TICK_RELOAD = TICK_TURN - 1;
    TICK_VALUE = 0;
    TICK_CONTROL = 5; /* on, by the processor's clock */
    for (wait = 0; wait < 10000 && TICK_VALUE == 0;) wait++;
    REGISTER(0xE000ED04u) = 1u << 25; /* ICSR: its first reload is no turn */
    TICK_CONTROL = 7;                 /* from now on an interrupt each turn */
}

uint32_t ticks(void) {
    uint32_t before, value;
    do {
        before = turns;
        value = TICK_VALUE;
    } while (before != turns);
    return before * TICK_TURN + (TICK_TURN - 1 - value);
}

void stack_paint(void) {
    uint32_t *word, *here;
    __asm volatile("mov %0, sp" : "=r"(here));
    for (word = stack_bottom; word < here - 8; word++) *word = PAINT;
}

uint32_t stack_used(void) {
    const uint32_t *word = stack_bottom;
    while (word < stack_top && *word == PAINT) word++;
    return (uint32_t)((const uint8_t *)stack_top - (const uint8_t *)word);
}
