/* A sensor model on Zephyr: 50 frames a second in, an exercise out. Replace read_frame by the board's own sensor. */
#include <brooklet.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include "watch.h"

static brooklet_model model;
static brooklet_stream stream;
BROOKLET_ALIGN(16) static uint8_t state[WATCH_STATE_BYTES];
BROOKLET_ALIGN(16) static uint8_t scratch[WATCH_SCRATCH_BYTES];

/* Stands for an IMU: a watch that lies still, acceleration in g and rotation in rad/s. */
static void read_frame(float frame[WATCH_CHANNELS])
{
	static const float still[WATCH_CHANNELS] = {0.0f, 0.0f, 1.0f, 0.0f, 0.0f, 0.0f};

	for (size_t channel = 0; channel < WATCH_CHANNELS; channel++) {
		frame[channel] = still[channel];
	}
}

static bool failed(brooklet_status status, const char *what)
{
	if (status != BROOKLET_STATUS_OK) {
		printk("%s: %s\n", what, brooklet_error_string(status));
	}
	return status != BROOKLET_STATUS_OK;
}

int main(void)
{
	if (failed(brooklet_open(&model, watch_model, sizeof(watch_model)), "model") ||
	    failed(brooklet_self_test(&model, state, sizeof(state), scratch, sizeof(scratch)), "self-test") ||
	    failed(brooklet_init(&stream, &model, state, sizeof(state), scratch, sizeof(scratch)), "stream")) {
		return 1;
	}
	for (unsigned int step = 1;; step++) {
		float frame[WATCH_CHANNELS], outputs[WATCH_OUTPUTS];

		read_frame(frame);
		if (failed(brooklet_step(&stream, frame, WATCH_CHANNELS, outputs, WATCH_OUTPUTS), "step")) {
			return 1;
		}
		if (step % 50 == 0) {
			size_t best = 0;

			for (size_t i = 1; i < WATCH_OUTPUTS; i++) {
				best = outputs[i] > outputs[best] ? i : best;
			}
			printk("step %u: class %s\n", step, watch_class_names[best]);
		}
		k_msleep((int32_t)(1000.0f / WATCH_RATE_HZ));
	}
}
