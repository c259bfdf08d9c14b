//! `convoy faq`: train a model, judge it on wordings it has not seen, compare two, look into a file, ask from the terminal.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::faq::{
    Corpus, Encoder, Loaded, Match, Matcher, Model, Progress, Ranking, Report, TrainOptions,
    corpus::read_texts,
    encoder::Precision,
    eval::{compare, plot::reliability_svg},
    evaluate, train_with,
};

/// Subcommands of `convoy faq`.
#[derive(Debug, Subcommand)]
pub(super) enum FaqCommand {
    /// Train a model from originals, their duplicates and, optionally, answers.
    Train {
        #[command(flatten)]
        corpus: CorpusArgs,
        /// Where to write the model.
        #[arg(long, value_name = "FILE", value_parser = super::output)]
        out: PathBuf,
        /// The same seed and files make the same model, byte for byte.
        #[arg(long, default_value_t = TrainOptions::default().seed)]
        seed: u64,
        #[command(flatten)]
        embeddings: EmbeddingsArgs,
        /// How the embedding model computes, here and when answering: int8 is faster, f32 gives its authors' vectors.
        #[arg(long, value_name = "PRECISION", value_enum, default_value_t, requires = "embeddings")]
        precision: Precision,
    },
    /// Judge a model on duplicates it was not trained on.
    Eval {
        /// The model, as `train` writes it.
        #[arg(long, value_name = "FILE")]
        model: PathBuf,
        /// Another model to compare it with on the same duplicates.
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
        #[command(flatten)]
        corpus: CorpusArgs,
        /// Questions that belong to no original, with a Text column: how well can the model tell?
        #[arg(long, value_name = "FILE")]
        out_of_scope: Option<PathBuf>,
        /// Where to draw the reliability diagram, as SVG.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        #[command(flatten)]
        embeddings: EmbeddingsArgs,
    },
    /// Ask one question.
    Ask {
        /// The model, as `train` writes it.
        #[arg(long, value_name = "FILE", default_value = "weights/faq.safetensors")]
        model: PathBuf,
        /// How many matches to show.
        #[arg(long, default_value_t = 3)]
        top: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The question.
        question: String,
        #[command(flatten)]
        embeddings: EmbeddingsArgs,
    },
    /// Show what a model file holds.
    Inspect {
        /// The model, as `train` writes it.
        model: PathBuf,
    },
}

/// The files of a corpus: tab-separated, or .csv, or .jsonl, with columns of these names.
#[derive(Debug, Args)]
pub(super) struct CorpusArgs {
    /// Originals: columns Id, AnswerId, Text.
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
    /// Other wordings of them: the same columns; may be given several times.
    #[arg(long, value_name = "FILE", required = true)]
    duplicates: Vec<PathBuf>,
    /// Answers: columns AnswerId, Text.
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
}

/// The embedding model, for models that read texts through one.
#[derive(Debug, Args)]
pub(super) struct EmbeddingsArgs {
    /// Folder with model.safetensors, tokenizer.json and config.json of a MiniLM-like sentence encoder.
    #[arg(long, value_name = "FOLDER")]
    embeddings: Option<PathBuf>,
}

impl CorpusArgs {
    fn read(&self) -> anyhow::Result<Corpus> {
        Ok(Corpus::read(&self.questions, &self.duplicates, self.answers.as_deref())?)
    }
}

impl EmbeddingsArgs {
    fn open(&self, model: &Path) -> anyhow::Result<Matcher> {
        Ok(Matcher::new(Arc::new(Loaded::open(model, self.embeddings.as_deref())?)))
    }
}

/// Runs one of them.
pub(super) fn run(command: FaqCommand) -> anyhow::Result<()> {
    match command {
        FaqCommand::Train { corpus, out, seed, embeddings, precision } => {
            let encoder =
                embeddings.embeddings.map(|folder| Encoder::open(&folder, precision)).transpose()?;
            run_train(&corpus.read()?, &out, seed, encoder.as_ref())
        }
        FaqCommand::Eval { model, against, corpus, out_of_scope, plot, embeddings } => {
            let corpus = corpus.read()?;
            let strangers = out_of_scope.map(|path| read_texts(&path)).transpose()?.unwrap_or_default();
            let judge = |model: &Path| -> anyhow::Result<Report> {
                Ok(evaluate(&mut embeddings.open(model)?, &corpus, &strangers)?)
            };
            let report = judge(&model)?;
            say(format_args!("{report}"))?;
            if let Some(path) = plot {
                std::fs::write(&path, reliability_svg(&report))
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            against.map_or(Ok(()), |other| run_compare(&report, &judge(&other)?, &model, &other))
        }
        FaqCommand::Ask { model, top, json, question, embeddings } => {
            let ranking = embeddings.open(&model)?.rank(&question, Some(top.max(1)));
            if json { say(format_args!("{}", value_of(&ranking))) } else { print_matches(&ranking) }
        }
        FaqCommand::Inspect { model } => run_inspect(&model),
    }
}

/// One line of result. A reader that has gone is no reason to panic.
fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{line}").context("cannot write to standard output")
}

