/*
 * Brooklet: quantized recurrent and hybrid models, one step at a time, in memory that never grows.
 *
 *     static brooklet_model model;                                      // one per file
 *     static brooklet_stream stream;                                    // one per stream
 *     BROOKLET_ALIGN(16) static uint8_t state[WATCH_STATE_BYTES];       // one per stream
 *     BROOKLET_ALIGN(16) static uint8_t scratch[WATCH_SCRATCH_BYTES];   // shared by streams that take turns
 *
 *     brooklet_open(&model, watch_model, sizeof watch_model);
 *     brooklet_init(&stream, &model, state, sizeof state, scratch, sizeof scratch);
 *     while (read_sensor(frame))
 *         brooklet_step(&stream, frame, WATCH_CHANNELS, outputs, WATCH_OUTPUTS);
 *
 * (`brooklet export watch.brook --c DIR` makes watch_model and the sizes.)
 *
 * Whose memory: the caller's, all of it. There is no heap and no global. The file, the model, the state and the scratch must
 * stay where they are for as long as a stream is used; "Safety" says what each function relies on. Whatever can be checked
 * (NULL, alignment, sizes, overlaps, structs that were never set up) is answered with a status instead.
 *
 * Alignment: the file 64 bytes, state and scratch 16, numbers 4.
 *
 * This file is made by cbindgen from targets/capi/src: do not edit it.
 */


#ifndef BROOKLET_H
#define BROOKLET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Places a variable on a boundary of so many bytes: BROOKLET_ALIGN(16) static uint8_t state[N]; */
#if defined(__cplusplus) && __cplusplus >= 201103L
#define BROOKLET_ALIGN(bytes) alignas(bytes)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define BROOKLET_ALIGN(bytes) _Alignas(bytes)
#elif defined(_MSC_VER)
#define BROOKLET_ALIGN(bytes) __declspec(align(bytes))
#else
#define BROOKLET_ALIGN(bytes) __attribute__((aligned(bytes)))
#endif


// Version of this interface: it changes when a program compiled against an older header would go wrong.
#define BROOKLET_ABI 1

// Words of a model's memory that are Brooklet's own.
#define BROOKLET_MODEL_WORDS 78

// Words of a stream's memory that are Brooklet's own.
#define BROOKLET_STREAM_WORDS 22

