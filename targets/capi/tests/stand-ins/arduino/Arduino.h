// Stands for an Arduino core: as much of it as the example sketch uses.
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stddef.h>
#include <stdint.h>

class SerialPort {
public:
  void begin(unsigned long baud);
  float parseFloat();
  void print(char character);
  void print(const char *text);
  void println(const char *text);
  void println(double number);
};

extern SerialPort Serial;

void delay(unsigned long milliseconds);
void setup();
void loop();

#endif
