//! The convolution kernels of the S4 repository as modes: `SSMKernelDiag` (S4D) and `SSMKernelDPLR` (S4).

use super::Names;
use super::diagonalise::{Mode, Modes, cancellation};
use super::discretise::{Complex, Discretisation, Rule, complex, exp_minus_one, finite, planes};
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand};
use rayon::prelude::*;

/// Digits lost to modes that cancel each other: with more than this, `f32` states would change the answers.
const MOST_CANCELLATION: f64 = 1000.0;
/// Most states of a low-rank system: finding its modes takes memory by their square and time by their cube.
const MOST_LOW_RANK_STATES: usize = 1024;

/// A kernel's shape, from the layer's arguments.
pub(super) struct Kernel {
    /// Complex numbers per state vector in the file: one of each conjugate pair.
    half: usize,
    /// Systems; channel `h` has number `h % systems`.
    systems: Option<usize>,
    /// Outputs per channel.
    pub(super) outputs: usize,
    /// Rank of the correction, if the system has one.
    rank: Option<usize>,
    dt: Transform,
    real: Transform,
    imag: Transform,
    steps: Discretisation,
}

/// Makes any number a positive one.
#[derive(Clone, Copy)]
enum Transform {
    None,
    Exp,
    Relu,
    Sigmoid,
    Softplus,
}

impl Transform {
    fn read(config: &Config, key: &str, default: Transform) -> Result<Self, Error> {
        match config.maybe_text(key)? {
            None => Ok(default),
            Some("none") => Ok(Transform::None),
            Some("exp") => Ok(Transform::Exp),
            Some("relu") => Ok(Transform::Relu),
            Some("sigmoid") => Ok(Transform::Sigmoid),
            Some("softplus") => Ok(Transform::Softplus),
            Some(other) => Err(config.error(key, format!("is \"{other}\"; supported are none, exp, relu, sigmoid and softplus"))),
        }
    }

    fn of(self, x: f32) -> f64 {
        let x = f64::from(x);
        match self {
            Transform::None => x,
            Transform::Exp => x.exp(),
            Transform::Relu => x.max(0.0) + 1e-4,
            Transform::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Transform::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }
}

impl Kernel {
    pub(super) fn read(config: &Config) -> Result<Self, Error> {
        let low_rank = match config.maybe_text("mode")?.unwrap_or("dplr") {
            "diag" | "s4d" => false,
            "dplr" | "nplr" | "s4" => true,
            other => return Err(config.error("mode", format!("is \"{other}\"; supported are dplr, nplr, s4, diag and s4d"))),
        };
        let rule = match config.maybe_text("disc")?.unwrap_or("zoh") {
            // The low-rank kernel knows no other.
            _ if low_rank => Rule::Bilinear,
            "zoh" => Rule::Zoh,
            "bilinear" => Rule::Bilinear,
            other => return Err(config.error("disc", format!("is \"{other}\"; supported are zoh and bilinear"))),
        };
        let d_state = config.maybe_size("d_state")?.unwrap_or(64);
        if !d_state.is_multiple_of(2) {
            return Err(config.error("d_state", format!("is {d_state}; modes come in conjugate pairs, so it must be even")));
        }
        if low_rank && d_state > MOST_LOW_RANK_STATES {
            let problem = format!("is {d_state}; at most {MOST_LOW_RANK_STATES} are supported, or any number with mode \"diag\"");
            return Err(config.error("d_state", problem));
        }
        Ok(Kernel {
            half: d_state / 2,
            systems: config.maybe_size("n_ssm")?,
            outputs: config.maybe_size("channels")?.unwrap_or(1),
            rank: if low_rank { Some(config.maybe_size("rank")?.unwrap_or(1)) } else { None },
            dt: Transform::read(config, "dt_transform", Transform::Exp)?,
            real: Transform::read(config, "real_transform", Transform::Exp)?,
            imag: Transform::read(config, "imag_transform", Transform::None)?,
            steps: Discretisation { rule, irregular: config.flag_or("irregular", false)? },
        })
    }

