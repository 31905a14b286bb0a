//! The C functions, called as C would: the same numbers as the Rust interface, and a status for every mistake.

use brooklet::{Input, Line, Model, Session, State, kernels, snapshot_bytes, softmax};
use brooklet_capi::Status;
use brooklet_capi::model::*;
use brooklet_capi::status::brooklet_error_string;
use brooklet_capi::stream::*;
use core::ffi::CStr;
use core::marker::PhantomData;
use core::ptr::{null, null_mut};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models");

struct File {
    lines: Vec<Line>,
    len: usize,
}

impl File {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(format!("{MODELS}/{name}.brook")).expect("a bundled model");
        File { lines: brooklet::mem::lines_from(&bytes), len: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        &Line::bytes(&self.lines)[..self.len]
    }
}

fn lines(bytes: usize) -> Vec<Line> {
    vec![Line::ZERO; bytes.div_ceil(64)]
}

/// A stream as a C program would hold it; the file stays as long as it does.
struct Stream<'f> {
    file: PhantomData<&'f File>,
    model: Box<ModelHandle>,
    handle: StreamHandle,
    state: Vec<Line>,
    scratch: Vec<Line>,
}

impl<'f> Stream<'f> {
    fn new(file: &'f File, tokens: usize) -> Self {
        let mut model = Box::new(ModelHandle::CLOSED);
        let bytes = file.bytes();
        // SAFETY: the stream borrows the file; the model does not move.
        let (opened, state_bytes, scratch_bytes) = unsafe {
            let opened = brooklet_open(&mut *model, bytes.as_ptr(), bytes.len());
            (opened, brooklet_state_bytes(&*model), brooklet_scratch_bytes(&*model, tokens))
        };
        assert_eq!(opened, Status::Ok);
        let mut stream =
            Stream { file: PhantomData, model, handle: StreamHandle::CLOSED, state: lines(state_bytes), scratch: lines(scratch_bytes) };
        assert_eq!(stream.init(state_bytes, scratch_bytes), Status::Ok);
        stream
    }

    fn init(&mut self, state_bytes: usize, scratch_bytes: usize) -> Status {
        let (state, scratch) = (self.state.as_mut_ptr().cast(), self.scratch.as_mut_ptr().cast());
        // SAFETY: the vectors have this many bytes and stay where they are.
        unsafe { brooklet_init(&mut self.handle, &*self.model, state, state_bytes, scratch, scratch_bytes) }
    }

    fn outputs(&self) -> usize {
        // SAFETY: a model.
        unsafe { brooklet_outputs(&*self.model) }
    }

    fn step(&mut self, frame: &[f32]) -> Result<Vec<f32>, Status> {
        let mut outputs = vec![0.0; self.outputs()];
        // SAFETY: slices.
        let status = unsafe { brooklet_step(&mut self.handle, frame.as_ptr(), frame.len(), outputs.as_mut_ptr(), outputs.len()) };
        if status == Status::Ok { Ok(outputs) } else { Err(status) }
    }
}

fn frame(step: usize) -> [f32; 6] {
    std::array::from_fn(|channel| ((step * 7 + channel * 13) % 97) as f32 / 16.0 - 3.0)
}

fn text_of(status: Status) -> &'static str {
    // SAFETY: the strings live as long as the program.
    unsafe { CStr::from_ptr(brooklet_error_string(status as i32)) }.to_str().expect("text")
}

#[test]
fn a_sensor_stream_gives_the_bits_of_the_rust_interface() {
    let file = File::read("watch");
    let model = Model::from_bytes(file.bytes()).expect("a model");
    let (mut state, mut scratch) = (lines(model.state_bytes()), lines(model.scratch_bytes(1)));
    let mut state = State::new(&model, Line::bytes_mut(&mut state)).expect("a state");
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch)).expect("a session");
    let mut stream = Stream::new(&file, 1);
    for step in 0..200 {
        let outputs = stream.step(&frame(step)).expect("a step");
        assert_eq!(outputs, session.step(Input::Frame(&frame(step))).expect("a step"), "step {step}");
    }
    let (mut ours, mut theirs) = (stream.step(&frame(200)).expect("a step"), vec![0.0; 7]);
    // SAFETY: slices, handles of this test.
    unsafe {
        assert_eq!(brooklet_position(&stream.handle), 201);
        // Nobody wants the outputs; then the time between frames.
        assert_eq!(brooklet_step(&mut stream.handle, frame(201).as_ptr(), 6, null_mut(), 0), Status::Ok);
        let seconds = 0.05;
        let after = brooklet_step_after(&mut stream.handle, seconds, frame(202).as_ptr(), 6, theirs.as_mut_ptr(), 7);
        assert_eq!(after, Status::Ok);
        assert_eq!(brooklet_softmax(ours.as_mut_ptr(), ours.len()), Status::Ok);
    }
    session.step(Input::Frame(&frame(200))).expect("a step");
    softmax(session.output_mut());
    assert_eq!(ours, session.output_mut());
    session.step(Input::Frame(&frame(201))).expect("a step");
    assert_eq!(theirs, session.step(Input::FrameAfter(&frame(202), 0.05)).expect("a step"));
}

