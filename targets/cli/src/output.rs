//! Output files: written beside their place and then moved there, so that nobody ever sees half a file.

use crate::fit::plainly;
use anyhow::{Context, Result, bail};
use brooklet_quantize::Destination;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Refuses a place where no file can be written, before the work for it is done.
pub(crate) fn expect_place(path: &Path) -> Result<()> {
    // `write_file` writes to devices and pipes where they are.
    if path.exists() && !path.is_file() && !path.is_dir() {
        return Ok(());
    }
    Destination::of(path).and_then(|place| place.unfinished()).map(drop).map_err(plainly)
}

/// Whether two paths lead to one file, which need not be there yet.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    place(one).is_some_and(|one| place(other).is_some_and(|other| one == other))
}

fn place(path: &Path) -> Option<PathBuf> {
    let folder = || path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    path.canonicalize().ok().or_else(|| Some(folder().canonicalize().ok()?.join(path.file_name()?)))
}

/// Refuses outputs that would take the place of one another, or of what is read; all by the options that name them. Devices take any number.
pub(crate) fn expect_apart(outputs: &[(&str, &Path)], inputs: &[(&str, &Path)]) -> Result<()> {
    for (i, &(option, path)) in outputs.iter().enumerate() {
        let is_device = path.exists() && !path.is_file();
        let others = outputs.iter().skip(i + 1).chain(inputs);
        if let Some((other, _)) = others.filter(|_| !is_device).find(|(_, other)| is_same_file(path, other)) {
            bail!("{option} {}: is also {other}, and one would be lost; give another name", path.display());
        }
    }
    Ok(())
}

/// Writes the file `path` with `write`; on an error the old file stays as it was.
pub(crate) fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let cannot = || format!("{}: cannot be written", path.display());
    // Other errors are of what is written, and say so themselves.
    let told = |error: anyhow::Error| if error.is::<std::io::Error>() { error.context(cannot()) } else { error };
    // Devices and pipes cannot be replaced by a file.
    if path.exists() && !path.is_file() {
        let mut out = BufWriter::new(File::create(path).with_context(cannot)?);
        write(&mut out).map_err(told)?;
        return out.flush().with_context(cannot);
    }
    let destination = Destination::of(path).map_err(plainly)?;
    let mut out = BufWriter::new(destination.unfinished().map_err(plainly)?);
    write(&mut out).map_err(told)?;
    let file = out.into_inner().map_err(|e| e.into_error()).with_context(cannot)?;
    file.as_file().sync_all().with_context(cannot)?;
    destination.replace(file).map_err(plainly)
}

#[cfg(test)]
mod tests {
    use super::expect_apart;
    use std::path::Path;

    #[test]
    fn no_output_takes_another_s_place() {
        let dir = tempfile::tempdir().unwrap();
        let [read, new] = ["read", "new"].map(|name| dir.path().join(name));
        std::fs::write(&read, "x").unwrap();
        let roundabout = dir.path().join(".").join("new");
        assert!(expect_apart(&[("-o", &new)], &[("the model", &read)]).is_ok());
        for (outputs, inputs) in
            [(vec![("-o", &*new), ("--report", &*roundabout)], vec![]), (vec![("-o", &*read)], vec![("the model", &*read)])]
        {
            assert!(expect_apart(&outputs, &inputs).unwrap_err().to_string().contains("would be lost"));
        }
        let null = Path::new("/dev/null");
        assert!(expect_apart(&[("-o", null), ("--report", null)], &[]).is_ok());
    }
}
