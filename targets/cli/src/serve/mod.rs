//! `brooklet serve`: a sensor model as a service. Every connection is a stream of its own; all of them share one mapped file.

#[cfg(feature = "cuda")]
mod gpu;
mod listen;
mod serial;

use crate::answers::{Given, Refused, Step};
use crate::classes::{class_names, gives_values, probabilities};
use crate::device::{Target, is_lost};
use crate::frames::{Frames, Wanted};
use crate::interrupt::on_ctrl_c_or_term;
use crate::model_file::{Memory, ModelFile, chosen_kernels};
use crate::stepper::{Stepper, expect_finite};
use crate::stoppable::LOOK;
use crate::stream::channel_names;
use anyhow::{Context, Result, bail};
use brooklet::Model;
use brooklet::kernels::KernelTable;
use listen::Address;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

const EXAMPLES: &str = "\
Examples:
  brooklet serve watch.brook --listen unix:/run/brooklet/watch.sock
  brooklet serve watch.brook --listen tcp:127.0.0.1:7070 --every 25
  brooklet serve watch.brook --serial /dev/ttyTHS1 --baud 115200
  brooklet serve large.brook --listen unix:/run/brooklet/large.sock --device auto
  socat - UNIX-CONNECT:/run/brooklet/watch.sock < recording.csv

A sender writes samples as CSV lines, with or without a line of column names, and reads one JSON object per step. A line that is no sample is
answered with {\"error\": ..}, and the stream goes on as if it had not come; one that spoils the stream for good ends it, and so
does a line of other names than the model's, where there is one for each channel. Nothing is encrypted and
nobody is asked who they are: listen on a socket whose folder has the right owner, or on 127.0.0.1. To replace the model's file, rename a new one
to its name (mv, install) and start the service again: never write into a file that is in use.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Sensor model (.brook)
    model: PathBuf,
    /// Where to listen: unix:PATH or tcp:HOST:PORT; may be given several times
    #[arg(long, value_name = "ADDRESS", required_unless_present = "serial")]
    listen: Vec<Address>,
    /// Serial line to read samples from and to write answers to
    #[arg(long, value_name = "DEVICE")]
    serial: Option<PathBuf>,
    /// Bits per second of the serial line
    #[arg(long, value_name = "RATE", default_value_t = 115_200, requires = "serial")]
    baud: u32,
    /// Answer only every N-th step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Most streams at once: each takes the model's state and scratch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// Keep the model's pages in memory
    #[arg(long)]
    lock: bool,
    /// Where the model runs: on a GPU the streams share its weights there and take turns, step by step
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t)]
    device: Target,
}

/// What all streams share. It lives as long as the program: threads that wait for a sender are not waited for.
struct Service {
    model: Model<'static>,
    kernels: &'static KernelTable,
    /// The model on a GPU, if that was asked for and is there.
    #[cfg(feature = "cuda")]
    gpu: Option<gpu::Shared>,
    channels: &'static str,
    names: Vec<String>,
    every: u64,
    most: usize,
    open: AtomicUsize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let kernels = chosen_kernels()?;
    let file: &'static ModelFile = Box::leak(Box::new(ModelFile::open(&args.model)?));
    if args.lock {
        file.lock()?;
    }
    let model = file.model()?;
    let service: &'static Service = Box::leak(Box::new(Service {
        channels: channel_names(&model, &file.name())?,
        names: class_names(&model),
        #[cfg(feature = "cuda")]
        gpu: gpu::Shared::of(args.device, &model),
        model,
        kernels,
        every: args.every,
        most: args.streams as usize,
        open: AtomicUsize::new(0),
    }));
    #[cfg(not(feature = "cuda"))]
    crate::device::told_without_gpu(args.device);
    let stop = on_ctrl_c_or_term()?;
    // Only a serial line can end: senders come and go.
    let (ended, ends) = mpsc::channel();
    let mut sockets = Vec::new();
    for address in &args.listen {
        let (listener, socket) = address.bind()?;
        sockets.extend(socket);
        log(format_args!("listening on {}", listener.address(address)));
        std::thread::spawn(move || listener.serve(service));
    }
    if let Some(path) = &args.serial {
        let (name, line) = (path.display().to_string(), serial::open(path, args.baud)?);
        log(format_args!("listening on {name}, {} bits per second", args.baud));
        let ended = ended.clone();
        std::thread::spawn(move || {
            let served = service.stream(&name, &line, &line);
            ended.send(served.and_then(|steps| bail!("{name}: ended after {steps} steps")))
        });
    }
    loop {
        match ends.recv_timeout(LOOK) {
            Ok(end) => return end,
            Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::Relaxed) => {}
            Err(_) => return Ok(()),
        }
    }
}

/// Removes its socket from the file system when the service ends.
struct Socket {
    path: PathBuf,
    /// Device and number of the file: another service's may have taken its place.
    file: (u64, u64),
}

impl Socket {
    /// Of the socket that lies at `path` now.
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Socket { path: path.to_owned(), file: file_at(path)? })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if file_at(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// One line to standard error, where a supervisor's journal is.
fn log(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A stream's place among those that may be open.
struct Place<'s>(&'s AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service {
    fn place(&self) -> Option<Place<'_>> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.open);
        (open < self.most).then_some(place)
    }

    /// A sender's whole stream, from an empty state; `name` is the sender. Returns the number of steps.
    fn stream(&self, name: &str, input: impl Read, mut out: impl Write) -> Result<u64> {
        let Some(_place) = self.place() else {
            let error = format!("{} streams are open, and no more are allowed (--streams)", self.most);
            Refused { error: &error }.write(&mut out)?;
            bail!(error);
        };
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu
            && let Some(session) = gpu.session()
        {
            return gpu.take_turns(session, |session| self.answer(session, name, input, out));
        }
        Memory::new(&self.model, 1)?.with_session(&self.model, self.kernels, |session| self.answer(session, name, input, out))
    }

    /// Answers a sender's samples, wherever its stream runs.
    fn answer(&self, session: &mut dyn Stepper, name: &str, input: impl Read, mut out: impl Write) -> Result<u64> {
        let mut frames = Frames::new(name, BufReader::new(input), Wanted::of(&self.model, self.channels, None));
        let mut probs = Vec::new();
        loop {
            let stepped = match frames.advance() {
                Ok(None) => return Ok(session.position()),
                Ok(Some(sample)) => session.step(sample.input()).map(|_| ()).with_context(|| frames.place()),
                // Nothing more comes from a sender that cannot be read.
                Err(error) if error.chain().any(|cause| cause.is::<io::Error>()) => return Err(error),
                Err(error) => Err(error),
            };
            if let Err(error) = stepped {
                Refused { error: &format!("{error:#}") }.write(&mut out)?;
                // A bad sample changes nothing; a GPU that fails takes the stream's state with it, and under other names by place nothing is
                // what it seems.
                if is_lost(&error) || frames.has_other_names() {
                    return Err(error);
                }
                continue;
            }
            if let Err(error) = expect_finite(session, false) {
                Refused { error: &format!("{}: {error}", frames.place()) }.write(&mut out)?;
                return Err(error);
            }
            let step = session.position();
            if !step.is_multiple_of(self.every) {
                continue;
            }
            if gives_values(&self.model) {
                Given::new(step, &self.names, session.output()).write(&mut out)?;
            } else {
                probabilities(session.output(), &mut probs);
                Step::new(step, &self.names, &probs).write(&mut out)?;
            }
        }
    }
}
