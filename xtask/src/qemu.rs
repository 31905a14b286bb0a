//! A firmware in QEMU: what it sent over its serial port, and how it ended.

use crate::boards::Board;
use crate::elf::Program;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A run that came to its end.
pub(crate) struct Run {
    /// What the firmware sent over its first serial port.
    pub(crate) serial: Vec<u8>,
    pub(crate) status: ExitStatus,
    pub(crate) wall: Duration,
}

/// Runs `elf` on `board` until it ends; one that does not end within `limit` is stopped, and an error.
///
/// In emulated time an instruction takes a nanosecond, and sleep takes none of ours.
pub(crate) fn run(board: &Board, elf: &Path, in_emulated_time: bool, limit: Duration) -> Result<Run> {
    let program = if board.target.starts_with("riscv32") { "qemu-system-riscv32" } else { "qemu-system-arm" };
    let mut command = Command::new(program);
    command.args(["-M", board.name, "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-semihosting-config", "enable=on,target=native"]);
    if program == "qemu-system-riscv32" {
        command.args(["-bios", "none"]);
    }
    if in_emulated_time {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    command.arg("-kernel").arg(elf).stdin(Stdio::null()).stdout(Stdio::piped());
    let started = Instant::now();
    let mut child =
        command.spawn().with_context(|| format!("{program}: cannot be started; install QEMU (`.ci/install_embedded.sh qemu`)"))?;
    let mut serial = child.stdout.take().context("QEMU's output is a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        serial.read_to_end(&mut bytes).map(|_| bytes)
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            let sent = reader.join().expect("reading does not panic")?;
            bail!("{}: no end after {} s; it sent {:?}", board.name, limit.as_secs(), String::from_utf8_lossy(&sent));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let serial = reader.join().expect("reading does not panic")?;
    Ok(Run { serial, status, wall: started.elapsed() })
}

/// Bytes of stack that `elf` used on `board` until it had made `steps` steps: what no longer has the paint of before.
///
/// The emulator paints and looks; the program is the one that is shipped.
pub(crate) fn stack_used(board: &Board, elf: &Path, program: &Program, steps: u32) -> Result<u32> {
    const PAINT: u8 = 0xa5;
    let stack = program.free_ram().context("the program has no table of exceptions")?;
    let (answer, _) = program.object("ANSWER").context("the program has no ANSWER")?;
    let (paint, counted, after) = (elf.with_extension("paint"), elf.with_extension("counted"), elf.with_extension("after"));
    // What an earlier run left there says nothing about this one.
    for file in [&counted, &after] {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    std::fs::write(&paint, vec![PAINT; stack.len()])?;
    let mut child = Command::new("qemu-system-arm")
        .args(["-M", board.name, "-display", "none", "-monitor", "stdio", "-serial", "null", "-no-reboot", "-kernel"])
        .arg(elf)
        .arg("-device")
        // The emulator's own view has secure memory at its other address.
        .arg(format!("loader,file={},addr={:#x},force-raw=on", paint.display(), stack.start & !(1 << 28)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("qemu-system-arm: cannot be started; install QEMU (`.ci/install_embedded.sh qemu`)")?;
    let mut monitor = child.stdin.take().context("QEMU's monitor is a pipe")?;
    let started = Instant::now();
    let result = loop {
        std::thread::sleep(Duration::from_millis(100));
        // The number of steps is the second word.
        writeln!(monitor, "memsave {:#x} 4 \"{}\"", answer + 4, counted.display())?;
        let done = std::fs::read(&counted).ok().and_then(|bytes| Some(u32::from_le_bytes(*bytes.first_chunk()?)));
        if done.is_some_and(|done| done >= steps) {
            break Ok(());
        }
        if started.elapsed() > Duration::from_secs(120) {
            break Err(anyhow::anyhow!("{}: {done:?} of {steps} steps in two minutes", board.name));
        }
    };
    writeln!(monitor, "stop\nmemsave {:#x} {} \"{}\"\nquit", stack.start, stack.len(), after.display())?;
    drop(monitor);
    child.wait()?;
    result?;
    let untouched = std::fs::read(&after)?.iter().take_while(|&&byte| byte == PAINT).count();
    Ok((stack.len() - untouched) as u32)
}
