//! Checkpoints by name, from the Hugging Face Hub or a server that speaks as it does: into its usual cache folder, going on where it stopped.
//!
//! A plain client for three kinds of file; the library for it (hf-hub) brings an asynchronous runtime, or a second copy of half of what
//! this program has.

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const GENERATION: &str = "generation_config.json";
/// Config, index and tokenizer; weights may have any size.
const MAX_JSON_BYTES: u64 = 256 << 20;
/// Interrupted this often in a row without a byte in between, a download gives up.
const MOST_TRIES: usize = 5;

/// A model's name on the hub: `organisation/model`, maybe with `@revision`.
#[derive(Debug, PartialEq)]
pub(crate) struct Name<'a> {
    repository: &'a str,
    revision: &'a str,
}

impl<'a> Name<'a> {
    /// Reads a name; nothing if it cannot be one.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let is_plain = |part: &str| {
            let only = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && part.len() <= 96 && !part.starts_with('.') && !part.contains("..") && part.chars().all(only)
        };
        let (owner, model) = repository.split_once('/')?;
        (is_plain(owner) && is_plain(model) && is_plain(revision)).then_some(Name { repository, revision })
    }
}

/// Where models come from and where they are kept.
struct Hub {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
    cache: PathBuf,
    is_offline: bool,
}

/// What became of a request for a file.
enum Fetched {
    Here(PathBuf),
    /// The server has no such file.
    Missing,
}

/// The folder of the model `name`, with all of its files.
pub(crate) fn fetch(name: &Name<'_>) -> Result<PathBuf> {
    let hub = Hub::from_environment()?;
    let repository = hub.cache.join(format!("models--{}", name.repository.replace('/', "--")));
    let reference = repository.join("refs").join(name.revision);
    if !hub.is_offline {
        match hub.commit(name) {
            Ok(commit) => {
                let folder = repository.join("snapshots").join(&commit);
                hub.fetch_model(name, &commit, &folder)?;
                // Last: what it names is whole.
                write_whole(&reference, commit.as_bytes())?;
                return Ok(folder);
            }
            Err(error) if !reference.is_file() => return Err(error),
            Err(error) => writeln!(std::io::stderr(), "note: {error:#}; taking the copy that was downloaded before")?,
        }
    }
    let commit = std::fs::read_to_string(&reference).unwrap_or_default();
    let folder = repository.join("snapshots").join(commit.trim());
    if is_commit(commit.trim()) && folder.join(CONFIG).is_file() {
        return Ok(folder);
    }
    bail!(
        "{}: is not in {} and HF_HUB_OFFLINE forbids to ask for it; download it where there is a network and give its folder",
        name.repository,
        hub.cache.display()
    )
}

/// A commit's number: it becomes part of a path.
fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}

impl Hub {
    fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let cache = match (variable("HF_HUB_CACHE"), variable("HF_HOME"), std::env::home_dir()) {
            (Some(cache), ..) => PathBuf::from(cache),
            (None, Some(home), _) => Path::new(&home).join("hub"),
            (None, None, Some(home)) => home.join(".cache/huggingface/hub"),
            (None, None, None) => bail!("there is no home folder to keep the model in; set HF_HOME to a folder"),
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("brooklet/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let is_offline = variable("HF_HUB_OFFLINE").is_some_and(|value| !matches!(value.as_str(), "0" | "false" | "no" | "off"));
        Ok(Hub { agent, endpoint: endpoint.trim_end_matches('/').to_owned(), token: variable("HF_TOKEN"), cache, is_offline })
    }

    /// Asks for a file, from byte `from` on.
    fn get(&self, name: &Name<'_>, revision: &str, file: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>> {
        let address = format!("{}/{}/resolve/{revision}/{file}", self.endpoint, name.repository);
        let mut request = self.agent.get(&address);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|error| {
            anyhow!("{}: {address} cannot be reached ({error}); without a network, give the folder of a checkpoint", name.repository)
        })
    }

