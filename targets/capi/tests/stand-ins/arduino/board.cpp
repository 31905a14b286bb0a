// Stands for a board: runs the sketch for 100 loops, sends numbers to its serial port, shows what comes back.
#include <Arduino.h>

extern "C" {
#include "console.h"
}

SerialPort Serial;

void SerialPort::begin(unsigned long) {}

float SerialPort::parseFloat() {
  static int channel = 0;
  channel = (channel + 1) % 6;
  return channel == 3 ? 1.0f : 0.0f;
}

void SerialPort::print(char character) {
  const char text[2] = {character, 0};
  console_write(text);
}

void SerialPort::print(const char *text) { console_write(text); }

void SerialPort::println(const char *text) {
  console_write(text);
  console_write("\n");
}

// Two decimals, of numbers from 0 to 1.
void SerialPort::println(double number) {
  const int hundredths = static_cast<int>(number * 100.0 + 0.5);
  print(static_cast<char>('0' + hundredths / 100));
  print('.');
  print(static_cast<char>('0' + hundredths / 10 % 10));
  print(static_cast<char>('0' + hundredths % 10));
  println("");
}

void delay(unsigned long) { console_write("waiting\n"); }

int main() {
  setup();
  for (int i = 0; i < 100; i++) {
    loop();
  }
  return 0;
}
