//! `cargo xtask panics`: no panic, no allocation and no formatting can be reached from a step.
//!
//! `targets/cortex-m/step` is linked for a Cortex-M4F with a step as its only content; whatever is in it, a step can reach. The
//! check is then turned on itself: with a panic planted, and with an allocation, it must fail.

use crate::elf::{Id, Program};
use crate::toolchain::{cargo_build, must_succeed, output_folder};
use anyhow::{Result, bail};

const TARGET: &str = "thumbv7em-none-eabihf";

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Instead of the step alone: functions of this program (ELF) that may panic
    elf: Option<std::path::PathBuf>,
    /// Root in that program: a function whose name contains this
    #[arg(long, default_value = "brooklet::session::Session>::step")]
    root: String,
}

/// What must not be reached: the kind, and how its functions are called.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("panic", &["core::panicking::", "rust_begin_unwind"]),
    ("allocation", &["__rust_alloc", "__rust_realloc", "__rust_dealloc", "__rg_", "alloc::", "malloc", "realloc", "calloc", "free"]),
    ("formatting", &["core::fmt::"]),
    // Its results are not everywhere the same bits, except the square root's; Cortex-M with an FPU has an instruction for that.
    ("libm", &["libm::", "sqrtf", "expf", "logf"]),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(elf) = &options.elf {
        let program = Program::read(elf)?;
        let roots = program.find(|name| name.contains(&options.root));
        let [root] = roots[..] else { bail!("{} functions have {:?} in their name; --root must name one", roots.len(), options.root) };
        return report(&faults(&program, root));
    }
    let (program, root) = build("")?;
    report(&faults(&program, root))?;
    println!("{TARGET}: a step reaches {} functions, and none that panics, allocates or formats", program.reached_from(root).len());
    for (feature, kind) in [("planted-panic", "panic"), ("planted-allocation", "allocation")] {
        let (program, root) = build(feature)?;
        let found = faults(&program, root);
        let Some(fault) = found.iter().find(|fault| fault.starts_with(kind)) else { bail!("the check does not see a planted {kind}") };
        println!("{feature}: found, as it should be: {fault}");
    }
    Ok(())
}

/// Links the step alone; its root.
fn build(feature: &str) -> Result<(Program, Id)> {
    must_succeed(cargo_build(TARGET)?.args(["--quiet", "--package", "brooklet-step", "--features", feature]))?;
    let program = Program::read(&output_folder().join(TARGET).join("release/step"))?;
    let roots = program.find(|name| name == "_start");
    let [root] = roots[..] else { bail!("the step alone has no root") };
    Ok((program, root))
}

/// Every forbidden function that `root` reaches, with the way there.
fn faults(program: &Program, root: Id) -> Vec<String> {
    let callers = program.reached_from(root);
    let mut faults = Vec::new();
    for &id in callers.keys() {
        let name = &program.functions[id].name;
        let bare =
            |pattern: &str| if pattern.contains("::") || pattern.starts_with("__") { name.contains(pattern) } else { name == pattern };
        for (kind, patterns) in FORBIDDEN {
            if patterns.iter().any(|pattern| bare(pattern)) {
                faults.push(format!("{kind}: {}", way(program, &callers, id)));
            }
        }
    }
    faults
}

/// `root -> .. -> id`.
fn way(program: &Program, callers: &std::collections::BTreeMap<Id, Id>, id: Id) -> String {
    let mut names = vec![program.functions[id].name.as_str()];
    let mut at = id;
    while let Some(&caller) = callers.get(&at).filter(|&&caller| caller != at) {
        names.push(&program.functions[caller].name);
        at = caller;
    }
    names.reverse();
    names.join(" -> ")
}

fn report(faults: &[String]) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    bail!("reached from the root:\n  {}", faults.join("\n  "))
}