    /// The convolution of `x`, (channels), and the skip `d` around it: (outputs, channels).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, layer: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let channels = x.len as usize;
        let names = layer.under("kernel");
        let modes = self.modes(&names, channels)?;
        let longest = modes.iter().map(Vec::len).max().unwrap_or(0);
        // A channel with fewer modes gets ones that are not listened to.
        let silent = Mode { value: Complex::new(-1.0, 0.0), residue: Complex::new(0.0, 0.0) };
        let mode = |channel: usize, n: usize| {
            let mode = modes[channel].get(n).copied().unwrap_or(silent);
            let stepped = self.steps.stepped(mode.value, 1.0);
            (stepped.a, mode.residue * stepped.gain)
        };
        let wide = modes.len();
        let a = finite(g, &names, "A", planes(wide, longest, |h, n| mode(h, n).0))?;
        let c = finite(g, &names, "C", planes(wide, longest, |h, n| mode(h, n).1))?;
        let d = layer.array(g, "D", &[self.outputs, channels])?;
        let x = match self.outputs {
            1 => x,
            outputs => {
                let copies = g.value(wide);
                (0..outputs).for_each(|i| g.copy(copies.part(i * channels, channels), x));
                copies
            }
        };
        Ok(g.diag_ssm(x, wide, a, Some(c), Some(d), self.steps.stepping()))
    }

    /// The modes of every output of every channel, (outputs, channels); eigenvalues are those of one step.
    fn modes(&self, names: &Names<'_>, channels: usize) -> Result<Vec<Vec<Mode>>, Error> {
        let half = self.half;
        let systems = self.systems.unwrap_or(channels);
        if !channels.is_multiple_of(systems) {
            let problem = format!("has {channels} channels for {systems} systems; layer_args.n_ssm must divide d_model");
            return Err(Error::invalid(names.checkpoint.dir(), format!("tensor `{}`", names.full("B")), problem));
        }
        let real = names.read("A_real", &[systems, half])?;
        let imag = names.read("A_imag", &[systems, half])?;
        let b = names.read("B", &[systems, half, 2])?;
        let c = names.read("C", &[self.outputs, channels, half, 2])?;
        // One step size a channel, or one a state.
        let dt_count = names.checkpoint.shape(&names.full("inv_dt"))?.iter().product::<usize>();
        let per_channel = if dt_count == channels { 1 } else { half };
        let dt = names.read("inv_dt", &[channels, per_channel])?;
        let dt = |channel: usize, n: usize| self.dt.of(dt[channel * per_channel + n % per_channel]);
        let value = |system: usize, n: usize| {
            let i = system * half + n;
            Complex::new(-self.real.of(real[i]), -self.imag.of(imag[i]))
        };
        let row = |numbers: &[f32], row: usize| (0..half).map(|n| complex(numbers, row * half + n)).collect::<Vec<_>>();

        let Some(rank) = self.rank else {
            let of = |i: usize| {
                let (channel, system) = (i % channels, i % channels % systems);
                let mode = |n: usize| Mode {
                    value: dt(channel, n) * value(system, n),
                    // Twice: the conjugate modes are not computed.
                    residue: 2.0 * dt(channel, n) * complex(&b, system * half + n) * complex(&c, i * half + n),
                };
                (0..half).map(mode).collect()
            };
            return Ok((0..self.outputs * channels).map(of).collect());
        };

        let p = names.read("P", &[rank, systems, half, 2])?;
        let length = names.checkpoint.whole_number(&names.full("l_kernel"))?;
        let fault = |problem: String| Error::invalid(names.checkpoint.dir(), format!("tensors `{}`", names.full("*")), problem);
        (0..self.outputs * channels)
            .into_par_iter()
            .map(|i| {
                let (channel, system) = (i % channels, i % channels % systems);
                let dt: Vec<f64> = (0..half).map(|n| dt(channel, n)).collect();
                let lambda: Vec<Complex> = (0..half).map(|n| value(system, n)).collect();
                let p: Vec<Vec<Complex>> = (0..rank).map(|r| row(&p, r * systems + system)).collect();
                let modes = Modes::of_dplr(&lambda, &p, &row(&b, system), &dt);
                let modes = modes.and_then(|modes| {
                    modes.output(&row(&c, i), |value| match length {
                        0 => Complex::new(1.0, 0.0),
                        // The file holds C (1 - A^length), for kernels cut at that length.
                        length => {
                            let log_factor = (1.0 + self.steps.factor_minus_one(value)).ln();
                            -1.0 / exp_minus_one(log_factor * length as f64)
                        }
                    })
                });
                modes.filter(|modes| cancellation(modes, self.steps) <= MOST_CANCELLATION).ok_or_else(|| {
                    fault(format!(
                        "the system of channel {channel} has no modes that float numbers can run: they would cancel each other more than \
                         {MOST_CANCELLATION}-fold. The untrained HiPPO matrix is like that, trained ones hardly are; train further, or \
                         with mode \"diag\""
                    ))
                })
            })
            .collect()
    }
}
