//! `spec.nodeName=n1,status.phase!=Failed`: every comparison must hold.
//!
//! What can be selected by is a table for each kind, so that a comparison costs a string compare: a watch filters
//! each change for each of its readers.

use std::{borrow::Cow, fmt};

use super::{MAX_SELECTOR, SelectorError};
use crate::{
    names,
    object::Object,
    v1::{
        ConfigMap, Event, Lease, LimitRange, Namespace, Node, ObjectMeta, Pod, PriorityClass, ResourceQuota,
        Secret, ServiceAccount,
    },
};

/// A field of a kind by which objects can be selected.
pub struct Field<O> {
    /// As in a manifest: "spec.nodeName".
    pub path: &'static str,
    /// The field's value as a word; "" where it is unset, "true" or "false" for a switch.
    pub value: for<'a> fn(&'a O) -> Cow<'a, str>,
}

/// What a kind's objects can be selected by.
pub trait Fields: Sized + 'static {
    const FIELDS: &'static [Field<Self>];
}

/// Comparisons of fields, all of which must hold; the empty selector matches everything.
pub struct FieldSelector<O: Object> {
    requirements: Vec<Requirement<O>>,
}

struct Requirement<O: Object> {
    field: &'static Field<O>,
    value: String,
    wanted: Wanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Equal,
    Different,
}

impl<O: Object> FieldSelector<O> {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR {
            return Err(SelectorError::TooLong(text.len()));
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let requirements = text
            .split(',')
            .map(|part| Requirement::parse(part.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }

    pub fn matches(&self, object: &O) -> bool {
        self.requirements.iter().all(|requirement| {
            let equal = (requirement.field.value)(object) == requirement.value.as_str();
            equal == (requirement.wanted == Wanted::Equal)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// How many comparisons it makes.
    pub fn len(&self) -> usize {
        self.requirements.len()
    }

    /// The one value that the field must have, for a caller that can narrow its search by it.
    pub fn required(&self, path: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|requirement| requirement.field.path == path && requirement.wanted == Wanted::Equal)
            .map(|requirement| requirement.value.as_str())
    }
}

impl<O: Object> Requirement<O> {
    fn parse(part: &str) -> Result<Self, SelectorError> {
        let split = |operator, wanted| {
            part.split_once(operator)
                .map(|(path, value)| (path, value, wanted))
        };
        // "!=" and "==" before "=", which is a part of both.
        let (path, value, wanted) = split("!=", Wanted::Different)
            .or_else(|| split("==", Wanted::Equal))
            .or_else(|| split("=", Wanted::Equal))
            .ok_or_else(|| SelectorError::Syntax {
                part: part.to_owned(),
                reason: "must be path=value or path!=value".to_owned(),
            })?;
        let (path, value) = (path.trim(), value.trim().to_owned());
        // "a==b" with a blank between the two would read as another comparison when it is written out.
        if value.contains('=') {
            return Err(SelectorError::Syntax {
                part: part.to_owned(),
                reason: "a value cannot hold \"=\"".to_owned(),
            });
        }
        let field = O::FIELDS
            .iter()
            .find(|field| field.path == path)
            .ok_or_else(|| unknown::<O>(path))?;
        Ok(Self { field, value, wanted })
    }
}

fn unknown<O: Object>(path: &str) -> SelectorError {
    let mut known: Vec<_> = O::FIELDS.iter().map(|field| field.path).collect();
    // What was probably meant comes first.
    if let Some(near) = names::nearest(path, known.iter().copied()) {
        known.retain(|path| *path != near);
        known.insert(0, near);
    }
    SelectorError::UnknownField {
        path: path.to_owned(),
        kind: O::KIND,
        known,
    }
}

// By hand, because a derive would ask the same of the kind.
impl<O: Object> Default for FieldSelector<O> {
    fn default() -> Self {
        Self {
            requirements: Vec::new(),
        }
    }
}

impl<O: Object> Clone for FieldSelector<O> {
    fn clone(&self) -> Self {
        Self {
            requirements: self
                .requirements
                .iter()
                .map(|requirement| Requirement {
                    field: requirement.field,
                    value: requirement.value.clone(),
                    wanted: requirement.wanted,
                })
                .collect(),
        }
    }
}

impl<O: Object> fmt::Display for FieldSelector<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.requirements.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            let operator = match requirement.wanted {
                Wanted::Equal => "=",
                Wanted::Different => "!=",
            };
            write!(
                f,
                "{comma}{}{operator}{}",
                requirement.field.path, requirement.value
            )?;
        }
        Ok(())
    }
}

impl<O: Object> fmt::Debug for FieldSelector<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldSelector({self})")
    }
}

impl<O> fmt::Debug for Field<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({})", self.path)
    }
}

fn meta<O: Object>(object: &O, part: for<'a> fn(&'a ObjectMeta) -> &'a str) -> Cow<'_, str> {
    Cow::Borrowed(object.metadata().map_or("", part))
}

fn switch(on: bool) -> Cow<'static, str> {
    Cow::Borrowed(if on { "true" } else { "false" })
}

/// The metadata's fields, which every kind has, and a kind's own.
macro_rules! fields {
    ($kind:ident { $($path:literal: |$object:ident| $value:expr),* $(,)? }) => {
        impl Fields for $kind {
            const FIELDS: &'static [Field<Self>] = &[
                Field { path: "metadata.name", value: |object| meta(object, |meta| &meta.name) },
                Field { path: "metadata.namespace", value: |object| meta(object, |meta| &meta.namespace) },
                Field { path: "metadata.uid", value: |object| meta(object, |meta| &meta.uid) },
                $(Field { path: $path, value: |$object| $value }),*
            ];
        }
    };
}

