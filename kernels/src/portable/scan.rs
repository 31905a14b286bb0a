//! Steps of the selective scan (Mamba, equation 2 with the discretisation of its section 3.3).

use super::SCALAR;
use super::act::{exp, silu, softplus};
use super::stored::Stored;
use crate::rows::RowsMut;
use crate::table::Scan;

/// Channels handled together: what the registers hold. Each lane is on its own, so that the number changes no bit.
pub(crate) const WIDTH: usize = if SCALAR { 8 } else { 16 };

/// Lanes `at..at + WIDTH` of `x`, zero from `end` on.
#[inline(always)]
pub(crate) fn load<T: Copy + Default>(x: &[T], at: usize, end: usize) -> [T; WIDTH] {
    if at + WIDTH <= end
        && let Some(full) = x.get(at..).and_then(|x| x.first_chunk::<WIDTH>())
    {
        return *full;
    }
    let mut lanes = [T::default(); WIDTH];
    for (lane, &x) in lanes.iter_mut().zip(x.get(at..end).unwrap_or_default()) {
        *lane = x;
    }
    lanes
}

/// The reverse of [`load`]: lanes from `end` on are dropped.
#[inline(always)]
pub(crate) fn store<T: Copy>(x: &mut [T], at: usize, end: usize, lanes: [T; WIDTH]) {
    if at + WIDTH <= end
        && let Some(full) = x.get_mut(at..).and_then(|x| x.first_chunk_mut::<WIDTH>())
    {
        *full = lanes;
        return;
    }
    for (x, lane) in x.get_mut(at..end).unwrap_or_default().iter_mut().zip(lanes) {
        *x = lane;
    }
}

/// `h[n][e] <- exp(dt[e] * a[n][e]) * h[n][e] + dt[e] * x[e] * b[n]`, `y[e] = sum_n c[n] * h[n][e] + d[e] * x[e]`.
///
/// Channels lie in lanes and the sum over the state is sequential, so that no lane waits for another. The sum takes the state as it was
/// computed; how it is stored is what the next token finds.
#[inline(always)]
pub(crate) fn scan<S: Stored>(scan: &Scan<'_>, mut h: RowsMut<'_, S::Cell>, mut y: RowsMut<'_>) {
    let channels = scan.x.width();
    let heads = scan.heads.max(1);
    let per_head = channels / heads;
    let d_state = scan.b.width() / heads;
    for t in 0..scan.x.rows() {
        let (x, dt, y) = (scan.x.row(t), scan.dt.row(t), y.row_mut(t));
        let z = scan.z.map(|z| z.row(t));
        for head in 0..heads {
            let end = (head + 1) * per_head;
            let b = scan.b.row(t).get(head * d_state..).unwrap_or_default();
            let c = scan.c.row(t).get(head * d_state..).unwrap_or_default();
            let mut at = head * per_head;
            while at < end {
                let x = load(x, at, end);
                let (mut dt, bias) = (load(dt, at, end), load(scan.dt_bias, at, end));
                for i in 0..WIDTH {
                    dt[i] = softplus(dt[i] + bias[i]) * scan.gap;
                }
                let mut dx = [0.0; WIDTH];
                for i in 0..WIDTH {
                    dx[i] = dt[i] * x[i];
                }
                let mut sum = [0.0; WIDTH];
                for (n, (&b, &c)) in b.iter().zip(c).take(d_state).enumerate() {
                    let a = load(scan.a.row(n), at, end);
                    let row = h.row_mut(n);
                    let mut state = load(row, at, end);
                    S::update(&mut state, |i, h| {
                        let h = exp(dt[i] * a[i]) * h + dx[i] * b;
                        sum[i] += c * h;
                        h
                    });
                    store(row, at, end, state);
                }
                let d = load(scan.d, at, end);
                for i in 0..WIDTH {
                    sum[i] += d[i] * x[i];
                }
                if let Some(z) = z {
                    let z = load(z, at, end);
                    for i in 0..WIDTH {
                        sum[i] *= silu(z[i]);
                    }
                }
                store(y, at, end, sum);
                at += WIDTH;
            }
        }
    }
}
