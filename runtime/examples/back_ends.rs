//! Which bits this machine gives: 2,000 steps of each model, half of them one by one and half as a prefill, with every back-end of its CPU.
//! Back-ends must agree; two machines agree if they print the same numbers.
//!
//!     cargo run --release -p brooklet --features std --example back_ends -- examples/models/watch.brook

use brooklet::artifact::InputSpec;
use brooklet::mem::MappedFile;
use brooklet::{Error, Input, Line, Model, Session, State, kernels};

const STEPS: usize = 2_000;
/// Longest prefill at once: more vectors than any back-end takes in one pass, and not a multiple of what it takes.
const CHUNK: usize = 37;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let file = MappedFile::open(&path).map_err(|e| format!("{path}: {e}"))?;
        let model = Model::from_bytes(file.bytes()).map_err(|e| format!("{path}: {e}"))?;
        let mut first = None;
        for table in kernels::available() {
            let bits = outputs_of(&model, table)?;
            println!("{bits:016x}  {path}  {}", table.name());
            if *first.get_or_insert(bits) != bits {
                return Err(format!("{path}: {} does not give the bits of the portable kernels", table.name()).into());
            }
        }
    }
    Ok(())
}

/// A hash of every output bit.
fn outputs_of(model: &Model<'_>, table: &'static kernels::KernelTable) -> Result<u64, Error> {
    let mut memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut scratch = vec![Line::ZERO; model.scratch_bytes(CHUNK).div_ceil(64)];
    let mut state = State::new(model, Line::bytes_mut(&mut memory))?;
    let mut session = Session::new(model, table, &mut state, Line::bytes_mut(&mut scratch))?;
    let mut noise = Noise(7);
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    // FNV-1a, a word at a time.
    let mut add = |y: &[f32]| hash = y.iter().fold(hash, |h, y| (h ^ u64::from(y.to_bits())).wrapping_mul(0x0100_0000_01b3));
    match model.header().input {
        InputSpec::Tokens { vocab, .. } => {
            let tokens: Vec<u32> = (0..STEPS).map(|_| noise.next() % vocab).collect();
            let (singly, together) = tokens.split_at(STEPS / 2);
            for &token in singly {
                add(session.step(Input::Token(token))?);
            }
            session.prefill_tokens_each(together, &mut |_, y| add(y))?;
        }
        InputSpec::Frames { .. } => {
            let channels = model.channels().unwrap_or(1);
            let samples: Vec<f32> = (0..STEPS * channels).map(|_| (noise.next() % 4096) as f32 / 512.0 - 4.0).collect();
            let (singly, together) = samples.split_at(STEPS / 2 * channels);
            for frame in singly.chunks_exact(channels) {
                add(session.step(Input::Frame(frame))?);
            }
            session.prefill_frames_each(together, &mut |_, y| add(y))?;
        }
    }
    Ok(hash)
}

/// Xorshift: the same numbers on every machine.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as u32
    }
}
