//! `brooklet stream` as a user meets it: samples in, answers and states out.

use crate::rig::*;
use brooklet::artifact::OutputSpec;
use brooklet::mem::MappedFile;
use brooklet::{Input, Line, Model, Session, State, kernels, softmax};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

#[test]
fn a_stream_prints_what_the_library_computes() {
    let file = MappedFile::open(sensor()).expect("a model");
    let model = Model::from_bytes(file.bytes()).expect("a sound model");
    let OutputSpec::Classes { names } = model.header().output else { panic!("no classes") };
    let mut state = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut scratch = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
    let mut state = State::new(&model, Line::bytes_mut(&mut state)).expect("room");
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch)).expect("room");
    let out = ok(&["stream", sensor(), &frames(), "--json"]);
    let lines = frame_lines();
    assert_eq!(out.lines().count(), lines.len());
    for ((i, line), printed) in lines.iter().enumerate().zip(out.lines()) {
        let frame: Vec<f32> = line.split(',').map(|x| x.parse().expect("a number")).collect();
        let mut probabilities = session.step(Input::Frame(&frame)).expect("a good frame").to_vec();
        softmax(&mut probabilities);
        let printed: Value = serde_json::from_str(printed).expect("JSON");
        assert_eq!(printed["step"], i as u64 + 1);
        let (mut best, mut most) = ("", f32::MIN);
        for (name, &p) in names.lines().zip(&probabilities) {
            // The shortest decimal of an f32 reads back as the same f32.
            assert_eq!(printed["probabilities"][name].as_f64().map(|p| p as f32), Some(p), "step {i}, {name}");
            if p > most {
                (best, most) = (name, p);
            }
        }
        assert_eq!((printed["class"].as_str(), printed["p"].as_f64().map(|p| p as f32)), (Some(best), Some(most)));
    }
}

#[test]
fn columns_may_come_in_any_order_if_they_have_names() {
    let by_position = ok(&["stream", sensor(), &frames(), "--json"]);
    let mut csv = String::from("time,GZ,gy,gx,note,az,ay,ax\r\n");
    for (i, line) in frame_lines().iter().enumerate() {
        let f: Vec<&str> = line.split(',').collect();
        csv += &format!("{i},{},{},{},\"a, b\",{},{},{}\r\n", f[5], f[4], f[3], f[2], f[1], f[0]);
    }
    let ran = run_with(&csv, &["stream", sensor(), "-", "--json"]);
    assert_eq!((ran.out, ran.ok), (by_position, true));
}

#[test]
fn two_halves_with_a_saved_state_are_one_stream() {
    let dir = folder("halves");
    let lines = frame_lines();
    let (first, second) = lines.split_at(lines.len() / 3);
    let first = write(&dir, "first.csv", first.join("\n"));
    let second = write(&dir, "second.csv", second.join("\n"));
    let state = dir.join("now.state").to_str().expect("a plain path").to_owned();
    let whole = ok(&["stream", sensor(), &frames(), "--json"]);
    let halves = ok(&["stream", sensor(), &first, "--json", "--save-state", &state])
        + &ok(&["stream", sensor(), &second, "--json", "--load-state", &state]);
    assert_eq!(halves, whole);
    let mut bytes = std::fs::read(&state).expect("a state");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = write(&dir, "damaged.state", bytes);
    let ran = run(&["stream", sensor(), &second, "--load-state", &damaged]);
    assert!(!ran.ok && ran.err.contains("damaged.state"), "{}", ran.err);
}

#[test]
fn what_was_printed_before_a_bad_line_stays() {
    let ran = run_with("1,2,3,4,5,6\n1,2,3,4,5,6\noops\n", &["stream", sensor(), "--json"]);
    assert!(!ran.ok && ran.err.contains("line 3"), "{}", ran.err);
    assert_eq!(ran.out.lines().count(), 2);
}

#[test]
fn the_verdict_compares_with_the_label() {
    let out = ok(&["stream", sensor(), &frames(), "--every", "1000"]);
    let class = out.trim().strip_prefix("last step: ").and_then(|rest| rest.split(' ').next()).expect("a verdict").to_owned();
    assert!(!out.contains("label"), "{out}");
    let out = ok(&["stream", sensor(), &frames(), "--every", "1000", "--label", &class]);
    assert!(out.contains(&format!("label: {class}: last step agrees")), "{out}");
}