fn run_train(corpus: &Corpus, out: &Path, seed: u64, encoder: Option<&Encoder>) -> anyhow::Result<()> {
    let started = Instant::now();
    let options = TrainOptions { seed, ..TrainOptions::default() };
    let mut display = Display::default();
    let model = train_with(corpus, &options, encoder, |progress| display.show(progress));
    display.clear();
    model.save(out).with_context(|| format!("cannot write {}", out.display()))?;
    say(format_args!(
        "{}: {} questions, {} duplicates, {} features, digest {}, {:.1} s",
        out.display(),
        corpus.originals.len(),
        corpus.duplicates.len(),
        model.features(),
        model.digest(),
        started.elapsed().as_secs_f64()
    ))
}

fn run_compare(report: &Report, other: &Report, first: &Path, second: &Path) -> anyhow::Result<()> {
    let comparison = compare(report, other).expect("bug: both were judged on the same duplicates");
    say(format_args!("\n{}\n{other}", second.display()))?;
    say(format_args!("\n{} less {}\n{comparison}", first.display(), second.display()))
}

/// The members of `POST /faq`'s answer, with the nearest matches even where none is good enough.
fn value_of(ranking: &Ranking) -> serde_json::Value {
    let found = |found: &Match| {
        let original = &ranking.model.questions()[found.question];
        json!({
            "id": original.id,
            "answer_id": original.answer_id,
            "probability": found.probability,
            "question": original.text,
            "answer": original.answer,
        })
    };
    json!({
        "in_scope": ranking.in_scope(),
        "scope": ranking.scope,
        "matches": ranking.matches.iter().map(found).collect::<Vec<_>>(),
    })
}

fn print_matches(ranking: &Ranking) -> anyhow::Result<()> {
    if !ranking.in_scope() {
        let threshold = ranking.model.threshold();
        say(format_args!("no match: scope {:.3} is below {threshold:.3}; the nearest are", ranking.scope))?;
    }
    for found in &ranking.matches {
        let original = &ranking.model.questions()[found.question];
        say(format_args!("{:5.1} %  [{}] {}", 100.0 * found.probability, original.id, original.text))?;
        if let Some(answer) = &original.answer {
            say(format_args!("         {answer}"))?;
        }
    }
    Ok(())
}

fn run_inspect(path: &Path) -> anyhow::Result<()> {
    let model = Model::load(path)?;
    let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    let answers = model.questions().iter().filter(|original| original.answer.is_some()).count();
    let encoder = match model.encoder() {
        Some(encoder) => format!("{} in {}", encoder.digest, encoder.precision),
        None => "none: the model is lexical".to_owned(),
    };
    say(format_args!(
        "file        {}, {bytes} bytes, format version {}",
        path.display(),
        Model::FORMAT_VERSION
    ))?;
    say(format_args!("digest      {}", model.digest()))?;
    say(format_args!("questions   {}, {answers} of them with an answer", model.questions().len()))?;
    say(format_args!("duplicates  {}", model.duplicates()))?;
    for (kind, count) in model.vocabulary_sizes() {
        say(format_args!("grams       {count} {kind}"))?;
    }
    say(format_args!("embeddings  {encoder}"))?;
    say(format_args!("threshold   {:.4}", model.threshold()))
}

/// The progress of training: a bar on a terminal, lines in the log elsewhere.
#[derive(Default)]
struct Display {
    bar: Option<ProgressBar>,
}

impl Display {
    fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Featurised { texts, features } => {
                self.clear();
                tracing::info!(texts, features, "texts cut into features");
            }
            Progress::Embedded { done, texts } => self.step("embedding", done, texts),
            Progress::Fold { done, folds } => self.step("cross-validating", done, folds),
            Progress::Blended { accuracy, log_loss } => {
                self.clear();
                tracing::info!(
                    accuracy,
                    log_loss,
                    "scores weighed by cross-validation, fitting on everything"
                );
            }
        }
    }

    fn step(&mut self, what: &'static str, done: usize, of: usize) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(of as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} {bar:30} {pos} of {len}, {eta} left");
            bar.with_style(style.expect("bug: the template is constant and valid")).with_message(what)
        });
        bar.set_position(done as u64);
        if bar.is_hidden() {
            tracing::debug!(done, of, "{what}");
        }
        if done == of {
            self.clear();
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
