/* Proves that this device computes what every other one does, then takes 1,000 steps and prints the 64-bit FNV-1a of all
 * outputs' bits: the same number as on a PC. */
#include "brooklet.h"
#include "console.h"
#include "watch.h"

#define STEPS 1000u

static brooklet_model model;
static brooklet_stream stream;
BROOKLET_ALIGN(16) static uint8_t state[WATCH_STATE_BYTES];
BROOKLET_ALIGN(16) static uint8_t scratch[WATCH_SCRATCH_BYTES];

static int failed(brooklet_status status, const char *what)
{
    if (status == BROOKLET_STATUS_OK)
        return 0;
    console_write(what);
    console_write(": ");
    console_write(brooklet_error_string(status));
    console_write("\n");
    return 1;
}

/* A frame of numbers from -4 to 4 that any machine makes alike: integers, and a division that is exact. */
static void next_frame(uint32_t *seed, float frame[WATCH_CHANNELS])
{
    for (unsigned channel = 0; channel < WATCH_CHANNELS; channel++) {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 17;
        *seed ^= *seed << 5;
        frame[channel] = (float)((int32_t)(*seed >> 20) - 2048) / 512.0f;
    }
}

static uint64_t hash_on(uint64_t hash, const float *values, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        union {
            float value;
            uint32_t bits;
        } number = {values[i]};
        for (unsigned shift = 0; shift < 32; shift += 8)
            hash = (hash ^ ((number.bits >> shift) & 0xff)) * UINT64_C(0x100000001b3);
    }
    return hash;
}

static void write_hex(uint64_t number)
{
    char text[17] = {0};
    for (unsigned i = 0; i < 16; i++)
        text[i] = "0123456789abcdef"[(number >> (60 - 4 * i)) & 15];
    console_write(text);
}

int main(void)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    uint32_t seed = 1;

    if (failed(brooklet_open(&model, watch_model, sizeof watch_model), "model") ||
        failed(brooklet_self_test(&model, state, sizeof state, scratch, sizeof scratch), "self-test") ||
        failed(brooklet_init(&stream, &model, state, sizeof state, scratch, sizeof scratch), "stream"))
        return 1;
    for (unsigned step = 0; step < STEPS; step++) {
        float frame[WATCH_CHANNELS], outputs[WATCH_OUTPUTS];
        next_frame(&seed, frame);
        if (failed(brooklet_step(&stream, frame, WATCH_CHANNELS, outputs, WATCH_OUTPUTS), "step"))
            return 1;
        hash = hash_on(hash, outputs, WATCH_OUTPUTS);
    }
    console_write("1000 steps give ");
    write_hex(hash);
    console_write("\n");
    return 0;
}
