//! A checked file, in a struct that the caller places.

use crate::Status;
use crate::pointers::{Extent, apart, check_handle, handle, slice, slice_mut};
use brooklet::artifact::{InputSpec, OutputSpec};
use brooklet::{Model, kernels, self_test, snapshot_bytes};
use core::ffi::c_char;
use core::mem::{MaybeUninit, align_of, offset_of};

/// Words of a model's memory that are Brooklet's own.
pub const MODEL_WORDS: usize = 78;

/// Says that a handle was opened: no zeroed or random memory has it.
const OPEN: u64 = u64::from_le_bytes(*b"brk-mod1");

/// A checked model. Place it where it lives as long as its streams: they keep its address. The file's bytes are used where they
/// lie and must stay there, unchanged, for as long. Nothing needs to be closed. Any number of streams, in any number of
/// threads, may share one model.
#[repr(C)]
#[derive(Debug)]
pub struct ModelHandle {
    /// Brooklet's own.
    tag: u64,
    /// Brooklet's own.
    words: [MaybeUninit<usize>; MODEL_WORDS],
}

const _: () = assert!(size_of::<Opened>() <= MODEL_WORDS * size_of::<usize>());
const _: () = assert!(align_of::<Opened>() <= align_of::<ModelHandle>() && offset_of!(ModelHandle, words) % align_of::<Opened>() == 0);

/// What a handle holds.
#[derive(Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) model: Model<'static>,
    /// The file's bytes, where nobody's buffer may lie.
    pub(crate) file: Extent,
}

impl ModelHandle {
    /// A model that is not open.
    pub const CLOSED: ModelHandle = ModelHandle { tag: 0, words: [MaybeUninit::uninit(); MODEL_WORDS] };

    /// The model inside, and its file.
    pub(crate) fn get(&self) -> Result<&Opened, Status> {
        if self.tag != OPEN {
            return Err(Status::NotOpen);
        }
        // SAFETY: `brooklet_open` alone writes the tag, after a model of this type into `words`, which has room for it and its
        // alignment (asserted above). A caller that copies the struct copies both. `Opened` is `Copy`: it owns nothing.
        Ok(unsafe { &*self.words.as_ptr().cast::<Opened>() })
    }
}

/// The model behind a pointer, and its file.
///
/// # Safety
///
/// As [`handle`].
pub(crate) unsafe fn opened<'a>(model: *const ModelHandle) -> Result<&'a Opened, Status> {
    // SAFETY: passed on.
    unsafe { handle(model) }?.get()
}

/// The model behind a pointer.
///
/// # Safety
///
/// As [`handle`].
unsafe fn open_model<'a>(model: *const ModelHandle) -> Result<&'a Model<'static>, Status> {
    // SAFETY: passed on.
    unsafe { opened(model) }.map(|o| &o.model)
}

/// Checks the .brook file in `file_bytes` bytes at `file` (on a 64-byte boundary), every checksum included, and makes `model`
/// ready. It reads the whole file once: call it at start, not per step.
///
/// # Safety
///
/// `file_bytes` bytes can be read at `file` and stay as they are for as long as the model or any of its streams is used.
/// `model` may hold anything; no stream of it may be in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_open(model: *mut ModelHandle, file: *const u8, file_bytes: usize) -> Status {
    let open = || {
        check_handle(model)?;
        let file_at = Extent::of(file, file_bytes);
        apart(Extent::of(model, 1), &[file_at])?;
        // SAFETY: not NULL and aligned by `check_handle`, writable by this function's contract; it need not be initialised.
        unsafe { (&raw mut (*model).tag).write(0) };
        // SAFETY: passed on; `'static` stands for "as long as the model is used", which the contract promises.
        let bytes: &'static [u8] = unsafe { slice(file, file_bytes) }?;
        let opened = Opened { model: Model::from_bytes(bytes)?, file: file_at };
        // SAFETY: as above; `words` has room for a model and its alignment (asserted above).
        unsafe {
            (&raw mut (*model).words).cast::<Opened>().write(opened);
            (&raw mut (*model).tag).write(OPEN);
        }
        Ok(())
    };
    Status::from(open())
}

/// Bytes of one stream's state; 0 if the model is not open.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_state_bytes(model: *const ModelHandle) -> usize {
    // SAFETY: passed on.
    unsafe { open_model(model) }.map_or(0, Model::state_bytes)
}

/// Bytes of scratch to take up to `tokens` tokens or frames at once; 1 is enough to step. Streams that take turns may share
/// one scratch. 0 if the model is not open.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_scratch_bytes(model: *const ModelHandle, tokens: usize) -> usize {
    // SAFETY: passed on.
    unsafe { open_model(model) }.map_or(0, |m| m.scratch_bytes(tokens))
}

/// Bytes of a snapshot of one stream; 0 if the model is not open.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_snapshot_bytes(model: *const ModelHandle) -> usize {
    // SAFETY: passed on.
    unsafe { open_model(model) }.map_or(0, snapshot_bytes)
}

/// Numbers that a step gives; 0 if the model is not open.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_outputs(model: *const ModelHandle) -> usize {
    // SAFETY: passed on.
    unsafe { open_model(model) }.map_or(0, Model::outputs)
}

/// Channels of a sensor frame; 0 for token models, or if the model is not open.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_channels(model: *const ModelHandle) -> usize {
    // SAFETY: passed on.
    unsafe { open_model(model) }.ok().and_then(Model::channels).unwrap_or(0)
}

