//! Objects and their changes, a line or a document each.

use std::{fmt::Write as _, io::Write};

use anyhow::Result;
use clone8s::{client::Resource, object::Object, v1::WatchEventType};
use clone8s_daemon::clock;

use crate::{
    kind::label,
    output::{self, Columns, Format, OutputArgs, Scope},
};

/// Whether each line says what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbs {
    Shown,
    Hidden,
}

/// Prints as it comes. Columns only ever grow, so that lines stay under each other.
#[derive(Debug)]
pub(crate) struct Printer {
    output: OutputArgs,
    scope: Scope,
    verbs: Verbs,
    widths: Vec<usize>,
}

impl Printer {
    pub(crate) fn new(output: OutputArgs, scope: Scope, verbs: Verbs) -> Self {
        Self {
            output,
            scope,
            verbs,
            widths: Vec::new(),
        }
    }

    /// What there is when the watch begins.
    pub(super) fn present<O: Resource + Columns>(
        &mut self,
        out: &mut impl Write,
        objects: &[O],
    ) -> Result<()> {
        if !self.output.is_table() {
            for object in objects {
                self.document(out, "ADDED", object)?;
            }
            return Ok(());
        }
        let rows: Vec<_> = objects.iter().map(|object| self.row("ADDED", object)).collect();
        if self.widths.is_empty() && !rows.is_empty() {
            let header = self.header::<O>();
            for cells in rows.iter().chain([&header]) {
                self.widen(cells);
            }
            self.line(out, &header)?;
        }
        for cells in &rows {
            self.widen(cells);
            self.line(out, cells)?;
        }
        Ok(())
    }

    pub(super) fn change<O: Resource + Columns>(
        &mut self,
        out: &mut impl Write,
        kind: WatchEventType,
        object: &O,
    ) -> Result<()> {
        let verb = match kind {
            WatchEventType::Added => "ADDED",
            WatchEventType::Modified => "MODIFIED",
            WatchEventType::Deleted => "DELETED",
            WatchEventType::Bookmark | WatchEventType::Synced | WatchEventType::Unspecified => return Ok(()),
        };
        if !self.output.is_table() {
            return self.document(out, verb, object);
        }
        let cells = self.row(verb, object);
        if self.widths.is_empty() {
            let header = self.header::<O>();
            self.widen(&header);
            self.widen(&cells);
            self.line(out, &header)?;
        }
        self.widen(&cells);
        self.line(out, &cells)
    }

    fn document<O: Object>(&self, out: &mut impl Write, verb: &str, object: &O) -> Result<()> {
        let shown = self.verbs == Verbs::Shown;
        let document = || self.output.document(object);
        match self.output.format {
            Format::Json if shown => {
                writeln!(
                    out,
                    "{}",
                    serde_json::json!({ "type": verb, "object": document() })
                )?;
            }
            Format::Json => writeln!(out, "{}", serde_json::to_string(&document())?)?,
            Format::Yaml if shown => write!(out, "--- # {verb}\n{}", serde_yaml::to_string(&document())?)?,
            Format::Yaml => write!(out, "---\n{}", serde_yaml::to_string(&document())?)?,
            Format::Name | Format::Table | Format::Wide => {
                let verb = if shown { format!("{verb} ") } else { String::new() };
                writeln!(out, "{verb}{}", label::<O>(object.name()))?;
            }
        }
        Ok(())
    }

    fn header<O: Object + Columns>(&self) -> Vec<String> {
        let event = (self.verbs == Verbs::Shown).then_some("EVENT");
        let columns = output::header::<O>(self.output.format, self.scope);
        event.into_iter().chain(columns).map(ToOwned::to_owned).collect()
    }

    fn row<O: Object + Columns>(&self, verb: &str, object: &O) -> Vec<String> {
        let verb = (self.verbs == Verbs::Shown).then(|| verb.to_owned());
        let cells = output::row(object, self.output.format, self.scope, clock::now());
        verb.into_iter().chain(cells).collect()
    }

    fn widen(&mut self, cells: &[String]) {
        self.widths.resize(cells.len(), 0);
        if self.verbs == Verbs::Shown {
            // The longest verb is sure to come.
            self.widths[0] = "MODIFIED".len();
        }
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            *width = (*width).max(cell.chars().count());
        }
    }

    fn line(&self, out: &mut impl Write, cells: &[String]) -> Result<()> {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        writeln!(out, "{}", line.trim_end())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{ConfigMap, ObjectMeta};

    use super::*;

    fn config(name: &str) -> ConfigMap {
        ConfigMap {
            metadata: Some(ObjectMeta {
                name: name.to_owned(),
                ..ObjectMeta::default()
            }),
            ..ConfigMap::default()
        }
    }

    fn printed(format: Format, verbs: Verbs) -> String {
        let mut out = Vec::new();
        let output = OutputArgs {
            format,
            show_managed_fields: false,
        };
        let mut printer = Printer::new(output, Scope::OneNamespace, verbs);
        printer.present(&mut out, &[config("a"), config("bbbb")]).unwrap();
        printer
            .change(&mut out, WatchEventType::Modified, &config("a"))
            .unwrap();
        printer
            .change(&mut out, WatchEventType::Bookmark, &config("a"))
            .unwrap();
        printer
            .change(&mut out, WatchEventType::Deleted, &config("cccccccc"))
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_stay_under_each_other() {
        insta::assert_snapshot!(printed(Format::Table, Verbs::Shown), @r"
        EVENT     NAME  DATA  AGE
        ADDED     a     0     -
        ADDED     bbbb  0     -
        MODIFIED  a     0     -
        DELETED   cccccccc  0     -
        ");
    }

    #[test]
    fn a_get_that_watches_shows_no_verbs() {
        assert_eq!(
            printed(Format::Name, Verbs::Hidden),
            "configmap/a\nconfigmap/bbbb\nconfigmap/a\nconfigmap/cccccccc\n"
        );
    }

    #[test]
    fn json_is_an_object_a_line() {
        let text = printed(Format::Json, Verbs::Shown);
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            (&lines[2]["type"], &lines[2]["object"]["metadata"]["name"]),
            (&"MODIFIED".into(), &"a".into())
        );
    }
}
