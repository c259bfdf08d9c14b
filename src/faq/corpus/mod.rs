//! Reads the questions a model is trained and measured on. It owns the columns and the rule that every duplicate belongs
//! to exactly one original; it does not clean or interpret the text, and file formats are `table`'s.

mod table;

use rustc_hash::{FxHashMap, FxHashSet};
use std::io;
use std::path::{Path, PathBuf};
use table::Table;

/// The most originals a corpus may hold: a model has one class for each.
pub const MAX_ORIGINALS: usize = 4096;

/// A question that has an answer of its own: one class of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The question's own number.
    pub id: i64,
    /// The number of its answer; no two originals share one.
    pub answer_id: i64,
    /// The question as written.
    pub text: String,
    /// The answer's text, where an answers file gave one.
    pub answer: Option<String>,
}

/// Another wording of an original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The question's own number.
    pub id: i64,
    /// Index of its original in [`Corpus::originals`].
    pub original: usize,
    /// The question as written.
    pub text: String,
    /// Where it was collected: the optional `Source` column, or empty.
    pub source: String,
}

/// Originals and their duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// In file order.
    pub originals: Vec<Original>,
    /// In the order of the files given.
    pub duplicates: Vec<Duplicate>,
}

/// Why a corpus could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The file could not be opened, or is not UTF-8 in rows of constant width.
    #[error("{}: cannot be read as separated text", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reader's own account, with the line where it knows one.
        source: csv::Error,
    },
    /// The file could not be opened or read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no JSON object.
    #[error("{}:{line}: not a JSON object", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The header row lacks a column.
    #[error("{}: the header has no column {column:?}", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column's name.
        column: &'static str,
    },
    /// One row breaks a rule.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: RowProblem,
    },
    /// A file of originals without any.
    #[error("{}: no questions", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with one row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    /// An identifier that is no whole number.
    #[error("{column} {value:?} is not a whole number")]
    NotANumber {
        /// The column.
        column: &'static str,
        /// What stood there, cut to a length fit for a message.
        value: String,
    },
    /// A JSON object without a column.
    #[error("no {0:?}")]
    Missing(&'static str),
    /// A JSON value that is neither text nor a number.
    #[error("{0:?} is neither text nor a number")]
    NotText(&'static str),
    /// A second original with the same number.
    #[error("a second question has {column} {value}")]
    Repeated {
        /// `Id` or `AnswerId`.
        column: &'static str,
        /// The number.
        value: i64,
    },
    /// A duplicate or an answer that belongs to no original.
    #[error("AnswerId {0} belongs to no original question")]
    Orphan(i64),
    /// More originals than [`MAX_ORIGINALS`].
    #[error("more than {MAX_ORIGINALS} questions")]
    TooMany,
}

impl Corpus {
    /// Reads originals (`Id`, `AnswerId`, `Text`), their duplicates (the same columns, any number of files) and, if
    /// given, answers (`AnswerId`, `Text`). A file is tab-separated with a header row, or comma-separated where its name
    /// ends in `.csv`, or one JSON object a line where it ends in `.jsonl` or `.ndjson`. Other columns are allowed and, but
    /// for `Source`, ignored. Text such as `NA` or `null` is text.
    ///
    /// # Errors
    /// [`CorpusError`], naming the file and, for a bad row, the line.
    pub fn read(
        questions: &Path,
        duplicates: &[PathBuf],
        answers: Option<&Path>,
    ) -> Result<Self, CorpusError> {
        let mut corpus = Self { originals: read_originals(questions)?, duplicates: Vec::new() };
        let by_answer = corpus.by_answer();
        for path in duplicates {
            read_duplicates(path, &by_answer, &mut corpus.duplicates)?;
        }
        if let Some(path) = answers {
            read_answers(path, &by_answer, &mut corpus.originals)?;
        }
        Ok(corpus)
    }

    /// Index of each original by its `AnswerId`.
    fn by_answer(&self) -> FxHashMap<i64, usize> {
        self.originals.iter().enumerate().map(|(index, original)| (original.answer_id, index)).collect()
    }
}

/// Reads the `Text` column of a file of questions that belong to no original.
///
/// # Errors
/// [`CorpusError`], naming the file.
pub fn read_texts(path: &Path) -> Result<Vec<String>, CorpusError> {
    let mut table = Table::open(path, &["Text"])?;
    let mut texts = Vec::new();
    while table.advance()? {
        texts.push(table.text("Text")?);
    }
    Ok(texts)
}

fn read_originals(path: &Path) -> Result<Vec<Original>, CorpusError> {
    let mut table = Table::open(path, &["Id", "AnswerId", "Text"])?;
    let mut originals: Vec<Original> = Vec::new();
    let (mut ids, mut answer_ids) = (FxHashSet::default(), FxHashSet::default());
    while table.advance()? {
        let (id, answer_id) = (table.number("Id")?, table.number("AnswerId")?);
        for (column, value, seen) in [("Id", id, &mut ids), ("AnswerId", answer_id, &mut answer_ids)] {
            if !seen.insert(value) {
                return Err(table.problem(RowProblem::Repeated { column, value }));
            }
        }
        if originals.len() == MAX_ORIGINALS {
            return Err(table.problem(RowProblem::TooMany));
        }
        originals.push(Original { id, answer_id, text: table.text("Text")?, answer: None });
    }
    if originals.is_empty() {
        return Err(CorpusError::Empty { path: path.to_owned() });
    }
    Ok(originals)
}

fn read_duplicates(
    path: &Path,
    by_answer: &FxHashMap<i64, usize>,
    duplicates: &mut Vec<Duplicate>,
) -> Result<(), CorpusError> {
    let mut table = Table::open(path, &["Id", "AnswerId", "Text"])?;
    while table.advance()? {
        duplicates.push(Duplicate {
            id: table.number("Id")?,
            original: original(&table, by_answer)?,
            text: table.text("Text")?,
            source: table.get("Source")?.unwrap_or_default(),
        });
    }
    Ok(())
}

fn read_answers(
    path: &Path,
    by_answer: &FxHashMap<i64, usize>,
    originals: &mut [Original],
) -> Result<(), CorpusError> {
    let mut table = Table::open(path, &["AnswerId", "Text"])?;
    while table.advance()? {
        let original = original(&table, by_answer)?;
        originals[original].answer = table.get("Text")?.filter(|answer| !answer.is_empty());
    }
    Ok(())
}

/// The index of the original that the current row belongs to.
fn original(table: &Table<'_>, by_answer: &FxHashMap<i64, usize>) -> Result<usize, CorpusError> {
    let answer_id = table.number("AnswerId")?;
    by_answer.get(&answer_id).copied().ok_or_else(|| table.problem(RowProblem::Orphan(answer_id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const QUESTIONS: &str = "Id\tAnswerId\tText\n1\t10\tfirst\n2\t20\tNA\n";

    fn file(text: &str) -> tempfile::NamedTempFile {
        named(".tsv", text)
    }

    fn named(ending: &str, text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn read(questions: &str, duplicates: &str) -> Result<Corpus, CorpusError> {
        let (questions, duplicates) = (file(questions), file(duplicates));
        Corpus::read(questions.path(), &[duplicates.path().to_owned()], None)
    }

    #[test]
    fn reads_quotes_extra_columns_and_null_words() {
        let duplicates = "Source\tText\tAnswerId\tId\nweb\t\"say \"\"hi\"\"\"\t20\t7\n\tnull\t10\t8\n";
        let corpus = read(QUESTIONS, duplicates).unwrap();
        assert_eq!(corpus.originals[1].text, "NA");
        let hi = Duplicate { id: 7, original: 1, text: "say \"hi\"".into(), source: "web".into() };
        let null = Duplicate { id: 8, original: 0, text: "null".into(), source: String::new() };
        assert_eq!(corpus.duplicates, [hi, null]);
    }

    #[test]
    fn three_formats_hold_the_same_corpus() {
        let tabs = read(QUESTIONS, "Id\tAnswerId\tText\tSource\n7\t20\t\"say \"\"a, b\"\"\"\tweb\n").unwrap();
        let questions = named(".csv", "\u{feff}Id,AnswerId,Text\n1,10,first\n2,20,NA\n");
        let duplicates = named(".csv", "Id,AnswerId,Text,Source\n7,20,\"say \"\"a, b\"\"\",web\n");
        let commas = Corpus::read(questions.path(), &[duplicates.path().to_owned()], None).unwrap();
        let questions = named(
            ".jsonl",
            "\u{feff}{\"Id\": 1, \"AnswerId\": \"10\", \"Text\": \"first\"}\n\n{\"Id\":2,\"AnswerId\":20,\"Text\":\"NA\"}",
        );
        let duplicates =
            named(".NDJSON", r#"{"Text":"say \"a, b\"","Id":7,"AnswerId":20,"Source":"web","Other":[1]}"#);
        let json = Corpus::read(questions.path(), &[duplicates.path().to_owned()], None).unwrap();
        assert_eq!(tabs, commas);
        assert_eq!(tabs, json);
    }

    #[test]
    fn bad_json_is_an_error_with_its_line() {
        let bad = |line: &str| {
            let first = r#"{"Id":1,"AnswerId":10,"Text":"first"}"#;
            let questions = named(".jsonl", &format!("{first}\n{line}\n"));
            Corpus::read(questions.path(), &[], None).unwrap_err().to_string()
        };
        for (line, said) in [
            ("{", ":2: not a JSON object"),
            ("[1]", ":2: not a JSON object"),
            (r#"{"Id":2,"AnswerId":20}"#, r#":2: no "Text""#),
            (r#"{"Id":2,"AnswerId":20,"Text":["a"]}"#, r#":2: "Text" is neither"#),
            (r#"{"Id":2.5,"AnswerId":20,"Text":"a"}"#, ":2: Id \"2.5\" is not a whole"),
        ] {
            let error = bad(line);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn answers_join_their_originals() {
        let (questions, answers) = (file(QUESTIONS), file("AnswerId\tText\n20\tdo this\n10\t\n"));
        let corpus = Corpus::read(questions.path(), &[], Some(answers.path())).unwrap();
        assert_eq!(corpus.originals[0].answer, None);
        assert_eq!(corpus.originals[1].answer.as_deref(), Some("do this"));
    }

    #[test]
    fn an_orphan_duplicate_is_an_error_with_file_and_line() {
        let error = read(QUESTIONS, "Id\tAnswerId\tText\n5\t10\tok\n6\t30\torphan\n").unwrap_err();
        assert!(
            matches!(error, CorpusError::Row { line: 3, problem: RowProblem::Orphan(30), .. }),
            "{error}"
        );
        assert!(error.to_string().contains(":3: AnswerId 30"), "{error}");
    }

    #[test]
    fn bad_originals_are_errors() {
        let header = "Id\tAnswerId\tText\n";
        let bad = |rows: &str| read(&format!("{header}{rows}"), header).unwrap_err();
        let not_a_number = bad("x\t1\ta\n");
        assert!(matches!(
            not_a_number,
            CorpusError::Row { line: 2, problem: RowProblem::NotANumber { .. }, .. }
        ));
        let repeated = bad("1\t1\ta\n2\t1\tb\n");
        let problem = RowProblem::Repeated { column: "AnswerId", value: 1 };
        assert!(
            matches!(&repeated, CorpusError::Row { line: 3, problem: p, .. } if *p == problem),
            "{repeated}"
        );
        assert!(matches!(bad(""), CorpusError::Empty { .. }));
        assert!(matches!(bad("1\t1\n"), CorpusError::Read { .. }));
        let no_text = read("Id\tAnswerId\n1\t1\n", header).unwrap_err();
        assert!(matches!(no_text, CorpusError::MissingColumn { column: "Text", .. }));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Corpus::read(Path::new("nowhere.tsv"), &[], None).unwrap_err();
        assert!(error.to_string().starts_with("nowhere.tsv: "), "{error}");
    }
}
