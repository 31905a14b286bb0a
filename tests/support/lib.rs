//! What the tests share: fixtures, models made from them, streams over them, files with lies in them.

pub mod gguf_file;

use brooklet::artifact::InputSpec;
use brooklet::kernels::KernelTable;
use brooklet::kernels::quant::Format;
use brooklet::mem::MappedFile;
use brooklet::{Line, Model, Session, State};
use brooklet_quantize::graph::Input;
use brooklet_quantize::passes::cut_tables;
use brooklet_quantize::{Checkpoint, Recipe, families, lower, quantize};
use std::path::{Path, PathBuf};

/// `tests/fixtures`.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The family fixtures: those in the repository, or in the folder that `BROOKLET_FIXTURES` names.
pub fn family_fixtures() -> Vec<PathBuf> {
    let root = std::env::var_os("BROOKLET_FIXTURES").map_or_else(|| fixtures().join("families"), PathBuf::from);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let mut dirs: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("config.json").exists()).collect();
    dirs.sort();
    assert!(!dirs.is_empty(), "{}: no fixtures; make them with quantize/reference/make_fixtures.py", root.display());
    dirs
}

/// A `.brook` file in memory, aligned.
pub struct File {
    lines: Vec<Line>,
    len: usize,
}

impl File {
    /// Copies the bytes of a file.
    pub fn new(bytes: &[u8]) -> Self {
        File { lines: brooklet::mem::lines_from(bytes), len: bytes.len() }
    }

    /// Quantizes the checkpoint in `dir`.
    pub fn quantized(dir: &Path, recipe: &Recipe) -> Self {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("model.brook");
        let checkpoint = Checkpoint::open(dir).unwrap();
        quantize(&checkpoint, recipe, &path, &mut |_| {}).unwrap();
        Self::new(MappedFile::open(&path).unwrap().bytes())
    }

    /// The same with embedding and head cut into pieces from the last row to the first, each in a format of its own; models without a large table stay as they are.
    pub fn in_pieces(dir: &Path, recipe: &Recipe) -> Self {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let mut graph = families::build(&checkpoint).unwrap();
        let vocab = if let Input::Tokens { vocab, .. } = graph.input { vocab } else { 0 };
        let backwards: Vec<u32> = (0..vocab).rev().collect();
        cut_tables(&mut graph, 1, Some(&backwards));
        let mut formats = recipe.formats(&graph);
        for (number, piece) in graph.embedding().chain(graph.head_matrix()).enumerate() {
            formats[piece] = formats[piece].map(|_| Format::ALL[number % Format::ALL.len()]);
        }
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("model.brook");
        lower::write_formats(&graph, recipe, &formats, &path, &mut |_| {}).unwrap();
        Self::new(&std::fs::read(path).unwrap())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &Line::bytes(&self.lines)[..self.len]
    }

    /// The bytes, to damage.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut Line::bytes_mut(&mut self.lines)[..self.len]
    }

    /// The checked model.
    pub fn model(&self) -> Model<'_> {
        Model::from_bytes(self.bytes()).unwrap()
    }
}

/// A fixture's input, as numbers in one list: token ids, or the samples of all frames.
#[derive(Clone, Debug)]
pub enum Sequence {
    /// Ids.
    Tokens(Vec<u32>),
    /// (frames, channels)
    Frames(Vec<f32>, usize),
    /// (frames, channels), and the seconds before each frame.
    FramesAfter(Vec<f32>, usize, Vec<f32>),
}

