//! A cold start: from a process that is not there, over a file that is not in memory, to the first answer; and what of the
//! machine's memory is taken then.
//!
//! Each start is a process of its own, this program with `--first-answer`: nothing that was measured before is in its memory.

use super::inputs::Inputs;
use super::stream::{Engine, Place, Stream};
use super::times::Times;
use crate::model_file::ModelFile;
use crate::sheet::{Sheet, short};
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a process may take beyond file, state and scratch: the program itself.
const PROGRAM_BYTES: u64 = 6 << 20;
/// Bytes of one read of the file.
const READ_BYTES: usize = 1 << 20;

/// What a process tells about its start.
#[derive(Serialize, Deserialize)]
pub(crate) struct FirstAnswer {
    /// From its beginning to the open file.
    open_seconds: f64,
    /// Planning, state, scratch and the first step, while the file is being checked.
    step_seconds: f64,
    /// From there to the end of the check.
    check_seconds: f64,
    /// Most memory that was resident so far.
    peak_resident_bytes: u64,
}

/// What was found.
#[derive(Serialize)]
pub(crate) struct ColdStart {
    model: String,
    memory: Sheet,
    runs: u32,
    /// Reading the file once, when it is not in memory.
    read_seconds: f64,
    /// From starting the process to its first answer.
    first_answer_seconds: f64,
    /// That over reading the file once.
    of_read: f64,
    /// The same of the fastest start and the fastest reading: what a machine that does nothing else would show.
    best_of_read: f64,
    /// The same with the file in memory.
    warm_first_answer_seconds: f64,
    /// Of the process in the middle.
    phases: FirstAnswer,
    /// File, state, scratch and the program.
    allowed_resident_bytes: u64,
}

/// The child's part: opens, checks, steps once, and tells.
pub(crate) fn first_answer(path: &Path, engine: &Engine, lock: bool, out: &mut dyn Write) -> Result<()> {
    let mut since = Instant::now();
    let mut lap = || std::mem::replace(&mut since, Instant::now()).elapsed().as_secs_f64();
    let file = ModelFile::open(path)?;
    if lock {
        file.lock()?;
    }
    let open_seconds = lap();
    file.while_checked(|model, check| {
        Stream::new(model, 1, engine.threads())?.time_from(&Place::START, engine, |session| Inputs::random(model, 1).step(session, 1))?;
        let step_seconds = lap();
        check.wait()?;
        let told = FirstAnswer { open_seconds, step_seconds, check_seconds: lap(), peak_resident_bytes: peak_resident_bytes()? };
        writeln!(out, "{}", serde_json::to_string(&told)?)?;
        Ok(())
    })
}

impl ColdStart {
    pub(crate) fn measure(name: String, path: &Path, runs: u32, lock: bool) -> Result<Self> {
        // Mapped pages cannot be dropped: the file is closed again.
        let memory = Sheet::of(&ModelFile::open(path)?.model()?);
        // Pages that wait to be written cannot be dropped.
        File::open(path)?.sync_all().with_context(|| format!("{}: cannot be written to its disk", path.display()))?;
        let (mut reads, mut warm, mut cold) = (Times::default(), Times::default(), Vec::new());
        let bar = ProgressBar::new(u64::from(runs)).with_message("starting");
        for _ in 0..runs {
            drop_cached(path)?;
            reads.push(read_once(path)?);
            warm.push(start(path, lock)?.0);
            drop_cached(path)?;
            cold.push(start(path, lock)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        cold.sort_by_key(|(time, _)| *time);
        let read = reads.median();
        let best_of_read = cold.iter().map(|(time, _)| time.as_secs_f64()).fold(f64::INFINITY, f64::min) / reads.best().as_secs_f64();
        let (first_answer, phases) = cold.swap_remove(cold.len() / 2);
        Ok(ColdStart {
            model: name,
            memory,
            runs,
            read_seconds: read.as_secs_f64(),
            first_answer_seconds: first_answer.as_secs_f64(),
            of_read: first_answer.as_secs_f64() / read.as_secs_f64(),
            best_of_read,
            warm_first_answer_seconds: warm.median().as_secs_f64(),
            phases,
            allowed_resident_bytes: memory.file_bytes + memory.state_bytes + memory.scratch_bytes + PROGRAM_BYTES,
        })
    }

    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let ms = |seconds: f64| 1e3 * seconds;
        let FirstAnswer { open_seconds, check_seconds, step_seconds, peak_resident_bytes } = self.phases;
        let rate = self.memory.file_bytes as f64 / self.read_seconds / 1e9;
        writeln!(out, "{}: medians of {} starts\n", self.model, self.runs)?;
        writeln!(out, "reading the file once    {:>9.1} ms   {}, {rate:.2} GB/s", ms(self.read_seconds), short(self.memory.file_bytes))?;
        writeln!(
            out,
            "cold start, first answer {:>9.1} ms   {:.2} x reading (best runs {:.2})",
            ms(self.first_answer_seconds),
            self.of_read,
            self.best_of_read
        )?;
        writeln!(out, "  opening                {:>9.1} ms", ms(open_seconds))?;
        writeln!(out, "  memory and first step  {:>9.1} ms", ms(step_seconds))?;
        writeln!(out, "  end of the check       {:>9.1} ms", ms(check_seconds))?;
        writeln!(out, "warm start, first answer {:>9.1} ms", ms(self.warm_first_answer_seconds))?;
        let (program, memory) = (short(PROGRAM_BYTES), short(self.allowed_resident_bytes));
        writeln!(out, "resident at most         {:>12}   file, state, scratch and {program}: {memory}", short(peak_resident_bytes))
    }
}

/// Starts a process on the file, and returns its time to the first answer and what it tells.
fn start(path: &Path, lock: bool) -> Result<(Duration, FirstAnswer)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("bench").arg(path).arg("--first-answer").args(lock.then_some("--lock"));
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("this program cannot be started again")?;
    let mut told = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut told)?;
    }
    let time = start.elapsed();
    let child = child.wait_with_output()?;
    if !child.status.success() {
        bail!("{}", String::from_utf8_lossy(&child.stderr).trim().trim_start_matches("error: "));
    }
    Ok((time, serde_json::from_str(&told).context("a process told nothing about its start")?))
}

fn read_once(path: &Path) -> Result<Duration> {
    let mut buffer = vec![0; READ_BYTES];
    let start = Instant::now();
    let mut file = File::open(path)?;
    while file.read(&mut buffer)? > 0 {}
    Ok(start.elapsed())
}

/// Drops the file's pages from the system's cache.
#[cfg(target_os = "linux")]
fn drop_cached(path: &Path) -> Result<()> {
    let cannot = || format!("{}: cannot be dropped from the system's cache", path.display());
    let file = File::open(path).with_context(cannot)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).with_context(cannot)
}

#[cfg(not(target_os = "linux"))]
fn drop_cached(_: &Path) -> Result<()> {
    bail!("--cold: only Linux lets a program drop a file from the system's cache")
}

/// The most memory of this process that was resident so far.
fn peak_resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status: cannot be read")?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(1024 * kib.context("/proc/self/status: tells no VmHWM")?)
}
