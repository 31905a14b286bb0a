//! Time-invariant diagonal state-space mixers, S4D and S5: discretised here for the model's own rate, or left to the runtime
//! where frames come at irregular times.

use super::Names;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Activation, Stepping, TensorId};
use std::f64::consts::TAU;

/// A complex number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Complex {
    pub(super) re: f64,
    pub(super) im: f64,
}

impl Complex {
    pub(super) fn new(re: impl Into<f64>, im: impl Into<f64>) -> Self {
        Complex { re: re.into(), im: im.into() }
    }

    fn times(self, other: Complex) -> Complex {
        Complex { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }

    pub(super) fn scale(self, by: f64) -> Complex {
        Complex { re: self.re * by, im: self.im * by }
    }

    /// Not for zero.
    fn over(self, other: Complex) -> Complex {
        let square = other.re * other.re + other.im * other.im;
        self.times(Complex { re: other.re / square, im: -other.im / square })
    }

    /// `e^z - 1`, exact for small `z` too.
    pub(super) fn exp_minus_one(self) -> Complex {
        let half = (0.5 * self.im).sin();
        let fallen = 2.0 * half * half;
        let grown = self.re.exp_m1();
        Complex { re: grown * (1.0 - fallen) - fallen, im: (grown + 1.0) * self.im.sin() }
    }
}

/// How a continuous model becomes one that steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Exact for an input that stays as it is between steps.
    Zoh,
    /// The trapezoidal rule.
    Bilinear,
    /// The gap ages the state; the input counts as over one step of the model's own rate (Event-SSM's asynchronous rule).
    Async,
    /// The gap ages the state; the input is an impulse.
    Dirac,
}

/// What both mixers share.
pub(super) struct Diagonal {
    /// Complex modes: per channel (S4D) or in all (S5).
    modes: usize,
    rule: Rule,
    /// Whether the runtime discretises at every step.
    irregular: bool,
    kind: Kind,
}

enum Kind {
    S4d,
    S5 { conjugate: bool, clip: bool, output: Output },
}

/// What follows S5's recurrence.
#[derive(Clone, Copy)]
enum Output {
    /// `gelu(y)`
    Gelu,
    /// `v * sigmoid(out2 v)`, `v = gelu(y)`
    HalfGlu1,
    /// `y * sigmoid(out2 gelu(y))`
    HalfGlu2,
    /// `out1 v * sigmoid(out2 v)`, `v = gelu(y)`
    FullGlu,
}

/// A mode ready for the runtime: its number for `a`, and the factor of what it takes in.
struct Stepped {
    a: Complex,
    gain: Complex,
}

impl Diagonal {
    /// `layer` "S4D".
    pub(super) fn s4d(config: &Config) -> Result<Self, Error> {
        let d_state = config.maybe_size("d_state")?.unwrap_or(64);
        if !d_state.is_multiple_of(2) {
            return Err(config.error("d_state", format!("is {d_state}; modes come in conjugate pairs, so it must be even")));
        }
        Self::read(config, d_state / 2, Kind::S4d)
    }

    /// `layer` "S5".
    pub(super) fn s5(config: &Config) -> Result<Self, Error> {
        let d_state = config.maybe_size("d_state")?.unwrap_or(64);
        let conjugate = config.flag_or("conj_sym", true)?;
        if conjugate && !d_state.is_multiple_of(2) {
            return Err(config.error("d_state", format!("is {d_state}; with conj_sym it must be even")));
        }
        let output = match config.maybe_text("activation")?.unwrap_or("full_glu") {
            "gelu" => Output::Gelu,
            "half_glu1" => Output::HalfGlu1,
            "half_glu2" => Output::HalfGlu2,
            "full_glu" => Output::FullGlu,
            other => {
                return Err(config.error("activation", format!("is \"{other}\"; supported are gelu, half_glu1, half_glu2 and full_glu")));
            }
        };
        let modes = if conjugate { d_state / 2 } else { d_state };
        Self::read(config, modes, Kind::S5 { conjugate, clip: config.flag_or("clip_eigs", false)?, output })
    }

