//! One sensor stream, one step at a time.
//!
//!     cargo run --release -p brooklet-examples --example 01_step

use brooklet::mem::MappedFile;
use brooklet::{Input, Line, Model, Session, State, kernels, softmax};
use brooklet_examples::{asset, recording};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = MappedFile::open(asset("models/watch.brook"))?;
    let model = Model::from_bytes(file.bytes())?;

    // The caller brings the memory. On a microcontroller these are two statics.
    let mut state_memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut scratch_memory = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
    println!("{} bytes of weights, {} of state, {} of scratch", file.bytes().len(), model.state_bytes(), model.scratch_bytes(1));

    let mut state = State::new(&model, Line::bytes_mut(&mut state_memory))?;
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch_memory))?;
    for (step, sample) in recording("subject03_ROW_right_01.csv")?.iter().enumerate() {
        let mut probabilities = session.step(Input::Frame(sample))?.to_vec();
        softmax(&mut probabilities);
        if step % 100 == 99 {
            let shown: Vec<String> = probabilities.iter().map(|p| format!("{p:.2}")).collect();
            println!("{:4.0} s  {}", (step + 1) as f32 / 50.0, shown.join(" "));
        }
    }
    Ok(())
}
