//! Tokens in, the most likely next token out.
//!
//!     cargo run --release -p brooklet-examples --example 02_text
//!
//! This shows the bare runtime; `brooklet run` adds the tokenizer and sampling.

use brooklet::mem::MappedFile;
use brooklet::{Input, Line, Model, Session, State, kernels};
use brooklet_examples::asset;

fn most_likely(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token as u32)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = MappedFile::open(asset("models/prose.brook"))?;
    let model = Model::from_bytes(file.bytes())?;
    let mut state_memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    // Room for 32 tokens: a prompt then reads the weights once for that many.
    let mut scratch_memory = vec![Line::ZERO; model.scratch_bytes(32).div_ceil(64)];
    let mut state = State::new(&model, Line::bytes_mut(&mut state_memory))?;
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch_memory))?;

    let prompt = [52, 258, 1042, 690];
    let mut token = most_likely(session.prefill_tokens(&prompt)?);
    for _ in 0..24 {
        print!("{token} ");
        token = most_likely(session.step(Input::Token(token))?);
    }
    println!("\nposition {}, state still {} bytes", session.state().position(), model.state_bytes());
    Ok(())
}
