//! `c8s apply`: makes the cluster hold what files declare.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use clone8s::{
    client::{ApplyOptions, Resource},
    for_each_kind,
    object::AnyObject,
    v1::ApplyOutcome,
};
use clone8s_daemon::channel::Channel;
use tonic::Status;

use crate::{
    files::{Declared, FileArgs},
    namespace::NamespaceArgs,
    status,
};

/// Whose fields the manifests' are, where nobody says otherwise.
pub(crate) const FIELD_MANAGER: &str = "c8s";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s apply -f pod.yaml
  c8s apply -f manifests/ -R
  c8s apply -f pod.yaml --dry-run
  generate | c8s apply -f -

What a manifest named before and does not name any more is removed from the object; what others have set stays. A field
that another field manager has, with another value, is refused: --force-conflicts takes it over.")]
pub struct ApplyArgs {
    #[command(flatten)]
    manifests: ManifestArgs,
    /// Let the server do everything but store
    #[arg(long, visible_alias = "server-dry-run")]
    dry_run: bool,
}

/// What is to be applied, and as whose.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Whose fields these are: applied under another name, they stay beside those of the first
    #[arg(long, value_name = "NAME", default_value = FIELD_MANAGER)]
    field_manager: String,
    /// Take over the fields that other field managers have
    #[arg(long)]
    force_conflicts: bool,
}

/// Goes through all objects even when some fail, then fails with what failed.
pub async fn run(args: &ApplyArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let mut errors = Vec::new();
    let note = if args.dry_run { " (dry run)" } else { "" };
    for declared in args.manifests.read_valid()? {
        let label = declared.label();
        match apply_any(channel, &declared, args).await {
            Ok((outcome, is_ending)) => {
                writeln!(out, "{label} {}{note}", word(outcome))?;
                if is_ending {
                    eprintln!("note: {label} is being deleted; apply it again when it is gone");
                }
            }
            Err(status) => errors.push(explain_at(&declared, &label, &status)),
        }
    }
    status::none_failed(&errors)
}

fn word(outcome: ApplyOutcome) -> &'static str {
    match outcome {
        ApplyOutcome::Created => "created",
        ApplyOutcome::Configured => "configured",
        ApplyOutcome::Unchanged => "unchanged",
        // Of a server that knows more than this.
        ApplyOutcome::Unspecified => "applied",
    }
}

/// The server's words, each bad field with its line.
pub(crate) fn explain_at(declared: &Declared, label: &str, status: &Status) -> String {
    let violations = status::violations(status);
    if violations.is_empty() {
        format!("{}: {label}: {}", declared.place(), status::explain(status))
    } else {
        declared.explain(&violations).to_string()
    }
}

macro_rules! apply_one {
    (
        [$object:expr, $channel:ident, $args:ident]
        $($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*
    ) => {
        match $object {
            $(AnyObject::$kind(object) => apply($channel, object, $args).await,)*
        }
    };
}

/// What was done, and whether the object is ending.
async fn apply_any(
    channel: &Channel,
    declared: &Declared,
    args: &ApplyArgs,
) -> Result<(ApplyOutcome, bool), Status> {
    for_each_kind!(apply_one [declared.document.object.clone(), channel, args])
}

async fn apply<O: Resource>(
    channel: &Channel,
    desired: O,
    args: &ApplyArgs,
) -> Result<(ApplyOutcome, bool), Status> {
    let (object, outcome) = args.manifests.apply(channel, desired, args.dry_run).await?;
    let is_ending = object
        .metadata()
        .is_some_and(|meta| meta.deletion_timestamp.is_some());
    Ok((outcome, is_ending))
}

impl ManifestArgs {
    pub(crate) fn read_valid(&self) -> Result<Vec<Declared>> {
        self.files.read_valid(&self.namespace.namespace)
    }

    /// The object as it is then, or would be.
    pub(crate) async fn apply<O: Resource>(
        &self,
        channel: &Channel,
        mut desired: O,
        validate_only: bool,
    ) -> Result<(O, ApplyOutcome), Status> {
        if O::NAMESPACED && desired.namespace().is_empty() {
            self.namespace
                .of::<O>()
                .clone_into(&mut desired.metadata_mut().namespace);
        }
        let options = ApplyOptions {
            field_manager: self.field_manager.clone(),
            force: self.force_conflicts,
            validate_only,
        };
        O::apply(channel, desired, &options).await
    }
}