#[test]
fn a_text_stream_gives_the_bits_of_the_rust_interface() {
    let file = File::read("prose");
    let tokens = [5u32, 9, 200, 17, 3, 64, 8];
    let mut stream = Stream::new(&file, 4);
    let outputs = stream.outputs();
    let (mut one, mut all) = (vec![0.0; outputs], vec![0.0; outputs]);
    // SAFETY: slices, handles of this test.
    unsafe {
        assert!(brooklet_vocab(&*stream.model) > 200 && brooklet_channels(&*stream.model) == 0);
        assert_eq!(brooklet_rate_hz(&*stream.model), 0.0);
        assert_eq!(brooklet_output_kind(&*stream.model), Kind::Logits);
        for token in tokens {
            assert_eq!(brooklet_step_token(&mut stream.handle, token, one.as_mut_ptr(), outputs), Status::Ok);
        }
        assert_eq!(brooklet_reset(&mut stream.handle), Status::Ok);
        assert_eq!(brooklet_position(&stream.handle), 0);
        assert_eq!(brooklet_step_tokens(&mut stream.handle, tokens.as_ptr(), tokens.len(), all.as_mut_ptr(), outputs), Status::Ok);
        assert_eq!(brooklet_step_token(&mut stream.handle, u32::MAX, null_mut(), 0), Status::TokenOutOfRange);
        assert_eq!(brooklet_step_tokens(&mut stream.handle, tokens.as_ptr(), 0, null_mut(), 0), Status::EmptyInput);
        assert_eq!(brooklet_step(&mut stream.handle, all.as_ptr(), 1, null_mut(), 0), Status::WrongInput);
    }
    assert_eq!(one, all);
    let model = Model::from_bytes(file.bytes()).expect("a model");
    let (mut state, mut scratch) = (lines(model.state_bytes()), lines(model.scratch_bytes(1)));
    let mut state = State::new(&model, Line::bytes_mut(&mut state)).expect("a state");
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch)).expect("a session");
    assert_eq!(session.prefill_tokens(&tokens).expect("tokens"), one);
}

#[test]
fn a_saved_stream_goes_on_in_another() {
    let file = File::read("watch");
    let (mut first, mut second) = (Stream::new(&file, 1), Stream::new(&file, 1));
    for step in 0..40 {
        first.step(&frame(step)).expect("a step");
    }
    for step in 0..9 {
        second.step(&frame(90 + step)).expect("a step");
    }
    // SAFETY: slices, handles of this test.
    unsafe {
        let mut snapshot = vec![0; brooklet_snapshot_bytes(&*first.model)];
        assert_eq!(snapshot.len(), snapshot_bytes(&Model::from_bytes(file.bytes()).expect("a model")));
        assert_eq!(brooklet_save(&mut first.handle, snapshot.as_mut_ptr(), snapshot.len() - 1), Status::SnapshotTooSmall);
        assert_eq!(brooklet_save(&mut first.handle, snapshot.as_mut_ptr(), snapshot.len()), Status::Ok);

        // What cannot be loaded leaves the stream as it was.
        snapshot[99] ^= 1;
        assert_eq!(brooklet_load(&mut second.handle, snapshot.as_ptr(), snapshot.len()), Status::SnapshotChecksum);
        assert_eq!(brooklet_load(&mut second.handle, snapshot.as_ptr(), 8), Status::SnapshotFormat);
        snapshot[99] ^= 1;
        assert_eq!(brooklet_position(&second.handle), 9);
        let mut other = Stream::new(&file, 1);
        for step in 0..9 {
            other.step(&frame(90 + step)).expect("a step");
        }
        assert_eq!(second.step(&frame(0)), other.step(&frame(0)));

        assert_eq!(brooklet_load(&mut second.handle, snapshot.as_ptr(), snapshot.len()), Status::Ok);
        assert_eq!(brooklet_position(&second.handle), 40);
        let prose = File::read("prose");
        let mut prose = Stream::new(&prose, 1);
        assert_eq!(brooklet_load(&mut prose.handle, snapshot.as_ptr(), snapshot.len()), Status::SnapshotOtherModel);
    }
    for step in 40..80 {
        assert_eq!(first.step(&frame(step)), second.step(&frame(step)));
    }
}

