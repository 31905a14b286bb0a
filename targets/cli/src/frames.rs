//! Sensor frames from a CSV file or a live pipe: one sample of every channel per line.

use crate::csv_lines::CsvLines;
use anyhow::{Context, Result, bail};
use std::io::BufRead;
use std::path::Path;

/// Reads frames in the order of a model's channels.
pub(crate) struct Frames<R> {
    lines: CsvLines<R>,
    channels: Vec<String>,
    /// Where each channel stands in a line, and how many fields a line has; known once the first line is read.
    columns: Option<(Vec<usize>, usize)>,
    frame: Vec<f32>,
}

impl Frames<std::io::BufReader<std::fs::File>> {
    /// Reads the file at `path`.
    pub(crate) fn open(path: &Path, channels: &str) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
        Ok(Frames::new(path.display().to_string(), std::io::BufReader::new(file), channels))
    }
}

impl<R: BufRead> Frames<R> {
    /// Reads `input`, which messages call `name`; `channels` holds the model's channel names, one per line.
    pub(crate) fn new(name: impl Into<String>, input: R, channels: &str) -> Self {
        let channels: Vec<String> = channels.lines().map(str::to_owned).collect();
        Frames { lines: CsvLines::new(name, input), frame: vec![0.0; channels.len()], channels, columns: None }
    }

    /// The next frame; `None` at the end.
    pub(crate) fn advance(&mut self) -> Result<Option<&[f32]>> {
        if !self.lines.advance()? {
            return Ok(None);
        }
        if self.columns.is_none() {
            // A line of names, or already the first sample?
            let is_header = self.lines.fields().all(|field| field.parse::<f32>().is_err());
            if is_header {
                self.columns = Some(self.match_header()?);
                if !self.lines.advance()? {
                    return Ok(None);
                }
            }
        }
        let count = self.channels.len();
        let (columns, width) = self.columns.get_or_insert_with(|| ((0..count).collect(), count));
        let found = self.lines.fields().count();
        if found != *width {
            let names = self.channels.join(",");
            bail!("{}: {found} values where {width} belong (the model's channels are {names})", self.lines.place());
        }
        let fields: Vec<&str> = self.lines.fields().collect();
        for ((value, &column), channel) in self.frame.iter_mut().zip(columns.iter()).zip(&self.channels) {
            let field = fields.get(column).copied().unwrap_or_default();
            *value = match field.parse::<f32>() {
                Ok(number) if number.is_finite() => number,
                _ => bail!(
                    "{}: channel {channel}: `{field}` is not a finite number; leave the line out, or repeat the last good sample",
                    self.lines.place()
                ),
            };
        }
        Ok(Some(&self.frame))
    }

    /// All frames that are left, one behind the other.
    pub(crate) fn read_all(&mut self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        while let Some(frame) = self.advance()? {
            all.extend_from_slice(frame);
        }
        Ok(all)
    }

    /// What messages call the input.
    pub(crate) fn name(&self) -> &str {
        self.lines.name()
    }

    /// Values of a frame.
    pub(crate) fn width(&self) -> usize {
        self.channels.len()
    }

    fn match_header(&self) -> Result<(Vec<usize>, usize)> {
        let header: Vec<&str> = self.lines.fields().collect();
        let place = self.lines.place();
        let mut columns = Vec::with_capacity(self.channels.len());
        for channel in &self.channels {
            let mut same = header.iter().enumerate().filter(|(_, name)| name.eq_ignore_ascii_case(channel.trim()));
            match (same.next(), same.next()) {
                (Some((column, _)), None) => columns.push(column),
                (None, _) => bail!(
                    "{place}: no column `{channel}`; the model takes {}, the header has {}",
                    self.channels.join(","),
                    header.join(",")
                ),
                (Some(_), Some(_)) => bail!("{place}: two columns `{channel}`; rename or remove one"),
            }
        }
        Ok((columns, header.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    fn read(text: &str) -> Result<Vec<f32>, String> {
        Frames::new("f.csv", text.as_bytes(), "ax\nay").read_all().map_err(|e| e.to_string())
    }

    #[test]
    fn columns_are_matched_by_name_or_by_position() {
        assert_eq!(read("1,2\n3,4\n"), Ok(vec![1.0, 2.0, 3.0, 4.0]));
        assert_eq!(read("t,AY,note,ax\n0.1,2,x,1\n0.2,4,,3"), Ok(vec![1.0, 2.0, 3.0, 4.0]));
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("ax,ay\n"), Ok(vec![]));
    }

    #[test]
    fn errors_name_file_line_and_expectation() {
        for (text, parts) in [
            ("1,2\n3\n", ["f.csv, line 2", "1 values where 2"]),
            ("1,2\n\n3,x\n", ["f.csv, line 3", "channel ay: `x`"]),
            ("1,2\nNaN,2\n", ["f.csv, line 2", "channel ax: `NaN`"]),
            ("1,inf\n", ["f.csv, line 1", "channel ay: `inf`"]),
            ("1,abc\n", ["f.csv, line 1", "channel ay: `abc`"]),
            ("ax,az\n1,2\n", ["f.csv, line 1", "no column `ay`"]),
            ("ax,ay,ax\n1,2,3\n", ["f.csv, line 1", "two columns `ax`"]),
        ] {
            let error = read(text).unwrap_err();
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
        }
    }
}
