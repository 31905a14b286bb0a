//! A stream put to sleep and woken up, bit for bit.
//!
//!     cargo run --release -p brooklet-examples --example 03_snapshot

use brooklet::mem::MappedFile;
use brooklet::{Input, Line, Model, Session, State, kernels, snapshot_bytes};
use brooklet_examples::{asset, recording};

/// Steps through `samples` and returns the last outputs.
fn go_on(model: &Model<'_>, state: &mut State<'_>, samples: &[Vec<f32>]) -> Result<Vec<f32>, brooklet::Error> {
    let mut scratch_memory = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
    let mut session = Session::new(model, kernels::detect(), state, Line::bytes_mut(&mut scratch_memory))?;
    let mut last = Vec::new();
    for sample in samples {
        last = session.step(Input::Frame(sample))?.to_vec();
    }
    Ok(last)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = MappedFile::open(asset("models/watch.brook"))?;
    let model = Model::from_bytes(file.bytes())?;
    let samples = recording("subject08_IR_right_01.csv")?;
    let (first, second) = samples.split_at(samples.len() / 2);

    let mut memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut state = State::new(&model, Line::bytes_mut(&mut memory))?;
    go_on(&model, &mut state, first)?;
    let mut snapshot = vec![0; snapshot_bytes(&model)];
    state.snapshot(&mut snapshot)?;
    let awake = go_on(&model, &mut state, second)?;

    let mut other_memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut restored = State::restore(&model, &snapshot, Line::bytes_mut(&mut other_memory))?;
    let woken = go_on(&model, &mut restored, second)?;

    assert_eq!(awake, woken);
    println!("{} bytes of snapshot; outputs after it are the same bits: {awake:?}", snapshot.len());
    Ok(())
}
