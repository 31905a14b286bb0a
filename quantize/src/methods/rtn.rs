//! Rounding to the nearest code, with a search for the scales.

use brooklet::kernels::quant::GROUP;

/// One row, rounded.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) scale: f32,
    /// (groups), as stored.
    pub(super) sub_scales: Vec<i8>,
    /// (cols); Q8 codes as their bits.
    pub(super) codes: Vec<u8>,
}

/// Largest magnitude of a Q8 code and sub-scale.
const Q8_MAX: f32 = 127.0;
/// Largest magnitude of the signed factor in a sub-scale of fewer bits than 8.
pub(super) const FACTOR_MAX: i32 = 63;
/// The importance of weights that are all alike.
pub(super) const ALIKE: [f32; GROUP] = [1.0; GROUP];

/// Rounds one row to Q8: `row_scale * sub_scale * code`.
pub(super) fn round_q8(w: &[f32]) -> Row {
    let largest = |w: &[f32]| w.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let scale = largest(w) / (Q8_MAX * Q8_MAX);
    let mut row = Row { scale, sub_scales: Vec::new(), codes: Vec::with_capacity(w.len()) };
    for group in w.chunks(GROUP) {
        let ideal = if scale > 0.0 { (largest(group) / Q8_MAX / scale).ceil() as i32 } else { 0 };
        // A step below the ideal clips the largest weight a little and rounds the others finer.
        let (_, sub_scale) = (ideal - 1..=ideal + 1)
            .filter(|s| (1..=127).contains(s))
            .map(|s| (group.iter().map(|&w| (w - q8_code(w, scale, s) as f32 * s as f32 * scale).powi(2)).sum::<f32>(), s))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap_or((0.0, 0));
        row.sub_scales.push(sub_scale as i8);
        row.codes.extend(group.iter().map(|&w| q8_code(w, scale, sub_scale) as i8 as u8));
    }
    row
}

fn q8_code(w: f32, scale: f32, sub_scale: i32) -> i32 {
    let step = scale * sub_scale as f32;
    if step == 0.0 { 0 } else { (w / step).round_ties_even().clamp(-Q8_MAX, Q8_MAX) as i32 }
}

/// The levels of a code table and its shifted twin, with look-ups for the nearest.
pub(super) struct Grid {
    /// (tables, codes)
    levels: [Vec<f32>; 2],
    /// (tables): nearest code of every step from -128 to 128, by number.
    nearest: [Vec<u8>; 2],
    /// (tables): the same codes' levels.
    nearest_level: [Vec<f32>; 2],
    /// Look-up steps from a level to the next whole number.
    steps: f32,
    /// Scales to try, as shares of the one that puts the largest weight at the largest level.
    shares: Vec<f32>,
    /// Magnitude of the largest level.
    largest: f32,
}

/// Scales that are tried side by side.
const LANES: usize = 4;
/// Adding it leaves a number of less than 2^22 rounded to a whole one, ties to even, in the low bits: without a call, and several at a time.
const ROUNDING: f32 = 12_582_912.0; // 1.5 * 2^23

impl Grid {
    pub(super) fn new(table: &[i8], shift: i8) -> Self {
        Self::with_steps(
            table,
            shift,
            if table.len() <= 4 {
                16
            } else if table.len() <= 16 {
                2
            } else {
                8
            },
        )
    }

    /// Finds the nearest level to a sixteenth, where each weight makes up for others.
    pub(super) fn fine(table: &[i8], shift: i8) -> Self {
        Self::with_steps(table, shift, 16)
    }

    fn with_steps(table: &[i8], shift: i8, steps: i32) -> Self {
        let levels = [0, i32::from(shift)].map(|s| table.iter().map(|&level| (i32::from(level) + s) as f32).collect::<Vec<f32>>());
        let largest = table.iter().map(|level| level.unsigned_abs()).max().unwrap_or(1).max(1);
        // The coarser the table, the more it pays to clip large weights, and to try more scales.
        let shares = match table.len() {
            // From all four levels to weights of three values, which leave the largest level alone.
            0..=4 => (0..24).map(|step| 0.4 + 0.07 * step as f32).collect(),
            5..=8 => (0..20).map(|step| 0.6 + 0.04 * step as f32).collect(),
            9..=16 => (0..12).map(|step| 0.8 + 0.04 * step as f32).collect(),
            _ => (0..12).map(|step| 0.84 + 0.03 * step as f32).collect(),
        };
        let nearest = levels.each_ref().map(|levels| {
            let closest = |x: f32| (0..levels.len()).min_by(|&a, &b| (levels[a] - x).abs().total_cmp(&(levels[b] - x).abs())).unwrap_or(0);
            (-128 * steps..=128 * steps).map(|i| closest(i as f32 / steps as f32) as u8).collect::<Vec<u8>>()
        });
        let level_of = |table: usize| nearest[table].iter().map(|&code| levels[table][usize::from(code)]).collect();
        let nearest_level = [level_of(0), level_of(1)];
        Grid { nearest_level, levels, nearest, steps: steps as f32, shares, largest: f32::from(largest) }
    }

