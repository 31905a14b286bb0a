//! I3: a damaged file is an error when it is loaded, or behaves exactly as the whole one; never a panic, never memory.

use brooklet::kernels::quant::Format;
use brooklet::{Line, Model, Session, State, kernels};
use brooklet_quantize::{Cache, CacheFormat, Recipe};
use brooklet_tests::{Buffers, File, Sequence, family_fixtures, stream};

fn small_files() -> Vec<(String, File)> {
    let recipe = Recipe { cache: Cache { context: 16, sink: Some(1), format: CacheFormat::Int8 }, ..Recipe::default() };
    let names = ["granite-rope", "mamba-a", "sensor-mamba2-ema", "attenuate-no-conv"];
    let dirs = family_fixtures().into_iter().filter(|d| names.iter().any(|n| d.ends_with(n)));
    let formats = [Format::Q8, Format::Q5, Format::Q3, Format::Q6].into_iter().cycle();
    let files: Vec<_> =
        dirs.zip(formats).map(|(d, format)| (d.display().to_string(), File::quantized(&d, &Recipe { format, ..recipe }))).collect();
    if !files.is_empty() {
        return files;
    }
    family_fixtures().into_iter().take(2).map(|d| (d.display().to_string(), File::quantized(&d, &recipe))).collect()
}

/// Loads `bytes` (aligned); if that works, runs a few steps. Returns the outputs.
fn load_and_run(bytes: &[u8], steps: usize) -> Option<Vec<f32>> {
    let mut loaded = None;
    let counted = allocation_counter::measure(|| loaded = Model::from_bytes(bytes).ok());
    assert_eq!(counted.count_total, 0, "loading took memory");
    let model = loaded?;
    // A file may ask for a large state; it is the caller who would have to bring it.
    if model.state_bytes() + model.scratch_bytes(1) > 1 << 24 {
        return None;
    }
    Some(stream(&model, kernels::detect(), &Sequence::noise(&model, steps, 1), 1))
}

/// The bits of the first step's outputs; `None` if it fails.
fn first_outputs(model: &Model<'_>) -> Option<Vec<u32>> {
    let mut buffers = Buffers::new(model, 1);
    let mut state = State::new(model, Line::bytes_mut(&mut buffers.state)).ok()?;
    let mut session = Session::new(model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).ok()?;
    let outputs = match Sequence::noise(model, 1, 1) {
        Sequence::Tokens(tokens) => session.prefill_tokens(&tokens),
        Sequence::Frames(frames, _) | Sequence::FramesAfter(frames, ..) => session.prefill_frames(&frames),
    };
    Some(outputs.ok()?.iter().map(|y| y.to_bits()).collect())
}

