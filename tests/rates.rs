//! Blocks with a clock of their own: when they run, what position they see, what they may hold.

use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet::ops::PoolKind;
use brooklet_quantize::graph::{Card, Graph, Input, Operand, Output, Role};
use brooklet_quantize::lower::write_graph;
use brooklet_quantize::{Cache, CacheFormat, Error, Recipe, StateFormat};
use brooklet_tests::{File, Sequence, stream};

const FLOAT: Recipe = Recipe {
    format: Format::F32,
    embedding: None,
    state: StateFormat::F32,
    cache: Cache { context: 4, sink: None, format: CacheFormat::F32 },
};

/// A graph of one channel, and its frame.
fn graph() -> (Graph<'static>, Operand) {
    let (channels, units) = (vec!["x".to_owned()], vec!["1".to_owned()]);
    let input = Input::Frames { channels: channels.clone(), units: units.clone(), rate_hz: 1.0, mean: vec![0.0], std: vec![1.0] };
    let mut g = Graph::new(Card::default(), input, Output::Values { names: channels, units });
    let x = g.frame(vec![0.0], vec![1.0]);
    (g, x)
}

fn matrix(g: &mut Graph<'_>, rows: usize, cols: usize, data: &'static [f32]) -> u32 {
    g.matrix("w", rows, cols, Role::Router, || Ok(data.to_vec()))
}

/// Ends with `x` as it is.
fn head(g: &mut Graph<'_>, x: Operand) {
    let one = matrix(g, 1, 1, &[1.0]);
    g.head(one, None, x, 1.0);
}

fn write(g: &Graph<'_>) -> Result<File, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.brook");
    write_graph(g, &FLOAT, &path, &mut |_| {})?;
    Ok(File::new(&std::fs::read(&path).unwrap()))
}

fn ramp(steps: usize) -> Sequence {
    Sequence::Frames((0..steps).map(|i| (i * i % 17) as f32).collect(), 1)
}

#[test]
fn rates_join_and_part_where_they_should() -> Result<(), Error> {
    // Three samples to one sum; the mean of all sums so far; its once, ten and hundred times, one a step, plus the sample.
    let (mut g, x) = graph();
    let (sum, parts) = (matrix(&mut g, 1, 3, &[1.0; 3]), matrix(&mut g, 3, 1, &[1.0, 10.0, 100.0]));
    let (joined, late, out) = (g.window(x, 2), g.delay(x, 2), g.value(1));
    let mean = g.every(3, 2, |g| {
        let sum = g.linear(sum, None, joined);
        g.pool(PoolKind::Mean, sum);
        Ok(g.linear(parts, None, sum))
    })?;
    g.fill(out, 0.0);
    g.every(1, 2, |g| {
        let part = g.depth_to_time(mean, 3);
        g.copy(out, part);
        g.add(out, late, 1.0);
        Ok(())
    })?;
    head(&mut g, out);
    let file = write(&g)?;
    assert_eq!((g.delay_steps(), file.model().plan().delay_steps), (2, 2));

    let input = ramp(60);
    let Sequence::Frames(x, _) = &input else { return Ok(()) };
    let sums: Vec<f32> = x.chunks_exact(3).map(|x| x.iter().sum()).collect();
    let mean = |j: usize| sums[..=j].iter().sum::<f32>() / (j + 1) as f32;
    let want = |p: usize| p.checked_sub(2).map_or(0.0, |i| mean(i / 3) * [1.0, 10.0, 100.0][i % 3] + x[i]);
    for chunk in [1, 2, 5, 7, 64] {
        for (p, got) in stream(&file.model(), kernels::detect(), &input, chunk).into_iter().enumerate() {
            assert!((got - want(p)).abs() <= 1e-3, "step {p} in chunks of {chunk}: {got}, not {}", want(p));
        }
    }
    Ok(())
}

#[test]
fn a_cache_in_a_block_lasts_as_many_runs_as_it_has_positions() -> Result<(), Error> {
    let (mut g, x) = graph();
    let one = matrix(&mut g, 1, 1, &[1.0]);
    g.every(3, 2, |g| {
        let qkv = [(); 3].map(|()| g.linear(one, None, x));
        Ok(g.attention(qkv, 1, 1.0, None))
    })?;
    head(&mut g, x);
    let file = write(&g)?;
    // Runs at steps 2, 5, 8 and 11: step 14 would be the fifth.
    assert_eq!(file.model().plan().context, Some(14));
    for chunk in [1, 14] {
        assert_eq!(stream(&file.model(), kernels::detect(), &ramp(14), chunk).len(), 14);
    }
    Ok(())
}

#[test]
fn blocks_that_lie_in_each_other_are_refused() -> Result<(), Error> {
    let (mut g, x) = graph();
    g.every(2, 0, |g| {
        g.every(2, 1, |g| {
            g.fill(x, 0.0);
            Ok(())
        })
    })?;
    head(&mut g, x);
    let error = write(&g).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("operation 2"), "{error}");

    let (mut g, x) = graph();
    g.every(2, 1, |g| {
        head(g, x);
        Ok(())
    })?;
    assert!(write(&g).is_err());
    Ok(())
}
