//! Batches of JPEGs to interleaved RGB in device memory: the handles of nvJPEG, their lifetimes, and the order of its calls.
//! Which pictures come here is not decided here, nor is memory taken for what they decode to.
//!
//! The library is lenient: of a picture whose entropy-coded data is damaged it yields what it can, and one picture whose
//! headers it does not take fails the whole batch.
#![allow(unsafe_code, reason = "a C library and raw device memory")]

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUstream};

use super::error::{NvjpegError, Status};
use super::library::{Calls, Image, Library, MAX_COMPONENT, Version, check, check_driver};

const CHANNELS: usize = 3;

/// `NVJPEG_OUTPUT_RGBI`.
const OUTPUT_RGBI: c_int = 5;
/// `NVJPEG_CSS_444`.
const CSS_444: c_int = 0;
/// `NVJPEG_FLAGS_BITSTREAM_STRICT`.
const STRICT: c_uint = 1 << 2;
/// `NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION`: chroma as libjpeg's fancy upsampling has it.
const INTERPOLATION: c_uint = 1 << 5;
/// The first version that has it.
const INTERPOLATES: Version = Version { major: 12, minor: 1, patch: 0 };

/// What of the GPU decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The JPEG engine: baseline pictures of one scan (`header` says which).
    Hardware,
    /// Threads of the processor for the Huffman codes and the GPU's cores for the rest, as the library sees fit.
    Cuda,
    /// The GPU's cores for the Huffman codes too, in batches of more than 50 baseline pictures.
    CudaHuffman,
}

impl Backend {
    /// `nvjpegBackend_t`.
    fn code(self) -> c_int {
        match self {
            Self::Cuda => 0,
            Self::CudaHuffman => 2,
            Self::Hardware => 3,
        }
    }
}

/// How a decoder is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What decodes.
    pub backend: Backend,
    /// Most pictures of a batch; at least 1.
    pub batch: usize,
    /// Threads of the processor that the library may use; at least 1, of no use to the JPEG engine.
    pub threads: usize,
    /// Whether files that depart from the JPEG specification are errors, rather than decoded as well as may be.
    pub strict: bool,
}

/// Where a picture goes: `[height, width, 3]` bytes on the device, rows `pitch` bytes apart.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pointer: CUdeviceptr,
    pitch: usize,
    width: u32,
    height: u32,
}

impl Target {
    /// A place for `width` x `height` pixels from `pointer` on, rows `pitch` bytes apart.
    ///
    /// # Safety
    ///
    /// From the start of every [`Decoder::decode`] that is given the target to its end, `pitch * height` bytes from
    /// `pointer` on are memory of that decoder's device, and nothing else uses them except work that the decoder's own
    /// stream was given before.
    pub unsafe fn new(pointer: CUdeviceptr, pitch: usize, width: u32, height: u32) -> Self {
        Self { pointer, pitch, width, height }
    }

    fn image(&self) -> Image {
        let mut image = Image { channel: [ptr::null_mut(); MAX_COMPONENT], pitch: [0; MAX_COMPONENT] };
        // An address of the device: nothing here reads or writes it.
        image.channel[0] = ptr::without_provenance_mut(self.pointer as usize);
        image.pitch[0] = self.pitch;
        image
    }
}

/// nvJPEG's handles for one thread at a time and one stream.
#[derive(Debug)]
pub struct Decoder {
    // Handles are dropped in this order: what was made of another goes before it.
    parser: Owned,
    state: Owned,
    handle: Owned,
    calls: Arc<Calls>,
    context: CUcontext,
    stream: CUstream,
    settings: Settings,
    /// The batch size that the state is ready for.
    ready: Option<usize>,
    pointers: Vec<*const u8>,
    lengths: Vec<usize>,
    images: Vec<Image>,
}

// SAFETY: no handle is tied to the thread that made it: the library asks for one thread at a time, which `&mut self` gives,
// and for the device being current, which every call sees to. The pointers in the vectors are not used between calls.
unsafe impl Send for Decoder {}

