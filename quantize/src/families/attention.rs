//! Attention as most families have it: projections, norms of the heads, rotary angles, a cache.

use super::Names;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand};
use brooklet::ops::{NormKind, Rotary};

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
}

impl SelfAttention {
    /// Plain attention of the shape that `num_attention_heads`, `num_key_value_heads` and `head_dim` give.
    pub(super) fn new(config: &Config, d_model: usize) -> Result<Self, Error> {
        let heads = config.size("num_attention_heads")?;
        let kv_heads = config.maybe_size("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = config.maybe_size("head_dim")?.unwrap_or(d_model / heads);
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
            norms.build(g, names, norms.names[0], q, self.heads)?;
            norms.build(g, names, norms.names[1], k, self.kv_heads)?;
        }
        Ok(g.window_attention([q, k, v], self.heads, self.scale, self.rotary, self.window))
    }
}

impl HeadNorms {
    /// One weight repeated for every head: the norm's groups are the heads.
    fn build<'a>(self, g: &mut Graph<'a>, names: &Names<'a>, name: &str, x: Operand, heads: usize) -> Result<(), Error> {
        let name = format!("{name}.weight");
        let mut weight = names.read(&name, &[x.len as usize / heads])?;
        if self.plus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        let weight = g.array(names.full(&name), weight.repeat(heads));
        g.norm_in_place(NormKind::Rms, x, Some(weight), None, heads, self.eps);
        Ok(())
    }
}

/// How many dimensions of a head are rotated: `partial_rotary_factor` of them, or `default`.
pub(super) fn rotary_dims(config: &Config, head_dim: usize, default: f64) -> Result<usize, Error> {
    let nested = config.maybe_object("rope_parameters")?.filter(|rope| rope.value("partial_rotary_factor").is_some());
    let factor = nested.as_ref().unwrap_or(config).number_or("partial_rotary_factor", default)?;
    let dims = (head_dim as f64 * factor) as usize;
    if !(factor > 0.0 && factor <= 1.0 && dims >= 2 && dims.is_multiple_of(2)) {
        let problem = format!("is {factor}, which rotates {dims} of a head's {head_dim} dimensions; expected an even number of them");
        return Err(config.error("partial_rotary_factor", problem));
    }
    Ok(dims)
}

/// The rotary angles that the config describes, for `dims` rotated dimensions: nested in newer configs, at the top in older ones.
pub(super) fn rotary(g: &mut Graph<'_>, config: &Config, dims: usize, default_theta: f64) -> Result<Rotary, Error> {
    let nested = config.maybe_object("rope_parameters")?;
    let scaling = config.maybe_object("rope_scaling")?;
    let rope = [&scaling, &nested].into_iter().flatten().find(|rope| rope.value("rope_theta").is_some()).unwrap_or(config);
    let theta = rope.number_or("rope_theta", default_theta)?;
    if theta < 1.0 {
        return Err(rope.error("rope_theta", format!("is {theta}, expected at least 1")));
    }
    let mut turns: Vec<f64> = (0..dims / 2).map(|i| theta.powf(-2.0 * i as f64 / dims as f64)).collect();
    if let Some(rope) = scaling.or(nested) {
        // `type` is the older spelling of `rope_type`.
        let key = if rope.value("rope_type").is_some() { "rope_type" } else { "type" };
        match rope.maybe_text(key)? {
            None | Some("default") => {}
            Some("llama3") => stretch(&mut turns, &rope)?,
            Some("divided") => divide(&mut turns, &rope)?,
            Some(other) => return Err(rope.error(key, format!("is \"{other}\"; supported are default and llama3"))),
        }
    }
    Ok(g.turns("rotary.turns", &turns))
}

/// GGUF's way to say the same and more: a divisor for every turn, or one for all.
fn divide(turns: &mut [f64], rope: &Config) -> Result<(), Error> {
    let divisors = rope.numbers("divisors")?;
    if divisors.len() != 1 && divisors.len() != turns.len() || divisors.iter().any(|d| *d <= 0.0) {
        let problem = format!("are {} numbers, expected 1 or {} above 0", divisors.len(), turns.len());
        return Err(rope.error("divisors", problem));
    }
    for (turn, divisor) in turns.iter_mut().zip(divisors.iter().cycle()) {
        *turn /= f64::from(*divisor);
    }
    Ok(())
}

/// Llama 3's longer context: slow turns are divided by `factor`, fast ones stay, those between are blended.
fn stretch(turns: &mut [f64], rope: &Config) -> Result<(), Error> {
    let number = |key: &str| match rope.number_or(key, 0.0)? {
        x if x > 0.0 => Ok(x),
        _ => Err(rope.error(key, "is missing or not above 0")),
    };
    let (factor, low, high) = (number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?);
    let trained = number("original_max_position_embeddings")?;
    if high <= low {
        return Err(rope.error("high_freq_factor", format!("is {high}, not above low_freq_factor {low}")));
    }
    for turn in turns {
        // Full turns over the context of the training.
        let turned = trained * *turn / std::f64::consts::TAU;
        let smooth = ((turned - low) / (high - low)).clamp(0.0, 1.0);
        *turn *= smooth + (1.0 - smooth) / factor;
    }
    Ok(())
}
