//! What the servers of this process log, kept so that tests can look for it.

use std::{
    io::{self, Write},
    sync::{Mutex, OnceLock},
};

use tracing_subscriber::fmt::MakeWriter;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Keep;

impl Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Keeper;

impl MakeWriter<'_> for Keeper {
    type Writer = Keep;

    fn make_writer(&self) -> Keep {
        Keep
    }
}

/// Keeps every line from `info` up, from now on.
pub(crate) fn keep() {
    static KEPT: OnceLock<()> = OnceLock::new();
    KEPT.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_env_filter("info,access=off")
            .with_writer(Keeper)
            .with_ansi(false)
            .init();
    });
}

/// The lines kept so far, of every server of this process.
pub(crate) fn lines() -> Vec<String> {
    let text = LINES.lock().unwrap().clone();
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}
