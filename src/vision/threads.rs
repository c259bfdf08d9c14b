//! The threads an engine computes on.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// How far engine threads stand back (Linux niceness, 0 to 19). A batch takes tenths of a second and every core, a
/// question or a request's head tens of microseconds: whoever needs a core briefly gets it at once.
const NICENESS: i32 = 10;

/// A pool of `threads` threads that yield to the rest of the process.
///
/// # Errors
/// The system refused a thread.
pub fn pool(threads: usize) -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("engine-{index}"))
        .start_handler(|_| stand_back())
        .build()
}

/// Lowers the calling thread's priority. Linux keeps niceness per thread; elsewhere, and where the system refuses, the
/// thread runs on as it is.
fn stand_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "an engine thread keeps its priority");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::{process::getpriority_process, thread::gettid};

    use super::*;

    #[test]
    fn only_the_engines_threads_stand_back() {
        let before = getpriority_process(Some(gettid())).unwrap();
        let inside = pool(1).unwrap().install(|| getpriority_process(Some(gettid())).unwrap());
        assert_eq!(inside, NICENESS.max(before));
        assert_eq!(getpriority_process(Some(gettid())).unwrap(), before);
    }
}
