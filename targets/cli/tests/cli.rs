//! The program as a user meets it: commands in, text and exit codes out.

use crate::rig::*;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

#[test]
fn errors_name_the_thing_and_end_with_a_failure() {
    let dir = folder("errors");
    let good = "1,2,3,4,5,6";
    let bytes = std::fs::read(sensor()).expect("a model");
    let short = write(&dir, "short.brook", &bytes[..bytes.len() - 7]);
    let mut damaged = bytes.clone();
    let last = damaged.len() - 100;
    damaged[last] ^= 1;
    let damaged = write(&dir, "damaged.brook", damaged);
    let other = write(&dir, "other.brook", "hello");
    let tokens = write(&dir, "tokens.json", "[1, 2, 97]");
    let no_tokens = write(&dir, "words.json", r#"{"tokens": [1, "two"]}"#);
    let out = dir.join("out.npy").to_str().expect("a plain path").to_owned();
    let empty = write(&dir, "empty.txt", "");
    let one = write(&dir, "one.txt", "A");
    let no_samples = write(&dir, "header.csv", "ax,ay,az,gx,gy,gz\n");
    let broken = write(&dir, "broken.csv", "1,2,3\n3e38,3e38,3e38\n".to_owned() + &"1,2,3\n".repeat(100));
    let [checkpoint, values, attention, sensors] =
        ["mamba-a", "rnn-gru-unit", "llama-tied", "sensor-s4d-irregular"].map(|name| format!("{FIXTURES}/{name}"));
    let cases: &[(&str, &[&str], &[&str])] = &[
        (&format!("{good}\n1,2,x,4,5,6\n"), &["stream", sensor()], &["standard input, line 2", "channel az", "`x`"]),
        (&format!("{good}\n\n1,2,3\n"), &["stream", sensor()], &["line 3", "3 values where 6"]),
        (&format!("{good}\n1,2,3,4,5,nan\n"), &["stream", sensor()], &["line 2", "channel gz", "not a finite number"]),
        ("ax,ay,az,gx,gy\n", &["stream", sensor()], &["line 1", "no column `gz`"]),
        ("", &["stream", sensor()], &["standard input", "no samples"]),
        ("", &["stream", sensor(), "none.csv"], &["none.csv", "cannot be opened"]),
        ("", &["stream", sensor(), &frames(), "--label", "swim"], &["swim", "still, walk, run, turn, fall"]),
        ("", &["stream", sensor(), &frames(), "--load-state", &other], &["other.brook", "not a snapshot"]),
        ("", &["stream", sensor(), &frames(), "--rate", "0"], &["--rate"]),
        ("", &["stream", text()], &["takes text", "brooklet run"]),
        ("", &["run", sensor()], &["sensor frames", "brooklet stream"]),
        ("", &["run", text(), "--prompt", "lower case"], &["byte 0", "0x6c", "0x61"]),
        ("", &["run", text(), "--temperature", "-1"], &["--temperature"]),
        ("", &["run", text(), "--top-p", "0"], &["--top-p"]),
        ("", &["run", text(), "-n", "many"], &["many"]),
        ("", &["run", text(), "--prompt-file", "none.txt"], &["none.txt"]),
        ("", &["inspect", "none.brook"], &["none.brook", "cannot be opened"]),
        ("", &["inspect", &checkpoint], &["a folder", "brooklet quantize"]),
        ("", &["inspect", &other], &["other.brook", "not a .brook file"]),
        ("", &["inspect", &short], &["short.brook", "cut short"]),
        ("", &["verify", &damaged], &["damaged.brook", "checksum"]),
        ("", &["quantize", "none"], &["none"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--format", "q2"], &["f32, f16, q8, q6, q5, q4, q3, t2"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--context", "4", "--sink", "4"], &["--sink 4", "--context 4"]),
        ("", &["quantize", &checkpoint, "-o", "none/out.brook"], &["none"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--max-kl", "0"], &["--max-kl", "above 0"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--max-kl", "1", "--calibration", "none.txt"], &["none.txt", "cannot be read"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--max-kl", "1", "--calibration", &no_tokens], &["words.json", "0x7b"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--max-kl", "1", "--calibration", &empty], &["empty.txt", "no text"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--method", "gptq", "--calibration", &empty], &["empty.txt", "no text"]),
        ("", &["quantize", &sensors, "-o", &out, "--calibration", &no_samples], &["header.csv", "no samples"]),
        (
            "",
            &["quantize", &sensors, "-o", &out, "--fit", "60KB", "--calibration", &broken],
            &["calibration", "no finite numbers", "step 1"],
        ),
        ("", &["quantize", &checkpoint, "-o", &out, "--max-ppl-ratio", "1.05", "--calibration", &one], &["--max-ppl-ratio", "longer"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--bits", "nan"], &["--bits", "4.25"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--fit", "30KiB", "--ledger", &other], &["other.brook", "not JSON"]),
        ("", &["quantize", &values, "-o", &out, "--max-kl", "1"], &["--max-kl", "measured values"]),
        ("", &["quantize", &attention, "-o", &out, "--max-kl", "1e-9", "--format", "q8"], &["--max-kl", "--cache f32"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--fit", "1KiB"], &["--fit", "1024 bytes are too few", "smallest possible", "header"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--fit", "30KiB", "--bits", "4"], &["--fit", "--bits"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--fit", "30KiB", "--format", "q8"], &["--fit", "--format"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--plan"], &["--plan", "--fit"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--flash", "64KiB"], &["--flash", "code takes", "too few"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--flash", "1MiB", "--core", "z80"], &["z80", "Cortex-M4F"]),
        ("", &["quantize", &checkpoint, "-o", &out, "--flash", "1MiB", "--ram", "6KiB"], &["--ram", "smallest possible figure"]),
        ("", &["quantize", &values, "-o", &out, "--max-ppl-ratio", "1.1"], &["--max-ppl-ratio", "--fit"]),
        ("", &["quantize", &values, "-o", &out, "--fit", "1MiB", "--method", "gptq"], &["--method gptq", "--calibration", "nearest"]),
        ("", &["eval", text(), "--tokens", &tokens, "--logits", &out], &["tokens.json", "token 97", "vocabulary of 97"]),
        ("", &["eval", text(), "--tokens", &no_tokens, "--logits", &out], &["words.json", "entry 1", "two"]),
        ("", &["eval", text(), "--frames", &frames(), "--logits", &out], &["takes text"]),
        ("", &["eval", text(), "--tokens", &tokens], &["--logits"]),
        ("", &["eval", text()], &["--text"]),
        ("", &["eval", text(), "--text", &tokens], &["do not fill one window of 512"]),
        ("", &["eval", sensor(), "--recordings", dir.to_str().expect("a plain path")], &["labels.csv"]),
        ("", &["bench", text(), "--tokens", "0"], &["--tokens"]),
    ];
    for (stdin, args, parts) in cases {
        let ran = run_with(stdin, args);
        assert!(!ran.ok, "{args:?} succeeded: {}", ran.out);
        assert!(parts.iter().all(|part| ran.err.contains(part)), "{args:?}: {}", ran.err);
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
    }
    assert!(!Path::new(&out).exists(), "a failed command left its output behind");
    let left = std::fs::read_dir(&dir).expect("the folder").count();
    assert_eq!(left, 9, "a failed command left a temporary file behind");
}

/// A file renamed over a device would replace it, one over the checkpoint would lose it.
#[test]
#[cfg(unix)]
fn outputs_that_would_be_lost_or_lose_something_are_refused_before_any_work() {
    let dir = folder("outputs");
    let checkpoint = dir.join("checkpoint");
    std::fs::create_dir(&checkpoint).expect("a folder");
    for entry in std::fs::read_dir(format!("{FIXTURES}/sensor-mamba2-last")).expect("the fixture") {
        let entry = entry.expect("the fixture");
        std::fs::copy(entry.path(), checkpoint.join(entry.file_name())).expect("a copy");
    }
    let gguf = dir.join("model.gguf");
    std::fs::copy(format!("{FIXTURES}/../gguf/mamba-a.gguf"), &gguf).expect("the fixture");
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).expect("a socket");
    let place = |name: &str| dir.join(name).to_str().expect("a plain path").to_owned();
    let (from, weights, gguf, out) = (place("checkpoint"), place("checkpoint/model.safetensors"), place("model.gguf"), place("out.brook"));
    let (socket, missing, whole) = (place("socket"), place("missing/file"), place(""));
    let calibration = write(&dir, "calibration.csv", frame_lines().join("\n"));
    // Not this program's folder of parts.
    let kept = place("kept");
    std::fs::create_dir(dir.join("kept.parts")).expect("a folder");
    std::fs::write(dir.join("kept.parts/mine.txt"), "mine").expect("a file");
    let before: Vec<Vec<u8>> = [&weights, &gguf].iter().map(|path| std::fs::read(path).expect("weights")).collect();
    let cases: &[(&[&str], &[&str])] = &[
        (&["quantize", &from, "-o", &socket], &["socket", "is a device or a pipe"]),
        (&["quantize", &from, "-o", &whole], &["is a folder"]),
        (&["quantize", &from, "-o", &missing], &["there is no folder", "make it first"]),
        (&["quantize", &from, "-o", &weights], &["model.safetensors", "is a file of the checkpoint"]),
        (&["quantize", &from, "-o", &place("checkpoint/config.json")], &["config.json", "is a file of the checkpoint"]),
        (&["quantize", &gguf, "-o", &gguf], &["model.gguf", "is a file of the checkpoint"]),
        (&["quantize", &from, "-o", &out, "--report", &missing], &["there is no folder", "make it first"]),
        (&["quantize", &from, "-o", &out, "--report", &out], &["-o", "--report", "would be lost"]),
        (&["quantize", &from, "-o", &out, "--report", &place("checkpoint/config.json")], &["config.json", "is a file of the checkpoint"]),
        (&["quantize", &from, "-o", &calibration, "--calibration", &calibration], &["--calibration", "would be lost"]),
        (&["quantize", &from, "-o", &out, "--calibration", &calibration, "--report", &calibration], &["--report", "would be lost"]),
        (&["quantize", &from, "-o", &out, "--fit", "60KiB", "--ledger", &out], &["--ledger", "would be lost"]),
        (&["quantize", &from, "--plan", "--fit", "60KiB", "--ledger", &out, "--report", &out], &["--ledger", "would be lost"]),
        (&["quantize", &from, "-o", &kept, "--calibration", &calibration], &["mine.txt", "no part", "move it away"]),
        (&["eval", sensor(), "--frames", &calibration, "--logits", &calibration], &["--logits", "--frames", "would be lost"]),
        (&["eval", sensor(), "--frames", &frames(), "--logits", sensor()], &["--logits", "the model", "would be lost"]),
        (&["stream", sensor(), &frames(), "--save-state", &missing], &["there is no folder", "make it first"]),
        (&["stream", sensor(), &frames(), "--save-state", &whole], &["is a folder"]),
        (&["eval", sensor(), "--frames", &frames(), "--logits", &missing], &["there is no folder", "make it first"]),
    ];
    for (args, parts) in cases {
        let ran = run(args);
        assert!(!ran.ok && ran.out.is_empty(), "{args:?}: {}", ran.out);
        parts.iter().for_each(|part| assert!(ran.err.contains(part), "{args:?}: {} does not say `{part}`", ran.err));
    }
    let after: Vec<Vec<u8>> = [&weights, &gguf].iter().map(|path| std::fs::read(path).expect("weights")).collect();
    assert_eq!(before, after);
    assert_eq!(std::fs::read_dir(&dir).expect("a folder").count(), 5, "something was left behind");
    assert_eq!(std::fs::read(dir.join("kept.parts/mine.txt")).expect("still there"), b"mine");
}

/// A tokenizer that cannot be used is told where the file is made, not first where it is run.
#[test]
fn a_tokenizer_that_cannot_be_used_is_told_at_once() {
    let dir = folder("tokenizer");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(format!("{FIXTURES}/mamba-a/{name}"), dir.join(name)).expect("the fixture");
    }
    let (from, out) = (dir.to_str().expect("a plain path").to_owned(), dir.join("out.brook").to_str().expect("a plain path").to_owned());
    assert_eq!(run(&["quantize", &from, "-o", &out]).err, "");
    write(&dir, "tokenizer.json", "{}");
    let ran = run(&["quantize", &from, "-o", &out]);
    assert!(ran.ok && ran.err.contains("tokenizer.json cannot be used") && ran.err.contains("no text"), "{}", ran.err);
}

/// A file is cut short wherever its copying stopped: the message says so, not what is missing.
#[test]
fn a_file_cut_short_says_so_to_every_command() {
    let dir = folder("cut");
    for (command, model) in [("run", text()), ("stream", sensor()), ("bench", sensor()), ("inspect", text())] {
        let bytes = std::fs::read(model).expect("a model");
        for share in [0.2, 0.5, 0.9, 0.999] {
            let cut = write(&dir, "cut.brook", &bytes[..(bytes.len() as f64 * share) as usize]);
            let ran = run(&[command, &cut]);
            assert!(!ran.ok && ran.err.contains("cut short"), "{command} {share}: {}", ran.err);
            assert_eq!(ran.err.matches("cut.brook").count(), 1, "{command} {share}: {}", ran.err);
        }
    }
}

#[test]
fn an_unknown_back_end_lists_the_known_ones() {
    let child = brooklet().args(["verify", sensor()]).env("BROOKLET_BACKEND", "abacus").spawn().expect("the program starts");
    let ran = finish(child);
    assert!(!ran.ok && ran.err.contains("abacus") && ran.err.contains("portable"), "{}", ran.err);
    let child = brooklet().args(["verify", sensor()]).env("BROOKLET_BACKEND", "portable").spawn().expect("the program starts");
    let ran = finish(child);
    assert!(ran.ok && ran.out.contains("portable") && !ran.out.contains("avx"), "{}{}", ran.out, ran.err);
}

#[test]
fn a_seed_decides_the_text() {
    let write = |more: &[&str]| ok(&[&["run", text(), "--prompt", "ABC", "-n", "60", "--ignore-eos"], more].concat());
    let one = write(&["--seed", "1", "--temperature", "2"]);
    assert_eq!(one, write(&["--seed", "1", "--temperature", "2"]));
    assert_ne!(one, write(&["--seed", "2", "--temperature", "2"]));
    assert_eq!(write(&["--greedy"]), write(&["--temperature", "0", "--repeat-penalty", "1", "--seed", "9"]));
    assert!(one.starts_with("ABC") && one.len() == 3 + 60 + 1, "{one}");
    // From standard input, its last line break left out.
    assert_eq!(run_with("ABC\n", &["run", text(), "-n", "60", "--ignore-eos", "--greedy"]).out, write(&["--greedy"]));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let cases: [&[&str]; 2] = [&["run", text(), "--prompt", "A", "-n", "1000000", "--ignore-eos"], &["inspect", text(), "--json"]];
    for args in cases {
        let mut child = brooklet().args(args).spawn().expect("the program starts");
        let mut stdout = child.stdout.take().expect("piped");
        stdout.read_exact(&mut [0; 1]).expect("some output");
        drop(stdout);
        let ran = finish(child);
        assert!(ran.ok && ran.err.is_empty(), "{args:?}: {}", ran.err);
    }
}

#[test]
fn eval_writes_the_same_outputs_by_step_and_by_prefill() {
    let dir = folder("outputs");
    let (step, prefill) = (dir.join("step.npy"), dir.join("prefill.npy"));
    let tokens = format!("{FIXTURES}/mamba-a/tokens.json");
    let cases = [(text(), "--tokens", tokens, "(64, 97)"), (sensor(), "--frames", frames(), "(64, 5)")];
    for (model, kind, input, shape) in cases {
        ok(&["eval", model, kind, &input, "--logits", step.to_str().expect("a plain path")]);
        ok(&["eval", model, kind, &input, "--logits", prefill.to_str().expect("a plain path"), "--prefill"]);
        let (step, prefill) = (std::fs::read(&step).expect("outputs"), std::fs::read(&prefill).expect("outputs"));
        assert_eq!(step, prefill, "{kind}");
        assert!(String::from_utf8_lossy(&step[..128]).contains(shape));
    }
}

#[test]
fn eval_scores_the_second_halves_of_windows() {
    let dir = folder("perplexity");
    let letters: String = (0..1000u32).map(|i| char::from(b'A' + (i * i % 26) as u8)).collect();
    let letters = write(&dir, "letters.txt", letters);
    let eval = |more: &[&str]| -> Value {
        let out = ok(&[&["eval", text(), "--text", &letters, "--window", "150", "--json", "--against", text()], more].concat());
        serde_json::from_str(&out).expect("JSON")
    };
    let all = eval(&["--threads", "1"]);
    assert_eq!((&all["windows"], &all["scored_tokens"]), (&6.into(), &450.into()));
    assert!(all["perplexity"].as_f64().is_some_and(|p| p > 1.0));
    assert_eq!((&all["against"]["mean_kl_nats"], &all["against"]["ratio"]), (&0.0.into(), &1.0.into()));
    assert_eq!(all, eval(&["--threads", "3"]), "the result depends on the threads");
    assert_eq!(eval(&["--windows", "2"])["scored_tokens"], 150);
}

#[test]
fn eval_follows_a_model_that_writes_by_itself() {
    let dir = folder("free-running");
    let letters = write(&dir, "digits.txt", "0123456789".repeat(10));
    let out = dir.join("half.brook").to_str().expect("a plain path").to_owned();
    let checkpoint = format!("{FIXTURES}/granite-rope");
    let [single, half] = ["f32", "f16"].map(|state| {
        let out = out.replace("half", state);
        ok(&["quantize", &checkpoint, "-o", &out, "--format", "f32", "--state", state, "--cache", "f32", "--stop", "--context", "200"]);
        out
    });
    let eval = |model: &str, more: &[&str]| -> Value {
        let args = ["eval", model, "--against", &single, "--text", &letters, "--window", "8", "--free-running", "150", "--json"];
        serde_json::from_str(&ok(&[&args, more].concat())).expect("JSON")
    };
    assert_eq!(eval(&single, &[])["mean_kl_nats"], 0.0);
    let found = eval(&half, &["--windows", "2", "--seed", "5"]);
    assert!(found["mean_kl_nats"].as_f64().is_some_and(|kl| kl > 0.0 && kl < 1e-3), "{found}");
    assert_eq!((found["streams"].as_u64(), found["blocks"][19]["to"].as_u64()), (Some(2), Some(150)));
    let again = eval(&half, &["--windows", "2", "--seed", "5", "--threads", "1"]);
    assert_eq!(found, again, "the seed decides everything");
    let error = run(&["eval", &half, "--text", &letters, "--free-running", "5"]).err;
    assert!(error.contains("--against"), "{error}");
    let error =
        run(&["eval", &half, "--against", &single, "--text", &letters, "--free-running", "5", "--window", "80", "--windows", "2"]).err;
    assert!(error.contains("--window"), "{error}");
}

#[test]
fn eval_judges_recordings_window_by_window() {
    let dir = folder("recordings");
    write(&dir, "a.csv", frame_lines().join("\n"));
    write(&dir, "short.csv", frame_lines()[..5].join("\n"));
    write(&dir, "labels.csv", "file,label\na.csv,walk\nshort.csv,run\n");
    let dir = dir.to_str().expect("a plain path");
    // 64 samples at 50 Hz in windows of 20, one every 10: judged at 20, 30, 40, 50, 60; the short one at its end.
    let out = ok(&["eval", sensor(), "--recordings", dir, "--window-seconds", "0.4", "--json"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&report["windows"], &report["recordings"]), (&6.into(), &2.into()));
    let stream = ok(&["stream", sensor(), &frames(), "--json", "--every", "10"]);
    let classes: Vec<Value> =
        stream.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).expect("JSON")["class"].clone()).collect();
    let walks = classes.iter().filter(|class| *class == "walk").count() as u64;
    assert_eq!(report["confusion"][1][1], walks);
    assert!(ok(&["eval", sensor(), "--recordings", dir]).contains("judged class"));
}