#[test]
fn streams_that_take_turns_share_model_and_scratch() {
    let file = File::read("watch");
    let (mut alone, mut first) = (Stream::new(&file, 1), Stream::new(&file, 1));
    let mut state = lines(first.state.len() * 64);
    let mut second = StreamHandle::CLOSED;
    let (scratch, scratch_bytes) = (first.scratch.as_mut_ptr().cast::<u8>(), first.scratch.len() * 64);
    for step in 0..20 {
        let mut outputs = [0.0; 7];
        // SAFETY: slices, handles of this test; the two streams take turns.
        unsafe {
            if step == 0 {
                let bytes = state.len() * 64;
                let status = brooklet_init(&mut second, &*first.model, state.as_mut_ptr().cast(), bytes, scratch, scratch_bytes);
                assert_eq!(status, Status::Ok);
            }
            assert_eq!(brooklet_step(&mut second, frame(step).as_ptr(), 6, outputs.as_mut_ptr(), 7), Status::Ok);
        }
        first.step(&frame(step + 1)).expect("a step");
        assert_eq!(outputs[..], alone.step(&frame(step)).expect("a step"));
    }
}

#[test]
fn the_model_answers_what_it_takes_and_gives() {
    let file = File::read("watch");
    let stream = Stream::new(&file, 1);
    let model = &*stream.model;
    let name_of = |index| {
        let mut name = [b'x'; 16];
        // SAFETY: an array.
        let len = unsafe { brooklet_class_name(model, index, name.as_mut_ptr().cast(), name.len()) };
        (len, CStr::from_bytes_until_nul(&name).expect("a NUL").to_str().expect("text").to_owned())
    };
    // SAFETY: a model, arrays.
    unsafe {
        assert_eq!((brooklet_channels(model), brooklet_outputs(model), brooklet_vocab(model)), (6, 7, 0));
        assert_eq!((brooklet_rate_hz(model), brooklet_takes_gaps(model)), (50.0, true));
        assert_eq!(brooklet_output_kind(model), Kind::Classes);
        let mut short = [b'x'; 2];
        let (len, whole) = name_of(0);
        assert!(len > 1 && len == whole.len());
        assert_eq!(brooklet_class_name(model, 0, short.as_mut_ptr().cast(), 2), len);
        assert_eq!(short, [whole.as_bytes()[0], 0]);
        assert_eq!(brooklet_class_name(model, 0, null_mut(), 0), len);
        assert_eq!(name_of(7), (0, String::new()));
        assert_eq!(brooklet_channel_name(model, 5, null_mut(), 0), 2);
        assert_eq!(brooklet_channel_name(model, 6, null_mut(), 0), 0);
    }
}

