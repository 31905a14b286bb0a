//! The table of kernels: one plain function pointer each, chosen once for the CPU at hand.

use crate::portable;
use crate::quant::{GROUP, Matrix};
use crate::rows::{Rows, RowsMut};
use crate::state::StateMut;

/// The vectors that enter a matrix, as its format wants them.
#[derive(Clone, Copy, Debug)]
pub enum Activations<'a> {
    /// For float matrices: vector `t` starts at `t * stride`, zero-padded to `stride`, a multiple of 32.
    Float {
        /// (vectors, stride)
        x: &'a [f32],
        /// Padded length of one vector.
        stride: usize,
    },
    /// For quantized matrices, see [`KernelTable::quantize_activations`].
    Int8 {
        /// (vectors, groups * 32)
        codes: &'a [i8],
        /// (vectors, groups)
        scales: &'a [f32],
        /// (vectors, groups)
        sums: &'a [i32],
    },
}

/// A causal depthwise convolution.
#[derive(Clone, Copy, Debug)]
pub struct Conv1d<'a> {
    /// (taps, channels), oldest tap first.
    pub weight: Rows<'a>,
    /// (channels)
    pub bias: Option<&'a [f32]>,
    /// Width of the window.
    pub taps: usize,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Some steps of the selective scan, over all channels or some of them.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// (tokens, channels)
    pub x: Rows<'a>,
    /// (tokens, channels), before bias and softplus.
    pub dt: Rows<'a>,
    /// (channels)
    pub dt_bias: &'a [f32],
    /// (d_state, channels), negative.
    pub a: Rows<'a>,
    /// (tokens, heads * d_state)
    pub b: Rows<'a>,
    /// (tokens, heads * d_state)
    pub c: Rows<'a>,
    /// (channels)
    pub d: &'a [f32],
    /// (tokens, channels), the gate: the output is multiplied by silu(z).
    pub z: Option<Rows<'a>>,
    /// Groups of channels with their own b and c: 1 but for Zamba.
    pub heads: usize,
    /// Factor of the step size after softplus: 1 at the model's own rate.
    pub gap: f32,
    /// Bytes from the state to the one that is scanned next, so that it can be asked for early; 0 for none.
    pub behind_bytes: usize,
}

/// Some steps of the state-space dual recurrence, over all heads or some of them.
#[derive(Clone, Copy, Debug)]
pub struct Ssd<'a> {
    /// (tokens, heads * head_dim)
    pub x: Rows<'a>,
    /// (tokens, heads), before bias and softplus.
    pub dt: Rows<'a>,
    /// (heads)
    pub dt_bias: &'a [f32],
    /// (heads), negative.
    pub a: &'a [f32],
    /// (tokens, groups * d_state)
    pub b: Rows<'a>,
    /// (tokens, groups * d_state)
    pub c: Rows<'a>,
    /// (heads)
    pub d: &'a [f32],
    /// Groups of heads that share b and c.
    pub groups: usize,
    /// Heads of a group.
    pub heads_per_group: usize,
    /// Heads of the whole layer before these.
    pub first_head: usize,
    /// Lower bound of the step size after softplus.
    pub dt_lo: f32,
    /// Upper bound of the step size after softplus.
    pub dt_hi: f32,
    /// Factor of the step size after that: 1 at the model's own rate.
    pub gap: f32,
}

