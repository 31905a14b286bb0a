//! Chores of this repository, one file per verb.

mod boards;
mod elf;
mod firmware;
mod host;
mod libraries;
mod panics;
mod qemu;
mod reports;
mod size;
mod stack;
mod toolchain;

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of this repository", disable_help_subcommand = true)]
enum Task {
    /// `firmware`, `panics`, `stack` and `size`, with every program built once for all of them
    Check,
    /// Build every board's firmware, run it in QEMU, and compare what it prints with the expected output and with the host
    Firmware(firmware::Options),
    /// Build the library crates for targets without an operating system: no std, no alloc
    Libraries(libraries::Options),
    /// Show what a board says: its serial port on standard input
    Reports(reports::Options),
    /// Prove that a step on a Cortex-M4F reaches no panic, no allocation and no formatting, and that this would be seen
    Panics(panics::Options),
    /// Compare firmware's flash and RAM with `targets/cortex-m/budget.json`
    Size(size::Options),
    /// Bound the stack from the ELF, and compare with what QEMU saw used
    Stack(stack::Options),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Check => check(),
        Task::Firmware(options) => firmware::run(&options),
        Task::Libraries(options) => libraries::run(&options),
        Task::Reports(options) => reports::run(&options),
        Task::Panics(options) => panics::run(&options),
        Task::Size(options) => size::run(&options),
        Task::Stack(options) => stack::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that must hold of firmware.
fn check() -> anyhow::Result<()> {
    firmware::run(&Default::default())?;
    panics::run(&Default::default())?;
    stack::run(&Default::default())?;
    size::run(&Default::default())
}
