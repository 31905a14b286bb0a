//! The main loop's half: takes samples from the queue, steps the model, reports.

use crate::boot::{Fault, Stage};
use crate::clock::Clock;
use crate::imu::Sample;
use crate::report::{MAX_CLASSES, Message, Report};
use brooklet::{Error, Input, Session, softmax};
use embedded_io::Write;
use heapless::Vec;
use heapless::spsc::Consumer;

/// A model at work on a queue of samples.
pub struct Classifier<'q, 's, 'm, 'b, C> {
    samples: Consumer<'q, Sample>,
    session: Session<'s, 'm, 'b>,
    clock: C,
    /// Number of the sample that comes next if none is lost.
    next: u32,
    lost: u32,
}

impl<'q, 's, 'm, 'b, C: Clock> Classifier<'q, 's, 'm, 'b, C> {
    /// Steps `session` on `samples`; [`crate::boot`] made sure that the model's channels are the sensor's.
    pub fn new(samples: Consumer<'q, Sample>, session: Session<'s, 'm, 'b>, clock: C) -> Self {
        Classifier { samples, session, clock, next: 0, lost: 0 }
    }

    /// Sends a report for every sample, and calls `sleep` when there is none; comes back only when a step is refused.
    pub fn run<W: Write>(&mut self, port: &mut W, mut sleep: impl FnMut()) -> Message {
        loop {
            match self.poll() {
                // A port that refuses bytes is no reason to stop: the stream goes on, and reports carry their numbers.
                Ok(Some(report)) => drop(Message::Report(report).send(port)),
                Ok(None) => sleep(),
                Err(error) => return Message::from(Fault { stage: Stage::Step, error }),
            }
        }
    }

    /// One step, if there is a sample.
    pub fn poll(&mut self) -> Result<Option<Report>, Error> {
        let Some(Sample { number, values }) = self.samples.dequeue() else { return Ok(None) };
        self.lost = self.lost.wrapping_add(number.wrapping_sub(self.next));
        self.next = number.wrapping_add(1);

        let started = self.clock.ticks();
        self.session.step(Input::Frame(&values))?;
        let ticks = self.clock.ticks().wrapping_sub(started);
        let step_us = (u64::from(ticks) * 1_000_000 / u64::from(self.clock.rate_hz().max(1))) as u32;

        let outputs = self.session.output_mut();
        softmax(outputs);
        let mut best = (0, f32::NEG_INFINITY);
        for (class, &probability) in (0u8..).zip(outputs.iter()) {
            if probability > best.1 {
                best = (class, probability);
            }
        }
        let probabilities = Vec::from_slice(outputs.get(..MAX_CLASSES).unwrap_or(outputs)).unwrap_or_default();
        Ok(Some(Report { sample: number, lost: self.lost, step_us, class: best.0, probabilities }))
    }
}
