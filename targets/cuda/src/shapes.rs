//! What kernels are told of operations whose shapes are asked for in more than one place.

use crate::arena::Address;
use crate::launch::{AttentionShape, ConvShape, SsdShape};
use crate::model::CudaModel;
use brooklet::artifact::{Keep, SlotKind};
use brooklet::ops;

impl CudaModel<'_> {
    pub(crate) fn conv(&self, op: &ops::Conv1d) -> ConvShape {
        let tensors = &self.tensors;
        ConvShape {
            x: op.x.at,
            channels: op.x.len,
            taps: op.taps,
            silu: op.silu,
            weight: tensors.address(op.weight),
            bias: tensors.maybe(op.bias),
            slot: self.slot(op.state).at,
        }
    }

    pub(crate) fn ssd(&self, op: &ops::Ssd) -> SsdShape {
        let tensors = &self.tensors;
        SsdShape {
            x: op.x.at,
            dt: op.dt.at,
            b: op.b.at,
            c: op.c.at,
            out: op.out.at,
            heads: op.dt.len,
            head_dim: op.x.len / op.dt.len.max(1),
            groups: op.groups,
            d_state: op.b.len / op.groups.max(1),
            is_half: self.is_half(op.state),
            z: 0,
            has_gate: 0,
            dt_lo: op.dt_lo,
            dt_hi: op.dt_hi,
            a: tensors.address(op.a),
            d: tensors.address(op.d),
            dt_bias: tensors.address(op.dt_bias),
            slot: self.slot(op.state).at,
        }
    }

    pub(crate) fn attention(&self, op: &ops::Attention) -> AttentionShape {
        let slot = self.slot(op.cache);
        let turns = op.rotary.map(|rotary| self.tensors.get(rotary.turns));
        AttentionShape {
            q: op.q.at,
            k: op.k.at,
            v: op.v.at,
            out: op.out.at,
            heads: op.heads,
            kv_heads: slot.heads,
            head_dim: slot.head_dim,
            half: turns.map_or(0, |turns| turns.rows * turns.cols),
            kind: match slot.kind {
                SlotKind::CacheInt8 => 1,
                SlotKind::CacheInt4 => 2,
                _ => 0,
            },
            capacity: slot.capacity,
            sink: slot.sink,
            slides: u32::from(slot.keep == Keep::SinkAndWindow),
            turns: turns.map_or(Address::NULL, |turns| turns.address),
            slot: slot.at,
            scale: op.scale,
        }
    }
}
