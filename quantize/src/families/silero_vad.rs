//! Silero VAD (`model_type` "silero_vad"): is there speech in a chunk of sound? A short-time spectrum, four convolutions over the
//! few positions inside the chunk, one LSTM step, a head.
//!
//! A frame is one chunk of samples; what reaches across chunks is a little of the sound before, and the LSTM. Inside a chunk a
//! convolution is one matrix applied at every position: its taps lie behind each other, (out, taps * in), as the positions do.
//! The config is written by `quantize/reference/import_silero.py`; tensors have the names of the published safetensors file.

use super::Names;
use super::recurrent::Cell;
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Card, Graph, Input, Operand, Output, Role};
use brooklet::artifact::MAX_CHANNELS;
use brooklet::ops::{Activation, TensorId};

/// Taps of the convolutions behind the spectrum; one position of padding on both sides.
const TAPS: usize = 3;
/// Most positions of the spectrum in a chunk: each has operations of its own. The published model has four.
const MAX_POSITIONS: usize = 64;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let (chunk, context) = (config.size("num_samples")?, config.size("context_size")?);
    if chunk > MAX_CHANNELS {
        return Err(config.error("num_samples", format!("is {chunk}, at most {MAX_CHANNELS} are supported")));
    }
    if context > MAX_CHANNELS {
        return Err(config.error("context_size", format!("is {context}, at most {MAX_CHANNELS} are supported")));
    }
    let rate = config.size("sampling_rate")?;
    let mut g = Graph::new(card(config)?, sound(chunk, rate), Output::Classes(vec!["silence".to_owned(), "speech".to_owned()]));
    let frame = g.frame(vec![0.0; chunk], vec![1.0; chunk]);
    let sound = g.window(frame, context);
    let names = Names::new(checkpoint, "");
    let mut x = spectrum(&mut g, &names, sound, config)?;
    for (i, shape) in layers(config)?.into_iter().enumerate() {
        // 4 bits anywhere here, or 8 behind the first convolution, change decisions.
        let role = if i == 0 { Role::Embedding } else { Role::Fine };
        x = convolution(&mut g, &names, &format!("conv{}", i + 1), role, x, shape)?;
    }
    if x.positions != 1 {
        return Err(config.error("conv_strides", format!("leave {} positions for the LSTM; only one is supported", x.positions)));
    }
    let hidden = config.size("hidden_size")?;
    let h = Cell::Lstm.build(&mut g, &names.under("lstm_cell"), "", (Role::Fine, x.position(0)), hidden, true)?;
    g.activate(Activation::Relu, h);
    // The sigmoid of one logit is the softmax of it and zero.
    let weight = move || Ok([vec![0.0; hidden], checkpoint.tensor("final_conv.weight", &[1, hidden])?.data].concat());
    let bias = names.read("final_conv.bias", &[1])?;
    checkpoint.tensor("final_conv.weight", &[1, hidden])?;
    let head = g.matrix("final_conv.weight", 2, hidden, Role::Embedding, weight);
    let bias = g.array("final_conv.bias", [vec![0.0], bias].concat());
    g.head(head, Some(bias), h, 1.0);
    Ok(g)
}

fn card(config: &Config) -> Result<Card, Error> {
    let text = |key| Ok::<_, Error>(config.maybe_text(key)?.unwrap_or_default().to_owned());
    Ok(Card { name: text("name")?, family: text("model_type")?, source: text("source")?, license: text("license")? })
}

/// A chunk of samples, full scale 1.
fn sound(chunk: usize, rate: usize) -> Input {
    Input::Frames {
        channels: (0..chunk).map(|i| format!("s{i}")).collect(),
        units: vec!["1".to_owned(); chunk],
        rate_hz: rate as f32 / chunk as f32,
        mean: vec![0.0; chunk],
        // As loud as speech, for the golden input.
        std: vec![0.1; chunk],
    }
}

/// Channels and stride of each convolution.
fn layers(config: &Config) -> Result<Vec<(usize, usize)>, Error> {
    let sizes = |key: &str| {
        let sizes: Vec<usize> = config.numbers(key)?.into_iter().map(|x| x as usize).collect();
        if sizes.iter().all(|n| (1..=1 << 16).contains(n)) {
            Ok(sizes)
        } else {
            Err(config.error(key, "must hold whole numbers from 1 up"))
        }
    };
    let (channels, strides) = (sizes("conv_channels")?, sizes("conv_strides")?);
    if channels.len() != strides.len() || channels.is_empty() {
        return Err(config.error("conv_strides", format!("has {} entries for {} convolutions", strides.len(), channels.len())));
    }
    Ok(channels.into_iter().zip(strides).collect())
}

/// Channels at a few positions, between one position of padding on both sides: (positions + 2, channels).
struct Positions {
    padded: Operand,
    channels: usize,
    positions: usize,
}

impl Positions {
    fn new(g: &mut Graph<'_>, channels: usize, positions: usize) -> Self {
        let padded = g.value((positions + 2) * channels);
        Positions { padded, channels, positions }
    }

