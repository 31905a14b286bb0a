//! Diagonal plus low rank (DPLR) to diagonal: the modes of a small dense system, so that S4 runs as S4D does.
//!
//! The trapezoidal rule keeps eigenvectors: what is diagonalised is the continuous system, and the runtime may still discretise it
//! for any gap. Not every system has modes worth running, see [`cancellation`].

use super::discretise::{Complex, Discretisation};
use nalgebra::linalg::Schur;
use nalgebra::{DMatrix, DVector};

type Matrix = DMatrix<Complex>;
type Vector = DVector<Complex>;

/// `x' = M x + b u` in the basis of its eigenvectors.
pub(super) struct Modes {
    /// Eigenvalues, both of every conjugate pair.
    pub(super) values: Vec<Complex>,
    /// (n, n): one eigenvector a column.
    vectors: Matrix,
    /// (n): what each mode takes in.
    drive: Vector,
    /// Points of the complex plane, and the dense system's states there, (n): `(s - M)^-1 b`.
    dense: Vec<(Complex, Vector)>,
}

/// One mode of an output `y = Re(sum residue / (s - value))`, a conjugate pair as one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub(super) value: Complex,
    pub(super) residue: Complex,
}

impl Modes {
    /// Of one step of `x' = (diag(lambda) - P P*) x + b u`: lambda, b and the step sizes `dt` (n), P (rank, n). All hold one of
    /// each conjugate pair, as files do.
    ///
    /// `None` if the eigenvectors do not span the space.
    pub(super) fn of_dplr(lambda: &[Complex], p: &[Vec<Complex>], b: &[Complex], dt: &[f64]) -> Option<Self> {
        let mut m = Matrix::from_diagonal(&both(lambda));
        for p in p {
            let p = both(p);
            m -= &p * p.adjoint();
        }
        let dt = both(&dt.iter().map(|&dt| Complex::new(dt, 0.0)).collect::<Vec<_>>());
        let m = Matrix::from_diagonal(&dt) * m;
        let drive = dt.component_mul(&both(b));
        let (values, vectors) = eigenvectors(&m)?;
        let mut speeds: Vec<f64> = values.iter().map(|v| v.norm()).collect();
        speeds.sort_by(f64::total_cmp);
        let n = values.len();
        let points = [0, n / 2, n - 1].into_iter().flat_map(|i| [Complex::new(speeds[i], 0.0), Complex::new(0.0, speeds[i])]);
        let dense = points.map(|s| Some((s, (Matrix::from_diagonal_element(n, n, s) - &m).lu().solve(&drive)?))).collect::<Option<_>>()?;
        Some(Modes { drive: vectors.clone().lu().solve(&drive)?, values, vectors, dense })
    }

    /// The modes of the output `c x`, one of each conjugate pair of `c`, (n); `correct` changes a mode's output by its eigenvalue.
    ///
    /// `None` if they do not give the dense system's output: their eigenvectors were too near to parallel for `f64`.
    pub(super) fn output(&self, c: &[Complex], correct: impl Fn(Complex) -> Complex) -> Option<Vec<Mode>> {
        let dense_c = both(c).transpose();
        let c = &dense_c * &self.vectors;
        let largest = self.values.iter().fold(0.0, |m: f64, v| m.max(v.norm()));
        let mut modes = Vec::new();
        for (i, &value) in self.values.iter().enumerate() {
            let residue = c[i] * self.drive[i];
            // What is real up to rounding stands for itself; of a pair, one mode stands for both.
            if value.im.abs() <= 1e-9 * largest {
                modes.push(Mode { value, residue });
            } else if value.im < 0.0 {
                modes.push(Mode { value, residue: 2.0 * residue });
            }
        }
        // The order of the sums in a step should not hang on the algorithm here.
        modes.sort_by(|a, b| a.value.norm().total_cmp(&b.value.norm()));
        let (mut off, mut all) = (0.0, 0.0);
        for (s, states) in &self.dense {
            let want = (&dense_c * states)[0];
            // The real part of a mode's output is the mean of its own and its conjugate's.
            let term = |mode: &Mode| 0.5 * (mode.residue / (s - mode.value) + mode.residue.conj() / (s - mode.value.conj()));
            off += (modes.iter().map(term).sum::<Complex>() - want).norm_sqr();
            all += want.norm_sqr();
        }
        modes.iter_mut().for_each(|mode| mode.residue *= correct(mode.value));
        (off <= 1e-16 * all).then_some(modes)
    }
}

