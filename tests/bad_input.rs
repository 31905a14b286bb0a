//! Bad input to a step: a clear error, and the stream is as it was before.

use brooklet::{Error, Input, Line, Session, State, kernels};
use brooklet_quantize::{Cache, CacheFormat, Recipe};
use brooklet_tests::{Buffers, File, family_fixtures, fixtures};

fn file(name: &str, recipe: &Recipe) -> File {
    File::quantized(&fixtures().join("families").join(name), recipe)
}

#[test]
fn tokens_beyond_the_vocabulary_are_refused_before_anything_changes() {
    let file = file("granite-nope", &Recipe::default());
    let model = file.model();
    let mut buffers = Buffers::new(&model, 4);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
    let want = session.prefill_tokens(&[1, 2, 3]).unwrap().to_vec();
    session.reset();
    session.prefill_tokens(&[1, 2]).unwrap();
    let error = session.prefill_tokens(&[3, 3, 3, 61]).unwrap_err();
    assert_eq!(error, Error::TokenOutOfRange { token: 61, vocab: 61 });
    assert_eq!(error.to_string(), "token 61 is outside the vocabulary of 61; ids run from 0 to 60");
    assert_eq!(session.state().position(), 2);
    assert_eq!(session.step(Input::Token(3)).unwrap(), want);
    assert_eq!(session.prefill_tokens(&[]), Err(Error::EmptyInput));
    let error = session.step(Input::Frame(&[0.0])).unwrap_err();
    assert_eq!(error.to_string(), "this model takes token ids");
}

#[test]
fn frames_of_the_wrong_width_or_without_numbers_are_refused() {
    let file = file("sensor-mamba2-last", &Recipe::default());
    let model = file.model();
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
    for got in [0usize, 1, 5, 7, 12] {
        let error = session.step(Input::Frame(&vec![0.0; got])).unwrap_err();
        assert_eq!(error, Error::FrameWidth { got: got as u32, want: 6 });
    }
    let error = session.step(Input::Frame(&[0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0])).unwrap_err();
    assert_eq!(error, Error::FrameNotFinite { channel: 2 });
    assert!(session.step(Input::Frame(&[0.0, 0.0, f32::INFINITY, 0.0, 0.0, 0.0])).is_err());
    assert_eq!(session.step(Input::Token(0)).unwrap_err().to_string(), "this model takes sensor frames");
    assert_eq!(session.state().position(), 0);
}

#[test]
fn a_full_cache_stops_or_slides_as_chosen() {
    for (sink, fits) in [(None, false), (Some(2), true)] {
        let recipe = Recipe { cache: Cache { context: 8, sink, format: CacheFormat::Int8 }, ..Recipe::default() };
        let file = file("granite-nope", &recipe);
        let model = file.model();
        let mut buffers = Buffers::new(&model, 4);
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
        session.prefill_tokens(&[1; 8]).unwrap();
        let ninth = session.step(Input::Token(1)).map(|_| ());
        assert_eq!(ninth.is_ok(), fits);
        if !fits {
            assert_eq!(ninth, Err(Error::ContextFull { capacity: 8 }));
            session.reset();
            assert_eq!(session.prefill_tokens(&[1; 9]).err(), Some(Error::ContextFull { capacity: 8 }));
            assert_eq!(session.state().position(), 0);
        }
    }
}

#[test]
fn wild_but_finite_samples_do_not_panic() {
    for dir in family_fixtures() {
        let file = File::quantized(&dir, &Recipe::default());
        let model = file.model();
        let Some(channels) = model.channels() else { continue };
        let mut buffers = Buffers::new(&model, 1);
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
        for x in [f32::MAX, f32::MIN, 1.0e-40, -0.0, 1.0e20, f32::MIN_POSITIVE] {
            session.step(Input::Frame(&vec![x; channels])).unwrap();
        }
    }
}
