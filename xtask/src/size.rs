//! `cargo xtask size`: flash and RAM of firmware, from the linked ELF, against `targets/cortex-m/budget.json`.
//!
//! The file has two tables: limits that must hold, and what the least firmware takes besides its model, which `brooklet inspect`
//! adds to a model's own numbers. The second is written here and must stay within 2 %.

use crate::boards::{BOARDS, Board};
use crate::elf::Program;
use crate::stack::bound;
use crate::toolchain::root;
use crate::{firmware, host};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Write what is measured to `targets/cortex-m/budget.json` instead of comparing
    #[arg(long)]
    write: bool,
    /// Check the least firmware for a Cortex-M4F around this file instead, against --flash and --ram
    #[arg(long, value_name = "FILE.brook", requires_all = ["flash", "ram"], conflicts_with = "write")]
    model: Option<PathBuf>,
    /// Bytes of flash that it may take, everything included
    #[arg(long, value_name = "BYTES", requires = "model")]
    flash: Option<u64>,
    /// Bytes of RAM
    #[arg(long, value_name = "BYTES", requires = "model")]
    ram: Option<u64>,
}

/// The board whose firmware a model of one's own is put into.
const BOARD_FOR_FILES: &str = "mps2-an386";

#[derive(Serialize, Deserialize)]
struct Budget {
    limits: Vec<Limit>,
    /// What a firmware takes besides its model.
    firmware: Vec<Firmware>,
}

/// A program's limits, everything included.
#[derive(Serialize, Deserialize)]
struct Limit {
    board: String,
    /// In `tests/firmware/`.
    program: String,
    flash_bytes: u64,
    ram_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Firmware {
    target: String,
    core: String,
    flash_bytes: u64,
    static_bytes: u64,
    stack_bytes: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(file) = &options.model {
        return check_file(file, options.flash.unwrap_or_default(), options.ram.unwrap_or_default());
    }
    let path = budget_path();
    let mut budget: Budget =
        serde_json::from_str(&std::fs::read_to_string(&path)?).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut faults = Vec::new();
    println!("{:<12} {:<8} {:<12} {:>9} {:>9} {:>9} {:>9}  bytes", "board", "program", "model", "flash", "static", "stack", "RAM");
    for limit in &budget.limits {
        let board = BOARDS.iter().find(|b| b.name == limit.board).with_context(|| format!("there is no board {}", limit.board))?;
        let sizes = measure(board, &limit.program)?;
        println!(
            "{:<12} {:<8} {:<12} {:>9} {:>9} {:>9} {:>9}",
            board.name,
            limit.program,
            board.model,
            sizes.flash_bytes,
            sizes.static_bytes,
            sizes.stack_bytes.map_or("?".to_owned(), |bytes| bytes.to_string()),
            sizes.ram_bytes(),
        );
        for (what, bytes, most) in [("flash", sizes.flash_bytes, limit.flash_bytes), ("RAM", sizes.ram_bytes(), limit.ram_bytes)] {
            if bytes > most {
                faults.push(format!("{} on {}: {bytes} bytes of {what}, and {most} are allowed", limit.program, board.name));
            }
        }
    }
    let mut measured = Vec::new();
    for board in BOARDS.iter().filter(|board| board.target.starts_with("thumb")) {
        let memory = host::memory(board.model)?;
        let sizes = measure(board, "least")?;
        let firmware = Firmware {
            target: board.target.to_owned(),
            core: if board.target == "thumbv6m-none-eabi" { "Cortex-M0" } else { board.core }.to_owned(),
            flash_bytes: sizes.flash_bytes - memory.file_bytes,
            static_bytes: sizes.static_bytes - memory.state_bytes - memory.scratch_bytes,
            stack_bytes: sizes.stack_bytes.context("the least firmware has a stack bound")?,
        };
        // Boards that run the same code, and their models, share its numbers.
        let table = if options.write { &measured } else { &budget.firmware };
        match table.iter().find(|f| f.target == firmware.target && (board.cpu.is_none() || f.core == firmware.core)) {
            Some(stored) => {
                let total = |f: &Firmware| (f.flash_bytes + memory.file_bytes, f.static_bytes + f.stack_bytes + memory.ram_bytes());
                let (want, got) = (total(stored), total(&firmware));
                println!(
                    "{:<12} least    {:<12} flash {} and RAM {}, foretold {} and {}",
                    board.name, board.model, got.0, got.1, want.0, want.1
                );
                if want.0.abs_diff(got.0) * 50 > got.0 || want.1.abs_diff(got.1) * 50 > got.1 {
                    faults.push(format!(
                        "{}: {stored:?} foretells more than 2 % off {firmware:?}; run `cargo xtask size --write`",
                        board.name
                    ));
                }
            }
            None if options.write => measured.push(firmware),
            None => faults.push(format!("{}: not in the table of firmware; run `cargo xtask size --write`", board.core)),
        }
    }
    if options.write {
        budget.firmware = measured;
        let unfinished = path.with_extension("json.tmp");
        std::fs::write(&unfinished, serde_json::to_string_pretty(&budget)? + "\n")?;
        std::fs::rename(unfinished, &path)?;
    }
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n")) }
}

/// Links the least firmware around a file, and compares it with what there is room for.
fn check_file(file: &Path, most_flash_bytes: u64, most_ram_bytes: u64) -> Result<()> {
    let path = file.canonicalize().with_context(|| format!("{}: cannot be opened", file.display()))?;
    let model = path.to_str().and_then(|path| path.strip_suffix(".brook"));
    let model = model.with_context(|| format!("{}: is no path that ends in .brook", file.display()))?;
    let board = BOARDS.iter().find(|b| b.name == BOARD_FOR_FILES).context("the table of boards lacks the one for files")?;
    let sizes = measure_around(model, board, "least")?;
    println!(
        "{} on {}: {} bytes of flash of {most_flash_bytes}, {} of RAM of {most_ram_bytes}",
        file.display(),
        board.core,
        sizes.flash_bytes,
        sizes.ram_bytes()
    );
    match () {
        () if sizes.stack_bytes.is_none() => bail!("the stack has no bound"),
        () if sizes.flash_bytes > most_flash_bytes => bail!("{} bytes of flash too many", sizes.flash_bytes - most_flash_bytes),
        () if sizes.ram_bytes() > most_ram_bytes => bail!("{} bytes of RAM too many", sizes.ram_bytes() - most_ram_bytes),
        () => Ok(()),
    }
}

struct Sizes {
    flash_bytes: u64,
    static_bytes: u64,
    /// `None` where calls through pointers may go round in circles.
    stack_bytes: Option<u64>,
}

impl Sizes {
    fn ram_bytes(&self) -> u64 {
        self.static_bytes + self.stack_bytes.unwrap_or(0)
    }
}

fn measure(board: &Board, program: &str) -> Result<Sizes> {
    measure_around(board.model, board, program)
}

fn measure_around(model: &str, board: &Board, program: &str) -> Result<Sizes> {
    let program = Program::read(&firmware::build_around(model, board, program)?)?;
    let stack_bytes = bound(&program, "Reset").ok().map(|(bytes, _)| u64::from(bytes));
    Ok(Sizes { flash_bytes: program.flash_bytes, static_bytes: program.static_ram_bytes, stack_bytes })
}

fn budget_path() -> PathBuf {
    root().join("targets/cortex-m/budget.json")
}
