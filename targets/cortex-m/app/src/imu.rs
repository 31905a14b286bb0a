//! What an inertial sensor gives, whichever it is.

/// Values of a sample: acceleration (x, y, z) in g, angular rate (x, y, z) in rad/s. The model's channels, in its order.
pub const CHANNELS: usize = 6;

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Sample {
    /// Counts what the sensor announced, from 0: a jump means that samples were lost.
    pub number: u32,
    /// (channels)
    pub values: [f32; CHANNELS],
}

/// An inertial sensor that announces each sample with an interrupt.
pub trait Imu {
    /// Why a sample could not be read.
    type Error: core::fmt::Debug;

    /// Reads the latest sample, (channels).
    fn read(&mut self) -> Result<[f32; CHANNELS], Self::Error>;
}
