//! Models change in flash: power cuts at every point of a change boot the one model or the other, and bad ones are taken back.

use crate::support::{MockFlash, Random, Torn, fixture, watch};
use brooklet::mem::lines_from;
use brooklet::{Input, Line, Model, Session, State, kernels};
use brooklet_device::{
    Bench, Error, ModelFault, ModelLayout, ModelStore, Recent, Region, Restored, Slot, SnapshotStore, Source, Way, Woken, wake,
};
use brooklet_quantize::Recipe;
use brooklet_tests::{Buffers, File, Sequence, stream};

type Flash<const W: usize, const E: usize> = MockFlash<1, W, E>;

/// A device with two model slots, and memory for any of the models.
struct Device<const W: usize, const E: usize> {
    flash: Flash<W, E>,
    layout: ModelLayout,
    state: Vec<Line>,
    scratch: Vec<Line>,
}

/// What a boot chose.
#[derive(Debug, PartialEq)]
struct Chosen {
    source: Source,
    hash: u64,
    trial: Option<u8>,
    refused: [Option<ModelFault>; 2],
}

impl<const W: usize, const E: usize> Device<W, E> {
    fn new(files: &[&File], torn: Torn) -> Self {
        let most = |bytes: &dyn Fn(&Model<'_>) -> usize| files.iter().map(|f| bytes(&f.model())).max().unwrap();
        let slot_bytes = files.iter().map(|f| f.bytes().len()).max().unwrap().next_multiple_of(E) as u32;
        let block = E as u32;
        let layout = ModelLayout {
            status: Region::new(block, 2 * block),
            a: Region::new(4 * block, slot_bytes),
            b: Region::new(4 * block + slot_bytes, slot_bytes),
        };
        Device {
            flash: MockFlash::new((4 * E + 2 * slot_bytes as usize) / E, torn, 1),
            layout,
            state: vec![Line::ZERO; most(&|m| m.state_bytes()).div_ceil(64)],
            scratch: vec![Line::ZERO; most(&|m| m.scratch_bytes(1)).div_ceil(64)],
        }
    }

    fn store(&mut self) -> ModelStore<&mut Flash<W, E>> {
        ModelStore::new(&mut self.flash, self.layout).unwrap()
    }

    /// The flash as the processor would see it now.
    fn mapped(&self) -> Mapped {
        Mapped(lines_from(&self.flash.bytes))
    }

    fn try_boot(&mut self, built_in: Option<&File>) -> Result<Chosen, Error<impl std::fmt::Debug + PartialEq + use<W, E>>> {
        let map = self.mapped();
        let mut bench = bench(&mut self.state, &mut self.scratch);
        let mut store = ModelStore::new(&mut self.flash, self.layout).unwrap();
        let booted = store.boot(map.bytes(), built_in.map(|f| f.bytes()), &mut bench)?;
        Ok(Chosen { source: booted.source, hash: booted.model.artifact().hash(), trial: booted.trial, refused: booted.refused })
    }

    fn boot(&mut self) -> Chosen {
        self.try_boot(None).unwrap()
    }

    /// Downloads and installs `file`, in pieces of any length.
    fn update(
        &mut self,
        file: &File,
        trial_boots: u8,
        random: &mut Random,
    ) -> Result<(), Error<impl std::fmt::Debug + PartialEq + use<W, E>>> {
        let mut store = ModelStore::new(&mut self.flash, self.layout).unwrap();
        let mut download = store.download(file.bytes().len() as u32, crc32(file.bytes()))?;
        let mut rest = file.bytes();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(1 + random.below(3000) as usize));
            download.write(piece)?;
            rest = after;
        }
        let downloaded = download.finish()?;
        let map = Mapped(lines_from(&store.flash_mut().bytes));
        store.install(downloaded, map.bytes(), &mut bench(&mut self.state, &mut self.scratch), trial_boots)
    }
}

struct Mapped(Vec<Line>);

impl Mapped {
    fn bytes(&self) -> &[u8] {
        Line::bytes(&self.0)
    }
}

fn bench<'m>(state: &'m mut [Line], scratch: &'m mut [Line]) -> Bench<'m> {
    Bench { kernels: kernels::detect(), state: Line::bytes_mut(state), scratch: Line::bytes_mut(scratch) }
}

/// CRC-32 as everyone computes it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &b| (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 }))
}

fn hash(file: &File) -> u64 {
    file.model().artifact().hash()
}