impl Sequence {
    /// Reads `tokens.json`, or `frames.csv` with the seconds of `gaps.csv` if that is there.
    pub fn open(dir: &Path) -> Self {
        if let Ok(text) = std::fs::read(dir.join("tokens.json")) {
            let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
            return Sequence::Tokens(json["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect());
        }
        let text = std::fs::read_to_string(dir.join("frames.csv")).unwrap();
        let rows: Vec<Vec<f32>> = text.lines().map(|l| l.split(',').map(|x| x.parse().unwrap()).collect()).collect();
        match std::fs::read_to_string(dir.join("gaps.csv")) {
            Ok(gaps) => Sequence::FramesAfter(rows.concat(), rows[0].len(), gaps.lines().map(|l| l.parse().unwrap()).collect()),
            Err(_) => Sequence::Frames(rows.concat(), rows[0].len()),
        }
    }

    /// Something the model takes, `steps` long, different for every seed.
    pub fn noise(model: &Model<'_>, steps: usize, seed: u64) -> Self {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x >> 11
        };
        match model.header().input {
            InputSpec::Tokens { vocab, .. } => Sequence::Tokens((0..steps).map(|_| (next() % u64::from(vocab)) as u32).collect()),
            InputSpec::Frames { .. } => {
                let channels = model.channels().unwrap();
                let takes_missing = model.plan().missing.is_some();
                let sample = |_: usize| match next() % 4096 {
                    few if takes_missing && few < 800 => f32::NAN,
                    some => some as f32 / 512.0 - 4.0,
                };
                let frames = (0..steps * channels).map(sample).collect();
                if !model.plan().takes_gaps {
                    return Sequence::Frames(frames, channels);
                }
                // From a fiftieth of a second to a whole one: what most sensors have.
                Sequence::FramesAfter(frames, channels, (0..steps).map(|_| (1 + next() % 50) as f32 / 50.0).collect())
            }
        }
    }

    /// Steps.
    pub fn steps(&self) -> usize {
        match self {
            Sequence::Tokens(t) => t.len(),
            Sequence::Frames(f, channels) | Sequence::FramesAfter(f, channels, _) => f.len() / channels,
        }
    }

    /// Feeds steps `range` at once and appends every step's outputs to `out`.
    pub fn feed(&self, session: &mut Session<'_, '_, '_>, range: std::ops::Range<usize>, out: &mut Vec<f32>) {
        let mut each = |_: usize, y: &[f32]| out.extend_from_slice(y);
        match self {
            Sequence::Tokens(t) => session.prefill_tokens_each(&t[range], &mut each).unwrap(),
            Sequence::Frames(f, channels) => {
                session.prefill_frames_each(&f[range.start * channels..range.end * channels], &mut each).unwrap();
            }
            Sequence::FramesAfter(f, channels, seconds) => {
                let frames = &f[range.start * channels..range.end * channels];
                session.prefill_frames_after_each(frames, &seconds[range], &mut each).unwrap();
            }
        }
    }
}

/// A stream's memory: state and scratch for batches of up to `batch` steps.
pub struct Buffers {
    /// State.
    pub state: Vec<Line>,
    /// Scratch.
    pub scratch: Vec<Line>,
}

impl Buffers {
    /// Room for a stream of `model`.
    pub fn new(model: &Model<'_>, batch: usize) -> Self {
        Self::for_team(model, batch, 1)
    }

    /// Room for a stream of `model` that a team of `threads` works on.
    pub fn for_team(model: &Model<'_>, batch: usize, threads: usize) -> Self {
        let lines = |bytes: usize| vec![Line::ZERO; bytes.div_ceil(64)];
        Buffers { state: lines(model.state_bytes()), scratch: lines(model.team_scratch_bytes(batch, threads)) }
    }
}

/// Outputs of every step, fed in chunks of `chunk` steps.
pub fn stream(model: &Model<'_>, kernels: &'static KernelTable, input: &Sequence, chunk: usize) -> Vec<f32> {
    let mut buffers = Buffers::new(model, chunk);
    let mut state = State::new(model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut session = Session::new(model, kernels, &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
    let mut out = Vec::new();
    let mut at = 0;
    while at < input.steps() {
        let end = (at + chunk).min(input.steps());
        input.feed(&mut session, at..end, &mut out);
        at = end;
    }
    out
}

/// Reads a little-endian `float32` `.npy` file of two dimensions.
pub fn read_npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    assert!(String::from_utf8_lossy(&bytes[10..10 + header]).contains("'<f4'"), "{}: not float32", path.display());
    bytes[10 + header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The README's program compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
