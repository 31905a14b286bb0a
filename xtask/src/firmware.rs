//! `cargo xtask firmware`: every board computes the host's bits, and sends what `tests/firmware/*.out` says.

use crate::boards::{BOARDS, Board, KITS};
use crate::toolchain::{cargo_build, must_succeed, output_folder, root};
use crate::{host, qemu};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Ten times what the slowest board takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// One board instead of all
    #[arg(long)]
    board: Option<String>,
    /// Write what the boards send to `tests/firmware/*.out` instead of comparing
    #[arg(long)]
    bless: bool,
}

/// A program of `tests/firmware/`.
struct Program {
    name: &'static str,
    /// Compares what it sent with the host's own results, and renders it as text.
    check: fn(model: &str, sent: &[u8]) -> Result<String>,
    /// Whether it runs in emulated time, where an instruction takes a nanosecond: then no interrupt comes too early.
    in_emulated_time: bool,
}

const PROGRAMS: [Program; 2] = [
    Program { name: "replay", check: host::replay, in_emulated_time: false },
    Program { name: "watch", check: host::watch, in_emulated_time: true },
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen = |name: &str| options.board.as_deref().is_none_or(|board| board == name);
    let mut table = Table::default();
    for board in BOARDS.iter().filter(|board| chosen(board.name)) {
        for program in &PROGRAMS {
            let result = test(board, program, options.bless).map(|wall| format!("the host's bits, {:.0} s", wall.as_secs_f64()));
            table.row([board.name, board.core, board.target, board.model, program.name], result);
        }
    }
    for kit in KITS.iter().filter(|kit| chosen(kit.name)) {
        let built = cargo_build(kit.target)
            .and_then(|mut cargo| must_succeed(cargo.args(["--quiet", "--package", &format!("brooklet-board-{}", kit.name)])));
        table.row([kit.name, kit.core, kit.target, "watch", kit.name], built.map(|()| "builds".to_owned()));
    }
    match table {
        Table { rows: 0, .. } => bail!(
            "no board of this name; there is {}",
            BOARDS.iter().map(|board| board.name).chain(KITS.iter().map(|kit| kit.name)).collect::<Vec<_>>().join(", ")
        ),
        Table { failed: 0, .. } => Ok(()),
        Table { rows, failed } => bail!("{failed} of {rows} failed"),
    }
}

/// Lines of results, printed as they come.
#[derive(Default)]
struct Table {
    rows: usize,
    failed: usize,
}

impl Table {
    fn row(&mut self, cells: [&str; 5], result: Result<String>) {
        let line = |cells: [&str; 5], result: &str| {
            let [board, core, target, model, program] = cells;
            println!("{board:<12} {core:<12} {target:<29} {model:<12} {program:<10} {result}");
        };
        if self.rows == 0 {
            line(["board", "core", "target", "model", "program"], "result");
        }
        self.rows += 1;
        match result {
            Ok(text) => line(cells, &text),
            Err(error) => {
                self.failed += 1;
                line(cells, &format!("FAILED: {error:#}"));
            }
        }
    }
}

/// Builds `program` for `board` and returns its ELF file.
pub(crate) fn build(board: &Board, program: &str) -> Result<PathBuf> {
    build_around(board.model, board, program)
}

/// What this process built last, and around which model: a link takes ten seconds, and no source changes meanwhile.
static BUILT: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());

/// Builds `program` for `board` around a model: one of `examples/models/`, or a path without `.brook`.
pub(crate) fn build_around(model: &str, board: &Board, program: &str) -> Result<PathBuf> {
    let kept = output_folder().join("boards").join(board.name);
    let elf = kept.join(format!("{program}.elf"));
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.get(&elf).is_some_and(|around| around == model) {
        return Ok(elf);
    }
    let mut cargo = cargo_build(board.target)?;
    cargo.args(["--quiet", "--package", "brooklet-board-qemu", "--bin", program]).env("BOARD", board.name).env("MODEL", model);
    // Cargo keeps what other flags give apart, `core` too, and what runs on the host, build scripts and macros, is built once for all.
    if let Some(cpu) = board.cpu {
        // Helium's float instructions flush subnormal numbers to zero: the compiler must leave them alone.
        let bits = if cpu == "cortex-m55" { " -Ctarget-feature=-mve.fp" } else { "" };
        cargo.env("RUSTFLAGS", format!("-Ctarget-cpu={cpu}{bits}"));
    }
    must_succeed(&mut cargo)?;
    // Boards of one target take turns in cargo's folder.
    let linked = output_folder().join(board.target).join("release").join(program);
    std::fs::create_dir_all(&kept)?;
    std::fs::copy(&linked, &elf).with_context(|| format!("{}: cannot be copied", linked.display()))?;
    built.insert(elf.clone(), model.to_owned());
    Ok(elf)
}

fn test(board: &Board, program: &Program, bless: bool) -> Result<Duration> {
    let elf = build(board, program.name)?;
    let run = qemu::run(board, &elf, program.in_emulated_time, LIMIT)?;
    let checked = (program.check)(board.model, &run.serial);
    if !run.status.success() {
        // A fault's reason, if it said one.
        checked?;
        bail!("it ended with {}", run.status);
    }
    let text = checked?;
    let golden = root().join("tests/firmware").join(format!("{}.{}.out", program.name, board.model));
    if bless {
        std::fs::write(&golden, text)?;
        return Ok(run.wall);
    }
    let expected =
        std::fs::read_to_string(&golden).with_context(|| format!("{}: cannot be read; make it with --bless", golden.display()))?;
    if expected != text {
        bail!("{} says\n{expected}the board sent\n{text}", golden.display());
    }
    Ok(run.wall)
}