impl Ssd<'_> {
    /// Calls `steps` with what there is for each of several streams.
    #[inline(always)]
    pub(crate) fn each_stream(
        &self,
        states: &mut [StateMut<'_>],
        mut y: RowsMut<'_>,
        mut steps: impl FnMut(&Ssd<'_>, StateMut<'_>, RowsMut<'_>),
    ) {
        let tokens = self.x.rows().checked_div(states.len()).unwrap_or(0);
        for (i, state) in states.iter_mut().enumerate() {
            let rows = [self.x, self.dt, self.b, self.c].map(|all| all.some_rows(i * tokens..(i + 1) * tokens));
            let [Some(x), Some(dt), Some(b), Some(c)] = rows else { return };
            let Some(y) = y.take_rows(tokens) else { return };
            steps(&Ssd { x, dt, b, c, ..*self }, state.reborrow(), y);
        }
    }
}

/// How the modes of a diagonal state-space model go from step to step: `s <- s + e s + ..` with a complex `e` from `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepping {
    /// `a` is `e`; `s <- s + e s + x`.
    Fixed,
    /// `a` is a rate, re in nepers and im in turns per step of the model's own rate: `e = exp(gap a) - 1`;
    /// `s <- s + e (s + x)`, exact for an input that stays as it is between steps.
    Hold,
    /// `a` as before: `e = z / (1 - z/2)` with `z = gap a`; `s <- s + e (s + x)`.
    Bilinear,
    /// `a` as before: `e = exp(gap a) - 1`; `s <- s + e s + x`: the gap ages the state alone.
    Impulse,
}

/// One step of a diagonal state-space model with `modes` complex modes a channel.
#[derive(Clone, Copy, Debug)]
pub struct DiagSsm<'a> {
    /// (channels), or (2, channels): real and imaginary parts.
    pub x: &'a [f32],
    /// (modes, 2, channels)
    pub a: &'a [f32],
    /// (modes, 2, channels): the output is the real part of the sum of `c s`; without it, the states.
    pub c: Option<&'a [f32]>,
    /// (channels)
    pub d: Option<&'a [f32]>,
    /// Channels.
    pub channels: usize,
    /// From `a` to the factor of a step.
    pub stepping: Stepping,
    /// Time since the last step, in steps of the model's own rate.
    pub gap: f32,
}

/// One step of the gated delta rule.
#[derive(Clone, Copy, Debug)]
pub struct GatedDelta<'a> {
    /// (key_heads, key_dim), of any length.
    pub q: &'a [f32],
    /// (key_heads, key_dim), of any length.
    pub k: &'a [f32],
    /// (heads, value_dim)
    pub v: &'a [f32],
    /// (heads): the decay's step size, before bias and softplus.
    pub a: &'a [f32],
    /// (heads): the share of the correction, before sigmoid.
    pub b: &'a [f32],
    /// (heads), negative.
    pub decay: &'a [f32],
    /// (heads)
    pub dt_bias: &'a [f32],
    /// Heads of queries and keys, each shared by neighbouring heads of values.
    pub key_heads: usize,
    /// Factor of the queries.
    pub scale: f32,
    /// Factor of the share of the correction.
    pub beta_scale: f32,
    /// Added to the squared lengths of queries and keys.
    pub eps: f32,
}

/// One step of a long short-term memory; parts are the gates i, f, g, o.
#[derive(Clone, Copy, Debug)]
pub struct Lstm<'a> {
    /// (4, hidden): the input's product, with every bias.
    pub input: &'a [f32],
    /// (4, hidden): the product of the previous output.
    pub recurrent: &'a [f32],
}

/// One step of a gated recurrent unit; parts are r, z, n.
#[derive(Clone, Copy, Debug)]
pub struct Gru<'a> {
    /// (3, hidden): the input's product, with every bias but the one below.
    pub input: &'a [f32],
    /// (3, hidden): the product of the previous output.
    pub recurrent: &'a [f32],
    /// (hidden): added to the recurrent part of n, inside the product with r.
    pub bias: Option<&'a [f32]>,
}

/// Which statistics a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square.
    Rms,
    /// Mean and variance.
    Layer,
    /// Root mean square, `eps` added to the root instead of under it.
    RmsEpsOutside,
}

/// A norm over groups of a vector.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Statistics.
    pub kind: NormKind,
    /// (width)
    pub weight: Option<&'a [f32]>,
    /// (width)
    pub bias: Option<&'a [f32]>,
    /// Groups normalised on their own.
    pub groups: usize,
    /// Added to the mean square, or to its root.
    pub eps: f32,
    /// (width): multiplies by silu(gate).
    pub gate: Option<&'a [f32]>,
    /// Whether the gate comes before the norm.
    pub gate_first: bool,
}

