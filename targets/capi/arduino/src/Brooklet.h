// Brooklet for Arduino: a thin C++ face of the C interface (c/brooklet.h).
//
//   BrookletModel model;
//   BrookletStream<WATCH_STATE_BYTES, WATCH_SCRATCH_BYTES> stream;
//
//   model.begin(watch_model, sizeof watch_model) && stream.begin(model);
//   stream.step(frame, outputs);
//
// Declare both outside of functions: they are the memory that the stream works in, and keep their addresses.
#ifndef BROOKLET_ARDUINO_H
#define BROOKLET_ARDUINO_H

#include "c/brooklet.h"

// What a call came to: true in conditions if it worked.
class BrookletResult {
public:
  BrookletResult(brooklet_status status) : status_(status) {}

  explicit operator bool() const { return status_ == BROOKLET_STATUS_OK; }
  brooklet_status status() const { return status_; }

  // What happened, and what to do about it.
  const char *text() const { return brooklet_error_string(status_); }

private:
  brooklet_status status_;
};

// A checked model.
class BrookletModel {
public:
  BrookletModel() : model_() {}
  BrookletModel(const BrookletModel &) = delete;
  BrookletModel &operator=(const BrookletModel &) = delete;

  // Checks the file, every checksum included. It stays where it is.
  BrookletResult begin(const uint8_t *file, size_t file_bytes) { return brooklet_open(&model_, file, file_bytes); }

  size_t channels() const { return brooklet_channels(&model_); }
  size_t outputs() const { return brooklet_outputs(&model_); }
  float rateHz() const { return brooklet_rate_hz(&model_); }

  // For the functions of c/brooklet.h.
  const brooklet_model *handle() const { return &model_; }

private:
  brooklet_model model_;
};

// One stream and all its memory. The sizes are those that `brooklet export` wrote.
template <size_t STATE_BYTES, size_t SCRATCH_BYTES> class BrookletStream {
public:
  BrookletStream() : stream_() {}
  BrookletStream(const BrookletStream &) = delete;
  BrookletStream &operator=(const BrookletStream &) = delete;

  BrookletResult begin(const BrookletModel &model) {
    return brooklet_init(&stream_, model.handle(), state_, STATE_BYTES, scratch_, SCRATCH_BYTES);
  }

  // Proves that this board computes what the file says. Before begin: it uses the stream's memory.
  BrookletResult selfTest(const BrookletModel &model) {
    return brooklet_self_test(model.handle(), state_, STATE_BYTES, scratch_, SCRATCH_BYTES);
  }

  // A frame in, the outputs out.
  template <size_t CHANNELS, size_t OUTPUTS> BrookletResult step(const float (&frame)[CHANNELS], float (&outputs)[OUTPUTS]) {
    return brooklet_step(&stream_, frame, CHANNELS, outputs, OUTPUTS);
  }

  // The same, for a frame that comes so many seconds after the one before.
  template <size_t CHANNELS, size_t OUTPUTS>
  BrookletResult stepAfter(float seconds, const float (&frame)[CHANNELS], float (&outputs)[OUTPUTS]) {
    return brooklet_step_after(&stream_, seconds, frame, CHANNELS, outputs, OUTPUTS);
  }

  // Begins the stream anew.
  BrookletResult reset() { return brooklet_reset(&stream_); }

  // Steps since then.
  uint64_t position() const { return brooklet_position(&stream_); }

  // For the functions of c/brooklet.h.
  brooklet_stream *handle() { return &stream_; }

private:
  brooklet_stream stream_;
  alignas(16) uint8_t state_[STATE_BYTES];
  alignas(16) uint8_t scratch_[SCRATCH_BYTES];
};

// Turns logits into probabilities.
template <size_t OUTPUTS> BrookletResult brookletSoftmax(float (&logits)[OUTPUTS]) { return brooklet_softmax(logits, OUTPUTS); }

#endif
