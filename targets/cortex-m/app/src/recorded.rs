//! A recording behind an MPU-6050's registers: the whole firmware runs on a board without a sensor, and in an emulator.

use crate::imu::CHANNELS;
use crate::mpu6050::{ADDRESS, COUNTS_PER_G, COUNTS_PER_RAD_PER_S, register};
use crate::replay::Replay;
use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

/// An I2C bus with one MPU-6050 that plays a recording, one sample per reading.
#[derive(Debug)]
pub struct RecordedMpu6050<'r> {
    recording: Replay<'r, CHANNELS>,
    step: usize,
    /// The register that the next byte is read from.
    pointer: u8,
}

impl<'r> RecordedMpu6050<'r> {
    /// Plays `recording` from its start.
    pub fn new(recording: Replay<'r, CHANNELS>) -> Self {
        RecordedMpu6050 { recording, step: 0, pointer: 0 }
    }

    /// The current sample as its registers hold it.
    fn sample(&self) -> [u8; 14] {
        let [ax, ay, az, wx, wy, wz] = self.recording.frame(self.step);
        // Out of range saturates, as in the chip.
        let (g, rad_per_s) = (|x: f32| (x * COUNTS_PER_G) as i16, |x: f32| (x * COUNTS_PER_RAD_PER_S) as i16);
        let mut bytes = [0; 14];
        for (pair, word) in
            bytes.as_chunks_mut::<2>().0.iter_mut().zip([g(ax), g(ay), g(az), 0, rad_per_s(wx), rad_per_s(wy), rad_per_s(wz)])
        {
            *pair = word.to_be_bytes();
        }
        bytes
    }
}

impl ErrorType for RecordedMpu6050<'_> {
    type Error = ErrorKind;
}

impl I2c for RecordedMpu6050<'_> {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        if address != ADDRESS {
            return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address));
        }
        for operation in operations {
            match operation {
                // The settings that the driver writes change nothing in a recording.
                Operation::Write(bytes) => self.pointer = bytes.first().copied().unwrap_or(self.pointer),
                Operation::Read(bytes) if self.pointer == register::ACCEL_XOUT_H => {
                    bytes.iter_mut().zip(self.sample()).for_each(|(to, from)| *to = from);
                    self.step += 1;
                }
                Operation::Read(bytes) => bytes.fill(if self.pointer == register::WHO_AM_I { ADDRESS } else { 0 }),
            }
        }
        Ok(())
    }
}
