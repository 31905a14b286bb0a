//! Launches that overlap with the kernel before them (programmatic dependent launch): its end, and the copying of the next kernel's weights, go on
//! together. Only for kernels that call `wait_for_previous` before they read what others write.

use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DriverError, sys};
use std::ffi::c_void;
use std::sync::OnceLock;

/// Queues a kernel of this grid, block and shared memory; `arguments` point to its parameters, in order.
///
/// # Safety
///
/// The parameters are the kernel's, in order and in type, and the memory they name is there until the kernel has run.
pub(super) unsafe fn queue_overlapping(
    device: &Device,
    function: &CudaFunction,
    grid: (u32, u32),
    block: u32,
    shared_bytes: u32,
    arguments: &mut [*mut c_void],
) -> Result<(), Error> {
    device.context().bind_to_thread().map_err(Error::driver("choosing the GPU"))?;
    let stream = device.stream().cu_stream();
    if device.capability().0 < 9 || driver_version() < OVERLAPPING_DRIVER {
        let (function, arguments, none) = (function.cu_function(), arguments.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the caller's promise.
        let result = unsafe { sys::cuLaunchKernel(function, grid.0, grid.1, 1, block, 1, 1, shared_bytes, stream, arguments, none) };
        return outcome(result);
    }
    let mut overlap = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: Default::default(),
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: grid.0,
        gridDimY: grid.1,
        gridDimZ: 1,
        blockDimX: block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared_bytes,
        hStream: stream,
        attrs: &raw mut overlap,
        numAttrs: 1,
    };
    // SAFETY: the caller's promise; the configuration lives until the call returns, and so does what it points to.
    outcome(unsafe { sys::cuLaunchKernelEx(&raw const config, function.cu_function(), arguments.as_mut_ptr(), std::ptr::null_mut()) })
}

/// First version of CUDA whose graphs keep such launches overlapping.
const OVERLAPPING_DRIVER: i32 = 12_030;

/// The driver's version of CUDA, asked once.
fn driver_version() -> i32 {
    static VERSION: OnceLock<i32> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let mut version = 0;
        // SAFETY: it writes one number to where it is told.
        let _ = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        version
    })
}

/// What the driver says to a launch.
pub(super) fn outcome(result: sys::CUresult) -> Result<(), Error> {
    if result == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(Error::driver("starting a kernel")(DriverError(result))) }
}

/// A kernel's arguments as the driver takes them: pointers to what outlives the launch.
macro_rules! pointers {
    ($($argument:expr),+ $(,)?) => { [$((&raw const $argument).cast_mut().cast::<std::ffi::c_void>()),+] };
}
pub(super) use pointers;

/// Queues a kernel so: `overlapping!(device, function, grid, threads, shared bytes, arguments..)`.
macro_rules! overlapping {
    ($device:expr, $function:expr, $grid:expr, $threads:expr, $shared_bytes:expr, $($argument:expr),+ $(,)?) => {{
        let mut arguments = $crate::launch::overlap::pointers![$($argument),+];
        // SAFETY: a launcher gives its kernel's parameters in order and in type, and addresses of an arena.
        unsafe { $crate::launch::overlap::queue_overlapping($device, $function, $grid, $threads, $shared_bytes, &mut arguments) }
    }};
}
pub(super) use overlapping;

/// Lets a kernel have so much shared memory as a block of this GPU can have, and says how much that is.
pub(super) fn allow_shared(device: &Device, function: &CudaFunction) -> Result<u32, Error> {
    let most = device
        .context()
        .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        .map_err(Error::driver("asking for shared memory"))?;
    function
        .set_attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most)
        .map_err(Error::driver("asking for shared memory"))?;
    Ok(most.max(0) as u32)
}
