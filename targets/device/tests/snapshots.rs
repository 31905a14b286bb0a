//! Snapshots survive power cuts at every word of a save and within every erase, bit rot and bad blocks.

use crate::support::{MockFlash, Moment, Random, Torn, fixture, moments};
use brooklet::{Line, State};
use brooklet_device::{Refused, Region, Restored, SnapshotStore};
use brooklet_quantize::Recipe;
use brooklet_tests::{Buffers, File};

const MOMENTS: usize = 6;

/// What a sweep over all cuts of a save has seen.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    cuts: u64,
    old: u64,
    new: u64,
    double: u64,
}

/// Cuts the power at every point of a save over `prior` earlier ones; then again at a random point of the next save.
fn sweep<const R: usize, const W: usize, const E: usize>(file: &File, slots: u32, torn: Torn, prior: usize, seed: u64) -> Seen {
    let model = file.model();
    let moments = moments(&model, MOMENTS);
    let (old, new, next) = (prior.checked_sub(1).map(|i| &moments[i]), &moments[prior], &moments[prior + 1]);
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let region = Region::new(E as u32, SnapshotStore::<MockFlash<R, W, E>>::region_bytes(model.state_bytes(), slots) as u32);
    let mut base = MockFlash::<R, W, E>::new(region.len_bytes as usize / E + 2, torn, seed);
    for moment in &moments[..prior] {
        moment.put(&mut state);
        SnapshotStore::ring(&mut base, region, slots).unwrap().save(&state).unwrap();
    }
    let save = |flash: &mut MockFlash<R, W, E>, moment: &Moment, state: &mut State<'_>| {
        moment.put(state);
        SnapshotStore::ring(flash, region, slots).unwrap().save(state).map(|_| ())
    };
    let mut whole = base.clone();
    save(&mut whole, new, &mut state).unwrap();
    let units = whole.units - base.units;
    let mut random = Random(seed | 1);
    let mut seen = Seen::default();
    // The commit record is in the last words: there, many different cuts.
    let cuts = (0..units).chain((units.saturating_sub(16)..units).cycle().take(160));
    for cut in cuts {
        let mut flash = base.clone();
        flash.cut_after(cut, random.next());
        assert!(save(&mut flash, new, &mut state).is_err(), "cut {cut} of {units}");
        flash.restart();
        seen.cuts += 1;

        state.reset();
        let restored = SnapshotStore::ring(&mut flash, region, slots).unwrap().restore(&mut state);
        let now = if new.is(&state) {
            seen.new += 1;
            Some(new)
        } else {
            seen.old += 1;
            match old {
                Some(old) => assert!(old.is(&state), "cut {cut}: {restored:?} is neither old nor new"),
                None => assert!(matches!(restored, Restored::Nothing { .. }), "cut {cut}: {restored:?} out of nothing"),
            }
            old
        };
        if let Some(now) = now {
            assert!(matches!(restored, Restored::Newest { .. } | Restored::Older { .. }), "cut {cut}: {restored:?}");
            now.goes_on(&model, &mut state, Line::bytes_mut(&mut buffers.scratch), MOMENTS);
        }

        // Another cut in the save after it, then a save that is left alone.
        let mut again = flash.clone();
        again.cut_after(random.below(units), random.next());
        let cut_short = save(&mut again, next, &mut state).is_err();
        again.restart();
        let restored = SnapshotStore::ring(&mut again, region, slots).unwrap().restore(&mut state);
        let is_now = now.map_or(matches!(restored, Restored::Nothing { .. }), |now| now.is(&state));
        assert!(next.is(&state) || (cut_short && is_now), "second cut after {cut}: {restored:?}");
        seen.double += u64::from(cut_short);
        for mut flash in [flash, again] {
            save(&mut flash, next, &mut state).unwrap();
            state.reset();
            let restored = SnapshotStore::ring(&mut flash, region, slots).unwrap().restore(&mut state);
            assert!(next.is(&state), "save after {cut}: {restored:?}");
        }
    }
    seen
}

