//! From a GGUF file's metadata to the config that its family reads, with the metadata key behind every entry.

use super::container::{Gguf, Value};
use crate::checkpoint::config::Config;
use crate::error::Error;
use serde_json::{Map, json};
use std::collections::BTreeMap;

/// Longest text and list that a config takes over.
const MAX_TEXT_BYTES: usize = 4096;
const MAX_ITEMS: usize = 65_536;
/// Most heads; sizes of heads are the family's to check.
const MAX_HEADS: usize = 1 << 24;
/// llama.cpp's number of the sigmoid among the ways to score experts.
const SIGMOID: usize = 2;

/// A config in the making.
pub(super) struct Draft<'g> {
    gguf: &'g Gguf,
    /// Before the keys of the architecture: its name.
    architecture: &'g str,
    object: Map<String, serde_json::Value>,
    /// Config key to metadata key.
    origins: BTreeMap<String, String>,
}

/// What a config was made of.
pub(super) struct Made {
    pub(super) config: Config,
    pub(super) model_type: &'static str,
    /// Layers of the model, and those after them that guess further tokens.
    pub(super) layers: [usize; 2],
    /// Heads of the queries, and of keys and values.
    pub(super) heads: [usize; 2],
}

/// Architectures, and the families that run them. Falcon-Mamba and Bamba share the architecture of others.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("mamba", "mamba"),
    ("mamba2", "mamba2"),
    ("jamba", "jamba"),
    ("granitehybrid", "granitemoehybrid"),
    ("granite", "granitemoehybrid"),
    ("granitemoe", "granitemoehybrid"),
    ("falcon-h1", "falcon_h1"),
    ("nemotron_h", "nemotron_h"),
    ("nemotron_h_moe", "nemotron_h"),
    ("lfm2", "lfm2"),
    ("lfm2moe", "lfm2_moe"),
    ("llama", "llama"),
];

/// The config of the model in `gguf`.
pub(super) fn config(gguf: &Gguf) -> Result<Made, Error> {
    let key = "general.architecture";
    let architecture = gguf.text(key)?.ok_or_else(|| gguf.error(key, "is missing; is this a model's own file?"))?;
    let found = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
    let Some(&(_, model_type)) = found else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        return Err(gguf.error(key, format!("is \"{architecture}\"; supported are {}", known.join(", "))));
    };
    Draft { gguf, architecture, object: Map::new(), origins: BTreeMap::new() }.model(model_type)
}

