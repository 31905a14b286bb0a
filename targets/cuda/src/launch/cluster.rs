//! Launches in clusters: blocks that run at the same time and write to each other's shared memory.

use super::overlap::outcome;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DriverError, sys};
use std::ffi::c_void;

/// A grid whose blocks are in clusters of `cluster` neighbours along x; 1 for none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clustered {
    pub(super) grid: (u32, u32, u32),
    pub(super) threads: u32,
    pub(super) cluster: u32,
    pub(super) shared_bytes: u32,
}

impl Clustered {
    /// The driver's description of it; `attribute` must live as long.
    fn config(&self, device: &Device, attribute: &mut sys::CUlaunchAttribute) -> sys::CUlaunchConfig {
        attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attribute.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: self.cluster, y: 1, z: 1 };
        sys::CUlaunchConfig {
            gridDimX: self.grid.0,
            gridDimY: self.grid.1,
            gridDimZ: self.grid.2,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: device.stream().cu_stream(),
            attrs: attribute,
            numAttrs: 1,
        }
    }

    /// How many such clusters the GPU, which must know clusters, runs at the same time.
    pub(super) fn at_once(&self, device: &Device, function: &CudaFunction) -> Result<u32, Error> {
        device.context().bind_to_thread().map_err(Error::driver("choosing the GPU"))?;
        let mut attribute = attribute();
        let config = self.config(device, &mut attribute);
        let mut clusters = 0;
        // SAFETY: it writes one number to where it is told; the configuration and what it points to live until it returns.
        let result = unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, function.cu_function(), &raw const config) };
        if result != sys::CUresult::CUDA_SUCCESS {
            return Err(Error::driver("asking for clusters")(DriverError(result)));
        }
        Ok(clusters.max(0) as u32)
    }

    /// Queues a kernel so; `arguments` point to its parameters, in order.
    ///
    /// # Safety
    ///
    /// The parameters are the kernel's, in order and in type, and the memory they name is there until the kernel has run.
    pub(super) unsafe fn queue(&self, device: &Device, function: &CudaFunction, arguments: &mut [*mut c_void]) -> Result<(), Error> {
        device.context().bind_to_thread().map_err(Error::driver("choosing the GPU"))?;
        let mut attribute = attribute();
        let config = self.config(device, &mut attribute);
        let (function, stream, arguments) = (function.cu_function(), config.hStream, arguments.as_mut_ptr());
        let result = if self.cluster == 1 {
            // Drivers that do not know clusters know this launch only.
            let (x, y, z) = self.grid;
            // SAFETY: the caller's promise.
            unsafe {
                sys::cuLaunchKernel(function, x, y, z, self.threads, 1, 1, self.shared_bytes, stream, arguments, std::ptr::null_mut())
            }
        } else {
            // SAFETY: the caller's promise; the configuration and what it points to live until the call returns.
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, arguments, std::ptr::null_mut()) }
        };
        outcome(result)
    }
}

/// An attribute to be filled in.
fn attribute() -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE,
        pad: Default::default(),
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 0 },
    }
}
