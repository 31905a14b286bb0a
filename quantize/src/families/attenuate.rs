//! aTENNuate (`model_type` "attenuate"): a U-Net of state-space layers over raw sound, every level at a rate of its own.
//!
//! Going down, `r` frames are joined to one frame of the next level; going up, one frame is cut into `r`. The published model is
//! written for whole recordings, and its convolutions see one frame ahead. As a stream each level runs at its own rate, each
//! convolution makes what follows start one frame later, and the paths around the lower levels wait: the outputs are the
//! published ones, a fixed number of samples late, zeros before. Tensors have PyTorch's names.

use super::Names;
use super::discretise::{Complex, exp_minus_one, finite, planes};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Card, Graph, Input, Operand, Output, Role};
use brooklet::artifact::MAX_CHANNELS;
use brooklet::ops::{Activation, NormKind, Stepping, TensorId};

/// Taps of the convolutions, one of them ahead.
const TAPS: usize = 3;
/// As PyTorch's `LayerNorm` has it.
const NORM_EPS: f32 = 1e-5;
/// A layer of one channel lays its modes out in so many lanes.
const LANES: usize = 16;
/// Samples to a frame up to which a level's matrices stay in float. In the published model of 1 MB at 8 bits that takes
/// 200 KB, a quarter of the time of half floats, and saves 16 dB of rounding noise.
const FLOAT_PERIOD: usize = 16;
/// Most samples that the answer may come late.
const MOST_SAMPLES: usize = 1 << 18;
/// Most levels; the published model has six.
const MOST_LEVELS: usize = 64;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let net = Denoiser::read(config)?;
    let sound = net.channels[0];
    let rate_hz = config.size("sampling_rate")? as f32;
    let output = Output::Values { names: names("denoised", sound), units: vec!["1".to_owned(); sound] };
    let mut g = Graph::new(card(config)?, input(sound, rate_hz), output);
    let x = g.frame(vec![0.0; sound], vec![1.0; sound]);
    let names = Names::new(checkpoint, "");
    let stream = net.level(&mut g, &names, 0, Stream { x, period: 1, start: 0 })?;
    let stream = net.block(&mut g, &names.under("last_ssms.0"), stream)?;
    let (stream, w) = net.ssm(&mut g, &names.under("last_ssms.1"), stream)?;
    // Before the first answer the head sees zeros.
    let features = g.value(stream.x.len as usize);
    g.fill(features, 0.0);
    stream.run(&mut g, |g| {
        g.copy(features, stream.x);
        Ok(())
    })?;
    g.head(w, None, features, 1.0);
    Ok(g)
}

fn card(config: &Config) -> Result<Card, Error> {
    let text = |key| Ok::<_, Error>(config.maybe_text(key)?.unwrap_or_default().to_owned());
    Ok(Card { name: text("name")?, family: text("model_type")?, source: text("source")?, license: text("license")? })
}

/// Samples, full scale 1.
fn input(channels: usize, rate_hz: f32) -> Input {
    // As loud as speech, for the golden input.
    let (mean, std) = (vec![0.0; channels], vec![0.1; channels]);
    Input::Frames { channels: names("sound", channels), units: vec!["1".to_owned(); channels], rate_hz, mean, std }
}

fn names(what: &str, channels: usize) -> Vec<String> {
    if channels == 1 { vec![what.to_owned()] } else { (0..channels).map(|i| format!("{what}{i}")).collect() }
}

/// Frames of one level: frame `t` is in `x` at step `start + t * period` of the stream.
#[derive(Clone, Copy)]
struct Stream {
    x: Operand,
    /// Samples to a frame.
    period: usize,
    start: usize,
}

impl Stream {
    /// The fast levels, which have few weights and most of what rounding costs, stay in float: half floats would have to be
    /// unpacked at nearly every sample.
    fn role(&self) -> Role {
        if self.period <= FLOAT_PERIOD { Role::Router } else { Role::Projection }
    }

    /// Adds operations that run once a frame.
    fn run<T>(&self, g: &mut Graph<'_>, block: impl FnOnce(&mut Graph<'_>) -> Result<T, Error>) -> Result<T, Error> {
        g.every(self.period as u32, self.start as u32, block)
    }
}

/// What shapes the model.
struct Denoiser {
    /// Channels of the sound, then of every level below it.
    channels: Vec<usize>,
    /// Frames of a level in one frame of the next.
    factors: Vec<usize>,
    /// Complex modes of a layer.
    modes: usize,
    pre_conv: bool,
}

