//! The raw outputs of every step, for other programs.

use crate::frames::{Frames, Wanted};
use crate::model_file::{Memory, ModelFile, chosen_kernels};
use crate::npy;
use crate::output::{expect_apart, expect_place, write_file};
use crate::stepper::expect_finite;
use crate::stream::channel_names;
use anyhow::{Context, Result, anyhow, bail};
use brooklet::artifact::InputSpec;
use brooklet::{Error, Input, Model, Session};
use serde_json::Value;
use std::path::Path;

/// Tokens that a prefill handles at once.
const PREFILL_BATCH: usize = 64;

enum Inputs {
    Tokens(Vec<u32>),
    /// (steps, channels), channels, and the seconds before each step, (steps)
    Frames(Vec<f32>, usize, Vec<f32>),
}

pub(super) fn run(
    model: &Path,
    tokens: Option<&Path>,
    frames: Option<&Path>,
    time_column: Option<&str>,
    logits: Option<&Path>,
    prefill: bool,
) -> Result<()> {
    if let Some(logits) = logits {
        expect_place(logits)?;
        let inputs = [("the model", Some(model)), ("--tokens", tokens), ("--frames", frames)];
        let inputs: Vec<_> = inputs.into_iter().filter_map(|(what, path)| Some((what, path?))).collect();
        expect_apart(&[("--logits", logits)], &inputs)?;
    }
    let kernels = chosen_kernels()?;
    let file = ModelFile::open(model)?;
    let model = file.model()?;
    let (path, inputs) = match (tokens, frames) {
        (Some(path), _) => (path, Inputs::Tokens(read_tokens(path)?)),
        (None, Some(path)) => (path, read_frames(&model, &file.name(), path, time_column)?),
        (None, None) => bail!("give --tokens or --frames"),
    };
    let steps = match &inputs {
        Inputs::Tokens(tokens) => tokens.len(),
        Inputs::Frames(_, _, seconds) => seconds.len(),
    };
    if steps == 0 {
        bail!("{}: holds no steps", path.display());
    }
    let logits = logits.ok_or_else(|| anyhow!("give --logits"))?;
    let mut memory = Memory::new(&model, if prefill { PREFILL_BATCH } else { 1 })?;
    write_file(logits, |out| {
        npy::write_head(out, [steps, model.outputs()])?;
        memory.with_session(&model, kernels, |session| {
            let mut written = Ok(());
            each_output(session, &inputs, prefill, &mut |row| {
                if written.is_ok() {
                    written = npy::write_row(out, row);
                }
            })
            .with_context(|| path.display().to_string())?;
            // Outputs may not show that a state is spoilt, and a file of them is worth nothing then.
            expect_finite(session, true).with_context(|| path.display().to_string())?;
            Ok(written?)
        })
    })
}

fn each_output(session: &mut Session<'_, '_, '_>, inputs: &Inputs, prefill: bool, each: &mut dyn FnMut(&[f32])) -> Result<(), Error> {
    match inputs {
        Inputs::Tokens(tokens) if prefill => session.prefill_tokens_each(tokens, &mut |_, row| each(row)),
        Inputs::Frames(frames, _, seconds) if prefill => session.prefill_frames_after_each(frames, seconds, &mut |_, row| each(row)),
        Inputs::Tokens(tokens) => tokens.iter().try_for_each(|&token| session.step(Input::Token(token)).map(&mut *each)),
        Inputs::Frames(frames, channels, seconds) => {
            let mut steps = frames.chunks_exact(*channels).zip(seconds);
            steps.try_for_each(|(frame, &seconds)| session.step(Input::FrameAfter(frame, seconds)).map(&mut *each))
        }
    }
}

fn read_tokens(path: &Path) -> Result<Vec<u32>> {
    let text = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let json: Value = serde_json::from_slice(&text).with_context(|| format!("{}: is not JSON", path.display()))?;
    let list = json.get("tokens").unwrap_or(&json).as_array();
    let list = list.ok_or_else(|| anyhow!("{}: expected a list of token ids, or {{\"tokens\": [..]}}", path.display()))?;
    let id = |(i, v): (usize, &Value)| {
        let id = v.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| anyhow!("{}: entry {i} is {v}, which is no token id", path.display()))
    };
    list.iter().enumerate().map(id).collect()
}

fn read_frames(model: &Model<'_>, name: &str, path: &Path, time_column: Option<&str>) -> Result<Inputs> {
    let channels = channel_names(model, name)?;
    let InputSpec::Frames { rate_hz, .. } = model.header().input else { bail!("{name}: takes no sensor frames") };
    let (frames, seconds) = Frames::open(path, Wanted::of(model, channels, time_column))?.read_all(1.0 / rate_hz)?;
    Ok(Inputs::Frames(frames, channels.lines().count(), seconds))
}
