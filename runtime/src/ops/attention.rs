//! Attention over a bounded cache, one step.

use super::check::{Checker, divide, finite};
use super::run::Batch;
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::{Artifact, Keep, MAX_CONTEXT, Slot, SlotKind};
use crate::error::OpFault;
use crate::kernels::portable::act::round_to_i8;
use crate::kernels::{self, Cache};
use crate::mem::{BUFFER_ALIGN, copy, take};
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

/// Bytes of a cache: for 8-bit caches the scales of keys and of values, then keys, then values, each (heads, capacity, ..).
pub(crate) fn cache_bytes(slot: &Slot) -> Option<u64> {
    let positions = u64::from(slot.heads).checked_mul(u64::from(slot.capacity))?;
    let elements = positions.checked_mul(u64::from(slot.head_dim))?;
    let round = |bytes: u64| bytes.checked_next_multiple_of(BUFFER_ALIGN as u64);
    match slot.kind {
        SlotKind::Numbers => None,
        SlotKind::CacheF32 => round(elements.checked_mul(4)?)?.checked_mul(2),
        SlotKind::CacheInt8 => round(positions.checked_mul(4)?)?.checked_add(round(elements)?)?.checked_mul(2),
    }
}

/// Bytes of the scales at the start of an 8-bit cache.
pub(crate) fn cache_scale_bytes(slot: &Slot) -> Option<u64> {
    let positions = u64::from(slot.heads).checked_mul(u64::from(slot.capacity))?;
    positions.checked_mul(4)?.checked_next_multiple_of(BUFFER_ALIGN as u64)?.checked_mul(2)
}

impl Attention {
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
        let is_cache = matches!(slot.kind, SlotKind::CacheF32 | SlotKind::CacheInt8);
        let slides = slot.keep == Keep::SinkAndWindow;
        let fits = is_cache
            && (slot.heads, slot.head_dim) == (kv_heads, head_dim)
            && (1..=MAX_CONTEXT).contains(&slot.capacity)
            && (!slides || slot.sink < slot.capacity);
        if fits { Ok(()) } else { Err(OpFault::Slot) }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let artifact = batch.artifact;
        let slot = artifact.header().slots.get(self.cache)?;
        let turns = match self.rotary {
            Some(rotary) => Some(artifact.turns(rotary.turns)?),
            None => None,
        };
        let at = usize::try_from(slot.at).ok()?;
        let bytes = usize::try_from(cache_bytes(&slot)?).ok()?;
        let cache = batch.state.get_mut(at..at.checked_add(bytes)?)?;
        let mut store = Store::new(&slot, cache)?;
        let head_dim = slot.head_dim as usize;
        for (token, frame) in batch.frames.chunks_mut(batch.stride.get()).take(batch.tokens).enumerate() {
            let (position, cached) = (batch.position + token as u64, batch.cached + token as u64);
            let spans = [self.q, self.k, self.v, self.out].map(Span::range);
            let [q, k, v, out] = frame.get_disjoint_mut(spans).ok()?;
            if let Some(turns_per_step) = turns {
                let rotary = kernels::Rotary { turns_per_step, position, head_dim };
                batch.kernels.rotate(&rotary, q);
                batch.kernels.rotate(&rotary, k);
            }
            store.put(slot_position(&slot, cached)?, k, v)?;
            let attention = kernels::Attention {
                q,
                kv_heads: slot.heads as usize,
                head_dim,
                scale: self.scale,
                len: cached.saturating_add(1).min(u64::from(slot.capacity)) as usize,
                capacity: slot.capacity as usize,
                cache: store.view(),
            };
            batch.kernels.attend(&attention, batch.scores, out);
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

/// A cache's memory, cut into its parts.
enum Store<'s> {
    F32 {
        keys: &'s mut [f32],
        values: &'s mut [f32],
        capacity: usize,
        head_dim: usize,
    },
    Int8 {
        key_scales: &'s mut [f32],
        value_scales: &'s mut [f32],
        keys: &'s mut [i8],
        values: &'s mut [i8],
        capacity: usize,
        head_dim: usize,
    },
}

impl<'s> Store<'s> {
    fn new(slot: &Slot, mut bytes: &'s mut [u8]) -> Option<Self> {
        let (capacity, head_dim) = (slot.capacity as usize, slot.head_dim as usize);
        let positions = slot.heads as usize * capacity;
        match slot.kind {
            SlotKind::Numbers => None,
            SlotKind::CacheF32 => {
                let keys = take(&mut bytes, positions * head_dim)?;
                let values = take(&mut bytes, positions * head_dim)?;
                Some(Store::F32 { keys, values, capacity, head_dim })
            }
            SlotKind::CacheInt8 => {
                let key_scales = take(&mut bytes, positions)?;
                let value_scales = take(&mut bytes, positions)?;
                let keys = take(&mut bytes, positions * head_dim)?;
                let values = take(&mut bytes, positions * head_dim)?;
                Some(Store::Int8 { key_scales, value_scales, keys, values, capacity, head_dim })
            }
        }
    }

    /// Stores one position's keys and values, (kv_heads, head_dim) each.
    fn put(&mut self, position: usize, k: &[f32], v: &[f32]) -> Option<()> {
        match self {
            Store::F32 { keys, values, capacity, head_dim } => {
                let mut v = v.chunks_exact((*head_dim).max(1));
                for (head, k) in k.chunks_exact((*head_dim).max(1)).enumerate() {
                    let v = v.next()?;
                    let at = (head * *capacity + position) * *head_dim;
                    copy(keys.get_mut(at..at + *head_dim)?, k)?;
                    copy(values.get_mut(at..at + *head_dim)?, v)?;
                }
            }
            Store::Int8 { key_scales, value_scales, keys, values, capacity, head_dim } => {
                let mut v = v.chunks_exact((*head_dim).max(1));
                for (head, k) in k.chunks_exact((*head_dim).max(1)).enumerate() {
                    let v = v.next()?;
                    let at = head * *capacity + position;
                    let codes = at * *head_dim..(at + 1) * *head_dim;
                    *key_scales.get_mut(at)? = round_head(k, keys.get_mut(codes.clone())?);
                    *value_scales.get_mut(at)? = round_head(v, values.get_mut(codes)?);
                }
            }
        }
        Some(())
    }

    fn view(&self) -> Cache<'_> {
        match self {
            Store::F32 { keys, values, .. } => Cache::F32 { keys, values },
            Store::Int8 { key_scales, value_scales, keys, values, .. } => Cache::Int8 { key_scales, value_scales, keys, values },
        }
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
