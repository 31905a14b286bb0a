//! One stream over a model, in a struct that the caller places.

use crate::Status;
use crate::model::{ModelHandle, Opened, opened};
use crate::pointers::{Extent, apart, check_handle, handle, handle_mut, slice, slice_mut};
use brooklet::kernels::{self, KernelTable};
use brooklet::{Input, Session, State, softmax};
use core::mem::{MaybeUninit, align_of, offset_of};

/// Words of a stream's memory that are Brooklet's own.
pub const STREAM_WORDS: usize = 22;

/// Says that a stream was initialised: no zeroed or random memory has it.
const READY: u64 = u64::from_le_bytes(*b"brk-str1");

/// One stream: a place in a model's endless input. The struct is small; the stream's memory is the state that brooklet_init
/// was given, and that nobody else may touch while the stream is used. One thread at a time may use it. To move it, copy the
/// struct and forget the old one; nothing needs to be closed.
#[repr(C)]
#[derive(Debug)]
pub struct StreamHandle {
    /// Brooklet's own.
    tag: u64,
    /// Brooklet's own.
    words: [MaybeUninit<usize>; STREAM_WORDS],
}

const _: () = assert!(size_of::<Stream>() <= STREAM_WORDS * size_of::<usize>());
const _: () = assert!(align_of::<Stream>() <= align_of::<StreamHandle>() && offset_of!(StreamHandle, words) % align_of::<Stream>() == 0);

/// What a handle holds.
struct Stream {
    model: *const ModelHandle,
    kernels: &'static KernelTable,
    state: State<'static>,
    state_at: Extent,
    /// Borrowed during calls alone: streams that take turns share it.
    scratch: *mut u8,
    scratch_bytes: usize,
}

impl Stream {
    /// All memory that the stream in the handle at `stream` lives on: no input or output may lie there. The scratch is not among it:
    /// between steps it is the caller's.
    fn kept(&self, stream: *const StreamHandle, opened: &Opened) -> [Extent; 4] {
        [Extent::of(stream, 1), Extent::of(self.model, 1), opened.file, self.state_at]
    }
}

impl StreamHandle {
    /// A stream that is not initialised.
    pub const CLOSED: StreamHandle = StreamHandle { tag: 0, words: [MaybeUninit::uninit(); STREAM_WORDS] };

    fn get(&self) -> Result<&Stream, Status> {
        if self.tag != READY {
            return Err(Status::NotOpen);
        }
        // SAFETY: `brooklet_init` alone writes the tag, after a stream of this type into `words`, which has room for it and its
        // alignment (asserted above).
        Ok(unsafe { &*self.words.as_ptr().cast::<Stream>() })
    }

    fn get_mut(&mut self) -> Result<&mut Stream, Status> {
        if self.tag != READY {
            return Err(Status::NotOpen);
        }
        // SAFETY: as in `get`.
        Ok(unsafe { &mut *self.words.as_mut_ptr().cast::<Stream>() })
    }
}

/// The stream behind a pointer.
///
/// # Safety
///
/// As [`handle_mut`].
unsafe fn stream_mut<'a>(stream: *mut StreamHandle) -> Result<&'a mut Stream, Status> {
    // SAFETY: passed on.
    unsafe { handle_mut(stream) }?.get_mut()
}

/// Begins a stream of `model` in the memory at `state` and `scratch`, both on 16-byte boundaries, of at least
/// brooklet_state_bytes and brooklet_scratch_bytes bytes. More scratch lets brooklet_step_tokens take more tokens at once.
///
/// # Safety
///
/// `model` stays where it is, and `state` and `scratch` stay valid, for as long as the stream is used. Nobody else touches
/// `state` meanwhile. Another stream may use the same scratch, but not at the same time. `stream` may hold anything.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_init(
    stream: *mut StreamHandle,
    model: *const ModelHandle,
    state: *mut u8,
    state_bytes: usize,
    scratch: *mut u8,
    scratch_bytes: usize,
) -> Status {
    let init = || {
        check_handle(stream)?;
        let (stream_at, model_at) = (Extent::of(stream, 1), Extent::of(model, 1));
        let (state_at, scratch_at) = (Extent::of(state, state_bytes), Extent::of(scratch, scratch_bytes));
        // The struct is written to first, so it is the first that must share no memory.
        apart(stream_at, &[model_at, state_at, scratch_at])?;
        // SAFETY: passed on.
        let opened = unsafe { opened(model) };
        if let Ok(opened) = opened {
            apart(stream_at, &[opened.file])?;
        }
        // SAFETY: not NULL and aligned by `check_handle`, writable by this function's contract; it need not be initialised. It
        // overlaps nothing that is borrowed.
        unsafe { (&raw mut (*stream).tag).write(0) };
        let Opened { model: inner, file } = opened?;
        apart(state_at, &[model_at, *file, scratch_at])?;
        apart(scratch_at, &[model_at, *file])?;
        // SAFETY: passed on; `'static` stands for "as long as the stream is used", which the contract promises. It overlaps
        // neither the model nor its file.
        let state: &'static mut [u8] = unsafe { slice_mut(state, state_bytes) }?;
        let mut inside = Stream { model, kernels: kernels::detect(), state: State::new(inner, state)?, state_at, scratch, scratch_bytes };
        // Refuses what is wrong with the scratch now rather than at the first step.
        // SAFETY: passed on; it overlaps neither the state nor the model nor its file.
        Session::new(inner, inside.kernels, &mut inside.state, unsafe { slice_mut(scratch, scratch_bytes) }?)?;
        // SAFETY: as above; `words` has room for a stream and its alignment (asserted above).
        unsafe {
            (&raw mut (*stream).words).cast::<Stream>().write(inside);
            (&raw mut (*stream).tag).write(READY);
        }
        Ok(())
    };
    Status::from(init())
}

