//! Cargo for targets without an operating system: the one place that knows how to get a `core` for them.
//!
//! The toolchain's own target is used if it is there (`rustup target add thumbv7em-none-eabihf`); else Debian's Rust, linked as
//! the toolchain `debian`, builds `core` from its source (`.ci/install_embedded.sh` sets it up).

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// Where builds for devices go, `core` included: one folder, so that everything is built once per target.
pub(crate) fn output_folder() -> PathBuf {
    root().join("target/firmware")
}

/// `cargo build --release` for `target`, in the firmware workspace; packages and environment are the caller's.
pub(crate) fn cargo_build(target: &str) -> Result<Command> {
    cargo("build", target)
}

/// `cargo check --release`: all of the compiler's errors but the linker's, and no code.
pub(crate) fn cargo_check(target: &str) -> Result<Command> {
    cargo("check", target)
}

fn cargo(verb: &str, target: &str) -> Result<Command> {
    let sysroot = PathBuf::from(output_of(Command::new("rustc").args(["--print", "sysroot"]))?);
    let mut command;
    if sysroot.join("lib/rustlib").join(target).join("lib").is_dir() {
        command = Command::new("cargo");
        command.arg(verb);
    } else {
        if !Path::new("/usr/lib/rustlib/src/rust/library/Cargo.lock").is_file()
            || !output_of(Command::new("rustup").args(["toolchain", "list"]))?.contains("debian")
        {
            bail!("no `core` for {target}: run `rustup target add {target}`, or on Debian `.ci/install_embedded.sh rust`");
        }
        command = Command::new("cargo");
        command.args(["+debian", verb, "-Zbuild-std=core", "-Zbuild-std-features=compiler-builtins-mem"]);
        command.env("RUSTC_BOOTSTRAP", "1");
        if target.ends_with("-none-elf") || target.contains("-none-eabi") {
            // Debian's compiler comes without its linker; rustup's toolchain has the same one.
            let linker = sysroot.join("lib/rustlib").join(host()?).join("bin/rust-lld");
            command.env(format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace(['-', '.'], "_")), linker);
        }
    }
    command.args(["--release", "--target", target]).current_dir(root().join("targets/cortex-m"));
    // `cargo xtask` was itself started by a toolchain's cargo.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    Ok(command)
}

/// Runs a `cargo` that must succeed, with its output on the terminal.
pub(crate) fn must_succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{}: cannot be started", command.get_program().display()))?;
    if !status.success() {
        bail!("cargo ended with {status}; its messages are above");
    }
    Ok(())
}

/// The host's target triple.
fn host() -> Result<String> {
    let version = output_of(Command::new("rustc").arg("-vV"))?;
    Ok(version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?.to_owned())
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{}: cannot be started", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
