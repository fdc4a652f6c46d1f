//! `c8s delete`: by kind and name, or whatever files declare.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::{
    client::{DeleteOptions, From, Query, Resource},
    object::AnyObject,
    v1::WatchEventType,
};
use tonic::{Code, Status, transport::Channel};

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
}

struct Target {
    kind: Kind,
    namespace: Option<String>,
    name: String,
}

/// Goes through all objects even when some fail, then fails with what failed.
pub async fn run(args: &DeleteArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let mut errors = Vec::new();
    for target in targets(args, channel).await? {
        let result = with_kind!(target.kind, O => delete::<O>(args, channel, &target, out).await);
        if let Err(error) = result {
            errors.push(error.to_string());
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(errors.join("\n")))
    }
}

async fn targets(args: &DeleteArgs, channel: &Channel) -> Result<Vec<Target>> {
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
    let (kind, mut names) = args.what.parse()?;
    match (&args.label_selector, names.is_empty()) {
        // The empty selector would mean every object.
        (Some(selector), true) if !selector.trim().is_empty() => {
            names = with_kind!(kind, O => selected::<O>(args, selector, channel).await?);
        }
        (None, false) => {}
        (Some(_), false) => bail!("say which by name or by --selector, not both"),
        (_, true) => bail!("say which: c8s delete KIND NAME, KIND -l SELECTOR, or -f FILE"),
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

async fn selected<O: Resource>(args: &DeleteArgs, selector: &str, channel: &Channel) -> Result<Vec<String>> {
    let query = Query {
        namespace: args.namespace.of::<O>().to_owned(),
        label_selector: selector.to_owned(),
        field_selector: String::new(),
    };
    let (objects, _) = O::list_all(channel, &query)
        .await
        .map_err(|status| anyhow!(explain(&status)))?;
    Ok(objects.iter().map(|object| object.name().to_owned()).collect())
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

async fn delete<O: Resource>(
    args: &DeleteArgs,
    channel: &Channel,
    target: &Target,
    out: &mut impl Write,
) -> Result<()> {
    let namespace = target
        .namespace
        .as_deref()
        .unwrap_or_else(|| args.namespace.of::<O>());
    let label = format!("{}/{}", O::KIND.to_lowercase(), target.name);
    let options = DeleteOptions {
        grace_period_seconds: args.grace_period,
        propagation_policy: policy(&args.cascade),
        ..Default::default()
    };
    let deleted = match O::delete(channel, namespace, &target.name, &options).await {
        Ok(deleted) => deleted,
        Err(status) if args.ignore_not_found && status.code() == Code::NotFound => return Ok(()),
        Err(status) => bail!("{label}: {}", explain(&status)),
    };
    if !args.no_wait {
        let gone = until_gone::<O>(channel, namespace, &target.name, deleted.uid());
        match tokio::time::timeout(Duration::from_secs(args.timeout), gone).await {
            Ok(result) => result.map_err(|status| anyhow!("{label}: {}", explain(&status)))?,
            Err(_) => bail!(
                "{label}: marked for deletion, but still there after {} s; see `c8s describe {label}`",
                args.timeout
            ),
        }
    }
    writeln!(out, "{label} deleted")?;
    Ok(())
}

/// As the API spells it.
fn policy(cascade: &str) -> String {
    let (first, rest) = cascade.split_at(1);
    first.to_uppercase() + rest
}

/// Waits until the object with this uid is gone; another object of that name may be there.
async fn until_gone<O: Resource>(
    channel: &Channel,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), Status> {
    let query = Query {
        namespace: namespace.to_owned(),
        field_selector: format!("metadata.name={name}"),
        ..Default::default()
    };
    let mut watch = O::watch(channel, &query, From::InitialState).await?;
    let mut present = false;
    while let Some(event) = watch.next().await? {
        let is_it = event.object.is_some_and(|object| object.uid() == uid);
        match event.kind {
            WatchEventType::Added if is_it => present = true,
            WatchEventType::Deleted if is_it => return Ok(()),
            WatchEventType::Synced if !present => return Ok(()),
            _ => {}
        }
    }
    Err(Status::unavailable("the server ended the watch"))
}
