//! What AVX2 does by hand besides products: the elementary functions in eight lanes, and the kernels that spend their time in them or in
//! walking over a state. Channels that fill no register are left to the portable kernels, compiled for AVX2.

mod act;
pub(super) mod attention;
pub(super) mod conv;
pub(super) mod gated_delta;
pub(super) mod gates;
mod lanes;
pub(super) mod norm;
pub(super) mod scan;
pub(super) mod ssd;
