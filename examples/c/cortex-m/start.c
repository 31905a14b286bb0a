/* From reset to main on a Cortex-M4F, and a console by semihosting: what a vendor's start-up code does. */
#include "console.h"

#include <stdint.h>

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];

int main(void);

/* Asks the debugger for something (Arm's "semihosting"). */
static int32_t semihost(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

void console_write(const char *text)
{
    semihost(0x04, text); /* SYS_WRITE0 */
}

_Noreturn void console_leave(int code)
{
    const uint32_t reason[2] = {0x20026, (uint32_t)code}; /* ADP_Stopped_ApplicationExit */
    semihost(0x20, reason);                             /* SYS_EXIT_EXTENDED */
    for (;;) {
    }
}

static _Noreturn void on_reset(void)
{
    volatile uint32_t *const cpacr = (volatile uint32_t *)0xe000ed88u;
    *cpacr |= 0xfu << 20; /* the FPU */
    __asm__ volatile("dsb\nisb" ::: "memory");
    for (uint32_t *from = data_load, *to = data_start; to < data_end;)
        *to++ = *from++;
    for (uint32_t *at = bss_start; at < bss_end;)
        *at++ = 0;
    console_leave(main());
}

static _Noreturn void on_fault(void)
{
    console_write("fault\n");
    console_leave(2);
}

struct vectors {
    uint32_t *stack;
    void (*handlers[15])(void);
};

__attribute__((section(".vectors"), used)) const struct vectors vectors = {
    stack_top,
    {on_reset, on_fault, on_fault, on_fault, on_fault, on_fault},
};
