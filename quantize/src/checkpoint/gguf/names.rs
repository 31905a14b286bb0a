//! Names: which tensors of a GGUF file make up each tensor that a family asks for, and what was done to them on the way in.
//!
//! llama.cpp's converter stores `A` for `A_log`, interleaves the rows of rotated queries and keys in some architectures, stacks experts,
//! and takes joint projections apart. All of it is undone when numbers are read.

use super::container::{Gguf, TensorInfo};
use crate::error::Error;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Experts of a layer; more are no model's.
const MAX_EXPERTS: usize = 4096;

/// A tensor under its family's name.
#[derive(Debug)]
pub(super) struct Entry {
    /// Sizes, outermost first.
    pub(super) shape: Vec<usize>,
    /// Where its numbers are, one stretch after the other.
    pub(super) pieces: Vec<Piece>,
    pub(super) change: Change,
}

/// A stretch of a tensor's numbers, row-major.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Number of the tensor in the file.
    pub(super) tensor: usize,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// What is done to numbers when they are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    None,
    /// `x` to `ln(-x)`: `A` to `A_log`.
    Log,
    /// Rows of each head (head_dim / 2, 2) to (2, head_dim / 2); a row has `cols` numbers.
    Heads {
        head_dim: usize,
        cols: usize,
    },
}