/// One step of the real-gated linear recurrent unit.
#[derive(Clone, Copy, Debug)]
pub struct RgLru<'a> {
    /// (width), before its sigmoid.
    pub input_gate: &'a [f32],
    /// (width), before its sigmoid.
    pub recurrence_gate: &'a [f32],
    /// (width), not positive: logarithm of the decay at an open gate.
    pub decay: &'a [f32],
    /// Whether this is the stream's first step.
    pub is_first: bool,
}

/// A rotary position embedding at one position.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// (rotated dimensions / 2): turns per position, in units of 2^-64 turn.
    pub turns_per_step: &'a [u64],
    /// Position since the stream began.
    pub position: u64,
    /// Width of a head.
    pub head_dim: usize,
}

/// Cached keys and values, `(kv_heads, capacity, head_dim)`.
#[derive(Clone, Copy, Debug)]
pub enum Cache<'a> {
    /// As they are.
    F32 {
        /// (kv_heads, capacity, head_dim)
        keys: &'a [f32],
        /// (kv_heads, capacity, head_dim)
        values: &'a [f32],
    },
    /// Rounded per position and head.
    Int8 {
        /// (kv_heads, capacity)
        key_scales: &'a [f32],
        /// (kv_heads, capacity)
        value_scales: &'a [f32],
        /// (kv_heads, capacity, head_dim)
        keys: &'a [i8],
        /// (kv_heads, capacity, head_dim)
        values: &'a [i8],
    },
    /// Rounded to 4 bits per position, head and group.
    #[cfg(feature = "narrow-states")]
    Int4(Int4<'a>),
}

/// Keys and values in 4 bits: groups of 32 numbers of a head, the last filled up, share a scale.
#[cfg(feature = "narrow-states")]
#[derive(Clone, Copy, Debug)]
pub struct Int4<'a> {
    /// (kv_heads, capacity, groups), bits of halves.
    pub key_scales: &'a [u16],
    /// (kv_heads, capacity, groups), bits of halves.
    pub value_scales: &'a [u16],
    /// (kv_heads, capacity, groups)
    pub keys: &'a [portable::int4::Codes],
    /// (kv_heads, capacity, groups)
    pub values: &'a [portable::int4::Codes],
}

/// Attention of one position over a cache.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// (heads, head_dim)
    pub q: &'a [f32],
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Cached positions in use, this one included.
    pub len: usize,
    /// Cached positions there is room for.
    pub capacity: usize,
    /// The cache.
    pub cache: Cache<'a>,
}

