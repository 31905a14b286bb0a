//! The memory of a session on the GPU: laid out first, then allocated once.

use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr, sys};
use std::fmt;

/// Parts of an arena start on multiples of this.
const ALIGN: u64 = 256;

/// A place in an arena, laid out but not yet allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    at: u64,
    bytes: u64,
}

impl Place {
    /// Its bytes.
    pub fn bytes(self) -> u64 {
        self.bytes
    }
}

/// Places one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    end: u64,
}

impl Layout {
    /// Adds a place of so many bytes, on a 256-byte boundary.
    pub fn add(&mut self, bytes: u64) -> Place {
        let place = Place { at: self.end, bytes };
        self.end = (self.end + bytes).next_multiple_of(ALIGN);
        place
    }

    /// Bytes laid out so far.
    pub fn bytes(&self) -> u64 {
        self.end
    }
}

/// An address on the GPU, or none: what kernels get. Only an [`Arena`] makes them, and a file that is read where it lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Address(u64);

impl Address {
    /// No address.
    pub const NULL: Address = Address(0);

    /// An address that the driver gave.
    pub(crate) fn on_gpu(number: u64) -> Address {
        Address(number)
    }

    /// `bytes` further on; still inside what it points to.
    pub fn plus(self, bytes: u64) -> Address {
        Address(self.0 + bytes)
    }

    /// As a number.
    pub fn number(self) -> u64 {
        self.0
    }
}

// SAFETY: a kernel sees a 64-bit pointer.
unsafe impl DeviceRepr for Address {}

/// Memory on the GPU, freed with it.
pub struct Arena {
    device: Device,
    memory: CudaSlice<u8>,
    base: u64,
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena {{ bytes: {} }}", self.memory.len())
    }
}

impl Arena {
    /// Allocates everything laid out; its bytes are whatever they are.
    pub fn new(device: &Device, layout: &Layout) -> Result<Self, Error> {
        let bytes = layout.bytes().max(ALIGN);
        let len = usize::try_from(bytes).map_err(|_| Error::OutOfMemory { needed_bytes: bytes, free_bytes: 0 })?;
        // SAFETY: the bytes are written before they are read: sessions upload or zero every part of theirs.
        let memory = unsafe { device.stream().alloc::<u8>(len) }.map_err(|fault| {
            if fault.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                let free_bytes = device.memory_bytes().map_or(0, |(free, _)| free);
                Error::OutOfMemory { needed_bytes: bytes, free_bytes }
            } else {
                Error::Driver { what: "allocating memory", fault }
            }
        })?;
        let base = memory.device_ptr(device.stream()).0;
        Ok(Arena { device: device.clone(), memory, base })
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Where a place lies.
    pub fn address(&self, place: Place) -> Address {
        Address(self.base + place.at)
    }

    /// Copies `data` to the start of a place; the copy is done when this returns, or queued if the memory is pinned.
    pub fn upload<T: DeviceRepr>(&mut self, place: Place, data: &[T]) -> Result<(), Error> {
        self.upload_at(place, 0, data)
    }

    /// Copies `data` to `at` bytes behind the start of a place.
    pub fn upload_at<T: DeviceRepr>(&mut self, place: Place, at: u64, data: &[T]) -> Result<(), Error> {
        let bytes = size_of_val(data);
        assert!(at + bytes as u64 <= place.bytes, "an upload of {bytes} bytes at {at} into a place of {}", place.bytes);
        if bytes == 0 {
            return Ok(());
        }
        let from = (place.at + at) as usize;
        // SAFETY: any number is a row of bytes.
        let data = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), bytes) };
        let mut part = self.memory.slice_mut(from..from + bytes);
        self.device.stream().memcpy_htod(data, &mut part).map_err(Error::driver("copying to the GPU"))
    }

    /// Copies one place to another that lies behind it.
    pub fn copy(&mut self, from: Place, to: Place) -> Result<(), Error> {
        assert!(from.at + from.bytes <= to.at && from.bytes <= to.bytes, "a copy to a place that does not lie behind the other");
        let (before, mut behind) = self.memory.split_at_mut(to.at as usize);
        let source = before.slice(from.at as usize..(from.at + from.bytes) as usize);
        let mut target = behind.slice_mut(..from.bytes as usize);
        self.device.stream().memcpy_dtod(&source, &mut target).map_err(Error::driver("copying inside the GPU"))
    }

    /// Sets a place to zero.
    pub fn clear(&mut self, place: Place) -> Result<(), Error> {
        if place.bytes == 0 {
            return Ok(());
        }
        let from = place.at as usize;
        let mut part = self.memory.slice_mut(from..from + place.bytes as usize);
        self.device.stream().memset_zeros(&mut part).map_err(Error::driver("clearing memory"))
    }

    /// Copies the start of a place to `data` and waits for it.
    pub fn download<T: DeviceRepr>(&self, place: Place, data: &mut [T]) -> Result<(), Error> {
        self.download_at(place, 0, data)
    }

    /// Copies what lies `at` bytes behind the start of a place to `data` and waits for it.
    pub fn download_at<T: DeviceRepr>(&self, place: Place, at: u64, data: &mut [T]) -> Result<(), Error> {
        let bytes = size_of_val(data);
        assert!(at + bytes as u64 <= place.bytes, "a download of {bytes} bytes at {at} from a place of {}", place.bytes);
        if bytes == 0 {
            return Ok(());
        }
        let from = (place.at + at) as usize;
        // SAFETY: `DeviceRepr` are numbers, for which any bytes are valid.
        let data = unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast::<u8>(), bytes) };
        let part = self.memory.slice(from..from + bytes);
        self.device.stream().memcpy_dtoh(&part, data).map_err(Error::driver("copying from the GPU"))?;
        self.device.wait()
    }
}