#[test]
fn inspect_verify_and_bench_answer() {
    for model in [sensor(), text()] {
        let report: Value = serde_json::from_str(&ok(&["inspect", model, "--json"])).expect("JSON");
        let file_bytes = std::fs::metadata(model).expect("a file").len();
        assert_eq!(report["memory"]["file_bytes"], file_bytes);
        assert!(report["program"].as_array().is_some_and(|ops| ops.last().is_some_and(|op| op["op"] == "Head")));
        assert!(ok(&["inspect", model, "--ops", "--tensors"]).contains("Linear {"));
        assert!(ok(&["verify", model]).lines().count() >= 2);
        let bench: Value = serde_json::from_str(&ok(&["bench", model, "-n", "8", "--json"])).expect("JSON");
        assert!(bench["speeds"].as_array().is_some_and(|all| all.iter().all(|s| s["steps_per_second"].as_f64() > Some(0.0))));
    }
}

#[test]
fn a_context_that_stops_is_respected() {
    let dir = folder("context");
    let model = dir.join("stop.brook").to_str().expect("a plain path").to_owned();
    ok(&["quantize", &format!("{FIXTURES}/granite-rope"), "-o", &model, "--stop", "--context", "24"]);
    let ran = run(&["run", &model, "-n", "100", "--ignore-eos", "--seed", "1"]);
    assert!(ran.ok && ran.err.contains("24 positions"), "{}", ran.err);
    let ran = run(&["run", &model, "--prompt", &" ".repeat(30)]);
    assert!(!ran.ok && ran.err.contains("24 positions"), "{}", ran.err);
    ok(&["bench", &model]);
}

