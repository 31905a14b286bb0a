/* Stands for the library: every call works, and the second class is always the more probable one. */
#include "brooklet.h"

brooklet_status brooklet_open(struct brooklet_model *model, const uint8_t *file, size_t file_bytes)
{
    (void)model, (void)file, (void)file_bytes;
    return BROOKLET_STATUS_OK;
}

brooklet_status brooklet_self_test(const struct brooklet_model *model, uint8_t *state, size_t state_bytes, uint8_t *scratch,
                                   size_t scratch_bytes)
{
    (void)model, (void)state, (void)state_bytes, (void)scratch, (void)scratch_bytes;
    return BROOKLET_STATUS_OK;
}

brooklet_status brooklet_init(struct brooklet_stream *stream, const struct brooklet_model *model, uint8_t *state,
                              size_t state_bytes, uint8_t *scratch, size_t scratch_bytes)
{
    (void)stream;
    return brooklet_self_test(model, state, state_bytes, scratch, scratch_bytes);
}

brooklet_status brooklet_step(struct brooklet_stream *stream, const float *frame, size_t channels, float *outputs, size_t count)
{
    (void)stream, (void)frame, (void)channels, (void)count;
    outputs[0] = 0.25f;
    outputs[1] = 0.75f;
    return BROOKLET_STATUS_OK;
}

brooklet_status brooklet_softmax(float *logits, size_t count)
{
    (void)logits, (void)count;
    return BROOKLET_STATUS_OK;
}

const char *brooklet_error_string(int32_t status)
{
    (void)status;
    return "";
}
