//! The service as its senders meet it: sockets and a serial line, several streams at once.
#![cfg(unix)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models");
const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/recordings/subject03_ER_left_01.csv");

fn brooklet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn watch() -> String {
    format!("{MODELS}/watch.brook")
}

/// A folder for one test's sockets, empty at its start; short, as sockets' paths must be.
fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("brooklet-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a folder for sockets");
    dir
}

/// A running service, which ends with the test.
struct Serving(Child);

impl Serving {
    /// Starts it and waits until it has said that it listens at `places` places.
    fn start(args: &[&str], places: usize) -> Self {
        let (serving, mut journal) = Self::begin(args);
        for _ in 0..places {
            let mut line = String::new();
            journal.read_line(&mut line).expect("a journal");
            assert!(line.starts_with("listening on"), "{line}");
        }
        go_on_unheard(journal);
        serving
    }

    /// Starts it, and returns what it says before it listens at its one place.
    fn on_device(args: &[&str]) -> (Self, Vec<String>) {
        let (serving, mut journal) = Self::begin(args);
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            assert!(journal.read_line(&mut line).expect("a journal") > 0, "it ended: {said:?}");
            if line.starts_with("listening on") {
                go_on_unheard(journal);
                return (serving, said);
            }
            said.push(line);
        }
    }

    fn begin(args: &[&str]) -> (Self, BufReader<ChildStderr>) {
        let mut child = brooklet(&["serve", &watch()]).args(args).spawn().expect("the service starts");
        let journal = BufReader::new(child.stderr.take().expect("piped"));
        (Serving(child), journal)
    }

    fn ask_to_end(&mut self) -> bool {
        use rustix::process::{Pid, Signal, kill_process};
        kill_process(Pid::from_child(&self.0), Signal::TERM).is_ok() && self.0.wait().is_ok_and(|status| status.success())
    }
}

/// Whatever else it says goes nowhere, but must not fill the pipe.
fn go_on_unheard(mut journal: BufReader<ChildStderr>) {
    std::thread::spawn(move || std::io::copy(&mut journal, &mut std::io::sink()));
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn recording() -> String {
    std::fs::read_to_string(RECORDING).expect("a bundled recording")
}

/// What `brooklet stream --json` says of the recording.
fn streamed() -> Vec<String> {
    let Output { status, stdout, .. } = brooklet(&["stream", &watch(), RECORDING, "--json"]).output().expect("it runs");
    assert!(status.success());
    String::from_utf8(stdout).expect("text").lines().map(str::to_owned).collect()
}

fn lines(answers: impl Read) -> Vec<String> {
    BufReader::new(answers).lines().map(|line| line.expect("an answer")).collect()
}

fn unix(path: &Path) -> UnixStream {
    UnixStream::connect(path).expect("the service listens")
}

/// So many senders send the recording at once, and each is answered as expected.
fn assert_all_are_answered(socket: &Path, senders: usize, expected: &[String]) {
    let send = || {
        let mut sender = unix(socket);
        let mut input = sender.try_clone().expect("two ends");
        let writing = std::thread::spawn(move || {
            input.write_all(recording().as_bytes()).expect("the service reads");
            input.shutdown(Shutdown::Write).expect("an end");
        });
        let answers = lines(&mut sender);
        writing.join().expect("all was sent");
        answers
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..senders).map(|_| scope.spawn(send)).collect();
        for sender in senders {
            assert_eq!(sender.join().expect("answers"), expected);
        }
    });
}

#[test]
fn every_sender_has_a_stream_of_its_own_with_the_answers_of_stream() {
    let dir = folder("streams");
    let socket = dir.join("watch.sock");
    let address = format!("unix:{}", socket.display());
    let mut serving = Serving::start(&["--listen", &address, "--listen", "tcp:127.0.0.1:0"], 2);
    let expected = streamed();
    assert!(expected.len() > 100);
    assert_all_are_answered(&socket, 3, &expected);
    assert!(serving.ask_to_end());
    assert!(!socket.exists(), "the socket is left behind");
}

/// With a GPU the answers are the same as well: it has the CPU's bits.
#[test]
fn without_a_gpu_one_line_says_so_and_the_cpu_serves() {
    let dir = folder("devices");
    let expected = streamed();
    for device in ["cuda", "auto"] {
        let socket = dir.join(format!("{device}.sock"));
        let address = format!("unix:{}", socket.display());
        let (mut serving, said) = Serving::on_device(&["--listen", &address, "--device", device]);
        assert!(said.len() <= usize::from(device == "cuda"), "{said:?}");
        assert!(said.iter().all(|line| line.ends_with("this runs on the CPU\n")), "{said:?}");
        assert_all_are_answered(&socket, 3, &expected);
        assert!(serving.ask_to_end());
    }
}

