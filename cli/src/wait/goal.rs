//! What is waited for, and how far an object is from it.

use std::{cell::LazyCell, fmt, str::FromStr};

use anyhow::anyhow;
use clone8s::{
    manifest,
    object::Object,
    path::{FieldPath, Segment},
};
use serde_yaml::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    Created,
    Deleted,
    Condition { name: String, status: String },
    Field { path: FieldPath, value: String },
}

/// Whether an object is as it is to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    Yes,
    NotYet(String),
    /// What is there says that it will not be.
    Never(String),
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = || {
            format!(
                "{text:?} is none of condition=TYPE, condition=TYPE=STATUS, FIELD=VALUE such as status.phase=Succeeded, \
                 create, delete"
            )
        };
        match text.split_once('=') {
            None if text == "create" => Ok(Self::Created),
            None if text == "delete" => Ok(Self::Deleted),
            None => Err(how()),
            Some(("condition", condition)) => {
                let (name, status) = condition.split_once('=').unwrap_or((condition, "True"));
                if name.is_empty() || status.is_empty() {
                    return Err(how());
                }
                Ok(Self::Condition {
                    name: name.to_owned(),
                    status: status.to_owned(),
                })
            }
            Some((path, value)) => {
                let path: FieldPath = path.parse().map_err(|_| how())?;
                if path.is_root() {
                    return Err(how());
                }
                Ok(Self::Field {
                    path,
                    value: value.to_owned(),
                })
            }
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Deleted => f.write_str("deleted"),
            Self::Condition { name, status } => write!(f, "condition {name} is {status}"),
            Self::Field { path, value } => write!(f, "{path} is {value}"),
        }
    }
}

impl Goal {
    pub(super) fn is_condition(&self) -> bool {
        matches!(self, Self::Condition { .. })
    }

    /// Refuses what objects of this kind do not have: it would be waited for in vain.
    pub(super) fn check<O: Object>(&self) -> anyhow::Result<()> {
        match self {
            Self::Field { path, .. } => {
                manifest::unset_value(O::KIND, path)
                    .map_err(|error| anyhow!("--for: {}: {error}", O::KIND.to_lowercase()))?;
                Ok(())
            }
            Self::Condition { .. } => {
                let conditions = FieldPath::root().field("status").field("conditions");
                manifest::check_path(O::KIND, &conditions).map_err(|_| {
                    anyhow!(
                        "--for: {} have no conditions; wait for a field, or with create or delete",
                        O::PLURAL
                    )
                })
            }
            Self::Created | Self::Deleted => Ok(()),
        }
    }

    pub(super) fn look<O: Object>(&self, object: &O) -> Met {
        let document = LazyCell::new(|| manifest::to_yaml_value(&object.clone().into()));
        let met = match self {
            Self::Created => return Met::Yes,
            Self::Deleted => return Met::NotYet("still there".to_owned()),
            Self::Condition { name, status } => condition(&document, name, status),
            Self::Field { path, value } => {
                let unset = manifest::unset_value(O::KIND, path).ok().flatten();
                field(&document, path, unset.as_deref(), value)
            }
        };
        match (met, self.ended::<O>(&document)) {
            (Met::NotYet(why), Some(phase)) => Met::Never(format!("{why}, and the pod has ended: {phase}")),
            (met, _) => met,
        }
    }

    /// The phase of a pod whose status changes no more, where that is what is waited for.
    fn ended<O: Object>(&self, document: &Value) -> Option<String> {
        let of_status = match self {
            Self::Condition { .. } => true,
            Self::Field { path, .. } => path.segments().first() == Some(&Segment::Field("status".to_owned())),
            Self::Created | Self::Deleted => false,
        };
        let status = document.get("status").filter(|_| of_status && O::KIND == "Pod")?;
        let phase = status.get("phase").and_then(Value::as_str)?;
        if !["Succeeded", "Failed"].contains(&phase) {
            return None;
        }
        Some(format!("{phase}{}", why(status)))
    }
}

/// Names and states of conditions are told by their letters alone.
fn condition(document: &Value, name: &str, wanted: &str) -> Met {
    let conditions = document.get("status").and_then(|status| status.get("conditions"));
    let mut conditions = conditions.and_then(Value::as_sequence).into_iter().flatten();
    let text = |condition: &Value, field: &str| condition.get(field).map(shown).unwrap_or_default();
    let Some(found) = conditions.find(|one| text(one, "type").eq_ignore_ascii_case(name)) else {
        return Met::NotYet(format!("it has no condition {name}"));
    };
    let status = text(found, "status");
    if status.eq_ignore_ascii_case(wanted) {
        return Met::Yes;
    }
    Met::NotYet(format!("condition {name} is {status}{}", why(found)))
}

