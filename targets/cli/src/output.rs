//! Output files: written beside their place and then moved there, so that nobody ever sees half a file.

use crate::fit::plainly;
use anyhow::{Context, Result};
use brooklet_quantize::Destination;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Refuses a place where no file can be written, before the work for it is done.
pub(crate) fn expect_place(path: &Path) -> Result<()> {
    // `write_file` writes to devices and pipes where they are.
    if path.exists() && !path.is_file() && !path.is_dir() {
        return Ok(());
    }
    Destination::of(path).map_err(plainly)?;
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    beside(&target).map(drop).with_context(|| format!("{}: cannot be written", path.display()))
}

/// Whether two paths lead to one file.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// A temporary file in the folder of `target`.
fn beside(target: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    tempfile::NamedTempFile::new_in(target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Writes the file `path` with `write`; on an error the old file stays as it was.
pub(crate) fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let cannot = || format!("{}: cannot be written", path.display());
    // A link stays a link: its target is what gets replaced.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // Devices and pipes cannot be replaced by a file.
    if target.exists() && !target.is_file() {
        let mut out = BufWriter::new(File::create(&target).with_context(cannot)?);
        write(&mut out).with_context(cannot)?;
        return out.flush().with_context(cannot);
    }
    let mut out = BufWriter::new(beside(&target).with_context(cannot)?);
    write(&mut out).with_context(cannot)?;
    let file = out.into_inner().map_err(|e| e.into_error()).with_context(cannot)?;
    make_readable(file.as_file()).with_context(cannot)?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist(&target).map_err(|e| e.error).with_context(cannot)?;
    Ok(())
}

/// Temporary files are for their owner only; results are ordinary files.
#[cfg(unix)]
fn make_readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> std::io::Result<()> {
    Ok(())
}
