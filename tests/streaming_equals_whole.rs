//! I1 and I2: any chunking and any back-end give the bits of single steps on the portable kernels.

use brooklet::kernels::quant::Format;
use brooklet::{Line, Session, State, kernels};
use brooklet_quantize::{Cache, Recipe};
use brooklet_tests::{Buffers, File, Sequence, family_fixtures, stream};
use proptest::prelude::*;

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.as_slice())
}

/// Caches shorter than the stream slide, longer ones do not; both kinds of storage.
fn caches() -> impl Strategy<Value = Cache> {
    (prop_oneof![Just(7u32), Just(24), Just(500)], 0u32..4, any::<bool>()).prop_map(|(context, sink, int8)| Cache {
        context,
        sink: Some(sink),
        int8,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("BROOKLET_LONG").is_some() { 300 } else { 40 }))]

    #[test]
    fn any_chunking_gives_the_bits_of_single_steps(
        fixture in 0usize..1000,
        format in formats(),
        cache in caches(),
        seed in any::<u64>(),
        chunks in prop::collection::vec(1usize..40, 1..6),
        batch in 1usize..33,
    ) {
        let dirs = family_fixtures();
        let file = File::quantized(&dirs[fixture % dirs.len()], &Recipe { format, embedding: None, cache });
        let model = file.model();
        let input = Sequence::noise(&model, chunks.iter().sum(), seed);
        let portable = kernels::available().next().unwrap();
        let want = bits(&stream(&model, portable, &input, 1));
        for table in kernels::available() {
            let mut buffers = Buffers::new(&model, batch);
            let mut state = State::new(&model, Line::bytes_mut(&mut buffers.state)).unwrap();
            let mut session = Session::new(&model, table, &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
            let mut got = Vec::new();
            let mut at = 0;
            for &chunk in &chunks {
                input.feed(&mut session, at..at + chunk, &mut got);
                at += chunk;
            }
            prop_assert_eq!(&bits(&got), &want, "{} in chunks {:?}", table.name(), chunks);
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
