//! Passes: a graph becomes another that computes the same, and loses less when its matrices and activations are rounded.
//!
//! Each is exact but for the last bits of `f32`. [`choose`] measures which of them pay for a checkpoint.

mod choose;
mod fold;
mod online;
mod pieces;
mod rotate;
mod smooth;
mod uses;
mod walsh;

pub use choose::{Choice, Trial, choose};
pub use pieces::{LEAST_ROWS_OF_PROJECTION, LEAST_ROWS_TO_CUT, cut_projections, cut_tables, order_of_use, take_order};

use crate::error::Error;
use crate::fit::Calibration;
use crate::graph::Graph;
use std::fmt;
use std::str::FromStr;

/// Which passes run, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Norm gains go into the matrices behind them.
    pub fold: bool,
    /// The residual stream turns by random signs and a Walsh-Hadamard transform.
    pub rotate: bool,
    /// Large channels become smaller in front of matrices, and the columns behind them larger.
    pub smooth: bool,
    /// The transform, on the device, in front of the matrices that end mixers and MLPs.
    pub hadamard: bool,
}

/// What passes found to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Norms that lost their gains.
    pub folded: usize,
    /// Values that turned.
    pub rotated: usize,
    /// Norms with the transform around them, because their gain had to stay.
    pub bridged: usize,
    /// Norms and gates whose channels were evened out.
    pub smoothed: usize,
    /// Matrices with the transform in front of them.
    pub transformed: usize,
}

impl Passes {
    /// The graph as it is.
    pub const NONE: Passes = Passes { fold: false, rotate: false, smooth: false, hadamard: false };

    /// All of them.
    pub const ALL: Passes = Passes { fold: true, rotate: true, smooth: true, hadamard: true };
    /// The transform on the device.
    pub const HADAMARD: Passes = Passes { hadamard: true, ..Passes::NONE };

    /// Whether none of these is missing from `others`.
    fn are_within(self, others: Passes) -> bool {
        (!self.fold || others.fold)
            && (!self.rotate || others.rotate)
            && (!self.smooth || others.smooth)
            && (!self.hadamard || others.hadamard)
    }

    /// Runs the passes over a graph, and says what they did; smoothing sees `calibration`, or reproducible noise.
    pub fn apply(self, graph: &mut Graph<'_>, calibration: Option<&Calibration>) -> Result<Done, Error> {
        let mut done = Done::default();
        if self.fold {
            done.folded = fold::fold(graph);
        }
        if self.rotate {
            (done.rotated, done.bridged) = rotate::rotate(graph);
        }
        if self.smooth {
            done.smoothed = smooth::smooth(graph, calibration)?;
        }
        if self.hadamard {
            done.transformed = online::insert(graph);
        }
        Ok(done)
    }
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.fold, "fold"), (self.rotate, "rotate"), (self.smooth, "smooth"), (self.hadamard, "hadamard")];
        let names: Vec<&str> = names.into_iter().filter_map(|(on, name)| on.then_some(name)).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(","))
    }
}

impl FromStr for Passes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut passes = Passes::NONE;
        for name in text.split(',').filter(|_| text != "none") {
            match name {
                "fold" => passes.fold = true,
                "rotate" => passes.rotate = true,
                "smooth" => passes.smooth = true,
                "hadamard" => passes.hadamard = true,
                _ => return Err("choose auto, none, or some of fold, rotate, smooth and hadamard with commas between them".to_owned()),
            }
        }
        // Gains that stay would each need the transform twice.
        passes.fold |= passes.rotate;
        Ok(passes)
    }
}
