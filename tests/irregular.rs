//! Frames at irregular times: steps of the model's own rate change no bit, a held input may be cut anywhere, bad times are
//! refused before anything changes.

use brooklet::artifact::InputSpec;
use brooklet::kernels::quant::Format;
use brooklet::ops::Stepping;
use brooklet::{Error, Input, Line, Session, State, kernels};
use brooklet_quantize::graph::{self, Graph, Role};
use brooklet_quantize::lower::write_graph;
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use brooklet_tests::{Buffers, File, family_fixtures};

const FLOAT: Recipe = Recipe {
    format: Format::F32,
    embedding: None,
    state: StateFormat::F32,
    cache: Cache { context: 128, sink: None, format: CacheFormat::F32 },
};

/// Feeds each frame with its seconds; without any, at the model's own rate. Returns the last outputs.
fn last(file: &File, frames: &[(Vec<f32>, Option<f32>)]) -> Result<Vec<f32>, Error> {
    let model = file.model();
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state))?;
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch))?;
    let mut out = Vec::new();
    for (frame, seconds) in frames {
        let input = seconds.map_or(Input::Frame(frame), |seconds| Input::FrameAfter(frame, seconds));
        out = session.step(input)?.to_vec();
    }
    Ok(out)
}

fn sensors() -> impl Iterator<Item = (String, File, usize)> {
    family_fixtures().into_iter().filter_map(|dir| {
        let file = File::quantized(&dir, &FLOAT);
        let channels = file.model().channels()?;
        Some((dir.file_name()?.to_string_lossy().into_owned(), file, channels))
    })
}

fn frame(channels: usize, step: usize) -> Vec<f32> {
    (0..channels).map(|c| ((step * 7 + c * 3) % 11) as f32 / 4.0 - 1.0).collect()
}

/// Seconds between frames at the model's own rate.
fn own_gap(file: &File) -> f32 {
    match file.model().header().input {
        InputSpec::Frames { rate_hz, .. } => 1.0 / rate_hz,
        InputSpec::Tokens { .. } => unreachable!("a sensor model"),
    }
}

#[test]
fn steps_of_the_models_own_rate_change_no_bit() {
    for (name, file, channels) in sensors() {
        let frames = |seconds| (0..20).map(|i| (frame(channels, i), seconds)).collect::<Vec<_>>();
        assert_eq!(last(&file, &frames(None)).unwrap(), last(&file, &frames(Some(own_gap(&file)))).unwrap(), "{name}");
    }
}

#[test]
fn a_held_input_may_be_cut_anywhere() {
    for (name, file, channels) in sensors() {
        // One layer and no pooling over time: what the outputs were between the cuts has no effect later.
        if !name.starts_with("sensor-s4d-irregular-even") {
            continue;
        }
        let mut frames: Vec<_> = (0..10).map(|i| (frame(channels, i), Some(0.013 + 0.007 * i as f32))).collect();
        frames.push((frame(channels, 10), Some(0.1)));
        let whole = last(&file, &frames).unwrap();
        frames.pop();
        frames.extend([0.033, 0.002, 0.065].map(|s| (frame(channels, 10), Some(s))));
        let cut = last(&file, &frames).unwrap();
        let largest = whole.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (a, b) in whole.iter().zip(&cut) {
            assert!((a - b).abs() <= 1e-5 * largest, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn bad_times_are_refused_before_anything_changes() {
    for (name, file, channels) in sensors() {
        let model = file.model();
        let mut buffers = Buffers::new(&model, 4);
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
        let x = frame(channels, 0);
        for seconds in [0.0, -0.0, -0.02, f32::NAN, f32::INFINITY, f32::MAX] {
            let error = session.step(Input::FrameAfter(&x, seconds)).unwrap_err();
            assert_eq!(error, Error::GapNotPositive { frame: 0 }, "{name}");
        }
        let error = session.prefill_frames_after_each(&x, &[0.02, 0.02], &mut |_, _| ()).unwrap_err();
        assert_eq!(error, Error::GapCount { got: 2, want: 1 });
        if !model.plan().takes_gaps {
            assert_eq!(session.step(Input::FrameAfter(&x, 0.03)).unwrap_err(), Error::GapUnsupported, "{name}");
        }
        assert!(session.step(Input::FrameAfter(&x[1..], own_gap(&file))).is_err());
        assert_eq!(session.state().position(), 0);
        let outputs = session.step(Input::FrameAfter(&x, own_gap(&file))).unwrap();
        assert!(outputs.iter().all(|y| y.is_finite()));
        if model.plan().takes_gaps && name.contains("-s") && !name.contains("bilinear") {
            // A day without frames.
            assert!(session.step(Input::FrameAfter(&x, 86400.0)).unwrap().iter().all(|y| y.is_finite()), "{name}");
        }
    }
}

/// One recurrence over two channels, in a routed block or not.
fn one_recurrence(is_routed: bool) -> File {
    let input = graph::Input::Frames {
        channels: vec!["a".to_owned(), "b".to_owned()],
        units: vec!["1".to_owned(); 2],
        rate_hz: 10.0,
        mean: vec![0.0; 2],
        std: vec![1.0; 2],
    };
    let mut g = Graph::new(graph::Card::default(), input, graph::Output::Classes(vec!["no".to_owned(), "yes".to_owned()]));
    let x = g.frame(vec![0.0; 2], vec![1.0; 2]);
    let router = g.matrix("router", 1, 2, Role::Router, || Ok(vec![1.0, -1.0]));
    let score = g.linear(router, None, x);
    let block = |g: &mut Graph<'_>| {
        let a = g.array("a", vec![-0.3, -0.2, 0.1, 0.0]);
        let c = g.array("c", vec![1.0, 0.5, 0.2, 0.0]);
        let y = g.diag_ssm(x, 2, a, Some(c), None, Stepping::Hold);
        g.add(x, y, 1.0);
        Ok(())
    };
    if is_routed {
        g.routed(score, 0.0, false, block).unwrap()
    } else {
        block(&mut g).unwrap()
    }
    let head = g.matrix("head", 2, 2, Role::Embedding, || Ok(vec![1.0, 0.0, 0.0, 1.0]));
    g.head(head, None, x, 1.0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.brook");
    write_graph(&g, &FLOAT, &path, &mut |_| {}).unwrap();
    File::new(&std::fs::read(&path).unwrap())
}

#[test]
fn a_recurrence_that_may_be_skipped_takes_no_gaps() {
    let frame = |seconds| (vec![1.0, 0.5], Some(seconds));
    let (free, routed) = (one_recurrence(false), one_recurrence(true));
    assert!(free.model().plan().takes_gaps && !routed.model().plan().takes_gaps);
    last(&free, &[frame(0.1), frame(0.3)]).unwrap();
    last(&routed, &[frame(0.1), frame(0.1)]).unwrap();
    assert_eq!(last(&routed, &[frame(0.1), frame(0.3)]), Err(Error::GapUnsupported));
}