/// Cuts power at every point of a change from `from` to `to` (download, install, boot on trial, confirmation) and boots.
/// Every `redo`-th time the change is then made again, cut again at random, and made a third time.
fn sweep<const W: usize, const E: usize>(from: &File, to: &File, torn: Torn, redo: u64, seed: u64) -> (u64, u64) {
    let mut random = Random(seed | 1);
    let mut device = Device::<W, E>::new(&[from, to], torn);
    device.update(from, 0, &mut random).unwrap();
    assert_eq!(device.boot(), Chosen { source: Source::Slot(Slot::A), hash: hash(from), trial: None, refused: [None; 2] });
    // An older model in the other slot, as on a device that has changed before.
    device.update(from, 2, &mut random).unwrap();
    assert_eq!(device.boot().trial, Some(1));
    device.store().confirm().unwrap();
    let base = device.flash.clone();

    fn change<const W: usize, const E: usize>(device: &mut Device<W, E>, to: &File, random: &mut Random) -> Result<(), ()> {
        device.update(to, 2, random).map_err(|_| ())?;
        device.try_boot(None).map_err(|_| ())?;
        device.store().confirm().map_err(|_| ())
    }
    change(&mut device, to, &mut random).unwrap();
    assert_eq!(device.boot(), Chosen { source: Source::Slot(Slot::A), hash: hash(to), trial: None, refused: [None; 2] });
    let units = device.flash.units - base.units;
    let (old, new) = (hash(from), hash(to));
    let (mut cuts, mut booted_new) = (0, 0);
    // The records that change something are in the last words: there, many different cuts.
    for cut in (0..units).chain((units - 90..units).cycle().take(900)) {
        device.flash = base.clone();
        device.flash.cut_after(cut, random.next());
        let _ = change(&mut device, to, &mut random);
        device.flash.restart();
        cuts += 1;
        let chosen = device.boot();
        assert!(chosen.hash == old || chosen.hash == new, "cut {cut} of {units}: {chosen:?}");
        assert_eq!(chosen.refused, [None; 2], "cut {cut}");
        booted_new += u64::from(chosen.hash == new);
        if cut % redo != 0 && cut + 90 < units {
            continue;
        }
        for again in [true, false] {
            if chosen.hash == new || device.boot().trial.is_some() {
                device.store().confirm().unwrap();
            }
            if again {
                device.flash.cut_after(random.below(units), random.next());
            }
            let done = change(&mut device, to, &mut random);
            assert!(again || done.is_ok(), "after cut {cut}: {done:?}");
            device.flash.restart();
            let chosen = device.boot();
            assert!(chosen.hash == old || chosen.hash == new, "second cut after {cut}: {chosen:?}");
            assert!(again || chosen.hash == new, "after cut {cut}: {chosen:?}");
        }
    }
    (cuts, booted_new)
}

#[test]
fn power_cut_at_any_point_of_a_change_boots_one_of_the_two_models() {
    let (small, big) = (fixture("sensor-s5-half1", &Recipe::default()), watch());
    let mut all = (0, 0);
    let mut add = |name: &str, (cuts, new): (u64, u64)| {
        println!("{name:50} {cuts} cuts, {new} booted the new model");
        all = (all.0 + cuts, all.1 + new);
    };
    add("small to watch, words 4, blocks 4096", sweep::<4, 4096>(&small, &big, Torn::Settled, 97, 1));
    add("watch to small, words 4, blocks 1024", sweep::<4, 1024>(&big, &small, Torn::Unreadable, 13, 2));
    add("small to watch, words 32, blocks 8192", sweep::<32, 8192>(&small, &big, Torn::Unreadable, 13, 3));
    add("watch to small, words 1, blocks 2048", sweep::<1, 2048>(&big, &small, Torn::Settled, 97, 4));
    add("watch to small, words 64, blocks 4096", sweep::<64, 4096>(&big, &small, Torn::Settled, 3, 5));
    println!("all: {} cuts, {} booted the new model", all.0, all.1);
    assert!(all.0 > 20_000 && all.1 > 500);
}

/// A device that runs `from`, confirmed, and has `to` on trial for two boots.
fn on_trial(from: &File, to: &File) -> Device<4, 1024> {
    let mut device = Device::new(&[from, to], Torn::Settled);
    let mut random = Random(1);
    device.update(from, 0, &mut random).unwrap();
    device.update(to, 2, &mut random).unwrap();
    device
}

