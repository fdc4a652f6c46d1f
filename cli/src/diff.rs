//! `c8s diff`: what an apply would change, and which containers it would restart.

use std::{io::Write, process::ExitCode};

use anyhow::Result;
use clap::Args;
use clone8s::{client::Resource, for_each_kind, manifest, object::AnyObject, v1::Pod};
use clone8s_daemon::channel::Channel;
use clone8s_kubelet::pod::update;
use serde_yaml::{Mapping, Value};
use similar::TextDiff;
use tonic::{Code, Status};

use crate::{
    apply::{ManifestArgs, explain_at},
    connection::ConnectionArgs,
    status::none_failed,
};

/// As those of diff(1).
const DIFFERENT: u8 = 1;
const FAILED: u8 = 2;

/// Lines around a difference.
const CONTEXT: usize = 3;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s diff -f pod.yaml
  c8s diff -f manifests/ -R && echo nothing to do

The server works out what it would store, and stores nothing. The exit code is 0 without differences, 1 with some, and 2
where something failed. Values of secrets are not shown.")]
pub struct DiffArgs {
    #[command(flatten)]
    manifests: ManifestArgs,
}

/// Goes through all objects even when some fail.
pub async fn run(args: &DiffArgs, connection: &ConnectionArgs, out: &mut impl Write) -> Result<ExitCode> {
    Ok(match differences(args, connection, out).await {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => DIFFERENT.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            FAILED.into()
        }
    })
}

async fn differences(args: &DiffArgs, connection: &ConnectionArgs, out: &mut impl Write) -> Result<bool> {
    let channel = connection.connect()?;
    let mut differ = false;
    let mut errors = Vec::new();
    for declared in args.manifests.read_valid()? {
        let label = declared.label();
        match compare_any(&channel, declared.document.object.clone(), &args.manifests).await {
            Ok(Compared { before, after }) => {
                let text = diff(&label, before.as_ref(), &after);
                differ |= !text.is_empty();
                out.write_all(text.as_bytes())?;
            }
            Err(status) => errors.push(explain_at(&declared, &label, &status)),
        }
    }
    none_failed(&errors)?;
    Ok(differ)
}

/// An object as it is, if it is there, and as it would be.
struct Compared {
    before: Option<AnyObject>,
    after: AnyObject,
}

macro_rules! compare_one {
    (
        [$object:expr, $channel:ident, $args:ident]
        $($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*
    ) => {
        match $object {
            $(AnyObject::$kind(object) => compare($channel, object, $args).await,)*
        }
    };
}

async fn compare_any(channel: &Channel, object: AnyObject, args: &ManifestArgs) -> Result<Compared, Status> {
    for_each_kind!(compare_one [object, channel, args])
}

async fn compare<O: Resource>(channel: &Channel, object: O, args: &ManifestArgs) -> Result<Compared, Status> {
    let (after, _) = args.apply(channel, object, true).await?;
    let before = match O::get(channel, after.namespace(), after.name()).await {
        Ok(found) => Some(found.into()),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => return Err(status),
    };
    Ok(Compared {
        before,
        after: after.into(),
    })
}

/// The lines that differ, and what that does; nothing where nothing differs.
fn diff(label: &str, before: Option<&AnyObject>, after: &AnyObject) -> String {
    let [old, new] = texts(before, after);
    if old == new {
        return String::new();
    }
    let present = if before.is_some() { "as it is" } else { "not there" };
    let lines = TextDiff::from_lines(&old, &new);
    let mut text = lines
        .unified_diff()
        .context_radius(CONTEXT)
        .header(&format!("{label} ({present})"), &format!("{label} (applied)"))
        .to_string();
    if let (Some(AnyObject::Pod(old)), AnyObject::Pod(new)) = (before, after) {
        for line in told(label, old, new) {
            text.push_str(&line);
        }
    }
    text
}

/// For people, and a comment to who reads it as a patch.
fn told(label: &str, old: &Pod, new: &Pod) -> Vec<String> {
    let effects = update::effects(old, new);
    if effects.is_empty() {
        return vec![format!("# {label}: no container restarts\n")];
    }
    effects
        .into_iter()
        .map(|(container, effect)| format!("# {label}: container {container} {effect}\n"))
        .collect()
}

/// The two as manifests, without what changes with every write, and without the values of secrets.
fn texts(before: Option<&AnyObject>, after: &AnyObject) -> [String; 2] {
    let mut old = before.map(shown).unwrap_or_default();
    let mut new = shown(after);
    if matches!(after, AnyObject::Secret(_)) {
        hide_values(&mut old, &mut new);
    }
    let is_there = before.is_some();
    [(old, is_there), (new, true)].map(|(fields, is_there)| {
        if is_there {
            serde_yaml::to_string(&fields).expect("a tree of plain values can be written")
        } else {
            String::new()
        }
    })
}

fn shown(object: &AnyObject) -> Mapping {
    let Value::Mapping(mut fields) = manifest::to_yaml_value(object) else {
        return Mapping::new();
    };
    if let Some(Value::Mapping(metadata)) = fields.get_mut("metadata") {
        for changing in ["resourceVersion", "generation", "creationTimestamp", "uid"] {
            metadata.shift_remove(changing);
        }
    }
    fields.shift_remove("status");
    fields
}

/// Says of each value of a secret no more than whether it changes.
fn hide_values(old: &mut Mapping, new: &mut Mapping) {
    for field in ["data", "stringData"] {
        let was = old.get(field).cloned().unwrap_or_default();
        let becomes = new.get(field).cloned().unwrap_or_default();
        for (fields, other, word) in [(&mut *old, &becomes, "before"), (&mut *new, &was, "after")] {
            let Some(Value::Mapping(values)) = fields.get_mut(field) else {
                continue;
            };
            for (key, value) in values {
                let differs = other.get(key) != Some(&*value);
                let hidden = if differs {
                    format!("*** ({word})")
                } else {
                    "***".to_owned()
                };
                *value = hidden.into();
            }
        }
    }
}