    fn position(&self, position: usize) -> Operand {
        self.padded.part((position + 1) * self.channels, self.channels)
    }

    fn fill_padding(&self, g: &mut Graph<'_>) {
        g.fill(self.padded.part(0, self.channels), 0.0);
        g.fill(self.padded.part((self.positions + 1) * self.channels, self.channels), 0.0);
    }
}

/// Magnitudes of a short-time Fourier transform: a convolution with a basis of cosines, then sines. Behind its end the sound is
/// reflected, which folds those columns of the basis back.
fn spectrum<'a>(g: &mut Graph<'a>, names: &Names<'a>, sound: Operand, config: &Config) -> Result<Positions, Error> {
    let (window, hop, pad) = (config.size("n_fft")?, config.size("hop_length")?, config.count_or("pad", 0)?);
    let len = sound.len as usize;
    let (bins, rows) = (window / 2 + 1, 2 * (window / 2 + 1));
    if pad >= len || len + pad < window {
        return Err(config.error("pad", format!("is {pad}, which does not fit a chunk of {len} samples and a window of {window}")));
    }
    let positions = (len + pad - window) / hop + 1;
    if positions > MAX_POSITIONS {
        return Err(
            config.error("hop_length", format!("is {hop}, which makes {positions} positions; at most {MAX_POSITIONS} are supported"))
        );
    }
    let checkpoint = names.checkpoint;
    let basis = names.matrix(g, "stft_conv.weight", rows, window, Role::Embedding)?;
    let out = Positions::new(g, bins, positions);
    for position in 0..out.positions {
        let start = position * hop;
        let (w, x) = if start + window <= len {
            (basis, sound.part(start, window))
        } else {
            let place = move |col: usize| if start + col < len { start + col } else { 2 * (len - 1) - (start + col) };
            let first = (0..window).map(place).min().unwrap_or(start);
            let cols = len - first;
            let folded = move || {
                let basis = checkpoint.tensor("stft_conv.weight", &[rows, window])?.data;
                let mut folded = vec![0.0; rows * cols];
                for (i, b) in basis.iter().enumerate() {
                    folded[i / window * cols + place(i % window) - first] += b;
                }
                Ok(folded)
            };
            let name = format!("stft_conv.weight.reflected{position}");
            (g.matrix(name, rows, cols, Role::Embedding, folded), sound.part(first, cols))
        };
        let wave = g.linear(w, None, x);
        g.activate(Activation::Square, wave);
        let [cos, sin] = wave.split([bins, bins]);
        g.copy(out.position(position), cos);
        g.add(out.position(position), sin, 1.0);
    }
    g.activate(Activation::Sqrt, out.padded.part(bins, out.positions * bins));
    Ok(out)
}

/// `relu(bias + sum over taps)`; on disk (out, in, taps).
fn convolution<'a>(
    g: &mut Graph<'a>,
    names: &Names<'a>,
    layer: &str,
    role: Role,
    x: Positions,
    (channels, stride): (usize, usize),
) -> Result<Positions, Error> {
    let out = Positions::new(g, channels, (x.positions - 1) / stride + 1);
    let bias = names.array(g, &format!("{layer}.bias"), &[channels])?;
    // At a lone output only the taps that meet something; several share one matrix and see zeros beyond the edges.
    let taps = if out.positions == 1 { 1..(x.positions + 1).min(TAPS) } else { 0..TAPS };
    let w = taps_behind_each_other(g, names, &format!("{layer}.weight"), role, channels, x.channels, taps.clone())?;
    if out.positions > 1 {
        x.fill_padding(g);
    }
    for position in 0..out.positions {
        let seen = x.padded.part((position * stride + taps.start) * x.channels, taps.len() * x.channels);
        g.linear_into(w, Some(bias), seen, out.position(position));
    }
    g.activate(Activation::Relu, out.padded.part(channels, out.positions * channels));
    Ok(out)
}

/// (out, in, taps) to (out, taps, in), of the taps in `taps`.
fn taps_behind_each_other<'a>(
    g: &mut Graph<'a>,
    names: &Names<'a>,
    name: &str,
    role: Role,
    rows: usize,
    inputs: usize,
    taps: std::ops::Range<usize>,
) -> Result<TensorId, Error> {
    let (checkpoint, name) = (names.checkpoint, names.full(name));
    let (of, cols) = (name.clone(), taps.len() * inputs);
    let load = move || {
        let w = checkpoint.tensor(&of, &[rows, inputs, TAPS])?.data;
        let place = |i: usize| (i / cols * inputs + i % cols % inputs) * TAPS + taps.start + i % cols / inputs;
        Ok((0..rows * cols).map(|i| w[place(i)]).collect())
    };
    // Its shape is checked now, with what is small enough to be read twice.
    let _: Vec<f32> = load()?;
    Ok(g.matrix(name, rows, cols, role, load))
}