/// The text at the end of a chain of optional messages, or "".
macro_rules! text {
    ($object:ident.$message:ident.$field:ident) => {
        Cow::Borrowed($object.$message.as_ref().map_or("", |message| &message.$field))
    };
}

fields!(Pod {
    "spec.nodeName": |pod| text!(pod.spec.node_name),
    "spec.restartPolicy": |pod| text!(pod.spec.restart_policy),
    "spec.hostNetwork": |pod| switch(pod.spec.as_ref().is_some_and(|spec| spec.host_network)),
    "spec.runtimeClassName": |pod| text!(pod.spec.runtime_class_name),
    "spec.priorityClassName": |pod| text!(pod.spec.priority_class_name),
    "status.phase": |pod| text!(pod.status.phase),
    "status.reason": |pod| text!(pod.status.reason),
    "status.hostIP": |pod| text!(pod.status.host_ip),
    "status.podIP": |pod| text!(pod.status.pod_ip),
});
fields!(Node {
    "spec.unschedulable": |node| switch(node.spec.as_ref().is_some_and(|spec| spec.unschedulable)),
});
fields!(Namespace {
    "status.phase": |namespace| text!(namespace.status.phase),
});
fields!(ConfigMap {});
fields!(Secret {
    "type": |secret| Cow::Borrowed(secret.r#type.as_str()),
});
fields!(Event {
    "involvedObject.kind": |event| text!(event.involved_object.kind),
    "involvedObject.namespace": |event| text!(event.involved_object.namespace),
    "involvedObject.name": |event| text!(event.involved_object.name),
    "involvedObject.uid": |event| text!(event.involved_object.uid),
    "reason": |event| Cow::Borrowed(event.reason.as_str()),
    "type": |event| Cow::Borrowed(event.r#type.as_str()),
    "source.component": |event| text!(event.source.component),
    "source.host": |event| text!(event.source.host),
});

fields!(Lease {
    "spec.holderIdentity": |lease| text!(lease.spec.holder_identity),
});
fields!(ServiceAccount {});
fields!(PriorityClass {
    "globalDefault": |class| switch(class.global_default),
});
fields!(ResourceQuota {});
fields!(LimitRange {});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::v1::{PodSpec, PodStatus};

    fn pod() -> Pod {
        Pod {
            metadata: Some(ObjectMeta {
                name: "web".to_owned(),
                namespace: "shop".to_owned(),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                node_name: "n1".to_owned(),
                host_network: true,
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: "Running".to_owned(),
                ..PodStatus::default()
            }),
        }
    }

    #[rstest]
    #[case("", true)]
    #[case("spec.nodeName=n1", true)]
    #[case("spec.nodeName==n1 , status.phase!=Failed", true)]
    #[case("spec.nodeName=", false)]
    #[case("spec.nodeName!=", true)]
    #[case("spec.hostNetwork=true", true)]
    #[case("metadata.namespace=shop,metadata.name=db", false)]
    fn every_comparison_must_hold(#[case] selector: &str, #[case] expected: bool) {
        assert_eq!(
            FieldSelector::<Pod>::parse(selector).unwrap().matches(&pod()),
            expected
        );
    }

    #[test]
    fn an_unset_message_reads_as_empty() {
        let selector = FieldSelector::<Pod>::parse("spec.nodeName=").unwrap();
        assert!(selector.matches(&Pod::default()));
    }

    #[test]
    fn an_unknown_path_is_refused_with_the_known_ones_nearest_first() {
        let error = FieldSelector::<Pod>::parse("spec.nodename=n1")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(
                "\"spec.nodename\" is not a selectable field of a Pod; selectable are spec.nodeName, metadata.name"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_selector_without_a_comparison_is_refused() {
        let error = FieldSelector::<Node>::parse("metadata.name").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"metadata.name\": must be path=value or path!=value"
        );
    }

    #[test]
    fn a_selector_reads_what_it_writes_and_names_what_it_requires() {
        let selector = FieldSelector::<Pod>::parse("spec.nodeName=n1,status.phase!=Failed").unwrap();
        assert_eq!(selector.to_string(), "spec.nodeName=n1,status.phase!=Failed");
        assert_eq!(selector.required("spec.nodeName"), Some("n1"));
        assert_eq!(selector.required("status.phase"), None);
    }
    fn any_selector() -> impl Strategy<Value = String> {
        let words = prop::sample::select(vec![
            "metadata.name",
            "spec.nodeName",
            "status.phase",
            "spec.nothing",
            "=",
            "==",
            "!=",
            "!",
            ",",
            " ",
            "n1",
            "\u{1F980}",
        ]);
        prop_oneof![
            prop::collection::vec(words, 0..10).prop_map(|words| words.concat()),
            "\\PC{0,60}",
        ]
    }

    proptest! {
        #[test]
        fn reading_any_text_never_panics_and_what_is_read_reads_back(text in any_selector()) {
            if let Ok(selector) = FieldSelector::<Pod>::parse(&text) {
                let written = selector.to_string();
                let again = FieldSelector::<Pod>::parse(&written).unwrap();
                prop_assert_eq!(again.to_string(), written);
                prop_assert_eq!(again.len(), selector.len());
                prop_assert_eq!(again.matches(&pod()), selector.matches(&pod()));
            }
        }
    }
}
