//! A device's whole life in a file that stands for its flash: boot, stream, save, change the model, go on.
//!
//!     cargo run --release -p brooklet-examples --example 06_flash
//!
//! On a microcontroller `FileFlash` is the driver of its hardware crate, and `Mapped` a type around the address of its flash.

use brooklet::mem::lines_from;
use brooklet::{Input, Line, Model, Session, kernels};
use brooklet_device::embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash};
use brooklet_device::{Bench, Health, Limits, MappedFlash, ModelLayout, ModelStore, Region, SnapshotStore, Verdict, Way, wake};
use brooklet_examples::{asset, recording};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};

/// 512 KiB in blocks of 4 KiB: snapshots, the models' status, two models of up to 128 KiB.
const FLASH_BYTES: usize = 512 * 1024;
const SNAPSHOTS: Region = Region::new(0, 64 * 1024);
const MODELS: ModelLayout = ModelLayout {
    status: Region::new(64 * 1024, 8 * 1024),
    a: Region::new(128 * 1024, 128 * 1024),
    b: Region::new(256 * 1024, 128 * 1024),
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let mut flash = FileFlash::create(&folder.path().join("flash.bin"))?;
    let samples = recording("subject08_IR_right_01.csv")?;
    let first = std::fs::read(asset("models/watch.brook"))?;
    // The same weights in 4 bits: other numbers, the same slots in the state.
    let second_path = folder.path().join("watch-q4.brook");
    let checkpoint = brooklet_quantize::Checkpoint::open(asset("models/watch"))?;
    let recipe = brooklet_quantize::Recipe { format: kernels::quant::Format::Q4, ..Default::default() };
    brooklet_quantize::quantize(&checkpoint, &recipe, &second_path, &mut |_| {})?;
    let second = std::fs::read(second_path)?;

    // The caller brings the memory: room for the larger of the two models.
    let mut state_memory = vec![Line::ZERO; 16 * 1024 / 64];
    let mut scratch_memory = vec![Line::ZERO; 4 * 1024 / 64];

    update(&mut flash, &first, 0, &mut state_memory, &mut scratch_memory)?;
    for (power_on, frames) in samples.chunks(120).take(4).enumerate() {
        if power_on == 2 {
            update(&mut flash, &second, 3, &mut state_memory, &mut scratch_memory)?;
        }
        run(&mut flash, frames, &mut state_memory, &mut scratch_memory)?;
    }
    Ok(())
}

/// From power-on to power-off.
fn run(flash: &mut FileFlash, frames: &[Vec<f32>], state: &mut [Line], scratch: &mut [Line]) -> Result<(), Box<dyn std::error::Error>> {
    let map = Mapped::of(flash)?;
    let mut models = ModelStore::new(&mut *flash, MODELS)?;
    let mut bench = Bench { kernels: kernels::detect(), state: Line::bytes_mut(state), scratch: Line::bytes_mut(scratch) };
    let booted = models.boot(&map, None, &mut bench)?;
    let model = booted.model;
    println!(
        "boot: {} ({} bytes) from {:?}, trial {:?}",
        model.header().card.name,
        model.artifact().file_bytes(),
        booted.source,
        booted.trial
    );

    // The stream goes on from its snapshot, or from that of the model before: these two share their slots and their training.
    let previous: Option<Model<'_>> = booted.other.and_then(|slot| models.model(&map, slot));
    let ways: Vec<Way<'_>> = previous.iter().map(Way::Predecessor).collect();
    let mut snapshots = SnapshotStore::ring(models.flash_mut(), SNAPSHOTS, 4)?;
    let (mut stream, woken) = wake(&model, bench.kernels, bench.state, bench.scratch, &mut snapshots, &ways)?;
    println!("      step {}: {woken:?}", stream.position());

    let mut health = Health::new(Limits::default());
    for frame in frames {
        let mut session = Session::new(&model, bench.kernels, &mut stream, bench.scratch)?;
        session.step(Input::Frame(frame))?;
        if let Verdict::Ill { fault, remedy } = health.after_step(&session) {
            println!("      {fault:?}");
            let _ = health.heal(remedy, &model, &mut stream, &mut snapshots);
        }
    }
    if health.check_state(&model, &stream).is_none() {
        let saved = snapshots.save(&stream)?;
        println!("      step {}: saved as number {} in slot {}", stream.position(), saved.sequence, saved.slot);
    }
    // All went well: the model stays.
    models.confirm()?;
    Ok(())
}

/// A model arrives, in pieces as a radio would bring them, and is on trial for `trial_boots` boots.
fn update(
    flash: &mut FileFlash,
    file: &[u8],
    trial_boots: u8,
    state: &mut [Line],
    scratch: &mut [Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let mut models = ModelStore::new(&mut *flash, MODELS)?;
    let mut download = models.download(file.len() as u32, crc32(file))?;
    for piece in file.chunks(240) {
        download.write(piece)?;
    }
    let downloaded = download.finish()?;
    let map = Mapped::of(models.flash_mut())?;
    let mut bench = Bench { kernels: kernels::detect(), state: Line::bytes_mut(state), scratch: Line::bytes_mut(scratch) };
    models.install(downloaded, &map, &mut bench, trial_boots)?;
    println!("update: {} bytes", file.len());
    Ok(())
}

/// CRC-32 as zip and Ethernet have it; the sender of a model says what it should be.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc: u32, &b| (0..8).fold(crc ^ u32::from(b), bit))
}

/// A file that behaves as flash does: bits fall when they are written, and rise only in whole blocks.
struct FileFlash(File);

impl FileFlash {
    fn create(path: &std::path::Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.write_all(&vec![0xff; FLASH_BYTES])?;
        Ok(FileFlash(file))
    }

    fn at(&mut self, at: u32) -> io::Result<&mut File> {
        self.0.seek(SeekFrom::Start(at.into()))?;
        Ok(&mut self.0)
    }
}

impl ErrorType for FileFlash {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for FileFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, at: u32, out: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        self.at(at).and_then(|file| file.read_exact(out)).map_err(|_| NorFlashErrorKind::Other)
    }

    fn capacity(&self) -> usize {
        FLASH_BYTES
    }
}

impl NorFlash for FileFlash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        let erased = vec![0xff; (to - from) as usize];
        self.at(from).and_then(|file| file.write_all(&erased)).map_err(|_| NorFlashErrorKind::Other)
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        let mut fallen = vec![0; bytes.len()];
        self.read(at, &mut fallen)?;
        fallen.iter_mut().zip(bytes).for_each(|(now, new)| *now &= new);
        self.at(at).and_then(|file| file.write_all(&fallen)).map_err(|_| NorFlashErrorKind::Other)
    }
}

/// The flash as the processor sees it: here, a copy from power-on.
struct Mapped(Vec<Line>);

impl Mapped {
    fn of(flash: &mut FileFlash) -> io::Result<Self> {
        let mut bytes = vec![0; FLASH_BYTES];
        flash.at(0)?.read_exact(&mut bytes)?;
        Ok(Mapped(lines_from(&bytes)))
    }
}

impl MappedFlash for Mapped {
    fn bytes_of(&self, region: Region) -> Option<&[u8]> {
        Line::bytes(&self.0).bytes_of(region)
    }
}
