//! How objects are shown: tables, YAML, JSON, names.

mod columns;

use std::{io::Write, time::SystemTime};

use anyhow::Result;
use clap::{Args, ValueEnum};
use clone8s::{manifest, object::Object};
use comfy_table::{Table, presets};
use serde_yaml::Value;

pub use columns::{Columns, age};

use crate::kind::label;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The columns that matter most
    Table,
    /// More columns
    Wide,
    /// Manifests that `c8s apply` takes
    Yaml,
    /// As YAML, in JSON
    Json,
    /// KIND/NAME, a line each
    Name,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// How to show the objects
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Show in YAML and JSON who has set which fields
    #[arg(long)]
    pub show_managed_fields: bool,
}

impl OutputArgs {
    pub fn is_table(self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// An object as YAML and JSON show it.
    pub fn document<O: Object>(self, object: &O) -> Value {
        let object = object.clone().into();
        if self.show_managed_fields {
            manifest::to_yaml_value_with_managers(&object)
        } else {
            manifest::to_yaml_value(&object)
        }
    }
}

/// What a table shows besides an object's own columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    OneNamespace,
    AllNamespaces,
}

/// Shows a list, or the one object that was asked for by name.
pub fn print<O: Object + Columns>(
    out: &mut impl Write,
    objects: &[O],
    single: bool,
    output: OutputArgs,
    scope: Scope,
    now: SystemTime,
) -> Result<()> {
    let format = output.format;
    match format {
        Format::Table | Format::Wide => {
            let mut table = new_table();
            table.set_header(header::<O>(format, scope));
            let mut placed: Vec<_> = objects.iter().collect();
            placed.sort_by_key(|object| object.place());
            for object in placed {
                table.add_row(row(object, format, scope, now));
            }
            write_table(out, &table)?;
        }
        Format::Yaml if single => {
            for object in objects {
                serde_yaml::to_writer(&mut *out, &output.document(object))?;
            }
        }
        Format::Json if single => {
            for object in objects {
                writeln!(out, "{}", serde_json::to_string_pretty(&output.document(object))?)?;
            }
        }
        Format::Yaml => {
            for object in objects {
                write!(out, "---\n{}", serde_yaml::to_string(&output.document(object))?)?;
            }
        }
        Format::Json => {
            let items: Vec<_> = objects.iter().map(|object| output.document(object)).collect();
            let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items });
            writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        }
        Format::Name => {
            for object in objects {
                writeln!(out, "{}", label::<O>(object.name()))?;
            }
        }
    }
    Ok(())
}

/// The column names of a kind.
pub fn header<O: Object + Columns>(format: Format, scope: Scope) -> Vec<&'static str> {
    let namespace = (scope == Scope::AllNamespaces && O::NAMESPACED).then_some("NAMESPACE");
    let wide = if format == Format::Wide { O::WIDE } else { &[] };
    namespace
        .into_iter()
        .chain(["NAME"])
        .chain(O::NARROW.iter().copied())
        .chain(wide.iter().copied())
        .collect()
}

/// An object's cells, in the order of [`header`].
pub fn row<O: Object + Columns>(object: &O, format: Format, scope: Scope, now: SystemTime) -> Vec<String> {
    let namespace = (scope == Scope::AllNamespaces && O::NAMESPACED).then(|| object.namespace().to_owned());
    let wide = if format == Format::Wide {
        object.wide()
    } else {
        Vec::new()
    };
    namespace
        .into_iter()
        .chain([object.name().to_owned()])
        .chain(object.narrow(now))
        .chain(wide)
        .map(|cell| if cell.is_empty() { "-".to_owned() } else { cell })
        .collect()
}

/// A table without lines, wide as its content.
pub fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Writes the table without the padding at both ends of its lines.
pub fn write_table(out: &mut impl Write, table: &Table) -> Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
