//! What may be kept finer: units of matrices, and the formats that they can take.

use crate::allocate::parameters;
use crate::graph::{Graph, Values};
use brooklet::artifact::Content;
use brooklet::kernels::quant::Format;
use brooklet::ops::Op;

/// Formats from coarse to fine.
const FINENESS: [Format; 8] = Format::ALL;

fn fineness(format: Format) -> usize {
    FINENESS.iter().position(|&f| f == format).unwrap_or(0)
}

/// Checkpoints of more numbers than this are measured against half floats: whole floats would take too much room, and tell nothing more.
const LARGE: u64 = 200_000_000;

/// What the float model that files are compared with is in.
pub(crate) fn float_format(graph: &Graph<'_>) -> Format {
    if parameters(graph) > LARGE { Format::F16 } else { Format::F32 }
}

/// Matrices that change their format together: one alone, or all experts of a layer.
pub(crate) struct Unit {
    /// Numbers of the tensors.
    pub(crate) tensors: Vec<usize>,
}

/// The units of a model, in the order of their tensors; matrices that are in the finest format already are in none.
pub(crate) fn units(graph: &Graph<'_>, formats: &[Option<Format>]) -> Vec<Unit> {
    let mut leader: Vec<usize> = (0..graph.tensors.len()).collect();
    for op in &graph.ops {
        if let Op::Moe(moe) = op {
            let first = moe.experts_at as usize;
            let end = (first + 2 * moe.scores.len as usize).min(leader.len());
            leader[first..end].fill(first);
        }
    }
    let mut units: Vec<(usize, Unit)> = Vec::new();
    for (tensor, leader) in leader.into_iter().enumerate() {
        let can_change = matches!(graph.tensors[tensor].values, Values::Matrix(..)) && formats[tensor] != Some(Format::F32);
        match units.last_mut() {
            _ if !can_change => {}
            Some((of, unit)) if *of == leader => unit.tensors.push(tensor),
            _ => units.push((leader, Unit { tensors: vec![tensor] })),
        }
    }
    units.into_iter().map(|(_, unit)| unit).collect()
}

impl Unit {
    /// The coarsest format of the unit, and those finer than it, from coarse to fine.
    pub(crate) fn formats(&self, plain: &[Option<Format>]) -> (Format, &'static [Format]) {
        coarsest_and_finer(self.tensors.iter().filter_map(|&tensor| plain[tensor]))
    }

    /// Puts the unit's tensors into `format`, but for those that are finer in `plain`.
    pub(crate) fn set(&self, formats: &mut [Option<Format>], plain: &[Option<Format>], format: Format) {
        for &tensor in &self.tensors {
            formats[tensor] = plain[tensor].map(|of| finer(of, format));
        }
    }

    /// Bytes of the unit's tensors.
    pub(crate) fn bytes(&self, graph: &Graph<'_>, formats: &[Option<Format>]) -> u64 {
        let bytes = |&tensor: &usize| {
            let decl = &graph.tensors[tensor];
            formats[tensor].and_then(|format| Content::of(format).bytes(decl.rows as u32, decl.cols as u32)).unwrap_or(0)
        };
        self.tensors.iter().map(bytes).sum()
    }
}

/// The formats finer than the coarsest of a model, from coarse to fine.
pub(crate) fn finer_formats(plain: &[Option<Format>]) -> &'static [Format] {
    coarsest_and_finer(plain.iter().copied().flatten()).1
}

fn coarsest_and_finer(formats: impl Iterator<Item = Format>) -> (Format, &'static [Format]) {
    let coarsest = formats.map(fineness).min().unwrap_or(FINENESS.len() - 1);
    (FINENESS[coarsest], &FINENESS[coarsest + 1..])
}

fn finer(a: Format, b: Format) -> Format {
    if fineness(a) < fineness(b) { b } else { a }
}

/// Every matrix in `format`, but for those that are finer in `plain`.
pub(crate) fn all_at_least(plain: &[Option<Format>], format: Format) -> Vec<Option<Format>> {
    plain.iter().map(|of| of.map(|of| finer(of, format))).collect()
}
