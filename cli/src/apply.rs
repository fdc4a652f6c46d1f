//! `c8s apply`: makes the cluster hold what files declare.

use std::io::Write;

use anyhow::{Result, anyhow};
use clap::Args;
use clone8s::{
    client::Resource,
    for_each_kind,
    object::{AnyObject, Object},
    v1::{
        ConfigMap, Event, Lease, LimitRange, Namespace, Node, ObjectMeta, Pod, PriorityClass, ResourceQuota,
        Secret, ServiceAccount,
    },
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    files::{Declared, FileArgs},
    namespace::NamespaceArgs,
    status,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s apply -f pod.yaml
  c8s apply -f manifests/ -R
  generate | c8s apply -f -

Labels and annotations are added to those that the object has; the rest is replaced.")]
pub struct ApplyArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    namespace: NamespaceArgs,
}

/// How often to start over when somebody else writes the object in between.
const ATTEMPTS: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Goes through all objects even when some fail, then fails with what failed.
pub async fn run(args: &ApplyArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let mut errors = Vec::new();
    for declared in args.files.read_valid()? {
        let label = format!(
            "{}/{}",
            declared.document.object.kind().to_lowercase(),
            declared.document.object.name()
        );
        match apply_any(channel, &declared, &args.namespace).await {
            Ok(outcome) => writeln!(out, "{label} {}", outcome.word())?,
            Err(status) => errors.push(explain_at(&declared, &label, &status)),
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(errors.join("\n")))
    }
}

/// The server's words, each bad field with its line.
fn explain_at(declared: &Declared, label: &str, status: &Status) -> String {
    let violations = status::violations(status);
    if violations.is_empty() {
        format!("{}: {label}: {}", declared.place(), status::explain(status))
    } else {
        declared.explain(&violations).to_string()
    }
}

macro_rules! apply_one {
    (
        [$object:expr, $channel:ident, $namespace:ident]
        $($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*
    ) => {
        match $object {
            $(AnyObject::$kind(object) => apply($channel, object, $namespace).await,)*
        }
    };
}

async fn apply_any(
    channel: &Channel,
    declared: &Declared,
    namespace: &NamespaceArgs,
) -> Result<Outcome, Status> {
    for_each_kind!(apply_one [declared.document.object.clone(), channel, namespace])
}

async fn apply<O: Resource + KeepsStored>(
    channel: &Channel,
    mut desired: O,
    namespace: &NamespaceArgs,
) -> Result<Outcome, Status> {
    if O::NAMESPACED && desired.namespace().is_empty() {
        namespace
            .of::<O>()
            .clone_into(&mut desired.metadata_mut().namespace);
    }
    let mut last = Status::aborted("never tried");
    for _ in 0..ATTEMPTS {
        let attempt = match O::get(channel, desired.namespace(), desired.name()).await {
            Ok(stored) => {
                let seen = stored.resource_version();
                let written = O::update(channel, desired.clone().over(&stored)).await;
                written.map(|new| {
                    if new.resource_version() == seen {
                        Outcome::Unchanged
                    } else {
                        Outcome::Configured
                    }
                })
            }
            Err(status) if status.code() == Code::NotFound => O::create(channel, desired.clone())
                .await
                .map(|_| Outcome::Created),
            Err(status) => Err(status),
        };
        match attempt {
            Err(status) if matches!(status.code(), Code::Aborted | Code::AlreadyExists) => last = status,
            done => return done,
        }
    }
    Err(last)
}

/// What a file leaves to others: an update must not take it away.
trait KeepsStored: Object {
    /// This object as an update of the stored one.
    fn over(mut self, stored: &Self) -> Self {
        let empty = ObjectMeta::default();
        let old = stored.metadata().unwrap_or(&empty);
        let new = self.metadata_mut();
        new.resource_version = old.resource_version;
        let keep = |old: &std::collections::BTreeMap<String, String>,
                    new: &mut std::collections::BTreeMap<_, _>| {
            for (key, value) in old {
                new.entry(key.clone()).or_insert_with(|| value.clone());
            }
        };
        keep(&old.labels, &mut new.labels);
        keep(&old.annotations, &mut new.annotations);
        if new.finalizers.is_empty() {
            new.finalizers.clone_from(&old.finalizers);
        }
        if new.owner_references.is_empty() {
            new.owner_references.clone_from(&old.owner_references);
        }
        self.keep_placement(stored);
        self
    }

    fn keep_placement(&mut self, _stored: &Self) {}
}

impl KeepsStored for Pod {
    /// The scheduler has said where the pod runs.
    fn keep_placement(&mut self, stored: &Self) {
        let (Some(new), Some(old)) = (self.spec.as_mut(), stored.spec.as_ref()) else {
            return;
        };
        if new.node_name.is_empty() {
            new.node_name.clone_from(&old.node_name);
        }
    }
}

impl KeepsStored for Node {}
impl KeepsStored for Namespace {}
impl KeepsStored for ConfigMap {}
impl KeepsStored for Secret {}
impl KeepsStored for Event {}
impl KeepsStored for Lease {}
impl KeepsStored for ServiceAccount {}
impl KeepsStored for PriorityClass {}
impl KeepsStored for ResourceQuota {}
impl KeepsStored for LimitRange {}

#[cfg(test)]
mod tests {
    use clone8s::v1::PodSpec;

    use super::*;

    fn pod(labels: &[(&str, &str)], node: &str, revision: i64) -> Pod {
        Pod {
            metadata: Some(ObjectMeta {
                name: "web".into(),
                resource_version: revision,
                labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                ..Default::default()
            }),
            spec: Some(PodSpec {
                node_name: node.into(),
                ..Default::default()
            }),
            status: None,
        }
    }

    #[test]
    fn an_update_keeps_the_node_and_other_peoples_labels() {
        let updated = pod(&[("app", "new")], "", 0).over(&pod(&[("app", "old"), ("team", "a")], "n1", 7));
        assert_eq!(updated, pod(&[("app", "new"), ("team", "a")], "n1", 7));
    }
}
