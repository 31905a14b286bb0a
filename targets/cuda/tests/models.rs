//! Whole models: the GPU against the CPU, on the fixtures of every family.
//!
//! `BROOKLET_GPU_MODELS` names a folder of further `.brook` files of text models, for the test of greedy tokens.

use crate::rig::{Random, gpu, text_models};
use brooklet::artifact::InputSpec;
use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet::mem::MappedFile;
use brooklet::ops::Op;
use brooklet::{Input, Line, Model, Session, State, snapshot_bytes};
use brooklet_cuda::{Arithmetic, CudaModel, CudaSession, Error, Options};
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use brooklet_tests::{Buffers, File, Sequence, family_fixtures, stream};
use std::ops::Range;

const LONG: Cache = Cache { context: 128, sink: None, format: CacheFormat::F32 };
const FLOAT: Recipe = Recipe { format: Format::F32, embedding: None, state: StateFormat::F32, cache: LONG };

/// Feeds steps `range` of `input` to stream `stream` at once and appends every step's outputs to `out`.
fn feed(session: &mut CudaSession<'_, '_>, stream: usize, input: &Sequence, range: Range<usize>, out: &mut Vec<f32>) {
    let mut each = |_: usize, y: &[f32]| out.extend_from_slice(y);
    match input {
        Sequence::Tokens(t) => session.prefill_tokens_each(stream, &t[range], &mut each).unwrap(),
        Sequence::Frames(f, channels) => {
            session.prefill_frames_each(stream, &f[range.start * channels..range.end * channels], None, &mut each).unwrap();
        }
        Sequence::FramesAfter(f, channels, seconds) => {
            let frames = &f[range.start * channels..range.end * channels];
            session.prefill_frames_each(stream, frames, Some(&seconds[range]), &mut each).unwrap();
        }
    }
}

/// Step `at` of `input`.
fn input_at(input: &Sequence, at: usize) -> Input<'_> {
    match input {
        Sequence::Tokens(t) => Input::Token(t[at]),
        Sequence::Frames(f, channels) => Input::Frame(&f[at * channels..(at + 1) * channels]),
        Sequence::FramesAfter(f, channels, seconds) => Input::FrameAfter(&f[at * channels..(at + 1) * channels], seconds[at]),
    }
}

/// Outputs of every step, step by step.
fn stepped(session: &mut CudaSession<'_, '_>, input: &Sequence, range: Range<usize>) -> Vec<f32> {
    range.flat_map(|at| session.step(input_at(input, at)).unwrap().to_vec()).collect()
}

/// The largest difference of each step over the largest output of all, in ascending order. NaN comes last.
fn differences(got: &[f32], want: &[f32], outputs: usize) -> Vec<f32> {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-30f32, |m, x| m.max(x.abs()));
    let off = |(g, w): (&f32, &f32)| if (g - w).is_nan() { f32::INFINITY } else { (g - w).abs() / largest };
    let mut steps: Vec<f32> =
        got.chunks(outputs).zip(want.chunks(outputs)).map(|(g, w)| g.iter().zip(w).map(off).fold(0.0, f32::max)).collect();
    steps.sort_by(f32::total_cmp);
    steps
}

/// Whether a token's path hangs on which of two numbers is larger.
fn decides(model: &Model<'_>) -> bool {
    model.header().program.iter().flatten().any(|op| matches!(op, Op::Moe(_) | Op::Route(_)))
}

