//! A model as a Rust module, without std.

use super::MARK;
use super::facts::{Facts, Gives, Takes, plain};
use std::fmt::Write;

/// The module `NAME.rs`, for `mod NAME;` or `include!`, beside NAME.brook.
pub(crate) fn module(facts: &Facts<'_>) -> String {
    let Facts { name, sheet, .. } = facts;
    let mut text =
        format!("// {MARK} from {} (Brooklet {}). Do not edit: export again.\n", plain(facts.source), env!("CARGO_PKG_VERSION"),);
    for line in &facts.card {
        let _ = writeln!(text, "// {line}");
    }
    let mut item = |comment: &str, code: String| {
        let _ = write!(text, "\n/// {comment}\n#[allow(dead_code)]\n{code}\n");
    };
    item("Bytes of the model in flash.", format!("pub const FLASH_BYTES: usize = {};", sheet.file_bytes));
    item("Bytes of one stream's state.", format!("pub const STATE_BYTES: usize = {};", sheet.state_bytes));
    item("Bytes of a session's scratch, one step at a time.", format!("pub const SCRATCH_BYTES: usize = {};", sheet.scratch_bytes));
    item("Bytes of a snapshot of one stream.", format!("pub const SNAPSHOT_BYTES: usize = {};", facts.snapshot_bytes));
    item("Multiplications with additions of one step, about.", format!("pub const MACS_PER_STEP: u64 = {};", sheet.macs_per_step));
    item("Number that two different models do not share.", format!("pub const MODEL_HASH: u64 = 0x{:016x};", facts.hash));
    match &facts.takes {
        Takes::Tokens { vocab } => item("Token ids run from 0 to one less.", format!("pub const VOCAB: u32 = {vocab};")),
        Takes::Frames { names, units, rate_hz } => {
            item("Values of a frame.", format!("pub const CHANNELS: usize = {};", names.len()));
            item("Name of every channel.", format!("pub const CHANNEL_NAMES: [&str; CHANNELS] = {names:?};"));
            item("Unit of every channel.", format!("pub const CHANNEL_UNITS: [&str; CHANNELS] = {units:?};"));
            item("Frames per second that the model was trained at.", format!("pub const RATE_HZ: f32 = {rate_hz:?};"));
        }
    }
    item("Numbers that a step gives.", format!("pub const OUTPUTS: usize = {};", facts.outputs));
    match &facts.gives {
        Gives::Logits => {}
        Gives::Classes { names } => item("Name of every class.", format!("pub const CLASS_NAMES: [&str; OUTPUTS] = {names:?};")),
        Gives::Values { names, units } => {
            item("Name of every output.", format!("pub const VALUE_NAMES: [&str; OUTPUTS] = {names:?};"));
            item("Unit of every output.", format!("pub const VALUE_UNITS: [&str; OUTPUTS] = {units:?};"));
        }
    }
    let limits = [
        ("flash", "FLASH", "FLASH_BYTES", facts.budget.flash_bytes),
        ("RAM", "RAM", "STATE_BYTES + SCRATCH_BYTES", facts.budget.ram_bytes),
    ];
    let limits: Vec<_> = limits.into_iter().filter_map(|(what, constant, needed, bytes)| Some((what, constant, needed, bytes?))).collect();
    for (what, constant, _, bytes) in &limits {
        item(&format!("Bytes of {what} that the model may take."), format!("pub const {constant}_BUDGET_BYTES: usize = {bytes};"));
    }
    for (what, constant, needed, _) in limits {
        let _ =
            write!(text, "\nconst _: () = assert!({needed} <= {constant}_BUDGET_BYTES, \"{name} takes more {what} than it was given\");\n");
    }
    let _ = write!(
        text,
        "
#[repr(C, align(64))]
struct Aligned([u8; FLASH_BYTES]);

static FILE: Aligned = Aligned(*include_bytes!(\"{name}.brook\"));

/// The file, for `Model::from_bytes`.
#[allow(dead_code)]
pub static MODEL: &[u8; FLASH_BYTES] = &FILE.0;
"
    );
    text
}
