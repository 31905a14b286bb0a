//! Checkpoints as they are on disk: names and numbers in, no judgement.

mod config;
mod random;
mod safetensors;

pub use config::Config;

use self::safetensors::Shard;
use crate::error::Error;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A Hugging Face-style directory: `config.json`, one or several `.safetensors`, maybe `tokenizer.json`.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// `config.json`.
    pub config: Config,
    shards: Vec<Shard>,
    /// Tensor name to shard number.
    index: BTreeMap<String, usize>,
    /// Whether every tensor that is asked for exists, with random numbers.
    is_random: bool,
}

/// A tensor's numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

impl Checkpoint {
    /// Opens the directory `dir`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref().to_owned();
        if !dir.is_dir() {
            return Err(Error::invalid(
                &dir,
                "checkpoint",
                "not a directory; give the folder that holds config.json and the .safetensors files",
            ));
        }
        let config = Config::open(&dir.join("config.json"))?;
        let mut shards = Vec::new();
        let mut index = BTreeMap::new();
        for path in shard_paths(&dir)? {
            let shard = Shard::open(&path)?;
            for name in shard.names() {
                if index.insert(name.to_owned(), shards.len()).is_some() {
                    return Err(Error::invalid(&path, format!("tensor `{name}`"), "is in two shards; remove one of the files"));
                }
            }
            shards.push(shard);
        }
        Ok(Checkpoint { dir, config, shards, index, is_random: false })
    }

    /// Random weights under `config`: every tensor has the sizes that it is asked for with.
    pub(crate) fn random(config: Config) -> Self {
        Checkpoint { dir: config.path().to_owned(), config, shards: Vec::new(), index: BTreeMap::new(), is_random: true }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    fn shard(&self, name: &str) -> Result<&Shard, Error> {
        let shard = self.index.get(name).and_then(|&i| self.shards.get(i));
        shard.ok_or_else(|| {
            let problem = match self.closest(name) {
                Some(near) => format!("is missing (the nearest name is `{near}`); is this the whole checkpoint, with all its shards?"),
                None => "is missing; is this the whole checkpoint, with all its shards?".to_owned(),
            };
            Error::invalid(&self.dir, format!("tensor `{name}`"), problem)
        })
    }

    /// The name that shares the longest ending, for the error message.
    fn closest(&self, name: &str) -> Option<&str> {
        let shared = |other: &str| name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
        self.names().max_by_key(|n| shared(n)).filter(|n| shared(n) > name.len() / 2)
    }

    /// The sizes of tensor `name`.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, Error> {
        self.shard(name)?.shape(name)
    }

    /// Tensor `name`, which must have the given sizes (ones left out on both sides), as `f32`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        Ok(Tensor { shape: shape.to_vec(), data: self.read(name, shape, None)? })
    }

    /// The numbers `range` of tensor `name`, row-major; the whole tensor must have the given sizes.
    pub fn numbers(&self, name: &str, shape: &[usize], range: Range<usize>) -> Result<Vec<f32>, Error> {
        let data = self.read(name, shape, Some(range.clone()))?;
        if data.len() == range.len() {
            return Ok(data);
        }
        Err(Error::invalid(&self.dir, format!("tensor `{name}`"), format!("has no numbers {range:?}")))
    }

    /// Tensor `name`, which must be one whole number that is not negative.
    pub fn whole_number(&self, name: &str) -> Result<u64, Error> {
        let shard = self.shard(name)?;
        shard.whole_number(name)?.ok_or_else(|| {
            Error::invalid(shard.path(), format!("tensor `{name}`"), "is not one whole number of type I64 or I32, zero or above")
        })
    }

    /// Refuses a tensor `name` that is missing or has other sizes (ones left out on both sides).
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<(), Error> {
        if self.is_random { Ok(()) } else { self.shaped(name, shape).map(|_| ()) }
    }

    fn read(&self, name: &str, shape: &[usize], range: Option<Range<usize>>) -> Result<Vec<f32>, Error> {
        if self.is_random {
            let all = random::numbers(name, shape);
            return Ok(match range {
                None => all,
                Some(range) => all.get(range).unwrap_or_default().to_vec(),
            });
        }
        self.shaped(name, shape)?.read(name, range)
    }

    /// The shard of tensor `name`, which must have the given sizes.
    fn shaped(&self, name: &str, shape: &[usize]) -> Result<&Shard, Error> {
        let shard = self.shard(name)?;
        let found = shard.shape(name)?;
        let squeeze = |s: &[usize]| s.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
        if squeeze(&found) != squeeze(shape) {
            let problem =
                format!("has shape {found:?} where the config asks for {shape:?}; config.json and weights do not belong together");
            return Err(Error::invalid(shard.path(), format!("tensor `{name}`"), problem));
        }
        Ok(shard)
    }

    /// The text of `tokenizer.json`, if there is one.
    pub fn tokenizer(&self) -> Result<Option<Vec<u8>>, Error> {
        if self.is_random {
            return Ok(None);
        }
        let path = self.dir.join("tokenizer.json");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(&path, e)),
        }
    }
}

/// The shards that `model.safetensors.index.json` names, or every `.safetensors` file.
fn shard_paths(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let index_path = dir.join("model.safetensors.index.json");
    if index_path.exists() {
        let index = Config::open(&index_path)?;
        let map = index.value("weight_map").and_then(|m| m.as_object());
        let map = map.ok_or_else(|| Error::invalid(&index_path, "key `weight_map`", "is missing or not a table of tensor to file"))?;
        let mut files = std::collections::BTreeSet::new();
        for (tensor, file) in map {
            let file = file.as_str().filter(|f| !f.contains(['/', '\\']) && *f != "..");
            let file = file.ok_or_else(|| Error::invalid(&index_path, format!("tensor `{tensor}`"), "its file is no plain file name"))?;
            files.insert(dir.join(file));
        }
        return Ok(files.into_iter().collect());
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    paths.sort();
    if paths.is_empty() {
        return Err(Error::invalid(
            dir,
            "weights",
            "there is no .safetensors file; convert pickled weights (.bin, .pt) with safetensors' own converter first",
        ));
    }
    Ok(paths)
}
