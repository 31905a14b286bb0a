//! Models in several GGUF files, as llama.cpp's tool cuts them: `NAME-00001-of-00003.gguf` and so on. The first has the metadata, all have tensors.

use std::path::{Path, PathBuf};

/// What the name of a part says.
#[derive(Debug, PartialEq)]
pub(in crate::checkpoint) struct Part<'a> {
    /// The model's own name.
    pub(in crate::checkpoint) model: &'a str,
    /// From 1 on.
    pub(super) number: usize,
    pub(super) count: usize,
}

impl<'a> Part<'a> {
    /// Reads a file's name; nothing if it is not a part's.
    pub(in crate::checkpoint) fn of(path: &'a Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (model, number) = rest.rsplit_once('-')?;
        let read = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()));
        Some(Part { model, number: read(number)?, count: read(count)? }).filter(|part| (1..=part.count).contains(&part.number))
    }

    /// Where part `number` of the same model lies.
    pub(super) fn path_of(&self, beside: &Path, number: usize) -> PathBuf {
        beside.with_file_name(format!("{}-{number:05}-of-{:05}.gguf", self.model, self.count))
    }
}

/// The file to begin with: a model's first part for any of them, else the file itself.
pub(super) fn first(path: &Path) -> PathBuf {
    Part::of(path).map_or_else(|| path.to_owned(), |part| part.path_of(path, 1))
}

/// Whether all these are parts of one model.
pub(in crate::checkpoint) fn are_of_one_model(paths: &[&PathBuf]) -> bool {
    let of = |path: &&PathBuf| Part::of(path).map(|part| (part.model.to_owned(), part.count));
    paths.first().and_then(of).is_some_and(|first| paths.iter().all(|path| of(path).as_ref() == Some(&first)))
}

#[cfg(test)]
mod tests {
    use super::{Part, first};
    use std::path::Path;

    #[test]
    fn names_of_parts_are_read_and_others_are_not() {
        let part = |name| Part::of(Path::new(name)).map(|part| (part.model.to_owned(), part.number, part.count));
        assert_eq!(part("a/granite-4.0-00002-of-00003.gguf"), Some(("granite-4.0".to_owned(), 2, 3)));
        for name in [
            "granite.gguf",
            "x-00004-of-00003.gguf",
            "x-00000-of-00003.gguf",
            "x-2-of-3.gguf",
            "x-+0002-of-00003.gguf",
            "x-00001-of-00003.bin",
        ] {
            assert_eq!(part(name), None, "{name}");
        }
        assert_eq!(first(Path::new("a/x-00003-of-00003.gguf")), Path::new("a/x-00001-of-00003.gguf"));
        assert_eq!(first(Path::new("a/x.gguf")), Path::new("a/x.gguf"));
    }
}
