//! I5: a stream's state is what the family's published formula says, worked out here from the checkpoint's config alone.
//!
//! Every part of the state in `f32`: a selective scan `4 E N`, an SSD `4 H P N`, a convolution `4 (K - 1) C`, a gated delta rule
//! `4 H d_k d_v` (these three `2` in half precision, not the convolution), complex modes `8` each; an attention cache 8-bit keys and values and one `f32` scale for each, per position
//! and head, or 4-bit ones in groups of 32 with a scale of 2 bytes each. Parts begin on 16-byte boundaries.

use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use brooklet_tests::{File, family_fixtures};
use serde_json::Value;

/// Positions of the caches: an odd number, so that padding shows.
const CONTEXT: u64 = 101;

/// What a state is made of.
struct Parts {
    bytes: Vec<u64>,
    state: StateFormat,
    cache: CacheFormat,
}

impl Parts {
    fn numbers(&mut self, count: u64) {
        self.bytes.push(4 * count);
    }

    /// Numbers of a recurrence.
    fn recurrence(&mut self, count: u64) {
        self.bytes.push(if self.state == StateFormat::F16 { 2 } else { 4 } * count);
    }

    /// A causal convolution of `taps` taps over `channels`.
    fn conv(&mut self, taps: u64, channels: u64) {
        self.numbers((taps - 1) * channels);
    }

    fn mamba(&mut self, inner: u64, state: u64, taps: u64) {
        self.conv(taps, inner);
        self.recurrence(inner * state);
    }

    fn mamba2(&mut self, heads: u64, head_dim: u64, state: u64, groups: u64, taps: u64) {
        self.conv(taps, heads * head_dim + 2 * groups * state);
        self.recurrence(heads * head_dim * state);
    }

    fn cache(&mut self, heads: u64, head_dim: u64, positions: u64) {
        let (rows, groups) = (heads * positions, head_dim.div_ceil(32));
        let (scales, codes) = match self.cache {
            CacheFormat::F32 => (0, 4 * rows * head_dim),
            CacheFormat::Int8 => (4 * rows, rows * head_dim),
            CacheFormat::Int4 => (2 * rows * groups, 16 * rows * groups),
        };
        self.bytes.extend([scales, codes, scales, codes]);
    }

    fn bytes(&self) -> u64 {
        self.bytes.iter().map(|bytes| bytes.next_multiple_of(16)).sum()
    }
}

/// A config's value by name; `or` where it may be missing.
struct Config(Value);

impl Config {
    fn open(dir: &std::path::Path) -> Self {
        // Python writes a bare Infinity, which JSON has no word for.
        let text = std::fs::read_to_string(dir.join("config.json")).unwrap().replace(" Infinity", " null");
        let json: Value = serde_json::from_str(&text).unwrap();
        Config(json.get("text_config").cloned().unwrap_or(json))
    }

    fn number(&self, key: &str) -> Option<u64> {
        key.split('.').try_fold(&self.0, |json, key| json.get(key))?.as_u64()
    }

    fn n(&self, key: &str) -> u64 {
        self.number(key).unwrap_or_else(|| panic!("no number {key}"))
    }

    fn or(&self, key: &str, default: u64) -> u64 {
        self.number(key).unwrap_or(default)
    }

    fn text(&self, key: &str) -> &str {
        key.split('.').try_fold(&self.0, |json, key| json.get(key)).and_then(Value::as_str).unwrap_or_default()
    }

    fn list(&self, key: &str) -> Option<&Vec<Value>> {
        self.0.get(key)?.as_array()
    }

    /// The words that name each layer, cycled over the number of layers.
    fn layers(&self, key: &str) -> Option<Vec<String>> {
        let words = self.list(key)?;
        let count = self.or("num_hidden_layers", words.len() as u64) as usize;
        Some(words.iter().cycle().take(count).map(|w| w.as_str().unwrap_or_default().to_owned()).collect())
    }

    fn attention(&self, parts: &mut Parts) {
        let heads = self.n("num_attention_heads");
        let head_dim = self.number("head_dim").unwrap_or_else(|| self.n("hidden_size") / heads);
        parts.cache(self.or("num_key_value_heads", heads), head_dim, CONTEXT);
    }
}

