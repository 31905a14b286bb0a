//! Attention as most families have it: projections, norms of the heads, rotary angles, a cache.

use super::Names;
use super::rotary::rotary;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand};
use brooklet::ops::{NormKind, Rotary};

/// Rotary angles are made before any tensor says how large a head is.
const MAX_HEAD_DIM: usize = 1 << 16;

/// Refuses heads of more numbers than that; `key` says how many they are.
pub(super) fn check_head_dim(config: &Config, key: &str, head_dim: usize) -> Result<(), Error> {
    if head_dim <= MAX_HEAD_DIM {
        return Ok(());
    }
    Err(config.error(key, format!("makes heads of {head_dim} numbers, expected {MAX_HEAD_DIM} at most")))
}

/// Grouped-query attention: `q_proj`, `k_proj`, `v_proj`, and an output projection.
pub(super) struct SelfAttention {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Factor of the scores.
    pub(super) scale: f32,
    /// Whether the projections of queries, keys and values have biases.
    pub(super) bias: bool,
    /// Whether the output projection has one.
    pub(super) out_bias: bool,
    /// Name of the output projection.
    pub(super) out_proj: &'static str,
    pub(super) head_norms: Option<HeadNorms>,
    pub(super) rotary: Option<Rotary>,
    /// Positions that a sliding window sees, whatever the cache's size; `None` looks back as far as the cache goes.
    pub(super) window: Option<usize>,
}

/// Root-mean-square norms of every head's query and key, each with one weight (head_dim) for all heads.
#[derive(Clone, Copy)]
pub(super) struct HeadNorms {
    /// Names of the norms of queries and of keys.
    pub(super) names: [&'static str; 2],
    pub(super) eps: f32,
    /// Whether the file holds `w` for a factor of `1 + w`.
    pub(super) plus_one: bool,
    /// Dimensions at the beginning of a query's head, and a factor of theirs.
    pub(super) rotated: (usize, f32),
}

impl SelfAttention {
    /// Plain attention of the shape that `num_attention_heads`, `num_key_value_heads` and `head_dim` give. Where the second is null there are
    /// as many as heads; where it is left out, the family's `kv_heads`, if it has such a default.
    pub(super) fn new(config: &Config, d_model: usize, kv_heads: Option<usize>) -> Result<Self, Error> {
        let heads = config.size("num_attention_heads")?;
        let left_out = if config.is_null("num_key_value_heads") { None } else { kv_heads };
        let kv_heads = config.maybe_size("num_key_value_heads")?.or(left_out).unwrap_or(heads);
        let head_dim = config.maybe_size("head_dim")?.unwrap_or(d_model / heads);
        check_head_dim(config, "head_dim", head_dim)?;
        if !heads.is_multiple_of(kv_heads) || head_dim == 0 {
            return Err(config.error("num_key_value_heads", format!("{heads} heads of {head_dim} cannot share {kv_heads} key-value heads")));
        }
        Ok(SelfAttention {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5) as f32,
            bias: false,
            out_bias: false,
            out_proj: "o_proj",
            head_norms: None,
            rotary: None,
            window: None,
        })
    }

    /// The same with heads of `default` numbers where the config does not say how large they are.
    pub(super) fn with_head_dim(mut self, config: &Config, default: usize) -> Result<Self, Error> {
        self.head_dim = config.maybe_size("head_dim")?.unwrap_or(default);
        self.scale = (self.head_dim as f64).powf(-0.5) as f32;
        Ok(self)
    }

    /// The same with the biases that the config has: the output's too, where it does not say otherwise.
    pub(super) fn with_biases(mut self, config: &Config) -> Result<Self, Error> {
        self.bias = config.flag_or("attention_bias", false)?;
        self.out_bias = config.flag_or("attention_out_bias", self.bias)?;
        Ok(self)
    }

    /// The same with the rotary angles that the config describes, of the first `dims` dimensions of a head. To be called when scale and norms
    /// are set: some scalings of the angles have a factor for the scores of what is rotated.
    pub(super) fn with_rotary(mut self, g: &mut Graph<'_>, config: &Config, dims: usize, default_theta: f64) -> Result<Self, Error> {
        let (rotary, factor) = rotary(g, config, dims, default_theta)?;
        self.rotary = Some(rotary);
        if dims == self.head_dim {
            self.scale *= factor;
        } else if let Some(norms) = &mut self.head_norms {
            norms.rotated = (dims, factor);
        } else if factor != 1.0 {
            let problem =
                format!("scales the scores of {dims} of a head's {} dimensions by {factor}, which is not supported", self.head_dim);
            return Err(config.error("rope_parameters", problem));
        }
        Ok(self)
    }

    /// Attention of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let y = self.heads(g, names, x)?;
        names.linear(g, self.out_proj, x.len as usize, y, self.out_bias)
    }

    /// The heads side by side, (heads, head_dim), before the output projection.
    pub(super) fn heads<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let q = names.linear(g, "q_proj", self.heads * self.head_dim, x, self.bias)?;
        let k = names.linear(g, "k_proj", self.kv_heads * self.head_dim, x, self.bias)?;
        let v = names.linear(g, "v_proj", self.kv_heads * self.head_dim, x, self.bias)?;
        self.attend(g, names, [q, k, v])
    }

    /// Norms, rotation and attention of projected queries, keys and values.
    pub(super) fn attend<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, [q, k, v]: [Operand; 3]) -> Result<Operand, Error> {
        if let Some(norms) = self.head_norms {
            norms.build(g, names, norms.names[0], q, self.heads, norms.rotated)?;
            norms.build(g, names, norms.names[1], k, self.kv_heads, (0, 1.0))?;
        }
        Ok(g.window_attention([q, k, v], self.heads, self.scale, self.rotary, self.window))
    }
}

impl HeadNorms {
    /// One weight repeated for every head: the norm's groups are the heads.
    fn build<'a>(
        self,
        g: &mut Graph<'a>,
        names: &Names<'a>,
        name: &str,
        x: Operand,
        heads: usize,
        (dims, factor): (usize, f32),
    ) -> Result<(), Error> {
        let name = format!("{name}.weight");
        let mut weight = names.read(&name, &[x.len as usize / heads])?;
        if self.plus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        weight.iter_mut().take(dims).for_each(|w| *w *= factor);
        let weight = g.array(names.full(&name), weight.repeat(heads));
        g.norm_in_place(NormKind::Rms, x, Some(weight), None, heads, self.eps);
        Ok(())
    }
}