#[test]
fn power_cut_at_any_point_leaves_the_old_state_or_the_new_one() {
    let tiny = fixture("sensor-s5-half1", &Recipe::default());
    let lstm = fixture("rnn-lstm-classes", &Recipe::default());
    let mamba = fixture("sensor-mamba1-last", &Recipe::default());
    let mut all = Seen::default();
    let mut add = |name: &str, seen: Seen| {
        println!("{name:42} {seen:?}");
        all.cuts += seen.cuts;
        all.double += seen.double;
        all.old += seen.old;
        all.new += seen.new;
    };
    for seed in 1..=3 {
        for torn in [Torn::Settled, Torn::Unreadable] {
            for prior in 0..4 {
                let name = |what: &str| format!("{what}, {torn:?}, over {prior}");
                add(&name("words 1, blocks 256, 2 slots"), sweep::<1, 1, 256>(&tiny, 2, torn, prior, seed));
                add(&name("words 4, blocks 1024, 2 slots"), sweep::<4, 4, 1024>(&lstm, 2, torn, prior, seed));
                add(&name("words 8, blocks 128, 3 slots"), sweep::<1, 8, 128>(&tiny, 3, torn, prior, seed));
                add(&name("words 32, blocks 512, 2 slots"), sweep::<1, 32, 512>(&mamba, 2, torn, prior, seed));
                add(&name("words 16 (reads 32), blocks 2048, 4 slots"), sweep::<32, 16, 2048>(&mamba, 4, torn, prior, seed));
                add(&name("words 64, blocks 4096, 2 slots"), sweep::<1, 64, 4096>(&mamba, 2, torn, prior, seed));
            }
        }
        add("words 4, blocks 4096, 2 slots", sweep::<4, 4, 4096>(&mamba, 2, Torn::Settled, 2, seed));
    }
    println!("all: {all:?}");
    assert!(all.cuts >= 10_000 && all.double >= 10_000 && all.new > 100);
}

/// A device that is switched on and off at random, for long: each restore gives the last save that came through, or the one
/// that was cut.
fn live(slots: u32, torn: Torn, boots: usize, seed: u64) -> (u64, u64) {
    let file = fixture("rnn-lstm-classes", &Recipe::default());
    let model = file.model();
    let moments = moments(&model, MOMENTS);
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let region = Region::new(0, SnapshotStore::<MockFlash<4, 8, 256>>::region_bytes(model.state_bytes(), slots) as u32);
    let mut flash = MockFlash::<4, 8, 256>::new(region.len_bytes as usize / 256, torn, seed);
    let mut random = Random(seed | 1);
    let (mut saved, mut unsure): (Option<usize>, Option<usize>) = (None, None);
    let (mut saves, mut behind) = (0, 0);
    for boot in 0..boots {
        let mut store = SnapshotStore::ring(&mut flash, region, slots).unwrap();
        let restored = store.restore(&mut state);
        if torn == Torn::Unsteady {
            // Which one may change from read to read, but there is always one once there were enough.
            let found = moments.iter().any(|m| m.is(&state));
            assert!(found || saves < 2, "boot {boot}: {restored:?}");
            behind += u64::from(saved.is_some_and(|i| !moments[i].is(&state)));
        } else {
            let is = |which: Option<usize>| which.is_some_and(|i| moments[i].is(&state));
            let nothing = saved.is_none() && matches!(restored, Restored::Nothing { .. });
            assert!(is(saved) || is(unsure) || nothing, "boot {boot}: {restored:?}, saved {saved:?}, unsure {unsure:?}");
            if is(unsure) {
                saved = unsure;
            }
        }
        flash.cut_after(random.below(600), random.next());
        loop {
            // Neither of the two that may be there now.
            let which = (0..MOMENTS).map(|_| random.below(MOMENTS as u64) as usize).find(|&w| Some(w) != saved && Some(w) != unsure);
            let which = which.unwrap_or((saved.unwrap_or(0) + 1) % MOMENTS);
            moments[which].put(&mut state);
            let mut store = SnapshotStore::ring(&mut flash, region, slots).unwrap();
            let ahead = random.below(2) == 0 && store.erase_ahead(&state).is_ok();
            let done = if ahead { store.save(&state) } else { SnapshotStore::ring(&mut flash, region, slots).unwrap().save(&state) };
            if done.is_err() {
                unsure = Some(which);
                break;
            }
            (saved, unsure) = (Some(which), None);
            saves += 1;
        }
        flash.restart();
    }
    (saves, behind)
}

#[test]
fn a_device_that_loses_power_all_the_time_keeps_its_stream() {
    for torn in [Torn::Settled, Torn::Unreadable] {
        for slots in [2, 3, 5] {
            let (saves, _) = live(slots, torn, 3000, 7 + u64::from(slots));
            assert!(saves > 3000, "{saves}");
        }
    }
}