/// Name and recipe.
fn recipes() -> [(&'static str, Recipe); 8] {
    let sliding = |format| Cache { context: 12, sink: Some(2), format };
    [
        ("f32", FLOAT),
        ("f32 sliding", Recipe { cache: sliding(CacheFormat::F32), ..FLOAT }),
        ("f16", Recipe { format: Format::F16, ..FLOAT }),
        ("q8", Recipe { format: Format::Q8, cache: Cache { format: CacheFormat::Int8, ..LONG }, ..FLOAT }),
        ("q4 half", Recipe { format: Format::Q4, state: StateFormat::F16, cache: sliding(CacheFormat::Int8), ..FLOAT }),
        ("q5 int4", Recipe { format: Format::Q5, cache: Cache { format: CacheFormat::Int4, ..LONG }, ..FLOAT }),
        ("q3", Recipe { format: Format::Q3, ..FLOAT }),
        ("q6", Recipe { format: Format::Q6, ..FLOAT }),
    ]
}

/// Outputs of every step: all at once, step by step, and in parts of seven.
fn in_three_ways(session: &mut CudaSession<'_, '_>, input: &Sequence) -> [Vec<f32>; 3] {
    let steps = input.steps();
    let [mut whole, mut parts] = [Vec::new(), Vec::new()];
    feed(session, 0, input, 0..steps, &mut whole);
    session.reset().unwrap();
    let by_step = stepped(session, input, 0..steps);
    session.reset().unwrap();
    for at in (0..steps).step_by(7) {
        feed(session, 0, input, at..steps.min(at + 7), &mut parts);
    }
    [whole, by_step, parts]
}

#[test]
fn every_family_gives_the_cpus_bits() {
    let Some(device) = gpu("families") else { return };
    let (mut missed, mut equal) = (Vec::new(), 0);
    for dir in family_fixtures() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        for (what, recipe) in recipes() {
            let file = File::quantized(&dir, &recipe);
            let model = file.model();
            let input = Sequence::open(&dir);
            let want = stream(&model, kernels::detect(), &input, 16);
            let on_gpu = CudaModel::new(&device, &model).unwrap();
            let mut session = CudaSession::new(&on_gpu, Options { batch: 64, ..Options::default() }).unwrap();
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for (how, got) in ["whole", "stepping", "in parts"].into_iter().zip(in_three_ways(&mut session, &input)) {
                if bits(&got) == bits(&want) {
                    equal += 1;
                    continue;
                }
                let worst = *differences(&got, &want, model.outputs()).last().unwrap();
                missed.push(format!("{name} {what} {how}: {worst:e} of the largest output"));
            }
        }
    }
    println!("{equal} streams have the CPU's bits");
    assert!(missed.is_empty(), "{} have not:\n{}", missed.len(), missed.join("\n"));
}

/// Embedding and head cut into sections of every format: the formats' kernels meet in one operation, at offsets of any number of rows.
#[test]
fn matrices_in_pieces_give_the_cpus_bits() {
    let Some(device) = gpu("pieces") else { return };
    let (mut missed, mut cut, mut equal) = (Vec::new(), 0, 0);
    for dir in family_fixtures() {
        let file = File::in_pieces(&dir, &Recipe { format: Format::Q4, ..FLOAT });
        let model = file.model();
        if !model.header().program.iter().flatten().any(|op| op.is_in_pieces(model.artifact())) {
            continue;
        }
        cut += 1;
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let Sequence::Tokens(few) = Sequence::open(&dir) else { panic!("{name} has an embedding") };
        // Every row of the table, too.
        let InputSpec::Tokens { vocab, .. } = model.header().input else { panic!("{name} has an embedding") };
        let room = model.plan().context.map_or(usize::MAX, |context| context as usize);
        let input = Sequence::Tokens(few.into_iter().chain((0..vocab).rev()).take(room.min(400)).collect());
        let want = stream(&model, kernels::detect(), &input, 16);
        let on_gpu = CudaModel::new(&device, &model).unwrap();
        let mut session = CudaSession::new(&on_gpu, Options { batch: 64, ..Options::default() }).unwrap();
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (how, got) in ["whole", "stepping", "in parts"].into_iter().zip(in_three_ways(&mut session, &input)) {
            if bits(&got) == bits(&want) {
                equal += 1;
                continue;
            }
            missed.push(format!("{name} {how}: {:e} of the largest output", differences(&got, &want, model.outputs()).last().unwrap()));
        }
    }
    println!("{equal} streams of {cut} models in pieces have the CPU's bits");
    assert!(cut >= 10 && missed.is_empty(), "{} of {cut} have not:\n{}", missed.len(), missed.join("\n"));
}

