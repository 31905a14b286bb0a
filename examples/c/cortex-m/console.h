/* Text to the debugger's console, or QEMU's. */
#ifndef CONSOLE_H
#define CONSOLE_H

void console_write(const char *text);

/* Ends the emulation with an exit code; returns to nobody. */
#ifndef __cplusplus
_Noreturn
#endif
void console_leave(int code);

#endif
