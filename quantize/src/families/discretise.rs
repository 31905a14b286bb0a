//! From a continuous mode to one that steps: discretised here for the model's own rate, or left to the runtime where frames come
//! at irregular times.

use super::Names;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::Graph;
use brooklet::ops::{Stepping, TensorId};
use std::f64::consts::TAU;

pub(super) type Complex = nalgebra::Complex<f64>;

/// How a continuous model becomes one that steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Exact for an input that stays as it is between steps.
    Zoh,
    /// The trapezoidal rule.
    Bilinear,
    /// The gap ages the state; the input counts as over one step of the model's own rate (Event-SSM's asynchronous rule).
    Async,
    /// The gap ages the state; the input is an impulse.
    Dirac,
}

/// The rule, and who follows it.
#[derive(Clone, Copy)]
pub(super) struct Discretisation {
    pub(super) rule: Rule,
    /// Whether the runtime discretises at every step.
    pub(super) irregular: bool,
}

/// A mode ready for the runtime: its number for `a`, and the factor of what it takes in.
pub(super) struct Stepped {
    pub(super) a: Complex,
    pub(super) gain: Complex,
}

impl Discretisation {
    /// From the keys `discretization` and `irregular`.
    pub(super) fn read(config: &Config) -> Result<Self, Error> {
        let rule = match config.maybe_text("discretization")?.unwrap_or("zoh") {
            "zoh" => Rule::Zoh,
            "bilinear" => Rule::Bilinear,
            "async" => Rule::Async,
            "dirac" => Rule::Dirac,
            other => {
                return Err(config.error("discretization", format!("is \"{other}\"; supported are zoh, bilinear, async and dirac")));
            }
        };
        Ok(Discretisation { rule, irregular: config.flag_or("irregular", false)? })
    }

    pub(super) fn stepping(self) -> Stepping {
        match (self.irregular, self.rule) {
            (false, _) => Stepping::Fixed,
            (true, Rule::Zoh) => Stepping::Hold,
            (true, Rule::Bilinear) => Stepping::Bilinear,
            (true, Rule::Async | Rule::Dirac) => Stepping::Impulse,
        }
    }

    /// One less than a mode's factor of one step at the model's own rate; `z` is its eigenvalue times the step.
    pub(super) fn factor_minus_one(self, z: Complex) -> Complex {
        match self.rule {
            Rule::Bilinear => z / (1.0 - 0.5 * z),
            Rule::Zoh | Rule::Async | Rule::Dirac => exp_minus_one(z),
        }
    }

    /// The mode of eigenvalue `lambda` at steps of `dt`.
    pub(super) fn stepped(self, lambda: Complex, dt: f64) -> Stepped {
        let z = lambda * dt;
        let one = Complex::new(1.0, 0.0);
        let fixed = self.factor_minus_one(z);
        let gain = match self.rule {
            Rule::Dirac => one,
            // The runtime keeps lambda times the state, so that one complex factor serves decay and input.
            Rule::Zoh | Rule::Bilinear if self.irregular => one / lambda,
            // Without decay the input only adds up: the limit of the other.
            _ if z == Complex::new(0.0, 0.0) => one * dt,
            _ => fixed / lambda,
        };
        let a = if self.irregular { Complex::new(z.re, z.im / TAU) } else { fixed };
        Stepped { a, gain }
    }
}

/// `e^z - 1`, exact for small `z` too.
pub(super) fn exp_minus_one(z: Complex) -> Complex {
    let half = (0.5 * z.im).sin();
    let fallen = 2.0 * half * half;
    let grown = z.re.exp_m1();
    Complex::new(grown * (1.0 - fallen) - fallen, (grown + 1.0) * z.im.sin())
}

/// Number `i` of a list of complex ones.
pub(super) fn complex(numbers: &[f32], i: usize) -> Complex {
    Complex::new(f64::from(numbers[2 * i]), f64::from(numbers[2 * i + 1]))
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