/// The state of the model that `config` describes, if `real_pairs` of every layer's modes in a low-rank S4 are real: that, only its
/// weights tell.
fn expected(c: &Config, (state, cache): (StateFormat, CacheFormat), real_pairs: u64) -> Parts {
    let mut p = Parts { bytes: Vec::new(), state, cache };
    let family = c.text("model_type");
    match family {
        "mamba" | "falcon_mamba" if c.number("d_model").is_none() => {
            (0..c.n("num_hidden_layers")).for_each(|_| p.mamba(c.n("intermediate_size"), c.n("state_size"), c.n("conv_kernel")));
        }
        "mamba2" if c.number("d_model").is_none() => (0..c.n("num_hidden_layers")).for_each(|_| {
            p.mamba2(c.n("num_heads"), c.n("head_dim"), c.n("state_size"), c.n("n_groups"), c.n("conv_kernel"));
        }),
        // state-spaces' own configs.
        "" | "mamba" | "mamba2" => {
            let inner = c.n("d_model") * c.or("ssm_cfg.expand", 2);
            let taps = c.or("ssm_cfg.d_conv", 4);
            for layer in 0..c.n("n_layer") {
                if c.list("attn_layer_idx").is_some_and(|all| all.iter().any(|i| i.as_u64() == Some(layer))) {
                    let heads = c.n("attn_cfg.num_heads");
                    let kv_heads = c.or("attn_cfg.num_heads_kv", heads);
                    let head_dim = c.number("attn_cfg.head_dim").unwrap_or_else(|| c.n("d_model") / heads);
                    // The convolution is over queries, keys and values.
                    if let taps @ 1.. = c.or("attn_cfg.d_conv", 0) {
                        p.conv(taps, (heads + 2 * kv_heads) * head_dim);
                    }
                    p.cache(kv_heads, head_dim, CONTEXT);
                    continue;
                }
                match c.text("ssm_cfg.layer") {
                    "Mamba2" => {
                        let head_dim = c.or("ssm_cfg.headdim", 64);
                        p.mamba2(inner / head_dim, head_dim, c.or("ssm_cfg.d_state", 128), c.or("ssm_cfg.ngroups", 1), taps);
                    }
                    _ => p.mamba(inner, c.or("ssm_cfg.d_state", 16), taps),
                }
            }
        }
        "jamba" => {
            for layer in 0..c.n("num_hidden_layers") {
                if layer % c.n("attn_layer_period") == c.n("attn_layer_offset") {
                    c.attention(&mut p);
                } else {
                    p.mamba(c.n("mamba_expand") * c.n("hidden_size"), c.n("mamba_d_state"), c.n("mamba_d_conv"));
                }
            }
        }
        "bamba" | "granitemoehybrid" => {
            let indices = c.list("attn_layer_indices");
            let words = c.layers("layer_types").or_else(|| c.layers("layers_block_type"));
            for layer in 0..c.n("num_hidden_layers") {
                let attends = match (&words, indices) {
                    (Some(words), _) => matches!(words[layer as usize].as_str(), "attention" | "full_attention"),
                    (None, indices) => indices.is_some_and(|all| all.iter().any(|i| i.as_u64() == Some(layer))),
                };
                if attends {
                    c.attention(&mut p);
                } else {
                    p.mamba2(c.n("mamba_n_heads"), c.n("mamba_d_head"), c.n("mamba_d_state"), c.n("mamba_n_groups"), c.n("mamba_d_conv"));
                }
            }
        }
        "falcon_h1" => (0..c.n("num_hidden_layers")).for_each(|_| {
            p.mamba2(c.n("mamba_n_heads"), c.n("mamba_d_head"), c.n("mamba_d_state"), c.n("mamba_n_groups"), c.n("mamba_d_conv"));
            c.attention(&mut p);
        }),
        "nemotron_h" => {
            let pattern = c.text("hybrid_override_pattern").chars().map(String::from).collect();
            for word in c.layers("layers_block_type").unwrap_or(pattern) {
                match word.as_str() {
                    "M" | "mamba" | "linear_attention" => {
                        p.mamba2(c.n("mamba_num_heads"), c.n("mamba_head_dim"), c.n("ssm_state_size"), c.n("n_groups"), c.n("conv_kernel"));
                    }
                    "*" | "attention" | "full_attention" => c.attention(&mut p),
                    _ => {}
                }
            }
        }
        // Shared blocks share weights; every use has its own cache.
        "zamba" | "zamba2" => {
            for word in c.layers("layers_block_type").unwrap() {
                let inner = c.n("mamba_expand") * c.n("hidden_size");
                match family {
                    "zamba" => p.mamba(inner, c.n("mamba_d_state"), c.n("mamba_d_conv")),
                    _ => p.mamba2(
                        c.n("n_mamba_heads"),
                        c.n("mamba_headdim"),
                        c.n("mamba_d_state"),
                        c.n("mamba_ngroups"),
                        c.n("mamba_d_conv"),
                    ),
                }
                if word == "hybrid" {
                    p.cache(c.n("num_key_value_heads"), c.n("attention_head_dim"), CONTEXT);
                }
            }
        }
        "lfm2" | "lfm2_moe" => {
            let attends = |layer: u64| match c.layers("layer_types") {
                Some(words) => words[layer as usize] == "full_attention",
                None => c.list("full_attn_idxs").unwrap().iter().any(|i| i.as_u64() == Some(layer)),
            };
            for layer in 0..c.n("num_hidden_layers") {
                if attends(layer) { c.attention(&mut p) } else { p.conv(c.n("conv_L_cache"), c.n("hidden_size")) }
            }
        }
        "lfm3" => {
            for word in c.layers("layer_types").unwrap() {
                match word.as_str() {
                    "conv" => p.conv(c.n("conv_L_cache"), c.n("hidden_size")),
                    "sliding_attention" => p.cache(c.n("num_key_value_heads"), c.n("head_dim"), c.n("sliding_window")),
                    _ => c.attention(&mut p),
                }
            }
        }
        "recurrent_gemma" => {
            let words = c.layers("block_types").unwrap();
            for word in words {
                if word == "attention" {
                    p.cache(c.n("num_key_value_heads"), c.n("head_dim"), c.n("attention_window_size"));
                } else {
                    p.conv(c.n("conv1d_width"), c.n("lru_width"));
                    p.numbers(c.n("lru_width"));
                }
            }
        }
        "stripedhyena" => {
            for layer in 0..c.n("num_layers") {
                if c.list("attn_layer_idxs").unwrap().iter().any(|i| i.as_u64() == Some(layer)) {
                    let heads = c.n("num_attention_heads");
                    p.cache(heads / c.n("proj_groups"), c.n("hidden_size") / heads, CONTEXT);
                } else {
                    p.conv(c.n("short_filter_length"), 3 * c.n("hidden_size"));
                    p.numbers(2 * c.n("state_size") * c.n("hidden_size"));
                }
            }
        }
        "llama" => (0..c.n("num_hidden_layers")).for_each(|_| c.attention(&mut p)),
        "qwen3_next" | "qwen3_5_text" | "qwen3_5_moe_text" => {
            let words = c.layers("layer_types");
            let (k_heads, k_dim) = (c.n("linear_num_key_heads"), c.n("linear_key_head_dim"));
            let (v_heads, v_dim) = (c.n("linear_num_value_heads"), c.n("linear_value_head_dim"));
            for layer in 0..c.n("num_hidden_layers") {
                let attends = match &words {
                    Some(words) => words[layer as usize] == "full_attention",
                    None => (layer + 1).is_multiple_of(c.or("full_attention_interval", 4)),
                };
                if attends {
                    c.attention(&mut p);
                } else {
                    p.conv(c.n("linear_conv_kernel_dim"), 2 * k_heads * k_dim + v_heads * v_dim);
                    p.recurrence(v_heads * k_dim * v_dim);
                }
            }
        }
        // Modes come in conjugate pairs, of which one is kept; a low-rank correction may turn a pair into two real ones, both kept.
        "s4" => {
            let numbers = c.or("layer_args.d_state", 64) + 2 * real_pairs;
            (0..c.n("n_layers")).for_each(|_| p.numbers(c.n("d_model") * numbers * c.or("layer_args.channels", 1)));
            if c.text("output.pooling") != "last" {
                p.numbers(c.n("d_model"));
            }
        }
        "attenuate" => attenuate(c, &mut p),
        "brooklet_sensor" => {
            if c.text("input.missing") == "hold" {
                p.numbers(c.0["input"]["channels"].as_array().unwrap().len() as u64);
            }
            let (width, state) = (c.n("d_model"), c.n("ssm_cfg.d_state"));
            let inner = width * c.or("ssm_cfg.expand", 2);
            for _ in 0..c.n("n_layer") {
                match c.text("ssm_cfg.layer") {
                    "Mamba1" => p.mamba(inner, state, c.or("ssm_cfg.d_conv", 4)),
                    "Mamba2" => {
                        let head_dim = c.n("ssm_cfg.headdim");
                        p.mamba2(inner / head_dim, head_dim, state, c.or("ssm_cfg.ngroups", 1), c.or("ssm_cfg.d_conv", 4));
                    }
                    // d_state counts a mode and its conjugate as two; one of them is kept, as two numbers.
                    "S4D" => p.numbers(width * state),
                    _ if c.0["ssm_cfg"]["conj_sym"] == Value::Bool(false) => p.numbers(2 * state),
                    _ => p.numbers(state),
                }
            }
            if c.text("output.pooling") != "last" {
                p.numbers(width);
            }
        }
        "brooklet_hybrid" => {
            // A layer is a name, or an object whose "mixers" or "switch" list names.
            let names = |layer: &Value| -> Vec<String> {
                let list = layer.get("mixers").or(layer.get("switch")).and_then(Value::as_array).cloned();
                list.unwrap_or(vec![layer.clone()]).iter().map(|name| name.as_str().unwrap().to_owned()).collect()
            };
            for layer in c.list("layers").unwrap() {
                // A routed block counts its own tokens, in a u64; a switch has one such block on each side.
                let routes = if layer.get("routed").is_some() { 1 } else { layer["switch"].as_array().map_or(0, Vec::len) };
                (0..routes).for_each(|_| p.numbers(2));
                names(layer).iter().for_each(|name| match name.as_str() {
                    "mamba" => p.mamba(c.n("mamba.d_inner"), c.n("mamba.d_state"), c.n("mamba.d_conv")),
                    "mamba2" => p.mamba2(
                        c.n("mamba2.heads"),
                        c.n("mamba2.headdim"),
                        c.n("mamba2.d_state"),
                        c.n("mamba2.ngroups"),
                        c.n("mamba2.d_conv"),
                    ),
                    "attention" => p.cache(c.n("attention.num_key_value_heads"), c.n("attention.head_dim"), CONTEXT),
                    _ => {}
                });
            }
        }
        "brooklet_rnn" => {
            let numbers = if c.text("rnn") == "LSTM" { 2 } else { 1 };
            (0..c.n("num_layers")).for_each(|_| p.numbers(numbers * c.n("hidden_size")));
            if !matches!(c.text("output.pooling"), "" | "last") {
                p.numbers(c.n("hidden_size"));
            }
        }
        "silero_vad" => {
            p.numbers(c.n("context_size"));
            p.numbers(2 * c.n("hidden_size"));
        }
        other => panic!("no formula for {other}"),
    }
    p
}