#[test]
fn a_trial_that_nobody_confirms_is_taken_back() {
    let (from, to) = (watch(), fixture("rnn-gru-unit", &Recipe::default()));
    let mut device = on_trial(&from, &to);
    for left in [1, 0] {
        assert_eq!(device.boot(), Chosen { source: Source::Slot(Slot::B), hash: hash(&to), trial: Some(left), refused: [None; 2] });
    }
    let refused = [None, Some(ModelFault::NotConfirmed)];
    assert_eq!(device.boot(), Chosen { source: Source::Slot(Slot::A), hash: hash(&from), trial: None, refused });
    assert_eq!(device.boot(), Chosen { source: Source::Slot(Slot::A), hash: hash(&from), trial: None, refused: [None; 2] });

    // The next change works, and a confirmed one stays.
    device.update(&to, 1, &mut Random(2)).unwrap();
    assert_eq!(device.boot().trial, Some(0));
    device.store().confirm().unwrap();
    for _ in 0..5 {
        assert_eq!(device.boot(), Chosen { source: Source::Slot(Slot::B), hash: hash(&to), trial: None, refused: [None; 2] });
    }
    // A rejected one does not.
    device.update(&from, 9, &mut Random(3)).unwrap();
    assert_eq!(device.boot().hash, hash(&from));
    device.store().reject().unwrap();
    assert_eq!(device.boot(), Chosen { source: Source::Slot(Slot::B), hash: hash(&to), trial: None, refused: [None; 2] });
}

#[test]
fn a_model_that_fails_its_self_test_is_taken_back() {
    let (from, to) = (watch(), fixture("rnn-gru-unit", &Recipe::default()));
    let mut device = on_trial(&from, &to);
    let at = device.layout.b.start as usize;
    device.flash.bytes[at + to.bytes().len() / 2] ^= 4;
    let chosen = device.boot();
    assert_eq!((chosen.source, chosen.hash), (Source::Slot(Slot::A), hash(&from)));
    assert!(matches!(chosen.refused, [None, Some(ModelFault::Runtime(brooklet::Error::Section { .. }))]), "{chosen:?}");

    // A device that computes something else: the file is whole, its fingerprint is not this device's.
    let mut wrong = File::new(to.bytes());
    let golden = to.model().header().golden.fingerprint.to_le_bytes();
    let place = wrong.bytes().windows(8).position(|w| w == golden).unwrap();
    wrong.bytes_mut()[place] ^= 1;
    let header_bytes = u32::from_le_bytes(*wrong.bytes()[8..].first_chunk().unwrap()) as usize;
    let crc = crc32(&wrong.bytes()[16..16 + header_bytes]);
    wrong.bytes_mut()[12..16].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(device.update(&wrong, 2, &mut Random(1)), Err(Error::Refused(ModelFault::Runtime(brooklet::Error::SelfTest { .. })))));
    assert_eq!(device.boot(), Chosen { source: Source::Slot(Slot::A), hash: hash(&from), trial: None, refused: [None; 2] });
}

#[test]
fn a_confirmed_model_that_rots_gives_way_and_the_built_in_one_is_the_last_resort() {
    let (from, to) = (watch(), fixture("rnn-gru-unit", &Recipe::default()));
    let mut device = on_trial(&from, &to);
    device.boot();
    device.store().confirm().unwrap();
    let (a, b) = (device.layout.a.start as usize, device.layout.b.start as usize);
    device.flash.bytes[b + 5000] ^= 1;
    assert_eq!(device.boot().source, Source::Slot(Slot::A));
    let built_in = fixture("sensor-s5-half1", &Recipe::default());
    device.flash.bytes[a + 5000] ^= 1;
    let chosen = device.try_boot(Some(&built_in)).unwrap();
    assert_eq!((chosen.source, chosen.hash), (Source::BuiltIn, hash(&built_in)));
    assert!(chosen.refused.iter().all(|r| r.is_some()), "{chosen:?}");
    let error = device.try_boot(None).unwrap_err();
    assert!(matches!(error, Error::NoModel { slots: [Some(_), Some(_)], built_in: None }), "{error:?}");
    // Both files could be healed: nothing was forgotten.
    device.flash.bytes[a + 5000] ^= 1;
    assert_eq!(device.boot().hash, hash(&from));

    let mut blank = Device::<4, 1024>::new(&[&from], Torn::Settled);
    assert_eq!(blank.try_boot(Some(&from)).unwrap().source, Source::BuiltIn);
    let error = blank.try_boot(None).unwrap_err();
    assert_eq!(error.to_string(), "no model to run; slot 0 is empty; slot 1 is empty; none is built in");
}