impl Denoiser {
    fn read(config: &Config) -> Result<Self, Error> {
        let sizes = |key: &str| {
            let sizes = config.numbers(key)?;
            if sizes.iter().all(|n| n.fract() == 0.0 && (1.0..=MAX_CHANNELS as f32).contains(n)) {
                Ok(sizes.into_iter().map(|n| n as usize).collect::<Vec<_>>())
            } else {
                Err(config.error(key, format!("must hold whole numbers from 1 to {MAX_CHANNELS}")))
            }
        };
        let (levels, factors) = (sizes("channels")?, sizes("resample_factors")?);
        if levels.len() != factors.len() || levels.is_empty() {
            return Err(config.error("resample_factors", format!("has {} entries for {} levels", factors.len(), levels.len())));
        }
        // Levels are gone down one within the other.
        if levels.len() > MOST_LEVELS {
            return Err(config.error("channels", format!("has {} levels, at most {MOST_LEVELS} are supported", levels.len())));
        }
        let samples = factors.iter().try_fold(1, |all: usize, &r| all.checked_mul(r)).filter(|&all| all <= MOST_SAMPLES);
        samples.ok_or_else(|| config.error("resample_factors", format!("multiply to more than {MOST_SAMPLES}")))?;
        let (coeffs, repeat) = (config.size("num_coeffs")?, config.size("repeat")?);
        if coeffs * repeat > 1 << 16 {
            return Err(config.error("repeat", format!("times num_coeffs is {}; at most 65536 modes are supported", coeffs * repeat)));
        }
        let sound = config.maybe_size("in_channels")?.unwrap_or(1);
        if sound > MAX_CHANNELS {
            return Err(config.error("in_channels", format!("is {sound}, at most {MAX_CHANNELS} are supported")));
        }
        let net = Denoiser {
            channels: [vec![sound], levels].concat(),
            factors,
            modes: coeffs * repeat,
            pre_conv: config.flag_or("pre_conv", true)?,
        };
        if net.delay(0) > MOST_SAMPLES {
            return Err(config.error("resample_factors", format!("make the answer come more than {MOST_SAMPLES} samples late")));
        }
        Ok(net)
    }

    /// Whether a layer of so many channels begins with a convolution.
    fn looks_ahead(&self, channels: usize) -> bool {
        self.pre_conv && channels > 1
    }

    /// Frames of a level that pass between a frame and what the levels below give for it.
    fn delay(&self, level: usize) -> usize {
        let Some(factor) = self.factors.get(level) else { return 0 };
        let ahead = |level: usize| usize::from(self.looks_ahead(self.channels[level]));
        // Below, two layers at every level: one going down and one going up, or the two at the bottom.
        let below = self.delay(level + 1) + ahead(level + 1) + if level + 1 == self.factors.len() { ahead(level + 1) } else { 0 };
        // The layer that comes before the frames are joined, the frames that a joined one waits for, and the levels below.
        ahead(level) + (factor - 1) + factor * below
    }