#[test]
fn mistakes_are_answered_with_a_status() {
    let file = File::read("watch");
    let bytes = file.bytes();
    let mut stream = Stream::new(&file, 1);
    let mut closed = ModelHandle::CLOSED;
    let mut outputs = [0.0f32; 8];
    // SAFETY: every pointer is NULL, refused for its alignment before it is read, or to memory of this test.
    unsafe {
        // Models.
        assert_eq!(brooklet_open(null_mut(), bytes.as_ptr(), bytes.len()), Status::NullPointer);
        assert_eq!(brooklet_open(&mut closed, null(), 0), Status::NullPointer);
        assert_eq!(brooklet_open(&mut closed, bytes.as_ptr(), 3), Status::NotBrook);
        assert_eq!(brooklet_open(&mut closed, bytes.as_ptr(), bytes.len() - 64), Status::FileLength);
        assert_eq!(brooklet_open(&mut closed, bytes.as_ptr(), usize::MAX), Status::TooLong);
        let mut moved = lines(file.len + 16);
        let moved = &mut Line::bytes_mut(&mut moved)[16..16 + file.len];
        moved.copy_from_slice(bytes);
        assert_eq!(brooklet_open(&mut closed, moved.as_ptr(), moved.len()), Status::FileAlignment);
        assert_eq!(brooklet_state_bytes(&closed), 0);
        assert_eq!(brooklet_scratch_bytes(&closed, 1), 0);
        assert_eq!(brooklet_state_bytes(null()), 0);
        assert_eq!(brooklet_output_kind(null()), Kind::None);
        let crooked = (&raw const closed).cast::<u8>().wrapping_add(1).cast::<ModelHandle>();
        assert_eq!(brooklet_open(crooked.cast_mut(), bytes.as_ptr(), bytes.len()), Status::HandleAlignment);

        // Streams.
        let mut unused = StreamHandle::CLOSED;
        assert_eq!(brooklet_step(&mut unused, outputs.as_ptr(), 6, null_mut(), 0), Status::NotOpen);
        assert_eq!(brooklet_reset(&mut unused), Status::NotOpen);
        assert_eq!(brooklet_reset(null_mut()), Status::NullPointer);
        let (state_bytes, scratch_bytes) = (brooklet_state_bytes(&*stream.model), brooklet_scratch_bytes(&*stream.model, 1));
        assert_eq!(stream.init(state_bytes - 1, scratch_bytes), Status::StateTooSmall);
        assert_eq!(brooklet_position(&stream.handle), 0);
        assert_eq!(stream.step(&frame(0)), Err(Status::NotOpen));
        assert_eq!(stream.init(state_bytes, scratch_bytes - 1), Status::ScratchTooSmall);
        let (state, scratch) = (stream.state.as_mut_ptr().cast::<u8>(), stream.scratch.as_mut_ptr().cast::<u8>());
        let (model, handle) = (&raw const *stream.model, &raw mut stream.handle);
        let init = |s: usize, c: usize, state, scratch| brooklet_init(handle, model, state, s, scratch, c);
        assert_eq!(init(state_bytes, scratch_bytes, null_mut(), scratch), Status::NullPointer);
        assert_eq!(init(state_bytes, scratch_bytes, state, null_mut()), Status::NullPointer);
        assert_eq!(init(state_bytes, scratch_bytes, state, state), Status::Overlap);
        assert_eq!(init(state_bytes - 4, scratch_bytes, state.add(4), scratch), Status::StateAlignment);
        assert_eq!(init(state_bytes, scratch_bytes - 4, state, scratch.add(4)), Status::ScratchAlignment);
        assert_eq!(brooklet_init(&mut unused, &closed, state, state_bytes, scratch, scratch_bytes), Status::NotOpen);
        assert_eq!(init(state_bytes, scratch_bytes, state, scratch), Status::Ok);

        // Steps.
        let good = frame(0);
        let step = |frame: *const f32, channels, outputs, count| brooklet_step(handle, frame, channels, outputs, count);
        assert_eq!(step(null(), 6, null_mut(), 0), Status::NullPointer);
        assert_eq!(step(good.as_ptr(), 5, null_mut(), 0), Status::FrameWidth);
        assert_eq!(step(good.as_ptr(), 6, outputs.as_mut_ptr(), 6), Status::OutputsTooSmall);
        assert_eq!(step([0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0].as_ptr(), 6, null_mut(), 0), Status::FrameNotFinite);
        assert_eq!(step(good.as_ptr().byte_add(1), 5, null_mut(), 0), Status::NumberAlignment);
        assert_eq!(step(good.as_ptr(), 6, outputs.as_mut_ptr().byte_add(2), 7), Status::NumberAlignment);
        assert_eq!(step(scratch.cast(), 6, null_mut(), 0), Status::Overlap);
        assert_eq!(step(good.as_ptr(), 6, state.cast(), 7), Status::Overlap);
        assert_eq!(step(good.as_ptr(), 6, handle.cast(), 7), Status::Overlap);
        assert_eq!(brooklet_step_token(handle, 1, null_mut(), 0), Status::WrongInput);
        assert_eq!(brooklet_step_after(handle, 0.0, good.as_ptr(), 6, null_mut(), 0), Status::GapNotPositive);
        assert_eq!(brooklet_softmax(null_mut(), 0), Status::NullPointer);
        assert_eq!(brooklet_position(handle), 0);

        // Input and outputs in one array.
        outputs[..6].copy_from_slice(&good);
        assert_eq!(brooklet_step(handle, outputs.as_ptr(), 6, outputs.as_mut_ptr(), 8), Status::Ok);
        assert_eq!(brooklet_reset(handle), Status::Ok);
        assert_eq!(outputs[..7], stream.step(&good).expect("a step"));

        // The model's place now holds another model.
        let prose = File::read("prose");
        assert_eq!(brooklet_open(&mut *stream.model, prose.bytes().as_ptr(), prose.len), Status::Ok);
        assert_eq!(stream.step(&good), Err(Status::OtherModel));
    }
}