#[test]
fn a_status_that_rots_boots_one_of_the_two_models() {
    let (from, to) = (fixture("sensor-s5-half1", &Recipe::default()), fixture("rnn-gru-unit", &Recipe::default()));
    let mut device = on_trial(&from, &to);
    let mut random = Random(5);
    let status = device.layout.status.start as usize..(device.layout.status.start + device.layout.status.len_bytes) as usize;
    // Installed; booted once; confirmed; another download begun; a third model installed.
    for stage in 0..5 {
        match stage {
            1 => assert_eq!(device.boot().trial, Some(1)),
            2 => device.store().confirm().unwrap(),
            3 => device.store().download(100, 0).unwrap().write(&[1; 90]).unwrap(),
            4 => device.update(&from, 3, &mut random).unwrap(),
            _ => {}
        }
        let whole = device.flash.clone();
        for block in status.clone().step_by(1024) {
            for at in block..block + 48 + 40 {
                device.flash.bytes[at] ^= 1 << random.below(8);
                let chosen = device.boot();
                assert!(chosen.hash == hash(&from) || chosen.hash == hash(&to), "stage {stage}, byte {at}: {chosen:?}");
                device.flash = whole.clone();
            }
        }
    }
}

#[test]
fn a_first_model_whose_trial_fails_makes_room_for_the_next() {
    let file = fixture("rnn-gru-unit", &Recipe::default());
    let mut device = Device::<4, 1024>::new(&[&file], Torn::Settled);
    device.update(&file, 1, &mut Random(1)).unwrap();
    assert_eq!(device.boot().trial, Some(0));
    let error = device.try_boot(None).unwrap_err();
    assert!(matches!(error, Error::NoModel { slots: [Some(ModelFault::NotConfirmed), None], built_in: None }), "{error:?}");
    device.update(&file, 0, &mut Random(1)).unwrap();
    assert_eq!(device.boot().hash, hash(&file));
}

#[test]
fn bad_downloads_are_refused_and_the_running_model_stays() {
    let (from, to) = (watch(), fixture("rnn-gru-unit", &Recipe::default()));
    let mut device = Device::<4, 1024>::new(&[&from, &to], Torn::Settled);
    device.update(&from, 0, &mut Random(1)).unwrap();
    let before = device.boot();
    let (bytes, crc) = (to.bytes(), crc32(to.bytes()));
    let len = bytes.len() as u32;

    let mut store = device.store();
    let too_large = store.download(1 << 20, 0).err();
    assert!(matches!(too_large, Some(Error::TooLarge { what: "model", .. })), "{too_large:?}");
    let mut short = store.download(len, crc).unwrap();
    short.write(&bytes[..100]).unwrap();
    assert_eq!(short.finish(), Err(Error::DownloadLength { announced_bytes: len, got_bytes: 100 }));
    let mut long = store.download(100, crc).unwrap();
    assert_eq!(long.write(bytes), Err(Error::DownloadLength { announced_bytes: 100, got_bytes: len }));
    assert_eq!(long.write(&bytes[..1]), Err(Error::DownloadFailed));
    assert_eq!(long.finish(), Err(Error::DownloadFailed));
    let mut wrong = store.download(len, crc ^ 1).unwrap();
    wrong.write(bytes).unwrap();
    assert_eq!(wrong.finish(), Err(Error::DownloadChecksum { want: crc ^ 1, got: crc }));
    assert_eq!(device.boot(), before);

    let rubbish = File::new(&[7; 3000]);
    let error = device.update(&rubbish, 2, &mut Random(1)).unwrap_err();
    assert!(matches!(error, Error::Refused(ModelFault::Runtime(brooklet::Error::NotBrook))), "{error:?}");
    assert_eq!(device.boot(), before);

    // While one is on trial, the other is what to go back to.
    device.update(&to, 2, &mut Random(1)).unwrap();
    assert_eq!(device.store().download(len, crc).err(), Some(Error::OnTrial));
    device.boot();
    assert_eq!(device.update(&to, 2, &mut Random(1)).err().map(|e| format!("{e:?}")).as_deref(), Some("OnTrial"));
}

