//! A file's bytes where they lie. A GPU that shares the processor's memory (Jetson) reads weights from the mapped file: no copy, and the page cache
//! holds them once for every program.

use crate::arena::Address;
use crate::device::Device;
use crate::error::Error;
use brooklet::Model;
use cudarc::driver::{CudaContext, sys};
use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

/// Bytes of a model that a GPU reads too; they outlive this, as [`crate::CudaModel`] borrows them.
pub(crate) struct Registered {
    context: Arc<CudaContext>,
    /// Where they begin, for the processor.
    host: usize,
    /// The same for the GPU.
    base: Address,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registered")
    }
}

impl Registered {
    /// Shows a GPU the bytes from a model's first section to its last; an error if it or its driver cannot see them.
    pub(crate) fn new(device: &Device, model: &Model<'_>) -> Result<Self, Error> {
        let artifact = model.artifact();
        let sections = (0..model.header().sections.count).filter_map(|id| artifact.section(id));
        let parts = || {
            sections.clone().filter_map(|section| artifact.bytes_of(&section)).filter(|bytes| !bytes.is_empty()).map(<[u8]>::as_ptr_range)
        };
        let begin = parts().map(|part| part.start).min();
        let end = parts().map(|part| part.end).max();
        let (Some(begin), Some(end)) = (begin, end) else { return Err(Error::Launch { what: "a model without weights" }) };
        let context = device.context().clone();
        let failed = |what| Error::driver(what);
        context.bind_to_thread().map_err(failed("choosing the GPU"))?;
        // Without the attribute the driver wants pages that may be written, which those of a mapped file are not.
        let may_read_only =
            context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED).unwrap_or(0) != 0;
        let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP | if may_read_only { sys::CU_MEMHOSTREGISTER_READ_ONLY } else { 0 };
        let host = begin.cast_mut().cast::<c_void>();
        let bytes = end as usize - begin as usize;
        // SAFETY: all sections lie in one slice of bytes, which the model borrows for longer than this lives; the GPU only reads them.
        unsafe { sys::cuMemHostRegister_v2(host, bytes, flags) }.result().map_err(failed("sharing the file's memory"))?;
        let mut registered = Registered { context, host: host as usize, base: Address::NULL };
        let mut base = 0;
        // SAFETY: the memory was registered just now, and the driver writes one address to where it is told.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut base, host, 0) }.result().map_err(failed("asking where shared memory lies"))?;
        registered.base = Address::on_gpu(base);
        Ok(registered)
    }

    /// Where bytes of the model lie for the GPU.
    pub(crate) fn address(&self, bytes: &[u8]) -> Address {
        self.base.plus((bytes.as_ptr() as usize).saturating_sub(self.host) as u64)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Work that reads the bytes may still be queued. Nobody can be told of an error here; the context keeps it.
        self.context.record_err(self.context.synchronize());
        // SAFETY: it was registered once, and is given back once.
        self.context.record_err(unsafe { sys::cuMemHostUnregister(self.host as *mut c_void) }.result());
    }
}
