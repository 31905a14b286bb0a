//! `brooklet verify`: every checksum, and the golden self-test with every set of kernels.

use crate::model_file::{Memory, ModelFile, all_kernels};
use anyhow::{Result, bail};
use brooklet::{Line, self_test};
use std::io::{self, Write};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  brooklet verify model.brook
  BROOKLET_BACKEND=portable brooklet verify model.brook";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Model (.brook)
    model: PathBuf,
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
    if !failed.is_empty() {
        bail!("{}: the self-test failed with the kernels {}", file.name(), failed.join(", "));
    }
    Ok(())
}