#[test]
fn overlaps_are_refused_before_anything_is_written() {
    let file = File::read("watch");
    let before = file.bytes().to_vec();
    let (mut stream, mut untouched) = (Stream::new(&file, 1), Stream::new(&file, 1));
    for step in 0..9 {
        assert_eq!(stream.step(&frame(step)), untouched.step(&frame(step)));
    }
    let (state_bytes, scratch_bytes) = (stream.state.len() * 64, stream.scratch.len() * 64);
    let (mut free_state, mut free_scratch) = (lines(state_bytes), lines(scratch_bytes));
    let (free_state, free_scratch) = (free_state.as_mut_ptr().cast::<u8>(), free_scratch.as_mut_ptr().cast::<u8>());
    let mut other = StreamHandle::CLOSED;
    let (model, handle) = (&raw mut *stream.model, &raw mut stream.handle);
    let (state, scratch) = (stream.state.as_mut_ptr().cast::<u8>(), stream.scratch.as_mut_ptr().cast::<u8>());
    let bytes = file.bytes().as_ptr().cast_mut();
    let good = frame(9);
    // SAFETY: every buffer begins in memory of this test, and is refused before it is read or written.
    unsafe {
        let snapshot = brooklet_snapshot_bytes(model);
        // The whole struct, its end, and the file's begin, middle and last bytes.
        let models = [model.cast::<u8>(), model.add(1).cast::<u8>().sub(4), bytes, bytes.add(20480), bytes.add(file.len - 4)];
        let streams = [handle.cast::<u8>(), handle.add(1).cast::<u8>().sub(4), state, state.add(state_bytes - 4)];
        for place in models.into_iter().chain(streams) {
            let numbers = place.cast::<f32>();
            assert_eq!(brooklet_save(handle, place, snapshot), Status::Overlap);
            assert_eq!(brooklet_load(handle, place, snapshot), Status::Overlap);
            assert_eq!(brooklet_step(handle, good.as_ptr(), 6, numbers, 7), Status::Overlap);
            assert_eq!(brooklet_step(handle, numbers, 6, null_mut(), 0), Status::Overlap);
            assert_eq!(brooklet_step_after(handle, 0.02, good.as_ptr(), 6, numbers, 7), Status::Overlap);
            assert_eq!(brooklet_step_after(handle, 0.02, numbers, 6, null_mut(), 0), Status::Overlap);
            assert_eq!(brooklet_step_token(handle, 1, numbers, 7), Status::Overlap);
            assert_eq!(brooklet_step_tokens(handle, [1].as_ptr(), 1, numbers, 7), Status::Overlap);
            assert_eq!(brooklet_step_tokens(handle, place.cast(), 1, null_mut(), 0), Status::Overlap);
        }
        for place in models {
            let mut init = |state, scratch| brooklet_init(&mut other, model, state, state_bytes, scratch, scratch_bytes);
            assert_eq!(init(place, free_scratch), Status::Overlap);
            assert_eq!(init(free_state, place), Status::Overlap);
            assert_eq!(brooklet_self_test(model, place, state_bytes, free_scratch, scratch_bytes), Status::Overlap);
            assert_eq!(brooklet_self_test(model, free_state, state_bytes, place, scratch_bytes), Status::Overlap);
            assert_eq!(brooklet_class_name(model, 0, place.cast(), 16), 0);
            assert_eq!(brooklet_channel_name(model, 0, place.cast(), 16), 0);
        }
        // The stream's own struct.
        for place in [model.cast::<u8>(), bytes.add(20480), state, scratch] {
            assert_eq!(brooklet_init(place.cast(), model, state, state_bytes, scratch, scratch_bytes), Status::Overlap);
        }
        assert_eq!(brooklet_open(bytes.add(20480).cast(), bytes, file.len), Status::Overlap);
        let mut closed = ModelHandle::CLOSED;
        assert_eq!(brooklet_class_name(&closed, 0, (&raw mut closed).cast(), 16), 0);

        // NULL is NULL, however many bytes are said to be there.
        assert_eq!(brooklet_self_test(model, null_mut(), usize::MAX, free_scratch, scratch_bytes), Status::NullPointer);

        // Nothing was lost: file, model and stream are as they were.
        assert_eq!(brooklet_self_test(model, free_state, state_bytes, free_scratch, scratch_bytes), Status::Ok);
        assert_eq!(brooklet_position(handle), 9);
    }
    assert!(file.bytes() == before);
    assert_eq!(stream.step(&good), untouched.step(&good));
}

