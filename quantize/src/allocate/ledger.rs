//! What was measured, kept in a file: another budget for the same checkpoint needs no second measurement, and an interrupted one goes on.

use crate::destination::{Destination, unfinished_prefix};
use crate::error::Error;
use crate::lower::make_readable;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Losses by what they are of.
pub(super) struct Ledger {
    path: Option<PathBuf>,
    /// The checkpoint and the stream that all of it was measured on.
    of: String,
    losses: BTreeMap<String, f64>,
}

impl Ledger {
    /// Opens the ledger in `path`, or begins one; without a path it lasts as long as the work. One of another checkpoint or another stream is
    /// refused: it was kept for something.
    pub(super) fn open(path: Option<&Path>, of: String) -> Result<Self, Error> {
        let mut ledger = Ledger { path: path.map(Path::to_owned), of, losses: BTreeMap::new() };
        let Some(path) = path else { return Ok(ledger) };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(ledger),
            Err(e) => return Err(Error::io(path, e)),
        };
        let json: Value = serde_json::from_slice(&text).map_err(|e| Error::invalid(path, "ledger", format!("is not JSON: {e}")))?;
        if json.get("measured_on").and_then(Value::as_str) != Some(&ledger.of) {
            let problem = "was kept for another checkpoint, calibration stream or context; name another file, or delete this one";
            return Err(Error::invalid(path, "ledger", problem));
        }
        let losses = json.get("losses").and_then(Value::as_object).into_iter().flatten();
        ledger.losses = losses.filter_map(|(what, loss)| Some((what.clone(), loss.as_f64()?))).collect();
        Ok(ledger)
    }

    /// What was measured before.
    pub(super) fn get(&self, what: &str) -> Option<f64> {
        self.losses.get(what).copied()
    }

    /// Keeps a loss.
    pub(super) fn put(&mut self, what: String, loss: f64) -> Result<(), Error> {
        // JSON has no infinity; what is broken is measured again.
        if loss.is_finite() {
            self.losses.insert(what, loss);
            self.save()?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), Error> {
        let Some(path) = &self.path else { return Ok(()) };
        let io = |e| Error::io(path, e);
        let Destination { target, dir } = Destination::of(path)?;
        let mut file = tempfile::Builder::new().prefix(&unfinished_prefix()).suffix(".tmp").tempfile_in(dir).map_err(io)?;
        writeln!(file, "{:#}", json!({ "measured_on": self.of, "losses": self.losses })).map_err(io)?;
        make_readable(file.as_file());
        file.persist(target).map_err(|e| io(e.error))?;
        Ok(())
    }
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
        assert!(open("b").err().unwrap().to_string().contains("another checkpoint"));
        std::fs::write(&path, "{").unwrap();
        assert!(open("a").err().unwrap().to_string().contains("not JSON"));
    }
}
