//! What matrices multiply, seen from inside: a table of kernels whose product writes down what goes in.

use brooklet::kernels::quant::{Matrix, Weights};
use brooklet::kernels::{self, Activations, KernelTable, RowsMut};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Inputs of some matrices, each (steps, cols), by the tensor's number.
pub(super) type Inputs = HashMap<usize, Vec<f32>>;

/// What this thread writes down.
#[derive(Default)]
struct Recorder {
    /// Where a matrix lies in memory, to its tensor's number.
    places: HashMap<usize, usize>,
    inputs: Inputs,
}

thread_local! {
    static RECORDER: RefCell<Recorder> = RefCell::default();
}

/// The best kernels there are, with a product that writes down what float matrices multiply.
pub(super) fn recording() -> &'static KernelTable {
    static TABLE: LazyLock<KernelTable> = LazyLock::new(|| kernels::detect().with_matmul(matmul));
    &TABLE
}

fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    if let (Some(place), Activations::Float { x, stride }) = (place(matrix), x) {
        RECORDER.with_borrow_mut(|recorder| {
            if let Some(&tensor) = recorder.places.get(&place) {
                let inputs = recorder.inputs.entry(tensor).or_default();
                x.chunks_exact(stride.max(1)).for_each(|x| inputs.extend_from_slice(&x[..matrix.cols]));
            }
        });
    }
    kernels::detect().matmul(matrix, x, out);
}

/// The address of a float matrix: which one it is.
pub(super) fn place(matrix: &Matrix<'_>) -> Option<usize> {
    match matrix.weights {
        Weights::F32(words) => Some(words.as_ptr() as usize),
        _ => None,
    }
}

/// Runs `work` on this thread while the matrices at these places, by tensor's number, are listened to; gives back their inputs.
pub(super) fn listen<T>(places: &[(usize, usize)], work: impl FnOnce() -> T) -> (T, Inputs) {
    RECORDER.with_borrow_mut(|recorder| *recorder = Recorder { places: places.iter().copied().collect(), inputs: Inputs::new() });
    let done = work();
    let heard = RECORDER.with_borrow_mut(std::mem::take);
    (done, heard.inputs)
}
