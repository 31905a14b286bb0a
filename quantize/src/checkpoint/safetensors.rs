//! One `.safetensors` file: the library checks its header, numbers become `f32` on the way out.

use crate::error::Error;
use brooklet::mem::MappedFile;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A mapped file whose header holds.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    map: MappedFile,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    data_start: usize,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let map = MappedFile::open(path).map_err(|e| Error::io(path, e))?;
        let fault =
            |problem: String| Error::invalid(path, "safetensors header", problem + "; the file is damaged or cut short, fetch it again");
        let (header_bytes, metadata) = SafeTensors::read_metadata(map.bytes()).map_err(|e| fault(e.to_string()))?;
        let data_start = 8 + header_bytes;
        // The library's sum of all sizes may wrap around.
        let data_bytes = map.bytes().len() - data_start;
        if metadata.tensors().values().any(|info| info.data_offsets.1 > data_bytes) {
            return Err(fault("says that tensors end behind the file's end".to_owned()));
        }
        // It takes the last of two entries of one name.
        match serde_json::from_slice::<UniqueKeys>(&map.bytes()[8..data_start]) {
            Ok(UniqueKeys(None)) => Ok(Shard { path: path.to_owned(), map, metadata, data_start }),
            Ok(UniqueKeys(Some(twice))) => Err(Error::invalid(path, format!("tensor `{twice}`"), "is there twice")),
            Err(e) => Err(fault(e.to_string())),
        }
    }

    /// What the header says of tensor `name`, and its bytes.
    fn view(&self, name: &str) -> Result<(&TensorInfo, &[u8]), Error> {
        let fault = |problem: &str| Error::invalid(&self.path, format!("tensor `{name}`"), problem);
        let info = self.metadata.info(name).ok_or_else(|| fault("is missing"))?;
        let (start, end) = info.data_offsets;
        let bytes = self.map.bytes()[self.data_start..].get(start..end);
        Ok((info, bytes.ok_or_else(|| fault("ends behind the file's end"))?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.tensors().into_keys().collect()
    }

    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>, Error> {
        Ok(self.view(name)?.0.shape.clone())
    }

    /// The tensor's one number, if it is whole and not negative.
    pub(super) fn whole_number(&self, name: &str) -> Result<Option<u64>, Error> {
        let (info, bytes) = self.view(name)?;
        Ok(match (info.dtype, bytes) {
            (Dtype::I64, &[a, b, c, d, e, f, g, h]) => u64::try_from(i64::from_le_bytes([a, b, c, d, e, f, g, h])).ok(),
            (Dtype::I32, &[a, b, c, d]) => u64::try_from(i32::from_le_bytes([a, b, c, d])).ok(),
            _ => None,
        })
    }

    /// The tensor's numbers, or those in `range` alone; refuses types that are no floats, for which `remedy` says what to do, and numbers that
    /// are not finite.
    pub(super) fn read(&self, name: &str, range: Option<Range<usize>>, remedy: Option<String>) -> Result<Vec<f32>, Error> {
        let (info, bytes) = self.view(name)?;
        let start = range.as_ref().map_or(0, |r| r.start);
        let bytes = match range {
            None => bytes,
            Some(range) => {
                let number_bytes = info.dtype.bitsize() / 8;
                bytes.get(range.start * number_bytes..range.end * number_bytes).unwrap_or_default()
            }
        };
        let data: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            other => {
                let remedy = remedy.unwrap_or_else(|| "already quantized checkpoints are not".to_owned());
                let problem = format!("has type {other:?}; only F64, F32, F16 and BF16 are read ({remedy})");
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

/// A JSON object's keys, of which the first that is there twice is kept.
struct UniqueKeys(Option<String>);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = UniqueKeys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
                let (mut seen, mut twice) = (HashSet::new(), None);
                while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                    if seen.contains(&key) {
                        twice.get_or_insert(key);
                    } else {
                        seen.insert(key);
                    }
                }
                Ok(UniqueKeys(twice))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
