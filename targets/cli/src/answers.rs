//! What a sensor model says at a step, as one line of JSON.

use crate::classes::{Named, best};
use serde::Serialize;
use std::io::{self, Write};

/// The values of a model whose outputs mean what they are.
#[derive(Serialize)]
pub(crate) struct Given<'a> {
    step: u64,
    values: Named<'a>,
}

impl<'a> Given<'a> {
    /// `values`: (outputs).
    pub(crate) fn new(step: u64, names: &'a [String], values: &'a [f32]) -> Self {
        Given { step, values: Named(names, values) }
    }

    /// Writes one line.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_line(self, out)
    }
}

/// The decision of a classifier.
#[derive(Serialize)]
pub(crate) struct Step<'a> {
    step: u64,
    pub(crate) class: &'a str,
    pub(crate) p: f32,
    probabilities: Named<'a>,
}

impl<'a> Step<'a> {
    /// `probabilities`: (classes).
    pub(crate) fn new(step: u64, names: &'a [String], probabilities: &'a [f32]) -> Self {
        let class = best(probabilities);
        let name = names.get(class).map_or("", String::as_str);
        Step { step, class: name, p: probabilities.get(class).copied().unwrap_or(0.0), probabilities: Named(names, probabilities) }
    }

    /// Writes one line.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_line(self, out)
    }
}

/// Why a stream ends before its input does.
#[derive(Serialize)]
pub(crate) struct Refused<'a> {
    pub(crate) error: &'a str,
}

impl Refused<'_> {
    /// Writes one line.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_line(self, out)
    }
}

/// In one write: whoever reads a socket gets whole lines.
fn write_line(answer: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    out.write_all(&line)
}
