//! Bundles the board's model, a recording and the memory layout. `BOARD` and `MODEL` choose; unset, they follow from the target.

use std::env;
use std::path::Path;

const BOARDS: [&str; 7] = ["mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "microbit", "virt"];

fn main() {
    println!("cargo::rerun-if-env-changed=BOARD");
    println!("cargo::rerun-if-env-changed=MODEL");
    println!("cargo::rerun-if-changed=build.rs");
    let target = env::var("TARGET").expect("cargo sets TARGET for build scripts");
    let board = env::var("BOARD").unwrap_or_else(|_| default_board(&target).to_owned());
    assert!(BOARDS.contains(&board.as_str()), "BOARD={board}: there is {}", BOARDS.join(", "));
    println!("cargo::rustc-check-cfg=cfg(board, values(\"{}\"))", BOARDS.join("\", \""));
    println!("cargo::rustc-cfg=board=\"{board}\"");

    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = here.join("../../../../examples");
    let model = env::var("MODEL").unwrap_or_else(|_| "watch".to_owned());
    brooklet_bundle::model(&examples.join("models").join(format!("{model}.brook")));
    brooklet_bundle::recording(&examples.join("recordings/subject08_TRAP_left_01.csv"));
    brooklet_bundle::memory(&here.join("memory").join(format!("{board}.x")));
    if target.starts_with("riscv32") {
        // Cortex-M's link.x includes memory.x itself.
        println!("cargo::rustc-link-arg-bins=-Tmemory.x");
    }
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
    println!("cargo::rustc-link-arg-bins=--nmagic");
}

fn default_board(target: &str) -> &'static str {
    match target.split('-').next() {
        Some("thumbv6m") => "microbit",
        Some("thumbv7m") => "mps2-an385",
        Some("thumbv8m.main") => "mps2-an505",
        Some("riscv32imac") => "virt",
        _ => "mps2-an386",
    }
}
