//! Attention over a bounded cache, one step.

use super::check::{Checker, divide, finite};
use super::linear::cut;
use super::run::{Batch, WORTH_SHARING, frame_rows};
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::{Artifact, Keep, MAX_CONTEXT, Slot, SlotKind};
use crate::error::OpFault;
use crate::kernels::portable::act::round_to_i8;
#[cfg(feature = "narrow-states")]
use crate::kernels::portable::int4;
use crate::kernels::quant::GROUP;
use crate::kernels::{self, Cache};
use crate::mem::{BUFFER_ALIGN, copy, take};
use crate::team::shares;
use serde::{Deserialize, Serialize};

/// A rotary position embedding of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotary {
    /// Turns (rotated dimensions / 2): the angle per position, in units of 2^-64 turn.
    pub turns: TensorId,
}

/// Attention over a bounded cache of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention<V = Span> {
    /// (heads, head_dim); rotated in place.
    pub q: V,
    /// (kv_heads, head_dim); rotated in place.
    pub k: V,
    /// (kv_heads, head_dim)
    pub v: V,
    /// (heads, head_dim)
    pub out: V,
    /// Query heads.
    pub heads: u32,
    /// Factor of the scores.
    pub scale: f32,
    /// Position embedding, if any.
    pub rotary: Option<Rotary>,
    /// The cache.
    pub cache: SlotId,
}

impl<V> Attention<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Attention<W> {
        Attention {
            q: place(self.q, Access::Update),
            k: place(self.k, Access::Update),
            v: place(self.v, Access::Read),
            out: place(self.out, Access::Write),
            heads: self.heads,
            scale: self.scale,
            rotary: self.rotary,
            cache: self.cache,
        }
    }
}

/// Bytes of a cache: for rounded ones the scales of keys and of values, then keys, then values, each (heads, capacity, ..).
pub(crate) fn cache_bytes(slot: &Slot) -> Option<u64> {
    let positions = u64::from(slot.heads).checked_mul(u64::from(slot.capacity))?;
    let elements = positions.checked_mul(u64::from(slot.head_dim))?;
    let round = |bytes: u64| bytes.checked_next_multiple_of(BUFFER_ALIGN as u64);
    match slot.kind {
        SlotKind::Numbers | SlotKind::NumbersF16 => None,
        SlotKind::CacheF32 => round(elements.checked_mul(4)?)?.checked_mul(2),
        SlotKind::CacheInt8 => round(positions.checked_mul(4)?)?.checked_add(round(elements)?)?.checked_mul(2),
        SlotKind::CacheInt4 => {
            let groups = positions.checked_mul(u64::from(slot.head_dim).div_ceil(GROUP as u64))?;
            round(groups.checked_mul(2)?)?.checked_add(groups.checked_mul(GROUP as u64 / 2)?)?.checked_mul(2)
        }
    }
}

/// Bytes of the scales at the start of an 8-bit cache.
pub(crate) fn cache_scale_bytes(slot: &Slot) -> Option<u64> {
    let positions = u64::from(slot.heads).checked_mul(u64::from(slot.capacity))?;
    positions.checked_mul(4)?.checked_next_multiple_of(BUFFER_ALIGN as u64)?.checked_mul(2)
}

/// Query heads of one key-value head that go through the cache together, where a back-end can: their scores are kept at once.
const TOGETHER: u32 = 4;

