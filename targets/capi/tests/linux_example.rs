//! examples/c/linux says so when its output could not be written. Library and model are stand-ins; the command line's tests run the
//! real ones.
#![cfg(target_os = "linux")]

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Command;

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = out.join("recording_with_stand_ins");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compiled = Command::new(compiler)
        .current_dir(root)
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Iinclude", "-Itests/stand-ins/linux"])
        .args(["../../examples/c/linux/main.c", "tests/stand-ins/linux/library.c", "-o"])
        .arg(&program)
        .output()
        .expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    // A line of output waits in a buffer until the end; a thousand do not.
    for frames in [1, 1000] {
        let recording = out.join("recording_with_stand_ins.csv");
        std::fs::write(&recording, "1,2,3,4,5,6\n".repeat(frames)).expect("a recording");
        let written = Command::new(&program).arg(&recording).output().expect("the program starts");
        assert!(written.status.success() && written.stderr.is_empty());
        assert_eq!(written.stdout.iter().filter(|&&byte| byte == b'\n').count(), frames);

        let full = OpenOptions::new().write(true).open("/dev/full").expect("a disk without room");
        let refused = Command::new(&program).arg(&recording).stdout(full).output().expect("the program starts");
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && told.lines().count() == 1 && told.starts_with("standard output"), "{told}");
    }
}