#[test]
fn with_three_slots_a_commit_that_reads_otherwise_later_never_costs_everything() {
    let (saves, behind) = live(3, Torn::Unsteady, 3000, 3);
    println!("{saves} saves over 3000 boots; {behind} boots found another than the last that came through");
    assert!(saves > 3000);
}

/// Two snapshots in two slots, moments 0 (slot 0) and 1 (slot 1); returns the flash and where the slots are.
fn two(file: &File) -> (MockFlash<1, 4, 512>, Region, Vec<Moment>) {
    let model = file.model();
    let moments = moments(&model, MOMENTS);
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let region = Region::new(0, SnapshotStore::<MockFlash<1, 4, 512>>::region_bytes(model.state_bytes(), 2) as u32);
    let mut flash = MockFlash::new(region.len_bytes as usize / 512, Torn::Settled, 1);
    let mut store = SnapshotStore::new(&mut flash, region).unwrap();
    for (i, moment) in moments[..2].iter().enumerate() {
        moment.put(&mut state);
        let saved = store.save(&state).unwrap();
        assert_eq!((saved.slot, saved.sequence, saved.erases), (i as u32, i as u64 + 1, 1));
    }
    (flash, region, moments)
}

#[test]
fn flipped_bits_in_one_slot_leave_the_other() {
    let file = fixture("sensor-s5-half1", &Recipe::default());
    let model = file.model();
    let (flash, region, moments) = two(&file);
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let slot_bytes = region.len_bytes as usize / 2;
    let (record_bytes, body_bytes) = (48, model.state_bytes());
    let mut random = Random(9);
    for slot in 0..2 {
        for byte in 0..record_bytes + body_bytes {
            for flips in [1, 2, 9] {
                let mut rotten = flash.clone();
                for flip in 0..flips {
                    let at = if flip == 0 { byte } else { random.below((record_bytes + body_bytes) as u64) as usize };
                    rotten.bytes[slot * slot_bytes + at] ^= 1 << random.below(8);
                }
                if rotten.bytes == flash.bytes {
                    continue; // two flips of the same bit
                }
                let restored = SnapshotStore::new(&mut rotten, region).unwrap().restore(&mut state);
                assert!(moments[1 - slot].is(&state), "slot {slot}, byte {byte}: {restored:?}");
                match restored {
                    Restored::Older { refused, .. } => {
                        assert_eq!(refused.slot, slot as u32);
                        assert!(matches!(refused.reason, Refused::Unfinished | Refused::Damaged), "{refused:?}");
                    }
                    // An older body that is damaged was never looked at.
                    other => assert!(slot == 0 && byte >= record_bytes, "slot {slot}, byte {byte}: {other:?}"),
                }
                // The next save goes to the damaged slot, not onto the good one.
                let mut store = SnapshotStore::new(&mut rotten, region).unwrap();
                let saved = store.save(&state).unwrap();
                let damaged_is_next = slot == 1 || byte < record_bytes;
                assert!(!damaged_is_next || saved.slot == slot as u32, "slot {slot}, byte {byte}: {saved:?}");
            }
        }
    }
}

#[test]
fn snapshots_of_another_model_are_refused_and_both_models_keep_theirs() {
    let (first, second) = (fixture("sensor-s5-half1", &Recipe::default()), fixture("rnn-gru-unit", &Recipe::default()));
    let (model, other) = (first.model(), second.model());
    let (mut flash, region, kept) = two(&first);
    let (mut buffers, mut other_buffers) = (Buffers::new(&model, 1), Buffers::new(&other, 1));
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut other_state = State::new(&other, Line::bytes_mut(&mut other_buffers.state)).unwrap();
    let mut store = SnapshotStore::new(&mut flash, region).unwrap();

    let foreign = Refused::OtherModel { model_hash: model.artifact().hash() };
    assert!(matches!(store.restore(&mut other_state), Restored::Nothing { refused: Some(r) } if r.slot == 1 && r.reason == foreign));
    let saved = store.save(&other_state).unwrap();
    assert_eq!((saved.slot, saved.sequence), (0, 3)); // the older one goes
    assert!(store.holds(model.artifact().hash()) && store.holds(other.artifact().hash()));
    let restored = store.restore(&mut state);
    assert!(matches!(restored, Restored::Older { sequence: 2, .. }) && kept[1].is(&state), "{restored:?}");
    // Back at the first model: its only snapshot is not what a save begins with.
    assert_eq!(store.save(&state).unwrap().slot, 0);
    assert!(matches!(store.inspect(0), Ok(Some(record)) if record.sequence == 4 && record.erases == 3));
    assert!(matches!(store.restore(&mut state), Restored::Newest { sequence: 4, .. }));
}

