//! Chores of this repository, one file per verb.

mod boards;
mod firmware;
mod host;
mod libraries;
mod qemu;
mod reports;
mod toolchain;

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of this repository", disable_help_subcommand = true)]
enum Task {
    /// Build every board's firmware, run it in QEMU, and compare what it prints with the expected output and with the host
    Firmware(firmware::Options),
    /// Build the library crates for targets without an operating system: no std, no alloc
    Libraries(libraries::Options),
    /// Show what a board says: its serial port on standard input
    Reports(reports::Options),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Firmware(options) => firmware::run(&options),
        Task::Libraries(options) => libraries::run(&options),
        Task::Reports(options) => reports::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
