//! A device with both stores in one flash, switched off at random for thousands of times: it always boots, and its stream goes on
//! from a state that was saved.

use crate::support::{MockFlash, Random, Torn, fixture};
use brooklet::kernels::quant::Format;
use brooklet::mem::lines_from;
use brooklet::{Line, Session, kernels};
use brooklet_device::{Bench, ModelLayout, ModelStore, Region, SnapshotStore, Way, Woken, wake};
use brooklet_quantize::Recipe;
use brooklet_tests::{File, Sequence};
use std::collections::HashMap;

type Flash = MockFlash<1, 8, 1024>;

const SNAPSHOTS: Region = Region::new(0, SLOTS * 8 * 1024);
const SLOTS: u32 = 3;
const STATUS: u32 = SLOTS * 8 * 1024;
const LAYOUT: ModelLayout = ModelLayout {
    status: Region::new(STATUS, 2048),
    a: Region::new(STATUS + 2048, 64 * 1024),
    b: Region::new(STATUS + 2048 + 64 * 1024, 64 * 1024),
};

/// What of one model's streams may be in flash.
#[derive(Default)]
struct Kept {
    /// The last save that came through.
    saved: Option<(u64, Vec<u8>)>,
    /// The one after it that was cut.
    unsure: Option<(u64, Vec<u8>)>,
    /// Saves of the other model begun since.
    others: u32,
}

/// What a life has seen.
#[derive(Debug, Default)]
struct Seen {
    restored: u32,
    adopted: u32,
    anew: u32,
    installs: u32,
    cuts: [u32; 4],
    saves: u32,
    boots_on_trial: u32,
    taken_back: u32,
}

struct Life<'f> {
    flash: Flash,
    files: [&'f File; 2],
    kept: HashMap<u64, Kept>,
    random: Random,
    seen: Seen,
}

impl Life<'_> {
    /// From power-on to power-off; an error is a power cut, with where it came.
    fn live(&mut self) -> Result<(), usize> {
        let (mut state_memory, mut scratch_memory) = (vec![Line::ZERO; 256], vec![Line::ZERO; 256]);
        let map = lines_from(&self.flash.bytes);
        let mut bench =
            Bench { kernels: kernels::detect(), state: Line::bytes_mut(&mut state_memory), scratch: Line::bytes_mut(&mut scratch_memory) };
        let mut models = ModelStore::new(&mut self.flash, LAYOUT).unwrap();
        let booted = models.boot(Line::bytes(&map), None, &mut bench).unwrap();
        let model = booted.model;
        let hash = model.artifact().hash();
        let is = |file: &&File| file.model().artifact().hash() == hash;
        assert!(self.files.iter().any(is));
        self.seen.boots_on_trial += u32::from(booted.trial.is_some());
        self.seen.taken_back += u32::from(booted.refused.iter().any(|r| r.is_some()));
        let previous = booted.other.map(|slot| models.model(Line::bytes(&map), slot));
        let previous = previous.flatten().filter(|p| p.artifact().hash() != hash);
        let ways: Vec<Way<'_>> = previous.iter().map(Way::Predecessor).collect();
        // The power may be gone by now: then nothing that follows counts.
        let mut snapshots = SnapshotStore::ring(models.flash_mut(), SNAPSHOTS, SLOTS).unwrap();
        let (mut stream, woken) = wake(&model, bench.kernels, bench.state, bench.scratch, &mut snapshots, &ways).unwrap();
        if snapshots.flash_mut().is_off() {
            return Err(0);
        }

        let now = (stream.position(), stream.bytes().to_vec());
        let settle = |kept: &mut Kept| {
            assert!([&kept.saved, &kept.unsure].into_iter().flatten().any(|k| *k == now), "{woken:?}");
            kept.saved = Some(now.clone());
            kept.unsure = None;
        };
        match woken {
            Woken::Restored(_) => {
                self.seen.restored += 1;
                settle(self.kept.get_mut(&hash).unwrap());
            }
            Woken::Adopted(_) => {
                self.seen.adopted += 1;
                settle(self.kept.get_mut(&previous.unwrap().artifact().hash()).unwrap());
                assert!(self.kept.get(&hash).is_none_or(|kept| kept.saved.is_none() || kept.others >= SLOTS));
            }
            Woken::Anew { .. } => {
                self.seen.anew += 1;
                assert!(self.kept.get(&hash).is_none_or(|kept| kept.saved.is_none() || kept.others >= SLOTS), "{woken:?}");
            }
            Woken::Rewarmed { .. } => unreachable!(),
        }

        for _ in 0..1 + self.random.below(4) {
            let input = Sequence::noise(&model, 4, self.random.next());
            let mut session = Session::new(&model, bench.kernels, &mut stream, bench.scratch).unwrap();
            input.feed(&mut session, 0..4, &mut Vec::new());
            let saved = snapshots.save(&stream);
            for (&model, kept) in &mut self.kept {
                kept.others += u32::from(model != hash);
            }
            let kept = self.kept.entry(hash).or_default();
            let now = (stream.position(), stream.bytes().to_vec());
            if saved.is_err() {
                kept.unsure = Some(now);
                return Err(1);
            }
            *kept = Kept { saved: Some(now), unsure: None, others: 0 };
            self.seen.saves += 1;
        }
        if self.random.below(3) > 0 {
            models.confirm().map_err(|_| 2usize)?;
        }
        if booted.trial.is_none() && self.random.below(2) == 0 {
            let file = *self.files.iter().find(|file| !is(file)).unwrap();
            let crc32 = crc32(file.bytes());
            let mut download = models.download(file.bytes().len() as u32, crc32).map_err(|_| 3usize)?;
            for piece in file.bytes().chunks(1000) {
                download.write(piece).map_err(|_| 3usize)?;
            }
            let downloaded = download.finish().map_err(|_| 3usize)?;
            let map = lines_from(&models.flash_mut().bytes);
            let mut memory = (vec![Line::ZERO; 256], vec![Line::ZERO; 256]);
            let mut bench =
                Bench { kernels: kernels::detect(), state: Line::bytes_mut(&mut memory.0), scratch: Line::bytes_mut(&mut memory.1) };
            models.install(downloaded, Line::bytes(&map), &mut bench, 2).map_err(|_| 3usize)?;
            self.seen.installs += 1;
        }
        Ok(())
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &b| (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 }))
}

