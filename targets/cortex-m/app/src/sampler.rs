//! The interrupt's half: reads the sensor when it has a sample, and leaves the sample in a queue.

use crate::imu::{Imu, Sample};
use heapless::spsc::{Producer, Queue};

/// Room for seven samples: at 50 Hz the main loop may be late by 140 ms before one is lost.
pub type SampleQueue = Queue<Sample, 8>;

/// Fills the queue. It never waits: what finds no room is lost, and the numbers of the samples show it.
pub struct Sampler<'q, I> {
    imu: I,
    samples: Producer<'q, Sample>,
    number: u32,
}

impl<'q, I: Imu> Sampler<'q, I> {
    /// Reads `imu` into `samples`.
    pub fn new(imu: I, samples: Producer<'q, Sample>) -> Self {
        Sampler { imu, samples, number: 0 }
    }

    /// The data-ready interrupt: reads the sample and queues it.
    pub fn data_ready(&mut self) {
        let number = self.number;
        self.number = number.wrapping_add(1);
        if let Ok(values) = self.imu.read() {
            // Full: the main loop is behind, and finds a gap in the numbers.
            let _ = self.samples.enqueue(Sample { number, values });
        }
    }
}