/// The kernels of one back-end. Holding a table is the proof that the CPU can run it: [`crate::detect`] and
/// [`crate::available`] are the only ways to get one.
#[derive(Debug)]
pub struct KernelTable {
    pub(crate) name: &'static str,
    pub(crate) quantize_activations: unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i32]),
    pub(crate) matmul: unsafe fn(&Matrix<'_>, Activations<'_>, RowsMut<'_>),
    pub(crate) conv1d: unsafe fn(&Conv1d<'_>, RowsMut<'_>, RowsMut<'_>),
    pub(crate) scan: unsafe fn(&Scan<'_>, StateMut<'_>, RowsMut<'_>),
    pub(crate) ssd: unsafe fn(&Ssd<'_>, &mut [StateMut<'_>], RowsMut<'_>),
    pub(crate) gated_delta_step: unsafe fn(&GatedDelta<'_>, StateMut<'_>, &mut [f32]),
    pub(crate) lstm_step: unsafe fn(&Lstm<'_>, &mut [f32], &mut [f32]),
    pub(crate) gru_step: unsafe fn(&Gru<'_>, &mut [f32]),
    pub(crate) diag_step: unsafe fn(&DiagSsm<'_>, &mut [f32], &mut [f32]),
    pub(crate) norm: unsafe fn(&Norm<'_>, &mut [f32]),
    pub(crate) attend: unsafe fn(&Attention<'_>, &mut [f32], &mut [f32]),
    pub(crate) silu_multiply: unsafe fn(&mut [f32], &[f32]),
    #[cfg(feature = "hadamard")]
    pub(crate) hadamard: unsafe fn(&mut [f32], usize, f32),
    /// Where rows take less time together: rounds the groups of all rows.
    #[cfg(feature = "std")]
    pub(crate) quantize_rows: Option<unsafe fn(Rows<'_>, &mut [i8], &mut [f32], &mut [i32])>,
    /// The same for a convolution of a token of each of several streams. It says whether it is for such a one; if not, it has done nothing.
    #[cfg(feature = "std")]
    pub(crate) conv1d_streams: Option<unsafe fn(&Conv1d<'_>, &mut [StateMut<'_>], &mut RowsMut<'_>) -> bool>,
    /// The same for norms: input, gate and output. It says whether it is for such a norm; if not, it has done nothing.
    #[cfg(feature = "std")]
    pub(crate) norm_rows: Option<unsafe fn(&Norm<'_>, Option<Rows<'_>>, Option<Rows<'_>>, &mut RowsMut<'_>) -> bool>,
}

/// Calls an entry of the table.
macro_rules! call {
    ($table:ident . $entry:ident ( $($argument:expr),* )) => {
        // SAFETY: an entry's only demand is that the CPU has the features it was compiled for, and a table is handed out only
        // after that was asked.
        unsafe { ($table.$entry)($($argument),*) }
    };
}

impl KernelTable {
    /// Name of the back-end.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The same kernels, but for the product: one that looks at what goes in before it calls the product of another table, for instance.
    pub const fn with_matmul(&self, matmul: fn(&Matrix<'_>, Activations<'_>, RowsMut<'_>)) -> KernelTable {
        KernelTable { matmul, ..*self }
    }

    /// Rounds `x` to int8 per group of 32: codes, one scale and the sum of codes per group. `codes` is padded to whole groups.
    #[inline]
    pub fn quantize_activations(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        debug_assert_eq!(codes.len(), x.len().next_multiple_of(GROUP));
        call!(self.quantize_activations(x, codes, scales, sums));
    }

    /// [`KernelTable::quantize_activations`] of every row of `x`; the rest is (rows, groups).
    #[cfg(feature = "std")]
    #[inline]
    pub fn quantize_rows(&self, x: Rows<'_>, codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        let groups = x.width().div_ceil(GROUP).max(1);
        // Few groups alone take less time.
        if let (Some(quantize_rows), true) = (self.quantize_rows, x.rows() * groups > 2) {
            // SAFETY: as for the others.
            return unsafe { quantize_rows(x, codes, scales, sums) };
        }
        let planes = codes.chunks_exact_mut(groups * GROUP).zip(scales.chunks_exact_mut(groups)).zip(sums.chunks_exact_mut(groups));
        for (row, ((codes, scales), sums)) in planes.enumerate().take(x.rows()) {
            self.quantize_activations(x.row(row), codes, scales, sums);
        }
    }

    /// `out[t] = matrix * x[t]` for every vector `t` of `x`; `out` is (vectors, rows of the matrix).
    #[inline]
    pub fn matmul(&self, matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
        call!(self.matmul(matrix, x, out));
    }

    /// Some steps of a causal convolution; `state` is (taps - 1, channels), `x` (tokens, channels) is replaced by the output.
    #[inline]
    pub fn conv1d(&self, conv: &Conv1d<'_>, state: RowsMut<'_>, x: RowsMut<'_>) {
        call!(self.conv1d(conv, state, x));
    }

    /// [`KernelTable::conv1d`] for a token of each of several streams, if that takes less time than one after the other; returns whether it does.
    #[cfg(feature = "std")]
    pub fn conv1d_streams(&self, conv: &Conv1d<'_>, states: &mut [StateMut<'_>], x: &mut RowsMut<'_>) -> bool {
        // SAFETY: as for the others.
        self.conv1d_streams.is_some_and(|conv1d_streams| unsafe { conv1d_streams(conv, states, x) })
    }

    /// Some steps of the selective scan; `h` is (d_state, channels), `y` is (tokens, channels).
    #[inline]
    pub fn scan(&self, scan: &Scan<'_>, h: StateMut<'_>, y: RowsMut<'_>) {
        call!(self.scan(scan, h, y));
    }

    /// Some steps of the dual recurrence; a state is (heads, d_state * head_dim), `y` is (tokens, heads * head_dim). Several states
    /// are those of as many streams: each takes its share of the tokens, the first the first ones.
    #[inline]
    pub fn ssd(&self, ssd: &Ssd<'_>, states: &mut [StateMut<'_>], y: RowsMut<'_>) {
        call!(self.ssd(ssd, states, y));
    }

    /// One step of a diagonal state-space model; `state` is (modes, 2, channels), `y` is (channels), or as `state` without `c`.
    #[inline]
    pub fn diag_step(&self, ssm: &DiagSsm<'_>, state: &mut [f32], y: &mut [f32]) {
        call!(self.diag_step(ssm, state, y));
    }

    /// One step of the gated delta rule; `state` is (heads, key_dim * value_dim), `y` is (heads, value_dim).
    #[inline]
    pub fn gated_delta_step(&self, delta: &GatedDelta<'_>, state: StateMut<'_>, y: &mut [f32]) {
        call!(self.gated_delta_step(delta, state, y));
    }

    /// One step of a long short-term memory; `c` and `h` are (hidden), `h` is replaced.
    #[inline]
    pub fn lstm_step(&self, lstm: &Lstm<'_>, c: &mut [f32], h: &mut [f32]) {
        call!(self.lstm_step(lstm, c, h));
    }

    /// One step of a gated recurrent unit; `h` is (hidden).
    #[inline]
    pub fn gru_step(&self, gru: &Gru<'_>, h: &mut [f32]) {
        call!(self.gru_step(gru, h));
    }

    /// Normalises `x` in place.
    #[inline]
    pub fn norm(&self, norm: &Norm<'_>, x: &mut [f32]) {
        call!(self.norm(norm, x));
    }

    /// Normalises every row of `x` into `out`, or those of `out` in place; `gate` is the rows' gates, in the place of the norm's own.
    #[cfg(feature = "std")]
    pub fn norm_rows(&self, norm: &Norm<'_>, x: Option<Rows<'_>>, gate: Option<Rows<'_>>, mut out: RowsMut<'_>) {
        if let Some(norm_rows) = self.norm_rows {
            // SAFETY: as for the others.
            if unsafe { norm_rows(norm, x, gate, &mut out) } {
                return;
            }
        }
        for row in 0..out.rows() {
            let y = out.row_mut(row);
            if let Some(x) = x {
                y.iter_mut().zip(x.row(row)).for_each(|(y, x)| *y = *x);
            }
            self.norm(&Norm { gate: gate.map(|gate| gate.row(row)), ..*norm }, y);
        }
    }

    /// Attention of one position; `scores` has room for `len` numbers, `out` is (heads, head_dim).
    #[inline]
    pub fn attend(&self, attention: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
        call!(self.attend(attention, scores, out));
    }

    /// `x[i] <- silu(x[i]) * y[i]`.
    #[inline]
    pub fn silu_multiply(&self, x: &mut [f32], y: &[f32]) {
        call!(self.silu_multiply(x, y));
    }

    /// `x <- scale * H * x` for each block of `x`, a power of two wide, by butterflies of width 1, 2, 4, ..
    #[cfg(feature = "hadamard")]
    #[inline]
    pub fn hadamard(&self, x: &mut [f32], block: usize, scale: f32) {
        call!(self.hadamard(x, block, scale));
    }

    /// One step of the real-gated linear recurrent unit; `h` is (width), `x` (width) is replaced by the output.
    #[inline]
    pub fn rg_lru_step(&self, unit: &RgLru<'_>, h: &mut [f32], x: &mut [f32]) {
        portable::rg_lru_step(unit, h, x);
    }

    /// Rotates the heads of `x` in place.
    #[inline]
    pub fn rotate(&self, rotary: &Rotary<'_>, x: &mut [f32]) {
        portable::rotate(rotary, x);
    }
}

/// Builds a [`KernelTable`] by compiling the portable kernels once more, with the given attributes on each.
///
/// The kernels have one order of additions and no fused operation, so wider registers cannot change a bit. `$expand` turns a
/// tile of 4-bit codes into 8-bit ones, `$half` converts states in half precision.
macro_rules! compile_table {
    ($name:literal, $expand:path, $half:ty $(, #[$attribute:meta])*) => {{
        use $crate::rows::RowsMut;
        use $crate::state::StateMut;
        use $crate::table::{Activations, Attention, Conv1d, DiagSsm, GatedDelta, Gru, Lstm, Norm, Scan, Ssd};
        $(#[$attribute])*
        fn quantize_activations(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
            $crate::portable::quantize_activations(x, codes, scales, sums);
        }
        $(#[$attribute])*
        fn matmul(matrix: &$crate::quant::Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
            $crate::portable::matmul(matrix, x, out, |tile, table, out| $expand(tile, table, out));
        }
        $(#[$attribute])*
        fn conv1d(conv: &Conv1d<'_>, state: RowsMut<'_>, x: RowsMut<'_>) {
            $crate::portable::conv1d(conv, state, x);
        }
        $(#[$attribute])*
        fn scan(scan: &Scan<'_>, h: StateMut<'_>, y: RowsMut<'_>) {
            with_rows!(h, $half, |h, Stored| $crate::portable::scan::<Stored>(scan, h, y));
        }
        $(#[$attribute])*
        fn ssd(ssd: &Ssd<'_>, states: &mut [StateMut<'_>], y: RowsMut<'_>) {
            ssd.each_stream(states, y, |ssd, state, y| {
                with_rows!(state, $half, |state, Stored| $crate::portable::ssd::<Stored>(ssd, state, y));
            });
        }
        $(#[$attribute])*
        fn diag_step(ssm: &DiagSsm<'_>, state: &mut [f32], y: &mut [f32]) {
            $crate::portable::diag_step(ssm, state, y);
        }
        $(#[$attribute])*
        fn gated_delta_step(delta: &GatedDelta<'_>, state: StateMut<'_>, y: &mut [f32]) {
            with_rows!(state, $half, |state, Stored| $crate::portable::gated_delta_step::<Stored>(delta, state, y));
        }
        $(#[$attribute])*
        fn lstm_step(lstm: &Lstm<'_>, c: &mut [f32], h: &mut [f32]) {
            $crate::portable::lstm_step(lstm, c, h);
        }
        $(#[$attribute])*
        fn gru_step(gru: &Gru<'_>, h: &mut [f32]) {
            $crate::portable::gru_step(gru, h);
        }
        $(#[$attribute])*
        fn norm(norm: &Norm<'_>, x: &mut [f32]) {
            $crate::portable::norm(norm, x);
        }
        $(#[$attribute])*
        fn attend(attention: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
            $crate::portable::attend::<$crate::portable::Plain>(attention, scores, out);
        }
        $(#[$attribute])*
        fn silu_multiply(x: &mut [f32], y: &[f32]) {
            for (x, &y) in x.iter_mut().zip(y) {
                *x = $crate::portable::act::silu(*x) * y;
            }
        }
        #[cfg(feature = "hadamard")]
        $(#[$attribute])*
        fn hadamard(x: &mut [f32], block: usize, scale: f32) {
            $crate::portable::hadamard(x, block, scale);
        }
        $crate::table::KernelTable {
            name: $name,
            quantize_activations,
            matmul,
            conv1d,
            scan,
            ssd,
            diag_step,
            gated_delta_step,
            lstm_step,
            gru_step,
            norm,
            attend,
            silu_multiply,
            #[cfg(feature = "hadamard")]
            hadamard,
            #[cfg(feature = "std")]
            quantize_rows: None,
            #[cfg(feature = "std")]
            conv1d_streams: None,
            #[cfg(feature = "std")]
            norm_rows: None,
        }
    }};
}
