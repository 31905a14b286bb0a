//! One `.safetensors` file: the library checks its header, numbers become `f32` on the way out.

use crate::error::Error;
use brooklet::mem::MappedFile;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A mapped file whose header holds.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    map: MappedFile,
    names: Vec<String>,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let map = MappedFile::open(path).map_err(|e| Error::io(path, e))?;
        let mut shard = Shard { path: path.to_owned(), map, names: Vec::new() };
        shard.names = shard.parse()?.names().into_iter().map(str::to_owned).collect();
        Ok(shard)
    }

    fn parse(&self) -> Result<SafeTensors<'_>, Error> {
        SafeTensors::deserialize(self.map.bytes())
            .map_err(|e| Error::invalid(&self.path, "safetensors header", format!("{e}; the file is damaged or cut short, fetch it again")))
    }

    fn view(&self, name: &str) -> Result<TensorView<'_>, Error> {
        self.parse()?.tensor(name).map_err(|e| Error::invalid(&self.path, format!("tensor `{name}`"), e))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>, Error> {
        Ok(self.view(name)?.shape().to_vec())
    }

    /// The tensor's one number, if it is whole and not negative.
    pub(super) fn whole_number(&self, name: &str) -> Result<Option<u64>, Error> {
        let view = self.view(name)?;
        Ok(match (view.dtype(), view.data()) {
            (Dtype::I64, &[a, b, c, d, e, f, g, h]) => u64::try_from(i64::from_le_bytes([a, b, c, d, e, f, g, h])).ok(),
            (Dtype::I32, &[a, b, c, d]) => u64::try_from(i32::from_le_bytes([a, b, c, d])).ok(),
            _ => None,
        })
    }

    /// The tensor's numbers, or those in `range` alone; refuses types that are no floats, and numbers that are not finite.
    pub(super) fn read(&self, name: &str, range: Option<Range<usize>>) -> Result<Vec<f32>, Error> {
        let view = self.view(name)?;
        let start = range.as_ref().map_or(0, |r| r.start);
        let bytes = match range {
            None => view.data(),
            Some(range) => {
                let number_bytes = view.dtype().bitsize() / 8;
                view.data().get(range.start * number_bytes..range.end * number_bytes).unwrap_or_default()
            }
        };
        let data: Vec<f32> = match view.dtype() {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            other => {
                let problem = format!("has type {other:?}; only F64, F32, F16 and BF16 are read (already quantized checkpoints are not)");
                return Err(Error::invalid(&self.path, format!("tensor `{name}`"), problem));
            }
        };
        if let Some(at) = data.iter().position(|x| !x.is_finite()) {
            let problem = format!("element {} is {}; the training run diverged or the file is damaged", start + at, data[at]);
            return Err(Error::invalid(&self.path, format!("tensor `{name}`"), problem));
        }
        Ok(data)
    }
}