/// A file's bytes in the processor's memory, as a Jetson reads them: in memory of this program's, and in a mapped file, whose pages cannot be written.
#[test]
fn weights_that_stay_where_they_are_give_the_cpus_bits() {
    let Some(device) = gpu("weights in place") else { return };
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let folder = tempfile::tempdir().unwrap();
    for (number, dir) in family_fixtures().iter().enumerate().filter(|(number, _)| number % 8 == 0) {
        let file = File::quantized(dir, &Recipe { format: Format::Q4, ..FLOAT });
        let path = folder.path().join(format!("{number}.brook"));
        std::fs::write(&path, file.bytes()).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        for (what, model) in [("memory", file.model()), ("a mapped file", Model::from_bytes(mapped.bytes()).unwrap())] {
            let input = Sequence::open(dir);
            let want = stream(&model, kernels::detect(), &input, 16);
            let on_gpu = CudaModel::in_place(&device, &model, Arithmetic::Exact).unwrap();
            let uploaded = CudaModel::new(&device, &model).unwrap();
            println!(
                "{} in {what}: in place {}, {} bytes on the GPU, else {}",
                dir.display(),
                on_gpu.is_in_place(),
                on_gpu.weights_bytes(),
                uploaded.weights_bytes()
            );
            let mut session = CudaSession::new(&on_gpu, Options::default()).unwrap();
            for got in in_three_ways(&mut session, &input) {
                assert!(bits(&got) == bits(&want), "{} in {what}", dir.display());
            }
            // A driver may refuse files; memory it takes.
            assert!(on_gpu.is_in_place() || what != "memory", "{} is not read in place", dir.display());
            assert!(!on_gpu.is_in_place() || on_gpu.weights_bytes() < uploaded.weights_bytes());
        }
    }
}

/// As `brooklet serve` uses a GPU: a session for each sender, in a thread of its own, over one model; whoever has the lock may touch the GPU.
#[test]
fn sessions_of_several_threads_take_turns() {
    let Some(device) = gpu("turns") else { return };
    let dir = family_fixtures().into_iter().find(|dir| dir.ends_with("sensor-mamba2-last")).unwrap();
    let file = File::quantized(&dir, &FLOAT);
    let model = file.model();
    let on_gpu = CudaModel::new(&device, &model).unwrap();
    let turn = std::sync::Mutex::new(());
    let sender = |seed: u64| {
        let input = Sequence::noise(&model, 50, seed);
        let want = stream(&model, kernels::detect(), &input, 1);
        let options = Options { streams: 1, batch: 1, graphs: true };
        let mut session = {
            let _turn = turn.lock().unwrap();
            CudaSession::new(&on_gpu, options).unwrap()
        };
        let mut got = Vec::new();
        for at in 0..input.steps() {
            let _turn = turn.lock().unwrap();
            got.extend_from_slice(session.step(input_at(&input, at)).unwrap());
        }
        let _turn = turn.lock().unwrap();
        drop(session);
        assert!(got.iter().map(|x| x.to_bits()).eq(want.iter().map(|x| x.to_bits())), "sender {seed}");
    };
    std::thread::scope(|scope| {
        for seed in 1..9 {
            scope.spawn(move || sender(seed));
        }
    });
}

/// The root of the mean square of differences.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let squares: f64 = got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
    (squares / want.len().max(1) as f64).sqrt() as f32
}