    fn read(config: &Config, modes: usize, kind: Kind) -> Result<Self, Error> {
        let rule = match config.maybe_text("discretization")?.unwrap_or("zoh") {
            "zoh" => Rule::Zoh,
            "bilinear" => Rule::Bilinear,
            "async" => Rule::Async,
            "dirac" => Rule::Dirac,
            other => {
                return Err(config.error("discretization", format!("is \"{other}\"; supported are zoh, bilinear, async and dirac")));
            }
        };
        Ok(Diagonal { modes, rule, irregular: config.flag_or("irregular", false)?, kind })
    }

    /// The mixer of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        match self.kind {
            Kind::S4d => self.build_s4d(g, names, x),
            Kind::S5 { conjugate, clip, output } => self.build_s5(g, names, x, conjugate, clip, output),
        }
    }

    fn stepping(&self) -> Stepping {
        match (self.irregular, self.rule) {
            (false, _) => Stepping::Fixed,
            (true, Rule::Zoh) => Stepping::Hold,
            (true, Rule::Bilinear) => Stepping::Bilinear,
            (true, Rule::Async | Rule::Dirac) => Stepping::Impulse,
        }
    }

    /// The mode of eigenvalue `lambda` at steps of `dt`.
    fn stepped(&self, lambda: Complex, dt: f64) -> Stepped {
        let z = lambda.scale(dt);
        let one = Complex { re: 1.0, im: 0.0 };
        // One less than the factor of a step at the model's own rate.
        let fixed = match self.rule {
            Rule::Bilinear => z.over(Complex { re: 1.0 - 0.5 * z.re, im: -0.5 * z.im }),
            Rule::Zoh | Rule::Async | Rule::Dirac => z.exp_minus_one(),
        };
        let gain = match self.rule {
            Rule::Dirac => one,
            // The runtime keeps lambda times the state, so that one complex factor serves decay and input.
            Rule::Zoh | Rule::Bilinear if self.irregular => one.over(lambda),
            // Without decay the input only adds up: the limit of the other.
            _ if z == (Complex { re: 0.0, im: 0.0 }) => one.scale(dt),
            _ => fixed.over(lambda),
        };
        let a = if self.irregular { Complex { re: z.re, im: z.im / TAU } } else { fixed };
        Stepped { a, gain }
    }

    fn build_s4d<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let (channels, modes) = (x.len as usize, self.modes);
        let kernel = names.under("kernel");
        let log_dt = kernel.read("log_dt", &[channels])?;
        let log_a_real = kernel.read("log_A_real", &[channels, modes])?;
        let a_imag = kernel.read("A_imag", &[channels, modes])?;
        let c = kernel.read("C", &[channels, modes, 2])?;
        let mode = |channel: usize, mode: usize| {
            let i = channel * modes + mode;
            let lambda = Complex::new(-f64::from(log_a_real[i]).exp(), a_imag[i]);
            let stepped = self.stepped(lambda, f64::from(log_dt[channel]).exp());
            // Twice: the conjugate modes are not computed.
            (stepped.a, Complex::new(c[2 * i], c[2 * i + 1]).times(stepped.gain).scale(2.0))
        };
        let a = finite(g, &kernel, "A", planes(channels, modes, |h, n| mode(h, n).0))?;
        let c = finite(g, &kernel, "C", planes(channels, modes, |h, n| mode(h, n).1))?;
        let d = names.array(g, "D", &[channels])?;
        let y = g.diag_ssm(x, channels, a, Some(c), Some(d), self.stepping());
        g.activate(Activation::Gelu, y);
        let wide = names.linear(g, "output_linear.0", 2 * channels, y, true)?;
        let [y, gate] = wide.split([channels, channels]);
        g.activate(Activation::Sigmoid, gate);
        g.multiply(y, gate);
        Ok(y)
    }

    fn build_s5<'a>(
        &self,
        g: &mut Graph<'a>,
        names: &Names<'a>,
        x: Operand,
        conjugate: bool,
        clip: bool,
        output: Output,
    ) -> Result<Operand, Error> {
        let (channels, modes) = (x.len as usize, self.modes);
        let (re, im) = (names.read("Lambda_re", &[modes])?, names.read("Lambda_im", &[modes])?);
        let log_step = names.read("log_step", &[modes])?;
        let stepped = |p: usize| {
            let re = if clip { re[p].min(-1e-4) } else { re[p] };
            self.stepped(Complex::new(re, im[p]), f64::from(log_step[p]).exp())
        };
        let gains: Vec<Complex> = (0..modes).map(|p| stepped(p).gain).collect();
        if gains.iter().any(|gain| !(gain.re.is_finite() && gain.im.is_finite())) {
            let problem = "holds a mode that neither decays nor turns; such a one needs a model of one rate (`irregular` false)";
            return Err(Error::invalid(names.checkpoint.dir(), format!("tensor `{}`", names.full("Lambda_re")), problem));
        }
        let a = finite(g, names, "Lambda", planes(modes, 1, |p, _| stepped(p).a))?;
        // The input's gain goes into B, whose real rows come first; C's columns likewise, with the sign of i squared.
        let (b_name, c_name, checkpoint) = (names.full("B"), names.full("C"), names.checkpoint);
        checkpoint.tensor(&b_name, &[modes, channels, 2])?;
        checkpoint.tensor(&c_name, &[channels, modes, 2])?;
        let of = b_name.clone();
        let b = g.matrix(b_name, 2 * modes, channels, Role::Projection, move || {
            let b = checkpoint.tensor(&of, &[modes, channels, 2])?.data;
            let entry = |i: usize| Complex::new(b[2 * i], b[2 * i + 1]).times(gains[i / channels]);
            let cells = modes * channels;
            Ok((0..2 * cells).map(|i| if i < cells { entry(i).re } else { entry(i - cells).im } as f32).collect())
        });
        let factor = if conjugate { 2.0 } else { 1.0 };
        let of = c_name.clone();
        let c = g.matrix(c_name, channels, 2 * modes, Role::Projection, move || {
            let c = checkpoint.tensor(&of, &[channels, modes, 2])?.data;
            let row = |h: usize| {
                let part = |part: usize, sign: f32| (0..modes).map(|p| sign * c[2 * (h * modes + p) + part]).collect::<Vec<_>>();
                [part(0, factor), part(1, -factor)].concat()
            };
            Ok((0..channels).flat_map(row).collect())
        });
        let drive = g.linear(b, None, x);
        let states = g.diag_ssm(drive, modes, a, None, None, self.stepping());
        let y = g.linear(c, None, states);
        // D is a convolution of one tap.
        let skip = g.concat([x]);
        let d = names.array(g, "D", &[channels])?;
        g.conv1d(skip, d, None, 1, false);
        g.add(y, skip, 1.0);
        let plain = if matches!(output, Output::HalfGlu2) { g.concat([y]) } else { y };
        g.activate(Activation::GeluTanh, y);
        let out = match output {
            Output::Gelu => return Ok(y),
            Output::HalfGlu1 | Output::HalfGlu2 => plain,
            Output::FullGlu => names.linear(g, "out1", channels, y, true)?,
        };
        let gate = names.linear(g, "out2", channels, y, true)?;
        g.activate(Activation::Sigmoid, gate);
        g.multiply(out, gate);
        Ok(out)
    }
}

/// An array of derived numbers, which `f32` may not hold.
pub(super) fn finite<'a>(g: &mut Graph<'a>, names: &Names<'a>, name: &str, data: Vec<f32>) -> Result<TensorId, Error> {
    let name = names.full(name);
    if data.iter().all(|x| x.is_finite()) {
        return Ok(g.array(name, data));
    }
    let problem = "is beyond the range of numbers when discretised; the rates or step sizes are no sane ones";
    Err(Error::invalid(names.checkpoint.dir(), format!("tensor `{name}`"), problem))
}

/// (modes, 2, channels) from `entry(channel, mode)`: real parts, then imaginary ones.
pub(super) fn planes(channels: usize, modes: usize, entry: impl Fn(usize, usize) -> Complex) -> Vec<f32> {
    let plane = |mode: usize, part: fn(Complex) -> f64| (0..channels).map(|h| part(entry(h, mode)) as f32).collect::<Vec<_>>();
    (0..modes).flat_map(|n| [plane(n, |c| c.re), plane(n, |c| c.im)].concat()).collect()
}