    /// A level and all below it: `x` to what is added up on the way back, at the same rate, later.
    fn level<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, level: usize, stream: Stream) -> Result<Stream, Error> {
        let Some(&factor) = self.factors.get(level) else {
            let stream = self.block(g, &names.under("hid_ssms.0"), stream)?;
            return self.block(g, &names.under("hid_ssms.1"), stream);
        };
        let (here, below) = (self.channels[level], self.channels[level + 1]);
        let delay = self.delay(level);
        let skipped = stream.run(g, |g| Ok(if delay == 0 { g.concat([stream.x]) } else { g.delay(stream.x, delay) }))?;

        let (down, up) = (names.under(&format!("down_ssms.{level}")), names.under(&format!("up_ssms.{level}")));
        let stream = self.block(g, &down.under("0"), stream)?;
        // Frames behind each other, the oldest first, through one matrix.
        let joined = stream.run(g, |g| Ok(if factor == 1 { stream.x } else { g.window(stream.x, (factor - 1) * here) }))?;
        let period = stream.period * factor;
        let start = stream.start + (factor - 1) * stream.period;
        let w = mix(g, &down, "1.weight", stream.role(), [here, below, factor], true)?;
        let slow = Stream { x: joined, period, start };
        let x = slow.run(g, |g| Ok(g.linear(w, None, joined)))?;

        let slow = self.level(g, names, level + 1, Stream { x, ..slow })?;

        let w = mix(g, &up, "0.weight", stream.role(), [below, here, factor], false)?;
        let parts = slow.run(g, |g| Ok(g.linear(w, None, slow.x)))?;
        let fast = Stream { x: parts, period: stream.period, start: slow.start };
        let x = fast.run(g, |g| {
            let x = if factor == 1 { parts } else { g.depth_to_time(parts, factor) };
            g.add(x, skipped, 1.0);
            Ok(x)
        })?;
        self.block(g, &up.under("1"), Stream { x, ..fast })
    }

    /// A layer with norm and activation.
    fn block<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, stream: Stream) -> Result<Stream, Error> {
        let channels = stream.x.len as usize;
        let (stream, w) = self.ssm(g, names, stream)?;
        let norm = if channels > 1 {
            // Behind the layer, which may come behind a convolution.
            let norm = names.under(&format!("{}.layer_norm", if self.looks_ahead(channels) { 2 } else { 1 }));
            Some((norm.array(g, "weight", &[channels])?, norm.array(g, "bias", &[channels])?))
        } else {
            None
        };
        stream.run(g, |g| {
            let y = g.linear(w, None, stream.x);
            if let Some((weight, bias)) = norm {
                g.norm_in_place(NormKind::Layer, y, Some(weight), Some(bias), 1, NORM_EPS);
            }
            g.activate(Activation::Silu, y);
            Ok(Stream { x: y, ..stream })
        })
    }

    /// A layer up to its last matrix, which comes back beside what goes into it: one mode of the recurrence after the other,
    /// each with an input and an output of its own.
    fn ssm<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, mut stream: Stream) -> Result<(Stream, TensorId), Error> {
        let (channels, modes) = (stream.x.len as usize, self.modes);
        let mut layer = names.under("0");
        if self.looks_ahead(channels) {
            let on_disk = layer.read("weight", &[channels, TAPS])?;
            let by_tap = (0..TAPS).flat_map(|tap| on_disk.iter().skip(tap).step_by(TAPS).copied()).collect();
            let (weight, bias) = (g.array(layer.full("weight"), by_tap), layer.array(g, "bias", &[channels])?);
            stream.run(g, |g| {
                g.conv1d(stream.x, weight, Some(bias), TAPS, false);
                Ok(())
            })?;
            // With the frame that it sees ahead, the answer is there for the frame before.
            stream.start += stream.period;
            layer = names.under("1");
        }
        let (a, log_dt) = (layer.read("A", &[modes, 2])?, layer.read("log_dt", &[modes])?);
        let dt = move |n: usize| f64::from(log_dt[n]).exp();
        let step = |n: usize| exp_minus_one(Complex::new(-softplus(f64::from(a[2 * n])), f64::from(a[2 * n + 1])) * dt(n));
        if channels == 1 {
            // Modes that share their input and whose outputs are summed need no matrices.
            let lanes = (1..=LANES).rev().find(|&lanes| modes.is_multiple_of(lanes)).unwrap_or(1);
            let (b, c) = (layer.read("B", &[modes, 1])?, layer.read("C", &[1, modes])?);
            let gain = |n: usize| Complex::new(f64::from(b[n]) * f64::from(c[n]) * dt(n), 0.0);
            let a = finite(g, &layer, "A", planes(lanes, modes / lanes, |lane, row| step(row * lanes + lane)))?;
            let c = finite(g, &layer, "C", planes(lanes, modes / lanes, |lane, row| gain(row * lanes + lane)))?;
            let x = stream.run(g, |g| {
                let x = g.value(lanes);
                g.fill(x, 1.0);
                g.scale_by(x, stream.x);
                Ok(g.diag_ssm(x, lanes, a, Some(c), None, Stepping::Fixed))
            })?;
            let sum = g.matrix(layer.full("C.sum"), 1, lanes, Role::Router, move || Ok(vec![1.0; lanes]));
            return Ok((Stream { x, ..stream }, sum));
        }
        let a = finite(g, &layer, "A", planes(modes, 1, |n, _| step(n)))?;
        let real = g.array(layer.full("C.real"), planes(modes, 1, |_, _| Complex::new(1.0, 0.0)));
        let b = layer.loader("B", modes, channels)?;
        let b = g.matrix(layer.full("B"), modes, channels, stream.role(), move || {
            let b = b()?;
            Ok(b.iter().enumerate().map(|(i, &b)| (f64::from(b) * dt(i / channels)) as f32).collect())
        });
        let c = layer.matrix(g, "C", channels, modes, stream.role())?;
        let x = stream.run(g, |g| {
            let drive = g.linear(b, None, stream.x);
            Ok(g.diag_ssm(drive, modes, a, Some(real), None, Stepping::Fixed))
        })?;
        Ok((Stream { x, ..stream }, c))
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// A mixing of channels, (in, out, frames) on disk: joins so many frames to one, or else cuts one into so many.
fn mix<'a>(g: &mut Graph<'a>, names: &Names<'a>, name: &str, role: Role, shape: [usize; 3], joins: bool) -> Result<TensorId, Error> {
    let (checkpoint, name) = (names.checkpoint, names.full(name));
    checkpoint.expect(&name, &shape)?;
    let [inputs, outputs, frames] = shape;
    let (rows, cols) = if joins { (outputs, frames * inputs) } else { (frames * outputs, inputs) };
    let of = name.clone();
    let place = move |row: usize, col: usize| {
        let (input, output, frame) = if joins { (col % inputs, row, col / inputs) } else { (col, row % outputs, row / outputs) };
        (input * outputs + output) * frames + frame
    };
    Ok(g.matrix(name, rows, cols, role, move || {
        let w = checkpoint.tensor(&of, &shape)?.data;
        Ok((0..rows * cols).map(|i| w[place(i / cols, i % cols)]).collect())
    }))
}
