//! `brooklet bench` as a user meets it: what it measures is there, adds up, and its errors say what to do.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families");

/// What a command printed, and its error.
fn run(args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    let output = command.env_remove("BROOKLET_BACKEND").stdin(Stdio::null()).args(args).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn ok(args: &[&str]) -> String {
    run(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(args)).expect("JSON")
}

fn path(name: &str) -> String {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).to_str().expect("a plain path").to_owned()
}

/// A hybrid with a sliding cache of 64 positions.
fn hybrid() -> &'static str {
    static MODEL: OnceLock<String> = OnceLock::new();
    MODEL.get_or_init(|| {
        let out = path("bench-hybrid.brook");
        ok(&["quantize", &format!("{FIXTURES}/granite-rope"), "-o", &out, "--format", "q8", "--context", "64"]);
        out
    })
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

#[test]
fn errors_say_what_to_do() {
    let model = hybrid();
    let stop = path("bench-stop.brook");
    ok(&["quantize", &format!("{FIXTURES}/granite-rope"), "-o", &stop, "--stop", "--context", "24"]);
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["<MODEL>"]),
        (&[model, "--threads", "0"], &["--threads"]),
        (&[model, "--threads", "1,two"], &["two"]),
        (&[model, "--backends", "some"], &["best", "all"]),
        (&[model, "--depth", "8m"], &["8m", "8k"]),
        (&[model, "--streams", "0"], &["--streams"]),
        (&[model, "--runs", "0"], &["--runs"]),
        (&[model, "--keep", "x.brook"], &["--keep", "[MODEL]"]),
        (&["--keep", "x.brook"], &["--shape"]),
        (&[model, "--cache-positions", "8k"], &["--cache-positions"]),
        (&[model, "--svg", "x.svg"], &["--context"]),
        (&[model, "--cold", "--depth", "1"], &["--cold", "--depth"]),
        (&[model, "--cold", "--threads", "2"], &["--cold", "--threads"]),
        (&[model, "--shape", "mamba-1m"], &["--shape"]),
        (&["--shape", "mamba-7b"], &["mamba-7b", "mamba-130m"]),
        (&["--shape", "mamba-1m,mamba-130m"], &["--context"]),
        (&["--shape", "mamba-1m", "--keep", "none/x.brook"], &["none"]),
        (&["none.brook"], &["none.brook", "cannot be opened"]),
        (&["none.brook", "--cold"], &["none.brook", "cannot be opened"]),
        (&[&stop, "--depth", "24"], &["bench-stop.brook", "24 positions"]),
        (&[&stop, "--context", "8,24"], &["bench-stop.brook", "24 positions"]),
    ];
    for (args, words) in cases {
        let error = run(&[&["bench"], *args].concat()).expect_err(&format!("{args:?}"));
        assert!(words.iter().all(|word| error.contains(word)), "{args:?}: {error}");
    }
}

#[test]
fn narrow_states_and_caches_move_fewer_bytes() {
    let bytes = |more: &[&str]| -> [f64; 2] {
        let found = json(&[&["bench", "--shape", "mamba-1m", "-n", "2", "--runs", "1", "--prompt", "2", "--json"], more].concat());
        [number(&found, "/memory/state_bytes"), number(&found, "/speeds/0/depths/0/bytes_per_step/state_bytes")]
    };
    let ([single, single_moved], [half, half_moved]) = (bytes(&[]), bytes(&["--state", "f16"]));
    // Windows of convolutions stay.
    assert!(half > 0.5 * single && half < 0.7 * single && half_moved < 0.7 * single_moved, "{single} {half}");
    let checkpoint = format!("{FIXTURES}/granite-rope");
    let [single, four] = ["f32", "int4"].map(|cache| {
        let out = path(&format!("bench-cache-{cache}.brook"));
        ok(&["quantize", &checkpoint, "-o", &out, "--cache", cache]);
        number(
            &json(&["bench", &out, "-n", "2", "--runs", "1", "--prompt", "2", "--json", "--context", "1k"]),
            "/curves/0/points/0/state_bytes",
        )
    });
    assert!(four < single, "{four} {single}");
}

#[test]
fn depths_threads_and_backends_are_measured() {
    let found = json(&[
        "bench",
        hybrid(),
        "-n",
        "4",
        "--runs",
        "2",
        "--prompt",
        "8",
        "--threads",
        "1,2",
        "--depth",
        "0,32,1k",
        "--backends",
        "all",
        "--json",
    ]);
    let speeds = found["speeds"].as_array().expect("a list");
    assert!(speeds.len() >= 2 && speeds.len().is_multiple_of(2), "{found}");
    for speed in speeds {
        assert!(number(speed, "/steps_per_second") > 0.0 && number(speed, "/prefill_per_second/median") > 0.0);
        assert!(number(speed, "/read_bytes_per_second/best") >= number(speed, "/read_bytes_per_second/median"));
        let depths = speed["depths"].as_array().expect("a list");
        assert_eq!(depths.iter().map(|d| number(d, "/position")).collect::<Vec<_>>(), [0.0, 32.0, 1024.0]);
        // The cache fills up and is then full; the rest stays.
        let caches: Vec<f64> = depths.iter().map(|d| number(d, "/bytes_per_step/cache_bytes")).collect();
        assert!(caches[0] < caches[1] && caches[1] < caches[2], "{caches:?}");
        assert_eq!(number(&depths[2], "/held_bytes"), number(&found, "/memory/state_bytes"));
        for depth in depths {
            let parts = ["weights_bytes", "state_bytes", "cache_bytes"].map(|part| number(depth, &format!("/bytes_per_step/{part}")));
            assert_eq!(parts.iter().sum::<f64>(), number(depth, "/total_bytes_per_step"));
            assert_eq!(parts[..2], ["weights_bytes", "state_bytes"].map(|part| number(&depths[0], &format!("/bytes_per_step/{part}"))));
        }
    }
    assert_eq!(speeds.last().expect("one")["threads"], 2);
}