/// aTENNuate: complex modes, two taps before a convolution of three, frames waiting to be joined or handed out, and a delay line of
/// each level's way around those below.
fn attenuate(c: &Config, p: &mut Parts) {
    let numbers = |key| c.list(key).unwrap().iter().map(|n| n.as_u64().unwrap()).collect::<Vec<_>>();
    let (widths, factors) = ([vec![c.n("in_channels")], numbers("channels")].concat(), numbers("resample_factors"));
    let pre_conv = c.0["pre_conv"] == Value::Bool(true);
    let modes = c.n("num_coeffs") * c.n("repeat");
    // A convolution looks one frame ahead.
    let looks_ahead = |width: u64| u64::from(pre_conv && width > 1);
    let block = |p: &mut Parts, width: u64| {
        if looks_ahead(width) == 1 {
            p.conv(3, width);
        }
        p.numbers(2 * modes);
    };
    let depth = factors.len();
    for level in 0..depth {
        block(p, widths[level]);
        if factors[level] > 1 {
            p.numbers((factors[level] - 1) * widths[level]); // frames waiting to be joined
        }
    }
    let deepest = widths[depth];
    (0..2).for_each(|_| block(p, deepest));
    // Frames by which a level's own input is ahead of what comes back from below it.
    let mut late = 2 * looks_ahead(deepest);
    for level in (0..depth).rev() {
        let factor = factors[level];
        if factor > 1 {
            p.numbers(factor * widths[level]); // a slow frame, handed out part by part
        }
        late = looks_ahead(widths[level]) + (late + 1) * factor - 1;
        p.numbers(late * widths[level]);
        block(p, widths[level]);
        late += looks_ahead(widths[level]);
    }
    (0..2).for_each(|_| block(p, widths[0]));
}

