//! A streaming sensor classifier, free of any board.
//!
//! The sensor announces a sample with an interrupt; [`Sampler::data_ready`] reads it and queues it. The main loop sleeps,
//! and [`Classifier::poll`] steps the model on what is queued. Each [`Report`] goes out as a frame on a serial line
//! ([`Message::send`]), and [`Receiver`] reads them on the other end. Before all that, [`boot`] proves file and device.
//!
//! A board brings an I2C bus, a pin's interrupt, a serial port and a [`Clock`].
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod boot;
mod classifier;
mod clock;
mod imu;
pub mod mpu6050;
mod recorded;
mod replay;
mod report;
mod sampler;

pub use boot::{Fault, Stage, boot};
pub use classifier::Classifier;
pub use clock::Clock;
pub use imu::{CHANNELS, Imu, Sample};
pub use mpu6050::Mpu6050;
pub use recorded::RecordedMpu6050;
pub use replay::{Fingerprint, Replay};
pub use report::{Damaged, MAX_CLASSES, MAX_FRAME_BYTES, Message, Receiver, Report};
pub use sampler::{SampleQueue, Sampler};

/// Bytes on the 64-byte boundary that a model's file needs.
#[repr(C, align(64))]
pub struct Aligned<T>(
    /// The bytes.
    pub T,
);