#[test]
fn a_device_switched_off_at_random_always_boots_and_goes_on() {
    let q8 = fixture("sensor-mamba2-ema", &Recipe::default());
    let float = fixture("sensor-mamba2-ema", &Recipe { format: Format::F32, ..Recipe::default() });
    assert!(q8.model().same_slots(&float.model()));
    for (torn, seed) in [(Torn::Settled, 1), (Torn::Unreadable, 2)] {
        let mut flash = Flash::new((LAYOUT.b.start + LAYOUT.b.len_bytes) as usize / 1024, torn, seed);
        // The factory's model.
        let mut models = ModelStore::new(&mut flash, LAYOUT).unwrap();
        let mut download = models.download(q8.bytes().len() as u32, crc32(q8.bytes())).unwrap();
        download.write(q8.bytes()).unwrap();
        let downloaded = download.finish().unwrap();
        let map = lines_from(&models.flash_mut().bytes);
        let mut memory = (vec![Line::ZERO; 256], vec![Line::ZERO; 256]);
        let mut bench =
            Bench { kernels: kernels::detect(), state: Line::bytes_mut(&mut memory.0), scratch: Line::bytes_mut(&mut memory.1) };
        models.install(downloaded, Line::bytes(&map), &mut bench, 0).unwrap();

        let mut life = Life { flash, files: [&q8, &float], kept: HashMap::new(), random: Random(seed), seen: Seen::default() };
        for _ in 0..4000 {
            let cut = [300, 3000, 30_000][life.random.below(3) as usize];
            let (after, seed) = (life.random.below(cut), life.random.next());
            life.flash.cut_after(after, seed);
            if let Err(place) = life.live() {
                life.seen.cuts[place] += 1;
            }
            life.flash.restart();
        }
        println!("{torn:?}: {:?}", life.seen);
        let seen = life.seen;
        assert!(seen.restored > 500 && seen.adopted > 50 && seen.installs > 100 && seen.taken_back > 10);
        let [boot, save, _confirm, change] = seen.cuts;
        assert!(boot > 10 && save > 10 && change > 10);
    }
}
