//! Reads the questions a model is trained and measured on from tab-separated files. It owns the file format and the
//! rule that every duplicate belongs to exactly one original; it does not clean or interpret the text.

use rustc_hash::FxHashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

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
    /// The file could not be opened, or is not tab-separated UTF-8 of constant width.
    #[error("{}: cannot be read as tab-separated text", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reader's own account, with the line where it knows one.
        source: csv::Error,
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
        /// What stood there.
        value: String,
    },
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
    /// given, answers (`AnswerId`, `Text`). Each file has a header row; other columns are allowed and, but for `Source`,
    /// ignored. Text such as `NA` or `null` is text.
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
    let mut table = Table::open(path)?;
    let text = table.column("Text")?;
    let mut texts = Vec::new();
    while table.advance()? {
        texts.push(table.record[text].to_owned());
    }
    Ok(texts)
}

fn read_originals(path: &Path) -> Result<Vec<Original>, CorpusError> {
    let mut table = Table::open(path)?;
    let (id, answer_id, text) = (table.column("Id")?, table.column("AnswerId")?, table.column("Text")?);
    let mut originals: Vec<Original> = Vec::new();
    let (mut ids, mut answer_ids) = (FxHashMap::default(), FxHashMap::default());
    while table.advance()? {
        let original = Original {
            id: table.number("Id", id)?,
            answer_id: table.number("AnswerId", answer_id)?,
            text: table.record[text].to_owned(),
            answer: None,
        };
        table.require_new("Id", original.id, &mut ids)?;
        table.require_new("AnswerId", original.answer_id, &mut answer_ids)?;
        if originals.len() == MAX_ORIGINALS {
            return Err(table.problem(RowProblem::TooMany));
        }
        originals.push(original);
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
    let mut table = Table::open(path)?;
    let (id, answer_id, text) = (table.column("Id")?, table.column("AnswerId")?, table.column("Text")?);
    let source = table.column("Source").ok();
    while table.advance()? {
        duplicates.push(Duplicate {
            id: table.number("Id", id)?,
            original: table.original(answer_id, by_answer)?,
            text: table.record[text].to_owned(),
            source: source.map_or_else(String::new, |column| table.record[column].to_owned()),
        });
    }
    Ok(())
}

fn read_answers(
    path: &Path,
    by_answer: &FxHashMap<i64, usize>,
    originals: &mut [Original],
) -> Result<(), CorpusError> {
    let mut table = Table::open(path)?;
    let (answer_id, text) = (table.column("AnswerId")?, table.column("Text")?);
    while table.advance()? {
        let original = table.original(answer_id, by_answer)?;
        let answer = &table.record[text];
        originals[original].answer = (!answer.is_empty()).then(|| answer.to_owned());
    }
    Ok(())
}

/// One tab-separated file and its current row.
struct Table<'a> {
    path: &'a Path,
    reader: csv::Reader<File>,
    header: csv::StringRecord,
    record: csv::StringRecord,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path) -> Result<Self, CorpusError> {
        let wrap = |source| CorpusError::Read { path: path.to_owned(), source };
        let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_path(path).map_err(wrap)?;
        let mut header = reader.headers().map_err(wrap)?.clone();
        if let Some(first) = header.get(0).and_then(|first| first.strip_prefix('\u{feff}')) {
            header = std::iter::once(first).chain(header.iter().skip(1)).collect();
        }
        Ok(Self { path, reader, header, record: csv::StringRecord::new() })
    }

    fn column(&self, column: &'static str) -> Result<usize, CorpusError> {
        let found = self.header.iter().position(|name| name == column);
        found.ok_or_else(|| CorpusError::MissingColumn { path: self.path.to_owned(), column })
    }

    fn advance(&mut self) -> Result<bool, CorpusError> {
        let read = self.reader.read_record(&mut self.record);
        read.map_err(|source| CorpusError::Read { path: self.path.to_owned(), source })
    }

    fn number(&self, column: &'static str, at: usize) -> Result<i64, CorpusError> {
        let value = &self.record[at];
        value
            .trim()
            .parse()
            .map_err(|_| self.problem(RowProblem::NotANumber { column, value: value.to_owned() }))
    }

    fn original(&self, column: usize, by_answer: &FxHashMap<i64, usize>) -> Result<usize, CorpusError> {
        let answer_id = self.number("AnswerId", column)?;
        by_answer.get(&answer_id).copied().ok_or_else(|| self.problem(RowProblem::Orphan(answer_id)))
    }

    fn require_new(
        &self,
        column: &'static str,
        value: i64,
        seen: &mut FxHashMap<i64, ()>,
    ) -> Result<(), CorpusError> {
        match seen.insert(value, ()) {
            None => Ok(()),
            Some(()) => Err(self.problem(RowProblem::Repeated { column, value })),
        }
    }

    fn problem(&self, problem: RowProblem) -> CorpusError {
        let line = self.record.position().map_or(0, csv::Position::line);
        CorpusError::Row { path: self.path.to_owned(), line, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const QUESTIONS: &str = "Id\tAnswerId\tText\n1\t10\tfirst\n2\t20\tNA\n";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
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
