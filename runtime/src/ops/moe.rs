//! Mixture of experts: the router's scores choose a few experts per token; only their matrices are touched.

use super::activate::Activation;
use super::check::{Checker, divide, finite};
use super::linear::multiply;
use super::run::Batch;
use super::{Access, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::input::softmax;
use crate::kernels::portable::act::sigmoid;
use serde::{Deserialize, Serialize};

/// Most experts that one token may use.
pub const MAX_TOP_K: usize = 32;
/// Most groups that a router may limit its choice to.
pub const MAX_GROUPS: usize = 32;

/// How scores become a choice and its weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Router {
    /// Softmax over all experts, then the largest; divided by their sum if `renormalize` (Jamba does not, Qwen does).
    Softmax {
        /// Whether the chosen weights are made to sum to one.
        renormalize: bool,
    },
    /// The largest scores, then softmax over those (Granite).
    TopKSoftmax,
    /// Sigmoid of each score; the choice adds a bias and may be limited to the best groups; the weights leave the bias out.
    Sigmoid {
        /// Array (experts), added for the choice.
        bias: Option<TensorId>,
        /// Groups of experts.
        groups: u32,
        /// Groups that may be chosen from: those whose two best experts sum highest.
        top_groups: u32,
        /// If set, weights are divided by their sum plus this.
        renormalize: Option<f32>,
    },
}

/// Mixture of experts. An expert is `w2 * (f(gate) * up)` when gated, else `w2 * f(up)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moe<V = Span> {
    /// (d_model)
    pub x: V,
    /// (experts): the router's logits; become weights.
    pub scores: V,
    /// (hidden), or (2 * hidden) when gated, the gate first: working space.
    pub hidden: V,
    /// (d_model): working space.
    pub expert_out: V,
    /// (d_model)
    pub out: V,
    /// Expert `e` has its first matrix in tensor `experts_at + 2 * e`, (hidden or 2 * hidden, d_model), and its second behind
    /// it, (d_model, hidden).
    pub experts_at: TensorId,
    /// Choice and weights.
    pub router: Router,
    /// Experts per token.
    pub top_k: u32,
    /// Factor of every weight.
    pub scale: f32,
    /// Whether the first matrix has a gate.
    pub gated: bool,
    /// Activation function.
    pub f: Activation,
}

impl<V> Moe<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Moe<W> {
        Moe {
            x: place(self.x, Access::Read),
            scores: place(self.scores, Access::Update),
            hidden: place(self.hidden, Access::Write),
            expert_out: place(self.expert_out, Access::Write),
            out: place(self.out, Access::Write),
            experts_at: self.experts_at,
            router: self.router,
            top_k: self.top_k,
            scale: self.scale,
            gated: self.gated,
            f: self.f,
        }
    }
}

