//! `c8s get`: objects as they are.

use std::io::Write;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::client::Resource;
use clone8s_daemon::{channel::Channel, clock};
use tonic::Status;

use crate::{
    kind::{ObjectArgs, with_kind, with_kind_of},
    output::{self, Columns, OutputArgs, Scope},
    select::SelectArgs,
    status::{explain, none_failed},
    watch::{self, Printer, Verbs},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s get pods -A -o wide
  c8s get pod hello -o yaml
  c8s get pod hello -o yaml --show-managed-fields
  c8s get pods -l app=web --field-selector spec.nodeName=n1
  c8s get pods -w")]
pub struct GetArgs {
    #[command(flatten)]
    what: ObjectArgs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Go on with every change, until interrupted
    #[arg(short = 'w', long)]
    watch: bool,
}

pub async fn run(args: &GetArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let (kind, names) = args.what.parse()?;
    with_kind!(kind, O => get_kind::<O>(args, &names, channel, out).await)
}

async fn get_kind<O: Resource + Columns>(
    args: &GetArgs,
    names: &[String],
    channel: &Channel,
    out: &mut impl Write,
) -> Result<()> {
    if args.watch {
        let query = watch::query::<O>(&args.select, names)?;
        let printer = Printer::new(args.output, args.select.scope(), Verbs::Hidden);
        return watch::follow::<O>(channel, &query, printer, false, out).await;
    }
    if names.is_empty() {
        let query = args.select.query::<O>();
        let (objects, _) = O::list_all(channel, &query).await.map_err(failed)?;
        if objects.is_empty() && args.output.is_table() {
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
            args.output,
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
            args.output,
            Scope::OneNamespace,
            clock::now(),
        )?;
    }
    none_failed(&errors)
}

#[allow(clippy::needless_pass_by_value)] // The shape that map_err wants.
fn failed(status: Status) -> anyhow::Error {
    anyhow!(explain(&status))
}
