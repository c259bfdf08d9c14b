//! One file of rows with named columns: tab-separated, comma-separated or one JSON object a line, told apart by its name. It
//! owns the formats and the line numbers; what the columns mean is `corpus`'s.

use super::{CorpusError, RowProblem};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The longest line of a JSON file.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// Characters of a value that an error repeats.
const MAX_SHOWN: usize = 60;

/// A file and its current row.
pub(super) struct Table<'a> {
    path: &'a Path,
    rows: Rows,
    line: u64,
}

enum Rows {
    Delimited { reader: csv::Reader<File>, header: csv::StringRecord, record: csv::StringRecord },
    Json { reader: BufReader<File>, line: Vec<u8>, record: Map<String, Value> },
}

impl<'a> Table<'a> {
    /// Opens `path`: commas where it ends in `csv`, JSON in `jsonl` or `ndjson`, else tabs. A header row must name
    /// `required`.
    pub(super) fn open(path: &'a Path, required: &[&'static str]) -> Result<Self, CorpusError> {
        let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        let rows = match ending.as_deref() {
            Some("jsonl" | "ndjson") => open_json(path)?,
            Some("csv") => open_delimited(path, b',', required)?,
            _ => open_delimited(path, b'\t', required)?,
        };
        Ok(Self { path, rows, line: 0 })
    }

    /// Goes to the next row; false at the end.
    pub(super) fn advance(&mut self) -> Result<bool, CorpusError> {
        let path = self.path;
        match &mut self.rows {
            Rows::Delimited { reader, record, .. } => {
                let read = reader.read_record(record);
                let more = read.map_err(|source| CorpusError::Read { path: path.to_owned(), source })?;
                self.line = record.position().map_or(0, csv::Position::line);
                Ok(more)
            }
            Rows::Json { reader, line, record } => next_object(path, reader, line, &mut self.line, record),
        }
    }

    /// The text of a column; `None` where the row does not have it.
    pub(super) fn get(&self, column: &'static str) -> Result<Option<String>, CorpusError> {
        match &self.rows {
            Rows::Delimited { header, record, .. } => {
                let at = header.iter().position(|name| name == column);
                Ok(at.and_then(|at| record.get(at)).map(str::to_owned))
            }
            Rows::Json { record, .. } => match record.get(column) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.clone())),
                Some(Value::Number(number)) => Ok(Some(number.to_string())),
                Some(_) => Err(self.problem(RowProblem::NotText(column))),
            },
        }
    }

    /// The text of a column that every row has.
    pub(super) fn text(&self, column: &'static str) -> Result<String, CorpusError> {
        self.get(column)?.ok_or_else(|| self.problem(RowProblem::Missing(column)))
    }

    /// The whole number in a column that every row has.
    pub(super) fn number(&self, column: &'static str) -> Result<i64, CorpusError> {
        let value = self.text(column)?;
        let shown = || value.chars().take(MAX_SHOWN).collect();
        value.trim().parse().map_err(|_| self.problem(RowProblem::NotANumber { column, value: shown() }))
    }

    /// An error about the current row.
    pub(super) fn problem(&self, problem: RowProblem) -> CorpusError {
        CorpusError::Row { path: self.path.to_owned(), line: self.line, problem }
    }
}

fn open_delimited(path: &Path, delimiter: u8, required: &[&'static str]) -> Result<Rows, CorpusError> {
    let wrap = |source| CorpusError::Read { path: path.to_owned(), source };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_path(path).map_err(wrap)?;
    let mut header = reader.headers().map_err(wrap)?.clone();
    if let Some(first) = header.get(0).and_then(|first| first.strip_prefix('\u{feff}')) {
        header = std::iter::once(first).chain(header.iter().skip(1)).collect();
    }
    match required.iter().find(|column| !header.iter().any(|name| name == **column)) {
        Some(column) => Err(CorpusError::MissingColumn { path: path.to_owned(), column }),
        None => Ok(Rows::Delimited { reader, header, record: csv::StringRecord::new() }),
    }
}

fn open_json(path: &Path) -> Result<Rows, CorpusError> {
    let file = File::open(path).map_err(|source| CorpusError::Io { path: path.to_owned(), source })?;
    Ok(Rows::Json { reader: BufReader::new(file), line: Vec::new(), record: Map::new() })
}

/// Reads the next line that is not blank.
fn next_object(
    path: &Path,
    reader: &mut BufReader<File>,
    line: &mut Vec<u8>,
    number: &mut u64,
    record: &mut Map<String, Value>,
) -> Result<bool, CorpusError> {
    loop {
        line.clear();
        *number += 1;
        let read = reader.take(MAX_LINE_BYTES).read_until(b'\n', line);
        if read.map_err(|source| CorpusError::Io { path: path.to_owned(), source })? == 0 {
            return Ok(false);
        }
        let text = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line).trim_ascii();
        if !text.is_empty() {
            let parsed = serde_json::from_slice(text);
            *record = parsed.map_err(|source| CorpusError::Json {
                path: path.to_owned(),
                line: *number,
                source,
            })?;
            return Ok(true);
        }
    }
}