/// How an architecture's tensors are called by its family.
#[derive(Clone, Copy)]
pub(super) struct Style {
    /// Before the names of a layer's tensors: the layer's number follows.
    layers: &'static str,
    embedding: &'static str,
    final_norm: &'static str,
    first_norm: &'static str,
    second_norm: &'static str,
    mamba: &'static str,
    attention: &'static str,
    out_proj: &'static str,
    head_norms: [&'static str; 2],
    mlp: Mlp,
    experts: Experts,
    /// Whether the rows of queries and keys are interleaved.
    pub(super) is_interleaved: bool,
}

/// The gated MLP.
#[derive(Clone, Copy)]
enum Mlp {
    /// Names of gate, up and down.
    Split([&'static str; 3]),
    /// Gate and up in one matrix, the gate's rows first; down.
    Joint([&'static str; 2]),
}

/// A mixture of experts.
#[derive(Clone, Copy)]
struct Experts {
    router: &'static str,
    /// What is added to the scores for the choice alone.
    bias: &'static str,
    /// Before an expert's own number, or before the two tensors of them all.
    at: &'static str,
    /// An expert's gate, up and down; empty where they are stacked in `input_linear` and `output_linear`.
    parts: [&'static str; 3],
}

const PROJ: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

const LLAMA: Style = Style {
    layers: "model.layers.",
    embedding: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    first_norm: "input_layernorm",
    second_norm: "post_attention_layernorm",
    mamba: "mamba.",
    attention: "self_attn.",
    out_proj: "o_proj",
    head_norms: ["q_layernorm", "k_layernorm"],
    mlp: Mlp::Split(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    experts: Experts { router: "router.weight", bias: "expert_bias", at: "experts.", parts: PROJ },
    is_interleaved: true,
};

const MAMBA: Style = Style {
    layers: "backbone.layers.",
    embedding: "backbone.embeddings.weight",
    final_norm: "backbone.norm_f.weight",
    first_norm: "norm",
    mamba: "mixer.",
    attention: "mixer.",
    mlp: Mlp::Split(["mixer.gate_proj", "mixer.up_proj", "mixer.down_proj"]),
    experts: Experts { router: "mixer.gate.weight", bias: "mixer.gate.e_score_correction_bias", at: "mixer.experts.", parts: PROJ },
    is_interleaved: false,
    ..LLAMA
};

const JAMBA: Style = Style {
    final_norm: "model.final_layernorm.weight",
    second_norm: "pre_ff_layernorm",
    mlp: Mlp::Split(["feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"]),
    experts: Experts { router: "feed_forward.router.weight", at: "feed_forward.experts.", ..LLAMA.experts },
    is_interleaved: false,
    ..LLAMA
};

const GRANITE: Style = Style {
    mlp: Mlp::Joint(["shared_mlp.input_linear", "shared_mlp.output_linear"]),
    experts: Experts { router: "block_sparse_moe.router.layer.weight", at: "block_sparse_moe.", parts: [""; 3], ..LLAMA.experts },
    ..LLAMA
};

const LFM2: Style = Style {
    final_norm: "model.embedding_norm.weight",
    first_norm: "operator_norm",
    second_norm: "ffn_norm",
    out_proj: "out_proj",
    mlp: Mlp::Split(["feed_forward.w1", "feed_forward.w3", "feed_forward.w2"]),
    experts: Experts {
        router: "feed_forward.gate.weight",
        bias: "feed_forward.expert_bias",
        at: "feed_forward.experts.",
        parts: ["w1", "w3", "w2"],
    },
    is_interleaved: false,
    ..LLAMA
};

/// Names by the family's `model_type`.
pub(super) fn style(model_type: &str) -> Style {
    match model_type {
        "mamba" | "falcon_mamba" | "mamba2" | "nemotron_h" => MAMBA,
        "jamba" | "falcon_h1" => JAMBA,
        "bamba" => Style { is_interleaved: true, ..JAMBA },
        "granitemoehybrid" => GRANITE,
        "lfm2" | "lfm2_moe" => LFM2,
        _ => LLAMA,
    }
}

/// The file's tensors by their families' names; refuses tensors that no family knows.
///
/// `layers` are those of the model and those after them, heads that guess several tokens at once, which stay behind. The numbers of
/// heads and of key-value heads are needed where queries and keys are interleaved.
pub(super) fn entries(gguf: &Gguf, style: &Style, layers: [usize; 2], heads: [usize; 2]) -> Result<BTreeMap<String, Entry>, Error> {
    let [layers, guessing] = layers;
    let [heads, kv_heads] = heads;
    let mut names = Names { gguf, style, heads, kv_heads, entries: BTreeMap::new(), used: HashSet::new(), second: None };
    names.same("token_embd.weight", style.embedding);
    names.same("output.weight", "lm_head.weight");
    // LFM2 has its final norm under the first name, and newer files of it under the second.
    names.same("token_embd_norm.weight", style.final_norm);
    names.same("output_norm.weight", style.final_norm);
    for i in 0..layers {
        names.layer(i)?;
    }
    names.refuse_others(layers..layers + guessing)?;
    Ok(names.entries)
}

struct Names<'g> {
    gguf: &'g Gguf,
    style: &'g Style,
    heads: usize,
    kv_heads: usize,
    entries: BTreeMap<String, Entry>,
    /// Numbers of the tensors that are part of an entry.
    used: HashSet<usize>,
    /// A tensor whose place another one had before.
    second: Option<usize>,
}

impl Names<'_> {
    fn info(&self, tensor: usize) -> &TensorInfo {
        &self.gguf.tensors()[tensor]
    }

    fn error(&self, tensor: usize, problem: impl std::fmt::Display) -> Error {
        Error::invalid(self.gguf.path(), format!("tensor `{}`", self.info(tensor).name), problem)
    }

    fn put(&mut self, to: String, shape: Vec<usize>, pieces: Vec<Piece>, change: Change) {
        self.used.extend(pieces.iter().map(|piece| piece.tensor));
        let first = pieces.first().map(|piece| piece.tensor);
        if self.entries.insert(to, Entry { shape, pieces, change }).is_some() {
            self.second = self.second.or(first);
        }
    }

    fn whole(&self, tensor: usize) -> Piece {
        Piece { tensor, start: 0, len: self.info(tensor).len }
    }

    /// The file's tensor `from`, if it is there, as `to`.
    fn same(&mut self, from: &str, to: &str) {
        if let Some(tensor) = self.gguf.tensor(from) {
            self.put(to.to_owned(), self.info(tensor).shape.clone(), vec![self.whole(tensor)], Change::None);
        }
    }

    /// Weight and bias of a projection or a norm.
    fn both(&mut self, from: &str, to: &str) {
        for part in ["weight", "bias"] {
            self.same(&format!("{from}.{part}"), &format!("{to}.{part}"));
        }
    }

    fn layer(&mut self, i: usize) -> Result<(), Error> {
        let Style { layers, first_norm, second_norm, attention, out_proj, head_norms, .. } = *self.style;
        let from = |name: &str| format!("blk.{i}.{name}");
        let to = |name: &str| format!("{layers}{i}.{name}");
        self.both(&from("attn_norm"), &to(first_norm));
        self.both(&from("ffn_norm"), &to(second_norm));
        // Falcon-H1's converter leaves the ending out.
        self.same(&from("ffn_norm"), &to(&format!("{second_norm}.weight")));
        self.mamba(i);
        self.queries_keys_values(i)?;
        self.both(&from("attn_output"), &to(&format!("{attention}{out_proj}")));
        self.both(&from("attn_q_norm"), &to(&format!("{attention}{}", head_norms[0])));
        self.both(&from("attn_k_norm"), &to(&format!("{attention}{}", head_norms[1])));
        for part in ["conv", "in_proj", "out_proj"] {
            self.both(&from(&format!("shortconv.{part}")), &to(&format!("conv.{part}")));
        }
        self.mlp(i)?;
        self.experts(i)
    }

    fn mamba(&mut self, i: usize) {
        let from = |name: &str| format!("blk.{i}.{name}");
        let to = |name: &str| format!("{}{i}.{}{name}", self.style.layers, self.style.mamba);
        // A bias alone is Mamba-2's, which has no projection of the step size.
        let dt_bias = if self.gguf.has(&from("ssm_dt.weight")) { "dt_proj.bias" } else { "dt_bias" };
        let same = [("ssm_dt.weight", "dt_proj.weight"), ("ssm_dt.bias", dt_bias), ("ssm_d", "D")].map(|(f, t)| (from(f), to(t)));
        let parts = [
            ("ssm_in", "in_proj"),
            ("ssm_conv1d", "conv1d"),
            ("ssm_x", "x_proj"),
            ("ssm_out", "out_proj"),
            ("ssm_dt_norm", "dt_layernorm"),
            ("ssm_b_norm", "b_layernorm"),
            ("ssm_c_norm", "c_layernorm"),
        ]
        .map(|(f, t)| (from(f), to(t)));
        let (a_log, norm) = (to("A_log"), to("norm.weight"));
        same.iter().for_each(|(from, to)| self.same(from, to));
        parts.iter().for_each(|(from, to)| self.both(from, to));
        if let Some(tensor) = self.gguf.tensor(&from("ssm_a")) {
            self.put(a_log, self.info(tensor).shape.clone(), vec![self.whole(tensor)], Change::Log);
        }
        // (groups, channels of a group) here, one list there.
        if let Some(tensor) = self.gguf.tensor(&from("ssm_norm.weight")) {
            self.put(norm, vec![self.info(tensor).len], vec![self.whole(tensor)], Change::None);
        }
    }

    fn queries_keys_values(&mut self, i: usize) -> Result<(), Error> {
        let prefix = format!("{}{i}.{}", self.style.layers, self.style.attention);
        for part in ["weight", "bias"] {
            for (from, to, heads) in [("attn_q", "q_proj", self.heads), ("attn_k", "k_proj", self.kv_heads)] {
                if let Some(tensor) = self.gguf.tensor(&format!("blk.{i}.{from}.{part}")) {
                    let change = self.heads_change(tensor, heads)?;
                    self.put(format!("{prefix}{to}.{part}"), self.info(tensor).shape.clone(), vec![self.whole(tensor)], change);
                }
            }
            self.same(&format!("blk.{i}.attn_v.{part}"), &format!("{prefix}v_proj.{part}"));
            // All three in one, as some converters write them.
            let Some(tensor) = self.gguf.tensor(&format!("blk.{i}.attn_qkv.{part}")) else { continue };
            let shape = self.info(tensor).shape.clone();
            let all_heads = self.heads + 2 * self.kv_heads;
            if all_heads == 0 || !shape[0].is_multiple_of(2 * all_heads) {
                return Err(self.error(tensor, format!("has {} rows, which are no {all_heads} heads of an even size", shape[0])));
            }
            let (head_dim, cols) = (shape[0] / all_heads, shape[1..].iter().product::<usize>());
            let mut row = 0;
            for (to, heads, is_rotated) in [("q_proj", self.heads, true), ("k_proj", self.kv_heads, true), ("v_proj", self.kv_heads, false)]
            {
                let rows = heads * head_dim;
                let piece = Piece { tensor, start: row * cols, len: rows * cols };
                row += rows;
                let change = if is_rotated && self.style.is_interleaved { Change::Heads { head_dim, cols } } else { Change::None };
                let shape = std::iter::once(rows).chain(shape[1..].iter().copied()).collect();
                self.put(format!("{prefix}{to}.{part}"), shape, vec![piece], change);
            }
        }
        Ok(())
    }

    /// The change that puts the rows of `heads` heads back in order.
    fn heads_change(&self, tensor: usize, heads: usize) -> Result<Change, Error> {
        if !self.style.is_interleaved {
            return Ok(Change::None);
        }
        let shape = &self.info(tensor).shape;
        let rows = shape[0];
        if heads == 0 || !rows.is_multiple_of(2 * heads) {
            return Err(self.error(tensor, format!("has {rows} rows, which are no {heads} heads of an even size")));
        }
        Ok(Change::Heads { head_dim: rows / heads, cols: shape[1..].iter().product() })
    }

    fn mlp(&mut self, i: usize) -> Result<(), Error> {
        let from = |name: &str| format!("blk.{i}.{name}");
        let to = |name: &str| format!("{}{i}.{name}", self.style.layers);
        match self.style.mlp {
            Mlp::Split(names) => {
                let names = names.map(to);
                for (from, to) in [from("ffn_gate"), from("ffn_up"), from("ffn_down")].iter().zip(&names) {
                    self.both(from, to);
                }
            }
            Mlp::Joint([both, down]) => {
                let (both, down) = (to(both), to(down));
                // What a dense layer calls its MLP, a layer with experts calls the shared expert.
                for end in ["", "_shexp"] {
                    for part in ["weight", "bias"] {
                        let [gate, up] = ["gate", "up"].map(|name| self.gguf.tensor(&from(&format!("ffn_{name}{end}.{part}"))));
                        if let (Some(gate), Some(up)) = (gate, up) {
                            let mut shape = self.info(gate).shape.clone();
                            if shape != self.info(up).shape {
                                let problem = format!("has shape {:?} where its gate has {shape:?}", self.info(up).shape);
                                return Err(self.error(up, problem));
                            }
                            shape[0] *= 2;
                            let pieces = vec![self.whole(gate), self.whole(up)];
                            self.put(format!("{both}.{part}"), shape, pieces, Change::None);
                        }
                    }
                    self.both(&from(&format!("ffn_down{end}")), &down);
                }
            }
        }
        Ok(())
    }

    fn experts(&mut self, i: usize) -> Result<(), Error> {
        let Experts { router, bias, at, parts } = self.style.experts;
        let from = |name: &str| format!("blk.{i}.{name}");
        let to = |name: &str| format!("{}{i}.{name}", self.style.layers);
        let [router, bias, at] = [router, bias, at].map(to);
        let others = [
            (from("ffn_latent_down"), to("mixer.fc1_latent_proj")),
            (from("ffn_latent_up"), to("mixer.fc2_latent_proj")),
            (from("ffn_up_shexp"), to("mixer.shared_experts.up_proj")),
            (from("ffn_down_shexp"), to("mixer.shared_experts.down_proj")),
        ];
        self.same(&from("ffn_gate_inp.weight"), &router);
        self.same(&from("exp_probs_b.bias"), &bias);
        if matches!(self.style.mlp, Mlp::Split(_)) {
            others.iter().for_each(|(from, to)| self.both(from, to));
        }
        let [gate, up, down] = ["gate", "up", "down"].map(|name| self.gguf.tensor(&from(&format!("ffn_{name}_exps.weight"))));
        for tensor in [gate, up, down].into_iter().flatten() {
            let shape = &self.info(tensor).shape;
            if shape.len() != 3 || shape[0] > MAX_EXPERTS {
                return Err(self.error(tensor, format!("has shape {shape:?}, expected up to {MAX_EXPERTS} experts, rows and columns")));
            }
        }
        if parts[0].is_empty() {
            return self.stacked_experts(i, &at, [gate, up, down]);
        }
        for (tensor, name) in [gate, up, down].into_iter().zip(parts) {
            let Some(tensor) = tensor else { continue };
            let shape = self.info(tensor).shape.clone();
            let numbers = shape[1] * shape[2];
            for e in 0..shape[0] {
                let piece = Piece { tensor, start: e * numbers, len: numbers };
                self.put(format!("{at}{e}.{name}.weight"), shape[1..].to_vec(), vec![piece], Change::None);
            }
        }
        Ok(())
    }

    /// Granite's experts: gate and up of one after the other in `input_linear`.
    fn stacked_experts(&mut self, i: usize, at: &str, [gate, up, down]: [Option<usize>; 3]) -> Result<(), Error> {
        let [first, second] = ["input_linear.weight", "output_linear.weight"].map(|name| format!("{at}{name}"));
        self.same(&format!("blk.{i}.ffn_gate_up_exps.weight"), &first);
        if let (Some(gate), Some(up)) = (gate, up) {
            let mut shape = self.info(gate).shape.clone();
            if shape != self.info(up).shape {
                return Err(self.error(up, format!("has shape {:?} where its gate has {shape:?}", self.info(up).shape)));
            }
            let numbers = shape[1] * shape[2];
            let piece = |tensor, e: usize| Piece { tensor, start: e * numbers, len: numbers };
            let pieces = (0..shape[0]).flat_map(|e| [piece(gate, e), piece(up, e)]).collect();
            shape[1] *= 2;
            self.put(first, shape, pieces, Change::None);
        }
        if let Some(down) = down {
            self.put(second, self.info(down).shape.clone(), vec![self.whole(down)], Change::None);
        }
        Ok(())
    }

    /// A tensor that nothing asks for would be part of the model and not of the answer.
    fn refuse_others(&self, left: Range<usize>) -> Result<(), Error> {
        if let Some(second) = self.second {
            return Err(self.error(second, "has the place of another tensor in the model; one of them would be left out"));
        }
        for (i, tensor) in self.gguf.tensors().iter().enumerate() {
            let layer = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            let is_left = layer.is_some_and(|layer| left.contains(&layer));
            // The config holds the factors of rotary angles.
            if !self.used.contains(&i) && !is_left && tensor.name != "rope_freqs.weight" {
                let problem = "is no part of this architecture as it is known here; without it the answers would be wrong";
                return Err(self.error(i, problem));
            }
        }
        Ok(())
    }
}