#[test]
fn between_steps_the_scratch_has_room_for_a_snapshot() {
    let file = File::read("watch");
    let (mut stream, mut untouched) = (Stream::new(&file, 64), Stream::new(&file, 1));
    for step in 0..9 {
        assert_eq!(stream.step(&frame(step)), untouched.step(&frame(step)));
    }
    let scratch = stream.scratch.as_mut_ptr().cast::<u8>();
    // SAFETY: handles of this test; the scratch has as many bytes, and no step runs meanwhile.
    unsafe {
        let bytes = brooklet_snapshot_bytes(&*stream.model);
        assert!(bytes <= stream.scratch.len() * 64);
        assert_eq!(brooklet_save(&mut stream.handle, scratch, bytes), Status::Ok);
        assert_eq!(brooklet_reset(&mut stream.handle), Status::Ok);
        assert_eq!(brooklet_load(&mut stream.handle, scratch, bytes), Status::Ok);
    }
    assert_eq!(stream.step(&frame(9)), untouched.step(&frame(9)));
}

#[test]
fn logits_without_probabilities_are_refused() {
    const INFINITY: f32 = f32::INFINITY;
    // SAFETY: a slice.
    let softmax = |logits: &mut [f32]| unsafe { brooklet_softmax(logits.as_mut_ptr(), logits.len()) };
    for refused in [&[INFINITY, 0.0][..], &[-INFINITY; 3], &[0.0, f32::NAN], &[f32::NAN], &[-INFINITY, INFINITY]] {
        let mut logits = refused.to_vec();
        assert_eq!(softmax(&mut logits), Status::LogitNotFinite, "{refused:?}");
        assert!(logits.iter().zip(refused).all(|(now, before)| now.to_bits() == before.to_bits()), "{refused:?} became {logits:?}");
    }
    // What is masked is left out, and large numbers are numbers.
    for (mut logits, probabilities) in [([-INFINITY, 3.0, -INFINITY], [0.0, 1.0, 0.0]), ([f32::MIN, f32::MAX, 0.0], [0.0, 1.0, 0.0])] {
        assert_eq!(softmax(&mut logits), Status::Ok);
        assert_eq!(logits, probabilities);
    }
    assert_eq!(softmax(&mut []), Status::Ok);
}

#[test]
fn a_device_proves_itself() {
    let file = File::read("watch");
    let mut stream = Stream::new(&file, 1);
    let (state, scratch) = (&mut stream.state, &mut stream.scratch);
    // SAFETY: the vectors' memory, which the stream does not use again.
    let status = unsafe {
        brooklet_self_test(&*stream.model, state.as_mut_ptr().cast(), state.len() * 64, scratch.as_mut_ptr().cast(), scratch.len() * 64)
    };
    assert_eq!(status, Status::Ok);
}

#[test]
fn every_status_has_a_sentence() {
    let known: Vec<&str> = (0..=99)
        // SAFETY: the strings live as long as the program.
        .map(|code| unsafe { CStr::from_ptr(brooklet_error_string(code)) }.to_str().expect("text"))
        .filter(|text| !text.starts_with("no status"))
        .collect();
    assert_eq!(include_str!("../include/brooklet.h").matches("BROOKLET_STATUS_").count(), known.len());
    assert!(text_of(Status::FileAlignment).contains("64-byte"));
}