impl Moe {
    /// The part of `hidden` that enters the second matrix.
    fn inner(&self) -> Span {
        let len = if self.gated { self.hidden.len / 2 } else { self.hidden.len };
        Span { at: self.hidden.at, len }
    }

    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        finite(self.scale)?;
        self.f.check()?;
        let experts = self.scores.len;
        if self.gated {
            divide(self.hidden.len, 2)?;
        }
        if self.expert_out.len != self.out.len || self.top_k == 0 || self.top_k > experts || self.top_k as usize > MAX_TOP_K {
            return Err(OpFault::Shape);
        }
        if let Router::Sigmoid { bias, groups, top_groups, .. } = self.router {
            checker.maybe_array(bias, experts)?;
            let per_group = divide(experts, groups)?;
            let choosable = u64::from(top_groups) * u64::from(per_group);
            if groups as usize > MAX_GROUPS || top_groups > groups || choosable < u64::from(self.top_k) {
                return Err(OpFault::Value);
            }
        }
        for expert in 0..experts {
            let first = expert.checked_mul(2).and_then(|e| e.checked_add(self.experts_at)).ok_or(OpFault::Tensor)?;
            checker.matrix(first, self.hidden.len, self.x.len)?;
            checker.matrix(first.checked_add(1).ok_or(OpFault::Tensor)?, self.out.len, self.inner().len)?;
        }
        Ok(())
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let bias = match self.router {
            Router::Sigmoid { bias, .. } => Batch::maybe_array(batch.tensors, bias)?,
            _ => None,
        };
        for row in 0..batch.rows() {
            let mut chosen = [(0, 0.0); MAX_TOP_K];
            let chosen = chosen.get_mut(..self.top_k as usize)?;
            self.choose(batch.frame(row)?.get(self.scores)?, bias, chosen)?;
            batch.frame(row)?.get(self.out)?.fill(0.0);
            for &mut (expert, weight) in chosen {
                let first = self.experts_at + 2 * expert;
                multiply(batch, first, self.x, row, 1, Some(self.hidden))?;
                let mut frame = batch.frame(row)?;
                let (inner, gate) = frame.get(self.hidden)?.split_at_mut_checked(self.inner().len as usize)?;
                self.f.apply(inner);
                if self.gated {
                    inner.iter_mut().zip(gate).for_each(|(x, y)| *x *= *y);
                }
                multiply(batch, first + 1, self.inner(), row, 1, Some(self.expert_out))?;
                let mut frame = batch.frame(row)?;
                let [out, y] = frame.split([self.out, self.expert_out])?;
                out.iter_mut().zip(y).for_each(|(out, y)| *out += weight * *y);
            }
        }
        Some(())
    }

    /// Fills `chosen` with experts and weights, best first; of equals, the lower number.
    fn choose(&self, scores: &mut [f32], bias: Option<&[f32]>, chosen: &mut [(u32, f32)]) -> Option<()> {
        let mut open = [true; MAX_GROUPS];
        let mut per_group = scores.len();
        match self.router {
            Router::Softmax { .. } => softmax(scores),
            Router::TopKSoftmax => {}
            Router::Sigmoid { groups, top_groups, .. } => {
                scores.iter_mut().for_each(|s| *s = sigmoid(*s));
                per_group = scores.len().checked_div(groups as usize)?;
                if top_groups < groups {
                    open = best_groups(scores, bias, per_group, groups as usize, top_groups as usize);
                }
            }
        }
        for i in 0..chosen.len() {
            let (before, rest) = chosen.split_at_mut_checked(i)?;
            let candidates = scores.iter().enumerate().filter(|&(e, _)| {
                e.checked_div(per_group).and_then(|g| open.get(g)).copied().unwrap_or(false)
                    && before.iter().all(|&(taken, _)| taken as usize != e)
            });
            let rank = |e: usize, s: f32| s + bias.and_then(|b| b.get(e)).copied().unwrap_or(0.0);
            let best = candidates.fold(None, |best: Option<(usize, f32, f32)>, (e, &s)| match best {
                Some((_, _, top)) if rank(e, s) <= top => best,
                _ => Some((e, s, rank(e, s))),
            })?;
            *rest.first_mut()? = (best.0 as u32, best.1);
        }
        let mut weights = [0.0; MAX_TOP_K];
        let weights = weights.get_mut(..chosen.len())?;
        weights.iter_mut().zip(&*chosen).for_each(|(w, c)| *w = c.1);
        let divide_by = |weights: &[f32], eps: f32| weights.iter().sum::<f32>() + eps;
        let divisor = match self.router {
            Router::TopKSoftmax => {
                softmax(weights);
                1.0
            }
            Router::Softmax { renormalize: true } => divide_by(weights, 0.0),
            Router::Sigmoid { renormalize: Some(eps), .. } => divide_by(weights, eps),
            _ => 1.0,
        };
        for (chosen, &w) in chosen.iter_mut().zip(&*weights) {
            chosen.1 = w / divisor * self.scale;
        }
        Some(())
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        let matrices = u64::from(self.hidden.len) * u64::from(self.x.len) + u64::from(self.out.len) * u64::from(self.inner().len);
        u64::from(self.top_k) * matrices
    }
}

/// The groups whose two best experts sum highest.
fn best_groups(scores: &[f32], bias: Option<&[f32]>, per_group: usize, groups: usize, top_groups: usize) -> [bool; MAX_GROUPS] {
    let mut sums = [f32::NEG_INFINITY; MAX_GROUPS];
    let mut each_group = scores.chunks_exact(per_group.max(1));
    for (g, sum) in sums.iter_mut().enumerate() {
        let Some(scores) = each_group.next() else { break };
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for (e, s) in scores.iter().enumerate() {
            let s = s + bias.and_then(|b| b.get(g * per_group + e)).copied().unwrap_or(0.0);
            if s > first {
                (first, second) = (s, first);
            } else if s > second {
                second = s;
            }
        }
        *sum = first + if per_group > 1 { second } else { 0.0 };
    }
    let mut open = [false; MAX_GROUPS];
    for _ in 0..top_groups {
        let mut best: Option<usize> = None;
        for g in 0..groups.min(MAX_GROUPS) {
            if !open[g] && best.is_none_or(|b| sums[g] > sums[b]) {
                best = Some(g);
            }
        }
        if let Some(best) = best {
            open[best] = true;
        }
    }
    open
}