impl Decoder {
    /// A decoder in the context that is current in the calling thread, whose work goes to `stream`.
    ///
    /// # Errors
    ///
    /// No driver, no context, no JPEG engine ([`NvjpegError::NoEngine`]), no memory, or settings that make no sense.
    ///
    /// # Safety
    ///
    /// `stream` is a stream of the current context, which is its device's primary one; both outlive the decoder.
    pub unsafe fn new(library: &Library, stream: CUstream, settings: Settings) -> Result<Self, NvjpegError> {
        let Settings { backend, batch, threads, strict } = settings;
        let counts = |count: usize| count > 0 && c_int::try_from(count).is_ok();
        if !counts(batch) || !counts(threads) {
            return Err(NvjpegError::Settings { batch, threads });
        }
        let calls = Arc::clone(&library.calls);
        if !(calls.driver.present)() {
            return Err(NvjpegError::NoDriver);
        }
        let mut context = ptr::null_mut();
        // SAFETY: the driver is there, and `context` may be written for the length of the call.
        check_driver("cuCtxGetCurrent", unsafe { (calls.driver.context)(&mut context) })?;
        if context.is_null() {
            return Err(NvjpegError::NoContext);
        }
        let mut flags = if strict { STRICT } else { 0 };
        if library.version() >= INTERPOLATES {
            flags |= INTERPOLATION;
        }
        let handle = Owned::new("nvjpegCreateEx", calls.destroy, |handle| {
            // SAFETY: no allocators stands for the library's own, and `handle` may be written for the length of the call.
            unsafe { (calls.create_ex)(backend.code(), ptr::null_mut(), ptr::null_mut(), flags, handle) }
        })
        .map_err(|error| match error {
            NvjpegError::Library { status: Status::ArchMismatch, .. } if backend == Backend::Hardware => {
                NvjpegError::NoEngine
            }
            error => error,
        })?;
        let state = Owned::new("nvjpegJpegStateCreate", calls.state_destroy, |state| {
            // SAFETY: the handle is alive, and `state` may be written for the length of the call.
            unsafe { (calls.state_create)(handle.pointer, state) }
        })?;
        let parser = Owned::new("nvjpegJpegStreamCreate", calls.stream_destroy, |parser| {
            // SAFETY: the handle is alive, and `parser` may be written for the length of the call.
            unsafe { (calls.stream_create)(handle.pointer, parser) }
        })?;
        if let (Backend::Hardware, Some(pre_allocate)) = (backend, calls.batched_pre_allocate) {
            // Has the engine keep its memory in a pool, whatever the sizes; if it will not, it is only slower.
            // SAFETY: handle and state are alive and of one another; the rest are plain numbers in range.
            unsafe { pre_allocate(handle.pointer, state.pointer, 1, 1, 1, CSS_444, OUTPUT_RGBI) };
        }
        Ok(Self {
            parser,
            state,
            handle,
            calls,
            context,
            stream,
            settings,
            ready: None,
            pointers: Vec::with_capacity(batch),
            lengths: Vec::with_capacity(batch),
            images: Vec::with_capacity(batch),
        })
    }

    /// How it was made.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Engines of the device, and decoding cores of each; nothing if the library does not tell.
    pub fn engines(&self) -> Option<(u32, u32)> {
        let (mut engines, mut cores) = (0, 0);
        // SAFETY: the handle is alive, and both numbers may be written for the length of the call.
        let code = unsafe { (self.calls.hardware_info?)(self.handle.pointer, &mut engines, &mut cores) };
        Status::of(code).is_none().then_some((engines, cores))
    }

    /// Width and height of `jpeg` in pixels, by its headers.
    ///
    /// # Errors
    ///
    /// Headers that do not parse.
    pub fn size(&self, jpeg: &[u8]) -> Result<(u32, u32), NvjpegError> {
        let (mut components, mut subsampling) = (0, 0);
        let (mut widths, mut heights) = ([0; MAX_COMPONENT], [0; MAX_COMPONENT]);
        // SAFETY: the handle is alive, `jpeg` has as many bytes as are said, and of the arrays the library writes as many
        // numbers as they have; all of them for the length of the call.
        let code = unsafe {
            (self.calls.get_image_info)(
                self.handle.pointer,
                jpeg.as_ptr(),
                jpeg.len(),
                &mut components,
                &mut subsampling,
                &mut widths,
                &mut heights,
            )
        };
        check("nvjpegGetImageInfo", code)?;
        match (u32::try_from(widths[0]), u32::try_from(heights[0])) {
            (Ok(width @ 1..), Ok(height @ 1..)) => Ok((width, height)),
            _ => Err(NvjpegError::Nothing { call: "nvjpegGetImageInfo" }),
        }
    }

    /// Whether the library takes `jpeg` in a batch of this backend, by its headers.
    ///
    /// # Errors
    ///
    /// Headers that do not parse.
    pub fn supported(&mut self, jpeg: &[u8]) -> Result<bool, NvjpegError> {
        let (handle, parser) = (self.handle.pointer, self.parser.pointer);
        // SAFETY: both handles are alive, and `jpeg` has as many bytes as are said; only its headers are kept.
        let code = unsafe { (self.calls.stream_parse_header)(handle, jpeg.as_ptr(), jpeg.len(), parser) };
        check("nvjpegJpegStreamParseHeader", code)?;
        // Zero says yes.
        let mut answer = -1;
        // SAFETY: both handles are alive, and `answer` may be written for the length of the call.
        let code = unsafe { (self.calls.batched_supported)(handle, parser, &mut answer) };
        check("nvjpegDecodeBatchedSupported", code)?;
        Ok(answer == 0)
    }

