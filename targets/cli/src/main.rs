//! `brooklet`: makes `.brook` files, looks into them, runs them, measures them. One file per verb.
#![forbid(unsafe_code)]

mod allocate;
mod answers;
mod assets;
mod bench;
mod calibrate;
mod classes;
mod csv_lines;
mod demo;
mod device;
#[cfg(feature = "download")]
mod download;
mod eval;
mod export;
mod firmware;
mod fit;
mod frames;
mod generate;
mod inspect;
mod interrupt;
mod model_file;
mod npy;
mod output;
mod passes;
mod quantize;
mod reader;
mod run;
mod sampler;
#[cfg(unix)]
mod serve;
mod sheet;
mod stepper;
mod stream;
mod term;
mod text;
mod verify;

use clap::{Parser, Subcommand};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  brooklet demo
  brooklet quantize path/to/checkpoint -o model.brook
  brooklet run model.brook --prompt \"The configuration file\"
  brooklet stream watch.brook recording.csv

BROOKLET_BACKEND=portable|avx2|avxvnni|avx512|avx512vnni|neon|dotprod|i8mm forces one set of kernels; the results are the same bits.";

/// Streams quantized recurrent and hybrid models: a token or a sensor frame goes in, an answer comes out
#[derive(Parser)]
#[command(name = "brooklet", version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show a sensor model and a text model at work
    Demo(demo::Args),
    /// Make a .brook file from a checkpoint
    Quantize(quantize::Args),
    /// Show what is in a .brook file and what memory it takes
    Inspect(inspect::Args),
    /// Let a text model write
    Run(run::Args),
    /// Let a sensor model judge samples as they arrive
    Stream(stream::Args),
    /// Let a sensor model judge samples of many senders at once: sockets, a serial line
    #[cfg(unix)]
    Serve(serve::Args),
    /// Measure how good a model is
    Eval(eval::Args),
    /// Measure how fast a model is
    Bench(bench::Args),
    /// Make a model part of a program: source code for Rust or C, sizes as constants
    Export(export::Args),
    /// Prove that this machine computes what the file says
    Verify(verify::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Quantize(args) => quantize::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Stream(args) => stream::run(&args),
        #[cfg(unix)]
        Verb::Serve(args) => serve::run(&args),
        Verb::Eval(args) => eval::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Export(args) => export::run(&args),
        Verb::Verify(args) => verify::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has seen enough (`| head`): that is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        let mut command = super::Cli::command();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:"), "{}", verb.get_name());
        }
    }
}
