//! Checkpoints as they are on disk: names and numbers in, no judgement.

mod beside;
mod config;
mod gguf;
mod random;
mod safetensors;

pub use config::Config;

use self::beside::Beside;
use self::gguf::{GgufModel, Part, are_of_one_model};
use self::safetensors::Shard;
use crate::error::Error;
pub(crate) use random::numbers as random_numbers;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A model as others publish it: a Hugging Face-style directory (`config.json`, one or several `.safetensors`, maybe `tokenizer.json`), or
/// a GGUF file.
#[derive(Debug)]
pub struct Checkpoint {
    /// The directory, or the GGUF file.
    path: PathBuf,
    /// `config.json`, or what a GGUF file says in its place.
    pub config: Config,
    tensors: Tensors,
    /// Names that were asked for, as the files have them.
    asked: Mutex<BTreeSet<String>>,
    /// Whether it is a model without its head, whose names lack the prefix that they have beside one.
    is_base: bool,
    /// What lies beside `config.json`.
    beside: Beside,
    /// `tokenizer.json`, where it is not in `tensors`.
    tokenizer: Option<PathBuf>,
    /// What the model is called, where its place does not say.
    name: Option<String>,
}

/// Where the tensors are.
#[derive(Debug)]
enum Tensors {
    /// In safetensors files; tensor name to the file's number.
    Shards(Vec<Shard>, BTreeMap<String, usize>),
    Gguf(Box<GgufModel>),
    /// Nowhere: every tensor that is asked for exists, with random numbers.
    Random,
}

/// Before the names of a model that has a head beside it, and the embedding behind them.
const PREFIXES: [&str; 2] = ["model.", "backbone."];
const EMBEDDINGS: [&str; 4] = ["embed_tokens.weight", "embeddings.weight", "embedding.weight", "language_model.embed_tokens.weight"];

/// A tensor's numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

