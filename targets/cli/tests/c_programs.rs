//! The C examples, from export to their output: the same numbers as Rust, on this machine and on an emulated Cortex-M4.

use brooklet::mem::MappedFile;
use brooklet::{Input, Line, Model, Session, State, kernels};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Runs `make` for an example, with the library and the model in a folder of the tests' own.
fn make(example: &str, goals: &[&str]) -> (PathBuf, Output) {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c_programs").join(example);
    std::fs::create_dir_all(&out).expect("a folder for test files");
    let variables = [format!("OUT={}", out.display()), format!("BROOKLET={}", env!("CARGO_BIN_EXE_brooklet"))];
    let output = Command::new("make")
        .args(["--silent", "-C", &format!("{ROOT}/examples/c/{example}")])
        .args(variables)
        .args(goals)
        .output()
        .expect("make starts");
    assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    (out, output)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_recording_in_c_is_judged_as_by_the_command() {
    let (out, _) = make("linux", &[]);
    for recording in ["subject03_ROW_right_01", "subject08_TRAP_left_01"] {
        let recording = format!("{ROOT}/examples/recordings/{recording}.csv");
        let in_c = Command::new(out.join("recording")).arg(&recording).output().expect("the program starts");
        let model = format!("{ROOT}/examples/models/watch.brook");
        let by_command =
            Command::new(env!("CARGO_BIN_EXE_brooklet")).args(["stream", &model, &recording, "--every", "50"]).output().expect("it starts");
        let lines = |output: &Output| stdout(output).lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        let (in_c, mut by_command) = (lines(&in_c), lines(&by_command));
        assert!(by_command.pop().is_some_and(|verdict| verdict.starts_with("last step")));
        assert!(in_c.len() > 5 && in_c == by_command, "{in_c:#?} {by_command:#?}");
    }
    // What is no recording ends with a message.
    for (file, problem) in [("Makefile", "line 2: not 6 numbers"), ("none.csv", "none.csv")] {
        let path = format!("{ROOT}/examples/c/linux/{file}");
        let refused = Command::new(out.join("recording")).arg(path).output().expect("the program starts");
        assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains(problem));
    }
}

