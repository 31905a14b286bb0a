//! What a firmware's build script does: it turns a `.brook` file and a recording into Rust source with 64-byte aligned bytes,
//! and the memory that the model needs into constants, so that a device reserves exactly that much, at compile time.

use brooklet::{Line, Model, mem::lines_from, snapshot_bytes};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Writes `model.rs` into the build's output folder: `FILE`, `NAME`, `CHANNELS`, `STATE_LINES`, `SCRATCH_LINES`, `SNAPSHOT_LINES`.
pub fn model(file: &Path) {
    println!("cargo::rerun-if-changed={}", file.display());
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let lines = lines_from(&bytes);
    let model = Model::from_bytes(&Line::bytes(&lines)[..bytes.len()]).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let name = file.file_stem().unwrap_or_default().to_string_lossy();

    let mut source = format!("/// The model's file name, without its ending.\npub const NAME: &str = {name:?};\n");
    let mut number = |what: &str, name: &str, value: usize| {
        writeln!(source, "/// {what}\npub const {name}: usize = {value};").expect("a string takes text");
    };
    number("Values of a frame.", "CHANNELS", model.channels().unwrap_or(0));
    number("Values of an answer.", "OUTPUTS", model.outputs());
    number("64-byte lines of one stream's state.", "STATE_LINES", model.state_bytes().div_ceil(64));
    number("64-byte lines of scratch, one frame at a time.", "SCRATCH_LINES", model.scratch_bytes(1).div_ceil(64));
    number("64-byte lines of a snapshot.", "SNAPSHOT_LINES", snapshot_bytes(&model).div_ceil(64));
    source += &aligned_bytes("The model's file.", "FILE", file);
    write_source("model.rs", &source);
}

/// Writes `recording.rs`: `FRAMES`, little-endian `f32`, (steps, channels), from a CSV file with one line of names.
pub fn recording(csv: &Path) {
    println!("cargo::rerun-if-changed={}", csv.display());
    let text = std::fs::read_to_string(csv).unwrap_or_else(|e| panic!("{}: {e}", csv.display()));
    let number = |field: &str| field.trim().parse::<f32>().unwrap_or_else(|e| panic!("{}: `{field}`: {e}", csv.display()));
    let bytes: Vec<u8> = text.lines().skip(1).flat_map(|line| line.split(',')).flat_map(|field| number(field).to_le_bytes()).collect();
    let file = output_folder().join("recording.bin");
    write(&file, &bytes);
    write_source("recording.rs", &aligned_bytes("The recording, little-endian `f32`, (steps, channels).", "FRAMES", &file));
}

/// Copies `memory.x` to where the linker looks.
pub fn memory(layout: &Path) {
    println!("cargo::rerun-if-changed={}", layout.display());
    let text = std::fs::read(layout).unwrap_or_else(|e| panic!("{}: {e}", layout.display()));
    write(&output_folder().join("memory.x"), &text);
    println!("cargo::rustc-link-search={}", output_folder().display());
}

fn aligned_bytes(what: &str, name: &str, file: &Path) -> String {
    let path = file.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    format!("/// {what}\npub static {name}: &[u8] = &brooklet_app::Aligned(*include_bytes!({path:?})).0;\n")
}

fn write_source(name: &str, source: &str) {
    write(&output_folder().join(name), source.as_bytes());
}

fn write(file: &Path, bytes: &[u8]) {
    std::fs::write(file, bytes).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

fn output_folder() -> PathBuf {
    PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"))
}
