//! What the boards must compute, computed here: with this CPU's fastest kernels, many frames at a time.

use crate::toolchain::root;
use anyhow::{Context, Result, bail};
use brooklet::artifact::OutputSpec;
use brooklet::mem::MappedFile;
use brooklet::{Line, Model, Session, State, kernels, softmax};
use brooklet_app::{CHANNELS, Fingerprint, Imu, Message, Mpu6050, Receiver, RecordedMpu6050, Replay};
use embedded_hal::delay::DelayNs;
use std::fmt::Write;

/// Steps of `tests/firmware/replay.rs`.
const REPLAY_STEPS: usize = 1000;
/// Samples of `tests/firmware/watch.rs`.
const WATCH_SAMPLES: usize = 100;
/// Frames handled at once.
const BATCH: usize = 32;

/// The text that `replay` sent, once its fingerprints are the host's.
pub(crate) fn replay(model: &str, sent: &[u8]) -> Result<String> {
    let file = open(model)?;
    let model = Model::from_bytes(file.bytes())?;
    let frames: Vec<f32> =
        recording()?.into_iter().cycle().take(REPLAY_STEPS * model.channels().context("the model takes no frames")?).collect();
    let mut fingerprint = Fingerprint::default();
    stream(&model, &frames, &mut |_, outputs| fingerprint.add(outputs))?;

    let text = String::from_utf8_lossy(sent).into_owned();
    let host = format!("{:016x}", fingerprint.0);
    let printed: Vec<&str> = text.lines().filter_map(|line| line.split_once("fingerprint ").map(|(_, hash)| hash)).collect();
    if printed.is_empty() || printed.iter().any(|hash| *hash != host) {
        bail!("the host computes fingerprint {host}, the board sent\n{text}");
    }
    Ok(text)
}

/// The reports that `watch` sent, as text, once their probabilities are the host's.
pub(crate) fn watch(model: &str, sent: &[u8]) -> Result<String> {
    let file = open(model)?;
    let model = Model::from_bytes(file.bytes())?;
    let OutputSpec::Classes { names } = model.header().output else { bail!("the model is no classifier") };
    let names: Vec<&str> = names.lines().collect();

    // The sensor, rounded to its registers and read by its driver.
    let bytes: Vec<u8> = recording()?.iter().flat_map(|x| x.to_le_bytes()).collect();
    let sensor = Mpu6050::new(RecordedMpu6050::new(Replay::new(&bytes)), &mut NoDelay, 50);
    let mut sensor = sensor.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let mut frames = Vec::with_capacity(WATCH_SAMPLES * CHANNELS);
    for _ in 0..WATCH_SAMPLES {
        frames.extend(sensor.read().map_err(|error| anyhow::anyhow!("{error:?}"))?);
    }
    let mut host = Vec::new();
    stream(&model, &frames, &mut |_, outputs| {
        host.push(outputs.to_vec());
        softmax(host.last_mut().expect("it was pushed"));
    })?;

    let mut messages = Vec::new();
    Receiver::default().feed(sent, |message| messages.push(message));
    let mut text = String::new();
    let mut fingerprint = Fingerprint::default();
    let mut reports = 0;
    for message in messages {
        match message {
            Ok(Message::Ready { model_hash }) if model_hash == model.artifact().hash() => writeln!(text, "ready: model {model_hash:016x}")?,
            Ok(Message::Ready { model_hash }) => bail!("the board runs model {model_hash:016x}, not this file"),
            Ok(Message::Fault { stage, reason }) => bail!("the board stopped at {stage:?}: {reason}"),
            Ok(Message::Report(report)) => {
                if report.lost > 0 || report.sample != reports {
                    bail!("report {reports} answers sample {}, with {} lost", report.sample, report.lost);
                }
                let want = host.get(reports as usize).context("more reports than samples")?;
                if !want.iter().map(|y| y.to_bits()).eq(report.probabilities.iter().map(|y| y.to_bits())) {
                    bail!("sample {reports}: the host computes {want:?}, the board sent {:?}", report.probabilities);
                }
                fingerprint.add(&report.probabilities);
                reports += 1;
                if reports % 10 == 0 {
                    let class = usize::from(report.class);
                    let name = names.get(class).context("a class that the model does not have")?;
                    writeln!(text, "sample {:3}: {name:<4} {:.4}", report.sample, want[class])?;
                }
            }
            Err(_) => bail!("a frame that is no message after {reports} reports"),
        }
    }
    writeln!(text, "{reports} reports, fingerprint {:016x}", fingerprint.0)?;
    Ok(text)
}

fn open(model: &str) -> Result<MappedFile> {
    let path = root().join("examples/models").join(format!("{model}.brook"));
    MappedFile::open(&path).with_context(|| format!("{}: cannot be opened", path.display()))
}

/// The recording that the boards carry, (steps, channels).
fn recording() -> Result<Vec<f32>> {
    let path = root().join("examples/recordings/subject08_TRAP_left_01.csv");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(text.lines().skip(1).flat_map(|line| line.split(',')).map(str::parse).collect::<Result<_, _>>()?)
}

/// Calls `each` with every frame's answer.
fn stream(model: &Model<'_>, frames: &[f32], each: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
    let mut state_memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut scratch_memory = vec![Line::ZERO; model.scratch_bytes(BATCH).div_ceil(64)];
    let mut state = State::new(model, Line::bytes_mut(&mut state_memory))?;
    let mut session = Session::new(model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch_memory))?;
    Ok(session.prefill_frames_each(frames, each)?)
}

/// A recording needs no time to wake up.
struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

/// Bytes that a model needs on any device.
pub(crate) struct ModelMemory {
    pub(crate) file_bytes: u64,
    pub(crate) state_bytes: u64,
    pub(crate) scratch_bytes: u64,
}

impl ModelMemory {
    pub(crate) fn ram_bytes(&self) -> u64 {
        self.state_bytes + self.scratch_bytes
    }
}

pub(crate) fn memory(model: &str) -> Result<ModelMemory> {
    let file = MappedFile::open(root().join("examples/models").join(format!("{model}.brook"))).with_context(|| format!("{model}.brook"))?;
    let model = Model::from_bytes(file.bytes())?;
    Ok(ModelMemory {
        file_bytes: file.bytes().len() as u64,
        state_bytes: model.state_bytes() as u64,
        scratch_bytes: model.scratch_bytes(1) as u64,
    })
}
