//! I8: a restored stream continues bit for bit; what is no snapshot of this model is refused.

use brooklet::kernels::quant::Format;
use brooklet::{Error, Line, Model, Session, SnapshotFault, State, kernels, snapshot_bytes};
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use brooklet_tests::{Buffers, File, Sequence, family_fixtures, stream};

/// A short cache, so that it slides while the stream runs.
fn recipe() -> Recipe {
    Recipe { cache: Cache { context: 20, sink: Some(2), format: CacheFormat::Int8 }, ..Recipe::default() }
}

/// Steps `range` of `input`, continuing from `snapshot`; returns outputs and a new snapshot.
fn go_on(model: &Model<'_>, snapshot: Option<&[u8]>, input: &Sequence, range: std::ops::Range<usize>) -> (Vec<f32>, Vec<u8>) {
    let mut buffers = Buffers::new(model, 4);
    // Whatever was in the memory before must not matter.
    Line::bytes_mut(&mut buffers.state).fill(0xa5);
    let bytes = Line::bytes_mut(&mut buffers.state);
    let mut state = match snapshot {
        Some(snapshot) => State::restore(model, snapshot, bytes).unwrap(),
        None => State::new(model, bytes).unwrap(),
    };
    let mut session = Session::new(model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
    let mut out = Vec::new();
    input.feed(&mut session, range, &mut out);
    let mut snapshot = vec![0; snapshot_bytes(model)];
    assert_eq!(state.snapshot(&mut snapshot), Ok(snapshot.len()));
    (out, snapshot)
}

#[test]
fn a_stream_restored_at_any_step_continues_bit_for_bit() {
    for (i, dir) in family_fixtures().into_iter().enumerate() {
        // Every other one with states in half precision and caches of 4 bits.
        let narrow = Recipe { state: StateFormat::F16, cache: Cache { format: CacheFormat::Int4, ..recipe().cache }, ..recipe() };
        let file = File::quantized(&dir, &if i % 2 == 0 { recipe() } else { narrow });
        let model = file.model();
        let input = Sequence::noise(&model, 60, 11);
        let want = stream(&model, kernels::detect(), &input, 1);
        for cut in 1..input.steps() {
            let (mut got, snapshot) = go_on(&model, None, &input, 0..cut);
            got.extend(go_on(&model, Some(&snapshot), &input, cut..input.steps()).0);
            assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{} cut at {cut}", dir.display());
        }
    }
}

/// Weights may change behind a stream's back, what its bytes mean may not.
#[test]
fn a_state_of_another_precision_is_refused() {
    let dirs = family_fixtures();
    let dir = dirs.iter().find(|dir| dir.ends_with("mamba2-g1")).unwrap();
    let [single, half] = [StateFormat::F32, StateFormat::F16].map(|state| File::quantized(dir, &Recipe { state, ..recipe() }));
    let (single, half) = (single.model(), half.model());
    let (_, snapshot) = go_on(&single, None, &Sequence::noise(&single, 5, 1), 0..5);
    let mut memory = Buffers::new(&single, 1).state;
    assert_eq!(State::restore(&half, &snapshot, Line::bytes_mut(&mut memory)).err(), Some(Error::Snapshot(SnapshotFault::OtherModel)));
    let state = State::restore(&single, &snapshot, Line::bytes_mut(&mut memory)).unwrap();
    assert_eq!(state.halves(&single).count(), 0);
    assert_eq!(state.adopt(&single, &half).err(), Some(Error::OtherModel));
    // The largest half is as large as they get, and nothing is there before the stream begins.
    let mut memory = Buffers::new(&half, 1).state;
    let state = State::new(&half, Line::bytes_mut(&mut memory)).unwrap();
    assert!(state.halves(&half).count() > 0 && state.halves(&half).flatten().all(|&bits| bits == 0));
    assert!(state.numbers(&half).flatten().all(|&x| x == 0.0));
}

#[test]
fn damaged_and_foreign_snapshots_are_refused() {
    let dirs = family_fixtures();
    let (file, other) = (File::quantized(&dirs[0], &recipe()), File::quantized(&dirs[1], &recipe()));
    let (model, other) = (file.model(), other.model());
    let (_, snapshot) = go_on(&model, None, &Sequence::noise(&model, 5, 1), 0..5);
    let mut buffers = Buffers::new(&model, 1);
    let mut refuse = |model: &Model<'_>, snapshot: &[u8]| State::restore(model, snapshot, Line::bytes_mut(&mut buffers.state)).err();
    assert_eq!(refuse(&other, &snapshot), Some(Error::Snapshot(SnapshotFault::OtherModel)));
    for len in 0..snapshot.len() {
        assert!(refuse(&model, &snapshot[..len]).is_some(), "cut to {len}");
    }
    for at in 0..snapshot.len() {
        let mut damaged = snapshot.clone();
        damaged[at] ^= 0x10;
        assert!(refuse(&model, &damaged).is_some(), "byte {at}");
    }
    assert_eq!(refuse(&model, &snapshot), None);
}

#[test]
fn a_state_of_another_model_is_refused() {
    let dirs = family_fixtures();
    let (file, other) = (File::quantized(&dirs[0], &recipe()), File::quantized(&dirs[1], &recipe()));
    let (model, other) = (file.model(), other.model());
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut scratch = Buffers::new(&other, 1).scratch;
    let session = Session::new(&other, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch));
    assert_eq!(session.err(), Some(Error::OtherModel));
}