/// Samples behind such a line would be judged by their places.
#[test]
fn other_names_than_the_model_s_end_the_stream() {
    let dir = folder("names");
    let socket = dir.join("watch.sock");
    let _serving = Serving::start(&["--listen", &format!("unix:{}", socket.display())], 1);
    for (names, answers) in [("a,b,c,d,e,f", 1), ("hello", 3)] {
        let mut sender = unix(&socket);
        let text = format!("{names}\n0,0,1,0,0,0\n0,0,1,0,0,0\n");
        sender.write_all(text.as_bytes()).expect("the service reads");
        // A service that has ended the stream reads no end.
        let _ = sender.shutdown(Shutdown::Write);
        let said = lines(&mut sender);
        assert_eq!(said.len(), answers, "{said:?}");
        assert!(said[0].contains("no column"), "{said:?}");
    }
}

#[test]
fn a_bad_line_is_answered_and_the_stream_goes_on() {
    let dir = folder("lines");
    let socket = dir.join("watch.sock");
    let _serving = Serving::start(&["--listen", &format!("unix:{}", socket.display()), "--streams", "1"], 1);
    let mut sender = unix(&socket);
    sender.write_all(b"1,2,3,4,5,6\n1,2\nx,2,3,4,5,6\n1,2,3,4,5,6\n").expect("the service reads");
    let mut answers = BufReader::new(sender.try_clone().expect("two ends"));
    let mut next = || {
        let mut line = String::new();
        answers.read_line(&mut line).expect("an answer");
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    assert_eq!(next()["step"], 1);
    assert!(next()["error"].as_str().is_some_and(|e| e.contains("line 2: 2 values where 6")));
    assert!(next()["error"].as_str().is_some_and(|e| e.contains("line 3: channel")));
    assert_eq!(next()["step"], 2);
    // What is left of a line that is too long is no sample.
    sender.write_all(&[&vec![b'9'; 2 << 20][..], b",2,3,4,5,6\n1,2,3,4,5,6\n"].concat()).expect("the service reads");
    assert!(next()["error"].as_str().is_some_and(|e| e.contains("line 5: longer")));
    assert_eq!(next()["step"], 3);
    // The one allowed stream is open: the next is told so.
    let refused = lines(unix(&socket));
    assert!(refused.len() == 1 && refused[0].contains("--streams"), "{refused:?}");
}

#[test]
fn a_socket_in_use_and_a_file_in_its_place_are_refused_and_a_dead_one_is_replaced() {
    let dir = folder("places");
    let socket = dir.join("watch.sock");
    let address = format!("unix:{}", socket.display());
    let serve = |address: &str| {
        let Output { status, stderr, .. } = brooklet(&["serve", &watch(), "--listen", address]).output().expect("it runs");
        assert!(!status.success());
        String::from_utf8_lossy(&stderr).into_owned()
    };
    drop(Serving::start(&["--listen", &address], 1));
    assert!(socket.exists(), "a killed service leaves its socket");
    // Another service has taken the place: it is not this one's to tidy.
    let mut replaced = Serving::start(&["--listen", &address], 1);
    std::fs::remove_file(&socket).expect("a socket");
    let mut replacing = Serving::start(&["--listen", &address], 1);
    assert!(replaced.ask_to_end() && socket.exists());
    assert!(replacing.ask_to_end() && !socket.exists());
    let _serving = Serving::start(&["--listen", &address], 1);
    assert!(serve(&address).contains("another service listens"));
    let file = dir.join("notes");
    std::fs::write(&file, "mine").expect("a file");
    assert!(serve(&format!("unix:{}", file.display())).contains("no socket"));
    assert_eq!(std::fs::read(&file).expect("still there"), b"mine");
    assert!(serve("localhost:80").contains("tcp:HOST:PORT"));
    assert!(TcpStream::connect("127.0.0.1:1").is_err());
    assert!(serve("tcp:256.0.0.1:1").contains("cannot be listened on"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_serial_line_is_read_and_answered() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    // The far end of a terminal plays the sensor.
    let sensor = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&sensor).and_then(|()| unlockpt(&sensor)).expect("its other end");
    let line = ptsname(&sensor, Vec::new()).expect("its name").into_string().expect("a plain name");
    let _serving = Serving::start(&["--serial", &line, "--baud", "57600", "--every", "2"], 1);
    let mut sensor = std::fs::File::from(sensor);
    sensor.write_all(b"1,2,3,4,5,6\r\n1,2,3,4,5,7\r\n").expect("the line takes bytes");
    let mut answer = String::new();
    BufReader::new(sensor).read_line(&mut answer).expect("an answer");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert!(answer["step"] == 2 && answer["class"].is_string(), "{answer}");
    let refused = brooklet(&["serve", &watch(), "--serial", RECORDING]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot be opened as a serial line"));
}
