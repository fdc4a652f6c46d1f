//! `c8s get` and `c8s watch`: objects as they are, and as they change.

use std::{fmt::Write as _, io::Write};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::{
    client::{From, Query, Resource, WatchEvent},
    manifest,
    v1::WatchEventType,
};
use clone8s_daemon::clock;
use tonic::{Status, transport::Channel};

use crate::{
    kind::{ObjectArgs, with_kind},
    namespace::NamespaceArgs,
    output::{self, Columns, Format, OutputArgs, Scope},
    status::explain,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s get pods -A -o wide
  c8s get pod hello -o yaml
  c8s get pods -l app=web --field-selector spec.nodeName=n1")]
pub struct GetArgs {
    #[command(flatten)]
    what: ObjectArgs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s watch pods
  c8s watch pod hello -o json

Ends with an error when the server ends the watch; the server says when changes would be missed.")]
pub struct WatchArgs {
    #[command(flatten)]
    what: ObjectArgs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Only what happens from now on, not the present objects first
    #[arg(long)]
    only_changes: bool,
}

#[derive(Debug, Args)]
struct SelectArgs {
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Objects of every namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels, such as "app=web,tier in (a,b),!old"
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "SELECTOR",
        default_value = "",
        hide_default_value = true
    )]
    label_selector: String,
    /// Only objects with these fields, such as "spec.nodeName=n1,status.phase!=Failed"
    #[arg(long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    field_selector: String,
}

impl SelectArgs {
    fn query<O: Resource>(&self) -> Query {
        let namespace = if self.all_namespaces {
            ""
        } else {
            self.namespace.of::<O>()
        };
        Query {
            namespace: namespace.to_owned(),
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
        }
    }

    fn scope(&self) -> Scope {
        if self.all_namespaces {
            Scope::AllNamespaces
        } else {
            Scope::OneNamespace
        }
    }
}

pub async fn get(args: &GetArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let (kind, names) = args.what.parse()?;
    with_kind!(kind, O => get_kind::<O>(args, &names, channel, out).await)
}

async fn get_kind<O: Resource + Columns>(
    args: &GetArgs,
    names: &[String],
    channel: &Channel,
    out: &mut impl Write,
) -> Result<()> {
    if names.is_empty() {
        let query = args.select.query::<O>();
        let (objects, _) = O::list_all(channel, &query).await.map_err(failed)?;
        if objects.is_empty() && matches!(args.output.format, Format::Table | Format::Wide) {
            let place = if query.namespace.is_empty() {
                String::new()
            } else {
                format!(" in namespace {}", query.namespace)
            };
            eprintln!("no {} found{place}", O::PLURAL);
            return Ok(());
        }
        return output::print(
            out,
            &objects,
            false,
            args.output.format,
            args.select.scope(),
            clock::now(),
        );
    }
    if args.select.all_namespaces {
        bail!("a name is looked up in one namespace: leave out -A, or the name");
    }
    let mut objects = Vec::new();
    let mut errors = Vec::new();
    for name in names {
        match O::get(channel, args.select.namespace.of::<O>(), name).await {
            Ok(object) => objects.push(object),
            Err(status) => errors.push(explain(&status)),
        }
    }
    if !objects.is_empty() {
        let single = names.len() == 1;
        output::print(
            out,
            &objects,
            single,
            args.output.format,
            Scope::OneNamespace,
            clock::now(),
        )?;
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(errors.join("\n")))
    }
}

#[allow(clippy::needless_pass_by_value)] // The shape that map_err wants.
fn failed(status: Status) -> anyhow::Error {
    anyhow!(explain(&status))
}

pub async fn watch(args: &WatchArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let (kind, names) = args.what.parse()?;
    with_kind!(kind, O => watch_kind::<O>(args, &names, channel, out).await)
}

async fn watch_kind<O: Resource + Columns>(
    args: &WatchArgs,
    names: &[String],
    channel: &Channel,
    out: &mut impl Write,
) -> Result<()> {
    let mut query = args.select.query::<O>();
    match names {
        [] => {}
        [name] if query.field_selector.is_empty() => query.field_selector = format!("metadata.name={name}"),
        [name] => query.field_selector = format!("{},metadata.name={name}", query.field_selector),
        _ => bail!("watch takes one name at most"),
    }
    let from = if args.only_changes {
        From::Revision(0)
    } else {
        From::InitialState
    };
    let mut watch = O::watch(channel, &query, from).await.map_err(failed)?;
    let mut printer = Printer {
        format: args.output.format,
        scope: args.select.scope(),
        widths: Vec::new(),
    };
    while let Some(event) = watch.next().await.map_err(failed)? {
        printer.print(out, event)?;
        out.flush()?;
    }
    bail!("the server ended the watch");
}

/// Prints events as they come. Columns only ever grow, so that lines stay under each other.
struct Printer {
    format: Format,
    scope: Scope,
    widths: Vec<u16>,
}

impl Printer {
    fn print<O: Resource + Columns>(&mut self, out: &mut impl Write, event: WatchEvent<O>) -> Result<()> {
        let Some(object) = event.object else { return Ok(()) };
        let verb = match event.kind {
            WatchEventType::Added => "ADDED",
            WatchEventType::Modified => "MODIFIED",
            WatchEventType::Deleted => "DELETED",
            WatchEventType::Bookmark | WatchEventType::Synced | WatchEventType::Unspecified => return Ok(()),
        };
        match self.format {
            Format::Table | Format::Wide => {
                if self.widths.is_empty() {
                    let header = output::header::<O>(self.format, self.scope);
                    let cells: Vec<_> = ["EVENT"]
                        .into_iter()
                        .chain(header)
                        .map(ToOwned::to_owned)
                        .collect();
                    self.line(out, &cells)?;
                }
                let row = output::row(&object, self.format, self.scope, clock::now());
                let cells: Vec<_> = [verb.to_owned()].into_iter().chain(row).collect();
                self.line(out, &cells)?;
            }
            Format::Json => {
                let object = manifest::to_yaml_value(&object.into());
                writeln!(out, "{}", serde_json::json!({ "type": verb, "object": object }))?;
            }
            Format::Yaml => write!(out, "--- # {verb}\n{}", manifest::to_yaml(&object.into()))?,
            Format::Name => writeln!(out, "{verb} {}/{}", O::KIND.to_lowercase(), object.name())?,
        }
        Ok(())
    }

    fn line(&mut self, out: &mut impl Write, cells: &[String]) -> Result<()> {
        let mut line = String::new();
        self.widths.resize(cells.len(), 0);
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            *width = (*width).max(u16::try_from(cell.chars().count()).unwrap_or(u16::MAX));
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:<width$}   ", width = usize::from(*width));
        }
        writeln!(out, "{}", line.trim_end())?;
        Ok(())
    }
}
