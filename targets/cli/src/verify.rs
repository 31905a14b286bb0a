//! `brooklet verify`: every checksum, and the golden self-test with every set of kernels.

use crate::device::Target;
use crate::model_file::{Memory, ModelFile, all_kernels};
use anyhow::{Result, bail};
use brooklet::{Line, self_test};
use std::io::{self, Write};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  brooklet verify model.brook
  BROOKLET_BACKEND=portable brooklet verify model.brook
  brooklet verify model.brook --device cuda";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Model (.brook)
    model: PathBuf,
    /// Where else to compute it
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t)]
    device: Target,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let file = ModelFile::open(&args.model)?;
    let model = file.model()?;
    let header = model.header();
    let mut out = io::stdout().lock();
    writeln!(out, "ok      structure and checksums: {} sections, {} operations", header.sections.count, header.program.count)?;
    let mut memory = Memory::new(&model, 1)?;
    let mut failed = Vec::new();
    for kernels in all_kernels()? {
        let steps = header.golden.steps;
        match self_test(&model, kernels, Line::bytes_mut(&mut memory.state), Line::bytes_mut(&mut memory.scratch)) {
            Ok(()) => {
                writeln!(out, "ok      {:<9} {steps} golden steps give fingerprint {:016x}", kernels.name(), header.golden.fingerprint)?
            }
            Err(error) => {
                writeln!(out, "FAILED  {:<9} {error}", kernels.name())?;
                failed.push(kernels.name());
            }
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = crate::device::gpu(args.device) {
        let (steps, differ) = gpu::differing_steps(&device, &model, &mut memory)?;
        let name = device.name();
        if differ == 0 {
            writeln!(out, "ok      cuda      {steps} golden steps give the CPU's bits on {name}")?;
        } else {
            writeln!(out, "FAILED  cuda      {differ} of {steps} golden steps give other bits on {name}")?;
            failed.push("cuda");
        }
    }
    #[cfg(not(feature = "cuda"))]
    crate::device::told_without_gpu(args.device);
    if !failed.is_empty() {
        bail!("{}: the self-test failed with the kernels {}", file.name(), failed.join(", "));
    }
    Ok(())
}

/// The golden input on a GPU.
#[cfg(feature = "cuda")]
mod gpu {
    use crate::model_file::{Memory, chosen_kernels};
    use anyhow::Result;
    use brooklet::artifact::InputSpec;
    use brooklet::{Input, Model};
    use brooklet_cuda::{CudaModel, CudaSession, Device, Options};

    /// Steps of the golden input, and how many of them give other bits than on the CPU.
    pub(super) fn differing_steps(device: &Device, model: &Model<'_>, memory: &mut Memory) -> Result<(usize, usize)> {
        let golden = model.header().golden;
        let words = golden.input.as_chunks::<4>().0;
        let (tokens, samples): (Vec<u32>, Vec<f32>) =
            words.iter().map(|&word| (u32::from_le_bytes(word), f32::from_le_bytes(word))).unzip();
        let inputs: Vec<Input<'_>> = match model.header().input {
            InputSpec::Tokens { .. } => tokens.iter().map(|&token| Input::Token(token)).collect(),
            InputSpec::Frames { .. } => samples.chunks_exact(model.channels().unwrap_or(1).max(1)).map(Input::Frame).collect(),
        };
        let inputs = &inputs[..inputs.len().min(golden.steps as usize)];
        let gpu = CudaModel::new(device, model)?;
        let mut on_gpu = CudaSession::new(&gpu, Options::default())?;
        let differ = memory.with_session(model, chosen_kernels()?, |session| {
            let mut differ = 0;
            for &input in inputs {
                let same = session.step(input)?.iter().map(|y| y.to_bits()).eq(on_gpu.step(input)?.iter().map(|y| y.to_bits()));
                differ += usize::from(!same);
            }
            Ok(differ)
        })?;
        Ok((inputs.len(), differ))
    }
}
