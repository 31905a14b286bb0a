//! A whole step of the watch classifier, for ten inputs: how many instructions, and whether they are the same for all.

use crate::memory::{Arena, Noise, take};
use crate::timer::instructions;
use brooklet::kernels::available;
use brooklet::{Input, Model, Session, State, self_test};
use cortex_m_semihosting::hprintln;

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static WATCH: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../../examples/models/watch.brook"));
static RECORDING: &str = include_str!("../../../../examples/recordings/subject08_TRAP_left_01.csv");

/// Prints the least and the most instructions of a step, with each table.
pub fn count(arena: &mut Arena) {
    let model = match Model::from_bytes(&WATCH.0) {
        Ok(model) => model,
        Err(e) => panic!("{e:?}"),
    };
    let (loading, _) = instructions(|| Model::from_bytes(&WATCH.0).is_ok());
    hprintln!("watch classifier: loading and checking the file {} instructions", loading);
    let mut fingerprints = [0u32; 4];
    for (i, table) in available().enumerate() {
        let mut rest = arena.bytes();
        let state = take::<u8>(&mut rest, model.state_bytes());
        let scratch = take::<u8>(&mut rest, model.scratch_bytes(1));
        if let Err(e) = self_test(&model, table, state, scratch) {
            panic!("the file's own test, {}: {e:?}", table.name());
        }
        let mut state = State::new(&model, state).unwrap();
        let mut session = Session::new(&model, table, &mut state, scratch).unwrap();
        let (mut least, mut most, mut fingerprint) = (u64::MAX, 0, 0u32);
        for frame in frames() {
            let (count, outputs) = instructions(|| session.step(Input::Frame(core::hint::black_box(&frame))));
            least = least.min(count);
            most = most.max(count);
            for y in outputs.unwrap() {
                fingerprint = fingerprint.rotate_left(5).wrapping_mul(0x9e37_79b1) ^ y.to_bits();
            }
        }
        fingerprints[i] = fingerprint;
        hprintln!(
            "watch classifier, {:9} {} to {} instructions per step over ten inputs; the file's own test holds; outputs {:08x}",
            table.name(),
            least,
            most,
            fingerprint
        );
    }
    assert!(fingerprints.iter().take(available().count()).all(|&f| f == fingerprints[0]), "tables differ");
}

/// Ten inputs: silence, recorded frames, noise from tiny to huge.
fn frames() -> impl Iterator<Item = [f32; 6]> {
    let mut noise = Noise(5);
    let mut recorded = RECORDING.lines().skip(1).step_by(250);
    (0..10).map(move |i| match i {
        2 => [0.0; 6],
        0 | 1 | 3 | 4 => {
            let mut frame = [0.0; 6];
            for (x, text) in frame.iter_mut().zip(recorded.next().unwrap_or_default().split(',')) {
                *x = text.parse().unwrap_or_default();
            }
            frame
        }
        _ => core::array::from_fn(|_| noise.number() * [1.0e-9, 1.0e-2, 1.0, 50.0, 1.0e6][i - 5]),
    })
}
