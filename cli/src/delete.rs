//! `c8s delete`: by kind and name, or whatever files declare.

mod chosen;
mod wait;

use std::{collections::HashSet, io::Write, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::client::{DeleteOptions, Query, Resource};
use clone8s_daemon::channel::Channel;
use tonic::Code;

use crate::{
    choice::{Choice, ChoiceArgs, Target},
    kind::{Kind, label, with_kind, with_kind_of},
    status::{explain, none_failed},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s delete pod hello
  c8s delete pod/hello --grace-period 0
  c8s delete pods -l app=web
  c8s delete pods --field-selector status.phase=Failed
  c8s delete configmaps --all -n staging
  c8s delete -f manifests/")]
pub struct DeleteArgs {
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Seconds between a pod's stop signal and the kill [default: the pod's own; 0 removes the object at once]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i32).range(0..))]
    grace_period: Option<i32>,
    /// What becomes of the objects that name these as their owners
    #[arg(long, value_name = "POLICY", default_value = "background", value_parser = ["background", "foreground", "orphan"])]
    cascade: String,
    /// Do not wait until the objects are gone
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until they are gone, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// An object that is gone already is fine
    #[arg(long)]
    ignore_not_found: bool,
    /// Let the server do everything but delete
    #[arg(long)]
    dry_run: bool,
}

impl DeleteArgs {
    fn options(&self) -> DeleteOptions {
        DeleteOptions {
            grace_period_seconds: self.grace_period,
            propagation_policy: policy(&self.cascade),
            validate_only: self.dry_run,
            ..Default::default()
        }
    }

    /// What stands behind "deleted".
    fn note(&self) -> &'static str {
        if self.dry_run { " (dry run)" } else { "" }
    }
}

/// A deletion that was asked for and is waited for.
struct Ending {
    kind: Kind,
    label: String,
    query: Query,
    uid: String,
}

/// Asks for all deletions before it waits for the first, so that they take as long as the longest. Goes through all
/// objects even when some fail, then fails with what failed.
pub async fn run(args: &DeleteArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let mut targets = match args.choice.parse("delete")? {
        Choice::Selected(kind) => return with_kind!(kind, O => chosen::delete::<O>(args, channel, out).await),
        Choice::Named(targets) => targets,
    };
    // A namespace takes all that is in it along. The sort is stable: all else keeps its order.
    targets.sort_by_key(|target| target.kind == Kind::Namespace);
    let mut errors = Vec::new();
    let mut endings = Vec::new();
    for target in targets {
        match with_kind!(target.kind, O => delete::<O>(args, channel, &target).await) {
            Ok(ending) => endings.extend(ending),
            Err(error) => errors.push(error.to_string()),
        }
    }
    for ending in endings {
        match with_kind!(ending.kind, O => until_gone::<O>(args, channel, &ending).await) {
            Ok(()) => {
                writeln!(out, "{} deleted{}", ending.label, args.note())?;
                // Another may take long.
                out.flush()?;
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    none_failed(&errors)
}

/// Asks for one deletion. None where the object is gone already, and that is fine.
async fn delete<O: Resource>(
    args: &DeleteArgs,
    channel: &Channel,
    target: &Target,
) -> Result<Option<Ending>> {
    let query = target.query::<O>(&args.choice);
    let label = label::<O>(&target.name);
    let deleted = match O::delete(channel, &query.namespace, &target.name, &args.options()).await {
        Ok(deleted) => deleted,
        Err(status) if args.ignore_not_found && status.code() == Code::NotFound => return Ok(None),
        Err(status) => bail!("{label}: {}", explain(&status)),
    };
    Ok(Some(Ending {
        kind: target.kind,
        label,
        query,
        uid: deleted.uid().to_owned(),
    }))
}

async fn until_gone<O: Resource>(args: &DeleteArgs, channel: &Channel, ending: &Ending) -> Result<()> {
    if args.no_wait || args.dry_run {
        return Ok(());
    }
    let uids = HashSet::from([ending.uid.clone()]);
    wait::until_gone::<O>(channel, &ending.query, &uids, Duration::from_secs(args.timeout))
        .await
        .map_err(|error| anyhow!("{}: {error}", ending.label))
}

/// As the API spells it.
fn policy(cascade: &str) -> String {
    let (first, rest) = cascade.split_at(1);
    first.to_uppercase() + rest
}