// What a call came to. 0 is success; brooklet_error_string has a sentence for each.
enum brooklet_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It worked.
    BROOKLET_STATUS_OK = 0,
    // A pointer is NULL that must not be.
    BROOKLET_STATUS_NULL_POINTER = 1,
    // The model was not opened, or the stream not initialised.
    BROOKLET_STATUS_NOT_OPEN = 2,
    // The struct's own address is not a multiple of its alignment.
    BROOKLET_STATUS_HANDLE_ALIGNMENT = 3,
    // A length is larger than memory can be.
    BROOKLET_STATUS_TOO_LONG = 4,
    // The bytes are no .brook file.
    BROOKLET_STATUS_NOT_BROOK = 10,
    // The file's format version is not the one this build reads.
    BROOKLET_STATUS_FORMAT_VERSION = 11,
    // The file was cut short or added to.
    BROOKLET_STATUS_FILE_LENGTH = 12,
    // The file's header is damaged or contradicts itself.
    BROOKLET_STATUS_HEADER = 13,
    // A section of the file is damaged.
    BROOKLET_STATUS_SECTION = 14,
    // A state slot does not fit the memory plan.
    BROOKLET_STATUS_SLOT = 15,
    // An operation of the model's program is not valid.
    BROOKLET_STATUS_OPERATION = 16,
    // The file does not start on a 64-byte boundary.
    BROOKLET_STATUS_FILE_ALIGNMENT = 17,
    // The state does not start on a 16-byte boundary.
    BROOKLET_STATUS_STATE_ALIGNMENT = 20,
    // The state has fewer bytes than brooklet_state_bytes.
    BROOKLET_STATUS_STATE_TOO_SMALL = 21,
    // The scratch does not start on a 16-byte boundary.
    BROOKLET_STATUS_SCRATCH_ALIGNMENT = 22,
    // The scratch has fewer bytes than brooklet_scratch_bytes.
    BROOKLET_STATUS_SCRATCH_TOO_SMALL = 23,
    // There is room for fewer bytes than brooklet_snapshot_bytes.
    BROOKLET_STATUS_SNAPSHOT_TOO_SMALL = 24,
    // There is room for fewer numbers than brooklet_outputs.
    BROOKLET_STATUS_OUTPUTS_TOO_SMALL = 25,
    // Two buffers overlap that must not.
    BROOKLET_STATUS_OVERLAP = 26,
    // The stream was initialised with another model.
    BROOKLET_STATUS_OTHER_MODEL = 27,
    // A frame for a token model, or the reverse.
    BROOKLET_STATUS_WRONG_INPUT = 30,
    // There is no token.
    BROOKLET_STATUS_EMPTY_INPUT = 31,
    // A token is outside the vocabulary.
    BROOKLET_STATUS_TOKEN_OUT_OF_RANGE = 32,
    // A frame has more or fewer values than the model has channels.
    BROOKLET_STATUS_FRAME_WIDTH = 33,
    // A sample is not a finite number.
    BROOKLET_STATUS_FRAME_NOT_FINITE = 34,
    // The time since the last frame is not a finite number of seconds above 0.
    BROOKLET_STATUS_GAP_NOT_POSITIVE = 35,
    // This model knows its own rate alone.
    BROOKLET_STATUS_GAP_UNSUPPORTED = 36,
    // The attention cache is full and the model was made to stop there.
    BROOKLET_STATUS_CONTEXT_FULL = 37,
    // Numbers do not start on a 4-byte boundary.
    BROOKLET_STATUS_NUMBER_ALIGNMENT = 38,
    // A logit is NaN or plus infinity, or all are minus infinity.
    BROOKLET_STATUS_LOGIT_NOT_FINITE = 39,
    // Not a snapshot, or cut short.
    BROOKLET_STATUS_SNAPSHOT_FORMAT = 40,
    // A snapshot of a version this build does not read.
    BROOKLET_STATUS_SNAPSHOT_VERSION = 41,
    // A snapshot of another model.
    BROOKLET_STATUS_SNAPSHOT_OTHER_MODEL = 42,
    // The snapshot is damaged.
    BROOKLET_STATUS_SNAPSHOT_CHECKSUM = 43,
    // This device did not reproduce the file's golden outputs.
    BROOKLET_STATUS_SELF_TEST = 50,
    // An error that this version of the interface has no number for.
    BROOKLET_STATUS_OTHER = 99,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum brooklet_status brooklet_status;
#else
typedef int32_t brooklet_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a model's outputs are.
enum brooklet_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The model is not open.
    BROOKLET_KIND_NONE = 0,
    // One logit per token; brooklet_softmax makes probabilities of them.
    BROOKLET_KIND_LOGITS = 1,
    // One logit per class; brooklet_softmax makes probabilities of them.
    BROOKLET_KIND_CLASSES = 2,
    // Numbers that mean what they are.
    BROOKLET_KIND_VALUES = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum brooklet_kind brooklet_kind;
#else
typedef int32_t brooklet_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A checked model. Place it where it lives as long as its streams: they keep its address. The file's bytes are used where they
// lie and must stay there, unchanged, for as long. Nothing needs to be closed. Any number of streams, in any number of
// threads, may share one model.
typedef struct brooklet_model {
    // Brooklet's own.
    uint64_t tag;
    // Brooklet's own.
    size_t words[BROOKLET_MODEL_WORDS];
} brooklet_model;