/// A model whose contents are checked part by part, before or after it steps, must be refused for what [`Model::from_bytes`] refuses.
#[test]
fn what_is_checked_later_is_checked_alike() {
    let mut random = Random(0x0bad_cafe_0bad_cafe);
    for (name, file) in small_files() {
        for damaged in 0..200 {
            let mut bytes = file.bytes().to_vec();
            // The last time nothing is damaged.
            if damaged < 199 {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            let bytes = File::new(&bytes);
            let whole = Model::from_bytes(bytes.bytes()).map(drop);
            let mut outputs = None;
            let later = Model::from_header(bytes.bytes()).and_then(|mut model| {
                let sections = model.header().sections.count;
                model.check_until(sections / 3)?;
                // Whatever it answers meanwhile, it does not panic.
                outputs = first_outputs(&model);
                model.check_until(sections / 2)?;
                model.check_until(u32::MAX)
            });
            assert_eq!(format!("{later:?}"), format!("{whole:?}"), "{name}");
            if later.is_ok() {
                let model = Model::from_bytes(bytes.bytes()).unwrap();
                assert_eq!(outputs, first_outputs(&model), "{name}");
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

#[test]
fn every_prefix_is_refused() {
    for (name, file) in small_files() {
        for len in 0..file.bytes().len() {
            assert!(Model::from_bytes(&file.bytes()[..len]).is_err(), "{name} cut to {len} bytes");
        }
        let mut longer = file.bytes().to_vec();
        longer.push(0);
        assert!(Model::from_bytes(File::new(&longer).bytes()).is_err(), "{name} with a byte more");
    }
}

#[test]
fn ten_thousand_damaged_bytes_are_errors_or_change_nothing() {
    let files = small_files();
    let mut random = Random(0x1234_5678_9abc_def1);
    for (name, mut file) in files {
        let want = load_and_run(file.bytes(), 4).unwrap();
        for _ in 0..10_000 {
            let at = random.below(file.bytes().len());
            let flip = 1 + random.below(255) as u8;
            file.bytes_mut()[at] ^= flip;
            if let Some(got) = load_and_run(file.bytes(), 4) {
                assert!(
                    got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{name}: byte {at} ^ {flip:#x} changed the outputs"
                );
            }
            file.bytes_mut()[at] ^= flip;
        }
    }
}

/// Beyond chance: damage whose checksum was made good again, as a hostile file would.
#[test]
fn headers_with_forged_checksums_never_panic() {
    let mut random = Random(0xfeed_beef_cafe_0001);
    let rounds = if std::env::var_os("BROOKLET_LONG").is_some() { 200_000 } else { 20_000 };
    for (_, mut file) in small_files() {
        let header_len = u32::from_le_bytes(*file.bytes()[8..].first_chunk().unwrap()) as usize;
        let original = file.bytes()[..16 + header_len].to_vec();
        let mut loaded = 0;
        for _ in 0..rounds {
            for _ in 0..1 + random.below(3) {
                let at = 16 + random.below(header_len);
                file.bytes_mut()[at] = match random.below(4) {
                    0 => 0xff,
                    1 => 0,
                    2 => file.bytes()[at].wrapping_add(1),
                    _ => random.below(256) as u8,
                };
            }
            let crc = crc32fast::hash(&file.bytes()[16..16 + header_len]);
            file.bytes_mut()[12..16].copy_from_slice(&crc.to_le_bytes());
            loaded += usize::from(load_and_run(file.bytes(), 2).is_some());
            file.bytes_mut()[..16 + header_len].copy_from_slice(&original);
        }
        // Names, scales and bounds can change without harm: some must load, or the test tests nothing.
        assert!(loaded > 0);
    }
}

/// What a header says of its inputs: a rate that is none, and tokens that are none.
#[test]
fn forged_rates_and_tokens_are_refused() {
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
    let mut refused = 0;
    for dir in family_fixtures().into_iter().filter(|dir| dir.ends_with("sensor-mamba2-last") || dir.ends_with("mamba-a")) {
        let mut file = File::quantized(&dir, &Recipe::default());
        let header_len = u32::from_le_bytes(*file.bytes()[8..].first_chunk().unwrap()) as usize;
        let header = &file.bytes()[..16 + header_len];
        // Tokens, 97 of them, from some 0 to some 0; or 50 samples a second.
        let (at, forged): (usize, Vec<Vec<u8>>) = match find(header, &[0, 97, 1, 0, 1, 0]) {
            Some(at) => (at, vec![vec![0, 97, 1, 97, 1, 0], vec![0, 97, 1, 0, 1, 127]]),
            None => {
                let rates = [0.0, -50.0, f32::NAN, f32::INFINITY];
                (find(header, &50f32.to_le_bytes()).unwrap(), rates.iter().map(|rate| rate.to_le_bytes().to_vec()).collect())
            }
        };
        for bytes in forged {
            file.bytes_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
            let crc = crc32fast::hash(&file.bytes()[16..16 + header_len]);
            file.bytes_mut()[12..16].copy_from_slice(&crc.to_le_bytes());
            let error = Model::from_bytes(file.bytes()).map(drop).unwrap_err();
            assert_eq!(error, brooklet::Error::Header(brooklet::HeaderFault::Inconsistent));
            refused += 1;
        }
    }
    assert_eq!(refused, 6);
}

#[test]
fn misplaced_buffers_are_errors() {
    let (_, file) = small_files().remove(0);
    let mut shifted = vec![Line::ZERO; file.bytes().len() / 64 + 2];
    let bytes = Line::bytes_mut(&mut shifted);
    bytes[1..=file.bytes().len()].copy_from_slice(file.bytes());
    let error = Model::from_bytes(&bytes[1..=file.bytes().len()]).unwrap_err();
    assert!(error.to_string().contains("multiple of 64"), "{error}");

    let model = file.model();
    let mut buffers = Buffers::new(&model, 1);
    let short = &mut Line::bytes_mut(&mut buffers.state)[..model.state_bytes() - 1];
    let error = State::new(&model, short).unwrap_err().to_string();
    assert!(error.contains(&model.state_bytes().to_string()), "{error}");
    let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let error = Session::new(&model, kernels::detect(), &mut state, &mut []).unwrap_err().to_string();
    assert!(error.contains("scratch"), "{error}");
}
