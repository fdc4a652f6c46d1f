//! `$(NAME)` in environment variables, commands and arguments.

use std::{borrow::Cow, collections::BTreeMap};

use clone8s::v1::EnvVar;

/// A container's variables with their references resolved: each may use those before it. Of two with one name the
/// later wins, at the place of the earlier.
pub fn resolve(env: &[EnvVar]) -> Vec<(String, String)> {
    let mut known = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for variable in env {
        let value = expand(&variable.value, &known).into_owned();
        if known.insert(variable.name.clone(), value).is_none() {
            order.push(&variable.name);
        }
    }
    order
        .into_iter()
        .map(|name| (name.to_owned(), known[name].clone()))
        .collect()
}

/// Replaces `$(NAME)` where NAME is known; `$$(NAME)` becomes `$(NAME)`; all else stays as it is.
pub fn expand<'a>(text: &'a str, known: &BTreeMap<String, String>) -> Cow<'a, str> {
    if !text.contains('$') {
        return Cow::Borrowed(text);
    }
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
        expanded.push_str(known.get(name).map_or(as_it_stands, String::as_str));
        rest = behind;
    }
    expanded.push_str(rest);
    Cow::Owned(expanded)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

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
    fn a_variable_sees_those_before_it_only() {
        let variable = |name: &str, value: &str| EnvVar {
            name: name.into(),
            value: value.into(),
        };
        let env = [
            variable("B", "$(A)"),
            variable("A", "1"),
            variable("C", "$(A)$(B)"),
            variable("A", "2"),
        ];
        let resolved = resolve(&env);
        let expected = [("B", "$(A)"), ("A", "2"), ("C", "1$(A)")];
        assert_eq!(
            resolved,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