// One stream: a place in a model's endless input. The struct is small; the stream's memory is the state that brooklet_init
// was given, and that nobody else may touch while the stream is used. One thread at a time may use it. To move it, copy the
// struct and forget the old one; nothing needs to be closed.
typedef struct brooklet_stream {
    // Brooklet's own.
    uint64_t tag;
    // Brooklet's own.
    size_t words[BROOKLET_STREAM_WORDS];
} brooklet_stream;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// BROOKLET_ABI of the library, for programs that load it when they run.
uint32_t brooklet_abi(void);

// A sentence for a status: what happened and what to do. Never NULL; lives as long as the program.
const char *brooklet_error_string(int32_t status);

// Checks the .brook file in `file_bytes` bytes at `file` (on a 64-byte boundary), every checksum included, and makes `model`
// ready. It reads the whole file once: call it at start, not per step.
//
// # Safety
//
// `file_bytes` bytes can be read at `file` and stay as they are for as long as the model or any of its streams is used.
// `model` may hold anything; no stream of it may be in use.
brooklet_status brooklet_open(struct brooklet_model *model,
                              const uint8_t *file,
                              size_t file_bytes);

// Bytes of one stream's state; 0 if the model is not open.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
size_t brooklet_state_bytes(const struct brooklet_model *model);

// Bytes of scratch to take up to `tokens` tokens or frames at once; 1 is enough to step. Streams that take turns may share
// one scratch. 0 if the model is not open.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
size_t brooklet_scratch_bytes(const struct brooklet_model *model,
                              size_t tokens);

// Bytes of a snapshot of one stream; 0 if the model is not open.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
size_t brooklet_snapshot_bytes(const struct brooklet_model *model);

// Numbers that a step gives; 0 if the model is not open.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
size_t brooklet_outputs(const struct brooklet_model *model);

// Channels of a sensor frame; 0 for token models, or if the model is not open.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
size_t brooklet_channels(const struct brooklet_model *model);

// Number of token ids; 0 for sensor models, or if the model is not open.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
uint32_t brooklet_vocab(const struct brooklet_model *model);

// Frames per second that a sensor model was trained at; 0 for token models, or if the model is not open.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
float brooklet_rate_hz(const struct brooklet_model *model);

// Whether frames may come at irregular times, through brooklet_step_after.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
bool brooklet_takes_gaps(const struct brooklet_model *model);

// What the model's outputs are.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model.
brooklet_kind brooklet_output_kind(const struct brooklet_model *model);

// Copies the name of output `index`, a class or a value, to `name`: at most `name_bytes` bytes of UTF-8, the NUL at the end
// included. Returns the bytes of the whole name without NUL; 0 if there is no such name. `name` may be NULL to ask for that.
// Nothing is copied, and 0 returned, if `name` overlaps the model or its file.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model; `name` is NULL or has room for `name_bytes` bytes.
size_t brooklet_class_name(const struct brooklet_model *model,
                           size_t index,
                           char *name,
                           size_t name_bytes);

// Copies the name of channel `index` to `name`, as brooklet_class_name does.
//
// # Safety
//
// As brooklet_class_name.
size_t brooklet_channel_name(const struct brooklet_model *model, size_t index, char *name, size_t name_bytes);

// Proves that this device computes what the file says, bit for bit: runs the golden input that the file carries. `state` and
// `scratch` are only borrowed for the test.
//
// # Safety
//
// `model` is NULL or points to a brooklet_model; `state` and `scratch` are NULL or have as many bytes as said, which no
// stream uses during the call.
brooklet_status brooklet_self_test(const struct brooklet_model *model,
                                   uint8_t *state,
                                   size_t state_bytes,
                                   uint8_t *scratch,
                                   size_t scratch_bytes);

