//! The header of a GGUF file, or of several that are one model's: metadata and the table of tensors, every size checked before it is used.
//!
//! Nothing is copied but names: texts and lists stay where they are in the file, and are walked once to prove that they end in it.

use super::blocks::BlockType;
use super::parts::{self, Part};
use crate::error::Error;
use brooklet::mem::MappedFile;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest name of a metadata key, as the format says.
const MAX_KEY_BYTES: usize = 65_535;
/// Longest name of a tensor; the format says 64, longer ones harm nobody.
const MAX_NAME_BYTES: usize = 255;
/// Most dimensions of a tensor.
const MAX_DIMS: u32 = 4;
const SPLIT_COUNT: &str = "split.count";
const SPLIT_NO: &str = "split.no";
const SPLIT_TENSORS: &str = "split.tensors.count";
/// Most files of a model: their names have five digits.
const MAX_FILES: usize = 99_999;
const ALIGNMENT_KEY: &str = "general.alignment";
const MAX_ALIGNMENT: u64 = 65_536;
/// Longest list of numbers that is taken out of the file: more than any vocabulary has.
const MAX_NUMBERS: usize = 1 << 22;
/// Records no shorter than these: counts beyond what the file has room for are refused before anything is sized by them.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// A mapped GGUF file whose header holds, with the other parts of its model.
#[derive(Debug)]
pub(in crate::checkpoint) struct Gguf {
    path: PathBuf,
    map: MappedFile,
    /// The second file and so on, of a model in several.
    others: Vec<(PathBuf, MappedFile)>,
    entries: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    by_name: BTreeMap<String, usize>,
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Any of the eight integer types.
    Whole(i128),
    /// `f32` and `f64`.
    Number(f64),
    /// An `f32`, kept apart: its shortest decimal spelling is what a config said.
    Single(f32),
    /// True or false.
    Flag(bool),
    /// Where a text's bytes are; they are UTF-8.
    Text(Range<usize>),
    /// A list of one type.
    List(List),
}

/// Where a list's items are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    kind: Kind,
    pub(super) count: usize,
    bytes: Range<usize>,
}

/// The types of metadata values, by their numbers in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::Text,
        Kind::List,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Bytes of a value; texts and lists have no fixed size.
    fn bytes(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::List => None,
        }
    }
}

/// A tensor in the file.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    /// Sizes, outermost first (the file has them the other way round).
    pub(super) shape: Vec<usize>,
    pub(super) kind: BlockType,
    /// Numbers.
    pub(super) len: usize,
    /// Which of the model's files has it, from 0 on.
    file: usize,
    /// Where its bytes are in the file.
    bytes: Range<usize>,
}

impl Gguf {
    /// Maps and checks the file `path`, and the others of its model if it is a part of one.
    pub(in crate::checkpoint) fn open(path: &Path) -> Result<Self, Error> {
        let mut gguf = Self::open_alone(&parts::first(path))?;
        let count = gguf.whole(SPLIT_COUNT, MAX_FILES)?.unwrap_or(1);
        if count > 1 {
            gguf.open_others(count)?;
        } else if gguf.path != path {
            let problem = format!("does not say that more files follow; {} is no part of it", path.display());
            return Err(gguf.error(SPLIT_COUNT, problem));
        }
        gguf.by_name = gguf.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(gguf)
    }

    fn open_alone(path: &Path) -> Result<Self, Error> {
        let map = MappedFile::open(path).map_err(|e| Error::io(path, e))?;
        let (entries, tensors) = Reader { path, bytes: map.bytes(), at: 0 }.header()?;
        Ok(Gguf { path: path.to_owned(), map, others: Vec::new(), entries, tensors, by_name: BTreeMap::new() })
    }

