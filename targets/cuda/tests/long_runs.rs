//! Many steps: memory stays as it is, and so does what is computed. A program of its own, since others' sessions change the memory that is free.
//!
//! `BROOKLET_GPU_MODELS` names a folder of further `.brook` files of text models.

mod rig;

use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet::mem::MappedFile;
use brooklet::{Input, Line, Model, Session, State, snapshot_bytes};
use brooklet_cuda::{CudaModel, CudaSession, Options};
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use brooklet_tests::{Buffers, File, family_fixtures};
use rig::{Random, gpu, text_models};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn ten_thousand_steps_are_a_fresh_prefill() {
    let _alone = alone();
    let Some(device) = gpu("ten thousand steps") else { return };
    let mut random = Random::fresh("ten thousand steps");
    for path in text_models() {
        let file = MappedFile::open(&path).unwrap();
        let model = Model::from_bytes(file.bytes()).unwrap();
        let on_gpu = CudaModel::new(&device, &model).unwrap();
        let mut session = CudaSession::new(&on_gpu, Options::default()).unwrap();
        let first = random.below(200);
        let mut tokens = vec![first];
        tokens.extend(session.greedy(first, 100).unwrap());
        let before = device.memory_bytes().unwrap().0;
        tokens.extend(session.greedy(*tokens.last().unwrap(), 9900).unwrap());
        let after = device.memory_bytes().unwrap().0;
        let last = tokens.pop().unwrap();
        let stepped = session.step(Input::Token(last)).unwrap().to_vec();
        tokens.push(last);
        assert_eq!(session.position(0), tokens.len() as u64);
        let mut fresh = CudaSession::new(&on_gpu, Options::default()).unwrap();
        let whole = fresh.prefill_tokens(0, &tokens).unwrap();
        println!("{}: {} steps; free memory {before} and {after} bytes", path.display(), tokens.len());
        let is_same = stepped.iter().zip(whole).all(|(stepped, whole)| stepped.to_bits() == whole.to_bits());
        assert!(is_same, "{}: the step behind {} others is not that of a prefill", path.display(), tokens.len() - 1);
        assert_eq!(before, after, "memory on the GPU is not flat");
    }
}

/// Memory stays flat over many steps that the host takes no part in, and the state is the CPU's at the end; `BROOKLET_GPU_STEPS` says how many
/// (a million take about a minute).
#[test]
fn very_many_steps_are_the_cpus() {
    let _alone = alone();
    let Some(device) = gpu("very many steps") else { return };
    let steps: usize = std::env::var("BROOKLET_GPU_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(50_000);
    let cache = Cache { context: 128, sink: None, format: CacheFormat::F32 };
    let dir = family_fixtures().into_iter().find(|dir| dir.ends_with("mamba2-g1")).expect("the fixture mamba2-g1");
    let file = File::quantized(&dir, &Recipe { format: Format::Q4, embedding: None, state: StateFormat::F32, cache });
    let model = file.model();
    let on_gpu = CudaModel::new(&device, &model).unwrap();
    let mut session = CudaSession::new(&on_gpu, Options { batch: 512, ..Options::default() }).unwrap();
    let mut tokens = vec![Random::fresh("very many steps").below(model.outputs() as u32)];
    let mut go_on = |session: &mut CudaSession<'_, '_>, count: usize| {
        let drawn = session.greedy(*tokens.last().unwrap(), count).unwrap();
        tokens.extend(drawn);
        tokens[..tokens.len() - 1].to_vec()
    };
    // A prefill of what the first steps took leads to the same state.
    let taken = go_on(&mut session, 10_000);
    let early = session.snapshot(0).unwrap();
    let mut fresh = CudaSession::new(&on_gpu, Options { batch: 512, ..Options::default() }).unwrap();
    fresh.prefill_tokens(0, &taken).unwrap();
    assert!(fresh.snapshot(0).unwrap() == early, "the state after 10000 steps is not that of a prefill");
    let before = device.memory_bytes().unwrap().0;
    let start = std::time::Instant::now();
    let taken = go_on(&mut session, steps - 10_000);
    let seconds = start.elapsed().as_secs_f64();
    let after = device.memory_bytes().unwrap().0;
    println!("{steps} steps, {:.0} a second; free memory {before} and {after} bytes", (steps - 10_000) as f64 / seconds);
    assert_eq!(before, after, "memory on the GPU is not flat");
    let mut buffers = Buffers::new(&model, 64);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut cpu = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
    for part in taken.chunks(64) {
        cpu.prefill_tokens(part).unwrap();
    }
    let mut want = vec![0; snapshot_bytes(&model)];
    state.snapshot(&mut want).unwrap();
    assert!(session.snapshot(0).unwrap() == want, "the state after {steps} steps is not the CPU's");
}