/// Lets `step` work on the stream and copies the outputs to `outputs` (NULL: nowhere). `input` is what `step` reads.
///
/// # Safety
///
/// `stream` is NULL or points to a brooklet_stream that nobody else uses; `outputs` is NULL or has room for `count` numbers.
unsafe fn with_session(
    stream: *mut StreamHandle,
    input: Extent,
    outputs: *mut f32,
    count: usize,
    step: impl FnOnce(&mut Session<'_, '_, '_>) -> Result<(), Status>,
) -> Status {
    let work = || {
        // SAFETY: passed on.
        let inside = unsafe { stream_mut(stream) }?;
        // SAFETY: `brooklet_init` was given this pointer, and its contract says that the model stays where it is.
        let opened = unsafe { opened(inside.model) }?;
        let (kept, scratch_at) = (inside.kept(stream, opened), Extent::of(inside.scratch, inside.scratch_bytes));
        for buffer in [input, Extent::of(outputs, count)] {
            apart(buffer, &kept)?;
            apart(buffer, &[scratch_at])?;
        }
        if !outputs.is_null() && count < opened.model.outputs() {
            return Err(Status::OutputsTooSmall);
        }
        // SAFETY: `brooklet_init` was given this memory, and its contract says that it stays valid and that no other stream
        // uses it during this call. It overlaps neither state nor input.
        let scratch = unsafe { slice_mut(inside.scratch, inside.scratch_bytes) }?;
        let mut session = Session::new(&opened.model, inside.kernels, &mut inside.state, scratch)?;
        // Where the outputs go may be where the input was: they are written after it was read.
        if !outputs.is_null() && !outputs.is_aligned() {
            return Err(Status::NumberAlignment);
        }
        step(&mut session)?;
        if !outputs.is_null() {
            let given = session.output_mut();
            // SAFETY: not NULL, aligned, and room for `count >= given.len()` numbers by this function's contract; it does not
            // overlap the scratch, where `given` lies, nor anything else that is borrowed.
            unsafe { core::ptr::copy_nonoverlapping(given.as_ptr(), outputs, given.len()) };
        }
        Ok(())
    };
    Status::from(work())
}

/// One step on a sensor frame: one sample of each of `channels` channels, in the units that the model names. Gives
/// brooklet_outputs numbers; `outputs` may be NULL if nobody wants them. On an error the stream is as it was before.
///
/// # Safety
///
/// `stream` is NULL or points to a brooklet_stream that nobody else uses; `channels` numbers can be read at `frame`; `outputs`
/// is NULL or has room for `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_step(
    stream: *mut StreamHandle,
    frame: *const f32,
    channels: usize,
    outputs: *mut f32,
    count: usize,
) -> Status {
    // SAFETY: passed on.
    unsafe {
        with_session(stream, Extent::of(frame, channels), outputs, count, |session| {
            session.step(Input::Frame(slice(frame, channels)?))?;
            Ok(())
        })
    }
}

/// brooklet_step for a frame that comes `seconds` after the one before, for models that brooklet_takes_gaps.
///
/// # Safety
///
/// As brooklet_step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_step_after(
    stream: *mut StreamHandle,
    seconds: f32,
    frame: *const f32,
    channels: usize,
    outputs: *mut f32,
    count: usize,
) -> Status {
    // SAFETY: passed on.
    unsafe {
        with_session(stream, Extent::of(frame, channels), outputs, count, |session| {
            session.step(Input::FrameAfter(slice(frame, channels)?, seconds))?;
            Ok(())
        })
    }
}

