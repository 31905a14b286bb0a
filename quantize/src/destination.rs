//! Where an output goes: it is written beside its place and renamed, which replaces whatever lies there.

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use std::path::{Path, PathBuf};

/// The place of an output, as it can be renamed to.
#[derive(Debug)]
pub struct Destination {
    /// The file to make or to replace.
    pub(crate) target: PathBuf,
    /// The folder it lies in.
    pub(crate) dir: PathBuf,
}

impl Destination {
    /// The place `out`; refuses what a rename would destroy or cannot reach: a device, a folder, a folder that is not there.
    pub fn of(out: &Path) -> Result<Self, Error> {
        // A link stays one: what it points to is replaced.
        let target = out.canonicalize().unwrap_or_else(|_| out.to_owned());
        let dir = target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        if target.is_dir() {
            return Err(Error::invalid(out, "output", "is a folder; give the name of a file in it"));
        }
        if target.exists() && !target.is_file() {
            return Err(Error::invalid(out, "output", "is a device or a pipe, which a file would replace; give the name of a file"));
        }
        if !dir.is_dir() {
            return Err(Error::invalid(out, "output", format!("there is no folder {}; make it first", dir.display())));
        }
        Ok(Destination { target, dir })
    }

    /// A file beside the place, which [`Destination::replace`] puts there: with the rights of the one that it replaces, else those of any new file.
    pub fn unfinished(&self) -> Result<tempfile::NamedTempFile, Error> {
        let prefix = unfinished_prefix();
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let any = std::fs::Permissions::from_mode(0o666); // less what the umask takes
            builder.permissions(std::fs::metadata(&self.target).map_or(any, |old| old.permissions()));
        }
        builder.tempfile_in(&self.dir).map_err(|e| Error::io(&self.target, e))
    }

    /// Puts a finished file in the place. What must not be lost with the power has been synchronised before.
    pub fn replace(&self, file: tempfile::NamedTempFile) -> Result<(), Error> {
        file.persist(&self.target).map_err(|e| Error::io(&self.target, e.error))?;
        Ok(())
    }

    /// Refuses a place that holds a part of the checkpoint itself.
    pub fn outside(self, checkpoint: &Checkpoint) -> Result<Self, Error> {
        let is_here = |file: &Path| file.canonicalize().is_ok_and(|file| file == self.target);
        match checkpoint.files().any(is_here) {
            true => Err(Error::invalid(&self.target, "output", "is a file of the checkpoint, which would be lost; give another name")),
            false => Ok(self),
        }
    }
}

/// How the names of this process's unfinished files and folders begin; they lie beside what is made.
pub(crate) fn unfinished_prefix() -> String {
    format!(".brooklet-{}-", std::process::id())
}

/// Removes what this process has not finished in the folder of `out`: for a program that is told to end. Removes what it can.
pub fn remove_unfinished(out: &Path) {
    let Ok(Destination { dir, .. }) = Destination::of(out) else { return };
    let prefix = unfinished_prefix();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let path = entry.path();
            // Whoever still writes may add a file in between; a last one is small harm.
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Destination, remove_unfinished, unfinished_prefix};
    use std::path::Path;

    #[test]
    fn only_this_process_s_unfinished_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let [mine, others] = [unfinished_prefix(), ".brooklet-0-".to_owned()].map(|prefix| dir.path().join(prefix + "x.tmp"));
        std::fs::create_dir(&mine).unwrap();
        std::fs::write(mine.join("0.brook"), "x").unwrap();
        std::fs::write(&others, "x").unwrap();
        remove_unfinished(&dir.path().join("model.brook"));
        assert!(!mine.exists() && others.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_keeps_its_rights() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let mode = |name: &str| std::fs::metadata(place(name)).unwrap().permissions().mode() & 0o777;
        std::fs::write(place("usual"), "").unwrap();
        std::fs::write(place("private"), "old").unwrap();
        std::fs::set_permissions(place("private"), std::fs::Permissions::from_mode(0o600)).unwrap();
        for name in ["new", "private"] {
            let destination = Destination::of(&place(name)).unwrap();
            destination.replace(destination.unfinished().unwrap()).unwrap();
        }
        assert_eq!((mode("new"), mode("private")), (mode("usual"), 0o600));
        assert_eq!(std::fs::read(place("private")).unwrap(), b"");
    }

    #[test]
    fn only_files_in_folders_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Destination::of(Path::new("model.brook")).unwrap().dir, Path::new("."));
        assert!(Destination::of(&dir.path().join("model.brook")).is_ok());
        for (place, problem) in
            [("/dev/full", "device"), ("/dev/null", "device"), ("/", "is a folder"), ("/no/such/x", "no folder /no/such")]
        {
            let error = Destination::of(Path::new(place)).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
