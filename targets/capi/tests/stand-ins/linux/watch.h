/* Stands for the exported model: a frame a second, so that every frame becomes a line of output. */
#include <stdint.h>

#define WATCH_CHANNELS 6u
#define WATCH_OUTPUTS 2u
#define WATCH_STATE_BYTES 16u
#define WATCH_SCRATCH_BYTES 16u
#define WATCH_RATE_HZ 1.0f

static const uint8_t watch_model[1];
static const char *const watch_class_names[WATCH_OUTPUTS] = {"one", "two"};