/// What a status or a condition tells of itself, in brackets.
fn why(told: &Value) -> String {
    let words = ["reason", "message"].map(|field| told.get(field).and_then(Value::as_str));
    let words: Vec<_> = words
        .into_iter()
        .flatten()
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        return String::new();
    }
    format!(" ({})", words.join(": "))
}

fn field(document: &Value, path: &FieldPath, unset: Option<&str>, wanted: &str) -> Met {
    let mut value = Some(document);
    let mut around = None;
    for segment in path.segments() {
        around = value;
        value = value.and_then(|value| match segment {
            Segment::Index(index) if value.is_mapping() => value.get(index.to_string()),
            Segment::Index(index) => value.get(index),
            Segment::Field(key) | Segment::Key(key) => value.get(key),
        });
    }
    let unset = unset.filter(|_| around.is_some()).map(ToOwned::to_owned);
    match value.map(shown).or(unset) {
        Some(found) if found == wanted => Met::Yes,
        Some(found) => Met::NotYet(format!("{path} is {found:?}")),
        None => Met::NotYet(format!("{path} is not set")),
    }
}

/// A scalar as a person writes it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => serde_yaml::to_string(other)
            .unwrap_or_default()
            .trim_end()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{Condition, ConfigMap, Pod, PodStatus};
    use rstest::rstest;

    use super::*;

    fn pod(phase: &str, ready: &str) -> Pod {
        Pod {
            status: Some(PodStatus {
                phase: phase.to_owned(),
                reason: "Evicted".to_owned(),
                conditions: vec![Condition {
                    r#type: "Ready".to_owned(),
                    status: ready.to_owned(),
                    reason: "ContainersNotReady".to_owned(),
                    ..Condition::default()
                }],
                ..PodStatus::default()
            }),
            ..Pod::default()
        }
    }

    #[rstest]
    #[case::condition("condition=Ready", "Running", "True", Met::Yes)]
    #[case::by_its_letters("condition=ready=false", "Running", "False", Met::Yes)]
    #[case::not_yet("condition=Ready", "Running", "False", Met::NotYet("condition Ready is False (ContainersNotReady)".into()))]
    #[case::none("condition=Served", "Running", "True", Met::NotYet("it has no condition Served".into()))]
    #[case::never(
        "condition=Ready",
        "Failed",
        "False",
        Met::Never("condition Ready is False (ContainersNotReady), and the pod has ended: Failed (Evicted)".into())
    )]
    #[case::phase("status.phase=Succeeded", "Succeeded", "False", Met::Yes)]
    #[case::phase_later("status.phase=Succeeded", "Running", "True", Met::NotYet("status.phase is \"Running\"".into()))]
    #[case::element("status.conditions[0].type=Ready", "Running", "True", Met::Yes)]
    #[case::label("metadata.labels[app]=web", "Failed", "False", Met::NotYet("metadata.labels[app] is not set".into()))]
    #[case::created("create", "Pending", "False", Met::Yes)]
    #[case::left_out("status.podIP=", "Pending", "False", Met::Yes)]
    #[case::nothing_around("spec.hostNetwork=false", "Pending", "False", Met::NotYet("spec.hostNetwork is not set".into()))]
    fn an_object_is_as_it_is_to_be_or_not(
        #[case] goal: &str,
        #[case] phase: &str,
        #[case] ready: &str,
        #[case] expected: Met,
    ) {
        let goal: Goal = goal.parse().unwrap();
        goal.check::<Pod>().unwrap();
        assert_eq!(goal.look(&pod(phase, ready)), expected);
    }

    #[rstest]
    #[case("")]
    #[case("ready")]
    #[case("condition=")]
    #[case("condition=Ready=")]
    #[case("=x")]
    #[case("status..phase=x")]
    fn what_is_no_goal_is_refused_with_what_is(#[case] text: &str) {
        let error = text.parse::<Goal>().unwrap_err();
        assert!(error.contains("condition=TYPE"), "{error}");
    }

    #[test]
    fn a_field_that_is_none_is_refused() {
        let goal: Goal = "status.phse=Running".parse().unwrap();
        let error = goal.check::<Pod>().unwrap_err().to_string();
        assert_eq!(
            error,
            "--for: pod: status.phse: unknown field; did you mean \"phase\"?"
        );

        let goal: Goal = "condition=Ready".parse().unwrap();
        let error = goal.check::<ConfigMap>().unwrap_err().to_string();
        assert!(error.contains("configmaps have no conditions"), "{error}");
    }
}
