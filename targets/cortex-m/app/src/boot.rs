//! Before the stream begins: the file is whole, it fits the sensor and the memory, and this device computes the file's own bits.

use crate::imu::CHANNELS;
use brooklet::{Error, Model, kernels, self_test};
use serde::{Deserialize, Serialize};

/// Where a device can stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Stage {
    /// The model's file in flash is damaged, or of another version.
    File,
    /// The model takes other channels than the sensor has.
    Channels,
    /// The device computed other bits than the file says, or has too little memory to try.
    SelfTest,
    /// The sensor does not answer.
    Sensor,
    /// A step was refused.
    Step,
}

/// Why the model cannot be used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// Where the device stopped.
    pub stage: Stage,
    /// Why.
    pub error: Error,
}

/// Checks every byte of `file` against its checksums, and the device against the file's golden outputs.
///
/// `state` and `scratch` are only borrowed for the test.
pub fn boot<'m>(file: &'m [u8], state: &mut [u8], scratch: &mut [u8]) -> Result<Model<'m>, Fault> {
    let at = |stage| move |error| Fault { stage, error };
    let model = Model::from_bytes(file).map_err(at(Stage::File))?;
    match model.channels() {
        Some(CHANNELS) => {}
        Some(other) => return Err(at(Stage::Channels)(Error::FrameWidth { got: CHANNELS as u32, want: other as u32 })),
        None => return Err(at(Stage::Channels)(Error::WrongInput { wants: "token ids" })),
    }
    self_test(&model, kernels::detect(), state, scratch).map_err(at(Stage::SelfTest))?;
    Ok(model)
}