/// The divergence that `quantize --max-kl` reports.
fn fitted(checkpoint: &str, dir: &Path, more: &[&str]) -> (String, Value) {
    let [out, report] = ["out.brook", "report.json"].map(|name| dir.join(name).to_str().expect("a plain path").to_owned());
    let mut args = vec!["quantize", checkpoint, "-o", &out, "--format", "q8", "--report", &report];
    args.extend(more);
    let text = ok(&args);
    ok(&["verify", &out]);
    let report: Value = serde_json::from_slice(&std::fs::read(&report).expect("a report")).expect("JSON");
    (text, report)
}

#[test]
fn a_bound_on_the_divergence_keeps_matrices_finer() {
    let dir = folder("max-kl");
    let checkpoint = format!("{FIXTURES}/mamba-a");
    let (text, report) = fitted(&checkpoint, &dir, &["--max-kl", "0.001"]);
    let found = &report["divergence"];
    assert!(found["plain_mean_kl_nats"].as_f64() > Some(0.001), "{found}");
    assert!(found["mean_kl_nats"].as_f64() <= Some(0.001), "{found}");
    assert!(report["file_bytes"].as_u64() > found["plain_file_bytes"].as_u64(), "{found}");
    let kept = found["kept_finer"].as_array().expect("a list");
    assert!(text.contains(&format!("{} of 9 kept finer", kept.len())) && text.contains("q8 -> f16"), "{text}");
    for finer in kept {
        let tensor = report["tensors"].as_array().expect("a list").iter().find(|t| t["name"] == finer["name"]).expect("a tensor");
        assert_eq!(tensor["format"], finer["to"]);
    }

    // What the plain file holds already costs nothing. Ids below 97 are bytes: capitals, digits, signs.
    let capitals = write(&dir, "capitals.txt", "THE LIGHTHOUSE KEEPER WROTE DOWN THE WEATHER, 4 TIMES A DAY. ".repeat(20));
    let (text, report) = fitted(&checkpoint, &dir, &["--max-kl", "0.1", "--calibration", &capitals]);
    assert!(text.contains("no matrix had to be kept finer"), "{text}");
    assert_eq!(report["file_bytes"], report["divergence"]["plain_file_bytes"]);

    let (text, _) = fitted(&format!("{FIXTURES}/sensor-mamba2-last"), &dir, &["--max-kl", "0.00001", "--calibration", &frames()]);
    assert!(text.contains("over 64 steps") && text.contains("kept finer for"), "{text}");
}

