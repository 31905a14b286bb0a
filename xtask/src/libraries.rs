//! `cargo xtask libraries`: the proof that the library crates need neither std nor a heap, on every kind of processor.

use crate::toolchain::{cargo_build, cargo_check, must_succeed};
use anyhow::Result;

/// Without an operating system but the last two, whose `core` alone is used.
const TARGETS: [&str; 6] = [
    "thumbv6m-none-eabi",
    "thumbv7em-none-eabihf",
    "thumbv8m.main-none-eabihf",
    "riscv32imac-unknown-none-elf",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-gnu",
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Targets to build for, instead of all
    targets: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen = options.targets.iter().map(String::as_str);
    let all = TARGETS.iter().copied().filter(|_| options.targets.is_empty());
    for target in chosen.chain(all) {
        // Code for what has an operating system is made and run elsewhere; here it is enough that nothing asks for one.
        let cargo = || if target.contains("-none-") { cargo_build(target) } else { cargo_check(target) };
        // The library crates and the board-free firmware on top of them, with the features that firmware takes.
        must_succeed(cargo()?.args(["--quiet", "--package", "brooklet-app"]))?;
        // What it may take besides.
        let features = "brooklet/planes,brooklet/narrow-states,brooklet/hadamard,brooklet/pieces";
        must_succeed(cargo()?.args(["--quiet", "--package", "brooklet-app", "--features", features]))?;
        println!("brooklet builds for {target} without std and without alloc");
    }
    Ok(())
}
