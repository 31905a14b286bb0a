//! `cargo xtask stack`: how much stack a firmware can ever need, from its ELF, and how much it used in QEMU.
//!
//! The bound is the deepest chain of calls, each call through a pointer taken to reach whatever has its address somewhere.
//! Interrupts come on top: their handlers' frames, and 112 bytes that the processor pushes for each.

use crate::boards::BOARDS;
use crate::elf::{Id, Program};
use crate::{firmware, qemu};
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Steps of the measured run.
const STEPS: u32 = 200;

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Instead of the least firmware of every board: this program (ELF)
    elf: Option<std::path::PathBuf>,
    /// Root in that program: a function of this name
    #[arg(long, default_value = "Reset")]
    root: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(elf) = &options.elf {
        let program = Program::read(elf)?;
        let (bytes, chain) = bound(&program, &options.root)?;
        println!("{bytes} bytes below {}", options.root);
        chain.iter().for_each(|&id| println!("{:>8}  {}", program.functions[id].frame_bytes, program.functions[id].name));
        return Ok(());
    }
    println!("{:<12} {:<12} {:>12} {:>12}", "board", "core", "bound, bytes", "used, bytes");
    let mut below = Vec::new();
    for board in BOARDS.iter().filter(|board| board.target.starts_with("thumb")) {
        let elf = firmware::build(board, "least")?;
        let program = Program::read(&elf)?;
        let (bytes, _) = bound(&program, "Reset")?;
        let used = qemu::stack_used(board, &elf, &program, STEPS)?;
        println!("{:<12} {:<12} {bytes:>12} {used:>12}", board.name, board.core);
        if used > bytes {
            below.push(board.name);
        }
    }
    if !below.is_empty() {
        bail!("more stack was used than the bound says, on {}", below.join(", "));
    }
    Ok(())
}

/// Bytes of the deepest chain of calls from the function `root`, and the chain.
pub(crate) fn bound(program: &Program, root: &str) -> Result<(u32, Vec<Id>)> {
    let [root] = program.find(|name| name == root)[..] else { bail!("no function is called {root:?}, or several are") };
    let mut deepest = BTreeMap::new();
    dig(program, root, &mut Vec::new(), &mut deepest)?;
    let mut chain = vec![root];
    while let Some(&(_, Some(next))) = chain.last().and_then(|id| deepest.get(id)) {
        chain.push(next);
    }
    Ok((deepest[&root].0, chain))
}

/// Bytes from `id` down, and the callee that takes most of them.
fn dig(program: &Program, id: Id, callers: &mut Vec<Id>, deepest: &mut BTreeMap<Id, (u32, Option<Id>)>) -> Result<u32> {
    let function = &program.functions[id];
    if let Some(&(bytes, _)) = deepest.get(&id) {
        return Ok(bytes);
    }
    if let Some(first) = callers.iter().position(|&caller| caller == id) {
        let circle: Vec<&str> = callers[first..].iter().map(|&id| program.functions[id].name.as_str()).collect();
        bail!("recursion, of any depth: {} -> {}", circle.join(" -> "), function.name);
    }
    if function.has_dynamic_frame {
        bail!("{} has a frame of a size that only a run knows", function.name);
    }
    callers.push(id);
    let mut most = (0, None);
    for callee in program.callees(id).filter(|&callee| callee != id || function.calls_pointers) {
        let bytes = dig(program, callee, callers, deepest)?;
        if bytes > most.0 || most.1.is_none() {
            most = (bytes, Some(callee));
        }
    }
    callers.pop();
    deepest.insert(id, (function.frame_bytes + most.0, most.1));
    Ok(function.frame_bytes + most.0)
}
