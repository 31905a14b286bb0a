//! The two Mamba mixers, shared by every family that has them: names and row order of state-spaces/mamba.

use super::Names;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Gate, NormKind, Scan, Ssd, TensorId};

/// A Mamba mixer's shape.
pub(super) struct Mamba1 {
    pub(super) d_inner: usize,
    pub(super) d_state: usize,
    pub(super) d_conv: usize,
    pub(super) dt_rank: usize,
    /// Whether in_proj and out_proj have biases.
    pub(super) bias: bool,
    pub(super) conv_bias: bool,
    pub(super) norms: StepNorms,
}

/// Root-mean-square norms of the low-rank step size, of B and of C, each on its own, with their epsilon.
#[derive(Clone, Copy)]
pub(super) enum StepNorms {
    None,
    Weightless(f32),
    /// With the weights of `dt_layernorm`, `b_layernorm` and `c_layernorm`.
    Learned(f32),
}

impl StepNorms {
    /// Normalises the three parts of `x_proj`'s output in place.
    fn build<'a>(self, g: &mut Graph<'a>, names: &Names<'a>, [dt, b, c]: [Operand; 3]) -> Result<(), Error> {
        // The first Jamba files write B and C as capitals.
        let parts = [
            (dt, "dt_layernorm.weight", "dt_layernorm.weight"),
            (b, "b_layernorm.weight", "B_layernorm.weight"),
            (c, "c_layernorm.weight", "C_layernorm.weight"),
        ];
        for (part, name, old) in parts {
            let (weight, eps) = match self {
                StepNorms::None => return Ok(()),
                StepNorms::Weightless(eps) => (None, eps),
                StepNorms::Learned(eps) => {
                    let found = names.checkpoint.has(&names.full(name));
                    (Some(names.array(g, if found { name } else { old }, &[part.len as usize])?), eps)
                }
            };
            g.norm_in_place(NormKind::Rms, part, weight, None, 1, eps);
        }
        Ok(())
    }
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
        let parts @ [dt, b, c] = low.split([self.dt_rank, d_state, d_state]);
        self.norms.build(g, names, parts)?;
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
    /// Whether in_proj has a bias.
    pub(super) bias: bool,
    /// Whether out_proj has one.
    pub(super) out_bias: bool,
    pub(super) conv_bias: bool,
    pub(super) gating: Gating,
    /// Epsilon of the norm.
    pub(super) eps: f32,
    /// Bounds of the step size after softplus.
    pub(super) dt_limit: (f32, f32),
}

/// How a Mamba-2 mixer's output meets its gate.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Gating {
    /// `norm(y * silu(z))`
    GateThenNorm,
    /// `norm(y) * silu(z)`
    NormThenGate,
    /// `y * silu(z)`
    Gate,
}

impl Mamba2 {
    /// Refuses groups that do not divide the heads; `key` is where the config says how many there are.
    pub(super) fn checked(self, config: &Config, key: &str) -> Result<Self, Error> {
        if self.heads.is_multiple_of(self.groups) {
            return Ok(self);
        }
        Err(config.error(key, format!("is {}, which does not divide the {} heads", self.groups, self.heads)))
    }

    /// Rows of in_proj: z, x, B, C, dt.
    pub(super) fn rows(&self) -> [usize; 5] {
        let (d_inner, shared) = (self.heads * self.head_dim, self.groups * self.d_state);
        [d_inner, d_inner, shared, shared, self.heads]
    }

    /// `out_proj(gating(ssd(conv(xBC)), z))` of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, input: Operand) -> Result<Operand, Error> {
        let rows = self.rows();
        let [d_inner, _, shared, _, heads] = rows;
        let projected = names.linear(g, "in_proj", rows.iter().sum(), input, self.bias)?;
        let [z, xbc, dt] = projected.split([d_inner, d_inner + 2 * shared, heads]);
        conv(g, names, xbc, self.d_conv, self.conv_bias)?;
        let [x, b, c] = xbc.split([d_inner, shared, shared]);
        let dt_bias = names.array(g, "dt_bias", &[heads])?;
        let a_log = names.read("A_log", &[heads])?;
        let a = g.array(names.full("A"), decay(&a_log));
        let d = names.array(g, "D", &[heads])?;
        let (out, state) = Graph::later();
        let (dt_lo, dt_hi) = self.dt_limit;
        let y = g.ssd(Ssd { x, dt, b, c, out, a, d, dt_bias, groups: self.groups as u32, dt_lo, dt_hi, state });
        let gated = if self.gating == Gating::Gate {
            g.silu_multiply(z, y);
            z
        } else {
            let weight = names.array(g, "norm.weight", &[d_inner])?;
            let gate = Gate { z, first: self.gating == Gating::GateThenNorm };
            g.gated_norm(y, gate, weight, self.groups, self.eps)
        };
        names.linear(g, "out_proj", input.len as usize, gated, self.out_bias)
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
    let weight = match names.has(&format!("{name}.transform")) {
        true => taps_of_polynomials(names, name, channels, taps)?,
        false => names.read(&weight_name, &[channels, taps])?,
    };
    let weight: TensorId = g.array(names.full(&weight_name), transpose(&weight, channels, taps));
    let bias = names.bias(g, &format!("{name}.bias"), channels, bias)?;
    g.conv1d(x, weight, bias, taps, silu);
    Ok(())
}

/// Most taps that are sums of smooth functions.
const MAX_POLYNOMIAL_TAPS: usize = 1 << 12;

/// Taps that are sums of a few smooth functions (PLEIADES): (channels, functions) times `transform`, (functions, taps).
fn taps_of_polynomials(names: &Names<'_>, name: &str, channels: usize, taps: usize) -> Result<Vec<f32>, Error> {
    let transform_name = format!("{name}.transform");
    let functions = names.checkpoint.shape(&names.full(&transform_name))?.first().copied().unwrap_or(0);
    let transform = names.read(&transform_name, &[functions, taps])?;
    let weight = names.read(&format!("{name}.weight"), &[channels, functions])?;
    // The taps are more numbers than either tensor holds.
    if taps > MAX_POLYNOMIAL_TAPS {
        let problem = format!("has {taps} taps, at most {MAX_POLYNOMIAL_TAPS} are supported");
        return Err(Error::invalid(names.checkpoint.dir(), format!("tensor `{}`", names.full(&transform_name)), problem));
    }
    let tap = |i: usize| {
        let of_function = |f: usize| f64::from(weight[i / taps * functions + f]) * f64::from(transform[f * taps + i % taps]);
        (0..functions).map(of_function).sum::<f64>() as f32
    };
    Ok((0..channels * taps).map(tap).collect())
}

/// `A = -exp(A_log)`.
pub(super) fn decay(a_log: &[f32]) -> Vec<f32> {
    a_log.iter().map(|&a| -f64::from(a).exp() as f32).collect()
}

/// (rows, cols) to (cols, rows).
pub(super) fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}
