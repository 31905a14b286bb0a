//! The gated MLP: `down(f(gate(x)) * up(x))`.

use super::Names;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand};
use brooklet::ops::Activation;

/// A gated MLP's shape and names.
#[derive(Clone, Copy)]
pub(super) struct GatedMlp {
    /// Hidden numbers.
    pub(super) width: usize,
    /// Activation of the gate.
    pub(super) f: Activation,
    /// Whether the projections have biases.
    pub(super) bias: bool,
    pub(super) gate_up: GateUp,
    /// Name of the second projection.
    pub(super) down: &'static str,
}

/// Where gate and up are.
#[derive(Clone, Copy)]
pub(super) enum GateUp {
    /// In two matrices: names of gate and up.
    Split(&'static str, &'static str),
    /// In one matrix of this name, the gate's rows first.
    Fused(&'static str),
}

impl GatedMlp {
    /// The MLP of Llama and most others: `gate_proj`, `up_proj`, `down_proj`, SiLU, no biases.
    pub(super) fn llama(width: usize) -> Self {
        let gate_up = GateUp::Split("gate_proj", "up_proj");
        GatedMlp { width, f: Activation::Silu, bias: false, gate_up, down: "down_proj" }
    }

    /// The MLP of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let [gate, up] = match self.gate_up {
            GateUp::Split(gate, up) => [names.linear(g, gate, self.width, x, self.bias)?, names.linear(g, up, self.width, x, self.bias)?],
            GateUp::Fused(both) => names.linear(g, both, 2 * self.width, x, self.bias)?.split([self.width, self.width]),
        };
        gate_multiply(g, self.f, gate, up);
        names.linear(g, self.down, x.len as usize, gate, self.bias)
    }
}

/// `gate <- f(gate) * up`.
pub(super) fn gate_multiply(g: &mut Graph<'_>, f: Activation, gate: Operand, up: Operand) {
    if f == Activation::Silu {
        g.silu_multiply(gate, up);
    } else {
        g.activate(f, gate);
        g.multiply(gate, up);
    }
}

/// The activation that `key` names, `default` if it names none.
pub(super) fn activation(config: &Config, key: &str, default: Activation) -> Result<Activation, Error> {
    match config.maybe_text(key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some("relu2") => Ok(Activation::ReluSquared),
        Some(other) => Err(config.error(key, format!("is \"{other}\"; supported are silu, gelu, gelu_pytorch_tanh and relu2"))),
    }
}
