//! GGUF files: a model with its config and tokenizer in one file, or in parts, as llama.cpp's converter writes them.
//!
//! [`container`] checks the file and its other [`parts`], [`names`] finds the tensors that families ask for, [`blocks`] unpacks them, [`config`] writes the config
//! that a `config.json` would hold, [`tokenizer`] the `tokenizer.json`. Families see none of it.

mod blocks;
mod config;
mod container;
mod names;
mod parts;
mod pretokenizers;
mod tokenizer;

use self::container::Gguf;
use self::names::{Change, Entry, Piece};
pub(super) use self::parts::{Part, are_of_one_model};
use super::Config;
use crate::error::Error;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// A GGUF file as a checkpoint.
#[derive(Debug)]
pub(super) struct GgufModel {
    gguf: Gguf,
    entries: BTreeMap<String, Entry>,
}

impl GgufModel {
    /// Opens the file `path`: its tensors, and the config that its metadata describes.
    pub(super) fn open(path: &Path) -> Result<(Self, Config), Error> {
        let gguf = Gguf::open(path)?;
        let made = config::config(&gguf)?;
        let entries = names::entries(&gguf, &names::style(made.model_type), made.layers, made.heads)?;
        Ok((GgufModel { gguf, entries }, made.config))
    }

    pub(super) fn path(&self) -> &Path {
        self.gguf.path()
    }

    /// All files of the model.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.gguf.paths()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.entries.get(name).ok_or_else(|| Error::invalid(self.path(), format!("tensor `{name}`"), "is missing"))
    }

    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>, Error> {
        Ok(self.entry(name)?.shape.clone())
    }

    /// What a tensor is called in messages: by its family, and in the file.
    pub(super) fn thing(&self, name: &str) -> String {
        let mut files: Vec<&str> = Vec::new();
        for piece in self.entries.get(name).map(|entry| entry.pieces.as_slice()).unwrap_or_default() {
            let file = self.gguf.tensors()[piece.tensor].name.as_str();
            if !files.contains(&file) {
                files.push(file);
            }
        }
        format!("tensor `{}` (`{name}` to its family)", files.join("` and `"))
    }

    /// The tensor's numbers, or those in `range` alone; refuses numbers that are not finite.
    pub(super) fn read(&self, name: &str, range: Option<Range<usize>>) -> Result<Vec<f32>, Error> {
        let entry = self.entry(name)?;
        let all: usize = entry.pieces.iter().map(|piece| piece.len).sum();
        let range = range.unwrap_or(0..all);
        if range.start > range.end || range.end > all {
            return Ok(Vec::new());
        }
        let mut data = Vec::with_capacity(range.len());
        match entry.change {
            Change::Heads { head_dim, cols } => {
                for piece in &entry.pieces {
                    self.read_heads(*piece, [head_dim, cols], range.clone(), &mut data);
                }
            }
            Change::None | Change::Log => {
                let mut start = 0;
                for piece in &entry.pieces {
                    let wanted = range.start.clamp(start, start + piece.len)..range.end.clamp(start, start + piece.len);
                    let from = piece.start + wanted.start - start;
                    self.unpack(piece.tensor, from..from + wanted.len(), &mut data);
                    start += piece.len;
                }
            }
        }
        if entry.change == Change::Log {
            if let Some(at) = data.iter().position(|x| *x >= 0.0) {
                let problem = format!("element {} is {}, where a decay is below 0", range.start + at, data[at]);
                return Err(Error::invalid(self.path(), self.thing(name), problem));
            }
            data.iter_mut().for_each(|x| *x = f64::from(-*x).ln() as f32);
        }
        if let Some(at) = data.iter().position(|x| !x.is_finite()) {
            let problem = format!("element {} is {}; the training run diverged or the file is damaged", range.start + at, data[at]);
            return Err(Error::invalid(self.path(), self.thing(name), problem));
        }
        Ok(data)
    }

    /// The numbers `range` of a piece whose rows are (2, head_dim / 2) per head where the file has (head_dim / 2, 2).
    fn read_heads(&self, piece: Piece, [head_dim, cols]: [usize; 2], range: Range<usize>, data: &mut Vec<f32>) {
        let mut at = range.start;
        while at < range.end {
            let (row, col) = (at / cols, at % cols);
            let (head, in_head) = (row / head_dim, row % head_dim);
            let file_row = head * head_dim + in_head % (head_dim / 2) * 2 + in_head / (head_dim / 2);
            let len = (cols - col).min(range.end - at);
            let from = piece.start + file_row * cols + col;
            self.unpack(piece.tensor, from..from + len, data);
            at += len;
        }
    }

    /// Appends the numbers `range` of a tensor in the file.
    fn unpack(&self, tensor: usize, range: Range<usize>, data: &mut Vec<f32>) {
        unpack(&self.gguf, tensor, range, data);
    }

    /// The text of a `tokenizer.json`, if the file has a tokenizer, and what the user should know about it.
    pub(super) fn tokenizer(&self) -> Result<(Option<Vec<u8>>, Vec<String>), Error> {
        tokenizer::json(&self.gguf)
    }
}

fn unpack(gguf: &Gguf, tensor: usize, range: Range<usize>, data: &mut Vec<f32>) {
    let Some(info) = gguf.tensors().get(tensor).filter(|info| range.start < range.end && range.end <= info.len) else { return };
    let (block_len, block_bytes) = (info.kind.block_len(), info.kind.block_bytes());
    // Whole blocks, then without the numbers before the range and behind it.
    let blocks = range.start / block_len..range.end.div_ceil(block_len);
    let bytes = blocks.start * block_bytes..blocks.end * block_bytes;
    let before = data.len();
    info.kind.unpack(gguf.bytes_of(info, bytes), data);
    data.truncate(before + range.end - blocks.start * block_len);
    data.drain(before..before + range.start - blocks.start * block_len);
}

/// All numbers of a tensor; refuses ones that are not finite.
fn numbers_of(gguf: &Gguf, tensor: usize) -> Result<Vec<f32>, Error> {
    let info = &gguf.tensors()[tensor];
    let mut data = Vec::new();
    unpack(gguf, tensor, 0..info.len, &mut data);
    match data.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(Error::invalid(gguf.path(), format!("tensor `{}`", info.name), format!("has the number {x}"))),
        None => Ok(data),
    }
}

#[cfg(test)]
mod tests {
    use super::{Gguf, unpack};
    use std::path::Path;

    /// `quantize/reference/make_gguf.py blocks` has llama.cpp's Python package unpack random blocks of every type.
    #[test]
    fn blocks_unpack_to_the_reference_s_bits() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf");
        let gguf = Gguf::open(&fixtures.join("blocks.gguf")).unwrap();
        let npy = std::fs::read(fixtures.join("blocks.npy")).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([npy[8], npy[9]]));
        let want: Vec<u32> = npy[header..].as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        assert_eq!(gguf.tensors().len(), 15);
        for (i, (tensor, want)) in gguf.tensors().iter().zip(want.chunks(1024)).enumerate() {
            for range in [0..1024, 0..1, 700..1024, 31..33, 255..257, 511..770, 5..5] {
                let mut got = Vec::new();
                unpack(&gguf, i, range.clone(), &mut got);
                let got: Vec<u32> = got.iter().map(|x| x.to_bits()).collect();
                assert_eq!(got, want[range.clone()], "{} {range:?}", tensor.name);
            }
        }
    }
}
