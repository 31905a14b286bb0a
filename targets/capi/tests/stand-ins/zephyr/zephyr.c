/* Stands for Zephyr: text to the debugger's console, and an end after 100 sleeps. */
#include <stdarg.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include "console.h"

int32_t k_msleep(int32_t ms)
{
	static int sleeps;

	if (ms != 20 || ++sleeps == 100) {
		console_write(ms == 20 ? "slept 100 times\n" : "slept for another time\n");
		console_leave(0);
	}
	return 0;
}

void printk(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	for (; *format; format++) {
		char text[11] = {*format};

		if (*format != '%') {
			console_write(text);
		} else if (*++format == 's') {
			console_write(va_arg(arguments, const char *));
		} else if (*format == 'u') {
			unsigned int number = va_arg(arguments, unsigned int);
			char *digit = text + 10;

			*digit = 0;
			do {
				*--digit = (char)('0' + number % 10);
				number /= 10;
			} while (number);
			console_write(digit);
		}
	}
	va_end(arguments);
}