#[test]
fn a_stream_goes_on_across_a_change_of_model() {
    let name = "sensor-mamba2-ema";
    let (q8, float) = (fixture(name, &Recipe::default()), {
        let format = brooklet::kernels::quant::Format::F32;
        fixture(name, &Recipe { format, ..Recipe::default() })
    });
    let other = fixture("sensor-s5-half1", &Recipe::default());
    let (old, new, other) = (q8.model(), float.model(), other.model());
    let mut snapshots = SnapshotStore::new(MockFlash::<1, 4, 4096>::new(16, Torn::Settled, 1), Region::new(0, 65536)).unwrap();
    let mut buffers = Buffers::new(&old, 1);
    let mut scratch = Buffers::new(&new, 1).scratch;
    let input = Sequence::noise(&old, 20, 3);
    let mut state = State::new(&old, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut session = Session::new(&old, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
    let mut out = Vec::new();
    input.feed(&mut session, 0..10, &mut out);
    snapshots.save(&state).unwrap();
    let bytes = state.bytes().to_vec();

    let mut memory = Buffers::new(&new, 1).state;
    let mut go = |model: &Model<'_>, snapshots: &mut SnapshotStore<_>, ways: &[Way<'_>]| {
        memory.resize(model.state_bytes().div_ceil(64).max(memory.len()), Line::ZERO);
        let kernels = kernels::detect();
        let (scratch, memory) = (Line::bytes_mut(&mut scratch), Line::bytes_mut(&mut memory));
        let (state, woken) = wake(model, kernels, memory, scratch, snapshots, ways).unwrap();
        (state.position(), state.bytes().to_vec(), state.model_hash(), woken)
    };
    // The same model: its own snapshot, whatever else there is.
    let channels = old.channels().unwrap();
    let mut frames = vec![0.0; channels * 4];
    let mut recent = Recent::new(&mut frames, channels);
    for step in 0..9 {
        recent.push(&vec![step as f32 / 8.0; channels]);
    }
    let ways = [Way::Predecessor(&old), Way::Recent(&recent)];
    let restored = Restored::Newest { sequence: 1, position: 10 };
    assert_eq!(go(&old, &mut snapshots, &ways), (10, bytes.clone(), old.artifact().hash(), Woken::Restored(restored)));
    // The next one: handed on if the caller vouches for it.
    assert_eq!(go(&new, &mut snapshots, &ways), (10, bytes, new.artifact().hash(), Woken::Adopted(restored)));
    // Else warmed up: as a stream of those frames alone.
    let (position, warm, _, woken) = go(&new, &mut snapshots, &ways[1..]);
    assert_eq!((position, woken), (4, Woken::Rewarmed { frames: 4 }));
    let mut fresh = Buffers::new(&new, 1);
    let mut want = State::new(&new, Line::bytes_mut(&mut fresh.state)).unwrap();
    let mut session = Session::new(&new, kernels::detect(), &mut want, Line::bytes_mut(&mut fresh.scratch)).unwrap();
    for step in 5..9 {
        session.step(Input::Frame(&vec![step as f32 / 8.0; channels])).unwrap();
    }
    assert_eq!(warm, want.bytes());
    // A model with other slots cannot take the state over, nor frames of another width.
    let narrow = Recent::new(&mut [], other.channels().unwrap() + 1);
    let (position, _, _, woken) = go(&other, &mut snapshots, &[Way::Predecessor(&old), Way::Recent(&narrow)]);
    assert!(position == 0 && matches!(woken, Woken::Anew { refused: Some(_) }), "{woken:?}");
}

#[test]
fn a_change_without_a_reset_keeps_the_stream() {
    let name = "sensor-mamba2-ema";
    let float = brooklet::kernels::quant::Format::F32;
    let (from, to) = (fixture(name, &Recipe::default()), fixture(name, &Recipe { format: float, ..Recipe::default() }));
    let mut device = on_trial(&from, &to);
    let map = device.mapped();
    let mut bench = bench(&mut device.state, &mut device.scratch);
    let mut models = ModelStore::new(&mut device.flash, device.layout).unwrap();
    let booted = models.boot(map.bytes(), None, &mut bench).unwrap();
    assert_eq!((booted.source, booted.other), (Source::Slot(Slot::B), Some(Slot::A)));
    let previous = models.model(map.bytes(), Slot::A).unwrap();
    assert_eq!(previous.artifact().hash(), hash(&from));
    assert!(previous.same_slots(&booted.model));
    models.confirm().unwrap();
    // What runs from the slot is the file that was sent.
    let input = Sequence::noise(&booted.model, 12, 1);
    let (got, want) = (stream(&booted.model, bench.kernels, &input, 1), stream(&to.model(), bench.kernels, &input, 1));
    assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()));
}