impl Draft<'_> {
    /// The architecture's metadata key with this ending.
    fn key(&self, end: &str) -> String {
        format!("{}.{end}", self.architecture)
    }

    fn error(&self, end: &str, problem: impl std::fmt::Display) -> Error {
        self.gguf.error(&self.key(end), problem)
    }

    /// Sets a config key to something that follows from the metadata key with the ending `end`.
    fn set(&mut self, key: &str, value: impl Into<serde_json::Value>, end: &str) {
        let origin = self.key(end);
        self.origins.insert(key.to_owned(), origin);
        self.object.insert(key.to_owned(), value.into());
    }

    /// Sets a config key that says what the tensors are like.
    fn say(&mut self, key: &str, value: impl Into<serde_json::Value>) {
        self.object.insert(key.to_owned(), value.into());
    }

    /// Takes a value over as it is, whatever it is: the family judges it. A value that is missing stays so.
    fn copy(&mut self, key: &str, end: &str) -> Result<(), Error> {
        let origin = self.key(end);
        if let Some(value) = self.gguf.value(&origin) {
            let value = self.json(&origin, value)?;
            self.object.insert(key.to_owned(), value);
        }
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    /// Takes a value over that must be there, though the family has a default.
    fn need(&mut self, key: &str, end: &str) -> Result<(), Error> {
        match self.gguf.value(&self.key(end)) {
            None => Err(self.error(end, "is missing; convert the model again")),
            Some(_) => self.copy(key, end),
        }
    }

    fn json(&self, key: &str, value: &Value) -> Result<serde_json::Value, Error> {
        let number = |x: f64| serde_json::Number::from_f64(x).map_or_else(|| json!(x.to_string()), serde_json::Value::from);
        Ok(match value {
            Value::Whole(n) => i64::try_from(*n).map_or_else(|_| json!(n.to_string()), serde_json::Value::from),
            Value::Number(x) => number(*x),
            Value::Single(x) => number(decimal(*x)),
            Value::Flag(flag) => json!(flag),
            Value::Text(_) => json!(self.short_text(key)?),
            Value::List(list) if list.count > MAX_ITEMS => {
                return Err(self.gguf.error(key, format!("lists {} items, expected {MAX_ITEMS} at most", list.count)));
            }
            Value::List(_) => match self.gguf.numbers(key) {
                Ok(numbers) => {
                    numbers.unwrap_or_default().into_iter().map(|x| if x.fract() == 0.0 { json!(x as i64) } else { number(x) }).collect()
                }
                Err(_) => self.gguf.texts(key)?.unwrap_or_default().into_iter().collect(),
            },
        })
    }

    fn short_text(&self, key: &str) -> Result<String, Error> {
        let text = self.gguf.text(key)?.unwrap_or_default();
        if text.len() > MAX_TEXT_BYTES {
            return Err(self.gguf.error(key, format!("has {} bytes, expected {MAX_TEXT_BYTES} at most", text.len())));
        }
        Ok(text.to_owned())
    }

    /// A size from 1 to `MAX_HEADS` under the metadata key with the ending `end`.
    fn size(&self, end: &str) -> Result<usize, Error> {
        let found = self.gguf.whole(&self.key(end), MAX_HEADS)?;
        found.filter(|&n| n > 0).ok_or_else(|| self.error(end, "is missing or 0; convert the model again"))
    }

    /// Whether the first layer that has `beside` has `name`.
    fn has_beside(&self, layers: usize, beside: &str, name: &str) -> bool {
        let with = (0..layers).find(|i| self.gguf.has(&format!("blk.{i}.{beside}")));
        with.is_some_and(|i| self.gguf.has(&format!("blk.{i}.{name}")))
    }

    /// Which layers have the tensor `name`.
    fn with(&self, layers: usize, name: &str) -> Vec<bool> {
        (0..layers).map(|i| self.gguf.has(&format!("blk.{i}.{name}"))).collect()
    }

    /// Which layers attend: queries may be in a joint projection.
    fn attending(&self, layers: usize) -> Vec<bool> {
        let parts = ["attn_q.weight", "attn_qkv.weight"].map(|name| self.with(layers, name));
        (0..layers).map(|i| parts[0][i] || parts[1][i]).collect()
    }

    fn model(mut self, model_type: &'static str) -> Result<Made, Error> {
        let layers = self.layers()?;
        let count = layers[0];
        let model_type = self.refine(model_type)?;
        self.say("model_type", model_type);
        self.copy("hidden_size", "embedding_length")?;
        self.set("num_hidden_layers", count, "block_count");
        self.general()?;
        let mut heads = [0, 0];
        if !matches!(model_type, "mamba" | "falcon_mamba" | "mamba2") {
            heads = self.attention(count)?;
        }
        match model_type {
            "mamba" | "falcon_mamba" => self.mamba(count)?,
            "mamba2" => self.mamba2(count)?,
            "jamba" => self.jamba(count)?,
            "granitemoehybrid" => self.granite(count, heads[0])?,
            "bamba" => self.bamba(count)?,
            "falcon_h1" => self.falcon_h1(count, heads[0])?,
            "nemotron_h" => self.nemotron(count)?,
            "lfm2" | "lfm2_moe" => self.lfm2(count, heads[0])?,
            _ => self.llama(count, heads[0])?,
        }
        let config = Config::made(self.gguf.path(), self.object, self.origins);
        Ok(Made { config, model_type, layers, heads })
    }

    /// Layers of the model, and those after them.
    fn layers(&self) -> Result<[usize; 2], Error> {
        let most = self.gguf.tensors().len();
        let all = self.gguf.whole(&self.key("block_count"), most)?.unwrap_or(0);
        let guessing = self.gguf.whole(&self.key("nextn_predict_layers"), all)?.unwrap_or(0);
        if all == guessing {
            return Err(self.error("block_count", "is missing, or leaves no layers"));
        }
        Ok([all - guessing, guessing])
    }

    /// Families that share an architecture with others.
    fn refine(&self, model_type: &'static str) -> Result<&'static str, Error> {
        if model_type == "mamba" && self.gguf.flag(&self.key("ssm.dt_b_c_rms"))?.unwrap_or(false) {
            return Ok("falcon_mamba");
        }
        // Granite's hybrids have no positions; Bamba rotates half of each head.
        let is_hybrid = self.architecture == "granitehybrid";
        let is_rotated = self.gguf.flag(&self.key("rope.scaling.finetuned"))?.unwrap_or(true);
        if is_hybrid && is_rotated && self.gguf.value(&self.key("residual_scale")).is_none() {
            return Ok("bamba");
        }
        Ok(model_type)
    }

    /// What every text model has.
    fn general(&mut self) -> Result<(), Error> {
        let embedding = self.gguf.tensor("token_embd.weight").map(|i| &self.gguf.tensors()[i]);
        let rows = embedding.and_then(|tensor| tensor.shape.first().copied());
        let rows =
            rows.ok_or_else(|| Error::invalid(self.gguf.path(), "tensor `token_embd.weight`", "is missing; is this a text model?"))?;
        self.say("vocab_size", rows);
        self.say("tie_word_embeddings", !self.gguf.has("output.weight"));
        for (key, name) in [("_name_or_path", "general.name"), ("license", "general.license")] {
            if let Some(text) = self.gguf.text(name)? {
                let short: String = text.chars().take(200).collect();
                self.say(key, short);
            }
        }
        for key in ["bos_token_id", "eos_token_id"] {
            let name = format!("tokenizer.ggml.{key}");
            // What is no id in some files is written as the largest number.
            if let Some(id) = self.gguf.whole(&name, u32::MAX as usize)?.filter(|&id| id != u32::MAX as usize) {
                if id >= rows {
                    return Err(self.gguf.error(&name, format!("is {id}, and the vocabulary has {rows} tokens")));
                }
                self.say(key, id);
            }
        }
        // What ends a turn ends a text too.
        if let Some(id) = self.gguf.whole("tokenizer.ggml.eot_token_id", u32::MAX as usize)?.filter(|&id| id < rows) {
            let key = if self.object.contains_key("eos_token_id") { "eot_token_id" } else { "eos_token_id" };
            self.say(key, id);
        }
        Ok(())
    }

    /// Heads, their size and their angles.
    fn attention(&mut self, layers: usize) -> Result<[usize; 2], Error> {
        let attends = self.attending(layers);
        if !attends.contains(&true) {
            // Families read these even if no layer attends.
            self.say("num_attention_heads", 1);
            self.say("num_key_value_heads", 1);
            return Ok([1, 1]);
        }
        let heads = self.one_of_layers("attention.head_count", &attends)?;
        let kv_heads = match self.gguf.value(&self.key("attention.head_count_kv")) {
            None => heads,
            Some(_) => self.one_of_layers("attention.head_count_kv", &attends)?,
        };
        self.set("num_attention_heads", heads, "attention.head_count");
        self.set("num_key_value_heads", kv_heads, "attention.head_count_kv");
        self.copy("head_dim", "attention.key_length")?;
        if let (Some(key), Some(value)) =
            (self.gguf.value(&self.key("attention.key_length")), self.gguf.value(&self.key("attention.value_length")))
            && key != value
        {
            return Err(self.error("attention.value_length", "differs from attention.key_length, which is not supported"));
        }
        if self.gguf.flag(&self.key("attention.causal"))? == Some(false) {
            return Err(self.error("attention.causal", "is false: the model looks ahead, and a stream cannot"));
        }
        if self.gguf.number(&self.key("attention.sliding_window"))?.is_some_and(|w| w > 0.0) {
            return Err(self.error("attention.sliding_window", "is set; models with sliding windows are not read from GGUF"));
        }
        // Qwen's kind has biases of queries, keys and values, and none of the output.
        let pairs = [("attn_q.weight", "attn_q.bias"), ("attn_qkv.weight", "attn_qkv.bias")];
        self.say("attention_bias", pairs.iter().any(|(weight, bias)| self.has_beside(layers, weight, bias)));
        self.say("attention_out_bias", self.has_beside(layers, "attn_output.weight", "attn_output.bias"));
        self.rotary()?;
        Ok([heads, kv_heads])
    }

    /// A number that is one for all layers, or a list in which the attending layers agree.
    fn one_of_layers(&self, end: &str, attends: &[bool]) -> Result<usize, Error> {
        let Some(numbers) = self.gguf.numbers(&self.key(end))? else {
            return Err(self.error(end, "is missing; convert the model again"));
        };
        let mut of_attending = attends.iter().enumerate().filter(|(_, attends)| **attends).map(|(i, _)| {
            let found = if numbers.len() == 1 { numbers.first() } else { numbers.get(i) };
            (i, found.copied().unwrap_or(0.0))
        });
        let first = of_attending.next().map_or(0.0, |(_, n)| n);
        if let Some((i, other)) = of_attending.find(|(_, n)| *n != first) {
            return Err(
                self.error(end, format!("says {first} at first and {other} in layer {i}; only one number for all layers is supported"))
            );
        }
        if !(1.0..=MAX_HEADS as f64).contains(&first) || first.fract() != 0.0 {
            return Err(self.error(end, format!("is {first} for a layer that attends, expected a whole number from 1 to {MAX_HEADS}")));
        }
        Ok(first as usize)
    }

    /// Rotary angles: their base, and what they are divided by.
    fn rotary(&mut self) -> Result<(), Error> {
        match self.gguf.value(&self.key("rope.freq_base")) {
            Some(_) => self.copy("rope_theta", "rope.freq_base")?,
            // llama.cpp's default, whatever the family's is.
            None => self.set("rope_theta", 10_000.0, "rope.freq_base"),
        }
        let mut divisors = match self.gguf.tensor("rope_freqs.weight") {
            Some(tensor) => Some(super::numbers_of(self.gguf, tensor)?),
            None => None,
        };
        let kind = self.gguf.text(&self.key("rope.scaling.type"))?.map(str::to_owned);
        // The second is the key of older files.
        let ends = ["rope.scaling.factor", "rope.scale_linear"];
        let factor_end = ends.into_iter().find(|end| self.gguf.value(&self.key(end)).is_some()).unwrap_or(ends[0]);
        match kind.as_deref() {
            Some("none") => {}
            // A factor alone is a linear one.
            None | Some("linear") => {
                let factor = match self.gguf.number(&self.key(factor_end))?.unwrap_or(0.0) as f32 {
                    0.0 => 1.0,
                    factor => factor,
                };
                match &mut divisors {
                    Some(divisors) => divisors.iter_mut().for_each(|d| *d *= factor),
                    None if factor == 1.0 => {}
                    None => divisors = Some(vec![factor]),
                }
            }
            Some(other) => return Err(self.error("rope.scaling.type", format!("is \"{other}\"; supported are none and linear"))),
        }
        if let Some(divisors) = divisors {
            let divisors: Vec<f64> = divisors.into_iter().map(decimal).collect();
            self.object.insert("rope_scaling".to_owned(), json!({ "rope_type": "divided", "divisors": divisors }));
            self.origins.insert("rope_scaling.divisors".to_owned(), self.key(factor_end));
        }
        Ok(())
    }

    /// Refuses a rotation of less than a whole head, of `heads` that share the model's width if the file does not say how large they are.
    fn rotates_whole_heads(&self, heads: usize) -> Result<(), Error> {
        let end = "rope.dimension_count";
        let Some(dims) = self.gguf.whole(&self.key(end), MAX_HEADS)? else { return Ok(()) };
        let head_dim = match self.gguf.whole(&self.key("attention.key_length"), MAX_HEADS)? {
            Some(head_dim) => head_dim,
            None => self.size("embedding_length")? / heads.max(1),
        };
        if dims == head_dim {
            Ok(())
        } else {
            Err(self.error(end, format!("is {dims} of a head's {head_dim}; only whole heads are rotated")))
        }
    }

    /// Channels of the recurrent layers over the model's width.
    fn expand(&self) -> Result<usize, Error> {
        let (inner, width) = (self.size("ssm.inner_size")?, self.size("embedding_length")?);
        if inner.is_multiple_of(width) {
            return Ok(inner / width);
        }
        Err(self.error("ssm.inner_size", format!("is {inner}, which is no multiple of embedding_length {width}")))
    }

    /// Channels of a Mamba-2 head.
    fn head_channels(&self) -> Result<usize, Error> {
        let (inner, heads) = (self.size("ssm.inner_size")?, self.size("ssm.time_step_rank")?);
        if inner.is_multiple_of(heads) {
            return Ok(inner / heads);
        }
        Err(self.error("ssm.time_step_rank", format!("is {heads} heads, which do not share ssm.inner_size {inner}")))
    }

    fn mamba(&mut self, layers: usize) -> Result<(), Error> {
        // Falcon-Mamba's norms in the mixer have an epsilon of their own, which files do not say: the family has the published one.
        self.need("layer_norm_epsilon", "attention.layer_norm_rms_epsilon")?;
        self.need("state_size", "ssm.state_size")?;
        self.need("conv_kernel", "ssm.conv_kernel")?;
        self.need("time_step_rank", "ssm.time_step_rank")?;
        self.say("use_bias", self.has_beside(layers, "ssm_in.weight", "ssm_in.bias"));
        self.say("use_conv_bias", self.has_beside(layers, "ssm_conv1d.weight", "ssm_conv1d.bias"));
        // The family takes this size from the projection.
        let inner = self.size("ssm.inner_size")?;
        let rows = self.gguf.tensor("blk.0.ssm_in.weight").and_then(|i| self.gguf.tensors()[i].shape.first().copied());
        match rows {
            Some(rows) if rows != 2 * inner => {
                Err(self.error("ssm.inner_size", format!("is {inner}, and `blk.0.ssm_in.weight` has {rows} rows, not twice as many")))
            }
            _ => Ok(()),
        }
    }

    fn mamba2(&mut self, layers: usize) -> Result<(), Error> {
        self.need("layer_norm_epsilon", "attention.layer_norm_rms_epsilon")?;
        self.need("state_size", "ssm.state_size")?;
        self.need("conv_kernel", "ssm.conv_kernel")?;
        self.need("n_groups", "ssm.group_count")?;
        self.need("num_heads", "ssm.time_step_rank")?;
        let channels = self.head_channels()?;
        self.set("head_dim", channels, "ssm.inner_size");
        self.say("use_bias", self.has_beside(layers, "ssm_in.weight", "ssm_in.bias"));
        self.say("use_conv_bias", self.has_beside(layers, "ssm_conv1d.weight", "ssm_conv1d.bias"));
        Ok(())
    }

    /// The Mamba-2 of a hybrid, by the keys that start with `mamba_`.
    fn hybrid_mamba2(&mut self, layers: usize) -> Result<(), Error> {
        self.need("mamba_n_heads", "ssm.time_step_rank")?;
        self.need("mamba_d_state", "ssm.state_size")?;
        self.need("mamba_d_conv", "ssm.conv_kernel")?;
        self.need("mamba_n_groups", "ssm.group_count")?;
        let channels = self.head_channels()?;
        self.set("mamba_d_head", channels, "ssm.inner_size");
        self.hybrid_biases(layers);
        Ok(())
    }

    fn hybrid_biases(&mut self, layers: usize) {
        self.say("mamba_proj_bias", self.has_beside(layers, "ssm_in.weight", "ssm_in.bias"));
        self.say("mamba_conv_bias", self.has_beside(layers, "ssm_conv1d.weight", "ssm_conv1d.bias"));
    }

    fn jamba(&mut self, layers: usize) -> Result<(), Error> {
        self.need("rms_norm_eps", "attention.layer_norm_rms_epsilon")?;
        self.copy("intermediate_size", "feed_forward_length")?;
        self.need("mamba_d_state", "ssm.state_size")?;
        self.need("mamba_d_conv", "ssm.conv_kernel")?;
        self.need("mamba_dt_rank", "ssm.time_step_rank")?;
        let expand = self.expand()?;
        self.set("mamba_expand", expand, "ssm.inner_size");
        self.hybrid_biases(layers);
        let attends = self.attending(layers);
        self.periods(&attends, "attn_layer", "attention.head_count_kv")?;
        let mixes = self.with(layers, "ffn_gate_inp.weight");
        self.periods(&mixes, "expert_layer", "expert_count")?;
        if mixes.contains(&true) {
            self.copy("num_experts", "expert_count")?;
            self.copy("num_experts_per_tok", "expert_used_count")?;
        } else {
            self.say("num_experts", 1);
        }
        Ok(())
    }

    /// Says which layers are of a kind by a period and an offset, which is all that Jamba's config has.
    fn periods(&mut self, is: &[bool], name: &str, end: &str) -> Result<(), Error> {
        let found: Vec<usize> = (0..is.len()).filter(|&i| is[i]).collect();
        let (period, offset) = match found.as_slice() {
            [] => (is.len() + 1, is.len()),
            [only] => (is.len(), *only),
            [first, second, ..] => (second - first, *first),
        };
        if offset >= period || (0..is.len()).any(|i| is[i] != (i % period == offset)) {
            return Err(self.error(end, format!("the layers {found:?} follow no period, as Jamba's do")));
        }
        self.set(&format!("{name}_period"), period, end);
        self.set(&format!("{name}_offset"), offset, end);
        Ok(())
    }

    fn granite(&mut self, layers: usize, heads: usize) -> Result<(), Error> {
        self.need("rms_norm_eps", "attention.layer_norm_rms_epsilon")?;
        let has_experts = self.with(layers, "ffn_gate_inp.weight").contains(&true);
        let shared = self.gguf.whole(&self.key("expert_shared_feed_forward_length"), MAX_HEADS)?.unwrap_or(0);
        let shared_end = if shared > 0 { "expert_shared_feed_forward_length" } else { "feed_forward_length" };
        self.copy("shared_intermediate_size", shared_end)?;
        if has_experts {
            self.copy("intermediate_size", "feed_forward_length")?;
            self.copy("num_local_experts", "expert_count")?;
            self.copy("num_experts_per_tok", "expert_used_count")?;
        }
        let kinds: Vec<&str> = self.with(layers, "ssm_a").into_iter().map(|is| if is { "mamba" } else { "attention" }).collect();
        if kinds.contains(&"mamba") {
            self.hybrid_mamba2(layers)?;
            let expand = self.expand()?;
            self.set("mamba_expand", expand, "ssm.inner_size");
        }
        let is_hybrid = self.architecture == "granitehybrid";
        let is_rotated = self.gguf.flag(&self.key("rope.scaling.finetuned"))?.unwrap_or(true) && !is_hybrid;
        if is_rotated {
            self.rotates_whole_heads(heads)?;
        }
        self.say("position_embedding_type", if is_rotated { "rope" } else { "nope" });
        self.set("layer_types", kinds, "attention.head_count_kv");
        for (key, end) in
            [("embedding_multiplier", "embedding_scale"), ("residual_multiplier", "residual_scale"), ("logits_scaling", "logit_scale")]
        {
            // llama.cpp takes 0 for a factor that is left out.
            if self.gguf.number(&self.key(end))?.is_some_and(|x| x != 0.0) {
                self.copy(key, end)?;
            }
        }
        match self.gguf.number(&self.key("attention.scale"))? {
            Some(scale) if scale != 0.0 => self.copy("attention_multiplier", "attention.scale"),
            _ => {
                let head_dim = match self.gguf.whole(&self.key("attention.key_length"), MAX_HEADS)? {
                    Some(head_dim) => head_dim,
                    None => self.size("embedding_length")? / heads.max(1),
                };
                self.set("attention_multiplier", (head_dim.max(1) as f64).powf(-0.5), "attention.scale");
                Ok(())
            }
        }
    }

    fn bamba(&mut self, layers: usize) -> Result<(), Error> {
        self.need("rms_norm_eps", "attention.layer_norm_rms_epsilon")?;
        self.copy("intermediate_size", "feed_forward_length")?;
        self.hybrid_mamba2(layers)?;
        let expand = self.expand()?;
        self.set("mamba_expand", expand, "ssm.inner_size");
        let attends = self.attending(layers);
        let indices: Vec<usize> = (0..layers).filter(|&i| attends[i]).collect();
        self.set("attn_layer_indices", indices, "attention.head_count_kv");
        let dims = self.size("rope.dimension_count")?;
        let head_dim = match self.gguf.whole(&self.key("attention.key_length"), MAX_HEADS)? {
            Some(head_dim) => head_dim,
            None => self.size("embedding_length")? / self.size("attention.head_count")?,
        };
        self.set("attn_rotary_emb", dims, "rope.dimension_count");
        self.set("partial_rotary_factor", dims as f64 / head_dim.max(1) as f64, "rope.dimension_count");
        Ok(())
    }

    /// The multipliers are in the weights.
    fn falcon_h1(&mut self, layers: usize, heads: usize) -> Result<(), Error> {
        self.rotates_whole_heads(heads)?;
        self.need("rms_norm_eps", "attention.layer_norm_rms_epsilon")?;
        self.copy("intermediate_size", "feed_forward_length")?;
        self.hybrid_mamba2(layers)?;
        self.need("mamba_d_ssm", "ssm.inner_size")?;
        // The norm follows the gate: llama.cpp knows no other order, and its files do not say.
        self.say("mamba_rms_norm", self.has_beside(layers, "ssm_in.weight", "ssm_norm.weight"));
        self.say("mamba_norm_before_gate", false);
        self.say("projectors_bias", self.has_beside(layers, "ssm_out.weight", "ssm_out.bias"));
        self.say("mlp_bias", self.has_beside(layers, "ffn_up.weight", "ffn_up.bias"));
        Ok(())
    }

    fn nemotron(&mut self, layers: usize) -> Result<(), Error> {
        let rms = "attention.layer_norm_rms_epsilon";
        let eps = if self.gguf.value(&self.key(rms)).is_some() { rms } else { "attention.layer_norm_epsilon" };
        self.need("layer_norm_epsilon", eps)?;
        let letters = ["ssm_a", "ffn_gate_inp.weight", "ffn_up.weight"].map(|name| self.with(layers, name));
        let letter = |i: usize| {
            if letters[0][i] {
                'M'
            } else if letters[1][i] {
                'E'
            } else if letters[2][i] {
                '-'
            } else {
                '*'
            }
        };
        let pattern: String = (0..layers).map(letter).collect();
        if pattern.contains('M') {
            self.need("mamba_num_heads", "ssm.time_step_rank")?;
            let channels = self.head_channels()?;
            self.set("mamba_head_dim", channels, "ssm.inner_size");
            self.need("ssm_state_size", "ssm.state_size")?;
            self.need("n_groups", "ssm.group_count")?;
            self.need("conv_kernel", "ssm.conv_kernel")?;
        }
        if pattern.contains('-') {
            // The lengths of layers without an MLP are 0, and some converters write 0 for all: the matrix knows.
            let layer = pattern.chars().position(|c| c == '-').unwrap_or(0);
            let up = self.gguf.tensor(&format!("blk.{layer}.ffn_up.weight")).map(|i| self.gguf.tensors()[i].shape[0]);
            self.set("intermediate_size", up.unwrap_or(0), "feed_forward_length");
        }
        if pattern.contains('E') {
            self.copy("n_routed_experts", "expert_count")?;
            self.copy("num_experts_per_tok", "expert_used_count")?;
            self.copy("moe_intermediate_size", "expert_feed_forward_length")?;
            self.copy("moe_shared_expert_intermediate_size", "expert_shared_feed_forward_length")?;
            self.copy("n_group", "expert_group_count")?;
            self.copy("topk_group", "expert_group_used_count")?;
            match self.gguf.value(&self.key("expert_weights_norm")) {
                Some(_) => self.copy("norm_topk_prob", "expert_weights_norm")?,
                // llama.cpp's default; the family's is the other one.
                None => self.set("norm_topk_prob", false, "expert_weights_norm"),
            }
            self.experts_factor()?;
            self.copy("moe_latent_size", "moe_latent_size")?;
        }
        self.set("hybrid_override_pattern", pattern, "attention.head_count_kv");
        self.say("use_bias", self.has_beside(layers, "ssm_in.weight", "ssm_in.bias"));
        self.say("use_conv_bias", self.has_beside(layers, "ssm_conv1d.weight", "ssm_conv1d.bias"));
        self.say("mlp_bias", self.has_beside(layers, "ffn_up.weight", "ffn_up.bias"));
        Ok(())
    }

    /// The factor of the experts' sum; llama.cpp takes 0 for one that is left out.
    fn experts_factor(&mut self) -> Result<(), Error> {
        let end = "expert_weights_scale";
        match self.gguf.number(&self.key(end))? {
            Some(factor) if factor != 0.0 => self.copy("routed_scaling_factor", end)?,
            _ => self.set("routed_scaling_factor", 1.0, end),
        }
        Ok(())
    }

    fn lfm2(&mut self, layers: usize, heads: usize) -> Result<(), Error> {
        self.need("norm_eps", "attention.layer_norm_rms_epsilon")?;
        self.need("conv_L_cache", "shortconv.l_cache")?;
        self.say("conv_bias", self.has_beside(layers, "shortconv.conv.weight", "shortconv.conv.bias"));
        let attends = self.attending(layers);
        if attends.contains(&true) {
            self.rotates_whole_heads(heads)?;
        }
        let kinds: Vec<&str> = attends.into_iter().map(|is| if is { "full_attention" } else { "conv" }).collect();
        self.set("layer_types", kinds, "attention.head_count_kv");
        if self.architecture == "lfm2moe" {
            self.copy("num_dense_layers", "leading_dense_block_count")?;
            self.copy("num_experts", "expert_count")?;
            self.copy("num_experts_per_tok", "expert_used_count")?;
            self.copy("moe_intermediate_size", "expert_feed_forward_length")?;
            self.say("use_expert_bias", self.has_beside(layers, "ffn_gate_inp.weight", "exp_probs_b.bias"));
            self.experts_factor()?;
            // llama.cpp always does.
            self.say("norm_topk_prob", true);
            let end = "expert_gating_func";
            if let Some(gating) = self.gguf.whole(&self.key(end), u32::MAX as usize)?.filter(|&gating| gating != SIGMOID) {
                return Err(self.error(end, format!("is {gating}; only {SIGMOID}, the sigmoid, is supported for this architecture")));
            }
        }
        Ok(())
    }

    fn llama(&mut self, layers: usize, heads: usize) -> Result<(), Error> {
        if self.with(layers, "ffn_gate_inp.weight").contains(&true) {
            return Err(self.error("expert_count", "says that layers have experts; only dense models of this architecture are read"));
        }
        self.need("rms_norm_eps", "attention.layer_norm_rms_epsilon")?;
        self.copy("intermediate_size", "feed_forward_length")?;
        self.rotates_whole_heads(heads)?;
        self.say("mlp_bias", self.has_beside(layers, "ffn_up.weight", "ffn_up.bias"));
        Ok(())
    }
}

/// The number whose shortest decimal spelling is that of `x`: what a config said before it became an `f32`.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
