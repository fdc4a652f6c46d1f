//! What is wrong with a manifest, and where.

use std::fmt;

use super::locate::{self, Source};
use crate::{names, path::FieldPath};

/// The most errors that are reported of one manifest.
const MAX_ERRORS: usize = 50;

/// A place in a text, from line 1 and column 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The file, or "" for a value without one.
    pub source: String,
    /// Which document of the file, from 1; 0 for the file as a whole.
    pub document: usize,
    pub position: Option<Position>,
    /// Such as "spec.containers[0].image"; may be empty.
    pub field: String,
    /// A sentence that follows the field.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.source.is_empty() {
            write!(f, "{}: ", self.source)?;
            if self.document > 0 {
                write!(f, "document {}", self.document)?;
                if let Some(Position { line, column }) = self.position {
                    write!(f, ", line {line}, column {column}")?;
                }
                f.write_str(": ")?;
            }
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a manifest, in the order of the text; shown as one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestErrors {
    errors: Vec<ManifestError>,
    /// How many more there are than are kept.
    more: usize,
}

impl std::error::Error for ManifestErrors {}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl ManifestErrors {
    pub fn errors(&self) -> &[ManifestError] {
        &self.errors
    }

    pub(super) fn none() -> Self {
        Self {
            errors: Vec::new(),
            more: 0,
        }
    }

    /// An error of a file as a whole.
    pub(super) fn whole(source: &str, message: String) -> Self {
        Self {
            errors: vec![ManifestError {
                source: source.to_owned(),
                document: 0,
                position: None,
                field: String::new(),
                message,
            }],
            more: 0,
        }
    }

    pub(super) fn one(error: ManifestError) -> Self {
        Self {
            errors: vec![error],
            more: 0,
        }
    }

    pub(super) fn unlocated(findings: Vec<Finding>) -> Self {
        Self::from_findings(findings, "", 0, |_| None)
    }

    /// Looks for each finding's place in the text.
    pub(super) fn locate(source: &Source<'_>, document: usize, findings: Vec<Finding>) -> Self {
        Self::from_findings(findings, source.name, document, |finding| {
            locate::position(source, document, &finding.path, finding.target)
        })
    }

    pub(super) fn append(&mut self, other: Self) {
        self.more += other.more;
        for error in other.errors {
            if self.errors.len() < MAX_ERRORS {
                self.errors.push(error);
            } else {
                self.more += 1;
            }
        }
    }

    pub(super) fn into_result(self) -> Result<(), Self> {
        if self.errors.is_empty() { Ok(()) } else { Err(self) }
    }

    fn from_findings(
        findings: Vec<Finding>,
        source: &str,
        document: usize,
        position: impl Fn(&Finding) -> Option<Position>,
    ) -> Self {
        let more = findings.len().saturating_sub(MAX_ERRORS);
        // Each place costs a pass over the text, so only those that are shown are looked for.
        let mut errors: Vec<_> = findings
            .into_iter()
            .take(MAX_ERRORS)
            .map(|finding| ManifestError {
                source: source.to_owned(),
                document,
                position: position(&finding),
                field: finding.path.to_string(),
                message: finding.message,
            })
            .collect();
        errors.sort_by_key(|error| error.position);
        Self { errors, more }
    }
}

/// What of a field an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Key,
    Value,
}

/// An error whose place is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) path: FieldPath,
    pub(super) target: Target,
    pub(super) message: String,
}

impl Finding {
    /// Something wrong with the value at a path.
    pub(super) fn at(path: &FieldPath, message: impl Into<String>) -> Self {
        Self {
            path: path.clone(),
            target: Target::Value,
            message: message.into(),
        }
    }

    pub(super) fn unknown_field(parent: &FieldPath, field: &str, known: &[&str]) -> Self {
        let message = match names::nearest(field, known.iter().copied()) {
            Some(near) => format!("unknown field; did you mean {near:?}?"),
            None if known.is_empty() => "unknown field; there are none here".to_owned(),
            None => format!("unknown field; known here are {}", known.join(", ")),
        };
        Self {
            path: parent.field(field),
            target: Target::Key,
            message,
        }
    }
}