impl Checkpoint {
    /// Opens a directory with `config.json` and `.safetensors` files, a GGUF file, or a directory that holds one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        if path.is_file() {
            return Self::open_gguf(&path, None);
        }
        if !path.is_dir() {
            let problem = "neither a folder nor a file; give the folder that holds config.json and the .safetensors files, or a .gguf file";
            return Err(Error::invalid(&path, "checkpoint", problem));
        }
        let tokenizer = Some(path.join("tokenizer.json")).filter(|file| file.is_file());
        if let Some(file) = the_gguf_file(&path)? {
            return Self::open_gguf(&file, tokenizer);
        }
        let mut config = Config::open(&path.join("config.json"))?;
        let beside = Beside::of(&path, &config);
        if let Some(&end) = beside.ends.first().filter(|_| ends(&config, &[END]).is_empty()) {
            config.set(END, end);
        }
        let mut shards = Vec::new();
        let mut index = BTreeMap::new();
        for path in shard_paths(&path)? {
            let shard = Shard::open(&path)?;
            for name in shard.names() {
                if index.contains_key(&name) {
                    return Err(Error::invalid(&path, format!("tensor `{name}`"), "is in two shards; remove one of the files"));
                }
                index.insert(name, shards.len());
            }
            shards.push(shard);
        }
        // transformers saves a model without its head so, and reads it as one whose head is the embedding.
        let is_base = EMBEDDINGS.iter().any(|name| index.contains_key(*name))
            && !index.keys().any(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        Ok(Checkpoint { tokenizer, is_base, beside, ..Self::new(path, config, Tensors::Shards(shards, index)) })
    }

    /// Opens a checkpoint whose place does not tell its name.
    pub fn open_as(path: impl AsRef<Path>, name: Option<String>) -> Result<Self, Error> {
        Ok(Checkpoint { name, ..Self::open(path)? })
    }

    fn open_gguf(path: &Path, tokenizer: Option<PathBuf>) -> Result<Self, Error> {
        let (model, config) = GgufModel::open(path)?;
        Ok(Checkpoint { tokenizer, ..Self::new(path.to_owned(), config, Tensors::Gguf(Box::new(model))) })
    }

    fn new(path: PathBuf, config: Config, tensors: Tensors) -> Self {
        let beside = Beside::default();
        Checkpoint { path, config, tensors, asked: Mutex::default(), is_base: false, beside, tokenizer: None, name: None }
    }

    /// Random weights under `config`: every tensor has the sizes that it is asked for with.
    pub(crate) fn random(config: Config) -> Self {
        Self::new(config.path().to_owned(), config, Tensors::Random)
    }

    /// The directory, or the GGUF file.
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// The files it was opened from.
    pub(crate) fn files(&self) -> Box<dyn Iterator<Item = &Path> + '_> {
        let (config, tokenizer) = (self.config.path(), self.tokenizer.as_deref());
        match &self.tensors {
            Tensors::Shards(shards, _) => {
                let beside = tokenizer.into_iter().chain(self.beside.generation.as_deref());
                Box::new(shards.iter().map(Shard::path).chain([config]).chain(beside))
            }
            Tensors::Gguf(model) => Box::new(model.paths().chain(tokenizer)),
            Tensors::Random => Box::new(std::iter::empty()),
        }
    }

    /// What the model is called: by its folder, or by its file.
    pub fn name(&self) -> Option<String> {
        if self.name.is_some() {
            return self.name.clone();
        }
        let path = self.path.canonicalize().ok()?;
        if let Some(part) = Part::of(&path).filter(|_| path.is_file()) {
            return Some(part.model.to_owned());
        }
        let name = if path.is_file() { path.file_stem() } else { path.file_name() };
        Some(name?.to_string_lossy().into_owned())
    }

    /// What the files call the tensor `name`.
    fn stored<'n>(&self, name: &'n str) -> &'n str {
        let without = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).filter(|_| self.is_base);
        without.unwrap_or(name)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        let name = self.stored(name);
        match &self.tensors {
            Tensors::Shards(_, index) => index.contains_key(name),
            Tensors::Gguf(model) => model.has(name),
            Tensors::Random => false,
        }
    }

    /// Names of all tensors, as their family has them.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.tensors {
            Tensors::Shards(_, index) => Box::new(index.keys().map(String::as_str)),
            Tensors::Gguf(model) => Box::new(model.names()),
            Tensors::Random => Box::new(std::iter::empty()),
        }
    }

    /// An error if there is no tensor of this name, which from now on was asked for.
    fn expect_name(&self, name: &str) -> Result<(), Error> {
        if self.has(name) {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(self.stored(name).to_owned());
            return Ok(());
        }
        let near = self.closest(name).map(|near| format!(" (the nearest name is `{near}`)")).unwrap_or_default();
        let remedy = self.packed().unwrap_or_else(|| "is this the whole checkpoint, with all its shards?".to_owned());
        Err(Error::invalid(&self.path, format!("tensor `{name}`"), format!("is missing{near}; {remedy}")))
    }

    /// What to do where weights are not as they should be and the config says that others have packed them.
    fn packed(&self) -> Option<String> {
        let packing = self.config.value("quantization_config")?;
        let method = match packing.get("quant_method").and_then(|method| method.as_str()) {
            Some(method) => format!(" \"{method}\""),
            None => String::new(),
        };
        Some(format!("config.json has a quantization_config{method}: the weights are packed; give the original checkpoint of floats"))
    }

    fn shard(&self, name: &str) -> Result<&Shard, Error> {
        self.expect_name(name)?;
        let shard = match &self.tensors {
            Tensors::Shards(shards, index) => index.get(self.stored(name)).and_then(|&i| shards.get(i)),
            _ => None,
        };
        shard.ok_or_else(|| Error::invalid(&self.path, format!("tensor `{name}`"), "is in no safetensors file"))
    }

    /// The name that shares the longest ending, for the error message.
    fn closest(&self, name: &str) -> Option<&str> {
        let shared = |other: &str| name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
        self.names().max_by_key(|n| shared(n)).filter(|n| shared(n) > name.len() / 2)
    }

    /// The sizes of tensor `name`.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, Error> {
        self.expect_name(name)?;
        match &self.tensors {
            Tensors::Gguf(model) => model.shape(name),
            _ => self.shard(name)?.shape(self.stored(name)),
        }
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
        Err(Error::invalid(&self.path, format!("tensor `{name}`"), format!("has no numbers {range:?}")))
    }

    /// Tensor `name`, which must be one whole number that is not negative.
    pub fn whole_number(&self, name: &str) -> Result<u64, Error> {
        let shard = self.shard(name)?;
        shard.whole_number(self.stored(name))?.ok_or_else(|| {
            Error::invalid(shard.path(), format!("tensor `{name}`"), "is not one whole number of type I64 or I32, zero or above")
        })
    }

    /// Refuses a tensor `name` that is missing or has other sizes (ones left out on both sides).
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<(), Error> {
        if let Tensors::Random = self.tensors {
            return Ok(());
        }
        let found = self.shape(name)?;
        let squeeze = |s: &[usize]| s.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
        if squeeze(&found) == squeeze(shape) {
            return Ok(());
        }
        let shapes = format!("has shape {found:?} where the config asks for {shape:?}");
        Err(match &self.tensors {
            Tensors::Gguf(model) => {
                Error::invalid(model.path(), model.thing(name), format!("{shapes}; metadata and weights do not belong together"))
            }
            _ => {
                let remedy = self.packed().unwrap_or_else(|| "config.json and weights do not belong together".to_owned());
                let problem = format!("{shapes}; {remedy}");
                Error::invalid(self.shard(name)?.path(), format!("tensor `{name}`"), problem)
            }
        })
    }

    fn read(&self, name: &str, shape: &[usize], range: Option<Range<usize>>) -> Result<Vec<f32>, Error> {
        self.expect(name, shape)?;
        match &self.tensors {
            Tensors::Shards(_, _) => self.shard(name)?.read(self.stored(name), range, self.packed()),
            Tensors::Gguf(model) => model.read(name, range),
            Tensors::Random => {
                let all = random_numbers(name, shape);
                Ok(match range {
                    None => all,
                    Some(range) => all.get(range).unwrap_or_default().to_vec(),
                })
            }
        }
    }

    /// The text of `tokenizer.json`, if there is one.
    pub fn tokenizer(&self) -> Result<Option<Vec<u8>>, Error> {
        match (&self.tokenizer, &self.tensors) {
            (Some(path), _) => std::fs::read(path).map(Some).map_err(|e| Error::io(path, e)),
            (None, Tensors::Gguf(model)) => Ok(model.tokenizer()?.0),
            (None, _) => Ok(None),
        }
    }

    /// Tensors that a model was not asked for when it was built, in safetensors files: a config that hides a part of its model is the usual
    /// reason. Copies of what layers share, fixed tables and what guesses further tokens or sees are not meant.
    pub fn left_behind(&self) -> Vec<&str> {
        let Tensors::Shards(_, index) = &self.tensors else { return Vec::new() };
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_usual =
            |name: &str| ["rotary_emb.", "shared_transf", "mtp.", "visual.", "lm_head.weight"].iter().any(|part| name.contains(part));
        index.keys().map(String::as_str).filter(|name| !asked.contains(*name) && !is_usual(name)).collect()
    }

    /// Refuses a GGUF file with a tensor that the model was not asked for when it was built. Nothing in such a file hides a part of the model,
    /// as a config may: the answers would be others.
    pub(crate) fn refuse_left_behind(&self) -> Result<(), Error> {
        let Tensors::Gguf(model) = &self.tensors else { return Ok(()) };
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match model.names().find(|name| !asked.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let problem = "has no place in the model as its family builds it, and without it the answers would be wrong; give the model's \
                               safetensors instead";
                Err(Error::invalid(model.path(), model.thing(name), problem))
            }
        }
    }

    /// What the user should know about the checkpoint, a sentence each.
    pub fn notes(&self) -> Result<Vec<String>, Error> {
        let mut notes = match (&self.tokenizer, &self.tensors) {
            (None, Tensors::Gguf(model)) => model.tokenizer()?.1,
            _ => self.beside.notes.clone(),
        };
        notes.extend(self.other_ends());
        Ok(notes)
    }

    /// What is said of tokens that end a text beside the one that the file has room for.
    fn other_ends(&self) -> Option<String> {
        let end = *ends(&self.config, &[END]).first()?;
        let all = ends(&self.config, &[END, "eot_token_id"]);
        let others: BTreeSet<u32> = all.into_iter().chain(self.beside.ends.iter().copied()).filter(|&id| id != end).collect();
        if others.is_empty() {
            return None;
        }
        let others: Vec<String> = others.into_iter().map(|id| id.to_string()).collect();
        Some(format!("token {end} ends a text; others that do for this model will not, since a file has one: {}", others.join(", ")))
    }

    /// Why a model without `tokenizer.json` has none, if its folder has a tokenizer that is not read.
    pub fn unread_tokenizer(&self) -> Option<&str> {
        self.beside.unread_tokenizer.as_deref()
    }
}

