//! Finding nvJPEG and the functions of it and of the driver that decoding calls, with their signatures. When and in which
//! order they are called is `decoder`'s.
//!
//! Signatures and layouts are those of `nvjpeg.h` of CUDA 13.0; those used here are the same in CUDA 12.
#![allow(unsafe_code, reason = "a C library loaded at run time")]

use std::error::Error;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUcontext, CUresult, CUstream};

use super::error::{NvjpegError, Status};

/// Looked for in this order.
const NAMES: [&str; 3] = ["libnvjpeg.so.13", "libnvjpeg.so.12", "libnvjpeg.so"];

/// `NVJPEG_MAX_COMPONENT`.
pub(super) const MAX_COMPONENT: usize = 4;

/// `nvjpegImage_t`: where a picture's planes go; addresses on the device, pitches in bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Image {
    pub(super) channel: [*mut u8; MAX_COMPONENT],
    pub(super) pitch: [usize; MAX_COMPONENT],
}

// Pointers to structures that only the library looks into.
pub(super) type Handle = *mut c_void;
pub(super) type State = *mut c_void;
pub(super) type Stream = *mut c_void;

/// `nvjpegStatus_t`; any value can come back, so no Rust enum.
pub(super) type Code = c_int;

type GetProperty = unsafe extern "C" fn(c_int, *mut c_int) -> Code;
type CreateEx = unsafe extern "C" fn(c_int, *mut c_void, *mut c_void, c_uint, *mut Handle) -> Code;
type Destroy = unsafe extern "C" fn(*mut c_void) -> Code;
type Create = unsafe extern "C" fn(Handle, *mut *mut c_void) -> Code;
type GetImageInfo = unsafe extern "C" fn(
    Handle,
    *const u8,
    usize,
    *mut c_int,
    *mut c_int,
    *mut [c_int; MAX_COMPONENT],
    *mut [c_int; MAX_COMPONENT],
) -> Code;
type StreamParseHeader = unsafe extern "C" fn(Handle, *const u8, usize, Stream) -> Code;
type BatchedSupported = unsafe extern "C" fn(Handle, Stream, *mut c_int) -> Code;
type BatchedInitialize = unsafe extern "C" fn(Handle, State, c_int, c_int, c_int) -> Code;
type Batched =
    unsafe extern "C" fn(Handle, State, *const *const u8, *const usize, *mut Image, CUstream) -> Code;
type BatchedPreAllocate = unsafe extern "C" fn(Handle, State, c_int, c_int, c_int, c_int, c_int) -> Code;
type HardwareInfo = unsafe extern "C" fn(Handle, *mut c_uint, *mut c_uint) -> Code;

/// What decoding calls. A table, so that tests can put their own functions there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    pub(super) get_property: GetProperty,
    pub(super) create_ex: CreateEx,
    pub(super) destroy: Destroy,
    pub(super) state_create: Create,
    pub(super) state_destroy: Destroy,
    pub(super) stream_create: Create,
    pub(super) stream_destroy: Destroy,
    pub(super) stream_parse_header: StreamParseHeader,
    pub(super) get_image_info: GetImageInfo,
    pub(super) batched_supported: BatchedSupported,
    pub(super) batched_initialize: BatchedInitialize,
    pub(super) batched: Batched,
    /// Not in every version.
    pub(super) batched_pre_allocate: Option<BatchedPreAllocate>,
    /// Not in every version.
    pub(super) hardware_info: Option<HardwareInfo>,
    pub(super) driver: Driver,
}

/// The driver's part. The functions panic without its library, which `present` tells beforehand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Driver {
    pub(super) present: fn() -> bool,
    pub(super) context: unsafe fn(*mut CUcontext) -> CUresult,
    pub(super) enter: unsafe fn(CUcontext) -> CUresult,
    pub(super) synchronize: unsafe fn(CUstream) -> CUresult,
}

impl Driver {
    fn real() -> Self {
        Self {
            // SAFETY: it loads NVIDIA's driver library by its fixed names, whose initialisers are sound to run.
            present: || unsafe { sys::is_culib_present() },
            context: sys::cuCtxGetCurrent,
            enter: sys::cuCtxSetCurrent,
            synchronize: sys::cuStreamSynchronize,
        }
    }
}

/// A version of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// CUDA's, for nvJPEG.
    pub major: i32,
    /// Of the major version.
    pub minor: i32,
    /// Of the minor version.
    pub patch: i32,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// nvJPEG, loaded; stays so until the process ends. Clones share it.
#[derive(Debug, Clone)]
pub struct Library {
    pub(super) calls: Arc<Calls>,
    version: Version,
    name: Arc<str>,
}

impl Library {
    /// Loads `libnvjpeg.so.13`, `.so.12` or `.so`, whichever the loader finds first. Needs no GPU and no driver.
    ///
    /// # Errors
    ///
    /// None is there, or the one that is lacks a function or does not tell its version.
    pub fn open() -> Result<Self, NvjpegError> {
        Self::first_of(&NAMES)
    }