#[test]
fn slots_wear_evenly_and_bad_blocks_are_passed_over() {
    let file = fixture("sensor-s5-half1", &Recipe::default());
    let model = file.model();
    let moments = moments(&model, MOMENTS);
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let region = Region::new(0, 4 * 512);
    let mut flash = MockFlash::<1, 4, 512>::new(4, Torn::Settled, 1);
    for save in 0..400u32 {
        let mut store = SnapshotStore::ring(&mut flash, region, 4).unwrap();
        moments[save as usize % 3].put(&mut state);
        let saved = store.save(&state).unwrap();
        assert_eq!((saved.slot, saved.sequence, saved.erases), (save % 4, u64::from(save) + 1, save / 4 + 1));
    }
    assert_eq!(flash.erases, [100; 4]);

    flash.bad_block = Some(1);
    let mut store = SnapshotStore::ring(&mut flash, region, 4).unwrap();
    let mut failed = 0;
    for save in 0..30 {
        moments[save % 3].put(&mut state);
        failed += u32::from(store.save(&state).is_err());
        let restored = store.restore(&mut state);
        assert!(matches!(restored, Restored::Newest { .. } | Restored::Older { .. }));
    }
    // The bad block is found once, and left alone until the next power-on.
    assert_eq!(failed, 1);
}

#[test]
fn regions_that_cannot_work_are_refused() {
    use brooklet_device::LayoutFault;
    let new =
        |start, len, slots| SnapshotStore::ring(MockFlash::<1, 4, 512>::new(8, Torn::Settled, 1), Region::new(start, len), slots).err();
    assert_eq!(new(0, 1024, 2), None);
    assert_eq!(new(0, 512 * 9, 3), Some(LayoutFault::OutOfBounds));
    assert_eq!(new(u32::MAX - 511, 1024, 2), Some(LayoutFault::OutOfBounds));
    assert_eq!(new(256, 1024, 2), Some(LayoutFault::NotOnEraseBlocks));
    assert_eq!(new(0, 512 * 3, 2), Some(LayoutFault::NotOnEraseBlocks));
    assert_eq!(new(0, 0, 2), Some(LayoutFault::TooSmall));
    assert_eq!(new(0, 1024, 1), Some(LayoutFault::TooFewSlots));

    let file = fixture("sensor-mamba1-last", &Recipe::default());
    let model = file.model();
    let mut buffers = Buffers::new(&model, 1);
    let state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut store = SnapshotStore::new(MockFlash::<1, 4, 512>::new(8, Torn::Settled, 1), Region::new(0, 4096)).unwrap();
    let error = store.save(&state).unwrap_err();
    assert_eq!(error.to_string(), "the snapshot takes 6912 bytes and its slot has 2000; give the region more erase blocks");
    assert_eq!(store.flash_mut().erases, [0; 8]);
}

#[test]
fn saves_that_fail_again_and_again_never_touch_the_newest_snapshot() {
    let file = fixture("sensor-s5-half1", &Recipe::default());
    let model = file.model();
    let moments = moments(&model, MOMENTS);
    let mut buffers = Buffers::new(&model, 1);
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    for slots in 2..=5 {
        let region = Region::new(0, slots * 512);
        let mut store = SnapshotStore::ring(MockFlash::<1, 4, 512>::new(slots as usize, Torn::Settled, 1), region, slots).unwrap();
        moments[0].put(&mut state);
        let (mut newest, mut failed) = (store.save(&state).unwrap().slot, 0);
        for bad in 1..slots as usize {
            store.flash_mut().bad_block = Some(bad);
            for i in 0..20 {
                moments[1 + i % 3].put(&mut state);
                match store.save(&state) {
                    Ok(saved) => {
                        assert!(saved.slot != newest && saved.slot != bad as u32, "{slots} slots, block {bad}");
                        newest = saved.slot;
                    }
                    Err(_) => failed += 1,
                }
                assert!(matches!(store.inspect(newest), Ok(Some(_))), "{slots} slots, block {bad}");
            }
        }
        assert!(failed > 0 && (slots == 2 || failed < 20 * (slots - 1) / 2 + 1), "{slots} slots: {failed}");
    }
}
