//! The least firmware around a model: nothing is printed, a sample comes from memory, and the best class goes there.
//! `cargo xtask size` measures it: what is in it, every firmware has.
#![no_std]
#![no_main]

use board::model;
use brooklet::{Error, Input, Line, Model, Session, State, kernels};
use core::convert::Infallible;
use core::sync::atomic::{AtomicU32, Ordering};
use static_cell::ConstStaticCell;

static STATE: ConstStaticCell<[Line; model::STATE_LINES]> = ConstStaticCell::new([Line::ZERO; model::STATE_LINES]);
static SCRATCH: ConstStaticCell<[Line; model::SCRATCH_LINES]> = ConstStaticCell::new([Line::ZERO; model::SCRATCH_LINES]);
/// (channels): bits of the latest sample, which an interrupt would write.
static SAMPLE: [AtomicU32; model::CHANNELS] = [const { AtomicU32::new(0) }; model::CHANNELS];
/// The class, and the steps so far: `cargo xtask stack` waits for them.
#[unsafe(no_mangle)]
static ANSWER: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

#[board::entry]
fn main() -> ! {
    let _ = run();
    loop {
        core::hint::spin_loop();
    }
}

/// Only a damaged file or a sample that is no number ends it.
fn run() -> Option<Result<Infallible, Error>> {
    let (state_memory, scratch) = (STATE.try_take()?, SCRATCH.try_take()?);
    Some(stream(Line::bytes_mut(state_memory), Line::bytes_mut(scratch)))
}

fn stream(state_memory: &mut [u8], scratch: &mut [u8]) -> Result<Infallible, Error> {
    let model = Model::from_bytes(model::FILE)?;
    let mut state = State::new(&model, state_memory)?;
    let mut session = Session::new(&model, kernels::detect(), &mut state, scratch)?;
    let [class, steps] = &ANSWER;
    for step in 1.. {
        let frame = SAMPLE.each_ref().map(|bits| f32::from_bits(bits.load(Ordering::Relaxed)));
        let outputs = session.step(Input::Frame(&frame))?;
        let best = (0..).zip(outputs).fold((0, f32::MIN), |best, (class, &output)| if output > best.1 { (class, output) } else { best });
        class.store(best.0, Ordering::Relaxed);
        steps.store(step, Ordering::Relaxed);
    }
    loop {}
}