/// A float model's outputs stay where they are. Where activations are rounded to 8 bits, a sum that is off in its last digits sends a few of them the other way,
/// and outputs then differ as roundings differ. Two that have nothing to do with each other are √2 times as far apart as each is from the float model.
#[test]
fn another_order_of_sums_stays_close() {
    let Some(device) = gpu("fast arithmetic") else { return };
    let mut missed = Vec::new();
    for dir in family_fixtures() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let input = Sequence::open(&dir);
        for (what, recipe) in recipes() {
            let file = File::quantized(&dir, &recipe);
            let model = file.model();
            if !model.header().program.iter().flatten().any(|op| matches!(op, Op::Scan(_) | Op::Ssd(_))) {
                continue;
            }
            let on_cpu = |file: &File| stream(&file.model(), kernels::detect(), &input, 16);
            let want = on_cpu(&file);
            let is_float = !recipe.format.is_quantized();
            let float = Recipe { cache: Cache { format: CacheFormat::F32, ..recipe.cache }, ..FLOAT };
            let rounding = if is_float { 0.0 } else { distance(&want, &on_cpu(&File::quantized(&dir, &float))) };
            let on_gpu = CudaModel::with(&device, &model, Arithmetic::Fast).unwrap();
            let mut session = CudaSession::new(&on_gpu, Options { batch: 64, ..Options::default() }).unwrap();
            for (how, got) in ["whole", "stepping", "in parts"].into_iter().zip(in_three_ways(&mut session, &input)) {
                let steps = differences(&got, &want, model.outputs());
                // Random routers decide by a hair, and a token that takes another expert is another token: where a model decides, the middle step is judged.
                let judged = if decides(&model) { steps[steps.len() / 2] } else { *steps.last().unwrap() };
                let moved = distance(&got, &want);
                let is_close = if is_float { judged <= 1e-4 } else { moved <= 1.5 * rounding };
                println!(
                    "{} {name:30} {what:12} {how:9} {judged:.1e}; {:.2} of rounding",
                    if is_close { "  " } else { "!!" },
                    moved / rounding
                );
                if !is_close {
                    missed.push(format!("{name} {what} {how}: {judged:e}, {} of rounding", moved / rounding));
                }
            }
        }
    }
    assert!(missed.is_empty(), "{} missed:\n{}", missed.len(), missed.join("\n"));
}

#[test]
fn a_stream_moves_between_gpu_and_cpu() {
    let Some(device) = gpu("snapshots") else { return };
    for dir in family_fixtures() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let file = File::quantized(&dir, &FLOAT);
        let model = file.model();
        let input = Sequence::open(&dir);
        let (steps, outputs) = (input.steps(), model.outputs());
        let want = stream(&model, kernels::detect(), &input, 16);
        let on_gpu = CudaModel::new(&device, &model).unwrap();
        let mut on_gpu = CudaSession::new(&on_gpu, Options::default()).unwrap();
        let mut buffers = Buffers::new(&model, 8);
        let mut snapshot = vec![0; snapshot_bytes(&model)];
        let mut got = Vec::new();
        State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap().snapshot(&mut snapshot).unwrap();
        assert!(matches!(on_gpu.restore(1, &snapshot), Err(Error::NoStream { stream: 1, streams: 1 })), "{name}");
        assert!(matches!(on_gpu.snapshot(1), Err(Error::NoStream { .. })), "{name}");
        // A few steps here, a few there.
        for (turn, at) in (0..steps).step_by(5).enumerate() {
            let range = at..steps.min(at + 5);
            if turn % 2 == 0 {
                on_gpu.restore(0, &snapshot).unwrap();
                feed(&mut on_gpu, 0, &input, range, &mut got);
                snapshot = on_gpu.snapshot(0).unwrap();
            } else {
                let mut state = State::restore(&model, &snapshot, Line::bytes_mut(&mut buffers.state)).unwrap();
                let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
                input.feed(&mut session, range, &mut got);
                state.snapshot(&mut snapshot).unwrap();
            }
        }
        let steps = differences(&got, &want, outputs);
        let judged = if decides(&model) { steps[steps.len() / 2] } else { *steps.last().unwrap() };
        assert!(judged <= 1e-4, "{name}: {judged:e}");
    }
}

