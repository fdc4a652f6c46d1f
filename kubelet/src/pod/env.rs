//! A container's environment variables, and `$(NAME)` in them, in commands and in arguments. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use clone8s::{
    names,
    v1::{Container, EnvFromSource, EnvVar, env_var_source::Source},
};

use super::downward::{self, Inputs};
use crate::objects::{ObjectKind, ObjectRef};

/// A container's variables with their references resolved: each may use those before it, and `env` comes after
/// `envFrom`. Of two with one name the later wins, at the place of the earlier.
pub fn resolve(container: &Container, inputs: Inputs<'_>) -> Result<Vec<(String, String)>, String> {
    let mut variables = Variables::default();
    for from in &container.env_from {
        add_all(&mut variables, from, inputs)?;
    }
    for variable in &container.env {
        if let Some(value) = value(variable, container, inputs, &variables.known)? {
            variables.set(&variable.name, value);
        }
    }
    Ok(variables.in_order())
}

#[derive(Default)]
struct Variables {
    known: BTreeMap<String, String>,
    order: Vec<String>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        if self.known.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn in_order(mut self) -> Vec<(String, String)> {
        self.order
            .into_iter()
            .map(|name| {
                let value = self.known.remove(&name).unwrap_or_default();
                (name, value)
            })
            .collect()
    }
}

fn add_all(variables: &mut Variables, from: &EnvFromSource, inputs: Inputs<'_>) -> Result<(), String> {
    let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
        (Some(map), _) => (ObjectKind::ConfigMap, &map.name, map.optional),
        (None, Some(secret)) => (ObjectKind::Secret, &secret.name, secret.optional),
        (None, None) => return Ok(()),
    };
    let Some((object, entries)) = inputs
        .object(kind, name, optional)
        .map_err(|missing| missing.to_string())?
    else {
        return Ok(());
    };
    for (key, value) in entries.pairs() {
        let name = format!("{}{key}", from.prefix);
        match names::check_env_name(&name) {
            Ok(()) => variables.set(&name, text(&object, key, value)?),
            // The same object may hold files for a volume.
            Err(error) => tracing::debug!(%object, key, %error, "not a variable"),
        }
    }
    Ok(())
}

/// None for an optional value that is not there.
fn value(
    variable: &EnvVar,
    container: &Container,
    inputs: Inputs<'_>,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    let Inputs { pod, node, .. } = inputs;
    let source = variable.value_from.as_ref().and_then(|from| from.source.as_ref());
    match source {
        None => Ok(Some(expand(&variable.value, known).into_owned())),
        Some(Source::FieldRef(field)) => downward::field(pod, node, &field.field_path).map(Some),
        Some(Source::ResourceFieldRef(resource)) => {
            let of = match resource.container_name.as_str() {
                "" => container.name.as_str(),
                name => name,
            };
            downward::resource(pod, node, of, resource).map(Some)
        }
        Some(Source::ConfigMapKeyRef(key)) => {
            one(ObjectKind::ConfigMap, &key.name, &key.key, key.optional, inputs)
        }
        Some(Source::SecretKeyRef(key)) => one(ObjectKind::Secret, &key.name, &key.key, key.optional, inputs),
    }
}

fn one(
    kind: ObjectKind,
    name: &str,
    key: &str,
    optional: bool,
    inputs: Inputs<'_>,
) -> Result<Option<String>, String> {
    let Some((object, entries)) = inputs
        .object(kind, name, optional)
        .map_err(|missing| missing.to_string())?
    else {
        return Ok(None);
    };
    match entries.get(key) {
        Some(value) => text(&object, key, value).map(Some),
        None if optional => Ok(None),
        None => Err(format!("{object} has no key {key:?}")),
    }
}

/// A variable is a string of the C language.
fn text(object: &ObjectRef, key: &str, value: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| {
        format!("key {key:?} of {object} is not text, as a variable must be; mount it as a volume")
    })
}

/// Replaces `$(NAME)` where NAME is known; `$$(NAME)` becomes `$(NAME)`; all else stays as it is.
pub fn expand<'a>(text: &'a str, known: &BTreeMap<String, String>) -> Cow<'a, str> {
    if !text.contains('$') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(replace(text, |name| known.get(name).map(String::as_str)))
}

/// The same where every NAME must be known; the error is one that is not.
pub fn expand_all(text: &str, known: &BTreeMap<String, String>) -> Result<String, String> {
    let mut unknown = None;
    let expanded = replace(text, |name| {
        let value = known.get(name);
        if value.is_none() {
            unknown.get_or_insert_with(|| name.to_owned());
        }
        value.map(String::as_str)
    });
    unknown.map_or(Ok(expanded), Err)
}

