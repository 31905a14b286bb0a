//! InvenSense MPU-6050, an accelerometer with a gyroscope, over I2C.
//!
//! Registers: "MPU-6000 and MPU-6050 Register Map and Descriptions", revision 4.2.

use crate::imu::{CHANNELS, Imu};
use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;

/// The address with pin AD0 low.
pub const ADDRESS: u8 = 0x68;

/// At ±8 g.
pub(crate) const COUNTS_PER_G: f32 = 4096.0;
/// At ±1000 °/s: 32.8 counts per °/s.
pub(crate) const COUNTS_PER_RAD_PER_S: f32 = 32.8 * 57.295_78;

/// Register numbers.
pub(crate) mod register {
    pub(crate) const SMPLRT_DIV: u8 = 0x19;
    pub(crate) const CONFIG: u8 = 0x1a;
    pub(crate) const GYRO_CONFIG: u8 = 0x1b;
    pub(crate) const ACCEL_CONFIG: u8 = 0x1c;
    pub(crate) const INT_PIN_CFG: u8 = 0x37;
    pub(crate) const INT_ENABLE: u8 = 0x38;
    /// Acceleration, temperature, angular rate: seven big-endian `i16`.
    pub(crate) const ACCEL_XOUT_H: u8 = 0x3b;
    pub(crate) const PWR_MGMT_1: u8 = 0x6b;
    pub(crate) const WHO_AM_I: u8 = 0x75;
}

/// The answer to `WHO_AM_I`. Its successors answer otherwise: they have a low-pass register more.
const CHIP: u8 = 0x68;

/// Why the sensor cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Mpu6050Error<E> {
    /// The bus reported an error: no sensor at this address, or a wire is loose.
    Bus(E),
    /// Something else answers at this address.
    OtherChip {
        /// What it said that it is.
        who_am_i: u8,
    },
    /// The sensor divides 1 kHz by 1 to 256.
    Rate {
        /// The rate that was asked for.
        rate_hz: u16,
    },
}

impl<E> From<E> for Mpu6050Error<E> {
    fn from(error: E) -> Self {
        Mpu6050Error::Bus(error)
    }
}

/// The sensor, set to ±8 g and ±1000 °/s, low-passed at 20 Hz.
#[derive(Debug)]
pub struct Mpu6050<B> {
    bus: B,
}

impl<B: I2c> Mpu6050<B> {
    /// Resets the sensor at [`ADDRESS`] and has it announce `rate_hz` samples a second, by pulses on its pin INT.
    pub fn new(bus: B, delay: &mut impl DelayNs, rate_hz: u16) -> Result<Self, Mpu6050Error<B::Error>> {
        let divisor = 1000u16.checked_div(rate_hz).and_then(|d| d.checked_sub(1)).and_then(|d| u8::try_from(d).ok());
        let divisor = divisor.ok_or(Mpu6050Error::Rate { rate_hz })?;
        let mut sensor = Mpu6050 { bus };
        let mut who_am_i = [0];
        sensor.bus.write_read(ADDRESS, &[register::WHO_AM_I], &mut who_am_i)?;
        let [who_am_i] = who_am_i;
        if who_am_i != CHIP {
            return Err(Mpu6050Error::OtherChip { who_am_i });
        }
        sensor.write(register::PWR_MGMT_1, 0x80)?; // reset
        delay.delay_ms(100);
        sensor.write(register::PWR_MGMT_1, 0x01)?; // awake, clocked by the gyroscope's oscillator
        sensor.write(register::CONFIG, 4)?; // low-pass 20 Hz, 1 kHz before the divisor
        sensor.write(register::SMPLRT_DIV, divisor)?;
        sensor.write(register::GYRO_CONFIG, 2 << 3)?;
        sensor.write(register::ACCEL_CONFIG, 2 << 3)?;
        sensor.write(register::INT_PIN_CFG, 0x10)?; // any read ends the announcement
        sensor.write(register::INT_ENABLE, 0x01)?; // announce data
        Ok(sensor)
    }

    fn write(&mut self, register: u8, value: u8) -> Result<(), B::Error> {
        self.bus.write(ADDRESS, &[register, value])
    }
}

impl<B: I2c> Imu for Mpu6050<B> {
    type Error = B::Error;

    fn read(&mut self) -> Result<[f32; CHANNELS], B::Error> {
        let mut bytes = [0; 14];
        self.bus.write_read(ADDRESS, &[register::ACCEL_XOUT_H], &mut bytes)?;
        let [ax, ay, az, _temperature, wx, wy, wz] = words(bytes);
        let g = |counts: i16| f32::from(counts) / COUNTS_PER_G;
        let rad_per_s = |counts: i16| f32::from(counts) / COUNTS_PER_RAD_PER_S;
        Ok([g(ax), g(ay), g(az), rad_per_s(wx), rad_per_s(wy), rad_per_s(wz)])
    }
}

fn words(bytes: [u8; 14]) -> [i16; 7] {
    let mut words = [0; 7];
    for (word, pair) in words.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *word = i16::from_be_bytes(*pair);
    }
    words
}
