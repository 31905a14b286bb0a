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
mod stoppable;
mod stream;
mod term;
mod verify;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  brooklet demo
  brooklet quantize path/to/checkpoint -o model.brook
  brooklet run model.brook --prompt \"The configuration file\"
  brooklet stream watch.brook recording.csv

BROOKLET_BACKEND=portable|avx2|avxvnni|avx512|avx512vnni|neon|dotprod|i8mm forces one set of kernels; the results are the same bits.";

/// The verbs, each by the name of its module. Only the options of the one that is asked for are put together: those of all of them would be most of
/// the code and memory that a start takes.
macro_rules! verbs {
    ($($(#[$of:meta])* $verb:ident: $about:literal,)+) => {
        fn verbs() -> Vec<Command> {
            vec![$($(#[$of])* Command::new(stringify!($verb)).about($about).defer($verb::Args::augment_args)),+]
        }

        fn run(verb: &str, matches: &ArgMatches) -> anyhow::Result<()> {
            match verb {
                $($(#[$of])* stringify!($verb) => $verb::run(&$verb::Args::from_arg_matches(matches)?),)+
                _ => anyhow::bail!("{verb}: no such verb"),
            }
        }
    };
}

verbs! {
    demo: "Show a sensor model and a text model at work",
    quantize: "Make a .brook file from a checkpoint",
    inspect: "Show what is in a .brook file and what memory it takes",
    run: "Let a text model write",
    stream: "Let a sensor model judge samples as they arrive",
    #[cfg(unix)]
    serve: "Let a sensor model judge samples of many senders at once: sockets, a serial line",
    eval: "Measure how good a model is",
    bench: "Measure how fast a model is",
    export: "Make a model part of a program: source code for Rust or C, sizes as constants",
    verify: "Prove that this machine computes what the file says",
}

/// The whole command line.
fn brooklet() -> Command {
    let brooklet = Command::new("brooklet").version(env!("CARGO_PKG_VERSION")).about(env!("CARGO_PKG_DESCRIPTION")).after_help(EXAMPLES);
    brooklet.subcommand_required(true).arg_required_else_help(true).subcommands(verbs())
}

fn main() -> ExitCode {
    let matches = brooklet().get_matches();
    let done = matches.subcommand().map_or(Ok(()), |(verb, matches)| run(verb, matches));
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
        let mut command = super::brooklet();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:"), "{}", verb.get_name());
        }
    }
}
