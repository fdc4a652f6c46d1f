//! `c8s describe`: everything about an object that a person may want to know, and what happened to it.

mod node;
mod page;
mod pod;
mod probe;

use std::{io::Write, time::SystemTime};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::{
    client::{Query, Resource},
    manifest, mirror,
    object::Object,
    v1::{
        ConfigMap, Event, Lease, LimitRange, Namespace, ObjectMeta, PriorityClass, ResourceQuota, Secret,
        SecretReference, ServiceAccount,
    },
};
use clone8s_daemon::{channel::Channel, clock};

use crate::{
    kind::{ObjectArgs, with_kind, with_kind_of},
    namespace::NamespaceArgs,
    output::{Columns, age},
    status::explain,
};
use page::Page;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  c8s describe pod hello")]
pub struct DescribeArgs {
    #[command(flatten)]
    what: ObjectArgs,
    #[command(flatten)]
    namespace: NamespaceArgs,
}

/// What a kind says of itself after its metadata.
trait Describe: Object {
    fn describe(&self, page: &mut Page, now: SystemTime);
}

pub async fn run(args: &DescribeArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let (kind, names) = args.what.parse()?;
    if names.is_empty() {
        bail!("say which: c8s describe KIND NAME");
    }
    with_kind!(kind, O => describe_kind::<O>(args, &names, channel, out).await)
}

async fn describe_kind<O: Resource + Describe>(
    args: &DescribeArgs,
    names: &[String],
    channel: &Channel,
    out: &mut impl Write,
) -> Result<()> {
    for (index, name) in names.iter().enumerate() {
        let failed = |status: tonic::Status| anyhow!(explain(&status));
        let object = O::get(channel, args.namespace.of::<O>(), name)
            .await
            .map_err(failed)?;
        let events = events_of(channel, &object).await.map_err(failed)?;
        if index > 0 {
            writeln!(out)?;
        }
        out.write_all(render(&object, &events, clock::now()).as_bytes())?;
    }
    Ok(())
}

async fn events_of<O: Object>(channel: &Channel, object: &O) -> Result<Vec<Event>, tonic::Status> {
    let query = Query {
        namespace: object.namespace().to_owned(),
        field_selector: format!(
            "involvedObject.kind={},involvedObject.name={}",
            O::KIND,
            object.name()
        ),
        ..Default::default()
    };
    let (mut events, _) = Event::list_all(channel, &query).await?;
    // An earlier object of the same name has events of its own.
    events.retain(|event| {
        event
            .involved_object
            .as_ref()
            .is_some_and(|about| about.uid.is_empty() || about.uid == mirror::uid_on_node(object))
    });
    events.sort_by_key(Columns::place);
    Ok(events)
}

fn render<O: Describe>(object: &O, events: &[Event], now: SystemTime) -> String {
    let mut page = Page::default();
    let empty = ObjectMeta::default();
    describe_metadata(object.metadata().unwrap_or(&empty), O::NAMESPACED, &mut page, now);
    object.describe(&mut page, now);
    describe_events(events, &mut page, now);
    page.finish()
}

fn describe_metadata(meta: &ObjectMeta, namespaced: bool, page: &mut Page, now: SystemTime) {
    page.field("Name", &meta.name);
    if namespaced {
        page.field("Namespace", &meta.namespace);
    }
    page.field("UID", &meta.uid);
    if let Some(created) = &meta.creation_timestamp {
        page.field("Created", format!("{} ago", age(Some(created), now)));
    }
    if let Some(deleted) = &meta.deletion_timestamp {
        let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
        page.field(
            "Deletion",
            format!(
                "asked for {} ago, grace period {grace} s",
                age(Some(deleted), now)
            ),
        );
    }
    page.map("Labels", &meta.labels);
    page.map("Annotations", &meta.annotations);
    page.list("Finalizers", &meta.finalizers);
}

fn describe_events(events: &[Event], page: &mut Page, now: SystemTime) {
    page.section("Events");
    if events.is_empty() {
        page.line("none");
    }
    for event in events {
        let times = if event.count > 1 {
            format!(" (x{})", event.count)
        } else {
            String::new()
        };
        let component = event.source.as_ref().map_or("", |source| &source.component);
        page.line(format!(
            "{:>6}  {:<7}  {}: {}{times}  [{component}]",
            age(event.last_timestamp.as_ref(), now),
            event.r#type,
            event.reason,
            event.message,
        ));
    }
    page.end_section();
}

impl Describe for Namespace {
    fn describe(&self, page: &mut Page, _now: SystemTime) {
        page.field(
            "Phase",
            self.status.as_ref().map_or("Active", |status| &status.phase),
        );
    }
}

impl Describe for ConfigMap {
    fn describe(&self, page: &mut Page, _now: SystemTime) {
        page.section("Data");
        for (key, value) in &self.data {
            page.line(format!("{key}:"));
            for line in value.lines() {
                page.line(format!("  {line}"));
            }
        }
        for (key, value) in &self.binary_data {
            page.line(format!("{key}: {} bytes", value.len()));
        }
        page.end_section();
    }
}

impl Describe for Secret {
    /// Sizes only: a terminal keeps what it shows.
    fn describe(&self, page: &mut Page, _now: SystemTime) {
        page.field("Type", &self.r#type);
        page.section("Data");
        for (key, value) in &self.data {
            page.line(format!("{key}: {} bytes", value.len()));
        }
        page.end_section();
    }
}

impl Describe for Event {
    fn describe(&self, page: &mut Page, _now: SystemTime) {
        page.line(manifest::to_yaml(&self.clone().into()).trim_end());
    }
}

impl Describe for Lease {
    fn describe(&self, page: &mut Page, now: SystemTime) {
        let spec = self.spec.clone().unwrap_or_default();
        page.field("Holder", &spec.holder_identity);
        page.field("Duration", format!("{} s", spec.lease_duration_seconds));
        if spec.renew_time.is_some() {
            page.field("Renewed", format!("{} ago", age(spec.renew_time.as_ref(), now)));
        }
    }
}

impl Describe for ServiceAccount {
    fn describe(&self, page: &mut Page, _now: SystemTime) {
        let names =
            |secrets: &[SecretReference]| secrets.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        page.list("Secrets", &names(&self.secrets));
        page.list("Image pull secrets", &names(&self.image_pull_secrets));
    }
}

impl Describe for PriorityClass {
    fn describe(&self, page: &mut Page, _now: SystemTime) {
        page.field("Value", self.value.to_string());
        page.field("Default", if self.global_default { "yes" } else { "no" });
        page.field("Preemption", &self.preemption_policy);
        page.field("Description", &self.description);
    }
}

impl Describe for ResourceQuota {
    fn describe(&self, page: &mut Page, _now: SystemTime) {
        page.section("Used");
        let used = self.status.clone().unwrap_or_default().used;
        for (name, hard) in self.spec.iter().flat_map(|spec| &spec.hard) {
            page.line(format!(
                "{name}: {} of {hard}",
                used.get(name).map_or("?", String::as_str)
            ));
        }
        page.end_section();
    }
}

impl Describe for LimitRange {
    fn describe(&self, page: &mut Page, _now: SystemTime) {
        page.line(manifest::to_yaml(&self.clone().into()).trim_end());
    }
}

#[cfg(test)]
mod tests;
