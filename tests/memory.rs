//! I4 and I5: a step takes nothing from the heap, and a long stream takes no more memory than a short one.

use brooklet::{Line, Model, Session, State, kernels};
use brooklet_quantize::{Cache, CacheFormat, Recipe};
use brooklet_tests::{Buffers, File, Sequence, family_fixtures};
use std::sync::Mutex;

/// Resident memory is the whole process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn loading_and_stepping_allocate_nothing_and_a_session_its_program_once() {
    let _alone = ALONE.lock();
    for dir in family_fixtures() {
        let file = File::quantized(&dir, &Recipe::default());
        let input = Sequence::noise(&file.model(), 40, 5);
        let mut buffers = Buffers::new(&file.model(), 8);
        let mut out = Vec::with_capacity(input.steps() * file.model().outputs());
        let loading = allocation_counter::measure(|| {
            let model = Model::from_bytes(file.bytes()).unwrap();
            State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        });
        assert_eq!(loading.count_total, 0, "{}", dir.display());
        let model = file.model();
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        // With a heap, a session decodes operations, tensors and slots once; without one it decodes them as it goes.
        let mut session = None;
        let beginning = allocation_counter::measure(|| {
            let scratch = Line::bytes_mut(&mut buffers.scratch);
            session = Some(Session::new(&model, kernels::detect(), &mut state, scratch).unwrap());
        });
        let session = session.as_mut().unwrap();
        assert!(beginning.count_max <= 3, "{}: {beginning:?}", dir.display());
        let stepping = allocation_counter::measure(|| {
            for step in 0..20 {
                input.feed(session, step..step + 1, &mut out);
            }
            input.feed(session, 20..40, &mut out);
        });
        assert_eq!(stepping.count_total, 0, "{}", dir.display());
    }
}

/// Resident pages of this process.
#[cfg(target_os = "linux")]
fn resident_pages() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Every model of the folder steps this many times; `BROOKLET_LONG` asks for the long version.
#[cfg(target_os = "linux")]
fn steps() -> usize {
    if std::env::var_os("BROOKLET_LONG").is_some() { 100_000 } else { 5_000 }
}

#[test]
#[cfg(target_os = "linux")]
fn long_streams_of_every_family_leave_memory_flat() {
    let _alone = ALONE.lock();
    let recipe = Recipe { cache: Cache { context: 256, sink: Some(4), format: CacheFormat::Int8 }, ..Recipe::default() };
    let mut families = std::collections::BTreeSet::new();
    for dir in family_fixtures() {
        let file = File::quantized(&dir, &recipe);
        let model = file.model();
        // One model of each family, as its own file names it.
        if !families.insert(model.header().card.family.to_owned()) {
            continue;
        }
        let input = Sequence::noise(&model, 1000, 7);
        let mut buffers = Buffers::new(&model, 1);
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
        let mut out = Vec::with_capacity(model.outputs());
        let mut thousand = || {
            for step in 0..1000 {
                out.clear();
                input.feed(&mut session, step..step + 1, &mut out);
            }
        };
        thousand();
        let before = resident_pages();
        for _ in 0..steps() / 1000 {
            thousand();
        }
        let grown = resident_pages().saturating_sub(before);
        println!("{:20} {grown} pages more after {} steps", model.header().card.family, steps());
        // A leak of one float per step would show as 97 pages in the long version.
        assert!(grown < 50, "{}: {grown} pages more after {} steps", dir.display(), steps());
    }
}
