//! What the kernels' tests share: the GPU, or a line that says there is none; fresh random numbers.
#![allow(dead_code)]

use brooklet_cuda::arena::{Arena, Layout, Place};
use brooklet_cuda::cudarc::driver::DeviceRepr;
use brooklet_cuda::{Device, Error};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The GPU; `None`, with one line that says so, where there is none.
pub(crate) fn gpu(test: &str) -> Option<Device> {
    match Device::open(0) {
        Ok(device) => Some(device),
        Err(error @ (Error::NoDriver | Error::NoDevice { .. })) => {
            println!("{test} skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Random numbers (SplitMix64), from the clock; `BROOKLET_SEED` repeats a run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn fresh(test: &str) -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("BROOKLET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(clock);
        println!("{test}: BROOKLET_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [lo, hi).
    pub(crate) fn uniform(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About normal, with variance 1.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.uniform(-1.0, 1.0)).sum::<f32>() * 0.75f32.sqrt()
    }

    pub(crate) fn below(&mut self, count: u32) -> u32 {
        (self.bits() % u64::from(count)) as u32
    }

    pub(crate) fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

/// Memory for a test: every part laid out, then filled; what is not filled is NaN.
pub(crate) struct Bench {
    pub(crate) device: Device,
    layout: Layout,
    parts: Vec<(Place, Vec<u8>)>,
}

impl Bench {
    pub(crate) fn new(device: &Device) -> Self {
        Bench { device: device.clone(), layout: Layout::default(), parts: Vec::new() }
    }

    pub(crate) fn put<T: DeviceRepr>(&mut self, data: &[T]) -> Place {
        let place = self.layout.add(size_of_val(data) as u64);
        // SAFETY: any number is a row of bytes.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) };
        self.parts.push((place, bytes.to_vec()));
        place
    }

    pub(crate) fn poisoned(&mut self, floats: usize) -> Place {
        self.put(&vec![f32::NAN; floats])
    }

    pub(crate) fn arena(self) -> Arena {
        let mut arena = Arena::new(&self.device, &self.layout).unwrap();
        for (place, bytes) in &self.parts {
            arena.upload(*place, bytes).unwrap();
        }
        arena
    }
}

/// Largest difference from the truth over its largest number. NaN never passes.
pub(crate) fn off(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).abs() / largest).fold(0.0, |m, d| if d.is_nan() || d > m { d } else { m })
}

/// The bundled text model, and what `BROOKLET_GPU_MODELS` has.
pub(crate) fn text_models() -> Vec<PathBuf> {
    let bundled = brooklet_tests::fixtures().join("../../examples/models/prose.brook");
    let here = PathBuf::from("examples/models/prose.brook");
    let mut models = vec![if here.exists() { here } else { bundled }];
    if let Some(folder) = std::env::var_os("BROOKLET_GPU_MODELS") {
        let mut more: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        more.retain(|path| path.extension().is_some_and(|extension| extension == "brook"));
        more.sort();
        models.extend(more);
    }
    models
}
