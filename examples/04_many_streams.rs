//! Several sensors, one model: they step together, and the weights are read once for all; each stream owns its state.
//!
//!     cargo run --release -p brooklet-examples --example 04_many_streams

use brooklet::mem::MappedFile;
use brooklet::{Line, Model, State, Streams, kernels};
use brooklet_examples::{asset, recording};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = MappedFile::open(asset("models/watch.brook"))?;
    let model = Model::from_bytes(file.bytes())?;
    let names = ["subject03_ER_left_01.csv", "subject03_PEN_left_01.csv", "subject08_TRAP_left_01.csv"];
    let streams = names.iter().map(|name| recording(name)).collect::<Result<Vec<_>, _>>()?;

    let lines_each = model.state_bytes().div_ceil(64);
    let mut memory = vec![Line::ZERO; lines_each * names.len()];
    let mut scratch = vec![Line::ZERO; model.scratch_bytes(names.len()).div_ceil(64)];
    let mut states = memory.chunks_mut(lines_each).map(|m| State::new(&model, Line::bytes_mut(m))).collect::<Result<Vec<_>, _>>()?;

    let mut together = Streams::new(&model, kernels::detect(), Line::bytes_mut(&mut scratch))?;
    let mut outputs = vec![0.0; names.len() * model.outputs()]; // (streams, outputs)
    for step in 0..500 {
        let frames: Vec<f32> = streams.iter().flat_map(|stream| &stream[step]).copied().collect(); // (streams, channels)
        together.step_frames(&mut states, &frames, &mut outputs)?;
    }
    for (name, state) in names.iter().zip(&states) {
        println!("{name}: {} steps", state.position());
    }
    println!("{} bytes for {} streams, beside one copy of the weights", lines_each * 64 * names.len(), names.len());
    Ok(())
}
