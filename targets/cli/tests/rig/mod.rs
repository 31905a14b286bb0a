//! What tests of the program share: it is run as a user runs it, on models made from the committed checkpoints.
#![allow(dead_code)] // Each test file uses its part.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

pub(crate) const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families");

pub(crate) fn brooklet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.env_remove("BROOKLET_BACKEND").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command printed, and whether it succeeded.
pub(crate) struct Ran {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn finish(child: Child) -> Ran {
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
}

pub(crate) fn run_with(stdin: &str, args: &[&str]) -> Ran {
    let mut child = brooklet().args(args).stdin(Stdio::piped()).spawn().expect("the program starts");
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    finish(child)
}

pub(crate) fn run(args: &[&str]) -> Ran {
    run_with("", args)
}

pub(crate) fn ok(args: &[&str]) -> String {
    let ran = run(args);
    assert!(ran.ok, "{args:?}: {}", ran.err);
    ran.out
}

/// A folder for one test's files, empty at its start.
pub(crate) fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a folder for test files");
    dir
}

pub(crate) fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a test file");
    path.to_str().expect("a plain path").to_owned()
}

/// A sensor model (6 channels, 5 classes) and a byte-level text model (ids 0 to 96).
pub(crate) fn models() -> &'static (String, String) {
    static MODELS: OnceLock<(String, String)> = OnceLock::new();
    MODELS.get_or_init(|| {
        let dir = folder("models");
        let make = |checkpoint: &str, format: &str| {
            let out = dir.join(format!("{checkpoint}.brook")).to_str().expect("a plain path").to_owned();
            let text = ok(&["quantize", &format!("{FIXTURES}/{checkpoint}"), "-o", &out, "--format", format]);
            assert!(text.contains("state") && text.contains(&out), "{text}");
            out
        };
        (make("sensor-mamba2-last", "q4"), make("mamba-a", "q8"))
    })
}

pub(crate) fn sensor() -> &'static str {
    &models().0
}

pub(crate) fn text() -> &'static str {
    &models().1
}

pub(crate) fn frames() -> String {
    format!("{FIXTURES}/sensor-mamba2-last/frames.csv")
}

pub(crate) fn frame_lines() -> Vec<String> {
    let text = std::fs::read_to_string(frames()).expect("the fixture's frames");
    text.lines().map(str::to_owned).collect()
}