#[test]
fn a_budget_is_kept_and_told() {
    let dir = folder("fit");
    let checkpoint = format!("{FIXTURES}/../../../examples/models/watch-small");
    let [out, page, report, ledger] =
        ["out.brook", "report.html", "report.json", "ledger.json"].map(|name| dir.join(name).to_str().expect("a plain path").to_owned());
    let fit = ["quantize", &checkpoint, "-o", &out, "--fit", "20000", "--calibration", &frames(), "--method", "nearest"];
    let more = ["--report", &page, "--report", &report, "--ledger", &ledger];
    let plan = ok(&[&fit[..], &more, &["--plan"]].concat());
    assert!(plan.contains("% of 20,000") && plan.contains("foretold") && !Path::new(&out).exists(), "{plan}");
    let planned: Value = serde_json::from_slice(&std::fs::read(&report).expect("a report")).expect("JSON");
    let text = ok(&[&fit[..], &more].concat());
    assert!(text.contains("Next:"), "{text}");
    ok(&["verify", &out]);
    let file = std::fs::read(&out).expect("a file");
    let done: Value = serde_json::from_slice(&std::fs::read(&report).expect("a report")).expect("JSON");
    assert_eq!((&done["parts"], &done["measured_loss"]), (&planned["parts"], &planned["measured_loss"]));
    assert_eq!(done["file_bytes"].as_u64(), Some(file.len() as u64));
    assert!(file.len() <= 20_000);
    assert!(std::fs::read_to_string(&page).expect("a page").contains("<svg"));

    // What is made for a device is within what `inspect` foretells for it.
    ok(&[
        "quantize",
        &checkpoint,
        "-o",
        &out,
        "--flash",
        "140KiB",
        "--ram",
        "12KiB",
        "--core",
        "cortex-m4f",
        "--ledger",
        &ledger,
        "--calibration",
        &frames(),
    ]);
    let sheet: Value = serde_json::from_str(&ok(&["inspect", &out, "--json"])).expect("JSON");
    let core = sheet["firmware"].as_array().expect("a list").iter().find(|f| f["core"] == "Cortex-M4F").expect("a core");
    assert!(core["flash_bytes"].as_u64() <= Some(140 << 10) && core["ram_bytes"].as_u64() <= Some(12 << 10), "{core}");
}