/// A checkpoint's model, at a place of its own, and its fixture's frames and gaps as CSV with a column of times.
fn timed(checkpoint: &str) -> (String, String, Vec<f32>) {
    let dir = folder(&format!("timed-{checkpoint}"));
    let model = dir.join("timed.brook").to_str().expect("a plain path").to_owned();
    ok(&["quantize", &format!("{FIXTURES}/{checkpoint}"), "-o", &model, "--format", "f32"]);
    let read = |name: &str| std::fs::read_to_string(format!("{FIXTURES}/{checkpoint}/{name}")).expect("the fixture");
    let seconds: Vec<f32> = read("gaps.csv").lines().map(|x| x.parse().expect("a number")).collect();
    let (mut clock, mut csv) = (1.7e9, String::from("time,ax,ay,az\n"));
    for (i, (line, &gap)) in read("frames.csv").lines().zip(&seconds).enumerate() {
        clock += if i == 0 { 0.0 } else { f64::from(gap) };
        csv += &format!("{clock},{line}\n");
    }
    (model, write(&dir, "timed.csv", csv), seconds)
}

#[test]
fn times_reach_the_model() {
    let (path, csv, seconds) = timed("s4-dplr-irregular");
    let file = MappedFile::open(&path).expect("a model");
    let model = Model::from_bytes(file.bytes()).expect("a sound model");
    let mut state = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut scratch = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
    let mut state = State::new(&model, Line::bytes_mut(&mut state)).expect("room");
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch)).expect("room");
    let out = ok(&["stream", &path, &csv, "--json", "--time-column", "Time"]);
    let text = std::fs::read_to_string(&csv).expect("the file");
    assert_eq!(out.lines().count(), seconds.len());
    let mut before = None;
    for (line, printed) in text.lines().skip(1).zip(out.lines()) {
        let fields: Vec<f64> = line.split(',').map(|x| x.parse().expect("a number")).collect();
        let frame: Vec<f32> = fields.iter().skip(1).map(|&x| x as f32).collect();
        let input = before.map_or(Input::Frame(&frame), |t: f64| Input::FrameAfter(&frame, (fields[0] - t) as f32));
        let mut probabilities = session.step(input).expect("a good frame").to_vec();
        softmax(&mut probabilities);
        let printed: Value = serde_json::from_str(printed).expect("JSON");
        let most = probabilities.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(printed["p"].as_f64().map(|p| p as f32), Some(most));
        before = Some(fields[0]);
    }
    assert_ne!(out, ok(&["stream", &path, &csv, "--json"]), "the times have no effect");
    // By eval, both ways, from the same reader.
    let dir = folder("timed-eval");
    let [step, prefill] = ["step.npy", "prefill.npy"].map(|name| dir.join(name).to_str().expect("a plain path").to_owned());
    ok(&["eval", &path, "--frames", &csv, "--time-column", "time", "--logits", &step]);
    ok(&["eval", &path, "--frames", &csv, "--time-column", "time", "--logits", &prefill, "--prefill"]);
    assert_eq!(std::fs::read(step).expect("outputs"), std::fs::read(prefill).expect("outputs"));
    std::fs::copy(&csv, dir.join("walk.csv")).expect("a copy");
    write(&dir, "labels.csv", "walk.csv,walk\n");
    let dir = dir.to_str().expect("a plain path");
    assert_ne!(ok(&["eval", &path, "--recordings", dir, "--time-column", "time"]), "");
}

/// What a state does not hold is told, and taken back.
#[test]
fn two_halves_of_irregular_samples_are_one_stream() {
    let (path, csv, _) = timed("sensor-s4d-irregular");
    let dir = folder("irregular-halves");
    let state = dir.join("now.state").to_str().expect("a plain path").to_owned();
    let text = std::fs::read_to_string(&csv).expect("the file");
    let lines: Vec<&str> = text.lines().collect();
    let (first, second) = lines.split_at(lines.len() / 2);
    let whole = ok(&["stream", &path, &csv, "--json", "--time-column", "time"]);
    let timed = ["--json", "--time-column", "time"];
    let ran = run_with(&first.join("\n"), &[&["stream", &path, "-", "--save-state", &state][..], &timed].concat());
    let last = first.last().and_then(|line| line.split(',').next()).expect("a time");
    assert!(ran.ok && ran.err.contains(&format!("--last-time {last}")), "{}", ran.err);
    let rest = [&lines[..1], second].concat().join("\n");
    let rest = run_with(&rest, &[&["stream", &path, "-", "--load-state", &state, "--last-time", last][..], &timed].concat());
    assert!(rest.ok && ran.out + &rest.out == whole, "{}", rest.err);
}