impl Attention {
    /// Numbers of working space that a thread needs for scores over the cache in `slot`.
    pub(crate) fn scores(&self, slot: &Slot) -> u32 {
        let sharing = self.heads.checked_div(slot.heads).unwrap_or(1);
        slot.capacity.saturating_mul(sharing.min(TOGETHER))
    }

    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        finite(self.scale)?;
        let head_dim = divide(self.q.len, self.heads)?;
        let kv_heads = divide(self.k.len, head_dim)?;
        divide(self.heads, kv_heads)?;
        if self.v.len != self.k.len || self.out.len != self.q.len {
            return Err(OpFault::Shape);
        }
        if let Some(rotary) = self.rotary {
            let rotated = checker.turns(rotary.turns)?.len() as u64 * 2;
            if rotated > u64::from(head_dim) {
                return Err(OpFault::Shape);
            }
        }
        let slot = checker.slot(self.cache)?;
        if slot.kind == SlotKind::CacheInt4 && cfg!(not(feature = "narrow-states")) {
            return Err(OpFault::NarrowState);
        }
        let is_cache = matches!(slot.kind, SlotKind::CacheF32 | SlotKind::CacheInt8 | SlotKind::CacheInt4);
        let slides = slot.keep == Keep::SinkAndWindow;
        let fits = is_cache
            && (slot.heads, slot.head_dim) == (kv_heads, head_dim)
            && (1..=MAX_CONTEXT).contains(&slot.capacity)
            && (!slides || slot.sink < slot.capacity);
        if fits { Ok(()) } else { Err(OpFault::Slot) }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let tensors = batch.tensors;
        let slot = tensors.slot(self.cache)?;
        let turns = match self.rotary {
            Some(rotary) => Some(tensors.turns(rotary.turns)?),
            None => None,
        };
        let at = usize::try_from(slot.at).ok()?;
        let bytes = usize::try_from(cache_bytes(&slot)?).ok()?;
        let (head_dim, kv_heads, capacity) = (slot.head_dim as usize, slot.heads as usize, slot.capacity as usize);
        let queries = (self.heads as usize).checked_div(kv_heads)?.checked_mul(head_dim)?;
        let scores_len = self.scores(&slot) as usize;
        let (kernels, team, stride, tokens) = (batch.kernels, batch.team, batch.stride.get(), batch.tokens);
        for stream in 0..batch.streams.len() {
            let (position, cached) = (batch.position(stream)?, batch.cached(stream)?);
            let cache = batch.streams.get_mut(stream)?.state.get_mut(at..at.checked_add(bytes)?)?;
            let mut store = Store::new(&slot, cache)?;
            let frames = batch.frames.get_mut(stream * tokens * stride..)?;
            let spans = [self.q, self.k, self.v, self.out].map(Span::range);
            let [mut q, mut k, mut v, mut out] = frame_rows(frames, tokens, stride)?.columns(spans)?;
            // Few positions are no work worth sharing.
            let filled = cached.saturating_add(tokens as u64).min(u64::from(slot.capacity)) as usize;
            let is_worth_it = filled * tokens * (self.q.len as usize) >= WORTH_SHARING;
            let mut scores = &mut *batch.scores;
            let parts = shares(kv_heads, if is_worth_it { team.size() } else { 1 }).map(|part| {
                let heads = part.len();
                let [q, out] = [&mut q, &mut out].map(|rows| rows.take_columns(heads * queries));
                let [k, v] = [&mut k, &mut v].map(|rows| rows.take_columns(heads * head_dim));
                Some((store.take_heads(heads)?, q?, k?, v?, out?, cut(&mut scores, scores_len)?))
            });
            team.share(parts, |(mut store, mut q, mut k, v, mut out, scores)| {
                for token in 0..tokens {
                    let (position, cached) = (position + token as u64, cached + token as u64);
                    if let Some(turns_per_step) = turns {
                        let rotary = kernels::Rotary { turns_per_step, position, head_dim };
                        kernels.rotate(&rotary, q.row_mut(token));
                        kernels.rotate(&rotary, k.row_mut(token));
                    }
                    let Some(()) = slot_position(&slot, cached).and_then(|at| store.put(at, k.row(token), v.row(token))) else { return };
                    let attention = kernels::Attention {
                        q: q.row(token),
                        kv_heads: store.heads,
                        head_dim,
                        scale: self.scale,
                        len: cached.saturating_add(1).min(u64::from(slot.capacity)) as usize,
                        capacity,
                        cache: store.view(),
                    };
                    kernels.attend(&attention, scores, out.row_mut(token));
                }
            })?;
        }
        Some(())
    }

    /// Projections are operations of their own; the cost of a full cache.
    pub(super) fn macs(&self, artifact: &Artifact<'_>) -> u64 {
        let capacity = artifact.header().slots.get(self.cache).map_or(0, |s| s.capacity);
        2 * u64::from(self.q.len) * u64::from(capacity)
    }
}

/// Where the cache keeps `position`.
fn slot_position(slot: &Slot, position: u64) -> Option<usize> {
    let (capacity, sink) = (u64::from(slot.capacity), u64::from(slot.sink));
    let at = match slot.keep {
        _ if position < capacity => position,
        Keep::Stop => return None,
        Keep::SinkAndWindow => sink + position.saturating_sub(sink).checked_rem(capacity.checked_sub(sink)?)?,
    };
    usize::try_from(at).ok()
}

/// A cache's memory, or that of some of its heads, cut into its parts.
struct Store<'s> {
    heads: usize,
    capacity: usize,
    head_dim: usize,
    parts: Parts<'s>,
}

enum Parts<'s> {
    F32 {
        keys: &'s mut [f32],
        values: &'s mut [f32],
    },
    Int8 {
        key_scales: &'s mut [f32],
        value_scales: &'s mut [f32],
        keys: &'s mut [i8],
        values: &'s mut [i8],
    },
    #[cfg(feature = "narrow-states")]
    Int4 {
        key_scales: &'s mut [u16],
        value_scales: &'s mut [u16],
        keys: &'s mut [int4::Codes],
        values: &'s mut [int4::Codes],
    },
}

