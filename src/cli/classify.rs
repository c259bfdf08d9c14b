//! `convoy classify`: photos from files, answers on the terminal, no server. Photos are decoded and scored as the server
//! does it on a processor, so the answers are the same: a GPU would take longer to get ready than a few photos take.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::{
    app::OpenClassifier,
    batch::Executor as _,
    config::{ClassifierArgs, ClassifierConfig, DeviceConfig},
    image::{Prepared, prepare},
    vision::{ClassifyInput, INPUT_SIZE, Labels, Prediction},
};

/// The name of standard input among the files.
const STDIN: &str = "-";

/// Most bytes of a file: as much as a server takes at most.
const MAX_BYTES: u64 = 1 << 30;

/// Most photos executed at once.
const MAX_BATCH: usize = 8;

/// Width of a bar that stands for certainty.
const BAR: usize = 20;

/// Flags of `convoy classify`.
#[derive(Debug, Args)]
pub(super) struct ClassifyArgs {
    /// Photos: JPEG, PNG, GIF, WebP, BMP or TIFF; - reads one from standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How many classes to show.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Print one JSON object a photo and line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    classifier: ClassifierArgs,
}

/// Classifies the files in their order; what can be answered is, whatever becomes of the others.
///
/// # Errors
/// There is no usable model, or some files could not be classified.
pub(super) fn run(args: ClassifyArgs) -> anyhow::Result<()> {
    let config = args.classifier.resolve()?;
    let mut opened = OpenClassifier::open(&config, &DeviceConfig::cpu(), MAX_BATCH.min(args.files.len()))?;
    if let Some(warning) = opened.model.random.then_some(crate::service::photos::RANDOM_WEIGHTS) {
        tracing::warn!("{warning}");
    }
    let top = (args.top as usize).min(opened.labels.len());
    let mut failed = 0;
    for files in args.files.chunks(MAX_BATCH) {
        let answers = classify(&mut opened, &config, files, top);
        failed += answers.iter().filter(|answer| answer.is_err()).count();
        for (path, answer) in files.iter().zip(answers) {
            let text = match args.json {
                true => format!("{}\n", value(path, &answer, &opened)),
                false => table(path, &answer, &opened.labels),
            };
            io::stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")?;
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} photos could not be classified", args.files.len());
    Ok(())
}

/// The answer for each file.
fn classify(
    opened: &mut OpenClassifier,
    config: &ClassifierConfig,
    files: &[PathBuf],
    top: usize,
) -> Vec<anyhow::Result<Vec<Prediction>>> {
    let prepared: Vec<_> = files.iter().map(|path| prepared(opened, config, path)).collect();
    let image = |image: &Prepared| ClassifyInput { image: image.clone().into(), top };
    let batch: Vec<_> = prepared.iter().flatten().map(image).collect();
    let results = match batch.is_empty() {
        true => Ok(Vec::new()),
        false => opened.classifiers[0].run(&batch),
    };
    let mut results = match results {
        Ok(results) => results.into_iter(),
        Err(error) => vec![Err(error); batch.len()].into_iter(),
    };
    let answer = |prepared: anyhow::Result<Prepared>| {
        prepared.and_then(|_image| Ok(results.next().expect("bug: one result an image")?))
    };
    prepared.into_iter().map(answer).collect()
}

fn prepared(opened: &OpenClassifier, config: &ClassifierConfig, path: &Path) -> anyhow::Result<Prepared> {
    let bytes = read(path)?;
    let transform = config.transforms.pick(None, opened.preprocessing);
    Ok(prepare(&bytes, &config.decode, transform, INPUT_SIZE)?)
}

/// The bytes of a file, no more than [`MAX_BYTES`].
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut source: Box<dyn io::Read> = match path.as_os_str() == STDIN {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(path).context("cannot open it")?),
    };
    let mut bytes = Vec::new();
    source.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes).context("cannot read it")?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_BYTES, "it is larger than {} MiB", MAX_BYTES >> 20);
    Ok(bytes)
}

/// A file's name and its classes under it, each with a bar.
fn table(path: &Path, answer: &anyhow::Result<Vec<Prediction>>, labels: &Labels) -> String {
    let mut text = format!("{}\n", path.display());
    match answer {
        Err(error) => text.push_str(&format!("  error: {error:#}\n")),
        Ok(predictions) => {
            for prediction in predictions {
                let percent = 100.0 * prediction.probability;
                let filled = (prediction.probability * BAR as f32).round() as usize;
                let bar = format!("{}{}", "█".repeat(filled), "·".repeat(BAR.saturating_sub(filled)));
                text.push_str(&format!("  {percent:5.1} %  {bar}  {}\n", labels.of(prediction.class)));
            }
        }
    }
    text
}

/// The members of `POST /classify`'s answer, with the file's name; or `error`.
fn value(path: &Path, answer: &anyhow::Result<Vec<Prediction>>, opened: &OpenClassifier) -> Value {
    let file = path.to_string_lossy();
    let predictions = match answer {
        Err(error) => return json!({"file": file, "error": format!("{error:#}")}),
        Ok(predictions) => predictions,
    };
    let class = |p: &Prediction| json!({"label": opened.labels.of(p.class), "class": p.class, "probability": p.probability});
    json!({
        "file": file,
        "model": opened.model.name,
        "predictions": predictions.iter().map(class).collect::<Vec<_>>(),
    })
}
