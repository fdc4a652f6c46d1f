//! A page of named facts, indented by section.

use std::{collections::BTreeMap, fmt::Write as _};

const LABEL_WIDTH: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    depth: usize,
}

impl Page {
    /// "Name:    value"; nothing for an empty value.
    pub(super) fn field(&mut self, label: &str, value: impl AsRef<str>) {
        if !value.as_ref().is_empty() {
            let label = format!("{label}:");
            self.line(format!("{label:<LABEL_WIDTH$} {}", value.as_ref()));
        }
    }

    /// One "key=value" a line; nothing for an empty map.
    pub(super) fn map(&mut self, label: &str, map: &BTreeMap<String, String>) {
        let lines: Vec<_> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.list(label, &lines);
    }

    pub(super) fn list(&mut self, label: &str, items: &[String]) {
        let mut label = format!("{label}:");
        for item in items {
            self.line(format!("{label:<LABEL_WIDTH$} {item}"));
            label.clear();
        }
    }

    /// Starts lines that are indented below a title.
    pub(super) fn section(&mut self, title: &str) {
        self.line(format!("{title}:"));
        self.depth += 1;
    }

    pub(super) fn end_section(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        for line in text.as_ref().lines() {
            let indented = format!("{:indent$}{line}", "", indent = self.depth * 2);
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{}", indented.trim_end());
        }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}