#[test]
fn times_that_a_model_cannot_take_name_their_line() {
    let header = "t,ax,ay,az,gx,gy,gz\n";
    let rows = |times: &[&str]| times.iter().fold(header.to_owned(), |csv, t| csv + t + ",1,2,3,4,5,6\n");
    let dir = folder("fixed-rate");
    let fixed = dir.join("fixed.brook").to_str().expect("a plain path").to_owned();
    ok(&["quantize", &format!("{FIXTURES}/sensor-s4d-zoh"), "-o", &fixed]);
    let csv = write(&dir, "fixed.csv", rows(&["0", "0.02", "0.05"]));
    let ran = run(&["stream", &fixed, &csv, "--json", "--time-column", "t"]);
    assert!(!ran.ok && ran.err.contains("fixed.csv, line 4") && ran.err.contains("own rate alone"), "{}", ran.err);
    assert_eq!(ran.out.lines().count(), 2, "the model's own rate is no gap: {}", ran.out);
    for (csv, parts) in [
        (rows(&["1", "0.5"]), ["line 3", "0.5 does not come after 1"]),
        (rows(&["1", "soon"]), ["line 3", "time: `soon`"]),
        (rows(&["1", "1e39"]), ["line 3", "not a finite number of seconds above 0"]),
        ("1,2,3,4,5,6\n".to_owned(), ["line 1", "--time-column t"]),
    ] {
        let ran = run_with(&csv, &["stream", sensor(), "-", "--time-column", "t"]);
        assert!(!ran.ok && parts.iter().all(|part| ran.err.contains(part)), "{}", ran.err);
    }
}

#[test]
fn missing_samples_go_by_the_models_policy() {
    let dir = folder("missing");
    let make = |checkpoint: &str| {
        let model = dir.join(format!("{checkpoint}.brook")).to_str().expect("a plain path").to_owned();
        ok(&["quantize", &format!("{FIXTURES}/{checkpoint}"), "-o", &model]);
        model
    };
    let holds = make("sensor-missing-mean");
    assert!(ok(&["inspect", &holds]).contains("missing    \"mean\""), "{}", ok(&["inspect", &holds]));
    let json: Value = serde_json::from_str(&ok(&["inspect", &holds, "--json"])).expect("JSON");
    assert_eq!(json["input"]["missing"], "mean");
    let json: Value = serde_json::from_str(&ok(&["inspect", sensor(), "--json"])).expect("JSON");
    assert_eq!(json["input"]["missing"], Value::Null);
    // The fixture's own frames, missing ones written as `nan`, and as nothing; by stream and by eval.
    let named = std::fs::read_to_string(format!("{FIXTURES}/sensor-missing-mean/frames.csv")).expect("the frames");
    let empty = named.replace("nan", "");
    assert_ne!(named, empty);
    let out = run_with(&named, &["stream", &holds, "-", "--json"]);
    assert!(out.ok && out.out == run_with(&empty, &["stream", &holds, "-", "--json"]).out, "{}", out.err);
    let csv = write(&dir, "empty.csv", empty);
    ok(&["eval", &holds, "--frames", &csv, "--logits", dir.join("out.npy").to_str().expect("a plain path"), "--prefill"]);
    for (csv, parts) in [
        ("1,2,3,,5,6\n", ["line 1: channel gx: ``", "no policy for missing samples"]),
        ("1,2,3,4,5,NaN\n", ["line 1: channel gz: `NaN`", "no policy for missing samples"]),
    ] {
        let ran = run_with(csv, &["stream", sensor(), "-"]);
        assert!(!ran.ok && parts.iter().all(|part| ran.err.contains(part)), "{}", ran.err);
    }
    let ran = run_with("1,inf,3\n", &["stream", &holds, "-"]);
    assert!(!ran.ok && ran.err.contains("channel ay: `inf`"), "{}", ran.err);
}

/// A live source: each sample is judged when it comes, not when the next one does.
#[test]
fn a_live_stream_answers_at_once() {
    let mut child = brooklet().args(["stream", sensor(), "--json"]).stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    for step in 1..=3 {
        stdin.write_all(b"1,2,3,4,5,6\n").expect("the program listens");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("an answer");
        assert!(line.starts_with(&format!("{{\"step\":{step},")), "{line}");
    }
    drop(stdin);
    assert!(finish(child).ok);
}