/// What examples/c/cortex-m/main.c computes.
fn hash_of_1000_steps() -> u64 {
    let file = MappedFile::open(format!("{ROOT}/examples/models/watch.brook")).expect("the model");
    let model = Model::from_bytes(file.bytes()).expect("a model");
    let mut state = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut scratch = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
    let mut state = State::new(&model, Line::bytes_mut(&mut state)).expect("a state");
    let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch)).expect("a session");
    let (mut hash, mut seed) = (0xcbf2_9ce4_8422_2325_u64, 1u32);
    for _ in 0..1000 {
        let mut frame = [0.0f32; 6];
        for sample in &mut frame {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            *sample = ((seed >> 20) as i32 - 2048) as f32 / 512.0;
        }
        for output in session.step(Input::Frame(&frame)).expect("a step") {
            for byte in output.to_bits().to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    hash
}

fn starts(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

/// What is missing to build for a Cortex-M4 and to run there; `.ci/capi.sh` installs it.
fn missing_for_cortex_m() -> Option<&'static str> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().map(|o| stdout(&o)).unwrap_or_default();
    let target = Path::new(sysroot.trim()).join("lib/rustlib/thumbv7em-none-eabihf/lib");
    let toolchains = Command::new("rustup").args(["toolchain", "list"]).output().map(|o| stdout(&o)).unwrap_or_default();
    let debian =
        toolchains.lines().any(|line| line.starts_with("debian")) && Path::new("/usr/lib/rustlib/src/rust/library/Cargo.lock").exists();
    if !starts("arm-none-eabi-gcc") {
        Some("arm-none-eabi-gcc")
    } else if !starts("qemu-system-arm") {
        Some("qemu-system-arm")
    } else if !target.exists() && !debian {
        Some("the target thumbv7em-none-eabihf (rustup target add)")
    } else {
        None
    }
}

/// Whether to run on an emulated Cortex-M4; says why if not. With BROOKLET_ARM set, what is missing is a failure.
fn has_cortex_m() -> bool {
    let Some(missing) = missing_for_cortex_m() else { return true };
    assert!(std::env::var_os("BROOKLET_ARM").is_none(), "BROOKLET_ARM is set, but {missing} is missing");
    eprintln!("skipped: {missing} is missing");
    false
}

#[test]
fn a_cortex_m4_in_c_computes_the_bits_of_this_machine() {
    if has_cortex_m() {
        let (_, output) = make("cortex-m", &["run"]);
        assert_eq!(stdout(&output).lines().last(), Some(format!("1000 steps give {:016x}", hash_of_1000_steps()).as_str()));
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../capi/package.sh");
const START: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/c/cortex-m");
const STAND_INS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../capi/tests/stand-ins");
const CORTEX_M4F: [&str; 4] = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"];

/// An empty folder with the exported model.
fn folder_with_model(name: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c_programs").join(name);
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir_all(&out).expect("a folder for test files");
    let model = format!("{ROOT}/examples/models/watch.brook");
    run(Command::new(env!("CARGO_BIN_EXE_brooklet")).args(["export", &model, "--ram", "32KiB", "--c"]).arg(&out));
    out
}

/// Compiles one file in `dir` to an object file.
fn compile(dir: &Path, compiler: &str, flags: &[&str], source: &str) -> String {
    let object = format!("{}.o", Path::new(source).file_stem().expect("a name").to_string_lossy());
    run(Command::new(compiler).current_dir(dir).args(flags).args(CORTEX_M4F).args(["-c", source, "-o", &object]));
    object
}

/// Links with the start-up code of the Cortex-M example and runs the program in QEMU.
fn link_and_run(dir: &Path, objects: &[String], library: &str) -> String {
    let start = compile(dir, "arm-none-eabi-gcc", &["-std=c11", "-O2", "-ffreestanding"], &format!("{START}/start.c"));
    run(Command::new("arm-none-eabi-gcc").current_dir(dir).args(CORTEX_M4F).args(objects).args([
        &start,
        library,
        "-lgcc",
        "-nostdlib",
        "-Wl,--gc-sections",
        "-T",
        &format!("{START}/mps2-an386.ld"),
        "-o",
        "program.elf",
    ]));
    let console = ["-chardev", "stdio,id=console", "-semihosting-config", "enable=on,target=native,chardev=console"];
    let quiet = ["-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none"];
    stdout(&run(Command::new("qemu-system-arm").args(quiet).args(console).arg("-kernel").arg(dir.join("program.elf"))))
}

#[test]
fn the_arduino_header_is_cpp_11_without_a_warning() {
    let dir = folder_with_model("arduino-header");
    let capi = concat!(env!("CARGO_MANIFEST_DIR"), "/../capi");
    std::fs::create_dir(dir.join("c")).expect("a folder");
    std::fs::copy(format!("{capi}/include/brooklet.h"), dir.join("c/brooklet.h")).expect("the header");
    let text = std::fs::read_to_string(format!("{capi}/arduino/examples/Watch/Watch.ino")).expect("the sketch");
    std::fs::write(dir.join("sketch.cpp"), format!("#include <Arduino.h>\n{text}")).expect("a source");
    let paths = ["-I.".to_owned(), format!("-I{capi}/arduino/src"), format!("-I{STAND_INS}/arduino")];
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    for standard in ["-std=c++11", "-std=c++20"] {
        let strict = [standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "sketch.cpp"];
        run(Command::new(&compiler).current_dir(&dir).args(strict).args(&paths));
    }
}

#[test]
fn the_arduino_library_and_its_sketch_run_on_a_cortex_m4() {
    if !has_cortex_m() {
        return;
    }
    let dir = folder_with_model("arduino");
    run(Command::new(PACKAGE).arg("arduino").arg(&dir).arg("cortex-m4/fpv4-sp-d16-hard"));
    let library = dir.join("Brooklet/src");
    let (include, stand_in, console) = (format!("-I{}", library.display()), format!("-I{STAND_INS}/arduino"), format!("-I{START}"));
    let sketch = dir.join("Brooklet/examples/Watch/Watch.ino");
    // As the core of the UNO R4 calls the compiler, but that no C library need be there; the sketch becomes C++ with one more
    // line at its top.
    let usual = ["-Os", "-Wall", "-Wextra", "-Werror", "-fno-rtti", "-fno-exceptions", "-fno-threadsafe-statics", "-fno-use-cxa-atexit"];
    let paths =
        ["-ffreestanding", "-ffunction-sections", "-fdata-sections", "-nostdlib", "-fsigned-char", "-I.", &include, &stand_in, &console];
    let text = std::fs::read_to_string(sketch).expect("the sketch");
    std::fs::write(dir.join("sketch.cpp"), format!("#include <Arduino.h>\n{text}")).expect("a source");
    let mut objects = Vec::new();
    for standard in ["-std=gnu++17", "-std=gnu++14", "-std=gnu++11"] {
        let flags = [&[standard][..], &usual, &paths].concat();
        objects = vec![
            compile(&dir, "arm-none-eabi-g++", &flags, "sketch.cpp"),
            compile(&dir, "arm-none-eabi-g++", &flags, &format!("{STAND_INS}/arduino/board.cpp")),
        ];
    }
    objects.push(compile(
        &dir,
        "arm-none-eabi-gcc",
        &["-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-fsigned-char", "-ffreestanding"],
        "watch.c",
    ));
    let printed = link_and_run(&dir, &objects, "Brooklet/src/cortex-m4/fpv4-sp-d16-hard/libbrooklet.a");
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines.len() == 4 && lines.iter().all(|line| line.contains(" 0.")), "{printed}");
}

#[test]
fn the_zephyr_sample_runs_on_a_cortex_m4() {
    if !has_cortex_m() {
        return;
    }
    let dir = folder_with_model("zephyr");
    run(Command::new(PACKAGE).args(["lib", "thumbv7em-none-eabihf"]).arg(&dir));
    let (stand_in, console) = (format!("-I{STAND_INS}/zephyr"), format!("-I{START}"));
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/../capi/include");
    // As Zephyr calls the compiler.
    let usual = ["-std=c17", "-Os", "-Werror", "-Wall", "-Wformat", "-Wformat-security", "-Wdouble-promotion", "-Wpointer-arith"];
    let more = ["-fno-strict-aliasing", "-fno-common", "-ffreestanding", "-fno-pic", "-fno-pie", "-fno-defer-pop", "-ffunction-sections"];
    let paths =
        ["-fdata-sections", "-fno-asynchronous-unwind-tables", "-mabi=aapcs", "-mfp16-format=ieee", "-I.", include, &stand_in, &console];
    let flags = [&usual[..], &more, &paths].concat();
    let main = concat!(env!("CARGO_MANIFEST_DIR"), "/../capi/zephyr/samples/watch/src/main.c");
    let sources = [main, "watch.c", &format!("{STAND_INS}/zephyr/zephyr.c")];
    let objects = sources.map(|source| compile(&dir, "arm-none-eabi-gcc", &flags, source));
    let printed = link_and_run(&dir, &objects, "libbrooklet.a");
    assert!(printed.starts_with("step 50: class ") && printed.ends_with("slept 100 times\n"), "{printed}");
}
