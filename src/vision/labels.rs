//! What each class is called: the embedded ImageNet-1k names, or a file with one label a line.
//!
//! Texts may repeat ("crane" is a bird and a machine); the class index is the identity.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The 1000 classes of ILSVRC 2012 in torchvision's order: WordNet id, space, synonyms.
const IMAGENET: &str = include_str!("../../weights/imagenet-1k.txt");
/// Larger than any list of class names.
const MAX_BYTES: u64 = 16 << 20;

/// The labels of one model, one a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels(Vec<String>);

/// Why there are no labels.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LabelsError {
    /// The system did not give the file, or it is not UTF-8.
    #[error("cannot read labels {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file is no list of names.
    #[error("labels {} is over {limit} bytes: give a text file with one label a line", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    /// A blank line would shift every label after it.
    #[error("labels {} has a blank line {line}: give one label a line", path.display())]
    Blank { path: PathBuf, line: usize },
    /// Labels and weights belong to different models.
    #[error("labels {} has {labels} lines, weights {} has {classes} classes", path.display(), weights.display())]
    Count { path: PathBuf, labels: usize, weights: PathBuf, classes: usize },
    /// The embedded labels do not fit.
    #[error("weights {} has {classes} classes, not ImageNet's 1000: give a labels file", weights.display())]
    Required { weights: PathBuf, classes: usize },
}

impl Labels {
    /// The labels for `weights` with `classes` classes: those in `path`, or ImageNet's when `None`.
    ///
    /// # Errors
    /// The file cannot be used or has another number of lines; or none was given and there are not 1000 classes.
    pub fn load(path: Option<&Path>, weights: &Path, classes: usize) -> Result<Self, LabelsError> {
        let Some(path) = path else {
            let labels = Self::imagenet();
            let required = || LabelsError::Required { weights: weights.into(), classes };
            return (labels.len() == classes).then_some(labels).ok_or_else(required);
        };
        let text = read(path)?;
        if let Some(line) = text.lines().position(|line| line.trim().is_empty()) {
            return Err(LabelsError::Blank { path: path.into(), line: line + 1 });
        }
        let labels = Self::parse(&text);
        match labels.len() {
            n if n == classes => Ok(labels),
            n => Err(LabelsError::Count { path: path.into(), labels: n, weights: weights.into(), classes }),
        }
    }

    /// The 1000 ImageNet classes.
    pub fn imagenet() -> Self {
        Self::parse(IMAGENET)
    }

    /// The label of a class: its whole line ("n01440764 tench, Tinca tinca").
    ///
    /// # Panics
    /// When the model has no such class: there is a label for each.
    pub fn of(&self, class: u32) -> &str {
        &self.0[class as usize]
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().map(|line| line.trim().to_owned()).collect())
    }
}

/// The file as text, without a byte order mark and without blank lines at its end.
fn read(path: &Path) -> Result<String, LabelsError> {
    let failed = |source| LabelsError::Read { path: path.into(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(LabelsError::TooLarge { path: path.into(), limit: MAX_BYTES });
    }
    Ok(text.trim_start_matches('\u{feff}').trim_end().into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn load(content: &[u8], classes: usize) -> Result<Labels, LabelsError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        Labels::load(Some(file.path()), Path::new("w.safetensors"), classes)
    }

    #[test]
    fn imagenet_is_complete_and_in_order() {
        let labels = Labels::imagenet();
        assert_eq!(labels.len(), 1000);
        assert_eq!(labels.of(0), "n01440764 tench, Tinca tinca");
        let id = |class: u32| labels.of(class).split_once(' ').unwrap().0;
        assert!((0..1000).all(|class| id(class).len() == 9 && id(class).starts_with('n')));
        assert!((1..1000).all(|class| id(class) > id(class - 1)), "torchvision sorts by WordNet id");
    }

    #[test]
    fn files_from_any_editor_are_read() {
        let labels = load("\u{feff}ripe\r\nnot ripe\r\nripe\r\n\r\n".as_bytes(), 3).unwrap();
        let texts: Vec<&str> = (0..3).map(|class| labels.of(class)).collect();
        assert_eq!(texts, ["ripe", "not ripe", "ripe"]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_files_and_numbers() {
        let text = load(b"a\nb\n", 3).unwrap_err().to_string();
        assert!(text.contains("2 lines") && text.contains("w.safetensors has 3 classes"), "{text}");
        assert!(matches!(load(b"a\n\nb\n", 3), Err(LabelsError::Blank { line: 2, .. })));
        assert!(matches!(load(b"\xff\xfe", 1), Err(LabelsError::Read { .. })));
        assert!(matches!(load(b"", 1), Err(LabelsError::Count { labels: 0, .. })));
        let none = Labels::load(None, Path::new("w"), 7);
        assert!(matches!(none, Err(LabelsError::Required { classes: 7, .. })));
        assert_eq!(Labels::load(None, Path::new("w"), 1000).unwrap(), Labels::imagenet());
    }
}
