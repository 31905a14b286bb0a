/* Streams a recording through the watch model and says every second which exercise it sees.
 *
 * The file has one sample of every channel per line, with or without a first line of names. */
#include "brooklet.h"
#include "watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All the memory there is: nothing else is taken, however long the stream. */
static brooklet_model model;
static brooklet_stream stream;
BROOKLET_ALIGN(16) static uint8_t state[WATCH_STATE_BYTES];
BROOKLET_ALIGN(16) static uint8_t scratch[WATCH_SCRATCH_BYTES];

static void check(brooklet_status status, const char *what)
{
    if (status != BROOKLET_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", what, brooklet_error_string(status));
        exit(1);
    }
}

/* Reads one line of numbers; 0 if it is something else. */
static int read_frame(char *line, float frame[WATCH_CHANNELS])
{
    size_t channel;
    for (channel = 0; channel < WATCH_CHANNELS; channel++) {
        char *end;
        frame[channel] = strtof(line, &end);
        if (end == line)
            return 0;
        line = end + (*end == ',');
    }
    return *line == '\0' || *line == '\r' || *line == '\n';
}

static size_t best(const float *values, size_t count)
{
    size_t i, best = 0;
    for (i = 1; i < count; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

int main(int count, char **args)
{
    char line[512];
    unsigned long number = 0, steps = 0;
    FILE *file;

    if (count != 2) {
        fprintf(stderr, "usage: %s recording.csv\n", args[0]);
        return 2;
    }
    check(brooklet_open(&model, watch_model, sizeof watch_model), "model");
    check(brooklet_self_test(&model, state, sizeof state, scratch, sizeof scratch), "self-test");
    check(brooklet_init(&stream, &model, state, sizeof state, scratch, sizeof scratch), "stream");

    file = fopen(args[1], "r");
    if (!file) {
        perror(args[1]);
        return 1;
    }
    while (fgets(line, sizeof line, file)) {
        float frame[WATCH_CHANNELS], outputs[WATCH_OUTPUTS];
        number++;
        if (!read_frame(line, frame)) {
            if (number == 1)
                continue; /* the line of names */
            fprintf(stderr, "%s, line %lu: not %u numbers\n", args[1], number, WATCH_CHANNELS);
            return 1;
        }
        check(brooklet_step(&stream, frame, WATCH_CHANNELS, outputs, WATCH_OUTPUTS), args[1]);
        if (++steps % (unsigned long)WATCH_RATE_HZ == 0) {
            size_t class_index;
            check(brooklet_softmax(outputs, WATCH_OUTPUTS), "softmax");
            class_index = best(outputs, WATCH_OUTPUTS);
            printf("%7lu  %-4s  %.3f\n", steps, watch_class_names[class_index], (double)outputs[class_index]);
        }
    }
    fclose(file);
    /* A full disk shows itself no earlier than when the last lines leave the buffer. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "standard output: not everything could be written\n");
        return 1;
    }
    return 0;
}
