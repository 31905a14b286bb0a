//! `cargo xtask reports`: what a board says, from its serial port to a terminal.

use anyhow::{Context, Result, bail};
use brooklet::Model;
use brooklet::artifact::OutputSpec;
use brooklet::mem::MappedFile;
use brooklet_app::{Message, Receiver};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The model on the board, for the names of its classes
    model: PathBuf,
}

/// Prints the messages on standard input until it ends.
pub(crate) fn run(options: &Options) -> Result<()> {
    let file = MappedFile::open(&options.model).with_context(|| format!("{}: cannot be opened", options.model.display()))?;
    let model = Model::from_bytes(file.bytes()).with_context(|| format!("{}", options.model.display()))?;
    let OutputSpec::Classes { names } = model.header().output else { bail!("{}: no classifier", options.model.display()) };
    let names: Vec<&str> = names.lines().collect();
    let print = |out: &mut dyn Write, message| match message {
        Ok(Message::Ready { model_hash }) if model_hash == model.artifact().hash() => writeln!(out, "ready"),
        Ok(Message::Ready { model_hash }) => writeln!(out, "ready, with model {model_hash:016x}: these are other classes' names"),
        Ok(Message::Report(report)) => {
            let class = usize::from(report.class);
            let probability = report.probabilities.get(class).copied().unwrap_or(f32::NAN);
            let name = names.get(class).copied().unwrap_or("?");
            writeln!(out, "{:8} {name:<8} {probability:.3}  {:6} us, {} lost", report.sample, report.step_us, report.lost)
        }
        Ok(Message::Fault { stage, reason }) => writeln!(out, "stopped at {stage:?}: {reason}"),
        Err(_) => writeln!(out, "(bytes lost)"),
    };
    let mut receiver = Receiver::default();
    let mut bytes = [0; 256];
    let mut out = std::io::stdout().lock();
    loop {
        let count = std::io::stdin().read(&mut bytes).context("standard input cannot be read")?;
        if count == 0 {
            return Ok(());
        }
        let mut written = Ok(());
        receiver.feed(bytes.get(..count).unwrap_or_default(), |message| {
            if written.is_ok() {
                written = print(&mut out, message);
            }
        });
        match written.and_then(|()| out.flush()) {
            // Whoever read our output has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
}
