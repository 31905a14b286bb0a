/* Stands for Zephyr's header: as much of it as the sample uses. */
#ifndef ZEPHYR_KERNEL_H
#define ZEPHYR_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int32_t k_msleep(int32_t ms);

#endif