    /// Decodes `jpegs`, each into the target of the same index, and waits until they are there; no pictures are no work. The
    /// decoder's context stays current in the calling thread.
    ///
    /// # Errors
    ///
    /// Too many pictures, targets of other sizes, headers that do not parse, and whatever the library or the device report.
    /// Then targets hold anything; the decoder can be used again unless the error is the driver's.
    pub fn decode(&mut self, jpegs: &[&[u8]], targets: &[Target]) -> Result<(), NvjpegError> {
        self.fit(jpegs, targets)?;
        if jpegs.is_empty() {
            return Ok(());
        }
        self.enter()?;
        self.pointers.clear();
        self.pointers.extend(jpegs.iter().map(|jpeg| jpeg.as_ptr()));
        self.lengths.clear();
        self.lengths.extend(jpegs.iter().map(|jpeg| jpeg.len()));
        self.images.clear();
        self.images.extend(targets.iter().map(Target::image));
        // The engine writes as soon as it is called and does not wait for the stream, as opposed to what is documented.
        self.synchronize()?;
        self.prepare(jpegs.len())?;
        self.ready = None;
        // SAFETY: the handles are alive and the state is ready for this many pictures, which is the length of the three
        // vectors; the files' bytes are borrowed until this function returns, which is after the stream has been waited for;
        // targets are writable by their contract, and as large as the pictures by `fit`.
        let code = unsafe {
            (self.calls.batched)(
                self.handle.pointer,
                self.state.pointer,
                self.pointers.as_ptr(),
                self.lengths.as_ptr(),
                self.images.as_mut_ptr(),
                self.stream,
            )
        };
        // Whatever became of it, copies of the files may be under way.
        let waited = self.synchronize();
        check("nvjpegDecodeBatched", code)?;
        waited?;
        self.ready = Some(jpegs.len());
        Ok(())
    }

    /// Whether each picture has a target of its size.
    fn fit(&self, jpegs: &[&[u8]], targets: &[Target]) -> Result<(), NvjpegError> {
        let (pictures, limit) = (jpegs.len(), self.settings.batch);
        if pictures > limit {
            return Err(NvjpegError::Batch { pictures, limit });
        }
        if pictures != targets.len() {
            return Err(NvjpegError::Targets { targets: targets.len(), pictures });
        }
        for (index, (jpeg, target)) in jpegs.iter().zip(targets).enumerate() {
            let picture =
                self.size(jpeg).map_err(|error| NvjpegError::Picture { index, source: Box::new(error) })?;
            if picture != (target.width, target.height) {
                return Err(NvjpegError::Size { index, picture, target: (target.width, target.height) });
            }
            let row = target.width as usize * CHANNELS;
            if target.pitch < row {
                return Err(NvjpegError::Pitch { index, pitch: target.pitch, row });
            }
        }
        Ok(())
    }

    /// Makes the state ready for batches of `pictures`, at most the settings' batch.
    fn prepare(&mut self, pictures: usize) -> Result<(), NvjpegError> {
        if self.ready == Some(pictures) {
            return Ok(());
        }
        self.ready = None;
        // SAFETY: the handles are alive and no batch is under way; the counts fit by `new`.
        let code = unsafe {
            (self.calls.batched_initialize)(
                self.handle.pointer,
                self.state.pointer,
                pictures as c_int,
                self.settings.threads as c_int,
                OUTPUT_RGBI,
            )
        };
        check("nvjpegDecodeBatchedInitialize", code)
    }

    fn enter(&self) -> Result<(), NvjpegError> {
        // SAFETY: the context outlives the decoder by the contract of `new`.
        check_driver("cuCtxSetCurrent", unsafe { (self.calls.driver.enter)(self.context) })
    }

    fn synchronize(&self) -> Result<(), NvjpegError> {
        // SAFETY: the stream outlives the decoder by the contract of `new`.
        check_driver("cuStreamSynchronize", unsafe { (self.calls.driver.synchronize)(self.stream) })
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // The handles know their device by what is current. If it is gone, so is what they had there.
        let _ = self.enter();
    }
}

/// A handle that is given back when dropped.
#[derive(Debug)]
struct Owned {
    pointer: *mut c_void,
    destroy: unsafe extern "C" fn(*mut c_void) -> c_int,
}

impl Owned {
    /// The handle that `create`, which is `call`, writes; `destroy` gives it back.
    fn new(
        call: &'static str,
        destroy: unsafe extern "C" fn(*mut c_void) -> c_int,
        create: impl FnOnce(&mut *mut c_void) -> c_int,
    ) -> Result<Self, NvjpegError> {
        let mut pointer = ptr::null_mut();
        check(call, create(&mut pointer))?;
        if pointer.is_null() {
            return Err(NvjpegError::Nothing { call });
        }
        Ok(Self { pointer, destroy })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle was made by the counterpart of `destroy`, is given back once, and nothing made of it is left.
        unsafe { (self.destroy)(self.pointer) };
    }
}

#[cfg(test)]
mod tests;