    /// Opens the files behind the first of `count`.
    fn open_others(&mut self, count: usize) -> Result<(), Error> {
        let path = self.path.clone();
        let Some(part) = Part::of(&path).filter(|part| part.count == count) else {
            let names = format!("NAME-00001-of-{count:05}.gguf");
            return Err(self.error(SPLIT_COUNT, format!("says that the model is in {count} files; their names must be {names} and so on")));
        };
        let mut names: HashSet<String> = self.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        for number in 1..=count {
            let next = if number == 1 { None } else { Some(Self::open_alone(&part.path_of(&path, number))?) };
            let file = next.as_ref().unwrap_or(self);
            for (key, expected) in [(SPLIT_NO, number - 1), (SPLIT_COUNT, count)] {
                let said = file.whole(key, usize::MAX)?;
                if said != Some(expected) {
                    let problem =
                        format!("must be {expected} in file {number} of {count}; files of different models were mixed, or renamed");
                    return Err(file.error(key, problem));
                }
            }
            let Some(next) = next else { continue };
            for tensor in next.tensors {
                if !names.insert(tensor.name.clone()) {
                    let problem = "is in an earlier file of the model too";
                    return Err(Error::invalid(&next.path, format!("tensor `{}`", tensor.name), problem));
                }
                self.tensors.push(TensorInfo { file: number - 1, ..tensor });
            }
            self.others.push((next.path, next.map));
        }
        match self.whole(SPLIT_TENSORS, usize::MAX)? {
            Some(said) if said != self.tensors.len() => {
                Err(self.error(SPLIT_TENSORS, format!("is {said}, and the model's files have {}", self.tensors.len())))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All files of the model.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        [self.path.as_path()].into_iter().chain(self.others.iter().map(|(path, _)| path.as_path()))
    }

    /// Bytes `range` of a tensor.
    pub(super) fn bytes_of(&self, tensor: &TensorInfo, range: Range<usize>) -> &[u8] {
        let map = tensor.file.checked_sub(1).map_or(&self.map, |other| &self.others[other].1);
        map.bytes().get(tensor.bytes.clone()).and_then(|bytes| bytes.get(range)).unwrap_or_default()
    }

    pub(super) fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The number of tensor `name`.
    pub(super) fn tensor(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// An error about a metadata key.
    pub(super) fn error(&self, key: &str, problem: impl Display) -> Error {
        Error::invalid(&self.path, format!("metadata key `{key}`"), problem)
    }

    /// The text under `key`, if there is one.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(range)) => Ok(Some(self.str_at(range.clone()))),
            Some(_) => Err(self.error(key, "is not a text")),
        }
    }

    /// Texts were checked when the file was opened.
    fn str_at(&self, range: Range<usize>) -> &str {
        self.map.bytes().get(range).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }

    /// The flag under `key`, if there is one.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.error(key, "is neither true nor false")),
        }
    }

    /// The whole number under `key`, from 0 to `most`, if there is one.
    pub(super) fn whole(&self, key: &str, most: usize) -> Result<Option<usize>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Whole(n)) => match usize::try_from(*n) {
                Ok(n) if n <= most => Ok(Some(n)),
                _ => Err(self.error(key, format!("is {n}, expected a whole number from 0 to {most}"))),
            },
            Some(_) => Err(self.error(key, format!("is not a whole number from 0 to {most}"))),
        }
    }

    /// The number under `key`, if there is one; it may be infinite or not a number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Number(x)) => Ok(Some(*x)),
            Some(Value::Single(x)) => Ok(Some(f64::from(*x))),
            Some(Value::Whole(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.error(key, "is not a number")),
        }
    }

    /// The texts under `key`, if there are any.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::List(List { kind: Kind::Text, count, bytes })) => {
                let mut reader = Reader { path: &self.path, bytes: &self.map.bytes()[..bytes.end], at: bytes.start };
                (0..*count).map(|_| reader.text(key).map(|range| self.str_at(range))).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(self.error(key, "is not a list of texts")),
        }
    }

    /// The numbers under `key`, whole or not, as a list; a single number is a list of one.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, Error> {
        let Some(Value::List(list)) = self.value(key) else { return Ok(self.number(key)?.map(|x| vec![x])) };
        if matches!(list.kind, Kind::Text | Kind::List) {
            return Err(self.error(key, "is not a list of numbers"));
        }
        if list.count > MAX_NUMBERS {
            return Err(self.error(key, format!("lists {} numbers, expected {MAX_NUMBERS} at most", list.count)));
        }
        let mut reader = Reader { path: &self.path, bytes: &self.map.bytes()[..list.bytes.end], at: list.bytes.start };
        let number = |value| match value {
            Value::Whole(n) => n as f64,
            Value::Number(x) => x,
            Value::Single(x) => f64::from(x),
            Value::Flag(flag) => f64::from(u8::from(flag)),
            Value::Text(_) | Value::List(_) => f64::NAN,
        };
        (0..list.count).map(|_| reader.value(key, list.kind).map(number)).collect::<Result<_, _>>().map(Some)
    }
}

