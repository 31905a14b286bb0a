//! A checkpoint that never was: any tensor a family asks for, with numbers of a plausible size. For timing shapes.

/// Numbers for tensor `name` of the given sizes: the same for the same name.
pub(crate) fn numbers(name: &str, shape: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let mut draw = uniform(name);
    // Time steps between a thousandth and a tenth, decay rates of 1 to 16: a state that neither dies nor blows up.
    if name.ends_with("A_log") {
        return (0..count).map(|_| (1.0 + 15.0 * draw()).ln()).collect();
    }
    if ["dt_bias", "dt_proj.bias"].iter().any(|end| name.ends_with(end)) {
        return (0..count).map(|_| (1e-3f32 * 100.0f32.powf(draw())).exp_m1().ln()).collect();
    }
    if shape.len() < 2 {
        let centre = if name.ends_with("bias") { 0.0 } else { 1.0 };
        return (0..count).map(|_| centre + 0.1 * (draw() - 0.5)).collect();
    }
    let fan_in: usize = shape[1..].iter().product();
    let bound = (3.0 / fan_in as f32).sqrt();
    (0..count).map(|_| bound * (2.0 * draw() - 1.0)).collect()
}

/// Numbers in 0..1 that depend on `name` alone (splitmix64).
fn uniform(name: &str) -> impl FnMut() -> f32 {
    let mut x = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    move || {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u32 as f32 / 4_294_967_296.0
    }
}
