//! `quantize ORGANISATION/MODEL` against a small server of our own: whole models, broken connections, refusals, no network.
#![cfg(feature = "download")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/families").join(name)
}

/// How the server behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Plain,
    /// Closes the connection after this many bytes of a file, as often as this many bytes are left.
    Breaks(usize),
    /// Knows no parts: always gives the whole file.
    Wholes,
    /// Refuses all.
    Refuses,
    /// Gives no commit.
    Nameless,
}

/// A server of one model; remembers requests as (path, range, authorization).
struct Server {
    endpoint: String,
    requests: Arc<Mutex<Vec<(String, String, String)>>>,
}

fn serve(folder: &Path, manner: Manner) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (folder, seen) = (folder.to_owned(), requests.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &folder, manner, &seen);
        }
    });
    Server { endpoint, requests }
}

fn answer(mut stream: TcpStream, folder: &Path, manner: Manner, seen: &Mutex<Vec<(String, String, String)>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(path) = lines.next().and_then(|line| Some(line.split(' ').nth(1)?.to_owned())) else { return };
    let headers: HashMap<String, String> =
        lines.filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))).collect();
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    seen.lock().unwrap().push((path.clone(), header("range"), header("authorization")));
    let file = path.rsplit('/').next().unwrap();
    let known = path.strip_prefix("/maker/model/resolve/").is_some_and(|rest| rest.starts_with("main/") || rest.starts_with(COMMIT));
    let bytes = std::fs::read(folder.join(file)).ok().filter(|_| known);
    let (status, bytes, from) = match (manner, bytes) {
        (Manner::Refuses, _) => ("401 Unauthorized", Vec::new(), 0),
        (_, None) => ("404 Not Found", b"no such file".to_vec(), 0),
        (Manner::Wholes, Some(bytes)) => ("200 OK", bytes, 0),
        (_, Some(bytes)) => match header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse::<usize>().ok()) {
            None => ("200 OK", bytes, 0),
            Some(from) if from < bytes.len() => ("206 Partial Content", bytes, from),
            Some(_) => ("416 Range Not Satisfiable", Vec::new(), 0),
        },
    };
    let commit = if manner == Manner::Nameless { String::new() } else { format!("x-repo-commit: {COMMIT}\r\n") };
    let rest = &bytes[from..];
    let _ = write!(stream, "HTTP/1.1 {status}\r\n{commit}content-length: {}\r\nconnection: close\r\n\r\n", rest.len());
    let cut = if let Manner::Breaks(most) = manner { rest.len().min(most) } else { rest.len() };
    let _ = stream.write_all(&rest[..cut]);
}

/// Runs `brooklet quantize maker/model` with a cache folder.
fn quantize(endpoint: &str, cache: &Path, out: &Path, more: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.args(["quantize", "maker/model", "--format", "f32"]).current_dir(out);
    for name in
        ["HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", cache).envs(more.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn expect_error(output: &Output, parts: &[&str]) {
    let message = text(&output.stderr);
    assert!(!output.status.success(), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

#[test]
fn a_model_comes_whole_over_any_connection_and_once() {
    let folder = fixture("mamba2-sharded");
    let direct = tempfile::tempdir().unwrap();
    let by_place = Command::new(env!("CARGO_BIN_EXE_brooklet"))
        .args(["quantize", "--format", "f32", "-o", "by_place.brook"])
        .arg(&folder)
        .current_dir(direct.path())
        .output()
        .unwrap();
    assert!(by_place.status.success(), "{}", text(&by_place.stderr));
    for manner in [Manner::Plain, Manner::Breaks(7000), Manner::Wholes] {
        let server = serve(&folder, manner);
        let (cache, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let made = quantize(&server.endpoint, cache.path(), out.path(), &[("HF_TOKEN", "secret")]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let snapshot = cache.path().join("hub/models--maker--model/snapshots").join(COMMIT);
        for entry in std::fs::read_dir(&snapshot).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            assert_eq!(std::fs::read(entry.path()).unwrap(), std::fs::read(folder.join(&name)).unwrap(), "{name:?}");
        }
        assert_eq!(std::fs::read_to_string(cache.path().join("hub/models--maker--model/refs/main")).unwrap(), COMMIT);
        assert!(out.path().join("model.brook").is_file(), "called by the model's name");
        {
            let requests = server.requests.lock().unwrap();
            assert!(requests.iter().all(|(_, _, authorization)| authorization == "Bearer secret"));
            assert!(
                requests.iter().all(|(path, ..)| !path.ends_with("expected.npy") && !path.ends_with("tokens.json")),
                "only what is needed"
            );
            let resumed = requests.iter().any(|(_, range, _)| !range.is_empty());
            assert_eq!(resumed, matches!(manner, Manner::Breaks(_)));
        }
        // Again: weights that are there are not asked for. Then without a network, and with the user's word that there is none.
        let before = server.requests.lock().unwrap().len();
        assert!(quantize(&server.endpoint, cache.path(), out.path(), &[]).status.success());
        let again: Vec<String> = server.requests.lock().unwrap()[before..].iter().map(|(path, ..)| path.clone()).collect();
        assert!(again.iter().all(|path| !path.contains("safetensors")), "{again:?}");
        let offline = quantize("http://127.0.0.1:1", cache.path(), out.path(), &[]);
        assert!(offline.status.success() && text(&offline.stderr).contains("downloaded before"), "{}", text(&offline.stderr));
        assert!(quantize(&server.endpoint, cache.path(), out.path(), &[("HF_HUB_OFFLINE", "1")]).status.success());
    }
}

#[test]
fn what_cannot_be_downloaded_says_why() {
    let (cache, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = |endpoint: &str, more: &[(&str, &str)]| quantize(endpoint, cache.path(), out.path(), more);
    expect_error(&run("http://127.0.0.1:1", &[]), &["maker/model", "cannot be reached", "without a network", "folder of a checkpoint"]);
    expect_error(&run("http://127.0.0.1:1", &[("HF_HUB_OFFLINE", "1")]), &["maker/model", "HF_HUB_OFFLINE"]);
    let folder = fixture("mamba2-g2");
    expect_error(&run(&serve(&folder, Manner::Refuses).endpoint, &[]), &["refuses access", "401", "HF_TOKEN"]);
    expect_error(&run(&serve(&folder, Manner::Nameless).endpoint, &[]), &["which commit", "HF_ENDPOINT"]);
    let nothing = tempfile::tempdir().unwrap();
    expect_error(&run(&serve(nothing.path(), Manner::Plain).endpoint, &[]), &["no such model", "check the name"]);
    std::fs::copy(folder.join("config.json"), nothing.path().join("config.json")).unwrap();
    expect_error(&run(&serve(nothing.path(), Manner::Plain).endpoint, &[]), &["no model.safetensors", "only checkpoints in safetensors"]);
    // An index that would write elsewhere.
    std::fs::write(nothing.path().join("model.safetensors.index.json"), r#"{"weight_map": {"a": "../../x.safetensors"}}"#).unwrap();
    let other = tempfile::tempdir().unwrap();
    expect_error(&quantize(&serve(nothing.path(), Manner::Plain).endpoint, other.path(), out.path(), &[]), &["index.json", "no plain"]);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "something was made");
}