/// Reads forward through a file; every step is checked against its end.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

type Header = (BTreeMap<String, Value>, Vec<TensorInfo>);

impl Reader<'_> {
    fn error(&self, thing: impl Display, problem: impl Display) -> Error {
        Error::invalid(self.path, thing, problem)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes of `thing`.
    fn skip(&mut self, count: u64, thing: impl Display) -> Result<Range<usize>, Error> {
        match usize::try_from(count) {
            Ok(count) if count <= self.left() => {
                let start = self.at;
                self.at += count;
                Ok(start..self.at)
            }
            _ => {
                let problem =
                    format!("needs {count} bytes at byte {}, and {} are left; the file is damaged or cut short", self.at, self.left());
                Err(self.error(thing, problem))
            }
        }
    }

    fn take<const N: usize>(&mut self, thing: impl Display) -> Result<[u8; N], Error> {
        let range = self.skip(N as u64, thing)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[range]);
        Ok(out)
    }

    fn u32(&mut self, thing: impl Display) -> Result<u32, Error> {
        self.take(thing).map(u32::from_le_bytes)
    }

    fn u64(&mut self, thing: impl Display) -> Result<u64, Error> {
        self.take(thing).map(u64::from_le_bytes)
    }

    /// A count of records of at least `least_bytes` each.
    fn count(&mut self, thing: &str, least_bytes: usize) -> Result<usize, Error> {
        let count = self.u64(thing)?;
        let room = self.left() / least_bytes;
        usize::try_from(count).ok().filter(|&n| n <= room).ok_or_else(|| {
            self.error(thing, format!("is {count}, and the file has room for {room} at most; it is damaged or no GGUF file"))
        })
    }

    /// A text: where its bytes are.
    fn text(&mut self, thing: impl Display) -> Result<Range<usize>, Error> {
        let len = self.u64(&thing)?;
        let range = self.skip(len, &thing)?;
        match std::str::from_utf8(&self.bytes[range.clone()]) {
            Ok(_) => Ok(range),
            Err(e) => Err(self.error(thing, format!("is not UTF-8: {e}"))),
        }
    }

    /// A name of at most `most` bytes.
    fn name(&mut self, thing: &str, most: usize) -> Result<String, Error> {
        let range = self.text(thing)?;
        let name = String::from_utf8_lossy(&self.bytes[range.clone()]).into_owned();
        if name.is_empty() || range.len() > most || name.chars().any(char::is_control) {
            let problem = format!("at byte {} has {} bytes; expected 1 to {most}, without control characters", range.start, range.len());
            return Err(self.error(thing, problem));
        }
        Ok(name)
    }

    fn header(mut self) -> Result<Header, Error> {
        if self.take::<4>("file")? != *b"GGUF" {
            let problem = "does not begin with GGUF; give a .gguf file, or the folder that holds config.json and the .safetensors files";
            return Err(self.error("file", problem));
        }
        match self.u32("version")? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err(self.error("version", "the file is big-endian; only little-endian files are read"));
            }
            version => return Err(self.error("version", format!("is {version}; supported are 2 and 3; convert the model again"))),
        }
        let tensor_count = self.count("number of tensors", MIN_TENSOR_BYTES)?;
        let entry_count = self.count("number of metadata entries", MIN_ENTRY_BYTES)?;
        let mut entries = BTreeMap::new();
        for _ in 0..entry_count {
            let key = self.name("metadata key", MAX_KEY_BYTES)?;
            let kind = self.kind(&key)?;
            let value = self.value(&key, kind)?;
            if entries.contains_key(&key) {
                return Err(self.error(format!("metadata key `{key}`"), "is there twice"));
            }
            entries.insert(key, value);
        }
        let alignment = self.alignment(entries.get(ALIGNMENT_KEY))?;
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..tensor_count {
            let tensor = self.tensor(alignment)?;
            if !names.insert(tensor.name.clone()) {
                return Err(self.error(format!("tensor `{}`", tensor.name), "is there twice"));
            }
            tensors.push(tensor);
        }
        self.place(&mut tensors, alignment)?;
        Ok((entries, tensors))
    }

    fn kind(&mut self, key: &str) -> Result<Kind, Error> {
        let number = self.u32(format_args!("metadata key `{key}`"))?;
        let kind = usize::try_from(number).ok().and_then(|i| Kind::ALL.get(i)).copied();
        kind.ok_or_else(|| self.error(format!("metadata key `{key}`"), format!("has the unknown type {number}; expected 0 to 12")))
    }

    fn value(&mut self, key: &str, kind: Kind) -> Result<Value, Error> {
        let thing = format_args!("metadata key `{key}`");
        Ok(match kind {
            Kind::U8 => Value::Whole(u8::from_le_bytes(self.take(thing)?).into()),
            Kind::I8 => Value::Whole(i8::from_le_bytes(self.take(thing)?).into()),
            Kind::U16 => Value::Whole(u16::from_le_bytes(self.take(thing)?).into()),
            Kind::I16 => Value::Whole(i16::from_le_bytes(self.take(thing)?).into()),
            Kind::U32 => Value::Whole(u32::from_le_bytes(self.take(thing)?).into()),
            Kind::I32 => Value::Whole(i32::from_le_bytes(self.take(thing)?).into()),
            Kind::U64 => Value::Whole(u64::from_le_bytes(self.take(thing)?).into()),
            Kind::I64 => Value::Whole(i64::from_le_bytes(self.take(thing)?).into()),
            Kind::F32 => Value::Single(f32::from_le_bytes(self.take(thing)?)),
            Kind::F64 => Value::Number(f64::from_le_bytes(self.take(thing)?)),
            Kind::Bool => match self.take::<1>(thing)? {
                [byte @ 0..=1] => Value::Flag(byte == 1),
                [byte] => return Err(self.error(thing, format!("is {byte}, expected 0 or 1 for false or true"))),
            },
            Kind::Text => Value::Text(self.text(thing)?),
            Kind::List => Value::List(self.list(key)?),
        })
    }

    fn list(&mut self, key: &str) -> Result<List, Error> {
        let kind = self.kind(key)?;
        let thing = format!("metadata key `{key}`");
        if kind == Kind::List {
            return Err(self.error(thing, "is a list of lists, which no model has"));
        }
        let items = self.u64(&thing)?;
        // A text has at least its length.
        let room = self.left() / kind.bytes().unwrap_or(8);
        let count = usize::try_from(items).ok().filter(|&n| n <= room).ok_or_else(|| {
            self.error(&thing, format!("lists {items} items, and the file has room for {room} at most; it is damaged or cut short"))
        })?;
        let start = self.at;
        match kind.bytes() {
            Some(bytes) => {
                self.skip((count * bytes) as u64, &thing)?;
            }
            None => {
                for _ in 0..count {
                    self.text(&thing)?;
                }
            }
        }
        Ok(List { kind, count, bytes: start..self.at })
    }

    fn alignment(&self, value: Option<&Value>) -> Result<u64, Error> {
        match value {
            None => Ok(32),
            Some(Value::Whole(n)) => match u64::try_from(*n) {
                Ok(n @ 8..=MAX_ALIGNMENT) if n.is_power_of_two() => Ok(n),
                _ => {
                    let problem = format!("is {n}, expected a power of two from 8 to {MAX_ALIGNMENT}");
                    Err(self.error(format!("metadata key `{ALIGNMENT_KEY}`"), problem))
                }
            },
            Some(_) => Err(self.error(format!("metadata key `{ALIGNMENT_KEY}`"), "is not a whole number")),
        }
    }

    /// One record of the table; `bytes` counts from the beginning of the data until `place` moves it.
    fn tensor(&mut self, alignment: u64) -> Result<TensorInfo, Error> {
        let name = self.name("name of a tensor", MAX_NAME_BYTES)?;
        let thing = format!("tensor `{name}`");
        let dims = self.u32(&thing)?;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(self.error(thing, format!("has {dims} dimensions, expected 1 to {MAX_DIMS}")));
        }
        let mut shape = Vec::new();
        let mut len = 1usize;
        for _ in 0..dims {
            let size = self.u64(&thing)?;
            let numbers = usize::try_from(size).ok().filter(|&n| n > 0).and_then(|n| Some((n, len.checked_mul(n)?)));
            let Some((n, product)) = numbers.filter(|(_, product)| *product <= isize::MAX as usize / 8) else {
                return Err(self.error(thing, format!("has a dimension of {size}; every one must be above 0, and their product a size")));
            };
            len = product;
            shape.push(n);
        }
        let row = shape[0];
        shape.reverse();
        let number = self.u32(&thing)?;
        let kind = BlockType::of(number).map_err(|problem| self.error(&thing, problem))?;
        let offset = self.u64(&thing)?;
        let Some(byte_count) = kind.bytes_of(row, len) else {
            let problem = format!("has rows of {row} numbers, which {} cannot pack: it takes {} at once", kind.name(), kind.block_len());
            return Err(self.error(thing, problem));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(self.error(thing, format!("begins at {offset}, which is no multiple of the alignment {alignment}")));
        }
        let end = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(byte_count)?));
        let Some(bytes) = end.filter(|bytes| bytes.end <= self.bytes.len()) else {
            let problem =
                format!("has {byte_count} bytes at {offset}, and the file {} in all; it is damaged or cut short", self.bytes.len());
            return Err(self.error(thing, problem));
        };
        Ok(TensorInfo { name, shape, kind, len, file: 0, bytes })
    }

    /// Moves tensors to where the data is, and refuses ones that overlap, bytes between them that belong to none, and a file that ends early.
    fn place(&self, tensors: &mut [TensorInfo], alignment: u64) -> Result<(), Error> {
        let alignment = alignment as usize;
        // Alignments are small: this is still far from overflow.
        let data_start = self.at.next_multiple_of(alignment);
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| tensors[i].bytes.start);
        let mut end = 0;
        for i in order {
            let tensor = &mut tensors[i];
            let thing = format!("tensor `{}`", tensor.name);
            if tensor.bytes.start < end {
                return Err(self.error(thing, format!("begins at {}, within another tensor", tensor.bytes.start)));
            }
            if tensor.bytes.start >= end.next_multiple_of(alignment) + alignment {
                let hole = tensor.bytes.start - end;
                return Err(self.error(thing, format!("follows {hole} bytes that belong to no tensor; the file has been tampered with")));
            }
            end = tensor.bytes.end;
            tensor.bytes = data_start + tensor.bytes.start..data_start + end;
            if tensor.bytes.end > self.bytes.len() {
                let problem = format!("ends at byte {} of a file of {}; the file is cut short", tensor.bytes.end, self.bytes.len());
                return Err(self.error(thing, problem));
            }
        }
        let tail = self.bytes.len().saturating_sub(data_start + end);
        if !tensors.is_empty() && tail > alignment {
            return Err(
                self.error("file", format!("{tail} bytes after the last tensor belong to nothing; the file has been tampered with"))
            );
        }
        Ok(())
    }
}
