//! The portable kernels compiled for wider registers, and the one instruction the compiler does not find by itself: a look-up
//! of sixteen 4-bit codes at once. [`vnni`], [`planes`], [`avx2`], [`floats`] and the
//! kernels for sixteen lanes, some also for [`eight`], are written by hand.

mod act;
mod attention;
mod attention_int4;
mod attention_int8;
mod avx2;
mod avx2_planes;
mod conv;
mod eight;
mod floats;
mod gates;
mod hadamard;
mod lanes;
mod norm;
mod norm_rows;
mod planes;
pub(crate) mod read;
mod round;
mod round_rows;
mod scan;
mod scan_one;
mod ssd;
mod ssd_narrow;
mod stored;
mod vnni;

use crate::portable;
use crate::quant::{Matrix, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use crate::table::{Activations, KernelTable};
use core::arch::x86_64::{
    __m128i, __m256i, __m512, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_loadu_si256, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_storeu_si256, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_storeu_ps,
};

/// How far ahead of its use a tile is asked for.
const AHEAD_BYTES: usize = 8192;

static AVX2: KernelTable = EIGHT_LANES;
static AVX_VNNI: KernelTable = KernelTable { name: "avxvnni", matmul: avxvnni_matmul, ..EIGHT_LANES };
static AVX512: KernelTable = SIXTEEN_LANES;
static AVX512_VNNI: KernelTable = KernelTable { name: "avx512vnni", matmul: vnni::matmul, attend: attention_int8::attend, ..SIXTEEN_LANES };
const EIGHT_LANES: KernelTable = KernelTable {
    matmul: avx2_matmul,
    quantize_activations: round::quantize_activations_256,
    conv1d: eight::conv::conv1d,
    scan: eight::scan::scan,
    ssd: eight::ssd::ssd,
    gated_delta_step: eight::gated_delta::gated_delta_step,
    lstm_step: eight::gates::lstm_step,
    gru_step: eight::gates::gru_step,
    norm: eight::norm::norm,
    attend: eight::attention::attend,
    silu_multiply: eight::norm::silu_multiply,
    ..compile_table!("avx2", expand_q4, stored::F16c, #[target_feature(enable = "avx2,f16c")])
};
const SIXTEEN_LANES: KernelTable = KernelTable {
    matmul: avx512_matmul,
    quantize_activations: round::quantize_activations_512,
    conv1d: conv::conv1d,
    scan: scan::scan,
    ssd: ssd::ssd,
    lstm_step: gates::lstm_step,
    gru_step: gates::gru_step,
    norm: norm::norm,
    attend: attention::attend,
    silu_multiply: norm::silu_multiply,
    hadamard: hadamard::hadamard,
    conv1d_streams: Some(conv::streams),
    quantize_rows: Some(round_rows::quantize_rows),
    norm_rows: Some(norm_rows::norm_rows),
    ..compile_table!("avx512", expand_q4, stored::F16c, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")])
};

/// The AVX2 table, if this CPU has AVX2, and F16C as all of them do.
pub(crate) fn avx2() -> Option<&'static KernelTable> {
    (std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("f16c")).then_some(&AVX2)
}

/// The AVX2 table with integer products by AVX-VNNI, if this CPU has both.
pub(crate) fn avx_vnni() -> Option<&'static KernelTable> {
    (avx2().is_some() && std::is_x86_feature_detected!("avxvnni")).then_some(&AVX_VNNI)
}

/// The AVX-512 table, if this CPU has it.
pub(crate) fn avx512() -> Option<&'static KernelTable> {
    let has = avx2().is_some()
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl");
    has.then_some(&AVX512)
}

/// The AVX-512 table with integer products by VNNI, if this CPU has both.
pub(crate) fn avx512_vnni() -> Option<&'static KernelTable> {
    (avx512().is_some() && std::is_x86_feature_detected!("avx512vnni")).then_some(&AVX512_VNNI)
}

/// The products that are not written by hand are the portable ones, compiled again.
#[target_feature(enable = "avx2")]
fn avx2_matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    if avx2::takes(&matrix.weights) {
        return avx2::plain::matmul(matrix, x, out);
    }
    portable::matmul(matrix, x, out, |tile, table, out| expand_q4(tile, table, out));
}

#[target_feature(enable = "avx2,avxvnni")]
fn avxvnni_matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    match matrix.weights {
        Weights::F32(_) | Weights::F16(_) => portable::matmul(matrix, x, out, |tile, table, out| expand_q4(tile, table, out)),
        _ => avx2::dpbusd::matmul(matrix, x, out),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512_matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    match (&matrix.weights, x) {
        (Weights::F32(_) | Weights::F16(_), Activations::Float { x, stride }) => floats::matmul(matrix, x, stride, out),
        (weights, x) if avx2::takes(weights) => avx2::plain::matmul(matrix, x, out),
        (_, x) => portable::matmul(matrix, x, out, |tile, table, out| expand_q4(tile, table, out)),
    }
}

/// See [`crate::quant::expand_q4`].
#[inline]
#[target_feature(enable = "avx2")]
fn expand_q4(tile: &[[u8; 64]; 4], table: &[i8; 16], out: &mut [[i8; 64]; 8]) {
    // SAFETY: `table` is 16 readable bytes; the load asks for no alignment.
    let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast::<__m128i>())) };
    let low = _mm256_set1_epi8(15);
    for (word, out) in tile.iter().zip(out.as_chunks_mut::<2>().0) {
        let [low_out, high_out] = out;
        for half in [0, 32] {
            // SAFETY: `half + 32` is at most 64, the length of all three arrays; unaligned loads and stores.
            unsafe {
                let codes = _mm256_loadu_si256(word.as_ptr().add(half).cast::<__m256i>());
                let lows = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, low));
                let highs = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low));
                _mm256_storeu_si256(low_out.as_mut_ptr().add(half).cast::<__m256i>(), lows);
                _mm256_storeu_si256(high_out.as_mut_ptr().add(half).cast::<__m256i>(), highs);
            }
        }
    }
}

/// Asks for the cache lines of `x`, which may lie behind the end of everything.
#[inline(always)]
fn prefetch<T>(x: *const T) {
    for line in (0..size_of::<T>()).step_by(64) {
        // SAFETY: a hint: it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.cast::<i8>().wrapping_add(line)) };
    }
}

/// The lanes that rows from `row` on fill, of `rows`.
#[inline(always)]
fn mask(row: usize, rows: usize) -> u16 {
    ((1u32 << rows.saturating_sub(row).min(TILE_ROWS)) - 1) as u16
}

/// Writes the rows from `row` on, as far as the matrix has them, of vector `t`.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut RowsMut<'_>, row: usize, t: usize, y: __m512) {
    let out = out.row_mut(t);
    if let Some(out) = out.get_mut(row..row + TILE_ROWS) {
        // SAFETY: 16 writable floats; the store asks for no alignment.
        return unsafe { _mm512_storeu_ps(out.as_mut_ptr(), y) };
    }
    // SAFETY: the mask lets no more than the floats through that `out` has behind `row`.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr().wrapping_add(row), mask(row, out.len()), y) };
}

/// What [`store`] wrote, and nothing for the rows that the matrix does not have.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(out: &RowsMut<'_>, row: usize, t: usize) -> __m512 {
    let out = out.row(t);
    // SAFETY: the mask lets no more than the floats through that `out` has behind `row`.
    unsafe { _mm512_maskz_loadu_ps(mask(row, out.len()), out.as_ptr().wrapping_add(row)) }
}