// Begins a stream of `model` in the memory at `state` and `scratch`, both on 16-byte boundaries, of at least
// brooklet_state_bytes and brooklet_scratch_bytes bytes. More scratch lets brooklet_step_tokens take more tokens at once.
//
// # Safety
//
// `model` stays where it is, and `state` and `scratch` stay valid, for as long as the stream is used. Nobody else touches
// `state` meanwhile. Another stream may use the same scratch, but not at the same time. `stream` may hold anything.
brooklet_status brooklet_init(struct brooklet_stream *stream,
                              const struct brooklet_model *model,
                              uint8_t *state,
                              size_t state_bytes,
                              uint8_t *scratch,
                              size_t scratch_bytes);

// One step on a sensor frame: one sample of each of `channels` channels, in the units that the model names. Gives
// brooklet_outputs numbers; `outputs` may be NULL if nobody wants them. On an error the stream is as it was before.
//
// # Safety
//
// `stream` is NULL or points to a brooklet_stream that nobody else uses; `channels` numbers can be read at `frame`; `outputs`
// is NULL or has room for `count` numbers.
brooklet_status brooklet_step(struct brooklet_stream *stream,
                              const float *frame,
                              size_t channels,
                              float *outputs,
                              size_t count);

// brooklet_step for a frame that comes `seconds` after the one before, for models that brooklet_takes_gaps.
//
// # Safety
//
// As brooklet_step.
brooklet_status brooklet_step_after(struct brooklet_stream *stream,
                                    float seconds,
                                    const float *frame,
                                    size_t channels,
                                    float *outputs,
                                    size_t count);

// One step on a token. Gives brooklet_outputs logits; `outputs` may be NULL. On an error the stream is as it was before.
//
// # Safety
//
// `stream` is NULL or points to a brooklet_stream that nobody else uses; `outputs` is NULL or has room for `count` numbers.
brooklet_status brooklet_step_token(struct brooklet_stream *stream,
                                    uint32_t token,
                                    float *outputs,
                                    size_t count);

// Several tokens at once: the same bits as single steps, but faster where the scratch has room for more than one. Gives the
// logits after the last.
//
// # Safety
//
// `stream` is NULL or points to a brooklet_stream that nobody else uses; `token_count` ids can be read at `tokens`; `outputs`
// is NULL or has room for `count` numbers.
brooklet_status brooklet_step_tokens(struct brooklet_stream *stream,
                                     const uint32_t *tokens,
                                     size_t token_count,
                                     float *outputs,
                                     size_t count);

// Begins the stream anew.
//
// # Safety
//
// `stream` is NULL or points to a brooklet_stream that nobody else uses.
brooklet_status brooklet_reset(struct brooklet_stream *stream);

// Steps taken since the stream began; 0 if it was not initialised.
//
// # Safety
//
// `stream` is NULL or points to a brooklet_stream that nobody changes meanwhile.
uint64_t brooklet_position(const struct brooklet_stream *stream);

// Writes a snapshot of the stream, brooklet_snapshot_bytes bytes, to `snapshot`, to go on later or elsewhere, bit for bit.
//
// # Safety
//
// `stream` is NULL or points to a brooklet_stream that nobody else uses; `snapshot` is NULL or has room for
// `snapshot_bytes` bytes.
brooklet_status brooklet_save(struct brooklet_stream *stream,
                              uint8_t *snapshot,
                              size_t snapshot_bytes);

// Goes on from a snapshot of exactly brooklet_snapshot_bytes bytes. On an error the stream is as it was before.
//
// # Safety
//
// `stream` is NULL or points to an initialised brooklet_stream that nobody else uses; `snapshot_bytes` bytes can be read at
// `snapshot`.
brooklet_status brooklet_load(struct brooklet_stream *stream,
                              const uint8_t *snapshot,
                              size_t snapshot_bytes);

// Turns logits into probabilities in place. Its bits are the same on every device. Minus infinity has the probability 0; NaN,
// plus infinity, or nothing but minus infinity have none: they are answered with status 39 (LOGIT_NOT_FINITE), and the logits
// stay as they were.
//
// # Safety
//
// `logits` is NULL or has `count` numbers that nobody else touches.
brooklet_status brooklet_softmax(float *logits,
                                 size_t count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BROOKLET_H */
