//! A thousand steps of a recording, straight through, and again with a power cut in the middle: the same answers, on every board.
#![no_std]
#![no_main]

use board::{model, recording};
use brooklet::{Error, Line, Model, Session, State, kernels, self_test};
use brooklet_app::{Fingerprint, Replay};
use core::fmt::Write;
use static_cell::ConstStaticCell;

const STEPS: usize = 1000;

static STATE: ConstStaticCell<[Line; model::STATE_LINES]> = ConstStaticCell::new([Line::ZERO; model::STATE_LINES]);
static SCRATCH: ConstStaticCell<[Line; model::SCRATCH_LINES]> = ConstStaticCell::new([Line::ZERO; model::SCRATCH_LINES]);
/// Stands for flash: what outlives a power cut.
static SNAPSHOT: ConstStaticCell<[Line; model::SNAPSHOT_LINES]> = ConstStaticCell::new([Line::ZERO; model::SNAPSHOT_LINES]);

#[board::entry]
fn main() -> ! {
    let mut console = board::Uart::console();
    match run(&mut console) {
        Ok(()) => board::exit(0),
        Err(error) => {
            let _ = writeln!(console, "{error}");
            board::exit(1)
        }
    }
}

fn run(console: &mut board::Uart) -> Result<(), Error> {
    let replay = Replay::<{ model::CHANNELS }>::new(recording::FRAMES);
    let (state_memory, scratch) = (Line::bytes_mut(STATE.take()), Line::bytes_mut(SCRATCH.take()));
    let snapshot = Line::bytes_mut(SNAPSHOT.take());

    let model = Model::from_bytes(model::FILE)?;
    self_test(&model, kernels::detect(), state_memory, scratch)?;
    let _ = writeln!(
        console,
        "{}: {} bytes, state {}, scratch {}",
        model::NAME,
        model::FILE.len(),
        model.state_bytes(),
        model.scratch_bytes(1)
    );

    let mut straight = Fingerprint::default();
    let mut state = State::new(&model, state_memory)?;
    replay.stream(0..STEPS, &mut Session::new(&model, kernels::detect(), &mut state, scratch)?, &mut straight)?;
    let _ = writeln!(console, "straight: {STEPS} steps, fingerprint {:016x}", straight.0);

    let mut cut = Fingerprint::default();
    let mut state = State::new(&model, state_memory)?;
    replay.stream(0..STEPS / 2, &mut Session::new(&model, kernels::detect(), &mut state, scratch)?, &mut cut)?;
    let taken = state.snapshot(snapshot)?;
    // The power fails: nothing in RAM is what it was.
    state_memory.fill(0xa5);
    scratch.fill(0xa5);
    let mut state = State::restore(&model, snapshot.get(..taken).unwrap_or_default(), state_memory)?;
    replay.stream(STEPS / 2..STEPS, &mut Session::new(&model, kernels::detect(), &mut state, scratch)?, &mut cut)?;
    let _ = writeln!(console, "power cut at {}: fingerprint {:016x}", STEPS / 2, cut.0);
    Ok(())
}
