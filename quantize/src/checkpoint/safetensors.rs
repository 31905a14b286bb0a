//! One `.safetensors` file: the library checks its header, numbers become `f32` on the way out.

use crate::error::Error;
use brooklet::mem::MappedFile;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
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

    /// The numbers of part `part` of the tensor, cut along its outermost axis into `parts`; refuses types that are no floats,
    /// and numbers that are not finite.
    pub(super) fn read(&self, name: &str, part: usize, parts: usize) -> Result<Vec<f32>, Error> {
        let view = self.view(name)?;
        let len = view.data().len() / parts.max(1);
        let bytes = view.data().get(part * len..(part + 1) * len).unwrap_or_default();
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
            let problem = format!("element {at} is {}; the training run diverged or the file is damaged", data[at]);
            return Err(Error::invalid(&self.path, format!("tensor `{name}`"), problem));
        }
        Ok(data)
    }
}