/// Ctrl-C ends a stream as the end of its input would: verdict and state are written.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_stream_in_order() {
    let state = folder("ctrl_c").join("now.state");
    let save = ["--save-state", state.to_str().expect("a plain path")];
    let mut child = brooklet().args(["stream", sensor()]).args(save).stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"1,2,3,4,5,6\n").expect("the program listens");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut String::new()).expect("an answer");
    // Half of a sample is on its way, and nobody waits for the other half.
    stdin.write_all(b"7,8,9").expect("the program listens");
    kill(&child, "-INT");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the last words");
    assert!(finish(child).ok && rest.contains("vote of 1 steps") && state.exists(), "{rest}");
}

#[cfg(unix)]
fn kill(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

/// However a stream ends, what it has learned is not lost.
#[cfg(unix)]
#[test]
fn a_state_is_saved_however_the_stream_ends() {
    let dir = folder("ends");
    let lines = frame_lines();
    let (first, second) = lines.split_at(lines.len() / 2);
    let whole = ok(&["stream", sensor(), &frames(), "--json"]);
    let tail: Vec<&str> = whole.lines().skip(first.len()).collect();
    let goes_on = |state: &str| {
        let rest = run_with(&second.join("\n"), &["stream", sensor(), "--json", "--load-state", state]);
        assert!(rest.ok && rest.out.lines().eq(tail.iter().copied()), "{state}: {}", rest.err);
    };
    let state = |name: &str| dir.join(name).to_str().expect("a plain path").to_owned();
    let samples = first.join("\n") + "\n";

    let ran = run_with(&(samples.clone() + "oops\n"), &["stream", sensor(), "--json", "--save-state", &state("refused")]);
    assert!(!ran.ok && ran.err.contains("1 values where 6"), "{}", ran.err);
    goes_on(&state("refused"));

    // Whoever read the answers has seen enough before the last.
    let mut child =
        brooklet().args(["stream", sensor(), "--json", "--save-state", &state("pipe")]).stdin(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let _ = child.stdin.take().expect("piped").write_all(samples.as_bytes());
    assert!(finish(child).ok && Path::new(&state("pipe")).exists());

    // Told to end while it waits for a sample, or for the time of one.
    for (name, more) in [("term", &[][..]), ("slow", &["--rate", "0.01"])] {
        let mut child = brooklet()
            .args(["stream", sensor(), "--json", "--save-state", &state(name)])
            .args(more)
            .stdin(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(samples.as_bytes()).expect("the program listens");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        for _ in 0..if name == "term" { first.len() } else { 1 } {
            stdout.read_line(&mut String::new()).expect("an answer");
        }
        kill(&child, "-TERM");
        stdout.read_to_string(&mut String::new()).expect("an end");
        assert!(finish(child).ok && Path::new(&state(name)).exists());
        drop(stdin);
    }
    goes_on(&state("term"));
}

#[test]
fn a_state_takes_no_place_of_what_the_stream_reads() {
    let dir = folder("places");
    let model = write(&dir, "own.brook", std::fs::read(sensor()).expect("a model"));
    let samples = write(&dir, "own.csv", std::fs::read(frames()).expect("frames"));
    for place in [&model, &samples] {
        let ran = run(&["stream", &model, &samples, "--save-state", place]);
        assert!(!ran.ok && ran.out.is_empty() && ran.err.contains("would be lost"), "{}", ran.err);
    }
    assert_eq!(std::fs::read(&model).expect("a model"), std::fs::read(sensor()).expect("a model"));
}

/// One number beyond all measure stays in a state for good.
#[test]
fn a_sample_that_spoils_the_state_ends_the_stream() {
    let dir = folder("spoilt");
    let state = write(&dir, "now.state", "before");
    let watch = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/watch.brook");
    let samples = "1e38,0,0,0,0,0\n".to_owned() + &"0,0,1,0,0,0\n".repeat(200);
    let ran = run_with(&samples, &["stream", watch, "--json", "--save-state", &state]);
    assert!(!ran.ok && ran.err.contains("not finite") && ran.err.contains("line "), "{}", ran.err);
    assert_eq!(std::fs::read(&state).expect("a file"), b"before", "a spoilt state is not worth a file");
}

/// The whole state is looked at now and then; the last look is before anything is said of the whole.
#[test]
fn of_a_short_stream_that_was_spoilt_nothing_is_said() {
    let dir = folder("spoilt-short");
    let watch = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/watch.brook");
    let lines = "3e38,3e38,3e38,3e38,3e38,3e38\n".to_owned() + &"0,0,1,0,0,0\n".repeat(8);
    let samples = write(&dir, "samples.csv", &lines);
    for json in [&[][..], &["--json"]] {
        let ran = run(&[&["stream", watch, &samples], json].concat());
        assert!(!ran.ok && ran.err.contains("not finite") && ran.err.contains("samples.csv"), "{}", ran.err);
        assert!(!(ran.out + &ran.err).contains("last step"), "{}", ran.err);
    }
    let class = a_class(watch);
    write(&dir, "labels.csv", format!("samples.csv,{class}\n"));
    let ran = run(&["eval", watch, "--recordings", dir.to_str().expect("a plain path")]);
    assert!(!ran.ok && ran.out.is_empty() && ran.err.contains("samples.csv") && ran.err.contains("not finite"), "{} {}", ran.out, ran.err);
    let logits = dir.join("logits.npy");
    let ran = run(&["eval", watch, "--frames", &samples, "--logits", logits.to_str().expect("a plain path")]);
    assert!(!ran.ok && !logits.exists() && ran.err.contains("not finite"), "{}", ran.err);
}

/// A class of a model, as its first step names it.
fn a_class(model: &str) -> String {
    let said = run_with("0,0,1,0,0,0\n", &["stream", model, "--json"]).out;
    let step: serde_json::Value = serde_json::from_str(said.lines().next().expect("a step")).expect("JSON");
    step["class"].as_str().expect("a class").to_owned()
}

/// No step writes an infinite half, but a file can hold one.
#[test]
fn a_saved_state_with_infinite_halves_is_refused() {
    let dir = folder("halves");
    let place = |name: &str| dir.join(name).to_str().expect("a plain path").to_owned();
    let (model, state) = (place("half.brook"), place("half.state"));
    ok(&["quantize", &format!("{FIXTURES}/sensor-mamba2-last"), "-o", &model, "--format", "q8", "--state", "f16"]);
    ok(&["stream", &model, &frames(), "--save-state", &state]);
    ok(&["stream", &model, &frames(), "--load-state", &state]);
    let mut bytes = std::fs::read(&state).expect("a state");
    let end = bytes.len() - 4;
    // As single floats these are tiny.
    bytes[24..end].chunks_exact_mut(4).for_each(|number| number.copy_from_slice(&0x7c00u32.to_le_bytes()));
    let sum = crc32(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&sum);
    let spoilt = write(&dir, "spoilt.state", bytes);
    let ran = run(&["stream", &model, &frames(), "--load-state", &spoilt]);
    assert!(!ran.ok && ran.out.is_empty() && ran.err.contains("spoilt.state") && ran.err.contains("not finite"), "{}", ran.err);
}

/// The checksum at a state's end.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |sum: u32| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), |sum, _| bit(sum)))
}

/// With a GPU a stream can change places at any step: its state is the CPU's too.
#[test]
fn a_stream_on_a_device_has_the_answers_and_the_state_of_one_on_the_cpu() {
    let dir = folder("devices");
    let lines = frame_lines();
    let (first, second) = lines.split_at(lines.len() / 2);
    let first = write(&dir, "first.csv", first.join("\n"));
    let second = write(&dir, "second.csv", second.join("\n"));
    let state = |device: &str| dir.join(format!("{device}.state")).to_str().expect("a plain path").to_owned();
    let listen = |file: &str, device: &str| ["stream", sensor(), file, "--json", "--device", device].map(str::to_owned);
    let run_all = |args: &[String]| run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let on_cpu = ok(&["stream", sensor(), &frames(), "--json"]);
    for device in ["cpu", "cuda", "auto"] {
        let ran = run_all(&[&listen(&first, device)[..], &["--save-state".to_owned(), state(device)]].concat());
        // The verdict is the last line.
        let said: Vec<&str> = ran.err.lines().filter(|line| !line.starts_with("last step")).collect();
        assert!(ran.ok && said.len() <= usize::from(device == "cuda"), "{}", ran.err);
        assert!(said.iter().all(|line| line.ends_with("this runs on the CPU")), "{}", ran.err);
        // The other half runs on the other device.
        let other = if device == "cpu" { "cuda" } else { "cpu" };
        let rest = run_all(&[&listen(&second, other)[..], &["--load-state".to_owned(), state(device)]].concat());
        assert!(rest.ok && ran.out + &rest.out == on_cpu, "{device}: {}", rest.err);
    }
    let saved = |device: &str| std::fs::read(state(device)).expect("a state");
    assert!(saved("cpu") == saved("cuda") && saved("cpu") == saved("auto"));
}