impl<'s> Store<'s> {
    fn new(slot: &Slot, mut bytes: &'s mut [u8]) -> Option<Self> {
        let (heads, capacity, head_dim) = (slot.heads as usize, slot.capacity as usize, slot.head_dim as usize);
        let positions = heads * capacity;
        let parts = match slot.kind {
            SlotKind::Numbers | SlotKind::NumbersF16 => return None,
            SlotKind::CacheF32 => {
                let keys = take(&mut bytes, positions * head_dim)?;
                let values = take(&mut bytes, positions * head_dim)?;
                Parts::F32 { keys, values }
            }
            SlotKind::CacheInt8 => {
                let key_scales = take(&mut bytes, positions)?;
                let value_scales = take(&mut bytes, positions)?;
                let keys = take(&mut bytes, positions * head_dim)?;
                let values = take(&mut bytes, positions * head_dim)?;
                Parts::Int8 { key_scales, value_scales, keys, values }
            }
            #[cfg(not(feature = "narrow-states"))]
            SlotKind::CacheInt4 => return None,
            #[cfg(feature = "narrow-states")]
            SlotKind::CacheInt4 => {
                let groups = positions * head_dim.div_ceil(GROUP);
                let key_scales = take(&mut bytes, groups)?;
                let value_scales = take(&mut bytes, groups)?;
                let keys = take(&mut bytes, groups)?;
                let values = take(&mut bytes, groups)?;
                Parts::Int4 { key_scales, value_scales, keys, values }
            }
        };
        Some(Store { heads, capacity, head_dim, parts })
    }

    /// Takes the first `heads` heads away from the store.
    fn take_heads(&mut self, heads: usize) -> Option<Store<'s>> {
        self.heads = self.heads.checked_sub(heads)?;
        let positions = heads.checked_mul(self.capacity)?;
        let cells = positions.checked_mul(self.head_dim)?;
        let parts = match &mut self.parts {
            Parts::F32 { keys, values } => Parts::F32 { keys: cut(keys, cells)?, values: cut(values, cells)? },
            Parts::Int8 { key_scales, value_scales, keys, values } => Parts::Int8 {
                key_scales: cut(key_scales, positions)?,
                value_scales: cut(value_scales, positions)?,
                keys: cut(keys, cells)?,
                values: cut(values, cells)?,
            },
            #[cfg(feature = "narrow-states")]
            Parts::Int4 { key_scales, value_scales, keys, values } => {
                let groups = positions.checked_mul(self.head_dim.div_ceil(GROUP))?;
                Parts::Int4 {
                    key_scales: cut(key_scales, groups)?,
                    value_scales: cut(value_scales, groups)?,
                    keys: cut(keys, groups)?,
                    values: cut(values, groups)?,
                }
            }
        };
        Some(Store { heads, parts, ..*self })
    }

    /// Stores one position's keys and values, (kv_heads, head_dim) each.
    fn put(&mut self, position: usize, k: &[f32], v: &[f32]) -> Option<()> {
        let (capacity, head_dim) = (self.capacity, self.head_dim);
        let mut v = v.chunks_exact(head_dim.max(1));
        for (head, k) in k.chunks_exact(head_dim.max(1)).enumerate() {
            let v = v.next()?;
            let at = head * capacity + position;
            let cells = at * head_dim..(at + 1) * head_dim;
            match &mut self.parts {
                Parts::F32 { keys, values } => {
                    copy(keys.get_mut(cells.clone())?, k)?;
                    copy(values.get_mut(cells)?, v)?;
                }
                Parts::Int8 { key_scales, value_scales, keys, values } => {
                    *key_scales.get_mut(at)? = round_head(k, keys.get_mut(cells.clone())?);
                    *value_scales.get_mut(at)? = round_head(v, values.get_mut(cells)?);
                }
                #[cfg(feature = "narrow-states")]
                Parts::Int4 { key_scales, value_scales, keys, values } => {
                    let count = head_dim.div_ceil(GROUP);
                    let groups = at * count..(at + 1) * count;
                    round_groups(k, keys.get_mut(groups.clone())?, key_scales.get_mut(groups.clone())?);
                    round_groups(v, values.get_mut(groups.clone())?, value_scales.get_mut(groups)?);
                }
            }
        }
        Some(())
    }

    fn view(&self) -> Cache<'_> {
        match &self.parts {
            Parts::F32 { keys, values } => Cache::F32 { keys, values },
            Parts::Int8 { key_scales, value_scales, keys, values } => Cache::Int8 { key_scales, value_scales, keys, values },
            #[cfg(feature = "narrow-states")]
            Parts::Int4 { key_scales, value_scales, keys, values } => Cache::Int4(kernels::Int4 { key_scales, value_scales, keys, values }),
        }
    }
}

/// Rounds one head to 4 bits.
#[cfg(feature = "narrow-states")]
fn round_groups(x: &[f32], codes: &mut [int4::Codes], scales: &mut [u16]) {
    for (x, (codes, scale)) in x.chunks(GROUP).zip(codes.iter_mut().zip(scales)) {
        *scale = int4::round_group(x, codes);
    }
}

/// Rounds one head to 8 bits and returns its scale.
fn round_head(x: &[f32], codes: &mut [i8]) -> f32 {
    let largest = x.iter().fold(0.0f32, |m, x| if x.abs() > m { x.abs() } else { m });
    // Smaller would overflow the reciprocal.
    let inverse = if largest < 1.0e-30 { 0.0 } else { 127.0 / largest };
    for (code, x) in codes.iter_mut().zip(x) {
        *code = round_to_i8(x * inverse);
    }
    largest / 127.0
}