#[test]
fn many_streams_are_streams_of_their_own() {
    let Some(device) = gpu("streams") else { return };
    let mut random = Random::fresh("streams");
    for dir in family_fixtures() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let file = File::quantized(&dir, &FLOAT);
        let model = file.model();
        let outputs = model.outputs();
        let inputs: Vec<_> = (0..3).map(|_| Sequence::noise(&model, 20, random.bits())).collect();
        // Their times would differ; steps of all streams come at the model's own rate.
        let inputs: Vec<_> = inputs
            .into_iter()
            .map(|input| if let Sequence::FramesAfter(frames, channels, _) = input { Sequence::Frames(frames, channels) } else { input })
            .collect();
        let want: Vec<_> = inputs.iter().map(|input| stream(&model, kernels::detect(), input, 8)).collect();
        let on_gpu = CudaModel::new(&device, &model).unwrap();
        let mut session = CudaSession::new(&on_gpu, Options { streams: 3, batch: 8, graphs: true }).unwrap();
        let mut got = vec![Vec::new(); 3];
        // Each begins at a position of its own.
        let starts = [0, 5, 2];
        for (stream, start) in starts.into_iter().enumerate() {
            if start > 0 {
                feed(&mut session, stream, &inputs[stream], 0..start, &mut got[stream]);
            }
        }
        for step in 0..15 {
            let at = |stream: usize| starts[stream] + step;
            let all = match &inputs[0] {
                Sequence::Tokens(_) => {
                    let token = |stream: usize| if let Sequence::Tokens(t) = &inputs[stream] { t[at(stream)] } else { 0 };
                    session.step_tokens(&[token(0), token(1), token(2)]).unwrap()
                }
                _ => {
                    let frame = |stream: usize| if let Input::Frame(frame) = input_at(&inputs[stream], at(stream)) { frame } else { &[] };
                    session.step_frames(&[frame(0), frame(1), frame(2)].concat()).unwrap()
                }
            };
            for (got, all) in got.iter_mut().zip(all.chunks_exact(outputs)) {
                got.extend_from_slice(all);
            }
        }
        for (got, want) in got.iter().zip(&want) {
            let steps = differences(got, &want[..got.len()], outputs);
            let judged = if decides(&model) { steps[steps.len() / 2] } else { *steps.last().unwrap() };
            assert!(judged <= 1e-4, "{name}: {judged:e}");
        }
    }
}

#[test]
fn greedy_tokens_are_the_cpus() {
    let Some(device) = gpu("greedy tokens") else { return };
    let (prompts, count) = (20, 256);
    let mut random = Random::fresh("greedy tokens");
    for path in text_models() {
        let file = MappedFile::open(&path).unwrap();
        let model = Model::from_bytes(file.bytes()).unwrap();
        let on_gpu = CudaModel::new(&device, &model).unwrap();
        let mut session = CudaSession::new(&on_gpu, Options::default()).unwrap();
        let mut same = 0;
        for _ in 0..prompts {
            let Sequence::Tokens(prompt) = Sequence::noise(&model, 8, random.bits()) else { panic!("{} is no text model", path.display()) };
            session.reset().unwrap();
            session.prefill_tokens(0, &prompt[..7]).unwrap();
            let got = session.greedy(prompt[7], count).unwrap();
            let mut buffers = Buffers::new(&model, 8);
            let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
            let mut cpu = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
            cpu.prefill_tokens(&prompt[..7]).unwrap();
            let mut token = prompt[7];
            let equal = got.iter().take_while(|&&drawn| {
                let outputs = cpu.step(Input::Token(token)).unwrap();
                token = (0..).zip(outputs).fold((0, f32::NEG_INFINITY), |best, (i, &y)| if y > best.1 { (i, y) } else { best }).0;
                token == drawn
            });
            same += usize::from(equal.count() == count);
        }
        println!("{}: {same} of {prompts} prompts give the same {count} tokens", path.display());
        assert!(same * 20 >= prompts * 19, "{}: {same} of {prompts}", path.display());
    }
}
