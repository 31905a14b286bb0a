// Which shoulder exercise is it? Samples of a smartwatch come in over the serial port, a line of six numbers each:
// acceleration (g) and rotation (rad/s). Twice a second the board says what it thinks.
//
// First put the model beside this sketch: brooklet export watch.brook --c path/to/Watch
#include <Brooklet.h>

#include "watch.h"

BrookletModel model;
BrookletStream<WATCH_STATE_BYTES, WATCH_SCRATCH_BYTES> stream;

void check(BrookletResult result) {
  while (!result) {
    Serial.println(result.text());
    delay(1000);
  }
}

void setup() {
  Serial.begin(115200);
  check(model.begin(watch_model, sizeof watch_model));
  check(stream.selfTest(model));
  check(stream.begin(model));
}

void loop() {
  float frame[WATCH_CHANNELS];
  for (float &sample : frame) {
    sample = Serial.parseFloat();
  }
  float outputs[WATCH_OUTPUTS];
  check(stream.step(frame, outputs));
  if (stream.position() % 25 == 0) {
    check(brookletSoftmax(outputs));
    size_t best = 0;
    for (size_t i = 1; i < WATCH_OUTPUTS; i++) {
      if (outputs[i] > outputs[best]) {
        best = i;
      }
    }
    Serial.print(watch_class_names[best]);
    Serial.print(' ');
    Serial.println(outputs[best]);
  }
}
