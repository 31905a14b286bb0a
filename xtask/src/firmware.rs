//! `cargo xtask firmware`: every board prints what `tests/firmware/*.out` says, and computes the host's bits.

use crate::boards::{BOARDS, Board};
use crate::toolchain::{cargo_build, must_succeed, output_folder, root};
use crate::{host, qemu};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

/// No emulated run takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// One board instead of all
    #[arg(long)]
    board: Option<String>,
    /// Write what the boards print to `tests/firmware/*.out` instead of comparing
    #[arg(long)]
    bless: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let boards: Vec<&Board> = BOARDS.iter().filter(|b| options.board.as_deref().is_none_or(|name| name == b.name)).collect();
    if boards.is_empty() {
        bail!("no board of this name; there is {}", BOARDS.map(|b| b.name).join(", "));
    }
    println!("{:<12} {:<14} {:<30} {:<12} {:>6}  result", "board", "core", "target", "model", "run");
    let mut failed = 0;
    for board in boards {
        let row = format!("{:<12} {:<14} {:<30} {:<12}", board.name, board.core, board.target, board.model);
        match replay(board, options.bless) {
            Ok(wall) => println!("{row} {:>4.1} s  ok", wall.as_secs_f64()),
            Err(error) => {
                failed += 1;
                println!("{row} {:>6}  FAILED: {error:#}", "");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} boards failed");
    }
    Ok(())
}

/// Builds `program` for `board` and returns its ELF file.
pub(crate) fn build(board: &Board, program: &str) -> Result<PathBuf> {
    let mut cargo = cargo_build(board.target)?;
    cargo.args(["--quiet", "--package", "brooklet-board-qemu", "--bin", program]).env("BOARD", board.name).env("MODEL", board.model);
    must_succeed(&mut cargo)?;
    // Boards of one target take turns in cargo's folder.
    let built = output_folder().join(board.target).join("release").join(program);
    let kept = output_folder().join("boards").join(board.name);
    std::fs::create_dir_all(&kept)?;
    let elf = kept.join(format!("{program}.elf"));
    std::fs::copy(&built, &elf).with_context(|| format!("{}: cannot be copied", built.display()))?;
    Ok(elf)
}

fn replay(board: &Board, bless: bool) -> Result<Duration> {
    let elf = build(board, "replay")?;
    let run = qemu::run(board, &elf, LIMIT)?;
    let text = String::from_utf8_lossy(&run.serial);
    if !run.status.success() {
        bail!("it ended with {}:\n{text}", run.status);
    }
    let fingerprint = format!("{:016x}", host::fingerprint(board.model)?.0);
    let printed: Vec<&str> = text.lines().filter_map(|line| line.split_once("fingerprint ").map(|(_, hash)| hash)).collect();
    if printed.is_empty() || printed.iter().any(|hash| *hash != fingerprint) {
        bail!("the host computes fingerprint {fingerprint}, the board printed:\n{text}");
    }
    let golden = root().join("tests/firmware").join(format!("replay.{}.out", board.model));
    if bless {
        std::fs::write(&golden, &*text)?;
        return Ok(run.wall);
    }
    let expected =
        std::fs::read_to_string(&golden).with_context(|| format!("{}: cannot be read; make it with --bless", golden.display()))?;
    if expected != text {
        bail!("{} says\n{expected}the board printed\n{text}", golden.display());
    }
    Ok(run.wall)
}