/// Number of token ids; 0 for sensor models, or if the model is not open.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_vocab(model: *const ModelHandle) -> u32 {
    // SAFETY: passed on.
    match unsafe { open_model(model) }.map(|m| m.header().input) {
        Ok(InputSpec::Tokens { vocab, .. }) => vocab,
        _ => 0,
    }
}

/// Frames per second that a sensor model was trained at; 0 for token models, or if the model is not open.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_rate_hz(model: *const ModelHandle) -> f32 {
    // SAFETY: passed on.
    match unsafe { open_model(model) }.map(|m| m.header().input) {
        Ok(InputSpec::Frames { rate_hz, .. }) => rate_hz,
        _ => 0.0,
    }
}

/// Whether frames may come at irregular times, through brooklet_step_after.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_takes_gaps(model: *const ModelHandle) -> bool {
    // SAFETY: passed on.
    unsafe { open_model(model) }.is_ok_and(|m| m.plan().takes_gaps)
}

/// What a model's outputs are.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The model is not open.
    None = 0,
    /// One logit per token; brooklet_softmax makes probabilities of them.
    Logits = 1,
    /// One logit per class; brooklet_softmax makes probabilities of them.
    Classes = 2,
    /// Numbers that mean what they are.
    Values = 3,
}

/// What the model's outputs are.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_output_kind(model: *const ModelHandle) -> Kind {
    // SAFETY: passed on.
    match unsafe { open_model(model) }.map(|m| m.header().output) {
        Ok(OutputSpec::Logits { .. }) => Kind::Logits,
        Ok(OutputSpec::Classes { .. }) => Kind::Classes,
        Ok(OutputSpec::Values { .. }) => Kind::Values,
        Err(_) => Kind::None,
    }
}

/// Copies the name of output `index`, a class or a value, to `name`: at most `name_bytes` bytes of UTF-8, the NUL at the end
/// included. Returns the bytes of the whole name without NUL; 0 if there is no such name. `name` may be NULL to ask for that.
/// Nothing is copied, and 0 returned, if `name` overlaps the model or its file.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model; `name` is NULL or has room for `name_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_class_name(model: *const ModelHandle, index: usize, name: *mut c_char, name_bytes: usize) -> usize {
    let find = |m: &Model<'static>| match m.header().output {
        OutputSpec::Classes { names } | OutputSpec::Values { names, .. } => names.lines().nth(index),
        OutputSpec::Logits { .. } => None,
    };
    // SAFETY: passed on.
    unsafe { copy_name(model, find, name, name_bytes) }
}

/// Copies the name of channel `index` to `name`, as brooklet_class_name does.
///
/// # Safety
///
/// As brooklet_class_name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_channel_name(model: *const ModelHandle, index: usize, name: *mut c_char, name_bytes: usize) -> usize {
    let find = |m: &Model<'static>| match m.header().input {
        InputSpec::Frames { channels, .. } => channels.lines().nth(index),
        InputSpec::Tokens { .. } => None,
    };
    // SAFETY: passed on.
    unsafe { copy_name(model, find, name, name_bytes) }
}

/// Copies what fits of the name that `find` finds in the model, whole characters and a NUL; returns its length.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model; `to` is NULL or has room for `to_bytes` bytes.
unsafe fn copy_name(
    model: *const ModelHandle,
    find: impl Fn(&Model<'static>) -> Option<&'static str>,
    to: *mut c_char,
    to_bytes: usize,
) -> usize {
    let to_at = Extent::of(to, to_bytes);
    // A model that is not open has no names, but its struct is no room for one either.
    // SAFETY: passed on.
    let opened = unsafe { opened(model) }.ok();
    if apart(to_at, &[Extent::of(model, 1)]).is_err() || opened.is_some_and(|o| apart(to_at, &[o.file]).is_err()) {
        return 0;
    }
    let text = opened.and_then(|o| find(&o.model)).unwrap_or_default();
    // SAFETY: passed on; `c_char` and `u8` are both one byte. It overlaps neither the model nor the file, where `text` lies.
    if let Ok(room) = unsafe { slice_mut(to.cast::<u8>(), to_bytes) }
        && let Some(most) = to_bytes.checked_sub(1)
    {
        let fits = (0..=text.len().min(most)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        for (to, from) in room.iter_mut().zip(text.bytes().take(fits).chain([0])) {
            *to = from;
        }
    }
    text.len()
}

/// Proves that this device computes what the file says, bit for bit: runs the golden input that the file carries. `state` and
/// `scratch` are only borrowed for the test.
///
/// # Safety
///
/// `model` is NULL or points to a brooklet_model; `state` and `scratch` are NULL or have as many bytes as said, which no
/// stream uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_self_test(
    model: *const ModelHandle,
    state: *mut u8,
    state_bytes: usize,
    scratch: *mut u8,
    scratch_bytes: usize,
) -> Status {
    let test = || {
        // SAFETY: passed on.
        let opened = unsafe { opened(model) }?;
        let (state_at, scratch_at) = (Extent::of(state, state_bytes), Extent::of(scratch, scratch_bytes));
        let kept = [Extent::of(model, 1), opened.file];
        apart(state_at, &kept)?;
        apart(scratch_at, &kept)?;
        apart(state_at, &[scratch_at])?;
        // SAFETY: passed on; the two overlap neither each other nor what is read meanwhile.
        let (state, scratch) = unsafe { (slice_mut(state, state_bytes)?, slice_mut(scratch, scratch_bytes)?) };
        Ok(self_test(&opened.model, kernels::detect(), state, scratch)?)
    };
    Status::from(test())
}
