//! What libjpeg reports, and that it goes no further. It leaves by unwinding, which [`contain`] turns into an error, and
//! it goes on after most damage, which [`error_manager`] does not let it. Which of its messages it was cannot be read
//! without `unsafe`; the state it was in can, and tells damaged pixels from a harmless oddity of the header.

use std::io;
use std::os::raw::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr};

/// Why libjpeg did not decode the picture.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecoderError {
    /// It is not possible to start on the pixels.
    #[error("the headers make no sense")]
    Headers,
    /// The scans hold fewer bits than their pixels need, or other ones, or more.
    #[error("the entropy-coded data is damaged or cut short")]
    EntropyCodedData,
    /// The binding refused it.
    #[error(transparent)]
    Binding(#[from] io::Error),
    /// The binding panicked; the panic is in the log.
    #[error("the decoder gave up")]
    Panic,
}

/// `DSTATE_READY` of libjpeg's `jpegint.h`: the headers up to the first scan are read, its data is not. Later states are
/// larger; in all of them entropy-coded data is being read.
const READY: c_int = 202;

/// libjpeg's error handler: fatal errors unwind, and so do warnings once entropy-coded data is being read.
pub(super) fn error_manager() -> jpeg_error_mgr {
    jpeg_error_mgr {
        error_exit: Some(leave),
        emit_message: Some(take_warnings_seriously),
        output_message: Some(ignore),
        // Called only by the three handlers that are replaced here.
        format_message: None,
        reset_error_mgr: Some(ignore),
        msg_code: 0,
        msg_parm: Default::default(),
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: ptr::null(),
        last_jpeg_message: 0,
        addon_message_table: ptr::null(),
        first_addon_message: 0,
        last_addon_message: 0,
    }
}

/// Runs `decode`; whatever unwinds out of it becomes an error.
pub(super) fn contain<T>(decode: impl FnOnce() -> io::Result<T>) -> Result<T, DecoderError> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(result) => Ok(result?),
        Err(payload) => Err(payload.downcast().map_or(DecoderError::Panic, |error| *error)),
    }
}

#[cold]
extern "C-unwind" fn leave(decoder: &mut jpeg_common_struct) {
    let error = match decoder.global_state {
        ..=READY => DecoderError::Headers,
        _ => DecoderError::EntropyCodedData,
    };
    // Not a panic: the panic hook is not to hear of it.
    resume_unwind(Box::new(error));
}

/// Levels below zero are warnings, the others traces.
extern "C-unwind" fn take_warnings_seriously(decoder: &mut jpeg_common_struct, level: c_int) {
    if level < 0 && decoder.global_state > READY {
        leave(decoder);
    }
}

extern "C-unwind" fn ignore(_: &mut jpeg_common_struct) {}