/// One step on a token. Gives brooklet_outputs logits; `outputs` may be NULL. On an error the stream is as it was before.
///
/// # Safety
///
/// `stream` is NULL or points to a brooklet_stream that nobody else uses; `outputs` is NULL or has room for `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_step_token(stream: *mut StreamHandle, token: u32, outputs: *mut f32, count: usize) -> Status {
    // SAFETY: passed on.
    unsafe {
        with_session(stream, Extent::of(&raw const token, 0), outputs, count, |session| {
            session.step(Input::Token(token))?;
            Ok(())
        })
    }
}

/// Several tokens at once: the same bits as single steps, but faster where the scratch has room for more than one. Gives the
/// logits after the last.
///
/// # Safety
///
/// `stream` is NULL or points to a brooklet_stream that nobody else uses; `token_count` ids can be read at `tokens`; `outputs`
/// is NULL or has room for `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_step_tokens(
    stream: *mut StreamHandle,
    tokens: *const u32,
    token_count: usize,
    outputs: *mut f32,
    count: usize,
) -> Status {
    // SAFETY: passed on.
    unsafe {
        with_session(stream, Extent::of(tokens, token_count), outputs, count, |session| {
            session.prefill_tokens(slice(tokens, token_count)?)?;
            Ok(())
        })
    }
}

/// Begins the stream anew.
///
/// # Safety
///
/// `stream` is NULL or points to a brooklet_stream that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_reset(stream: *mut StreamHandle) -> Status {
    // SAFETY: passed on.
    Status::from(unsafe { stream_mut(stream) }.map(|s| s.state.reset()))
}

/// Steps taken since the stream began; 0 if it was not initialised.
///
/// # Safety
///
/// `stream` is NULL or points to a brooklet_stream that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_position(stream: *const StreamHandle) -> u64 {
    // SAFETY: passed on.
    unsafe { handle(stream) }.and_then(StreamHandle::get).map_or(0, |s| s.state.position())
}

/// Writes a snapshot of the stream, brooklet_snapshot_bytes bytes, to `snapshot`, to go on later or elsewhere, bit for bit.
///
/// # Safety
///
/// `stream` is NULL or points to a brooklet_stream that nobody else uses; `snapshot` is NULL or has room for
/// `snapshot_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_save(stream: *mut StreamHandle, snapshot: *mut u8, snapshot_bytes: usize) -> Status {
    let save = || {
        // SAFETY: passed on.
        let inside = unsafe { stream_mut(stream) }?;
        // SAFETY: `brooklet_init` was given this pointer, and its contract says that the model stays where it is.
        let opened = unsafe { opened(inside.model) }?;
        apart(Extent::of(snapshot, snapshot_bytes), &inside.kept(stream, opened))?;
        // SAFETY: passed on; it overlaps nothing that the stream lives on.
        inside.state.snapshot(unsafe { slice_mut(snapshot, snapshot_bytes) }?)?;
        Ok(())
    };
    Status::from(save())
}

/// Goes on from a snapshot of exactly brooklet_snapshot_bytes bytes. On an error the stream is as it was before.
///
/// # Safety
///
/// `stream` is NULL or points to an initialised brooklet_stream that nobody else uses; `snapshot_bytes` bytes can be read at
/// `snapshot`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_load(stream: *mut StreamHandle, snapshot: *const u8, snapshot_bytes: usize) -> Status {
    let load = || {
        // SAFETY: passed on.
        let inside = unsafe { stream_mut(stream) }?;
        // SAFETY: `brooklet_init` was given this pointer, and its contract says that the model stays where it is.
        let opened = unsafe { opened(inside.model) }?;
        apart(Extent::of(snapshot, snapshot_bytes), &inside.kept(stream, opened))?;
        // SAFETY: passed on; it overlaps nothing that the stream lives on.
        inside.state.load(&opened.model, unsafe { slice(snapshot, snapshot_bytes) }?)?;
        Ok(())
    };
    Status::from(load())
}

/// Turns logits into probabilities in place. Its bits are the same on every device. Minus infinity has the probability 0; NaN,
/// plus infinity, or nothing but minus infinity have none: they are answered with status 39 (LOGIT_NOT_FINITE), and the logits
/// stay as they were.
///
/// # Safety
///
/// `logits` is NULL or has `count` numbers that nobody else touches.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_softmax(logits: *mut f32, count: usize) -> Status {
    let work = || {
        // SAFETY: passed on.
        let logits = unsafe { slice_mut(logits, count) }?;
        // Where the largest is not a finite number, or one is none at all, every probability would be NaN. No logits are no mistake.
        let none_is_finite = !logits.is_empty() && !logits.iter().any(|logit| logit.is_finite());
        if none_is_finite || logits.iter().any(|&logit| logit.is_nan() || logit == f32::INFINITY) {
            return Err(Status::LogitNotFinite);
        }
        softmax(logits);
        Ok(())
    };
    Status::from(work())
}
