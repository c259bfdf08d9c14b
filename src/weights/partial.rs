//! The one file that is written before it gets its name: `NAME.partial` beside `NAME`, locked while in use.
//!
//! A second process waits for the lock; a target is replaced by one rename after everything was written and synced, so
//! that it never holds half a file and an old one stays until the new one is whole. What is written is others' business.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// An open and locked partial file; removed when dropped, unless kept or committed.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    keep: bool,
}

impl Partial {
    /// Opens `TARGET.partial` with whatever an earlier process left in it. `waiting` is called when another one holds it.
    pub(super) fn open(target: &Path, waiting: &mut dyn FnMut()) -> io::Result<Self> {
        let mut path = target.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The one waited for may have renamed or removed the file that is now locked.
            if same_file(&file, &path)? {
                return Ok(Self { path, file, keep: false });
            }
        }
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in it.
    pub(super) fn length(&self) -> io::Result<u64> {
        self.file.metadata().map(|about| about.len())
    }

    /// Empties it.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if self.length()? > 0 {
            self.file.set_len(0)?;
        }
        self.file.rewind()
    }

    /// The file, to read it from wherever it stands.
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Leaves it for the next process to go on with; an empty one is removed all the same.
    pub(super) fn keep(mut self) {
        self.keep = self.length().is_ok_and(|length| length > 0);
    }

    /// Gives the synced file the name `target`.
    pub(super) fn commit(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        self.keep = true;
        // The rename itself is durable once the folder is; a file system that cannot sync a folder has done what it can.
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.keep {
            // Still locked: nobody else can have begun to use it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_target_changes_only_by_commit() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        fs::write(&target, "old").unwrap();
        let mut partial = Partial::open(&target, &mut || ()).unwrap();
        partial.write_all(b"half").unwrap();
        drop(partial);
        assert_eq!(
            (fs::read(&target).unwrap().as_slice(), names(folder.path())),
            (&b"old"[..], vec!["model".into()])
        );
        let mut partial = Partial::open(&target, &mut || ()).unwrap();
        partial.write_all(b"new").unwrap();
        partial.commit(&target).unwrap();
        assert_eq!(
            (fs::read(&target).unwrap().as_slice(), names(folder.path())),
            (&b"new"[..], vec!["model".into()])
        );
    }

    #[test]
    fn what_was_kept_is_found_again_and_an_empty_file_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        Partial::open(&target, &mut || ()).unwrap().keep();
        assert_eq!(names(folder.path()), [""; 0]);
        let mut partial = Partial::open(&target, &mut || ()).unwrap();
        partial.write_all(b"half").unwrap();
        partial.keep();
        assert_eq!(names(folder.path()), ["model.partial"]);
        assert_eq!(Partial::open(&target, &mut || ()).unwrap().length().unwrap(), 4);
    }

    #[test]
    fn the_second_waits_and_starts_afresh_after_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        let mut first = Partial::open(&target, &mut || ()).unwrap();
        first.write_all(b"whole").unwrap();
        let (waits, waiting) = mpsc::channel();
        let second = thread::spawn({
            let target = target.clone();
            move || Partial::open(&target, &mut || waits.send(()).unwrap()).unwrap().length().unwrap()
        });
        waiting.recv().unwrap();
        first.commit(&target).unwrap();
        assert_eq!(second.join().unwrap(), 0);
        assert_eq!(names(folder.path()), ["model"]);
    }
}
