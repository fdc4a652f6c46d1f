//! `app=web,tier in (a,b),!old`: every requirement must hold.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::{MAX_SELECTOR, SelectorError};
use crate::names;

/// Requirements on an object's labels, all of which must hold; the empty selector matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    Equals(String),
    /// Also true for an object without the label, as in Kubernetes.
    NotEquals(String),
    In(Vec<String>),
    /// Also true for an object without the label, as in Kubernetes.
    NotIn(Vec<String>),
}

impl LabelSelector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR {
            return Err(SelectorError::TooLong(text.len()));
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let requirements = split_outside_parentheses(text)
            .into_iter()
            .map(|part| Requirement::parse(part.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.requirements.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl Requirement {
    fn parse(part: &str) -> Result<Self, SelectorError> {
        if part.is_empty() {
            return Err(syntax(part, "a requirement is missing beside a comma"));
        }
        if let Some(key) = part.strip_prefix('!') {
            return Self::checked(part, key, Operator::DoesNotExist);
        }
        // "!=" and "==" before "=", which is a part of both.
        if let Some((key, value)) = part.split_once("!=") {
            return Self::checked(part, key, Operator::NotEquals(value.trim().to_owned()));
        }
        if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            return Self::checked(part, key, Operator::Equals(value.trim().to_owned()));
        }
        let Some((key, rest)) = part.split_once(char::is_whitespace) else {
            return Self::checked(part, part, Operator::Exists);
        };
        let rest = rest.trim();
        if let Some(values) = rest.strip_prefix("notin") {
            return Self::checked(part, key, Operator::NotIn(parse_set(part, values)?));
        }
        if let Some(values) = rest.strip_prefix("in") {
            return Self::checked(part, key, Operator::In(parse_set(part, values)?));
        }
        Err(syntax(
            part,
            "must be key, !key, key=value, key!=value, key in (a,b) or key notin (a,b)",
        ))
    }

    fn checked(part: &str, key: &str, operator: Operator) -> Result<Self, SelectorError> {
        let key = key.trim();
        names::check_qualified_name(key).map_err(|error| SelectorError::Key {
            part: part.to_owned(),
            reason: error.to_string(),
        })?;
        for value in operator.values() {
            names::check_label_value(value).map_err(|error| SelectorError::Value {
                part: part.to_owned(),
                reason: error.to_string(),
            })?;
        }
        Ok(Self {
            key: key.to_owned(),
            operator,
        })
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(&self.key);
        match &self.operator {
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::Equals(value) => label == Some(value),
            Operator::NotEquals(value) => label != Some(value),
            Operator::In(values) => label.is_some_and(|label| values.contains(label)),
            Operator::NotIn(values) => label.is_none_or(|label| !values.contains(label)),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals(value) => write!(f, "{key}={value}"),
            Operator::NotEquals(value) => write!(f, "{key}!={value}"),
            Operator::In(values) => write!(f, "{key} in ({})", values.join(",")),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
        }
    }
}

impl Operator {
    fn values(&self) -> &[String] {
        match self {
            Self::Exists | Self::DoesNotExist => &[],
            Self::Equals(value) | Self::NotEquals(value) => std::slice::from_ref(value),
            Self::In(values) | Self::NotIn(values) => values,
        }
    }
}

fn parse_set(part: &str, text: &str) -> Result<Vec<String>, SelectorError> {
    let values = text
        .trim()
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or_else(|| syntax(part, "the values of a set stand in parentheses: key in (a,b)"))?;
    Ok(values.split(',').map(|value| value.trim().to_owned()).collect())
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(|c| {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        c == ',' && !inside
    })
    .collect()
}

fn syntax(part: &str, reason: &str) -> SelectorError {
    SelectorError::Syntax {
        part: part.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[rstest]
    #[case("", true)]
    #[case("app=web", true)]
    #[case("app == web", true)]
    #[case("app=db", false)]
    #[case("app!=db", true)]
    #[case("missing!=x", true)]
    #[case("app", true)]
    #[case("missing", false)]
    #[case("!missing", true)]
    #[case("!app", false)]
    #[case("tier in (front, back)", true)]
    #[case("tier in(back)", false)]
    #[case("tier notin (back)", true)]
    #[case("missing notin (x)", true)]
    #[case("missing in (x)", false)]
    #[case("app=web,tier in (front,back),!old", true)]
    #[case("app=web,tier=back", false)]
    #[case("empty=", true)]
    #[case("in=x", false)]
    #[case("example.com/role=main", true)]
    fn a_selector_matches_as_in_kubernetes(#[case] selector: &str, #[case] expected: bool) {
        let labels = labels(&[
            ("app", "web"),
            ("tier", "front"),
            ("empty", ""),
            ("example.com/role", "main"),
        ]);
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(&labels), expected);
    }

    #[rstest]
    #[case("app=web,", "a requirement is missing beside a comma")]
    #[case("app is web", "must be key, !key")]
    #[case("app in a,b", "the values of a set stand in parentheses")]
    #[case("tier in (a", "the values of a set stand in parentheses")]
    #[case("=web", "the label key must not be empty")]
    #[case("app=we b", "the label value must consist of")]
    #[case("a=b=c", "the label value must consist of")]
    fn a_bad_selector_is_refused_with_the_reason(#[case] selector: &str, #[case] reason: &str) {
        let error = LabelSelector::parse(selector).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn a_selector_beyond_the_bound_is_refused() {
        let long = "a,".repeat(MAX_SELECTOR);
        assert!(matches!(
            LabelSelector::parse(&long),
            Err(SelectorError::TooLong(_))
        ));
    }

    fn any_selector() -> impl Strategy<Value = String> {
        let words = prop::sample::select(vec![
            "app",
            "example.com/role",
            "tier",
            "in",
            "notin",
            "=",
            "==",
            "!=",
            "!",
            "(",
            ")",
            ",",
            " ",
            "a",
            "\u{1F980}",
        ]);
        prop_oneof![
            prop::collection::vec(words, 0..14).prop_map(|words| words.concat()),
            "[a-z!=,() /in]{0,40}",
            "\\PC{0,60}",
        ]
    }

    proptest! {
        #[test]
        fn reading_any_text_never_panics_and_display_reads_back(text in any_selector()) {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
