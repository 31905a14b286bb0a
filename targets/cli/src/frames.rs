//! Sensor frames from a CSV file or a live pipe: one sample of every channel per line.

use crate::csv_lines::CsvLines;
use anyhow::{Context, Result, bail};
use brooklet::{Input, Model};
use std::io::BufRead;
use std::path::Path;

/// Characters of a header that a message repeats.
const MOST_TOLD: usize = 300;

/// What a line holds.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The model's channel names, one per line.
    pub(crate) channels: &'a str,
    /// The column with each sample's time in seconds; without it, samples come at the model's own rate.
    pub(crate) time_column: Option<&'a str>,
    /// Whether the model knows what stands in for a missing sample, an empty field or `nan`.
    pub(crate) takes_missing: bool,
}

impl<'a> Wanted<'a> {
    /// What `model` takes, whose channel names are `channels`.
    pub(crate) fn of(model: &Model<'_>, channels: &'a str, time_column: Option<&'a str>) -> Self {
        Wanted { channels, time_column, takes_missing: model.plan().missing.is_some() }
    }
}

/// One line's frame.
pub(crate) struct Sample<'a> {
    /// (channels)
    pub(crate) values: &'a [f32],
    /// Time since the line before; `None` for the model's own.
    pub(crate) seconds: Option<f32>,
}

impl<'a> Sample<'a> {
    pub(crate) fn input(&self) -> Input<'a> {
        self.seconds.map_or(Input::Frame(self.values), |seconds| Input::FrameAfter(self.values, seconds))
    }
}

/// Reads frames in the order of a model's channels.
pub(crate) struct Frames<R> {
    lines: CsvLines<R>,
    channels: Vec<String>,
    time_column: Option<String>,
    takes_missing: bool,
    /// Known once the first line is read.
    columns: Option<Columns>,
    /// Whether a line named columns, and not the model's.
    has_other_names: bool,
    frame: Vec<f32>,
    /// Of the line before.
    time: Option<f64>,
}

/// Where things stand in a line.
struct Columns {
    /// (channels)
    channels: Vec<usize>,
    time: Option<usize>,
    /// Fields of a line.
    count: usize,
}

impl Frames<std::io::BufReader<std::fs::File>> {
    /// Reads the file at `path`.
    pub(crate) fn open(path: &Path, wanted: Wanted<'_>) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
        Ok(Frames::new(path.display().to_string(), std::io::BufReader::new(file), wanted))
    }
}

impl<R: BufRead> Frames<R> {
    /// Reads `input`, which messages call `name`.
    pub(crate) fn new(name: impl Into<String>, input: R, wanted: Wanted<'_>) -> Self {
        let channels: Vec<String> = wanted.channels.lines().map(str::to_owned).collect();
        Frames {
            lines: CsvLines::new(name, input),
            frame: vec![0.0; channels.len()],
            channels,
            time_column: wanted.time_column.map(str::to_owned),
            takes_missing: wanted.takes_missing,
            columns: None,
            has_other_names: false,
            time: None,
        }
    }

    /// Goes on behind a sample of this time.
    pub(crate) fn go_on_from(&mut self, time: f64) {
        self.time = Some(time);
    }

    /// Whether the latest line that was refused named as many columns as the model has channels, and not the model's: what follows means
    /// something else.
    pub(crate) fn has_other_names(&self) -> bool {
        self.has_other_names
    }

    /// The time of the latest frame, if lines tell it.
    pub(crate) fn time(&self) -> Option<f64> {
        self.time
    }