#[test]
fn operations_and_streams_are_measured() {
    let watch = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/watch.brook");
    for model in [hybrid(), watch] {
        let found = json(&["bench", model, "-n", "4", "--runs", "2", "--prompt", "8", "--ops", "--streams", "1,3", "--json"]);
        let ops = &found["ops"][0];
        let shares = |list: &str| ops[list].as_array().expect("a list").iter().map(|op| number(op, "/share")).sum::<f64>();
        assert!((shares("ops") - 1.0).abs() < 1e-9 && (shares("kinds") - 1.0).abs() < 1e-9, "{ops}");
        let moved: f64 = ops["ops"].as_array().expect("a list").iter().map(|op| number(op, "/total_bytes_per_step")).sum();
        assert_eq!(moved, number(&found, "/speeds/0/depths/0/total_bytes_per_step"));
        let counts = found["streams"][0]["counts"].as_array().expect("a list");
        assert_eq!(counts.iter().map(|c| number(c, "/streams")).collect::<Vec<_>>(), [1.0, 3.0]);
        assert!(counts.iter().all(|count| number(count, "/steps_per_second/median") > 0.0));
        let text = ok(&["bench", model, "-n", "4", "--runs", "1", "--ops", "--streams", "1,2"]);
        assert!(text.contains("many streams") && text.contains("roofline") && text.contains("Head"), "{text}");
    }
}

#[test]
fn operations_in_blocks_are_told_apart() {
    let model = path("bench-blocks.brook");
    ok(&["quantize", &format!("{FIXTURES}/attenuate"), "-o", &model, "--format", "f32"]);
    let found = json(&["bench", &model, "-n", "2048", "--runs", "1", "--prompt", "1", "--ops", "--json"]);
    for op in found["ops"][0]["ops"].as_array().expect("a list") {
        assert!(number(op, "/us_per_step") > 0.0, "{op}");
    }
}

#[test]
fn contexts_are_compared_and_drawn() {
    let svg = path("bench-context.svg");
    let args = ["bench", "--shape", "mamba-1m", "--context", "16,64,10k", "-n", "2", "--runs", "1", "--batch", "128"];
    let found = json(&[&args[..], &["--json", "--svg", &svg]].concat());
    let points = found["curves"][0]["points"].as_array().expect("a list");
    assert_eq!(points.iter().map(|p| number(p, "/position")).collect::<Vec<_>>(), [16.0, 64.0, 10240.0]);
    assert!(points[0]["first_token_seconds"].is_f64() && points[2]["first_token_seconds"].is_null(), "{found}");
    assert_eq!(number(&points[0], "/state_bytes"), number(&points[2], "/state_bytes"));
    assert!(std::fs::read_to_string(svg).expect("a drawing").starts_with("<svg"));
    let text = ok(&["bench", hybrid(), "--context", "16,128", "--runs", "1"]);
    assert!(text.contains("first token") && text.contains("steps per second over position"), "{text}");
}

#[test]
fn random_weights_can_be_kept() {
    let kept = path("bench-kept.brook");
    let found = json(&["bench", "--shape", "mamba-1m", "--format", "q8", "--keep", &kept, "-n", "4", "--runs", "1", "--json"]);
    assert_eq!(found["model"], "mamba-1m q8");
    assert_eq!(number(&found, "/memory/file_bytes") as u64, std::fs::metadata(&kept).expect("a file").len());
    assert!(ok(&["verify", &kept]).contains("golden"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_cold_start_stays_in_its_memory() {
    let found = json(&["bench", hybrid(), "--cold", "--runs", "2", "--json"]);
    assert!(number(&found, "/read_seconds") > 0.0 && number(&found, "/first_answer_seconds") > 0.0, "{found}");
    assert!(number(&found, "/phases/peak_resident_bytes") > 0.0, "{found}");
    let sum = ["file_bytes", "state_bytes", "scratch_bytes"].map(|part| number(&found, &format!("/memory/{part}"))).iter().sum::<f64>();
    assert_eq!(number(&found, "/allowed_resident_bytes"), sum + 6.0 * 1024.0 * 1024.0);
    assert!(ok(&["bench", hybrid(), "--cold", "--lock", "--runs", "1"]).contains("x reading"));
}
