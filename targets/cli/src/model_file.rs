//! A model file, the kernels that run it, and the memory of a stream.

use anyhow::{Context, Result, anyhow, bail};
use brooklet::kernels::{self, KernelTable};
use brooklet::mem::{MappedFile, Pages};
use brooklet::{Line, Model, Session, State};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

/// Environment variable that forces one table of kernels.
const BACKEND: &str = "BROOKLET_BACKEND";

/// The last of so many parts of a file is checked while the first step runs: a step takes about as long as a fast disk takes for an eighth of the
/// file, and begins with what has come. A step from the start on would ask for pages far ahead of those that are coming.
const PARTS: u64 = 3;

/// A mapped `.brook` file.
pub(crate) struct ModelFile {
    path: PathBuf,
    file: MappedFile,
}

impl ModelFile {
    /// Maps the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            bail!("{0}: a folder, not a .brook file; if it is a checkpoint, first make one with `brooklet quantize {0}`", path.display());
        }
        if path.exists() && !path.is_file() {
            bail!("{}: a device or a pipe, which cannot be mapped; give the name of a .brook file", path.display());
        }
        let file = MappedFile::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
        // All of it is about to be checked.
        file.fetch();
        Ok(ModelFile { path: path.to_owned(), file })
    }

    /// Checks the file and plans its memory.
    pub(crate) fn model(&self) -> Result<Model<'_>> {
        Model::from_bytes(self.file.bytes()).with_context(|| self.name())
    }

    /// Does `work` while the end of the file is still being checked, which may be on its way from a disk. Nothing may be told before what `work`
    /// is given has waited for the end of the check. Where the check fails, that is the error.
    pub(crate) fn while_checked<T>(&self, work: impl FnOnce(&Model<'_>, &Check<'_>) -> Result<T>) -> Result<T> {
        // Where the beginning alone does not hold, the check of the whole says best why: a file cut short seems to lack tensors.
        let beginning = Model::from_header(self.bytes()).map_err(|e| Model::from_bytes(self.bytes()).err().unwrap_or(e));
        let mut model = beginning.with_context(|| self.name())?;
        let sections = model.header().sections;
        let early_bytes = self.bytes().len() as u64 / PARTS * (PARTS - 1);
        let is_late = |&id: &u32| sections.get(id).is_some_and(|section| section.at > early_bytes);
        let late = (0..sections.count).find(is_late).unwrap_or(sections.count);
        model.check_until(late).with_context(|| self.name())?;
        let mut rest = model;
        std::thread::scope(|scope| {
            let rest = move || rest.check_until(u32::MAX);
            let checked = std::thread::Builder::new().name("brooklet-check".into()).stack_size(128 << 10).spawn_scoped(scope, rest)?;
            let check = Check(RefCell::new(Checking::Running(checked)));
            let done = work(&model, &check);
            check.wait().with_context(|| self.name())?;
            done
        })
    }

    /// Keeps the file's pages in memory, so that no step waits for a disk.
    pub(crate) fn lock(&self) -> Result<()> {
        let cannot = || {
            format!(
                "{}: {} bytes cannot be locked in memory; raise the limit (`ulimit -l`) or leave --lock out",
                self.name(),
                self.bytes().len()
            )
        };
        self.file.lock().with_context(cannot)
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    /// The path, for messages.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// The check of a file, at work on a thread of its own.
pub(crate) struct Check<'scope>(RefCell<Checking<'scope>>);

enum Checking<'scope> {
    Running(ScopedJoinHandle<'scope, Result<(), brooklet::Error>>),
    Done(Result<(), brooklet::Error>),
}

impl Check<'_> {
    /// Waits until all of the file has been checked.
    pub(crate) fn wait(&self) -> Result<(), brooklet::Error> {
        let found = match self.0.replace(Checking::Done(Ok(()))) {
            Checking::Running(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Checking::Done(found) => found,
        };
        self.0.replace(Checking::Done(found));
        found
    }
}

/// The fastest kernels of this CPU, or those that the environment asks for.
pub(crate) fn chosen_kernels() -> Result<&'static KernelTable> {
    Ok(forced_kernels()?.unwrap_or_else(kernels::detect))
}

/// Every table of kernels to try: all of this CPU, or the one that the environment asks for.
pub(crate) fn all_kernels() -> Result<Vec<&'static KernelTable>> {
    Ok(forced_kernels()?.map_or_else(|| kernels::available().collect(), |table| vec![table]))
}

fn forced_kernels() -> Result<Option<&'static KernelTable>> {
    let Some(wanted) = std::env::var_os(BACKEND).filter(|v| !v.is_empty()) else { return Ok(None) };
    let found = kernels::available().find(|table| wanted == table.name());
    let known = || kernels::available().map(KernelTable::name).collect::<Vec<_>>().join(", ");
    found.map(Some).ok_or_else(|| anyhow!("{BACKEND}={}: this CPU and build have {}", wanted.display(), known()))
}

/// Memory of one stream and of the session that runs it.
pub(crate) struct Memory {
    pub(crate) state: Pages,
    pub(crate) scratch: Pages,
}

impl Memory {
    /// Memory for a stream of `model` that handles up to `tokens` tokens at once.
    pub(crate) fn new(model: &Model<'_>, tokens: usize) -> Result<Self> {
        Self::for_team(model, tokens, 1)
    }

    /// The same, worked on by a team of `threads`.
    pub(crate) fn for_team(model: &Model<'_>, tokens: usize, threads: usize) -> Result<Self> {
        Ok(Memory { state: pages("state", model.state_bytes())?, scratch: pages("scratch", model.team_scratch_bytes(tokens, threads))? })
    }

    /// Runs `work` on an empty stream.
    pub(crate) fn with_session<T>(
        &mut self,
        model: &Model<'_>,
        kernels: &'static KernelTable,
        work: impl FnOnce(&mut Session<'_, '_, '_>) -> Result<T>,
    ) -> Result<T> {
        let mut state = State::new(model, Line::bytes_mut(&mut self.state))?;
        let mut session = Session::new(model, kernels, &mut state, Line::bytes_mut(&mut self.scratch))?;
        // The start is over.
        #[cfg(target_os = "linux")]
        brooklet::mem::forget_code();
        work(&mut session)
    }
}

/// A file can ask for any amount of memory: that must not end the program.
pub(crate) fn pages(what: &str, bytes: usize) -> Result<Pages> {
    Pages::zeroed(bytes).map_err(|_| anyhow!("the model's {what} takes {bytes} bytes, more than this machine gives"))
}
