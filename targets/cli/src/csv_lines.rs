//! Comma-separated values, a line at a time as they arrive, with line numbers for messages.

use anyhow::{Context, Result, bail};
use csv_core::ReadRecordResult;
use std::io::{self, BufRead, Read};

/// Longest line: whatever is longer is no table of samples, and must not fill the memory.
const MAX_LINE_BYTES: usize = 1 << 20;

/// The lines of a file or a pipe.
pub(crate) struct CsvLines<R> {
    input: R,
    name: String,
    core: csv_core::Reader,
    number: u64,
    line: Vec<u8>,
    /// Whether the rest of a line that was too long is still to be skipped.
    has_rest: bool,
    /// Fields of the current line without their quotes, one behind the other, and where each ends.
    text: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl<R: BufRead> CsvLines<R> {
    /// Reads `input`; messages call it `name`.
    pub(crate) fn new(name: impl Into<String>, input: R) -> Self {
        CsvLines {
            input,
            name: name.into(),
            core: csv_core::Reader::new(),
            number: 0,
            line: Vec::new(),
            has_rest: false,
            text: Vec::new(),
            ends: Vec::new(),
            count: 0,
        }
    }

    /// Goes to the next line that is not blank; false at the end.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            let read = self.read_line();
            if read.with_context(|| format!("{}: cannot be read", self.name))? == 0 {
                return Ok(false);
            }
            self.number += 1;
            if self.line.len() > MAX_LINE_BYTES && !self.line.ends_with(b"\n") {
                // Not now: it may have no end.
                self.has_rest = true;
                bail!("{}: longer than {MAX_LINE_BYTES} bytes; is this a CSV file?", self.place());
            }
            if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            self.split()?;
            return Ok(true);
        }
    }

    /// Reads a line with its end, or the beginning of one that is too long. Returns 0 where the input ends.
    fn read_line(&mut self) -> io::Result<usize> {
        if self.has_rest {
            self.input.skip_until(b'\n')?;
            self.has_rest = false;
        }
        self.input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut self.line)
    }

    fn split(&mut self) -> Result<()> {
        if std::str::from_utf8(&self.line).is_err() {
            bail!("{}: not text (UTF-8); is this a CSV file?", self.place());
        }
        if !self.line.ends_with(b"\n") {
            self.line.push(b'\n');
        }
        self.text.resize(self.line.len(), 0);
        self.ends.resize(self.line.len(), 0);
        self.core.reset();
        let (result, read, _, count) = self.core.read_record(&self.line, &mut self.text, &mut self.ends);
        self.count = count;
        match result {
            ReadRecordResult::Record if self.line.get(read..).is_some_and(|rest| rest.trim_ascii().is_empty()) => Ok(()),
            ReadRecordResult::Record => {
                bail!("{}: a carriage return inside the line; end lines with a line feed (`tr '\\r' '\\n'` converts a file)", self.place())
            }
            _ => bail!("{}: a quote is not closed", self.place()),
        }
    }

    /// The fields of the current line, without spaces around them.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().take(self.count).map(move |&end| {
            let field = self.text.get(start..end).unwrap_or_default();
            start = end;
            std::str::from_utf8(field).unwrap_or_default().trim()
        })
    }

    /// File and line, for messages.
    pub(crate) fn place(&self) -> String {
        format!("{}, line {}", self.name, self.number)
    }

    /// What messages call the input.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::CsvLines;

    fn read(text: &[u8]) -> Vec<(String, Vec<String>)> {
        let mut lines = CsvLines::new("t", text);
        let mut all = Vec::new();
        while lines.advance().unwrap() {
            all.push((lines.place(), lines.fields().map(str::to_owned).collect()));
        }
        all
    }

    #[test]
    fn lines_keep_their_numbers_over_blanks_and_line_ends_of_any_kind() {
        let all = read(b"\xef\xbb\xbfa, b\r\n\r\n1,\"2,5\"\n\n3,4");
        let expected = [("t, line 1", ["a", "b"]), ("t, line 3", ["1", "2,5"]), ("t, line 5", ["3", "4"])];
        assert_eq!(all, expected.map(|(place, fields)| (place.to_owned(), fields.map(str::to_owned).to_vec())));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let long = [b'x'; (1 << 20) + 1];
        for (bytes, problem) in
            [(&b"1,\"2\n"[..], "quote"), (b"\xff\xfe1\n", "UTF-8"), (&long, "longer"), (b"1,2\r3,4\r", "carriage return")]
        {
            let error = CsvLines::new("t", bytes).advance().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("line 1"), "{error}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_to_its_end() {
        let mut text = vec![b'9'; 3 << 20];
        text.extend(b",9,9\n1,2\n");
        let mut lines = CsvLines::new("t", &text[..]);
        assert!(lines.advance().is_err());
        assert!(lines.advance().unwrap());
        assert_eq!((lines.place().as_str(), lines.fields().collect::<Vec<_>>()), ("t, line 2", vec!["1", "2"]));
        // As long as a line may be.
        let mut longest = vec![b'9'; 1 << 20];
        longest.push(b'\n');
        assert!(CsvLines::new("t", &longest[..]).advance().unwrap());
    }
}
