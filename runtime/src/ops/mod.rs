//! The operations of a program: one file each, with its parameters, its check and its run.
//!
//! Operands are spans of one token's *frame*, the working memory of a step. A prefill holds several frames, one per token, and
//! each operation handles all of them before the next begins: weights are read once, and the recurrences still see the tokens
//! in order, so the bits are those of single steps.

mod activate;
mod attention;
mod check;
mod conv1d;
mod delay;
mod depth_to_time;
mod diag_ssm;
mod elementwise;
mod embed;
mod every;
mod frame;
mod gated_delta;
mod gru;
mod hadamard;
mod head;
mod linear;
mod lstm;
mod missing;
mod moe;
mod norm;
mod pieces;
mod pool;
mod rg_lru;
mod route;
mod run;
mod scan;
mod ssd;
mod window;

pub use activate::{Activate, Activation};
pub use attention::{Attention, Rotary};
pub use conv1d::Conv1d;
pub use delay::Delay;
pub use depth_to_time::DepthToTime;
pub use diag_ssm::{DiagSsm, Stepping};
pub use elementwise::{Add, Copy, Fill, Multiply, ScaleBy, SiluMultiply};
pub use embed::Embed;
pub use every::Every;
pub use frame::Frame;
pub use gated_delta::GatedDelta;
pub use gru::Gru;
pub use hadamard::Hadamard;
pub use head::{CappedHead, Head};
pub use linear::Linear;
pub use lstm::Lstm;
pub use missing::{Missing, Policy};
pub use moe::{MAX_GROUPS, MAX_TOP_K, Moe, Router};
pub use norm::{Gate, Norm, NormKind};
pub use pool::{Pool, PoolKind};
pub use rg_lru::RgLru;
pub use route::{COUNT_NUMBERS, Route};
pub use scan::Scan;
pub use ssd::Ssd;
pub use window::Window;

pub(crate) use attention::{cache_bytes, cache_scale_bytes};
pub(crate) use check::Checker;
pub(crate) use linear::packed_bytes;
pub(crate) use run::{Batch, Gaps, Inputs, Stream};

use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// A section that holds a tensor, by number.
pub type TensorId = u32;
/// A slot of the state, by number.
pub type SlotId = u32;

/// A stretch of numbers in a token's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First number.
    pub at: u32,
    /// How many.
    pub len: u32,
}

impl Span {
    /// As indices.
    pub fn range(self) -> core::ops::Range<usize> {
        self.at as usize..self.at as usize + self.len as usize
    }
}

/// How an operation touches an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Overwrites it.
    Write,
    /// Reads and changes it.
    Update,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One operation. `V` says where operands lie: [`Span`] in a file, a value of the graph while one is made.
        ///
        /// Files store the variant's number: new operations go to the end.
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        pub enum Op<V = Span> {
            $($(#[$doc])* $name($name<V>),)*
        }

        impl<V> Op<V> {
            /// The same operation with every operand replaced.
            pub fn map<W>(self, mut place: impl FnMut(V, Access) -> W) -> Op<W> {
                match self { $(Op::$name(op) => Op::$name(op.map(&mut place)),)* }
            }

            /// Name, for reports.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => stringify!($name),)* }
            }
        }

        impl Op {
            pub(crate) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
                match self { $(Op::$name(op) => op.check(checker),)* }
            }

            /// `None` only if memory changed under a checked file.
            pub(crate) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
                match self { $(Op::$name(op) => op.run(batch),)* }
            }

            /// Multiplications with additions that one step of it takes, about.
            pub fn macs(&self, artifact: &crate::artifact::Artifact<'_>) -> u64 {
                match self { $(Op::$name(op) => op.macs(artifact),)* }
            }
        }
    };
}

operations! {
    /// A token's row of the embedding.
    Embed,
    /// A sensor frame, normalised.
    Frame,
    /// Root-mean-square or layer norm.
    Norm,
    /// Matrix times vector.
    Linear,
    /// Causal depthwise convolution.
    Conv1d,
    /// Selective scan (Mamba).
    Scan,
    /// State-space dual recurrence (Mamba-2).
    Ssd,
    /// Attention over a bounded cache.
    Attention,
    /// `x <- silu(x) * y`.
    SiluMultiply,
    /// `x <- x + scale * y`.
    Add,
    /// Summary of the stream so far.
    Pool,
    /// The outputs.
    Head,
    /// `x <- x * y`.
    Multiply,
    /// `x <- y`.
    Copy,
    /// `x <- f(x)`.
    Activate,
    /// Mixture of experts.
    Moe,
    /// Gated delta rule (Gated DeltaNet).
    GatedDelta,
    /// `x <- x * y` with one number of `y` for a stretch of `x`.
    ScaleBy,
    /// Runs or skips the operations behind it, by token.
    Route,
    /// Real-gated linear recurrent unit (Griffin).
    RgLru,
    /// The outputs, bounded softly.
    CappedHead,
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent unit.
    Gru,
    /// The last numbers of the steps before, then this step's.
    Window,
    /// `out <- value`.
    Fill,
    /// Diagonal state-space model.
    DiagSsm,
    /// What stands in for missing samples.
    Missing,
    /// Runs the operations behind it at every n-th step, with a clock of their own.
    Every,
    /// What came some steps ago.
    Delay,
    /// A frame of a low rate, part by part.
    DepthToTime,
    /// Walsh-Hadamard transform, block by block.
    Hadamard,
}