#[test]
fn state_bytes_are_the_families_formulas() {
    check(StateFormat::F32, CacheFormat::Int8);
    check(StateFormat::F32, CacheFormat::F32);
}

#[test]
fn states_in_half_precision_and_caches_of_4_bits_take_what_the_formulas_say() {
    check(StateFormat::F16, CacheFormat::Int4);
}

fn check(state: StateFormat, cache: CacheFormat) {
    let formats = (state, cache);
    let recipe = Recipe { state, cache: Cache { context: CONTEXT as u32, sink: Some(4), format: cache }, ..Recipe::default() };
    let mut wrong = Vec::new();
    for dir in family_fixtures() {
        let file = File::quantized(&dir, &recipe);
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let (bytes, config) = (file.model().state_bytes() as u64, Config::open(&dir));
        let is_low_rank = config.text("model_type") == "s4" && config.text("layer") != "S4D" && config.text("layer_args.mode") != "diag";
        let most = if is_low_rank { config.or("layer_args.d_state", 64) / 2 } else { 0 };
        println!("{name:28} {bytes:8}");
        if !(expected(&config, formats, 0).bytes()..=expected(&config, formats, most).bytes()).contains(&bytes) {
            wrong.push(format!("{name}: {bytes} bytes, the formula says {}", expected(&config, formats, 0).bytes()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
