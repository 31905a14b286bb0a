/* Text to the debugger's console, or QEMU's. */
#ifndef CONSOLE_H
#define CONSOLE_H

void console_write(const char *text);

#endif
