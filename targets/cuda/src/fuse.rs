//! Which neighbouring operations a step runs in one launch: a product, with what makes its vector and what becomes of its rows.
//!
//! Operations that are run together leave out what lies between them: it must not be read again before it is written anew. And a launch's blocks do not wait
//! for each other: what it writes must not be what other rows of it read.

use crate::launch::{Entering, MOST_TAPS};
use brooklet::ops::{Access, Add, Conv1d, Linear, Norm, NormKind, Op, SiluMultiply, Span};

/// What makes a product's vector.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Before {
    Nothing,
    Norm(Norm),
    SiluMultiply(SiluMultiply),
}

/// What becomes of a product's rows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behind {
    Nothing,
    Conv1d(Conv1d),
    Add(Add),
}

/// A product and its neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fused {
    pub(crate) before: Before,
    pub(crate) linear: Linear,
    pub(crate) behind: Behind,
}

impl Fused {
    /// What begins at operation `at` of a program, if `is_taken` a product.
    pub(crate) fn at(program: &[Op], at: usize, is_taken: impl Fn(&Linear) -> bool) -> Option<Fused> {
        let (before, at) = match program.get(at)? {
            Op::Norm(norm) => (Before::Norm(*norm), at + 1),
            Op::SiluMultiply(silu) => (Before::SiluMultiply(*silu), at + 1),
            _ => (Before::Nothing, at),
        };
        let Some(Op::Linear(linear)) = program.get(at).filter(|op| matches!(op, Op::Linear(linear) if is_taken(linear))) else {
            return None;
        };
        let behind = match program.get(at + 1) {
            Some(Op::Conv1d(conv)) if contains(linear.out, conv.x) && conv.taps <= MOST_TAPS => Behind::Conv1d(*conv),
            Some(Op::Add(add)) if add.y == linear.out && is_dead(program, at + 2, linear.out) => Behind::Add(*add),
            _ => Behind::Nothing,
        };
        let fused = Fused { before, linear: *linear, behind };
        let [fewer, fewest] = [Fused { behind: Behind::Nothing, ..fused }, Fused { before: Before::Nothing, ..fused }];
        [fused, fewer].into_iter().find(|fused| fused.is_sound(program, at)).or(matches!(before, Before::Nothing).then_some(fewest))
    }

    /// How many operations it is.
    pub(crate) fn len(&self) -> usize {
        1 + usize::from(!matches!(self.before, Before::Nothing)) + usize::from(!matches!(self.behind, Behind::Nothing))
    }

    /// Name, for reports.
    pub(crate) fn name(&self) -> &'static str {
        match (&self.before, &self.behind) {
            (Before::Nothing, Behind::Nothing) => "Linear",
            (Before::Nothing, Behind::Conv1d(_)) => "Linear, Conv1d",
            (Before::Nothing, Behind::Add(_)) => "Linear, Add",
            (Before::Norm(_), Behind::Nothing) => "Norm, Linear",
            (Before::Norm(_), Behind::Conv1d(_)) => "Norm, Linear, Conv1d",
            (Before::Norm(_), Behind::Add(_)) => "Norm, Linear, Add",
            (Before::SiluMultiply(_), Behind::Nothing) => "SiluMultiply, Linear",
            (Before::SiluMultiply(_), Behind::Conv1d(_)) => "SiluMultiply, Linear, Conv1d",
            (Before::SiluMultiply(_), Behind::Add(_)) => "SiluMultiply, Linear, Add",
        }
    }

    /// Whether one launch may do it; the product is operation `at`.
    fn is_sound(&self, program: &[Op], at: usize) -> bool {
        let Linear { x, out, .. } = self.linear;
        let written = if let Behind::Add(add) = self.behind { add.x } else { out };
        let is_apart = |read: Span| !overlaps(read, written);
        match self.before {
            Before::Nothing => is_apart(x),
            Before::Norm(norm) => {
                let gate_is_apart = norm.gate.is_none_or(|gate| gate.first && is_apart(gate.z));
                let is_plain = matches!(norm.kind, NormKind::Rms | NormKind::RmsEpsOutside) && norm.bias.is_none();
                let fits = norm.out == x && is_plain && Entering::normalises(x.len, norm.groups);
                fits && gate_is_apart && is_apart(norm.x) && is_dead(program, at + 1, x)
            }
            Before::SiluMultiply(silu) => silu.x == x && is_apart(silu.x) && is_apart(silu.y) && is_dead(program, at + 1, x),
        }
    }
}

