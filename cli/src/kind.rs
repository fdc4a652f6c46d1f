//! Kinds as people write them: "pod", "pods", "po".

use std::str::FromStr;

use anyhow::{Result, bail};
use clap::Args;
use clone8s::{
    for_each_kind,
    object::{AnyObject, Object},
};

macro_rules! kinds {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        /// A kind of object that the commands work on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($kind,)*
        }

        impl Kind {
            pub(crate) fn of(object: &AnyObject) -> Self {
                match object {
                    $(AnyObject::$kind(_) => Self::$kind,)*
                }
            }
        }
    };
}
for_each_kind!(kinds);

/// Every spelling of each kind; the first is the one that we print.
const NAMES: &[(Kind, &[&str])] = &[
    (Kind::Pod, &["pod", "pods", "po"]),
    (Kind::Node, &["node", "nodes", "no"]),
    (Kind::Namespace, &["namespace", "namespaces", "ns"]),
    (Kind::ConfigMap, &["configmap", "configmaps", "cm"]),
    (Kind::Secret, &["secret", "secrets"]),
    (Kind::Event, &["event", "events", "ev"]),
    (Kind::Lease, &["lease", "leases"]),
    (Kind::ServiceAccount, &["serviceaccount", "serviceaccounts", "sa"]),
    (Kind::PriorityClass, &["priorityclass", "priorityclasses", "pc"]),
    (Kind::ResourceQuota, &["resourcequota", "resourcequotas", "quota"]),
    (Kind::LimitRange, &["limitrange", "limitranges", "limits"]),
];

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.to_ascii_lowercase();
        NAMES
            .iter()
            .find(|(_, names)| names.contains(&wanted.as_str()))
            .map(|(kind, _)| *kind)
            .ok_or_else(|| {
                let spellings = NAMES.iter().flat_map(|(_, names)| names.iter().copied());
                if let Some(near) = clone8s::names::mistyped(&wanted, spellings) {
                    return format!("there is no kind {text:?}; did you mean {near:?}?");
                }
                let known: Vec<_> = NAMES.iter().map(|(_, names)| names[0]).collect();
                format!("there is no kind {text:?}; there are {}", known.join(", "))
            })
    }
}

/// Runs a block with a type alias bound to the kind's message type.
macro_rules! with_kind {
    ($kind:expr, $Object:ident => $body:expr) => {
        clone8s::for_each_kind!(with_kind_of [$kind, $Object, $body])
    };
}

macro_rules! with_kind_of {
    (
        [$value:expr, $Object:ident, $body:expr]
        $($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*
    ) => {
        match $value {
            $($crate::kind::Kind::$kind => {
                type $Object = clone8s::v1::$kind;
                $body
            })*
        }
    };
}
pub(crate) use with_kind;
pub(crate) use with_kind_of;

/// How an object is called: "pod/web".
pub(crate) fn label<O: Object>(name: &str) -> String {
    format!("{}/{name}", O::KIND.to_lowercase())
}

/// Which objects: a kind and names, or KIND/NAME.
#[derive(Debug, Clone, Args)]
pub struct ObjectArgs {
    /// A kind and names, as in "pods" or "pod hello", or KIND/NAME as in "pod/hello"
    #[arg(value_name = "KIND [NAME...]")]
    pub what: Vec<String>,
}

impl ObjectArgs {
    /// The kind and the names, which may be none.
    pub fn parse(&self) -> Result<(Kind, Vec<String>)> {
        let Some((first, rest)) = self.what.split_first() else {
            bail!("say what: a kind such as pods, or KIND/NAME");
        };
        let (kind, mut names) = match first.split_once('/') {
            Some((kind, name)) => (kind, vec![name.to_owned()]),
            None => (first.as_str(), Vec::new()),
        };
        names.extend(rest.iter().cloned());
        let kind = kind.parse().map_err(anyhow::Error::msg)?;
        if let Some(name) = names.iter().find(|name| name.is_empty() || name.contains('/')) {
            bail!("{name:?} is not a name; write KIND/NAME for one object, or KIND NAME NAME for several");
        }
        Ok((kind, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<(Kind, Vec<String>)> {
        ObjectArgs {
            what: words.iter().map(ToString::to_string).collect(),
        }
        .parse()
    }

    #[test]
    fn kinds_and_names_come_in_two_spellings() {
        assert_eq!(parse(&["po"]).unwrap(), (Kind::Pod, vec![]));
        assert_eq!(parse(&["pod/web"]).unwrap(), (Kind::Pod, vec!["web".to_owned()]));
        assert_eq!(
            parse(&["CM", "a", "b"]).unwrap(),
            (Kind::ConfigMap, vec!["a".to_owned(), "b".to_owned()])
        );
    }

    #[test]
    fn an_unknown_kind_names_those_that_there_are() {
        let error = parse(&["deployments"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no kind \"deployments\"; there are pod, node, namespace, configmap, secret, event, lease, \
             serviceaccount, priorityclass, resourcequota, limitrange"
        );
    }

    #[test]
    fn a_kind_that_is_nearly_right_is_recognized() {
        let error = parse(&["configmpa"]).unwrap_err().to_string();
        assert!(error.ends_with("did you mean \"configmap\"?"), "{error}");
    }

    #[test]
    fn a_path_is_not_a_name() {
        assert!(parse(&["pods", "a/b"]).is_err());
        assert!(parse(&["pod/"]).is_err());
    }
}
