//! A stream's state as bytes, to continue later or elsewhere, bit for bit.
//!
//! Layout: a postcard header of fixed size (magic, version, model hash, position), the state's bytes, CRC-32 of both.
//!
//! A store that keeps streams without a copy of them in memory (flash, say) writes [`State::bytes`] from where they lie, with
//! [`State::model_hash`] and [`State::position`], under a checksum of its own, and reads them back with [`State::refill`].

use crate::checksum::crc32;
use crate::error::{Error, SnapshotFault};
use crate::mem::aligned;
use crate::model::Model;
use crate::state::State;
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 4] = *b"BRKS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 4 + 4 + 8 + 8;
const CRC_BYTES: usize = 4;

#[derive(Serialize, Deserialize)]
struct SnapshotHeader {
    magic: [u8; 4],
    #[serde(with = "postcard::fixint::le")]
    version: u32,
    #[serde(with = "postcard::fixint::le")]
    model_hash: u64,
    #[serde(with = "postcard::fixint::le")]
    position: u64,
}

/// Bytes of a snapshot of one of the model's streams.
pub fn snapshot_bytes(model: &Model<'_>) -> usize {
    HEADER_BYTES + model.state_bytes() + CRC_BYTES
}

impl<'b> State<'b> {
    /// Writes a snapshot into `out` ([`snapshot_bytes`] of them) and returns its length.
    pub fn snapshot(&self, out: &mut [u8]) -> Result<usize, Error> {
        let needed = HEADER_BYTES + self.bytes.len() + CRC_BYTES;
        let short = Error::BufferTooSmall { what: "snapshot", needed_bytes: needed as u64, have_bytes: out.len() as u64 };
        let out = out.get_mut(..needed).ok_or(short)?;
        let (body, crc) = out.split_at_mut_checked(needed - CRC_BYTES).ok_or(short)?;
        let (header, state) = body.split_at_mut_checked(HEADER_BYTES).ok_or(short)?;
        let fields = SnapshotHeader { magic: MAGIC, version: VERSION, model_hash: self.model_hash, position: self.position };
        postcard::to_slice(&fields, header).map_err(|_| short)?;
        state.copy_from_slice(self.bytes);
        crc.copy_from_slice(&crc32(body).to_le_bytes());
        Ok(needed)
    }

    /// Continues the stream of a snapshot in this state's own memory. On an error the stream is as it was before.
    pub fn load(&mut self, model: &Model<'_>, snapshot: &[u8]) -> Result<(), Error> {
        if self.model_hash != model.artifact().hash() {
            return Err(Error::OtherModel);
        }
        self.position = State::restore(model, snapshot, self.bytes)?.position;
        Ok(())
    }

    /// Continues the stream of a snapshot in `bytes`, as [`State::new`] would take them.
    pub fn restore(model: &Model<'_>, snapshot: &[u8], bytes: &'b mut [u8]) -> Result<Self, Error> {
        let fail = Error::Snapshot;
        let header_bytes = snapshot.get(..HEADER_BYTES).ok_or(fail(SnapshotFault::Format))?;
        let header: SnapshotHeader = postcard::from_bytes(header_bytes).map_err(|_| fail(SnapshotFault::Format))?;
        if header.magic != MAGIC {
            return Err(fail(SnapshotFault::Format));
        }
        if header.version != VERSION {
            return Err(fail(SnapshotFault::Version));
        }
        if header.model_hash != model.artifact().hash() {
            return Err(fail(SnapshotFault::OtherModel));
        }
        if snapshot.len() != snapshot_bytes(model) {
            return Err(fail(SnapshotFault::Format));
        }
        let (body, crc) = snapshot.split_at_checked(snapshot.len() - CRC_BYTES).ok_or(fail(SnapshotFault::Format))?;
        if crc32(body).to_le_bytes() != *crc {
            return Err(fail(SnapshotFault::Checksum));
        }
        let bytes = aligned("state", bytes, model.state_bytes())?;
        bytes.copy_from_slice(body.get(HEADER_BYTES..).ok_or(fail(SnapshotFault::Format))?);
        Ok(State { model_hash: header.model_hash, position: header.position, bytes })
    }

    /// The stream's bytes: with [`State::model_hash`] and [`State::position`], all that a snapshot keeps.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The model that the stream belongs to: [`crate::artifact::Artifact::hash`].
    pub fn model_hash(&self) -> u64 {
        self.model_hash
    }

    /// Continues at `position` with the bytes that `fill` brings, all of them, from a state of the same model.
    ///
    /// If `fill` fails, the stream begins anew.
    pub fn refill<E>(&mut self, position: u64, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
        let filled = fill(self.bytes);
        match filled {
            Ok(()) => self.position = position,
            Err(_) => self.reset(),
        }
        filled
    }
}