#[test]
fn a_state_refilled_from_its_bytes_continues_bit_for_bit() {
    for dir in family_fixtures() {
        let file = File::quantized(&dir, &recipe());
        let model = file.model();
        let input = Sequence::noise(&model, 30, 12);
        let want = stream(&model, kernels::detect(), &input, 1);
        let (mut first, mut second) = (Buffers::new(&model, 1), Buffers::new(&model, 1));
        let mut state = State::new(&model, Line::bytes_mut(&mut first.state)).unwrap();
        let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut first.scratch)).unwrap();
        let mut got = Vec::new();
        input.feed(&mut session, 0..15, &mut got);
        assert_eq!(state.numbers(&model).flatten().find(|x| !x.is_finite()), None, "{}", dir.display());

        let mut other = State::new(&model, Line::bytes_mut(&mut second.state)).unwrap();
        assert_eq!(other.model_hash(), state.model_hash());
        let filled: Result<(), ()> = other.refill(state.position(), |bytes| {
            bytes.copy_from_slice(state.bytes());
            Ok(())
        });
        assert_eq!(filled, Ok(()));
        let mut session = Session::new(&model, kernels::detect(), &mut other, Line::bytes_mut(&mut second.scratch)).unwrap();
        input.feed(&mut session, 15..30, &mut got);
        assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", dir.display());

        let broken = other.refill(7, |bytes| {
            bytes.fill(0xa5);
            Err("flash")
        });
        assert_eq!((broken, other.position()), (Err("flash"), 0));
        assert!(other.bytes().iter().all(|&b| b == 0), "{}", dir.display());
    }
}

#[test]
fn a_stream_is_handed_only_to_a_model_with_the_same_slots() {
    let dirs = family_fixtures();
    let weights = |name: &str| {
        let dir = dirs.iter().find(|d| d.ends_with(name)).unwrap();
        let format = |format| File::quantized(dir, &Recipe { format, ..recipe() });
        (format(Format::Q8), format(Format::F32))
    };
    let (q8, f32) = weights("sensor-mamba2-ema");
    let (other, _) = weights("sensor-s5-full");
    let (from, to, other) = (q8.model(), f32.model(), other.model());
    assert_ne!(from.artifact().hash(), to.artifact().hash());
    let (_, snapshot) = go_on(&from, None, &Sequence::noise(&from, 9, 3), 0..9);
    let mut buffers = Buffers::new(&from, 1);
    let mut restore = |to: &Model<'_>| {
        let state = State::restore(&from, &snapshot, Line::bytes_mut(&mut buffers.state)).unwrap();
        let bytes = state.bytes().to_vec();
        let state = state.adopt(&from, to)?;
        assert_eq!((state.position(), state.bytes(), state.model_hash()), (9, &bytes[..], to.artifact().hash()));
        Ok(())
    };
    assert_eq!(restore(&to), Ok(()));
    assert_eq!(restore(&other), Err(Error::OtherModel));
}