/// By how much the modes of an output cancel each other: the sum of their amplitudes under noise, over the output's amplitude.
///
/// Each is computed in `f32`, so that the output loses as many digits. The untrained HiPPO-LegS matrix has real eigenvalues
/// whose eigenvectors are nearly parallel: 1e9 with 16 states and hopeless beyond. Parameters that have been trained lie around
/// 100.
pub(super) fn cancellation(modes: &[Mode], steps: Discretisation) -> f64 {
    // Of every mode: its factor less one, and its share of the output for a state that sums up its input.
    let terms: Vec<(Complex, Complex)> = modes
        .iter()
        .map(|mode| {
            let e = steps.factor_minus_one(mode.value);
            (e, mode.residue * e / mode.value)
        })
        .collect();
    // 1 - (1 + e) (1 + f)
    let fall = |e: Complex, f: Complex| -(e + f + e * f);
    let amplitudes: f64 = terms.iter().map(|(e, r)| (r.norm_sqr() / fall(*e, e.conj()).re).sqrt()).sum();
    let pairs = || terms.iter().flat_map(|a| terms.iter().map(move |b| (a, b)));
    // The mean square of a real part is half of that of the number and of its square.
    let whole: Complex = pairs().map(|(a, b)| a.1 * b.1.conj() / fall(a.0, b.0.conj()) + a.1 * b.1 / fall(a.0, b.0)).sum();
    match (0.5 * whole.re).sqrt() {
        output if output > 0.0 => amplitudes / output,
        _ => f64::INFINITY,
    }
}

/// A vector of which one of each conjugate pair is given.
fn both(half: &[Complex]) -> Vector {
    Vector::from_iterator(2 * half.len(), half.iter().copied().chain(half.iter().map(|z| z.conj())))
}

/// Eigenvalues and eigenvectors of length 1, by the Schur form `M = Q T Q*` and back substitution in the triangle T.
fn eigenvectors(m: &Matrix) -> Option<(Vec<Complex>, Matrix)> {
    let n = m.nrows();
    let (q, t) = Schur::try_new(m.clone(), f64::EPSILON, 100 * n)?.unpack();
    let mut x = Matrix::identity(n, n);
    for k in 0..n {
        for i in (0..k).rev() {
            let sum: Complex = (i + 1..=k).map(|j| t[(i, j)] * x[(j, k)]).sum();
            x[(i, k)] = -sum / (t[(i, i)] - t[(k, k)]);
        }
    }
    let mut vectors = q * x;
    for mut column in vectors.column_iter_mut() {
        let length = column.norm();
        column /= Complex::new(length, 0.0);
    }
    let whole = vectors.iter().all(|z| z.re.is_finite() && z.im.is_finite());
    whole.then(|| (t.diagonal().iter().copied().collect(), vectors))
}

#[cfg(test)]
mod tests {
    use super::super::discretise::Rule;
    use super::*;

    /// HiPPO-LegS as S4 begins with: its normal part diagonal, one of each conjugate pair of lambda, P and b.
    fn legs(states: usize) -> [Vec<Complex>; 3] {
        let root = |i: usize| (2.0 * i as f64 + 1.0).sqrt();
        // The normal part is -1/2 and this, skew.
        let skew = |i: usize, j: usize| match i.cmp(&j) {
            std::cmp::Ordering::Greater => -0.5 * root(i) * root(j),
            std::cmp::Ordering::Equal => 0.0,
            std::cmp::Ordering::Less => 0.5 * root(i) * root(j),
        };
        let turns = Matrix::from_fn(states, states, |i, j| Complex::new(0.0, -skew(i, j))).symmetric_eigen();
        let kept: Vec<usize> = (0..states).filter(|&i| turns.eigenvalues[i] < 0.0).collect();
        let project = |x: &dyn Fn(usize) -> f64| -> Vec<Complex> {
            kept.iter().map(|&k| (0..states).map(|i| turns.eigenvectors[(i, k)].conj() * x(i)).sum()).collect()
        };
        let lambda = kept.iter().map(|&k| Complex::new(-0.5, turns.eigenvalues[k])).collect();
        [lambda, project(&|i| (i as f64 + 0.5).sqrt()), project(&root)]
    }

