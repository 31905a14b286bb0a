//! Mixtures of experts: a router's matrix, and two matrices for every expert.

use super::Names;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Activation, MAX_TOP_K, Router};

/// Experts of one layer.
pub(super) struct Experts {
    pub(super) count: usize,
    /// Experts per token.
    pub(super) top_k: usize,
    /// Hidden numbers of an expert.
    pub(super) width: usize,
    /// Whether the first matrix holds a gate, its rows first.
    pub(super) gated: bool,
    pub(super) f: Activation,
    pub(super) router: Router,
    /// Factor of the experts' weights.
    pub(super) scale: f32,
}

impl Experts {
    /// The router's scores of a normed input, (count).
    pub(super) fn scores<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, router: &str, x: Operand) -> Result<Operand, Error> {
        let router = names.matrix(g, router, self.count, x.len as usize, Role::Router)?;
        Ok(g.linear(router, None, x))
    }

    /// Rows of an expert's first matrix.
    fn rows(&self) -> usize {
        if self.gated { 2 * self.width } else { self.width }
    }

    /// Experts stacked in two tensors, (count, rows, d_model) and (count, d_model, width).
    pub(super) fn stacked<'a>(
        &self,
        g: &mut Graph<'a>,
        names: &Names<'a>,
        [first, second]: [&str; 2],
        x: Operand,
        scores: Operand,
    ) -> Result<Operand, Error> {
        let (rows, d_model) = (self.rows(), x.len as usize);
        self.build(g, x, scores, |g, e| {
            names.rows(g, first, &[self.count, rows, d_model], e * rows..(e + 1) * rows, Role::Projection)?;
            names.rows(g, second, &[self.count, d_model, self.width], e * d_model..(e + 1) * d_model, Role::Projection)?;
            Ok(())
        })
    }

    /// Experts without gates under names of their own: `0.up_proj`, `0.down_proj`, and so on.
    pub(super) fn separate<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand, scores: Operand) -> Result<Operand, Error> {
        self.build(g, x, scores, |g, e| {
            let expert = names.under(&e.to_string());
            expert.matrix(g, "up_proj.weight", self.rows(), x.len as usize, Role::Projection)?;
            expert.matrix(g, "down_proj.weight", x.len as usize, self.width, Role::Projection)?;
            Ok(())
        })
    }

    /// `expert` adds the two matrices of an expert: the operation finds them by their numbers.
    fn build<'a>(
        &self,
        g: &mut Graph<'a>,
        x: Operand,
        scores: Operand,
        expert: impl Fn(&mut Graph<'a>, usize) -> Result<(), Error>,
    ) -> Result<Operand, Error> {
        let experts_at = g.tensors.len() as u32;
        for e in 0..self.count {
            expert(g, e)?;
        }
        Ok(g.moe(x, scores, experts_at, self.router, self.top_k, self.scale, self.gated, self.f))
    }
}

/// How many of `count` experts a token uses: `default` if the config does not say.
pub(super) fn top_k(config: &Config, key: &str, count: usize, default: usize) -> Result<usize, Error> {
    let top_k = config.maybe_size(key)?.unwrap_or(default);
    if top_k > count || top_k > MAX_TOP_K {
        return Err(config.error(key, format!("is {top_k}; a token can use at most {} of the {count} experts", count.min(MAX_TOP_K))));
    }
    Ok(top_k)
}
