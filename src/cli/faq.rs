//! `convoy faq`: train a model from TSV files, judge it on wordings it has not seen, ask it from the terminal.

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::faq::{Corpus, Matcher, Model, Progress, TrainOptions, corpus::read_texts, evaluate, train};

/// Subcommands of `convoy faq`.
#[derive(Debug, Subcommand)]
pub(super) enum FaqCommand {
    /// Train a model from originals, their duplicates and, optionally, answers.
    Train {
        #[command(flatten)]
        corpus: CorpusArgs,
        /// Where to write the model.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The same seed and files make the same model, byte for byte.
        #[arg(long, default_value_t = TrainOptions::default().seed)]
        seed: u64,
    },
    /// Judge a model on duplicates it was not trained on.
    Eval {
        /// The model, as `train` writes it.
        #[arg(long, value_name = "FILE")]
        model: PathBuf,
        #[command(flatten)]
        corpus: CorpusArgs,
        /// Questions that belong to no original, with a Text column: how well can the model tell?
        #[arg(long, value_name = "TSV")]
        out_of_scope: Option<PathBuf>,
    },
    /// Ask one question.
    Ask {
        /// The model, as `train` writes it.
        #[arg(long, value_name = "FILE", default_value = "weights/faq.safetensors")]
        model: PathBuf,
        /// How many matches to show.
        #[arg(long, default_value_t = 3)]
        top: usize,
        /// The question.
        question: String,
    },
}

/// The files of a corpus: tab separated, with a header row.
#[derive(Debug, Args)]
pub(super) struct CorpusArgs {
    /// Originals: columns Id, AnswerId, Text.
    #[arg(long, value_name = "TSV")]
    questions: PathBuf,
    /// Other wordings of them: the same columns; may be given several times.
    #[arg(long, value_name = "TSV", required = true)]
    duplicates: Vec<PathBuf>,
    /// Answers: columns AnswerId, Text.
    #[arg(long, value_name = "TSV")]
    answers: Option<PathBuf>,
}

impl CorpusArgs {
    fn read(&self) -> anyhow::Result<Corpus> {
        Ok(Corpus::read(&self.questions, &self.duplicates, self.answers.as_deref())?)
    }
}

/// Runs one of them.
pub(super) fn run(command: FaqCommand) -> anyhow::Result<()> {
    match command {
        FaqCommand::Train { corpus, out, seed } => run_train(&corpus.read()?, out, seed),
        FaqCommand::Eval { model, corpus, out_of_scope } => run_eval(model, &corpus.read()?, out_of_scope),
        FaqCommand::Ask { model, top, question } => run_ask(model, top, &question),
    }
}

#[expect(clippy::print_stdout, reason = "results go to standard output")]
fn run_train(corpus: &Corpus, out: PathBuf, seed: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let options = TrainOptions { seed, ..TrainOptions::default() };
    let model = train(corpus, &options, log_progress);
    model.save(&out).with_context(|| format!("cannot write {}", out.display()))?;
    println!(
        "{}: {} questions, {} duplicates, {} features, digest {}, {:.1} s",
        out.display(),
        corpus.originals.len(),
        corpus.duplicates.len(),
        model.features(),
        model.digest(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn log_progress(progress: Progress) {
    match progress {
        Progress::Featurised { texts, features } => {
            tracing::info!(texts, features, "texts cut into features")
        }
        Progress::Fold { done, folds } => tracing::info!(done, folds, "cross-validating"),
        Progress::Blended { accuracy, log_loss } => {
            tracing::info!(accuracy, log_loss, "scores weighed by cross-validation, fitting on everything");
        }
    }
}

#[expect(clippy::print_stdout, reason = "results go to standard output")]
fn run_eval(model: PathBuf, corpus: &Corpus, out_of_scope: Option<PathBuf>) -> anyhow::Result<()> {
    let mut matcher = Matcher::new(Arc::new(Model::load(&model)?));
    let out_of_scope = out_of_scope.map(|path| read_texts(&path)).transpose()?.unwrap_or_default();
    println!("{}", evaluate(&mut matcher, corpus, &out_of_scope)?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "results go to standard output")]
fn run_ask(model: PathBuf, top: usize, question: &str) -> anyhow::Result<()> {
    let mut matcher = Matcher::new(Arc::new(Model::load(&model)?));
    let ranking = matcher.rank(question, Some(top.max(1)));
    if !ranking.in_scope() {
        println!("no match: the scope score {:.3} is below {:.3}", ranking.scope, ranking.model.threshold());
    }
    for found in ranking.matches {
        let original = &ranking.model.questions()[found.question];
        println!("{:5.1} %  [{}] {}", 100.0 * found.probability, original.id, original.text);
        if let Some(answer) = &original.answer {
            println!("         {answer}");
        }
    }
    Ok(())
}