fn replace<'a>(text: &str, mut value_of: impl FnMut(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            expanded.push('$');
            rest = escaped;
            continue;
        }
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        let Some((name, behind)) = reference else {
            expanded.push('$');
            rest = after;
            continue;
        };
        let as_it_stands = &rest[dollar..rest.len() - behind.len()];
        expanded.push_str(value_of(name).unwrap_or(as_it_stands));
        rest = behind;
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{ConfigMapEnvSource, EnvVarSource, SecretKeySelector};
    use rstest::rstest;

    use super::*;
    use crate::{
        objects::Objects,
        pod::{
            downward::Surroundings,
            testing::{container, pod},
        },
    };

    #[rstest]
    #[case("plain", "plain")]
    #[case("$(A)", "1")]
    #[case("x$(A)y$(A)", "x1y1")]
    #[case("$$(A)", "$(A)")]
    #[case("$$$(A)", "$1")]
    #[case("$(MISSING)", "$(MISSING)")]
    #[case("$(A", "$(A")]
    #[case("$A", "$A")]
    #[case("100$", "100$")]
    #[case("$()", "$()")]
    #[case("ü$(A)ü", "ü1ü")]
    fn references_are_replaced_where_they_are_known(#[case] text: &str, #[case] expected: &str) {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand(text, &known), expected);
    }

    #[test]
    fn where_all_must_be_known_the_first_that_is_not_is_named() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand_all("x/$(A)/$$(B)", &known).unwrap(), "x/1/$(B)");
        assert_eq!(expand_all("$(A)/$(B)/$(C)", &known).unwrap_err(), "B");
    }

    #[test]
    fn a_variable_sees_those_before_it_only() {
        let variable = |name: &str, value: &str| EnvVar {
            name: name.into(),
            value: value.into(),
            ..Default::default()
        };
        let mut web = container("web", "web:1");
        web.env = vec![
            variable("B", "$(A)"),
            variable("A", "1"),
            variable("C", "$(A)$(B)"),
            variable("A", "2"),
        ];
        assert_eq!(
            resolved(&web).unwrap(),
            [("B", "$(A)"), ("A", "2"), ("C", "1$(A)")].map(owned)
        );
    }

    fn owned((name, value): (&str, &str)) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn resolved(container: &Container) -> Result<Vec<(String, String)>, String> {
        let pod = pod("p", vec![container.clone()]);
        let objects = Objects::of_api([
            (
                ObjectKind::ConfigMap,
                "settings",
                &[("COLOR", "blue"), ("not a name", "x")][..],
            ),
            (ObjectKind::Secret, "login", &[("password", "hush")]),
        ]);
        let inputs = Inputs {
            pod: &pod,
            objects: &objects,
            node: &Surroundings::default(),
        };
        resolve(container, inputs)
    }

    fn from_secret(name: &str, key: &str, optional: bool) -> EnvVar {
        let selector = SecretKeySelector {
            name: name.into(),
            key: key.into(),
            optional,
        };
        EnvVar {
            name: "PASSWORD".into(),
            value_from: Some(EnvVarSource {
                source: Some(Source::SecretKeyRef(selector)),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn objects_give_variables_that_later_ones_may_use() {
        let mut web = container("web", "web:1");
        web.env_from = vec![EnvFromSource {
            prefix: "MY_".into(),
            config_map_ref: Some(ConfigMapEnvSource {
                name: "settings".into(),
                optional: false,
            }),
            secret_ref: None,
        }];
        let url = EnvVar {
            name: "URL".into(),
            value: "$(MY_COLOR):$(PASSWORD)".into(),
            ..Default::default()
        };
        web.env = vec![from_secret("login", "password", false), url];
        let expected = [("MY_COLOR", "blue"), ("PASSWORD", "hush"), ("URL", "blue:hush")];
        assert_eq!(resolved(&web).unwrap(), expected.map(owned));
    }

    #[rstest]
    #[case::object("none", "password", "secret default/none is not known yet")]
    #[case::key("login", "user", "secret default/login has no key \"user\"")]
    fn what_is_missing_is_an_error_unless_it_is_optional(
        #[case] name: &str,
        #[case] key: &str,
        #[case] why: &str,
    ) {
        let asking = |optional| {
            let mut web = container("web", "web:1");
            web.env = vec![from_secret(name, key, optional)];
            resolved(&web)
        };
        assert!(asking(false).unwrap_err().contains(why));
        // Objects that nobody has spoken of may be there.
        assert_eq!(asking(true).is_ok(), name == "login");
    }
}
