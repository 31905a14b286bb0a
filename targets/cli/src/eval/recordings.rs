//! Accuracy over labelled recordings: each is streamed from an empty state and judged at the end of every window.

use crate::classes::{best, class_names, gives_values, most_voted};
use crate::csv_lines::CsvLines;
use crate::frames::{Frames, Wanted};
use crate::model_file::{Memory, ModelFile, chosen_kernels};
use crate::stepper::expect_finite;
use crate::stream::channel_names;
use anyhow::{Context, Result, anyhow, bail};
use brooklet::Model;
use brooklet::artifact::InputSpec;
use brooklet::kernels::KernelTable;
use rayon::prelude::*;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

/// A recording and the number of its class.
struct Recording {
    path: PathBuf,
    label: usize,
}

/// Judgements counted by true class and judged class.
struct Confusion(Vec<Vec<u64>>);

pub(super) fn run(model: &Path, dir: &Path, window_seconds: f64, time_column: Option<&str>, json: bool) -> Result<()> {
    let kernels = chosen_kernels()?;
    let file = ModelFile::open(model)?;
    let model = file.model()?;
    let wanted = Wanted::of(&model, channel_names(&model, &file.name())?, time_column);
    if gives_values(&model) {
        bail!("{}: gives values, not classes; use --frames and --logits", file.name());
    }
    let names = class_names(&model);
    let InputSpec::Frames { rate_hz, .. } = model.header().input else { bail!("{}: takes no sensor frames", file.name()) };
    let window = ((window_seconds * f64::from(rate_hz)).round() as u64).max(1);
    let recordings = read_labels(dir, &names)?;
    let votes: Vec<Vec<u64>> = recordings
        .par_iter()
        .map_init(
            || Memory::new(&model, 1),
            |memory, recording| {
                let memory = memory.as_mut().map_err(|e| anyhow!("{e:#}"))?;
                judge(&model, memory, kernels, recording, wanted, window, names.len())
            },
        )
        .collect::<Result<_>>()?;
    let mut windows = Confusion(vec![vec![0; names.len()]; names.len()]);
    let mut right = 0;
    for (recording, votes) in recordings.iter().zip(&votes) {
        for (sum, votes) in windows.0[recording.label].iter_mut().zip(votes) {
            *sum += votes;
        }
        right += usize::from(most_voted(votes) == recording.label);
    }
    print(&windows, right, recordings.len(), &names, json)
}

/// Reads `labels.csv`: a line `file,label`, then a file and its class per line.
fn read_labels(dir: &Path, names: &[String]) -> Result<Vec<Recording>> {
    let path = dir.join("labels.csv");
    let file = File::open(&path)
        .with_context(|| format!("{}: cannot be opened; it lists the recordings as lines `file,label`", path.display()))?;
    let mut lines = CsvLines::new(path.display().to_string(), BufReader::new(file));
    let mut recordings = Vec::new();
    let mut is_first = true;
    while lines.advance()? {
        let fields: Vec<&str> = lines.fields().collect();
        let &[file, label] = fields.as_slice() else { bail!("{}: {} values where `file,label` belong", lines.place(), fields.len()) };
        let is_header = std::mem::take(&mut is_first) && (file, label) == ("file", "label");
        if !is_header {
            let class = names.iter().position(|name| name == label);
            let label = class.ok_or_else(|| anyhow!("{}: label `{label}`; the model's classes are {}", lines.place(), names.join(", ")))?;
            recordings.push(Recording { path: dir.join(file), label });
        }
    }
    if recordings.is_empty() {
        bail!("{}: lists no recordings", path.display());
    }
    Ok(recordings)
}

/// Counts the class at the end of each window; a recording shorter than a window is judged at its end.
fn judge(
    model: &Model<'_>,
    memory: &mut Memory,
    kernels: &'static KernelTable,
    recording: &Recording,
    wanted: Wanted<'_>,
    window: u64,
    classes: usize,
) -> Result<Vec<u64>> {
    let mut frames = Frames::open(&recording.path, wanted)?;
    let hop = (window / 2).max(1);
    let mut votes = vec![0; classes];
    memory.with_session(model, kernels, |session| {
        let mut step = 0;
        let mut last = None;
        while let Some(sample) = frames.advance()? {
            let class = best(session.step(sample.input()).with_context(|| frames.place())?);
            step += 1;
            if step >= window && (step - window).is_multiple_of(hop) {
                votes[class] += 1;
            }
            last = Some(class);
        }
        match last {
            Some(class) if step < window => votes[class] += 1,
            Some(_) => {}
            None => bail!("{}: holds no samples", frames.name()),
        }
        // Answers may not show that a state is spoilt.
        expect_finite(session, true).with_context(|| frames.name().to_owned())?;
        Ok(votes)
    })
}

fn print(windows: &Confusion, right: usize, recordings: usize, names: &[String], json: bool) -> Result<()> {
    let total: u64 = windows.0.iter().flatten().sum();
    let correct: u64 = windows.0.iter().enumerate().filter_map(|(class, row)| row.get(class)).sum();
    let (window_accuracy, vote_accuracy) = (correct as f64 / total.max(1) as f64, right as f64 / recordings.max(1) as f64);
    let mut out = io::stdout().lock();
    if json {
        let report = serde_json::json!({
            "windows": total, "window_accuracy": window_accuracy, "recordings": recordings, "vote_accuracy": vote_accuracy,
            "classes": names, "confusion": windows.0,
        });
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    writeln!(out, "windows     {:>6.2} %   {correct} of {total} right", 100.0 * window_accuracy)?;
    writeln!(out, "recordings  {:>6.2} %   {right} of {recordings} right by vote of their windows", 100.0 * vote_accuracy)?;
    writeln!(out, "\nWindows by true class (rows) and judged class (columns)")?;
    let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0).max(6);
    let heads: Vec<String> = names.iter().map(|name| format!("{name:>width$}")).collect();
    writeln!(out, "{:<width$} {}", "", heads.join(" "))?;
    for (name, row) in names.iter().zip(&windows.0) {
        let counts: Vec<String> = row.iter().map(|count| format!("{count:>width$}")).collect();
        writeln!(out, "{name:<width$} {}", counts.join(" "))?;
    }
    Ok(())
}
