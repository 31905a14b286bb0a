//! Ill streams are found, counted, and healed as the limits say.

use crate::support::{MockFlash, Torn, fixture};
use brooklet::{Line, Model, Session, State, kernels};
use brooklet_device::{Fault, Healed, Health, Limits, Region, Remedy, Restored, SnapshotStore, Verdict};
use brooklet_quantize::{Cache, CacheFormat, Recipe};
use brooklet_tests::{Buffers, File, Sequence, family_fixtures};

/// One step of `state`, and what `health` says to it.
fn step(health: &mut Health, model: &Model<'_>, state: &mut State<'_>, scratch: &mut [Line], input: &Sequence, at: usize) -> Verdict {
    let mut session = Session::new(model, kernels::detect(), state, Line::bytes_mut(scratch)).unwrap();
    input.feed(&mut session, at..at + 1, &mut Vec::new());
    health.after_step(&session)
}

/// Writes `x` into every number of the state.
fn poison(state: &mut State<'_>, x: f32) {
    let position = state.position();
    let filled: Result<(), ()> = state.refill(position, |bytes| {
        bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|b| *b = x.to_le_bytes());
        Ok(())
    });
    filled.unwrap();
}

fn store() -> SnapshotStore<MockFlash<1, 4, 1024>> {
    SnapshotStore::new(MockFlash::new(32, Torn::Settled, 1), Region::new(0, 32768)).unwrap()
}

#[test]
fn every_family_is_well_on_ordinary_input() {
    let recipe = Recipe { cache: Cache { context: 16, sink: Some(2), format: CacheFormat::Int8 }, ..Recipe::default() };
    for dir in family_fixtures() {
        let file = File::quantized(&dir, &recipe);
        let model = file.model();
        let input = Sequence::noise(&model, 40, 1);
        let mut buffers = Buffers::new(&model, 1);
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut health = Health::new(Limits { stuck_steps: 20, scan_every: 1, ..Limits::default() });
        for at in 0..input.steps() {
            let verdict = step(&mut health, &model, &mut state, &mut buffers.scratch, &input, at);
            assert_eq!(verdict, Verdict::Well, "{} at {at}", dir.display());
        }
        assert_eq!(health.counters(), brooklet_device::Counters { steps: 40, ..Default::default() });
    }
}

#[test]
fn numbers_that_are_not_finite_go_back_to_the_snapshot() {
    for name in ["sensor-mamba1-last", "rnn-lstm-classes", "sensor-s4d-zoh", "sensor-mamba2-ema"] {
        let file = fixture(name, &Recipe::default());
        let model = file.model();
        let input = Sequence::noise(&model, 40, 1);
        let mut buffers = Buffers::new(&model, 1);
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut health = Health::new(Limits { scan_every: 1, ..Limits::default() });
        let mut snapshots = store();
        for at in 0..5 {
            assert_eq!(step(&mut health, &model, &mut state, &mut buffers.scratch, &input, at), Verdict::Well, "{name}");
        }
        snapshots.save(&state).unwrap();
        let kept = state.bytes().to_vec();
        for x in [f32::NAN, f32::INFINITY] {
            poison(&mut state, x);
            let verdict = step(&mut health, &model, &mut state, &mut buffers.scratch, &input, 5);
            let Verdict::Ill { fault: Fault::OutputNotFinite { .. } | Fault::StateNotFinite, remedy } = verdict else {
                panic!("{name}: {verdict:?}")
            };
            assert_eq!(remedy, Remedy::RestoreSnapshot);
            let healed = health.heal(remedy, &model, &mut state, &mut snapshots);
            assert_eq!(healed, Healed::Restored(Restored::Newest { sequence: 1, position: 5 }), "{name}");
            assert_eq!((state.position(), state.bytes()), (5, &kept[..]));
            assert_eq!(step(&mut health, &model, &mut state, &mut buffers.scratch, &input, 5), Verdict::Well, "{name}");
            let restored = health.heal(remedy, &model, &mut state, &mut snapshots);
            assert!(matches!(restored, Healed::Restored(_)));
        }
        // A snapshot that is ill itself is not gone back to.
        poison(&mut state, f32::NAN);
        snapshots.save(&state).unwrap();
        assert_eq!(health.check_state(&model, &state), Some(Fault::StateNotFinite));
        assert_eq!(health.heal(Remedy::RestoreSnapshot, &model, &mut state, &mut snapshots), Healed::Reset);
        assert!(state.position() == 0 && state.bytes().iter().all(|&b| b == 0));
        let counters = health.counters();
        assert!(counters.states_not_finite >= 1 && counters.resets == 1 && counters.restores == 4, "{name}: {counters:?}");
        // None at all: anew.
        assert_eq!(health.heal(Remedy::RestoreSnapshot, &model, &mut state, &mut store()), Healed::Reset);
    }
}

#[test]
fn limits_are_kept_and_the_state_is_looked_at_when_it_is_its_turn() {
    let file = fixture("sensor-mamba1-last", &Recipe::default());
    let model = file.model();
    let input = Sequence::noise(&model, 60, 1);
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let limits = Limits { output: f32::MAX, state: 0.0, scan_every: 4, on_saturated: Remedy::Reset, ..Limits::default() };
    let mut health = Health::new(limits);
    for at in 0..12 {
        let verdict = step(&mut health, &model, &mut state, &mut buffers.scratch, &input, at);
        let is_turn = at % 4 == 3;
        let want = if is_turn { Verdict::Ill { fault: Fault::StateSaturated, remedy: Remedy::Reset } } else { Verdict::Well };
        assert_eq!(verdict, want, "step {at}");
    }
    assert_eq!((health.counters().states_saturated, health.counters().steps), (3, 12));

    let mut health = Health::new(Limits { output: 0.0, scan_every: 0, ..Limits::default() });
    for at in 12..15 {
        let verdict = step(&mut health, &model, &mut state, &mut buffers.scratch, &input, at);
        assert_eq!(verdict, Verdict::Ill { fault: Fault::OutputSaturated { index: 0 }, remedy: Remedy::Report });
        assert_eq!(health.heal(Remedy::Report, &model, &mut state, &mut store()), Healed::AsItIs);
    }
    assert_eq!(health.counters().outputs_saturated, 3);
}

#[test]
fn outputs_that_repeat_are_stuck() {
    let file = fixture("sensor-s5-half1", &Recipe::default());
    let model = file.model();
    let input = Sequence::noise(&model, 40, 1);
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut health = Health::new(Limits { stuck_steps: 5, on_stuck: Remedy::Reset, ..Limits::default() });
    for at in 0..20 {
        state.reset(); // and the same frame again
        let verdict = step(&mut health, &model, &mut state, &mut buffers.scratch, &input, 7);
        let stuck = Verdict::Ill { fault: Fault::OutputsStuck { steps: 5 }, remedy: Remedy::Reset };
        assert_eq!(verdict, if at % 5 == 4 { stuck } else { Verdict::Well }, "step {at}");
    }
    assert_eq!(health.counters().stuck, 4);
    for at in 0..20 {
        assert_eq!(step(&mut health, &model, &mut state, &mut buffers.scratch, &input, at), Verdict::Well);
    }
}
