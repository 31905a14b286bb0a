//! What the device says, as frames on a serial line: postcard in COBS, each ended by a zero byte.
//!
//! A receiver that comes late, or lost some bytes, is in step again after the next zero.

use crate::boot::{Fault, Stage};
use core::fmt::Write as _;
use embedded_io::Write;
use heapless::{String, Vec};
use postcard::accumulator::{CobsAccumulator, FeedResult};
use serde::{Deserialize, Serialize};

/// Most probabilities in a report.
pub const MAX_CLASSES: usize = 16;
/// Most bytes of a frame, its zero included.
pub const MAX_FRAME_BYTES: usize = 160;
/// Most bytes of an explanation.
const MAX_TEXT_BYTES: usize = 120;

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Report {
    /// Number of the sample that it answers.
    pub sample: u32,
    /// Samples lost since the start: the bus failed, or the main loop was late.
    pub lost: u32,
    /// Time of the step, in microseconds.
    pub step_us: u32,
    /// The most probable class.
    pub class: u8,
    /// (classes)
    pub probabilities: Vec<f32, MAX_CLASSES>,
}

/// What the device says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Message {
    /// The model is proven, the stream begins.
    Ready {
        /// [`brooklet::artifact::Artifact::hash`]: whose class names belong to the reports.
        model_hash: u64,
    },
    /// One answer.
    Report(Report),
    /// The device stopped.
    Fault {
        /// Where.
        stage: Stage,
        /// Why, in words.
        reason: String<MAX_TEXT_BYTES>,
    },
}

impl From<Fault> for Message {
    fn from(fault: Fault) -> Self {
        Message::fault(fault.stage, format_args!("{}", fault.error))
    }
}

impl Message {
    /// The device stopped at `stage`; a `reason` that is too long is cut.
    pub fn fault(stage: Stage, reason: core::fmt::Arguments<'_>) -> Self {
        let mut text = Cut(String::new());
        let _ = text.write_fmt(reason);
        Message::Fault { stage, reason: text.0 }
    }

    /// Sends the message.
    pub fn send<W: Write>(&self, port: &mut W) -> Result<(), W::Error> {
        let mut frame = [0; MAX_FRAME_BYTES];
        // Every message fits: `frames_have_room_for_the_longest_messages` proves it.
        let Ok(frame) = postcard::to_slice_cobs(self, &mut frame) else { return Ok(()) };
        port.write_all(frame)
    }
}

/// Takes text as long as there is room.
struct Cut(String<MAX_TEXT_BYTES>);

impl core::fmt::Write for Cut {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for c in text.chars() {
            self.0.push(c).map_err(|_| core::fmt::Error)?;
        }
        Ok(())
    }
}

/// A frame that is no message: bytes were lost, or another program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// The other end of the line.
#[derive(Default)]
pub struct Receiver {
    frames: CobsAccumulator<MAX_FRAME_BYTES>,
}

impl Receiver {
    /// Takes in `bytes` as they come, and calls `each` with every message that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Result<Message, Damaged>)) {
        while !bytes.is_empty() {
            bytes = match self.frames.feed::<Message>(bytes) {
                FeedResult::Consumed => return,
                FeedResult::Success { data, remaining } => {
                    each(Ok(data));
                    remaining
                }
                FeedResult::OverFull(remaining) | FeedResult::DeserError(remaining) => {
                    each(Err(Damaged));
                    remaining
                }
            };
        }
    }
}
