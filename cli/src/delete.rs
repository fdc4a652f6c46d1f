//! `c8s delete`: by kind and name, or whatever files declare.

mod chosen;
mod wait;

use std::{collections::HashSet, io::Write, path::PathBuf, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::{
    client::{DeleteOptions, Query, Resource},
    object::AnyObject,
};
use clone8s_daemon::channel::Channel;
use tonic::Code;

use crate::{
    files::FileArgs,
    kind::{Kind, ObjectArgs, with_kind, with_kind_of},
    namespace::NamespaceArgs,
    status::explain,
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
    what: ObjectArgs,
    /// Delete what these manifests declare: a file, a folder, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "PATH", conflicts_with = "what")]
    files: Vec<PathBuf>,
    /// Go into the folders of a folder too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Delete the objects of the kind with these labels, such as "app=web,tier in (a,b)"
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "SELECTOR",
        conflicts_with = "files"
    )]
    label_selector: Option<String>,
    /// Delete the objects of the kind with these fields, such as "status.phase=Failed"
    #[arg(long, value_name = "SELECTOR", conflicts_with = "files")]
    field_selector: Option<String>,
    /// Delete every object of the kind in the namespace
    #[arg(long, conflicts_with_all = ["files", "label_selector", "field_selector"])]
    all: bool,
    #[command(flatten)]
    namespace: NamespaceArgs,
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

    /// Whether selectors say what is to be deleted. An empty one would mean every object.
    fn chooses(&self) -> bool {
        let chooses = |selector: &Option<String>| selector.as_ref().is_some_and(|it| !it.trim().is_empty());
        self.all || chooses(&self.label_selector) || chooses(&self.field_selector)
    }

    /// What stands behind "deleted".
    fn note(&self) -> &'static str {
        if self.dry_run { " (dry run)" } else { "" }
    }
}

struct Target {
    kind: Kind,
    namespace: Option<String>,
    name: String,
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
    if args.files.is_empty() && args.chooses() {
        let (kind, names) = args.what.parse()?;
        if !names.is_empty() {
            bail!("say which by name, by selector or by --all, not by two of them");
        }
        return with_kind!(kind, O => chosen::delete::<O>(args, channel, out).await);
    }
    let mut errors = Vec::new();
    let mut endings = Vec::new();
    for target in targets(args)? {
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
    if errors.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(errors.join("\n")))
    }
}

fn targets(args: &DeleteArgs) -> Result<Vec<Target>> {
    if !args.files.is_empty() {
        let files = FileArgs {
            files: args.files.clone(),
            recursive: args.recursive,
        };
        // Namespaces come first in a file's order, so they go last here.
        return Ok(files
            .read()?
            .into_iter()
            .rev()
            .map(|declared| target_of(&declared.document.object))
            .collect());
    }
    let (kind, names) = args.what.parse()?;
    if names.is_empty() {
        bail!("say which: c8s delete KIND NAME, KIND -l SELECTOR, KIND --all, or -f FILE");
    }
    Ok(names
        .into_iter()
        .map(|name| Target {
            kind,
            namespace: None,
            name,
        })
        .collect())
}

fn target_of(object: &AnyObject) -> Target {
    let namespace = Some(object.namespace())
        .filter(|namespace| !namespace.is_empty())
        .map(ToOwned::to_owned);
    Target {
        kind: Kind::of(object),
        namespace,
        name: object.name().to_owned(),
    }
}

/// Asks for one deletion. None where the object is gone already, and that is fine.
async fn delete<O: Resource>(
    args: &DeleteArgs,
    channel: &Channel,
    target: &Target,
) -> Result<Option<Ending>> {
    let namespace = target
        .namespace
        .as_deref()
        .unwrap_or_else(|| args.namespace.of::<O>());
    let label = format!("{}/{}", O::KIND.to_lowercase(), target.name);
    let deleted = match O::delete(channel, namespace, &target.name, &args.options()).await {
        Ok(deleted) => deleted,
        Err(status) if args.ignore_not_found && status.code() == Code::NotFound => return Ok(None),
        Err(status) => bail!("{label}: {}", explain(&status)),
    };
    Ok(Some(Ending {
        kind: target.kind,
        label,
        query: Query {
            namespace: namespace.to_owned(),
            field_selector: format!("metadata.name={}", target.name),
            ..Default::default()
        },
        uid: deleted.uid().to_owned(),
    }))
}

async fn until_gone<O: Resource>(args: &DeleteArgs, channel: &Channel, ending: &Ending) -> Result<()> {
    if args.no_wait || args.dry_run {
        return Ok(());
    }
    let uids = HashSet::from([ending.uid.clone()]);
    wait::until_gone::<O>(channel, &ending.query, uids, Duration::from_secs(args.timeout))
        .await
        .map_err(|error| anyhow!("{}: {error}", ending.label))
}

/// As the API spells it.
fn policy(cascade: &str) -> String {
    let (first, rest) = cascade.split_at(1);
    first.to_uppercase() + rest
}