    fn number(i: usize, k: f64) -> Complex {
        Complex::new((k * (i + 1) as f64).sin(), (1.7 * k * (i + 2) as f64).cos())
    }

    #[test]
    fn hippo_runs_as_modes_once_it_is_trained() {
        let steps = Discretisation { rule: Rule::Bilinear, irregular: false };
        for half in [8, 16, 32] {
            for moved in [0.0, 0.03] {
                let [mut lambda, mut p, b] = legs(2 * half);
                assert_eq!(lambda.len(), half);
                lambda.iter_mut().enumerate().for_each(|(i, l)| *l *= 1.0 + moved * number(i, 0.7).re);
                p.iter_mut().enumerate().for_each(|(i, p)| *p *= 1.0 + moved * number(i, 1.9));
                let c: Vec<Complex> = (0..half).map(|i| number(i, 2.3)).collect();
                let modes = Modes::of_dplr(&lambda, &[p], &b, &vec![0.01; half]).unwrap().output(&c, |_| Complex::new(1.0, 0.0));
                let lost = modes.map_or(f64::INFINITY, |modes| cancellation(&modes, steps));
                assert!(if moved > 0.0 { lost < 400.0 } else { lost > 1e6 }, "{half} pairs, moved by {moved}: {lost:e}");
            }
        }
    }

    #[test]
    fn a_dense_system_and_its_modes_step_alike() {
        let half = 9;
        let lambda: Vec<Complex> = (0..half).map(|i| Complex::new(-0.02, -0.03 * i as f64)).collect();
        let p: Vec<Complex> = (0..half).map(|i| 0.1 * number(i, 0.9)).collect();
        let [b, c] = [1.3, 2.1].map(|k| (0..half).map(|i| number(i, k)).collect::<Vec<_>>());
        let steps = Discretisation { rule: Rule::Bilinear, irregular: false };
        let modes =
            Modes::of_dplr(&lambda, std::slice::from_ref(&p), &b, &[1.0; 9]).unwrap().output(&c, |_| Complex::new(1.0, 0.0)).unwrap();
        assert!(modes.len() < 2 * half && cancellation(&modes, steps) < 100.0);
        // The dense system, by the trapezoidal rule.
        let p = both(&p);
        let m = Matrix::from_diagonal(&both(&lambda)) - &p * p.adjoint();
        let (one, n) = (Complex::new(1.0, 0.0), 2 * half);
        let half_step = m.scale(0.5);
        let inverse = (Matrix::from_diagonal_element(n, n, one) - &half_step).try_inverse().unwrap();
        let (a, drive) = (&inverse * (Matrix::from_diagonal_element(n, n, one) + half_step), &inverse * both(&b));
        let (mut x, mut s) = (Vector::zeros(n), vec![Complex::new(0.0, 0.0); modes.len()]);
        for t in 0..200 {
            let u = (0.37 * f64::from(t)).sin();
            x = &a * x + drive.scale(u);
            let want = (both(&c).transpose() * &x)[0].re;
            let mut got = 0.0;
            for (s, mode) in s.iter_mut().zip(&modes) {
                let stepped = steps.stepped(mode.value, 1.0);
                *s += stepped.a * *s + u;
                got += (mode.residue * stepped.gain * *s).re;
            }
            assert!((got - want).abs() < 1e-10 * (1.0 + want.abs()), "step {t}: {got} and {want}");
        }
    }
}
