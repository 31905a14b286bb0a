//! `brooklet export`: what it writes compiles without a warning, says the same sizes as `inspect`, and holds its budgets.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("export").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a folder for test files");
    dir
}

fn tool(variable: &str, otherwise: &str) -> Command {
    Command::new(std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned()))
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn brooklet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_brooklet")).args(args).output().expect("the program starts")
}

fn ok(args: &[&str]) -> Output {
    let output = brooklet(args);
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    output
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A text model, a classifier, and a net whose outputs are values.
fn models(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let bundled = |name: &str| PathBuf::from(format!("{ROOT}/examples/models/{name}.brook"));
    let values = dir.join("values.brook");
    ok(&["quantize", &format!("{ROOT}/tests/fixtures/families/rnn-gru-unit"), "-o", text(&values), "--format", "q8"]);
    vec![("prose", bundled("prose")), ("watch", bundled("watch")), ("values", values)]
}

fn inspect(model: &Path) -> Value {
    serde_json::from_slice(&ok(&["inspect", text(model), "--json"]).stdout).expect("JSON")
}

/// What `inspect` says, under the names of the constants.
fn sizes(model: &Path) -> Vec<(&'static str, u64)> {
    let memory = &inspect(model)["memory"];
    let constants = [
        ("FLASH_BYTES", "file_bytes"),
        ("STATE_BYTES", "state_bytes"),
        ("SCRATCH_BYTES", "scratch_bytes"),
        ("MACS_PER_STEP", "macs_per_step"),
    ];
    constants.map(|(constant, field)| (constant, memory[field].as_u64().expect("a number"))).to_vec()
}

/// Compiles a library without std that holds the exported module.
fn rustc(dir: &Path, name: &str, more: &str) -> Output {
    let main = dir.join("lib.rs");
    std::fs::write(&main, format!("#![no_std]\n#![deny(warnings)]\nmod {name};\n{more}")).expect("a source");
    let out = format!("--out-dir={}", text(dir));
    tool("RUSTC", "rustc").args(["--edition=2021", "--crate-type=lib", "--emit=metadata", &out]).arg(&main).output().expect("rustc starts")
}

#[test]
fn rust_modules_compile_and_say_what_inspect_says() {
    let dir = folder("rust");
    for (name, model) in models(&dir) {
        let out = dir.join(format!("{name}-out"));
        ok(&["export", text(&model), "--rust", text(&out)]);
        let checks: String = sizes(&model).iter().map(|(c, n)| format!("const _: () = assert!({name}::{c} as u64 == {n});\n")).collect();
        let checks = checks + &format!("pub fn model() -> &'static [u8] {{ {name}::MODEL }}\npub const N: usize = {name}::OUTPUTS;\n");
        let compiled = rustc(&out, name, &checks);
        assert!(compiled.status.success(), "{}", err(&compiled));
        // Nothing of it used: no warning either.
        assert!(rustc(&out, name, "").status.success());
        assert_eq!(std::fs::read(out.join(format!("{name}.brook"))).expect("a copy"), std::fs::read(&model).expect("the model"));
    }
    let watch = std::fs::read_to_string(dir.join("watch-out/watch.rs")).expect("a module");
    for part in ["CHANNEL_NAMES: [&str; CHANNELS] = [\"ax\"", "RATE_HZ: f32 = 50.0", "CLASS_NAMES: [&str; OUTPUTS] = [\"PEN\""] {
        assert!(watch.contains(part), "{part}");
    }
    let prose = std::fs::read_to_string(dir.join("prose-out/prose.rs")).expect("a module");
    assert!(prose.contains("VOCAB: u32 = 4096") && !prose.contains("CHANNELS"));
}

#[test]
fn rust_modules_hold_their_budgets() {
    let dir = folder("rust-budget");
    let model = format!("{ROOT}/examples/models/watch.brook");
    let export = |flash, ram| ok(&["export", &model, "--rust", text(&dir), "--name", "w", "--flash", flash, "--ram", ram]);
    // State and scratch take 17,248 bytes, the file 56,284.
    export("56284", "17248");
    assert!(rustc(&dir, "w", "").status.success());
    for (flash, ram, problem) in [("56283", "1MiB", "more flash than it was given"), ("1MiB", "16.8KiB", "more RAM than it was given")] {
        let warned = err(&export(flash, ram));
        assert!(warned.contains("warning") && warned.contains("more"), "{warned}");
        let compiled = rustc(&dir, "w", "");
        assert!(!compiled.status.success() && err(&compiled).contains(problem), "{}", err(&compiled));
    }
}

/// Compiles (and, with an output, links) with every warning an error.
fn compile(dir: &Path, language: &str, args: &[&str]) -> Output {
    let mut compiler = if language.starts_with("c++") { tool("CXX", "c++") } else { tool("CC", "cc") };
    let kind = if language.starts_with("c++") { "c++" } else { "c" };
    let strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-x", kind];
    compiler.current_dir(dir).arg(format!("-std={language}")).args(strict).args(args).output().expect("a C compiler")
}

const LANGUAGES: &[&str] = &["c99", "c11", "c++11", "c++17"];

#[test]
fn c_compiles_in_every_standard_and_says_what_inspect_says() {
    let dir = folder("c");
    for (name, model) in models(&dir) {
        let big = name == "prose";
        let out = dir.join(format!("{name}-out"));
        let mut args = vec!["export", text(&model), "--c", text(&out), "--flash", "1GiB", "--ram", "1GiB"];
        args.extend(big.then_some("--incbin"));
        ok(&args);
        let upper = name.to_uppercase();
        let checks: String =
            sizes(&model).iter().map(|(c, n)| format!("    if ((uint64_t){upper}_{c} != UINT64_C({n})) return 1;\n")).collect();
        // The array is where it should be, and holds the file.
        let main = format!(
            "#include \"{name}.h\"\n#include <stdio.h>\n#include <string.h>\nint main(int count, char **args) {{\n{checks}    \
             FILE *file = fopen(args[count - 1], \"rb\");\n    static unsigned char bytes[{upper}_FLASH_BYTES];\n    \
             if (!file || fread(bytes, 1, sizeof bytes, file) != sizeof bytes || fgetc(file) != EOF) return 2;\n    \
             if (memcmp(bytes, {name}_model, sizeof {name}_model) != 0) return 3;\n    \
             return (uintptr_t){name}_model % 64 == 0 ? 0 : 4;\n}}\n"
        );
        std::fs::write(out.join("main.c"), main).expect("a source");
        let source = format!("{name}.c");
        for &language in LANGUAGES {
            let mut args = vec!["main.c", &source, "-o", "main"];
            let assembly = format!("{name}.S");
            if big {
                args.extend(["-x", "assembler-with-cpp", &assembly]);
            }
            let compiled = compile(&out, language, &args);
            assert!(compiled.status.success(), "{name} in {language}: {}", err(&compiled));
            let ran = Command::new(out.join("main")).arg(&model).status().expect("the program starts");
            assert_eq!(ran.code(), Some(0), "{name} in {language}");
        }
    }
    let header = std::fs::read_to_string(dir.join("values-out/values.h")).expect("a header");
    assert!(header.contains("values_value_units[VALUES_OUTPUTS]"), "{header}");
}

#[test]
fn c_holds_its_budgets() {
    let dir = folder("c-budget");
    let model = format!("{ROOT}/examples/models/watch.brook");
    let export = |more: &[&str]| ok(&[&["export", &model, "--c", text(&dir)], more].concat());
    for &language in LANGUAGES {
        export(&["--flash", "56284", "--ram", "17248"]);
        assert!(compile(&dir, language, &["-c", "watch.c"]).status.success());
        // A budget can also come from the firmware's build.
        let compiled = compile(&dir, language, &["-c", "watch.c", "-DWATCH_RAM_BUDGET_BYTES=17247"]);
        assert!(err(&compiled).contains("watch_takes_more_ram_than_it_was_given"), "{language}: {}", err(&compiled));
        export(&["--flash", "54KiB"]);
        let compiled = compile(&dir, language, &["-c", "watch.c"]);
        assert!(err(&compiled).contains("watch_takes_more_flash_than_it_was_given"), "{language}: {}", err(&compiled));
    }
}

#[test]
fn files_of_others_are_kept_and_names_are_checked() {
    let dir = folder("others");
    let model = format!("{ROOT}/examples/models/watch.brook");
    let out = text(&dir);
    std::fs::write(dir.join("watch.h"), "my own header\n").expect("a file");
    let refused = brooklet(&["export", &model, "--c", out]);
    assert!(!refused.status.success() && err(&refused).contains("watch.h: exists") && err(&refused).contains("--force"));
    assert!(!dir.join("watch.c").exists(), "nothing is written where something is refused");
    ok(&["export", &model, "--c", out, "--force"]);
    // Its own files are replaced, and a model may lie where it is exported to.
    ok(&["export", &model, "--c", out]);
    ok(&["export", &model, "--rust", out]);
    ok(&["export", text(&dir.join("watch.brook")), "--rust", out, "--c", out, "--incbin"]);
    assert!(dir.join("watch.S").exists());
    // A model of the same name is the user's own where no source beside it says otherwise; equal bytes are no loss.
    let own = dir.join("own");
    std::fs::create_dir(&own).expect("a folder");
    let small = std::fs::read(format!("{ROOT}/examples/models/watch-small.brook")).expect("a model");
    std::fs::write(own.join("watch.brook"), &small).expect("a file");
    let refused = brooklet(&["export", &model, "--rust", text(&own)]);
    assert!(!refused.status.success() && err(&refused).contains("watch.brook: exists"), "{}", err(&refused));
    assert_eq!(std::fs::read(own.join("watch.brook")).expect("a file"), small);
    std::fs::copy(&model, own.join("watch.brook")).expect("a file");
    ok(&["export", &model, "--rust", text(&own)]);
    std::fs::write(own.join("watch.brook"), &small).expect("a file");
    ok(&["export", &model, "--rust", text(&own)]);
    std::fs::write(own.join("watch.rs"), "// not Generated by `brooklet export`\n").expect("a file");
    assert!(!brooklet(&["export", &model, "--rust", text(&own)]).status.success());

    for (args, problem) in [
        (&["export", &model][..], "--rust"),
        (&["export", &model, "--rust", out, "--name", "Watch"], "lower-case"),
        (&["export", &model, "--rust", out, "--name", "static"], "taken"),
        (&["export", &model, "--rust", out, "--name", "stdint"], "header"),
        (&["export", &model, "--rust", out, "--ram", "lots"], "KiB"),
        (&["export", &model, "--rust", out, "--incbin"], "--c"),
        (&["export", "none.brook", "--rust", out], "none.brook: cannot be opened"),
    ] {
        let refused = brooklet(args);
        assert!(!refused.status.success() && err(&refused).contains(problem), "{args:?}: {}", err(&refused));
    }
}
