//! Missing samples: what stands in for a NaN is what a plain loop over the samples would have put there, to the bit.

use brooklet::artifact::InputSpec;
use brooklet::kernels::quant::Format;
use brooklet::{Error, Input, Line, Session, State, kernels, snapshot_bytes};
use brooklet_quantize::graph::{self, Graph, Role};
use brooklet_quantize::lower::write_graph;
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use brooklet_tests::{Buffers, File, Sequence, fixtures, stream};
use proptest::prelude::*;
use std::path::Path;

/// Fixtures without a policy: one with a recurrence alone, one with a convolution too, one recurrent net.
const FIXTURES: [&str; 3] = ["sensor-s4d-irregular", "sensor-mamba2-gaps", "rnn-lstm-classes"];

fn recipe(format: Format) -> Recipe {
    Recipe { format, embedding: None, state: StateFormat::F32, cache: Cache { context: 128, sink: None, format: CacheFormat::F32 } }
}

/// A fixture's means per channel.
fn means(dir: &Path) -> Vec<f32> {
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    config["input"]["mean"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap() as f32).collect()
}

/// The same checkpoint with a policy for missing samples.
fn with_policy(dir: &Path, policy: &str, format: Format) -> File {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    config["input"]["missing"] = policy.into();
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    File::quantized(copy.path(), &recipe(format))
}

/// What the policy means, sample by sample, in the sensor's own units.
fn filled(frames: &[f32], means: &[f32], policy: &str) -> Vec<f32> {
    let mut last = means.to_vec();
    let mut out = frames.to_vec();
    for frame in out.chunks_exact_mut(means.len()) {
        for ((x, last), &mean) in frame.iter_mut().zip(&mut last).zip(means) {
            if x.is_nan() {
                *x = match policy {
                    "hold" => *last,
                    "mean" => mean,
                    _ => 0.0,
                };
            }
            *last = *x;
        }
    }
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("BROOKLET_LONG").is_some() { 200 } else { 30 }))]

    #[test]
    fn what_stands_in_is_what_a_plain_loop_puts_there(
        fixture in 0usize..FIXTURES.len(),
        policy in prop_oneof![Just("hold"), Just("mean"), Just("zero")],
        format in prop_oneof![Just(Format::F32), Just(Format::Q8)],
        missing in prop::collection::vec(prop::bool::weighted(0.3), 40 * 6),
        samples in prop::collection::vec(-8.0f32..8.0, 40 * 6),
        chunk in 1usize..40,
        cut in 1usize..39,
    ) {
        let dir = fixtures().join("families").join(FIXTURES[fixture]);
        let means = means(&dir);
        let width = means.len();
        let frames: Vec<f32> =
            samples.iter().zip(&missing).map(|(&x, &gone)| if gone { f32::NAN } else { x }).take(40 * width).collect();
        let plain = File::quantized(&dir, &recipe(format));
        let want = stream(&plain.model(), kernels::available().next().unwrap(), &Sequence::Frames(filled(&frames, &means, policy), width), 1);
        let file = with_policy(&dir, policy, format);
        let model = file.model();
        let input = Sequence::Frames(frames, width);
        for table in kernels::available() {
            prop_assert_eq!(bits(&stream(&model, table, &input, chunk)), bits(&want), "{} {} by {}", policy, table.name(), chunk);
        }
        // A snapshot keeps what is held.
        let mut got = Vec::new();
        let mut snapshot = vec![0; snapshot_bytes(&model)];
        let mut buffers = Buffers::new(&model, chunk);
        {
            let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
            let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
            input.feed(&mut session, 0..cut, &mut got);
            session.state().snapshot(&mut snapshot).unwrap();
        }
        let mut state = State::restore(&model, &snapshot, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
        input.feed(&mut session, cut..40, &mut got);
        prop_assert_eq!(bits(&got), bits(&want));
    }
}

#[test]
fn what_stands_in_has_its_place_behind_the_frame() {
    let policies: [fn(&mut Graph<'_>, graph::Operand); 3] =
        [|g, x| g.hold_missing(x), |g, x| g.average_missing(x), |g, x| g.zero_missing(x, vec![0.0; x.len as usize])];
    for policy in policies {
        for late in [false, true] {
            let input = graph::Input::Frames {
                channels: vec!["a".to_owned(), "b".to_owned()],
                units: vec!["1".to_owned(); 2],
                rate_hz: 10.0,
                mean: vec![0.0; 2],
                std: vec![1.0; 2],
            };
            let mut g = Graph::new(graph::Card::default(), input, graph::Output::Classes(vec!["no".to_owned(), "yes".to_owned()]));
            let identity = g.matrix("identity", 2, 2, Role::Embedding, || Ok(vec![1.0, 0.0, 0.0, 1.0]));
            let mut x = g.frame(vec![0.0; 2], vec![1.0; 2]);
            if late {
                x = g.linear(identity, None, x);
            }
            policy(&mut g, x);
            g.head(identity, None, x, 1.0);
            let dir = tempfile::tempdir().unwrap();
            let written = write_graph(&g, &recipe(Format::F32), &dir.path().join("model.brook"), &mut |_| {});
            assert_eq!(written.is_ok(), !late);
            assert!(written.map_or_else(|e| e.to_string().contains("stands where it must not"), |_| true));
        }
    }
}

#[test]
fn only_a_policy_lets_nan_in_and_none_lets_infinities() {
    let dir = fixtures().join("families").join(FIXTURES[0]);
    let width = means(&dir).len();
    let mut gone = vec![0.5; width];
    gone[1] = f32::NAN;
    let mut endless = gone.clone();
    endless[2] = f32::NEG_INFINITY;
    for policy in [None, Some("hold"), Some("mean"), Some("zero")] {
        let file = policy.map_or_else(|| File::quantized(&dir, &recipe(Format::F32)), |policy| with_policy(&dir, policy, Format::F32));
        let model = file.model();
        assert_eq!(model.plan().missing.map(|p| p.name()), policy);
        let InputSpec::Frames { rate_hz, .. } = model.header().input else { panic!("no frames") };
        let mut buffers = Buffers::new(&model, 2);
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
        assert_eq!(
            session.step(Input::Frame(&endless)).unwrap_err(),
            Error::FrameNotFinite { channel: if policy.is_some() { 2 } else { 1 } }
        );
        assert_eq!(session.state().position(), 0);
        let stepped = session.step(Input::FrameAfter(&gone, 3.0 / rate_hz)).map(<[f32]>::to_vec);
        match policy {
            None => assert_eq!(stepped, Err(Error::FrameNotFinite { channel: 1 })),
            Some(_) => assert!(stepped.unwrap().iter().all(|y| y.is_finite())),
        }
    }
}