    /// The next frame; `None` at the end.
    pub(crate) fn advance(&mut self) -> Result<Option<Sample<'_>>> {
        if !self.lines.advance()? {
            return Ok(None);
        }
        if self.columns.is_none() {
            // A line of names, or already the first sample?
            let is_header = self.lines.fields().all(|field| field.parse::<f32>().is_err());
            // A line of nothing but missing samples has no names.
            let is_header = is_header && self.lines.fields().any(|field| !field.is_empty());
            if is_header {
                let count = self.lines.fields().count();
                // One word may as well be what a device says when it starts.
                self.has_other_names = count > 1 && count == self.channels.len();
                self.columns = Some(self.match_header()?);
                self.has_other_names = false;
                if !self.lines.advance()? {
                    return Ok(None);
                }
            } else if let Some(time) = &self.time_column {
                bail!("{}: is no line of column names, which --time-column {time} looks for", self.lines.place());
            }
        }
        let count = self.channels.len();
        // A first line that is refused says nothing about those behind it: names may still come.
        let mut by_position = None;
        let columns = match &self.columns {
            Some(columns) => columns,
            None => by_position.insert(Columns { channels: (0..count).collect(), time: None, count }),
        };
        let fields: Vec<&str> = self.lines.fields().collect();
        if fields.len() != columns.count {
            let (place, names) = (self.lines.place(), self.channels.join(","));
            bail!("{place}: {} values where {} belong (the model's channels are {names})", fields.len(), columns.count);
        }
        let field = |column: usize| fields.get(column).copied().unwrap_or_default();
        for ((value, &column), channel) in self.frame.iter_mut().zip(&columns.channels).zip(&self.channels) {
            let field = field(column);
            *value = match field.parse::<f32>() {
                Ok(number) if number.is_finite() => number,
                Ok(nan) if nan.is_nan() && self.takes_missing => nan,
                Err(_) if field.is_empty() && self.takes_missing => f32::NAN,
                parsed => {
                    let place = self.lines.place();
                    let missing = field.is_empty() || parsed.is_ok_and(f32::is_nan);
                    let policy = if missing { "; the model has no policy for missing samples (`input.missing` in its config)" } else { "" };
                    bail!(
                        "{place}: channel {channel}: `{field}` is not a finite number; leave the line out, or repeat the last good sample{policy}"
                    )
                }
            };
        }
        let mut seconds = None;
        if let Some(column) = columns.time {
            let field = field(column);
            let Some(time) = field.parse::<f64>().ok().filter(|t| t.is_finite()) else {
                bail!("{}: time: `{field}` is not a finite number of seconds", self.lines.place());
            };
            if let Some(before) = self.time {
                if time <= before {
                    let place = self.lines.place();
                    bail!("{place}: time: {time} does not come after {before}, the time before it; sort the lines, drop what comes twice");
                }
                seconds = Some((time - before) as f32);
            }
            self.time = Some(time);
        }
        if by_position.is_some() {
            self.columns = by_position;
        }
        Ok(Some(Sample { values: &self.frame, seconds }))
    }

    /// All frames that are left, one behind the other, and the seconds before each; a sample without a time of its own comes after
    /// `own_seconds`.
    pub(crate) fn read_all(&mut self, own_seconds: f32) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mut all, mut times) = (Vec::new(), Vec::new());
        while let Some(sample) = self.advance()? {
            all.extend_from_slice(sample.values);
            times.push(sample.seconds.unwrap_or(own_seconds));
        }
        Ok((all, times))
    }

    /// What messages call the input.
    pub(crate) fn name(&self) -> &str {
        self.lines.name()
    }

    /// File and line of the latest frame, for messages.
    pub(crate) fn place(&self) -> String {
        self.lines.place()
    }

    /// Values of a frame.
    pub(crate) fn width(&self) -> usize {
        self.channels.len()
    }

    fn match_header(&self) -> Result<Columns> {
        let header: Vec<&str> = self.lines.fields().collect();
        let told: String = header.join(",").chars().take(MOST_TOLD).collect();
        let column = |name: &str, who: &str| {
            let mut same = header.iter().enumerate().filter(|(_, field)| field.eq_ignore_ascii_case(name.trim()));
            match (same.next(), same.next()) {
                (Some((column, _)), None) => Ok(column),
                (None, _) => bail!("{}: no column `{name}`; {who}, the header has {told}", self.lines.place()),
                (Some(_), Some(_)) => bail!("{}: two columns `{name}`; rename or remove one", self.lines.place()),
            }
        };
        let takes = format!("the model takes {}", self.channels.join(","));
        let channels = self.channels.iter().map(|channel| column(channel, &takes)).collect::<Result<_>>()?;
        let time = self.time_column.as_ref().map(|time| column(time, "it should hold the times")).transpose()?;
        Ok(Columns { channels, time, count: header.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, Wanted};

    fn read_timed(text: &str, time_column: Option<&str>) -> Result<(Vec<f32>, Vec<f32>), String> {
        let wanted = Wanted { channels: "ax\nay", time_column, takes_missing: false };
        Frames::new("f.csv", text.as_bytes(), wanted).read_all(9.0).map_err(|e| e.to_string())
    }

    fn read(text: &str) -> Result<Vec<f32>, String> {
        read_timed(text, None).map(|(frames, _)| frames)
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

    #[test]
    fn names_may_come_behind_a_line_that_is_refused() {
        let wanted = Wanted { channels: "ax\nay", time_column: None, takes_missing: false };
        let mut frames = Frames::new("f.csv", "1\nay,ax\n2,1\n".as_bytes(), wanted);
        assert!(frames.advance().is_err());
        assert_eq!(frames.advance().unwrap().unwrap().values, [1.0, 2.0]);
    }

    #[test]
    fn missing_samples_are_told_from_bad_ones() {
        let read = |text: &str, takes_missing| {
            let wanted = Wanted { channels: "ax\nay", time_column: None, takes_missing };
            let frames = Frames::new("f.csv", text.as_bytes(), wanted).read_all(1.0);
            frames.map(|(frames, _)| frames.iter().map(f32::to_string).collect::<Vec<_>>().join(" ")).map_err(|e| e.to_string())
        };
        assert_eq!(read("1,\n,2\nnan,NaN\n,\n", true).as_deref(), Ok("1 NaN NaN 2 NaN NaN NaN NaN"));
        assert_eq!(read(",\n1,2\n", true).as_deref(), Ok("NaN NaN 1 2"));
        for text in ["1,inf\n", "1,-\n", "1,2,\n"] {
            let error = read(text, true).unwrap_err();
            assert!(error.contains("line 1") && !error.contains("policy"), "{error}");
        }
        for text in ["1,\n", "1,nan\n"] {
            let error = read(text, false).unwrap_err();
            assert!(error.contains("line 1: channel ay"), "{error}");
            assert!(error.contains("no policy for missing samples"), "{error}");
        }
    }

    #[test]
    fn times_are_told_apart_in_double_precision() {
        // A clock's seconds since 1970: an f32 of them counts minutes.
        let text = "ax,ay,T\n1,2,1700000000.25\n3,4,1700000000.5\n5,6,1700000060.5\n";
        assert_eq!(read_timed(text, Some("t")), Ok((vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![9.0, 0.25, 60.0])));
        assert_eq!(read_timed(text, None).unwrap().1, [9.0; 3]);
        for (text, parts) in [
            ("1,2,3\n", ["f.csv, line 1", "no line of column names"]),
            ("ax,ay,time\n1,2,3\n", ["f.csv, line 1", "no column `t`"]),
            ("ax,ay,t,t\n1,2,3,4\n", ["f.csv, line 1", "two columns `t`"]),
            ("ax,ay,t\n1,2,3\n1,2,\n", ["f.csv, line 3", "time: `` is not"]),
            ("ax,ay,t\n1,2,x\n", ["f.csv, line 2", "time: `x` is not"]),
            ("ax,ay,t\n1,2,nan\n", ["f.csv, line 2", "time: `nan` is not"]),
            ("ax,ay,t\n1,2,3\n\n1,2,3\n", ["f.csv, line 4", "3 does not come after 3"]),
            ("ax,ay,t\n1,2,3\n1,2,-1\n", ["f.csv, line 3", "-1 does not come after 3"]),
        ] {
            let error = read_timed(text, Some("t")).unwrap_err();
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
        }
    }
}
