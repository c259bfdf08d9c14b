//! Batches of JPEGs to pixels in memory of the GPU: nvJPEG with a stream and memory of its own.
//!
//! Which JPEGs come here is the caller's to decide (`nvjpeg::scan`).

#![allow(unsafe_code, reason = "copies from the GPU, which take addresses")]

use std::sync::Arc;

use cudarc::driver::{CudaStream, result};

use super::device::{Buffer, Device};
use super::error::{Context, CudaError};
use super::nvjpeg::{Backend, Decoder, Library, NvjpegError, Settings, Target};

/// Why JPEGs were not decoded.
#[derive(Debug, thiserror::Error)]
pub enum JpegsError {
    /// nvJPEG is missing, or failed or refused the batch.
    #[error(transparent)]
    Nvjpeg(#[from] NvjpegError),
    /// The GPU failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The batch does not fit.
    #[error("{pictures} JPEGs of {bytes} bytes of pixels; at most {most} and {room} go together")]
    TooMuch {
        /// JPEGs given.
        pictures: usize,
        /// Bytes of their pixels.
        bytes: usize,
        /// Most JPEGs.
        most: usize,
        /// Most bytes.
        room: usize,
    },
}

/// A decoded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Where its `[height, width, 3]` bytes begin in the decoder's memory.
    offset: usize,
}

/// A decoder with memory for a batch.
pub struct Jpegs {
    // The decoder goes before its stream and its memory.
    decoder: Decoder,
    memory: Buffer,
    room: usize,
    batch: usize,
    device: Arc<Device>,
    _stream: Arc<CudaStream>,
}

impl Jpegs {
    /// A decoder for up to `batch` JPEGs of `room` bytes of pixels together.
    ///
    /// # Errors
    /// nvJPEG is missing, the GPU has no such engine, or its memory does not suffice.
    pub fn new(
        device: &Arc<Device>,
        library: &Library,
        backend: Backend,
        batch: usize,
        room: usize,
    ) -> Result<Self, JpegsError> {
        device.bind()?;
        let stream = device.stream()?;
        let memory = device.alloc(room)?;
        let settings = Settings { backend, batch, threads: 1, strict: false };
        // SAFETY: the context is current and the device's primary one; the stream is kept behind the decoder.
        let decoder = unsafe { Decoder::new(library, stream.cu_stream(), settings) }?;
        Ok(Self { decoder, memory, room, batch, device: device.clone(), _stream: stream })
    }

    /// Engines of the device and decoding cores of each, where the library tells.
    pub fn engines(&self) -> Option<(u32, u32)> {
        self.decoder.engines()
    }

    /// Decodes a batch; its pixels stay until the next one.
    ///
    /// # Errors
    /// The batch does not fit, or nvJPEG takes one of its JPEGs not: then none is decoded.
    pub fn decode(&mut self, jpegs: &[&[u8]]) -> Result<Vec<Decoded>, JpegsError> {
        self.device.bind()?;
        let mut decoded = Vec::with_capacity(jpegs.len());
        let mut end = 0usize;
        for jpeg in jpegs {
            let (width, height) = self.decoder.size(jpeg)?;
            decoded.push(Decoded { width, height, offset: end });
            end = (end + 3 * width as usize * height as usize).next_multiple_of(256);
        }
        if end > self.room || jpegs.len() > self.batch {
            let (pictures, most) = (jpegs.len(), self.batch);
            return Err(JpegsError::TooMuch { pictures, bytes: end, most, room: self.room });
        }
        let target = |&Decoded { width, height, offset }: &Decoded| {
            let pointer = self.memory.address + offset as u64;
            // SAFETY: the picture's bytes lie in this decoder's memory, which only its stream and finished copies use.
            unsafe { Target::new(pointer, 3 * width as usize, width, height) }
        };
        let targets: Vec<Target> = decoded.iter().map(target).collect();
        self.decoder.decode(jpegs, &targets)?;
        Ok(decoded)
    }

    /// A picture's pixels, `[height, width, 3]`, of the last batch.
    ///
    /// # Errors
    /// The GPU fails.
    pub fn pixels(&self, picture: Decoded) -> Result<Vec<u8>, JpegsError> {
        self.device.bind()?;
        let mut pixels = vec![0; 3 * picture.width as usize * picture.height as usize];
        let from = self.memory.address + picture.offset as u64;
        if picture.offset + pixels.len() > self.room {
            let bytes = picture.offset + pixels.len();
            return Err(JpegsError::TooMuch { pictures: 1, bytes, most: self.batch, room: self.room });
        }
        // SAFETY: the bytes lie in the decoder's memory, and the decoder has finished.
        unsafe { result::memcpy_dtoh_sync(&mut pixels, from) }.during("copying pixels")?;
        Ok(pixels)
    }
}
