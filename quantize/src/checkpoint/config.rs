//! `config.json`: typed look-ups whose errors name the key.

use crate::error::Error;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Indices of the largest models have a few MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A JSON object from a file, or one nested in it.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    /// Keys that led here, with a dot behind each.
    prefix: String,
    object: Map<String, Value>,
    /// Metadata keys of a GGUF file behind the keys of its config; without them this is a JSON file.
    origins: Option<Arc<BTreeMap<String, String>>>,
}

impl Config {
    /// Reads the object in the file `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file_bytes = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
        if file_bytes > MAX_FILE_BYTES {
            return Err(Error::invalid(path, "JSON", format!("has {file_bytes} bytes, expected {MAX_FILE_BYTES} at most")));
        }
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        // Some editors put a byte-order mark first.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        match serde_json::from_slice(&quote_infinities(text)) {
            Ok(value) => Self::new(path, value),
            Err(e) => Err(Error::invalid(path, "JSON", format!("cannot be read: {e}"))),
        }
    }

    /// An object that is in no file; `name` stands for one in messages.
    pub(crate) fn new(name: &Path, value: Value) -> Result<Self, Error> {
        match value {
            Value::Object(object) => Ok(Config { path: name.to_owned(), prefix: String::new(), object, origins: None }),
            _ => Err(Error::invalid(name, "JSON", "is not an object with keys")),
        }
    }

    /// What the metadata of the GGUF file `path` says; `origins` has the metadata key behind a key.
    pub(super) fn made(path: &Path, object: Map<String, Value>, origins: BTreeMap<String, String>) -> Self {
        Config { path: path.to_owned(), prefix: String::new(), object, origins: Some(Arc::new(origins)) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`, if it is there and not null.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    /// Whether `key` is there, and null: Python's `None`.
    pub fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        let key = format!("{}{key}", self.prefix);
        match &self.origins {
            None => Error::invalid(&self.path, format!("key `{key}`"), problem),
            Some(origins) => match origins.get(&key) {
                Some(origin) => Error::invalid(&self.path, format!("metadata key `{origin}`"), problem),
                None => Error::invalid(&self.path, format!("what the tensors say of `{key}`"), problem),
            },
        }
    }

    fn get<'a, T>(&'a self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.error(key, format!("is {value}, expected {what}"))),
            },
        }
    }

    fn must<T>(&self, key: &str, found: Option<T>) -> Result<T, Error> {
        found.ok_or_else(|| match self.origins {
            None => self.error(key, "is missing; is this the model's own config.json?"),
            Some(_) => self.error(key, "is missing; convert the model again"),
        })
    }

    /// A size: a whole number from 1 to 2^24.
    pub fn size(&self, key: &str) -> Result<usize, Error> {
        let found = self.maybe_size(key)?;
        self.must(key, found)
    }

    /// A size that may be left out.
    pub fn maybe_size(&self, key: &str) -> Result<Option<usize>, Error> {
        self.get(key, "a whole number from 1 to 16777216", |v| v.as_u64().filter(|n| (1..=1 << 24).contains(n)).map(|n| n as usize))
    }

    /// A size that may be left out or be "auto": then it is `default`.
    pub fn size_or_auto(&self, key: &str, default: usize) -> Result<usize, Error> {
        match self.value(key).and_then(Value::as_str) {
            Some("auto") => Ok(default),
            _ => Ok(self.maybe_size(key)?.unwrap_or(default)),
        }
    }

    /// A whole number that may be zero, with a default.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, Error> {
        let found = self.get(key, "a whole number from 0 to 16777216", |v| v.as_u64().filter(|&n| n <= 1 << 24).map(|n| n as usize))?;
        Ok(found.unwrap_or(default))
    }

    /// A finite number, with a default.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64, Error> {
        if key.contains("eps") {
            // What a norm adds to a mean of squares.
            return Ok(self.get(key, "a number from 0 up", |v| v.as_f64().filter(|x| x.is_finite() && *x >= 0.0))?.unwrap_or(default));
        }
        Ok(self.get(key, "a finite number", |v| v.as_f64().filter(|x| x.is_finite()))?.unwrap_or(default))
    }

    /// True or false, with a default where the key is left out; null is false, as Python's `None` is where a condition stands.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, Error> {
        if self.is_null(key) {
            return Ok(false);
        }
        Ok(self.get(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<&str, Error> {
        let found = self.maybe_text(key)?;
        self.must(key, found)
    }

    /// A text that may be left out.
    pub fn maybe_text(&self, key: &str) -> Result<Option<&str>, Error> {
        self.get(key, "a text", Value::as_str)
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<Vec<&str>, Error> {
        let found = self.get(key, "a list of texts", |v| v.as_array()?.iter().map(Value::as_str).collect())?;
        self.must(key, found)
    }

    /// A list of finite numbers.
    pub fn numbers(&self, key: &str) -> Result<Vec<f32>, Error> {
        let number = |v: &Value| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
        let found = self.get(key, "a list of finite numbers", |v| v.as_array()?.iter().map(number).collect())?;
        self.must(key, found)
    }

    /// A token id, or the first of a list of them; may be left out.
    pub fn maybe_token(&self, key: &str) -> Result<Option<u32>, Error> {
        Ok(self.tokens(key)?.first().copied())
    }

    /// Token ids, one or a list. Many configs write a number below 0 where there is no token.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>, Error> {
        let id = |v: &Value| match v.as_i64() {
            Some(n) if n < 0 => Some(None),
            _ => v.as_u64().and_then(|n| u32::try_from(n).ok()).map(Some),
        };
        let found: Option<Vec<Option<u32>>> = self.get(key, "a token id or a list of them", |v| match v.as_array() {
            Some(list) => list.iter().map(id).collect(),
            None => Some(vec![id(v)?]),
        })?;
        Ok(found.into_iter().flatten().flatten().collect())
    }

    /// Sets a key.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.object.insert(key.to_owned(), value.into());
    }

    /// A nested object.
    pub fn object(&self, key: &str) -> Result<Config, Error> {
        let found = self.maybe_object(key)?;
        self.must(key, found)
    }

    /// A nested object that may be left out.
    pub fn maybe_object(&self, key: &str) -> Result<Option<Config>, Error> {
        let nested = self.get(key, "an object", Value::as_object)?;
        Ok(nested.map(|object| Config {
            path: self.path.clone(),
            prefix: format!("{}{key}.", self.prefix),
            object: object.clone(),
            origins: self.origins.clone(),
        }))
    }

    /// Refuses a value other than the supported one: the key may be left out.
    pub fn refuse_unless(&self, key: &str, supported: &Value) -> Result<(), Error> {
        match self.value(key) {
            Some(value) if value != supported => Err(self.error(key, format!("is {value}; only {supported} is supported"))),
            _ => Ok(()),
        }
    }
}

/// Python writes `Infinity` and `NaN` where JSON has no word: puts them between quotes, outside texts.
fn quote_infinities(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let (mut in_text, mut at) = (false, 0);
    while let Some(&byte) = text.get(at) {
        let rest = &text[at..];
        let word = [&b"Infinity"[..], b"-Infinity", b"NaN"].into_iter().find(|w| !in_text && rest.starts_with(w));
        if let Some(word) = word {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
            at += word.len();
            continue;
        }
        if in_text && byte == b'\\' {
            // An escaped character cannot end the text.
            out.extend_from_slice(&rest[..rest.len().min(2)]);
            at += 2;
            continue;
        }
        in_text ^= byte == b'"';
        out.push(byte);
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::quote_infinities;

    #[test]
    fn infinities_become_texts_and_texts_stay() {
        let json = br#"{"a": [0.0, Infinity], "b": "Infinity \" NaN", "c": NaN, "d": -Infinity}"#;
        let want = br#"{"a": [0.0, "Infinity"], "b": "Infinity \" NaN", "c": "NaN", "d": "-Infinity"}"#;
        assert_eq!(quote_infinities(json), want);
    }
}