/// The config's key for the tokens that end a text.
const END: &str = "eos_token_id";

/// Token ids under the config's keys; none where these are no ids, which building the model tells.
fn ends(config: &Config, keys: &[&str]) -> Vec<u32> {
    let nested = config.maybe_object("text_config").ok().flatten();
    let configs = [Some(config), nested.as_ref()].into_iter().flatten();
    configs.flat_map(|config| keys.iter().flat_map(|key| config.tokens(key).unwrap_or_default())).collect()
}

/// The GGUF file of a directory that has no safetensors.
fn the_gguf_file(dir: &Path) -> Result<Option<PathBuf>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    let has_ending = |path: &&PathBuf, ending: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
    if paths.iter().any(|path| has_ending(&path, "safetensors")) {
        return Ok(None);
    }
    let mut files: Vec<&PathBuf> = paths.iter().filter(|path| has_ending(path, "gguf")).collect();
    files.sort();
    match files.as_slice() {
        [] => Ok(None),
        [first, ..] if files.len() == 1 || are_of_one_model(&files) => Ok(Some((*first).clone())),
        [first, ..] => {
            let problem = format!("there are {} .gguf files; give the one to read, for instance {}", files.len(), first.display());
            Err(Error::invalid(dir, "weights", problem))
        }
    }
}

/// `model.safetensors` alone, as transformers has it: other files beside it are older shards, or the same weights under other names. Without it
/// the shards that `model.safetensors.index.json` names, or every `.safetensors` file.
fn shard_paths(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let whole = dir.join("model.safetensors");
    if whole.is_file() {
        return Ok(vec![whole]);
    }
    let index_path = dir.join("model.safetensors.index.json");
    if index_path.exists() {
        let index = Config::open(&index_path)?;
        let map = index.value("weight_map").and_then(|m| m.as_object());
        let map = map.ok_or_else(|| Error::invalid(&index_path, "key `weight_map`", "is missing or not a table of tensor to file"))?;
        let mut files = std::collections::BTreeSet::new();
        for (tensor, file) in map {
            let file = file.as_str().filter(|f| !f.is_empty() && !f.contains(['/', '\\']) && *f != "..");
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
            "there is no .safetensors file and no .gguf file; convert pickled weights (.bin, .pt) with safetensors' own converter first",
        ));
    }
    Ok(paths)
}
