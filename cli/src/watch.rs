//! `c8s watch` and `c8s get --watch`: objects as they change.
//!
//! ```text
//!            ┌───────── the server no longer keeps the changes that were missed ────────┐
//!            ▼                                                                          │
//!   present state ──synced──► changes ──broken──► pause, then on from the last revision─┘
//! ```

mod print;

use std::io::Write;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::{
    client::{From, Query, Resource, Watch},
    v1::WatchEventType,
};
use clone8s_daemon::{backoff, channel::Channel};
use tonic::{Code, Status};

use crate::{
    kind::{ObjectArgs, with_kind, with_kind_of},
    output::{Columns, OutputArgs},
    select::SelectArgs,
    status::explain,
};
pub(crate) use print::{Printer, Verbs};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s watch pods
  c8s watch pod hello -o json

Goes on until it is interrupted. When the connection breaks, it goes on from the last change that it has seen; when
that is no longer possible, it says so and shows the present objects again.")]
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

pub async fn run(args: &WatchArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let (kind, names) = args.what.parse()?;
    with_kind!(kind, O => {
        let query = query::<O>(&args.select, &names)?;
        let printer = Printer::new(args.output, args.select.scope(), Verbs::Shown);
        follow::<O>(channel, &query, printer, args.only_changes, out).await
    })
}

/// What to watch: all that is selected, or one of them by name.
pub(crate) fn query<O: Resource>(select: &SelectArgs, names: &[String]) -> Result<Query> {
    match names {
        [] => Ok(select.query::<O>()),
        [name] => Ok(select.query_for::<O>(name)),
        _ => bail!("a watch takes one name at most"),
    }
}

/// Prints changes until the reader or the server has had enough.
pub(crate) async fn follow<O: Resource + Columns>(
    channel: &Channel,
    query: &Query,
    mut printer: Printer,
    only_changes: bool,
    out: &mut impl Write,
) -> Result<()> {
    let mut progress = Progress {
        from: From::InitialState,
        skip_present: only_changes,
    };
    // A server that was never there is an error; one that went away is waited for.
    let mut watch = O::watch(channel, query, progress.from).await.map_err(failed)?;
    let mut pauses = backoff::reconnect();
    loop {
        let broken = match print_changes(&mut watch, &mut progress, &mut printer, out).await? {
            Broken::AfterProgress(status) => {
                pauses = backoff::reconnect();
                status
            }
            Broken::AtOnce(status) => status,
        };
        let mut reason = broken;
        watch = loop {
            if reason.code() == Code::OutOfRange {
                eprintln!("note: some changes were missed, so here is the present state again");
                progress = Progress {
                    from: From::InitialState,
                    skip_present: false,
                };
            } else if is_final(&reason) {
                return Err(failed(reason));
            } else {
                eprintln!(
                    "note: the watch broke and goes on when the server is back: {}",
                    explain(&reason)
                );
            }
            if let Some(pause) = pauses.next() {
                tokio::time::sleep(pause).await;
            }
            match O::watch(channel, query, progress.from).await {
                Ok(watch) => break watch,
                Err(status) => reason = status,
            }
        };
    }
}

/// How far a watch has come.
struct Progress {
    from: From,
    /// The present objects are read, to know where changes begin, but not shown.
    skip_present: bool,
}

enum Broken {
    AtOnce(Status),
    AfterProgress(Status),
}

async fn print_changes<O: Resource + Columns>(
    watch: &mut Watch<O>,
    progress: &mut Progress,
    printer: &mut Printer,
    out: &mut impl Write,
) -> Result<Broken> {
    let mut present = Vec::new();
    let mut advanced = false;
    loop {
        let event = match watch.next().await {
            Ok(Some(event)) => event,
            ended => {
                let status = ended
                    .err()
                    .unwrap_or_else(|| Status::unavailable("the server ended the watch"));
                return Ok(if advanced {
                    Broken::AfterProgress(status)
                } else {
                    Broken::AtOnce(status)
                });
            }
        };
        let synced = progress.from != From::InitialState;
        match (event.kind, event.object) {
            (WatchEventType::Added, Some(object)) if !synced => {
                present.push(object);
                continue;
            }
            (WatchEventType::Synced, _) if !progress.skip_present => {
                printer.present(out, &std::mem::take(&mut present))?;
            }
            (kind, Some(object)) => printer.change(out, kind, &object)?,
            (_, None) => {}
        }
        advanced = true;
        progress.from = From::Revision(event.revision);
        out.flush()?;
    }
}

/// What waiting does not mend.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

#[allow(clippy::needless_pass_by_value)] // The shape that map_err wants.
fn failed(status: Status) -> anyhow::Error {
    anyhow!(explain(&status))
}