    /// Value of a code.
    pub(super) fn level(&self, table: usize, code: u8) -> f32 {
        self.levels[table][usize::from(code)]
    }

    /// The code whose level is nearest.
    pub(super) fn code(&self, table: usize, x: f32) -> u8 {
        let most = 128.0 * self.steps;
        let step = within(x * self.steps, most) + ROUNDING;
        let nearest = &self.nearest[table];
        nearest[self.place(step).min(nearest.len() - 1)]
    }

    /// The place in the look-ups of a number of steps to which [`ROUNDING`] was added.
    fn place(&self, step: f32) -> usize {
        step.to_bits().wrapping_sub((ROUNDING - 128.0 * self.steps).to_bits()) as usize
    }

    /// Squared error of a group at `scale`, each weight's by its importance `h`.
    fn error(&self, table: usize, w: &[f32], h: &[f32], scale: f32) -> f32 {
        self.try_scales(table, w, h, square(w, h), [scale; LANES]).0[0]
    }

    /// Squared errors of a group at some scales, and for each the scale that suits its codes best; `ww` is the error of nothing but zeros.
    fn try_scales(&self, table: usize, w: &[f32], h: &[f32], ww: f32, scales: [f32; LANES]) -> ([f32; LANES], [f32; LANES]) {
        let levels = &self.nearest_level[table][..];
        let most = 128.0 * self.steps;
        let inverses = scales.map(|scale| 1.0 / scale);
        let (mut wq, mut qq) = ([0.0; LANES], [0.0; LANES]);
        for (&w, &h) in w.iter().zip(h) {
            let steps = inverses.map(|inverse| within(w * inverse * self.steps, most) + ROUNDING);
            let q = steps.map(|step| levels[self.place(step).min(levels.len() - 1)]);
            let (hw, hq) = (h * w, q.map(|q| h * q));
            for lane in 0..LANES {
                wq[lane] += hw * q[lane];
                qq[lane] += hq[lane] * q[lane];
            }
        }
        let (mut errors, mut refits) = ([ww; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            let scale = scales[lane];
            if scale != 0.0 {
                errors[lane] = ww - 2.0 * scale * wq[lane] + scale * scale * qq[lane];
                refits[lane] = if qq[lane] > 0.0 { wq[lane] / qq[lane] } else { 0.0 };
            }
        }
        (errors, refits)
    }

    /// The error and the scale of a sign that rounds a group best through one table.
    pub(super) fn search_in(&self, table: usize, sign: f32, w: &[f32], h: &[f32]) -> (f32, f32) {
        let largest = w.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let ww = square(w, h);
        let mut best = (f32::INFINITY, 0.0);
        for shares in self.shares.chunks(LANES) {
            let mut scales = [0.0; LANES];
            scales.iter_mut().zip(shares).for_each(|(scale, share)| *scale = sign * largest / self.largest * share);
            let (errors, refits) = self.try_scales(table, w, h, ww, scales);
            let (refit_errors, _) = self.try_scales(table, w, h, ww, refits);
            for lane in 0..shares.len() {
                best = if errors[lane] < best.0 { (errors[lane], scales[lane]) } else { best };
                best = if refit_errors[lane] < best.0 { (refit_errors[lane], refits[lane]) } else { best };
            }
        }
        best
    }

    /// The scale of either sign that rounds a group best, tables free; `h` is the importance of each weight.
    pub(super) fn search(&self, w: &[f32], h: &[f32]) -> f32 {
        let mut best = (f32::INFINITY, 0.0);
        for (table, sign) in [(0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)] {
            let found = self.search_in(table, sign, w, h);
            best = if found.0 < best.0 { found } else { best };
        }
        best.1
    }
}

/// `x`, from `-most` to `most`: compared so that a vector register does several at a time. What is no number is the least.
fn within(x: f32, most: f32) -> f32 {
    let x = if x > -most { x } else { -most };
    if x < most { x } else { most }
}

/// The squares of weights by their importance, summed.
fn square(w: &[f32], h: &[f32]) -> f32 {
    w.iter().zip(h).map(|(w, h)| h * w * w).fold(0.0, |sum, x| sum + x)
}

/// Rounds one row to codes with a table: `row_scale * factor * level`, the factor and the table chosen per group; `h` gives the
/// importance of the weights of a group.
pub(super) fn round_coded<'h>(w: &[f32], grid: &Grid, h: impl Fn(usize) -> &'h [f32]) -> Row {
    let ideal: Vec<f32> = w.chunks(GROUP).enumerate().map(|(g, group)| grid.search(group, h(g))).collect();
    let scale = ideal.iter().fold(0.0f32, |m, s| m.max(s.abs())) / FACTOR_MAX as f32;
    let mut row = Row { scale, sub_scales: Vec::new(), codes: Vec::with_capacity(w.len()) };
    for (g, (group, ideal)) in w.chunks(GROUP).zip(ideal).enumerate() {
        let near = if scale > 0.0 { (ideal / scale).round_ties_even() as i32 } else { 0 };
        // Of four levels, the largest at half a scale is as good as the one below it at the whole: a group of one sign may have been searched to
        // half the scale of its row, which no whole factor need give.
        let twice = (2 * near - 1..=2 * near + 1).filter(|_| grid.levels[0].len() <= 4);
        let near = (near - 2..=near + 2).chain(twice);
        let choices = near.filter(|f| f.abs() <= FACTOR_MAX).flat_map(|factor| [(factor, 0), (factor, 1)]);
        let (factor, table) = choices
            .min_by(|a, b| {
                let error = |c: &(i32, usize)| grid.error(c.1, group, h(g), c.0 as f32 * scale);
                error(a).total_cmp(&error(b))
            })
            .unwrap_or((0, 0));
        row.sub_scales.push((factor << 1) as i8 | table as i8);
        let step = factor as f32 * scale;
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        row.codes.extend(group.iter().map(|&w| grid.code(table, w * inverse)));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::super::pack;
    use brooklet::kernels::quant::Format;

    /// Reproducible numbers, roughly bell-shaped.
    fn bell(count: usize) -> Vec<f32> {
        let mut x = 1u64;
        let mut uniform = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn rounding_error_is_what_the_formats_allow() {
        let w = bell(64 * 512);
        let q8 = pack(Format::Q8, 64, 512, &w).relative_error;
        let q4 = pack(Format::Q4, 64, 512, &w).relative_error;
        // 22.9 dB is the known signal-to-noise ratio of this 4-bit grid on bell-shaped weights.
        assert!(q8 < 0.0065, "{q8}");
        assert!(q4 < 0.074, "{q4}");
        for (format, bound) in [(Format::T2, 0.335), (Format::Q3, 0.15), (Format::Q5, 0.036), (Format::Q6, 0.018)] {
            let error = pack(format, 64, 512, &w).relative_error;
            assert!(error < bound, "{} {error}", format.name());
        }
        assert_eq!(pack(Format::F32, 64, 512, &w).relative_error, 0.0);
    }

    #[test]
    fn weights_trained_as_three_values_are_kept() {
        let w: Vec<f32> = bell(8 * 96).iter().enumerate().map(|(i, x)| x.round().clamp(-1.0, 1.0) * 0.037 * (1 + i / 96) as f32).collect();
        let error = pack(Format::T2, 8, 96, &w).relative_error;
        assert!(error < 1e-6, "{error}");
        // Few that are not zero, so that groups have one sign only, and groups that are not full.
        for (cols, rarely) in [(36, 1.0), (36, 1.5), (40, 2.0), (96, 2.0), (97, 1.2), (256, 2.5)] {
            let of = |x: &f32| if x.abs() < rarely { 0.0 } else { x.signum() };
            let mut w: Vec<f32> = bell(64 * cols).iter().map(of).collect();
            w.iter_mut().enumerate().for_each(|(i, x)| *x *= 0.037 * (1 + i / cols) as f32);
            let error = pack(Format::T2, 64, cols, &w).relative_error;
            assert!(error < 1e-6, "{cols} columns, zeros below {rarely}: {error}");
        }
    }

    #[test]
    fn groups_of_one_sign_have_the_scale_of_their_row() {
        for (cols, signs) in [(64, [1.0, 0.0]), (64, [-1.0, 0.0]), (36, [1.0, 1.0]), (36, [-1.0, -1.0])] {
            let mut w: Vec<f32> = (0..cols).map(|i| [1.0, -1.0, 0.0][i % 3] * 0.02).collect();
            w[32..].iter_mut().enumerate().for_each(|(i, x)| *x = signs[i % 2] * 0.02);
            let error = pack(Format::T2, 1, cols, &w).relative_error;
            assert!(error < 1e-6, "{cols} columns, {signs:?} at the end: {error}");
        }
    }

    #[test]
    fn zeros_and_lone_weights_survive() {
        // The 4-bit table has no level at zero, only one at 1/127 of the largest: 31 zeros beside a weight each miss by that.
        for (format, bound) in [(Format::Q8, 0.01), (Format::Q4, 0.05)] {
            let mut w = vec![0.0; 3 * 40];
            assert_eq!(pack(format, 3, 40, &w).relative_error, 0.0);
            w[45] = -2.5;
            assert!(pack(format, 3, 40, &w).relative_error < bound);
        }
    }
}
