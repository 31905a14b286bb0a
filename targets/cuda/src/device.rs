//! A GPU: found, asked what it is, and given kernels.

use crate::cubins::{Code, code_for};
use crate::error::Error;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// Oldest version of CUDA that a driver must support: graphs are made as it makes them.
const OLDEST_DRIVER: i32 = 11_040;

/// A GPU and the stream on which all work of a session is queued.
#[derive(Clone, Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    capability: (i32, i32),
    processors: u32,
}

impl Device {
    /// Opens GPU `ordinal`.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        // SAFETY: it only looks for the library, whose loading runs the driver's own start-up code.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        let mut version = 0;
        // SAFETY: the function may be called before anything else, and writes one number to where it is told.
        let _ = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        if version < OLDEST_DRIVER {
            return Err(Error::OldDriver { version });
        }
        let context = CudaContext::new(ordinal).map_err(|fault| Error::NoDevice { ordinal, fault })?;
        // SAFETY: events would order several streams; a session has one, and its memory is one arena that outlives its work.
        unsafe { context.disable_event_tracking() };
        let capability = context.compute_capability().map_err(Error::driver("asking for the compute capability"))?;
        if capability.0 < 8 {
            let name = context.name().unwrap_or_else(|_| format!("GPU {ordinal}"));
            return Err(Error::UnknownArchitecture { name, capability });
        }
        let processors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(Error::driver("asking for the number of processors"))?;
        let stream = context.new_stream().map_err(Error::driver("making a stream"))?;
        Ok(Device { context, stream, capability, processors: processors.max(1) as u32 })
    }

    /// The GPU's name.
    pub fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| "a GPU without a name".into())
    }

    /// Its compute capability, major and minor.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Its streaming multiprocessors.
    pub fn processors(&self) -> u32 {
        self.processors
    }

    /// Whether it shares the processor's memory (Jetson).
    pub fn is_integrated(&self) -> bool {
        self.context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED).is_ok_and(|integrated| integrated != 0)
    }

    /// Its name among all GPUs in the world, as `nvidia-smi -L` prints it.
    pub fn uuid(&self) -> Result<String, Error> {
        let uuid = self.context.uuid().map_err(Error::driver("asking for the GPU's number"))?;
        let mut text = String::from("GPU-");
        for (at, byte) in uuid.bytes.iter().enumerate() {
            text += if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            text += &format!("{:02x}", byte.to_ne_bytes()[0]);
        }
        Ok(text)
    }

    /// Free and total bytes of its memory.
    pub fn memory_bytes(&self) -> Result<(u64, u64), Error> {
        let (free, total) = self.context.mem_get_info().map_err(Error::driver("asking for free memory"))?;
        Ok((free as u64, total as u64))
    }

    /// The stream on which work is queued.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The driver's context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Waits until all queued work is done.
    pub fn wait(&self) -> Result<(), Error> {
        self.stream.synchronize().map_err(Error::driver("waiting for the GPU"))
    }

    /// Loads the kernels of one source from its archive (`src/cubins/NAME.bin`).
    pub fn load(&self, archive: &[u8]) -> Result<Module, Error> {
        let unknown = || Error::UnknownArchitecture { name: self.name(), capability: self.capability };
        let code = match code_for(archive, self.capability)?.ok_or_else(unknown)? {
            Code::Cubin(bytes) => Ptx::from_binary(bytes),
            Code::Ptx(text) => Ptx::from_src(String::from_utf8(text).map_err(|_| Error::Archive { what: "its text is none" })?),
        };
        let module = self.context.load_module(code).map_err(Error::driver("loading kernels"))?;
        Ok(Module(module))
    }
}

/// The kernels of one source on a GPU.
#[derive(Clone, Debug)]
pub struct Module(Arc<CudaModule>);

impl Module {
    /// An entry point.
    pub fn function(&self, name: &str) -> Result<CudaFunction, Error> {
        self.0.load_function(name).map_err(Error::driver("looking for a kernel"))
    }
}
