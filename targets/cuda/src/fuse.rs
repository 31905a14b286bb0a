//! Which neighbouring operations a step runs in one launch: a product, with what makes its vector and what becomes of its rows.
//!
//! Operations that are run together leave out what lies between them: it must not be read again before it is written anew. And a launch's blocks do not wait
//! for each other: what it writes must not be what other rows of it read.

use crate::launch::{Entering, MOST_TAPS};
use brooklet::ops::{Access, Add, Conv1d, Gate, Linear, Norm, NormKind, Op, SiluMultiply, Span, Ssd};

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
    /// A recurrence whose outputs a gate multiplies before they are normalised: a step multiplies them once, where they are made.
    pub(crate) recurrence: Option<Ssd>,
    pub(crate) before: Before,
    pub(crate) linear: Linear,
    pub(crate) behind: Behind,
}

impl Fused {
    /// What begins at operation `at` of a program, if `is_taken` a product.
    pub(crate) fn at(program: &[Op], at: usize, is_taken: impl Fn(&Linear) -> bool) -> Option<Fused> {
        let (before, at) = match program.get(at)? {
            Op::Ssd(ssd) => return Self::behind_recurrence(program, at, ssd, is_taken),
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
        let fused = Fused { recurrence: None, before, linear: *linear, behind };
        [fused, Fused { behind: Behind::Nothing, ..fused }].into_iter().find(|fused| fused.is_sound(program, at))
    }

    /// A recurrence, operation `at`, and the product behind its gated norm.
    fn behind_recurrence(program: &[Op], at: usize, ssd: &Ssd, is_taken: impl Fn(&Linear) -> bool) -> Option<Fused> {
        let fused = Self::at(program, at + 1, is_taken)?;
        let Before::Norm(norm) = fused.before else { return None };
        let is_gated = matches!(norm.gate, Some(Gate { z, first: true }) if !overlaps(z, ssd.out));
        // The norm may leave its input as it is: then nothing else may read the product with the gate instead.
        let is_sound = norm.x == ssd.out && (norm.x == norm.out || is_dead(program, at + 2, norm.x));
        (is_gated && is_sound).then_some(Fused { recurrence: Some(*ssd), ..fused })
    }

    /// How many operations it is.
    pub(crate) fn len(&self) -> usize {
        let (before, behind) = (!matches!(self.before, Before::Nothing), !matches!(self.behind, Behind::Nothing));
        1 + usize::from(self.recurrence.is_some()) + usize::from(before) + usize::from(behind)
    }

    /// Name of the product's launch, for reports.
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
    let mut alive = vec![span];
    for op in program.get(from..).unwrap_or_default() {
        let (mut is_read, mut written) = (false, Vec::new());
        op.map(|operand, access| {
            is_read |= access != Access::Write && alive.iter().any(|&part| overlaps(operand, part));
            written.extend(Some(operand).filter(|_| access == Access::Write && !has_blocks));
            operand
        });
        if is_read {
            return false;
        }
        for written in written {
            alive = alive.iter().flat_map(|&part| without(part, written)).collect();
        }
    }
    true
}

/// What is left of `part` where `written` is taken away.
fn without(part: Span, written: Span) -> impl Iterator<Item = Span> {
    let (end, written_end) = (part.at + part.len, written.at + written.len);
    let before = Span { at: part.at, len: written.at.min(end).saturating_sub(part.at) };
    let at = written_end.max(part.at);
    [before, Span { at, len: end.saturating_sub(at) }].into_iter().filter(|left| left.len > 0)
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
    fn a_recurrence_takes_the_gate_of_the_norm_behind_it() {
        let (y, z, x) = (span(60, 16), span(8, 16), span(24, 16));
        let operands = Ssd {
            x,
            dt: span(40, 2),
            b: span(42, 4),
            c: span(46, 4),
            out: y,
            a: 0,
            d: 0,
            dt_bias: 0,
            groups: 1,
            dt_lo: 0.0,
            dt_hi: 1.0,
            state: 0,
        };
        let block = [Op::Ssd(operands), norm(y, y, Some(z)), linear(y, span(8, 8)), add(span(0, 8), span(8, 8))];
        let both = Fused::at(&block, 0, |_| true).unwrap();
        assert!(both.recurrence.is_some() && both.len() == 4);
        assert!(Fused::at(&[block[0], norm(y, y, None), block[2], block[3]], 0, |_| true).is_none(), "there is no gate");
        let elsewhere = norm(y, span(80, 16), Some(z));
        let rest = [linear(span(80, 16), span(8, 8)), add(span(0, 8), span(8, 8))];
        assert!(Fused::at(&[block[0], elsewhere, rest[0], rest[1]], 0, |_| true).is_some());
        assert!(Fused::at(&[block[0], elsewhere, rest[0], rest[1], linear(y, x)], 0, |_| true).is_none(), "it is read again");
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
        // Written anew in two parts.
        let parts = [linear(normed, y), add(x, y), linear(x, span(16, 5)), linear(x, span(21, 3)), add(span(24, 8), y)];
        assert_eq!(fused(&parts), Some((2, "Linear, Add")));
        assert_eq!(fused(&[parts[0], parts[1], parts[2], parts[4]]), Some((1, "Linear")));
        // Its own input is what is added to: every row reads all of it.
        assert_eq!(fused(&[norm(x, normed, None), linear(normed, y), add(x, y)]), Some((2, "Norm, Linear")));
    }
}