    /// Which version it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The name that it was found by.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn first_of(names: &[&str]) -> Result<Self, NvjpegError> {
        let mut tried = Vec::new();
        for name in names {
            // SAFETY: names of shared libraries that are NVIDIA's by convention; their initialisers may run at any time and in
            // any thread, and as they are never unloaded their finalisers only run when the process ends.
            match unsafe { libloading::Library::new(*name) } {
                Ok(library) => return Self::of(library, name),
                Err(error) => tried.push(reason(&error)),
            }
        }
        Err(NvjpegError::Missing { tried: tried.join("; ") })
    }

    fn of(library: libloading::Library, name: &str) -> Result<Self, NvjpegError> {
        // SAFETY: each function is asked for by the name whose signature in nvjpeg.h is that of the field.
        let calls = unsafe {
            let function = Functions { library: &library, name };
            Calls {
                get_property: function.get("nvjpegGetProperty")?,
                create_ex: function.get("nvjpegCreateEx")?,
                destroy: function.get("nvjpegDestroy")?,
                state_create: function.get("nvjpegJpegStateCreate")?,
                state_destroy: function.get("nvjpegJpegStateDestroy")?,
                stream_create: function.get("nvjpegJpegStreamCreate")?,
                stream_destroy: function.get("nvjpegJpegStreamDestroy")?,
                stream_parse_header: function.get("nvjpegJpegStreamParseHeader")?,
                get_image_info: function.get("nvjpegGetImageInfo")?,
                batched_supported: function.get("nvjpegDecodeBatchedSupported")?,
                batched_initialize: function.get("nvjpegDecodeBatchedInitialize")?,
                batched: function.get("nvjpegDecodeBatched")?,
                batched_pre_allocate: function.get("nvjpegDecodeBatchedPreAllocate").ok(),
                hardware_info: function.get("nvjpegGetHardwareDecoderInfo").ok(),
                driver: Driver::real(),
            }
        };
        let opened = Self::with(calls, name)?;
        // The functions must outlive every decoder, and CUDA's libraries do not bear being unloaded.
        std::mem::forget(library);
        Ok(opened)
    }

    /// A library of these functions.
    pub(super) fn with(calls: Calls, name: &str) -> Result<Self, NvjpegError> {
        let property = |which| {
            let mut value = 0;
            // SAFETY: `value` may be written for the length of the call, which is all that the function does.
            check("nvjpegGetProperty", unsafe { (calls.get_property)(which, &mut value) })?;
            Ok(value)
        };
        let version = Version { major: property(0)?, minor: property(1)?, patch: property(2)? };
        Ok(Self { calls: Arc::new(calls), version, name: name.into() })
    }
}

struct Functions<'a> {
    library: &'a libloading::Library,
    name: &'a str,
}

impl Functions<'_> {
    /// The address of `symbol`.
    ///
    /// # Safety
    ///
    /// `F` is the type of a function pointer, and that of `symbol`; the library stays loaded while it is called.
    unsafe fn get<F: Copy>(&self, symbol: &'static str) -> Result<F, NvjpegError> {
        // SAFETY: the type is right by the contract.
        match unsafe { self.library.get::<F>(symbol) } {
            Ok(function) => Ok(*function),
            Err(error) => {
                Err(NvjpegError::Symbol { library: self.name.to_owned(), symbol, reason: error.to_string() })
            }
        }
    }
}

/// What the loader said; the error itself only says in which function.
fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// An error if `code`, which `call` returned, is one.
pub(super) fn check(call: &'static str, code: Code) -> Result<(), NvjpegError> {
    match Status::of(code) {
        None => Ok(()),
        Some(status) => Err(NvjpegError::Library { call, status }),
    }
}

/// An error if `result`, which `call` returned, is one.
pub(super) fn check_driver(call: &'static str, result: CUresult) -> Result<(), NvjpegError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(NvjpegError::Driver { call, code: format!("{code:?}") }),
    }
}

const _: () = {
    assert!(size_of::<Image>() == MAX_COMPONENT * (size_of::<*mut c_char>() + size_of::<usize>()));
    assert!(std::mem::offset_of!(Image, pitch) == MAX_COMPONENT * size_of::<*mut c_char>());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "loads a library")]
    fn what_is_missing_is_named_and_what_to_do_too() {
        let error = Library::first_of(&["libnvjpeg-of-nobody.so.13", "libnvjpeg-of-nobody.so"]).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, NvjpegError::Missing { .. }));
        for part in ["nobody.so.13", "nobody.so:", "LD_LIBRARY_PATH"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "loads a library")]
    fn a_library_that_is_another_lacks_the_first_function() {
        let error = Library::first_of(&["libnvjpeg-of-nobody.so", "libc.so.6"]).unwrap_err();
        assert!(
            matches!(&error, NvjpegError::Symbol { library, symbol: "nvjpegGetProperty", .. } if library == "libc.so.6"),
            "{error}"
        );
    }
}
