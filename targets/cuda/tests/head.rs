//! The next token: the likeliest, and draws as the command line's sampler makes them.

use crate::rig::{Bench, Random, gpu};
use brooklet_cuda::launch::{Draw, Head};

/// The sampler of the command line, on outputs without NaN.
fn draw(outputs: &[f32], how: &Draw, random: &mut u64) -> u32 {
    let mut all: Vec<(u32, f32)> = (0u32..).zip(outputs.iter().copied().take(how.known as usize)).filter(|(_, x)| !x.is_nan()).collect();
    all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(how.top_k as usize);
    let best = all[0];
    if how.temperature <= 0.0 || !best.1.is_finite() {
        return best.0;
    }
    let weight = |x: f32| (f64::from(x - best.1) / f64::from(how.temperature)).exp();
    let total: f64 = all.iter().map(|&(_, x)| weight(x)).sum();
    let (mut kept, mut kept_weight) = (0, 0.0);
    while kept < all.len() && kept_weight < f64::from(how.top_p) * total {
        kept_weight += weight(all[kept].1);
        kept += 1;
    }
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let mut left = (z >> 11) as f64 / (1u64 << 53) as f64 * kept_weight;
    for &(token, x) in &all[..kept] {
        left -= weight(x);
        if left < 0.0 {
            return token;
        }
    }
    all[..kept].last().map_or(best.0, |last| last.0)
}

#[test]
fn tokens_are_those_of_the_sampler() {
    let Some(device) = gpu("tokens") else { return };
    let head = Head::load(&device).unwrap();
    let mut random = Random::fresh("tokens");
    let mut others = 0;
    let widths = [1u32, 2, 7, 31, 256, 1000, 1023, 1024, 1025, 5000, 32000, 50288];
    for case in 0..60 {
        let width = widths[case % widths.len()];
        let (rows, stride) = (1 + random.below(3), width + random.below(3));
        let known = if random.below(3) == 0 { 1 + random.below(width) } else { width };
        // Few values make many equals; some rows have what is no number, or is infinite.
        let levels = [0.0, 0.0, 2.0, 8.0][random.below(4) as usize];
        let mut outputs = random.normals((rows * stride) as usize);
        for x in &mut outputs {
            *x = if levels > 0.0 { (*x * levels).round() / levels } else { *x * 3.0 };
        }
        if case % 5 == 0 && known > 1 {
            outputs[random.below(known) as usize] = f32::NAN;
        }
        if case % 7 == 0 {
            outputs[random.below(known) as usize] = f32::INFINITY;
        }
        let how = Draw {
            temperature: [0.0, 0.7, 1.0, 2.5][random.below(4) as usize],
            top_p: [1.0, 0.95, 0.5, 0.01][random.below(4) as usize],
            top_k: [1, 2, 40, 100, 1024][random.below(5) as usize],
            known,
        };
        let mut seeds: Vec<u64> = (0..rows).map(|_| random.bits()).collect();
        let mut bench = Bench::new(&device);
        let places = (bench.put(&outputs), bench.put(&seeds), bench.put(&vec![u32::MAX; rows as usize]));
        let arena = bench.arena();
        let (at, seeds_at, tokens) = (arena.address(places.0), arena.address(places.1), arena.address(places.2));
        let mut got = vec![0u32; rows as usize];

        head.likeliest(&device, rows, at, stride, known, tokens).unwrap();
        arena.download(places.2, &mut got).unwrap();
        for (outputs, &got) in outputs.chunks(stride as usize).zip(&got) {
            assert_eq!(got, draw(outputs, &Draw { temperature: 0.0, top_k: 1, ..how }, &mut 0), "case {case}, the likeliest of {known}");
        }
        head.draw(&device, rows, at, stride, &how, seeds_at, tokens).unwrap();
        arena.download(places.2, &mut got).unwrap();
        for ((outputs, seed), &got) in outputs.chunks(stride as usize).zip(&mut seeds).zip(&got) {
            // The last bits of an exponential may be others.
            others += usize::from(got != draw(outputs, &how, seed));
        }
    }
    assert!(others <= 1, "{others} draws differ");
}
