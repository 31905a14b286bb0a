//! A convolution whose taps are given by a few functions is the one whose taps are written out.

use brooklet::kernels;
use brooklet_quantize::Recipe;
use brooklet_tests::{File, Sequence, fixtures, stream};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::Path;

const CONV: &str = "backbone.layers.0.mixer.conv1d";

/// A copy of a sensor model, some of whose tensors are others.
fn model(tensors: &[(&str, Vec<usize>, &[f32])]) -> File {
    let from = fixtures().join("families/sensor-mamba1-last");
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let file = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, data)| data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let mut views: Vec<(String, TensorView<'_>)> =
        file.iter().map(|(name, view)| (name.to_owned(), view)).filter(|(name, _)| tensors.iter().all(|t| t.0 != name)).collect();
    for ((name, shape, _), bytes) in tensors.iter().zip(&bytes) {
        views.push(((*name).to_owned(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    }
    std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    File::quantized(dir.path(), &Recipe::default())
}

/// Channels and taps of the fixture's convolution.
fn shape(path: &Path) -> (usize, usize) {
    let file = std::fs::read(path).unwrap();
    let shape = SafeTensors::deserialize(&file).unwrap().tensor(&format!("{CONV}.weight")).unwrap().shape().to_vec();
    (shape[0], shape[2])
}

#[test]
fn taps_of_polynomials_are_multiplied_out() {
    let (channels, taps) = shape(&fixtures().join("families/sensor-mamba1-last/model.safetensors"));
    // Legendre's first three, averaged over equal parts of [0, 1]: 1, x, (3 x^2 - 1) / 2.
    let edge = |i: usize| i as f32 / taps as f32;
    let integrals: [fn(f32) -> f32; 3] = [|x| x, |x| x * x / 2.0, |x| (x * x * x - x) / 2.0];
    let functions = integrals.len();
    let transform: Vec<f32> = integrals.iter().flat_map(|f| (0..taps).map(move |k| (f(edge(k + 1)) - f(edge(k))) * taps as f32)).collect();
    let weight: Vec<f32> = (0..channels * functions).map(|i| ((i * 7) % 11) as f32 / 8.0 - 0.5).collect();
    let written_out: Vec<f32> = (0..channels * taps)
        .map(|i| {
            (0..functions).map(|f| f64::from(weight[i / taps * functions + f]) * f64::from(transform[f * taps + i % taps])).sum::<f64>()
                as f32
        })
        .collect();

    let (weight_name, transform_name) = (format!("{CONV}.weight"), format!("{CONV}.transform"));
    let by_functions =
        model(&[(&weight_name, vec![channels, 1, functions], &weight), (&transform_name, vec![functions, taps], &transform)]);
    let by_taps = model(&[(&weight_name, vec![channels, 1, taps], &written_out)]);
    let outputs = |file: &File| stream(&file.model(), kernels::detect(), &Sequence::noise(&file.model(), 40, 3), 1);
    assert_eq!(outputs(&by_functions), outputs(&by_taps));
    assert_ne!(outputs(&by_functions), outputs(&model(&[])));
}
