//! What was measured, kept in a file: another budget for the same checkpoint needs no second measurement, and an interrupted one goes on.

use crate::destination::Destination;
use crate::error::Error;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The member of the file that holds them: losses by checkpoint and stream.
const LEDGERS: &str = "ledgers";

/// Losses by what they are of.
type Losses = BTreeMap<String, f64>;

/// Losses of one checkpoint on one stream; the file may hold others'.
pub(super) struct Ledger {
    path: Option<PathBuf>,
    /// The checkpoint, as its passes left it, and the stream that these losses were measured on.
    of: String,
    all: BTreeMap<String, Losses>,
}

impl Ledger {
    /// Opens the ledger in `path`, or begins one; without a path it lasts as long as the work. What is no ledger is refused: it was kept for
    /// something.
    pub(super) fn open(path: Option<&Path>, of: String) -> Result<Self, Error> {
        let all = path.map_or(Ok(BTreeMap::new()), read)?;
        Ok(Ledger { path: path.map(Path::to_owned), of, all })
    }

    /// What was measured before.
    pub(super) fn get(&self, what: &str) -> Option<f64> {
        self.all.get(&self.of)?.get(what).copied()
    }

    /// Keeps a loss.
    pub(super) fn put(&mut self, what: String, loss: f64) -> Result<(), Error> {
        // JSON has no infinity; what is broken is measured again.
        if loss.is_finite() {
            self.all.entry(self.of.clone()).or_default().insert(what, loss);
            self.save()?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        let Some(path) = &self.path else { return Ok(()) };
        let io = |e| Error::io(path, e);
        let destination = Destination::of(path)?;
        // Another run may keep its own there at the same time.
        let folder = File::open(&destination.dir).map_err(io)?;
        folder.lock().map_err(io)?;
        for (of, losses) in read(path)? {
            let own = self.all.entry(of).or_default();
            losses.into_iter().for_each(|(what, loss)| _ = own.entry(what).or_insert(loss));
        }
        let mut file = destination.unfinished()?;
        writeln!(file, "{:#}", json!({ LEDGERS: self.all })).map_err(io)?;
        destination.replace(file)
    }
}

/// Refuses a place for a ledger where there is something else, or where none can be.
pub(super) fn expect(path: &Path) -> Result<(), Error> {
    Destination::of(path)?;
    read(path).map(drop)
}

/// The losses in the file `path`, by checkpoint and stream; none, where there is no file.
fn read(path: &Path) -> Result<BTreeMap<String, Losses>, Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(Error::io(path, e)),
    };
    let wrong = |problem: String| Error::invalid(path, "ledger", problem);
    let mut json: Value = serde_json::from_slice(&text).map_err(|e| wrong(format!("is not JSON: {e}")))?;
    // The first ledgers were of one checkpoint and stream.
    if let Some(of) = json.get("measured_on").and_then(Value::as_str) {
        json = json!({ LEDGERS: { of: json.get("losses") } });
    }
    let parts = json.get(LEDGERS).and_then(Value::as_object);
    let parts = parts.ok_or_else(|| wrong("is something else; name another file, or delete this one".to_owned()))?;
    let of_one = |losses: &Value| {
        let losses = losses.as_object().into_iter().flatten();
        losses.filter_map(|(what, loss)| Some((what.clone(), loss.as_f64()?))).collect()
    };
    Ok(parts.iter().map(|(of, losses)| (of.clone(), of_one(losses))).collect())
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    #[test]
    fn what_was_measured_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        let open = |of: &str| Ledger::open(Some(&path), of.to_owned());
        let mut ledger = open("a").unwrap();
        ledger.put("one".to_owned(), 0.1 + 0.2).unwrap();
        ledger.put("none".to_owned(), f64::NAN).unwrap();
        let again = open("a").unwrap();
        assert_eq!((again.get("one"), again.get("none")), (Some(0.1 + 0.2), None));
        // Another checkpoint, or the same behind other passes, has its own.
        let mut other = open("b").unwrap();
        assert_eq!(other.get("one"), None);
        other.put("one".to_owned(), 0.5).unwrap();
        assert_eq!((open("a").unwrap().get("one"), open("b").unwrap().get("one")), (Some(0.1 + 0.2), Some(0.5)));
        // Two runs at once: neither loses what the other has measured.
        let (mut first, mut second) = (open("c").unwrap(), open("c").unwrap());
        first.put("one".to_owned(), 1.0).unwrap();
        second.put("two".to_owned(), 2.0).unwrap();
        first.put("three".to_owned(), 3.0).unwrap();
        let both = open("c").unwrap();
        assert_eq!(["one", "two", "three"].map(|what| both.get(what)), [Some(1.0), Some(2.0), Some(3.0)]);
        std::fs::write(&path, r#"{ "measured_on": "a", "losses": { "one": 0.25 } }"#).unwrap();
        assert_eq!(open("a").unwrap().get("one"), Some(0.25));
        for (text, problem) in [("{", "not JSON"), ("{}", "something else"), ("[1]", "something else")] {
            std::fs::write(&path, text).unwrap();
            assert!(open("a").err().unwrap().to_string().contains(problem), "{text}");
        }
    }
}
