//! I1 and I2: any chunking, back-end, number of threads and number of streams gives the bits of single steps on the portable kernels.

use brooklet::kernels::quant::Format;
use brooklet::{Line, Pool, Session, State, Streams, kernels};
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use brooklet_tests::{Buffers, File, Sequence, family_fixtures, stream};
use proptest::prelude::*;

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.as_slice())
}

/// Caches shorter than the stream slide, longer ones do not; all kinds of storage.
fn caches() -> impl Strategy<Value = Cache> {
    let formats = prop::sample::select(vec![CacheFormat::F32, CacheFormat::Int8, CacheFormat::Int4]);
    (prop_oneof![Just(7u32), Just(24), Just(500)], 0u32..4, formats).prop_map(|(context, sink, format)| Cache {
        context,
        sink: Some(sink),
        format,
    })
}

fn states() -> impl Strategy<Value = StateFormat> {
    prop::sample::select(vec![StateFormat::F32, StateFormat::F16])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("BROOKLET_LONG").is_some() { 300 } else { 40 }))]

    #[test]
    fn any_chunking_gives_the_bits_of_single_steps(
        fixture in 0usize..1000,
        format in formats(),
        state in states(),
        cache in caches(),
        pieces in any::<bool>(),
        seed in any::<u64>(),
        chunks in prop::collection::vec(1usize..40, 1..6),
        batch in 1usize..33,
        threads in 1usize..5,
    ) {
        let dirs = family_fixtures();
        let make = if pieces { File::in_pieces } else { File::quantized };
        let file = make(&dirs[fixture % dirs.len()], &Recipe { format, embedding: None, state, cache });
        let model = file.model();
        let input = Sequence::noise(&model, chunks.iter().sum(), seed);
        let portable = kernels::available().next().unwrap();
        let want = bits(&stream(&model, portable, &input, 1));
        let pool = Pool::new(threads).unwrap();
        for table in kernels::available() {
            let mut buffers = Buffers::for_team(&model, batch, threads);
            let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
            let mut session = Session::with_team(&model, table, &pool, &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
            let mut got = Vec::new();
            let mut at = 0;
            for &chunk in &chunks {
                input.feed(&mut session, at..at + chunk, &mut got);
                at += chunk;
            }
            prop_assert_eq!(&bits(&got), &want, "{} in chunks {:?}", table.name(), chunks);
        }
    }

    #[test]
    fn many_streams_give_the_bits_of_streams_of_their_own(
        fixture in 0usize..1000,
        format in formats(),
        state in states(),
        cache in caches(),
        pieces in any::<bool>(),
        seed in any::<u64>(),
        // Streams that begin one after the other: each stands at a position of its own.
        starts in prop::collection::vec(0usize..12, 1..9),
        batch in 1usize..17,
        threads in 1usize..4,
    ) {
        let dirs = family_fixtures();
        let make = if pieces { File::in_pieces } else { File::quantized };
        let file = make(&dirs[fixture % dirs.len()], &Recipe { format, embedding: None, state, cache });
        let model = file.model();
        let steps = 20;
        let inputs: Vec<_> = (0..starts.len()).map(|i| Sequence::noise(&model, steps, seed.wrapping_add(i as u64))).collect();
        let portable = kernels::available().next().unwrap();
        let want: Vec<_> = inputs.iter().map(|input| bits(&stream(&model, portable, input, 1))).collect();
        let pool = Pool::new(threads).unwrap();
        for table in kernels::available() {
            let mut scratch = Buffers::for_team(&model, batch, threads).scratch;
            let mut memory: Vec<_> = starts.iter().map(|_| Buffers::new(&model, 1).state).collect();
            let mut states: Vec<_> = memory.iter_mut().map(|m| State::new(&model, Line::bytes_mut(m)).unwrap()).collect();
            let mut streams = Streams::with_team(&model, table, &pool, Line::bytes_mut(&mut scratch)).unwrap();
            let mut got = vec![Vec::new(); starts.len()];
            for now in 0..steps {
                let mut there: Vec<usize> = (0..starts.len()).filter(|&i| starts[i] <= now).collect();
                // Streams come in any order.
                if now % 2 == 1 {
                    there.reverse();
                    states.reverse();
                }
                let (mut mine, mut rest): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
                for (i, state) in states.drain(..).enumerate() {
                    let i = if now % 2 == 1 { starts.len() - 1 - i } else { i };
                    if starts[i] <= now { mine.push(state) } else { rest.push((i, state)) }
                }
                let mut outputs = vec![f32::NAN; there.len() * model.outputs()];
                let at = |i: usize| now - starts[i];
                match &inputs[0] {
                    Sequence::Tokens(_) => {
                        let tokens: Vec<u32> = there.iter().map(|&i| if let Sequence::Tokens(t) = &inputs[i] { t[at(i)] } else { 0 }).collect();
                        if !tokens.is_empty() {
                            streams.step_tokens(&mut mine, &tokens, &mut outputs).unwrap();
                        }
                    }
                    Sequence::Frames(_, channels) | Sequence::FramesAfter(_, channels, _) => {
                        let (mut frames, mut seconds) = (Vec::new(), Vec::new());
                        for &i in &there {
                            let (Sequence::Frames(f, _) | Sequence::FramesAfter(f, _, _)) = &inputs[i] else { continue };
                            frames.extend_from_slice(&f[at(i) * channels..][..*channels]);
                            if let Sequence::FramesAfter(_, _, s) = &inputs[i] {
                                seconds.push(s[at(i)]);
                            }
                        }
                        if frames.is_empty() {
                        } else if seconds.is_empty() {
                            streams.step_frames(&mut mine, &frames, &mut outputs).unwrap();
                        } else {
                            streams.step_frames_after(&mut mine, &frames, &seconds, &mut outputs).unwrap();
                        }
                    }
                }
                for (&i, y) in there.iter().zip(outputs.chunks_exact(model.outputs())) {
                    got[i].extend(bits(y));
                }
                let mut all: Vec<_> = there.into_iter().zip(mine).chain(rest).collect();
                all.sort_by_key(|&(i, _)| i);
                states = all.into_iter().map(|(_, state)| state).collect();
            }
            for (i, got) in got.iter().enumerate() {
                prop_assert_eq!(&got[..], &want[i][..got.len()], "{} stream {} of {:?}", table.name(), i, starts);
            }
        }
    }
}

#[test]
fn a_prefill_ends_with_the_last_steps_outputs() {
    for dir in family_fixtures() {
        let file = File::quantized(&dir, &Recipe::default());
        let model = file.model();
        let Sequence::Tokens(tokens) = Sequence::noise(&model, 50, 3) else { continue };
        let want = stream(&model, kernels::detect(), &Sequence::Tokens(tokens.clone()), 1);
        let mut buffers = Buffers::new(&model, 16);
        let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
        let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
        let last = session.prefill_tokens(&tokens).unwrap();
        assert_eq!(bits(last), bits(&want[want.len() - model.outputs()..]));
    }
}
