//! The two Mamba mixers, shared by every family that has them: names and row order of state-spaces/mamba.

use super::Names;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Scan, Ssd, TensorId};

/// A Mamba mixer's shape.
pub(super) struct Mamba1 {
    pub(super) d_inner: usize,
    pub(super) d_state: usize,
    pub(super) d_conv: usize,
    pub(super) dt_rank: usize,
    /// Whether in_proj and out_proj have biases.
    pub(super) bias: bool,
    pub(super) conv_bias: bool,
}

impl Mamba1 {
    /// `out_proj(scan(conv(x)) * silu(z))` of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, input: Operand) -> Result<Operand, Error> {
        let (d_inner, d_state) = (self.d_inner, self.d_state);
        let xz = names.linear(g, "in_proj", 2 * d_inner, input, self.bias)?;
        let [x, z] = xz.split([d_inner, d_inner]);
        conv(g, names, x, self.d_conv, self.conv_bias)?;
        let x_proj = names.matrix(g, "x_proj.weight", self.dt_rank + 2 * d_state, d_inner, Role::StepSize)?;
        let low = g.linear(x_proj, None, x);
        let [dt, b, c] = low.split([self.dt_rank, d_state, d_state]);
        let dt_proj = names.matrix(g, "dt_proj.weight", d_inner, self.dt_rank, Role::StepSize)?;
        let dt = g.linear(dt_proj, None, dt);
        let dt_bias = names.array(g, "dt_proj.bias", &[d_inner])?;
        let a_log = names.read("A_log", &[d_inner, d_state])?;
        let a = g.array(names.full("A"), transpose(&decay(&a_log), d_inner, d_state));
        let d = names.array(g, "D", &[d_inner])?;
        let (out, state) = Graph::later();
        let y = g.scan(Scan { x, dt, b, c, z: Some(z), out, a, d, dt_bias, heads: 1, state });
        names.linear(g, "out_proj", input.len as usize, y, self.bias)
    }
}

/// A Mamba-2 mixer's shape.
pub(super) struct Mamba2 {
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) d_state: usize,
    pub(super) groups: usize,
    pub(super) d_conv: usize,
    /// Whether in_proj and out_proj have biases.
    pub(super) bias: bool,
    pub(super) conv_bias: bool,
    /// Epsilon of the gated norm.
    pub(super) eps: f32,
    /// Bounds of the step size after softplus.
    pub(super) dt_limit: (f32, f32),
}

impl Mamba2 {
    /// Refuses groups that do not divide the heads; `key` is where the config says how many there are.
    pub(super) fn checked(self, config: &Config, key: &str) -> Result<Self, Error> {
        if self.heads.is_multiple_of(self.groups) {
            return Ok(self);
        }
        Err(config.error(key, format!("is {}, which does not divide the {} heads", self.groups, self.heads)))
    }

    /// `out_proj(norm(ssd(conv(xBC)) * silu(z)))` of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, input: Operand) -> Result<Operand, Error> {
        let d_inner = self.heads * self.head_dim;
        let shared = self.groups * self.d_state;
        let channels = d_inner + 2 * shared;
        let projected = names.linear(g, "in_proj", d_inner + channels + self.heads, input, self.bias)?;
        let [z, xbc, dt] = projected.split([d_inner, channels, self.heads]);
        conv(g, names, xbc, self.d_conv, self.conv_bias)?;
        let [x, b, c] = xbc.split([d_inner, shared, shared]);
        let dt_bias = names.array(g, "dt_bias", &[self.heads])?;
        let a_log = names.read("A_log", &[self.heads])?;
        let a = g.array(names.full("A"), decay(&a_log));
        let d = names.array(g, "D", &[self.heads])?;
        let (out, state) = Graph::later();
        let (dt_lo, dt_hi) = self.dt_limit;
        let y = g.ssd(Ssd { x, dt, b, c, out, a, d, dt_bias, groups: self.groups as u32, dt_lo, dt_hi, state });
        let weight = names.array(g, "norm.weight", &[d_inner])?;
        let gated = g.gated_norm(y, z, weight, self.groups, self.eps);
        names.linear(g, "out_proj", input.len as usize, gated, self.bias)
    }
}

/// Convolution with SiLU, by Mamba's name.
fn conv<'a>(g: &mut Graph<'a>, names: &Names<'a>, x: Operand, taps: usize, bias: bool) -> Result<(), Error> {
    named_conv(g, names, "conv1d", x, taps, bias, true)
}

/// Convolution `name`; on disk (channels, 1, taps), in the file (taps, channels).
pub(super) fn named_conv<'a>(
    g: &mut Graph<'a>,
    names: &Names<'a>,
    name: &str,
    x: Operand,
    taps: usize,
    bias: bool,
    silu: bool,
) -> Result<(), Error> {
    let channels = x.len as usize;
    let weight_name = format!("{name}.weight");
    let weight = names.read(&weight_name, &[channels, taps])?;
    let weight: TensorId = g.array(names.full(&weight_name), transpose(&weight, channels, taps));
    let bias = names.bias(g, &format!("{name}.bias"), channels, bias)?;
    g.conv1d(x, weight, bias, taps, silu);
    Ok(())
}

/// `A = -exp(A_log)`.
fn decay(a_log: &[f32]) -> Vec<f32> {
    a_log.iter().map(|&a| -f64::from(a).exp() as f32).collect()
}

/// (rows, cols) to (cols, rows).
pub(super) fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}