    /// The commit that a revision stands for.
    fn commit(&self, name: &Name<'_>) -> Result<String> {
        let response = self.get(name, name.revision, CONFIG, 0)?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => bail!(
                "{}: the server refuses access ({}); check the name, accept the model's terms there, and set HF_TOKEN to your token",
                name.repository,
                response.status()
            ),
            404 => bail!("{}: the server has no such model with a {CONFIG} at \"{}\"; check the name", name.repository, name.revision),
            _ => bail!("{}: the server answers {}; try again later", name.repository, response.status()),
        }
        let commit = response.headers().get("x-repo-commit").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !is_commit(commit) {
            bail!("{}: the server does not say which commit this is; is HF_ENDPOINT right?", name.repository);
        }
        Ok(commit.to_owned())
    }

    /// Makes `folder` whole: config, tokenizer and ends of texts if there are any, weights in one file or as many as their index names.
    fn fetch_model(&self, name: &Name<'_>, commit: &str, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        let fetch = |file: &str, most_bytes| self.fetch_file(name, commit, folder, file, most_bytes);
        let missing =
            |file: &str| anyhow!("{}: the server has no {file}; only checkpoints in safetensors can be downloaded", name.repository);
        if let Fetched::Missing = fetch(CONFIG, MAX_JSON_BYTES)? {
            return Err(missing(CONFIG));
        }
        fetch(TOKENIZER, MAX_JSON_BYTES)?;
        fetch(GENERATION, MAX_JSON_BYTES)?;
        match fetch(INDEX, MAX_JSON_BYTES)? {
            Fetched::Missing => {
                if let Fetched::Missing = fetch(WEIGHTS, u64::MAX)? {
                    return Err(missing(WEIGHTS));
                }
            }
            Fetched::Here(index) => {
                for file in shards(&index)? {
                    if let Fetched::Missing = fetch(&file, u64::MAX)? {
                        return Err(missing(&file));
                    }
                }
            }
        }
        Ok(())
    }

    /// One file, unless it is there; a part of it that is there is gone on with.
    fn fetch_file(&self, name: &Name<'_>, commit: &str, folder: &Path, file: &str, most_bytes: u64) -> Result<Fetched> {
        let path = folder.join(file);
        if path.is_file() {
            return Ok(Fetched::Here(path));
        }
        let part_path = folder.join(format!("{file}.part"));
        let io = |what: &str| format!("{}: {what}", part_path.display());
        let mut part = OpenOptions::new().create(true).append(true).open(&part_path).with_context(|| io("cannot be written"))?;
        let bar = bar(file);
        let mut tries = 0;
        loop {
            let here = part.metadata().with_context(|| io("cannot be read"))?.len();
            let before = here;
            match self.append(name, commit, file, &mut part, here, most_bytes, &bar) {
                Ok(Some(())) => break,
                Ok(None) => {
                    drop(part);
                    let _ = std::fs::remove_file(&part_path);
                    bar.finish_and_clear();
                    return Ok(Fetched::Missing);
                }
                Err(Interrupted(error)) => {
                    let now = part.metadata().with_context(|| io("cannot be read"))?.len();
                    tries = if now > before { 0 } else { tries + 1 };
                    if tries >= MOST_TRIES {
                        let problem =
                            format!("{}: {file} broke off after {now} bytes; run the same command again to go on", name.repository);
                        return Err(error.context(problem));
                    }
                    std::thread::sleep(Duration::from_millis(200 << tries));
                }
            }
        }
        bar.finish_and_clear();
        part.sync_all().with_context(|| io("cannot be written"))?;
        drop(part);
        std::fs::rename(&part_path, &path).with_context(|| io("cannot be renamed"))?;
        Ok(Fetched::Here(path))
    }

    /// Appends what is missing of a file behind its first `here` bytes; nothing if the server has no such file.
    #[allow(clippy::too_many_arguments)]
    fn append(
        &self,
        name: &Name<'_>,
        commit: &str,
        file: &str,
        part: &mut File,
        here: u64,
        most_bytes: u64,
        bar: &ProgressBar,
    ) -> Result<Option<()>, Interrupted> {
        let response = self.get(name, commit, file, here).map_err(Interrupted)?;
        let length = response.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let mut here = here;
        match response.status().as_u16() {
            404 => return Ok(None),
            206 => {}
            // The server knows no parts, or has another file than the part is of: from the beginning.
            200 => {
                part.set_len(0).map_err(|e| Interrupted(e.into()))?;
                here = 0;
            }
            416 => {
                part.set_len(0).map_err(|e| Interrupted(e.into()))?;
                return Err(Interrupted(anyhow!("the server has fewer bytes than were here")));
            }
            _ => return Err(Interrupted(anyhow!("the server answers {}", response.status()))),
        }
        let Some(total) = length.and_then(|length| here.checked_add(length)).filter(|&total| total <= most_bytes) else {
            return Err(Interrupted(anyhow!("the server does not say how long {file} is, or it is longer than {most_bytes} bytes")));
        };
        bar.set_length(total);
        bar.set_position(here);
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 64 << 10];
        while here < total {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Err(Interrupted(anyhow!("the connection was closed early"))),
                Ok(count) => count.min((total - here) as usize),
                Err(e) => return Err(Interrupted(e.into())),
            };
            part.write_all(&buffer[..count]).map_err(|e| Interrupted(e.into()))?;
            here += count as u64;
            bar.set_position(here);
        }
        Ok(Some(()))
    }
}

/// What stopped a download that may be gone on with.
struct Interrupted(anyhow::Error);

fn bar(file: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}  {msg}") {
        bar.set_style(style);
    }
    bar.set_message(file.to_owned());
    bar
}

/// The files that an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let fault = |problem: &str| anyhow!("{}: {problem}", index.display());
    let text = std::fs::read(index).with_context(|| index.display().to_string())?;
    let json: serde_json::Value = serde_json::from_slice(&text).with_context(|| format!("{}: is not JSON", index.display()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| fault("has no `weight_map`"))?;
    map.values()
        .map(|file| {
            let file =
                file.as_str().filter(|f| f.ends_with(".safetensors") && !f.contains(['/', '\\', '?', '#', '%']) && !f.starts_with('.'));
            file.map(str::to_owned).ok_or_else(|| fault("names a file that is no plain .safetensors"))
        })
        .collect()
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(|| format!("{}: cannot be written", path.display()))?;
    file.write_all(bytes).with_context(|| format!("{}: cannot be written", path.display()))?;
    file.persist(path).with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Name, is_commit};

    #[test]
    fn names_are_names_and_paths_are_not() {
        assert_eq!(Name::parse("a/b-1.0"), Some(Name { repository: "a/b-1.0", revision: "main" }));
        assert_eq!(Name::parse("a/b@v2"), Some(Name { repository: "a/b", revision: "v2" }));
        for text in ["a", "/a/b", "a/b/c", "./a", "a/..", "../a", "a/", "a/b@", "a/b@../x", "a b/c", "a/b?x", "a/b#c"] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
        assert!(is_commit("0123456789abcdef") && !is_commit("") && !is_commit("../../etc") && !is_commit("xyz4567890"));
    }
}
