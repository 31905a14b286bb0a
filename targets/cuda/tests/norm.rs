//! Norms against an oracle in f64.

use crate::rig::{Bench, Random, gpu, off};
use brooklet_cuda::batch::Batch;
use brooklet_cuda::launch::{Gating, Norm, NormShape};

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[test]
fn norms_are_those_of_the_oracle() {
    let Some(device) = gpu("norms") else { return };
    let kernels = Norm::load(&device).unwrap();
    let mut random = Random::fresh("norms");
    for case in 0..40 {
        let (groups, width, rows) = (1 + random.below(5), 1 + random.below(if case % 4 == 0 { 5000 } else { 300 }), 1 + random.below(7));
        let wide = (groups * width) as usize;
        let kind = case % 3;
        let is_in_place = random.below(2) == 0;
        let (x, z, out) = (3, 3 + wide as u32, if is_in_place { 3 } else { 3 + 2 * wide as u32 });
        let stride = 3 * wide + 5;
        let gating = [Gating::None, Gating::First(z), Gating::Last(z)][random.below(3) as usize];
        let mut frames = vec![f32::NAN; stride * rows as usize];
        let shift = random.normal();
        for frame in frames.chunks_exact_mut(stride) {
            frame[3..3 + 2 * wide].fill_with(|| random.normal() + shift);
        }
        let (weight, bias) = (random.normals(wide), random.normals(wide));
        let (has_weight, has_bias) = (random.below(2) == 0, random.below(2) == 0);
        let eps = 1e-5f32;

        let mut bench = Bench::new(&device);
        let places = (bench.put(&frames), bench.put(&weight), bench.put(&bias));
        let arena = bench.arena();
        let at = |place, is_there: bool| if is_there { arena.address(place) } else { Default::default() };
        let batch =
            Batch { frames: arena.address(places.0), stride: stride as u32, tokens: rows, streams: 1, period: 1, ..Default::default() };
        let (weight_at, bias_at) = (at(places.1, has_weight), at(places.2, has_bias));
        let shape = NormShape { kind, x, out, gating, groups, width, weight: weight_at, bias: bias_at, eps };
        kernels.run(&device, &batch, &shape).unwrap();
        let mut got = vec![0.0f32; frames.len()];
        arena.download(places.0, &mut got).unwrap();

        for (frame, got) in frames.chunks_exact(stride).zip(got.chunks_exact(stride)) {
            let number = |at: u32, i: usize| f64::from(frame[at as usize + i]);
            let mut want: Vec<f64> =
                (0..wide).map(|i| number(x, i) * if let Gating::First(z) = gating { silu(number(z, i)) } else { 1.0 }).collect();
            for group in want.chunks_exact_mut(width as usize) {
                let count = f64::from(width);
                if kind == 1 {
                    let mean = group.iter().sum::<f64>() / count;
                    group.iter_mut().for_each(|v| *v -= mean);
                }
                let square = group.iter().map(|v| v * v).sum::<f64>() / count;
                let root = if kind == 2 { square.sqrt() + f64::from(eps) } else { (square + f64::from(eps)).sqrt() };
                group.iter_mut().for_each(|v| *v /= root);
            }
            for (i, v) in want.iter_mut().enumerate() {
                *v *= if has_weight { f64::from(weight[i]) } else { 1.0 };
                *v += if has_bias { f64::from(bias[i]) } else { 0.0 };
                *v *= if let Gating::Last(z) = gating { silu(number(z, i)) } else { 1.0 };
            }
            let distance = off(&got[out as usize..out as usize + wide], &want);
            // A layer norm of numbers that hardly differ loses what they share.
            assert!(distance < 2e-5, "case {case}: {shape:?}: {distance:e}");
        }
    }
}