fn overlaps(a: Span, b: Span) -> bool {
    a.at < b.at + b.len && b.at < a.at + a.len
}

fn contains(outer: Span, inner: Span) -> bool {
    outer.at <= inner.at && inner.at + inner.len <= outer.at + outer.len
}

/// Whether no operation from `from` on reads `span` before it is written anew.
fn is_dead(program: &[Op], from: usize, span: Span) -> bool {
    // What a block with a condition writes may stay as it was.
    let has_blocks = program.iter().any(|op| matches!(op, Op::Route(_) | Op::Every(_)));
    for op in program.get(from..).unwrap_or_default() {
        let (mut is_read, mut is_written) = (false, false);
        op.map(|operand, access| {
            is_read |= access != Access::Write && overlaps(operand, span);
            is_written |= access == Access::Write && contains(operand, span);
            operand
        });
        if is_read || (is_written && !has_blocks) {
            return !is_read;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use brooklet::ops::Gate;

    fn span(at: u32, len: u32) -> Span {
        Span { at, len }
    }

    fn norm(x: Span, out: Span, gate: Option<Span>) -> Op {
        let gate = gate.map(|z| Gate { z, first: true });
        Op::Norm(Norm { kind: NormKind::Rms, x, out, weight: None, bias: None, gate, groups: 1, eps: 1e-5 })
    }

    fn linear(x: Span, out: Span) -> Op {
        Op::Linear(Linear { w: 0, bias: None, x, out })
    }

    fn add(x: Span, y: Span) -> Op {
        Op::Add(Add { x, y, scale: 1.0 })
    }

    fn fused(program: &[Op]) -> Option<(usize, &'static str)> {
        Fused::at(program, 0, |_| true).map(|fused| (fused.len(), fused.name()))
    }

    #[test]
    fn a_block_of_mamba_2_is_two_products_and_their_neighbours() {
        let conv = Conv1d { weight: 0, bias: None, taps: 4, silu: true, x: span(24, 24), state: 0 };
        let into = [norm(span(0, 8), span(60, 8), None), linear(span(60, 8), span(8, 44)), Op::Conv1d(conv)];
        assert_eq!(fused(&into), Some((3, "Norm, Linear, Conv1d")));
        // The gate lies where the product of the way out goes, which is not stored if it is added at once.
        let out = [norm(span(60, 16), span(60, 16), Some(span(8, 16))), linear(span(60, 16), span(8, 8)), add(span(0, 8), span(8, 8))];
        assert_eq!(fused(&out), Some((3, "Norm, Linear, Add")));
        assert_eq!(fused(&out[..2]), None, "other rows of the product would read what it wrote");
    }

    #[test]
    fn what_is_read_again_is_stored() {
        let (x, normed, y) = (span(0, 8), span(8, 8), span(16, 8));
        let shared = [norm(x, normed, None), linear(normed, y), linear(normed, span(24, 8))];
        assert_eq!(fused(&shared), None);
        assert_eq!(fused(&shared[1..]), Some((1, "Linear")));
        let kept = [linear(normed, y), add(x, y), add(span(24, 8), y)];
        assert_eq!(fused(&kept), Some((1, "Linear")));
        let anew = [linear(normed, y), add(x, y), linear(normed, y), add(span(24, 8), y)];
        assert_eq!(fused(&anew), Some((2, "Linear, Add")));
        // Its own input is what is added to: every row reads all of it.
        assert_eq!(fused(&[norm(x, normed, None), linear(normed, y), add(x, y)]), Some((2, "Norm, Linear")));
    }
}
