//! The linker script of the board named by `BOARD` (default: mps2-an386), and the board as a `cfg`.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=BOARD");
    println!("cargo::rerun-if-changed=memory");
    let board = env::var("BOARD").unwrap_or_else(|_| "mps2-an386".into());
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let script = format!("memory/{board}.x");
    let memory = fs::read(&script).unwrap_or_else(|e| panic!("no board {board}: {script}: {e}"));
    fs::write(out.join("memory.x"), memory).expect("OUT_DIR is writable");
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rustc-link-arg=-Tlink.x");
    println!("cargo::rustc-link-arg=--nmagic");
    println!("cargo::rustc-check-cfg=cfg(board, values(any()))");
    println!("cargo::rustc-cfg=board=\"{board}\"");
}
