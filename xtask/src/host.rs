//! What the boards must compute, computed here: with this CPU's fastest kernels, many frames at a time.

use crate::toolchain::root;
use anyhow::{Context, Result};
use brooklet::mem::MappedFile;
use brooklet::{Line, Model, Session, State, kernels};
use brooklet_app::Fingerprint;

/// Steps of the firmware tests.
const STEPS: usize = 1000;
/// Frames handled at once.
const BATCH: usize = 32;

/// The fingerprint of a model's answers to the recording of the firmware tests, begun anew when it ends.
pub(crate) fn fingerprint(model: &str) -> Result<Fingerprint> {
    let file = MappedFile::open(root().join("examples/models").join(format!("{model}.brook"))).with_context(|| format!("{model}.brook"))?;
    let model = Model::from_bytes(file.bytes())?;
    let recording = std::fs::read_to_string(root().join("examples/recordings/subject08_TRAP_left_01.csv"))?;
    let numbers: Vec<f32> = recording.lines().skip(1).flat_map(|line| line.split(',')).map(str::parse).collect::<Result<_, _>>()?;
    let channels = model.channels().context("the model takes no frames")?;
    let frames: Vec<f32> = numbers.iter().copied().cycle().take(STEPS * channels).collect();

    let mut state_memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut scratch_memory = vec![Line::ZERO; model.scratch_bytes(BATCH).div_ceil(64)];
    let mut state = State::new(&model, Line::bytes_mut(&mut state_memory))?;
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch_memory))?;
    let mut fingerprint = Fingerprint::default();
    session.prefill_frames_each(&frames, &mut |_, outputs| fingerprint.add(outputs))?;
    Ok(fingerprint)
}