/// Under a budget a text model's transform is tried; a sensor model's, which firmware may have to read, is not.
#[test]
fn a_budget_tries_a_transform_for_text_models() {
    let dir = folder("transform");
    let out = dir.join("out.brook");
    let out = out.to_str().expect("a plain path");
    let plan = |model: &str, more: &[&str]| {
        let checkpoint = format!("{FIXTURES}/{model}");
        ok(&[&["quantize", &checkpoint, "-o", out, "--bits", "9", "--plan", "--method", "nearest"], more].concat())
    };
    let text = plan("mamba2-g1", &[]);
    assert!(text.contains("passes tried") && text.contains("hadamard") && !text.contains("rotate"), "{text}");
    for (model, more) in [("mamba2-g1", &["--passes", "none"][..]), ("sensor-mamba2-last", &[])] {
        assert!(!plan(model, more).contains("passes tried"), "{model}");
    }
}

#[test]
fn the_demo_runs_without_a_terminal() {
    let out = ok(&["demo"]);
    assert!(out.contains("vote agrees") && out.contains("per second") && out.contains("brooklet quantize"), "{out}");
}

/// With a GPU the text is the same as well: it has the CPU's bits.
#[test]
fn without_a_gpu_one_line_says_so_and_the_cpu_writes() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/prose.brook");
    let run_on = |device| run(&["run", model, "--prompt", "The", "-n", "8", "--greedy", "--device", device]);
    let on_cpu = run_on("cpu");
    assert!(on_cpu.ok && on_cpu.err.is_empty(), "{}", on_cpu.err);
    let (asked, auto) = (run_on("cuda"), run_on("auto"));
    assert!(asked.ok && asked.out == on_cpu.out, "{}", asked.err);
    assert!(auto.ok && auto.out == on_cpu.out && auto.err.is_empty(), "{}", auto.err);
    assert!(asked.err.is_empty() || asked.err.lines().count() == 1 && asked.err.ends_with("this runs on the CPU\n"), "{}", asked.err);
}
