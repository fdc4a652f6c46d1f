//! What a registry wants to see before it answers: `WWW-Authenticate` (RFC 9110, §11.6.1).

use std::collections::BTreeMap;

/// One way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    pub(super) scheme: String,
    /// Names in lower case. Empty for a challenge of another form.
    pub(super) parameters: BTreeMap<String, String>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// Every challenge of one header; what cannot be read ends the list.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let Some((word, after)) = token(rest) else {
            return challenges;
        };
        // A name with `=` after it is a parameter, any other the scheme of a next challenge.
        let assigned = after.trim_start().strip_prefix('=');
        if let (Some(value), Some(challenge)) = (assigned, challenges.last_mut()) {
            let Some((value, after)) = value_of(value.trim_start()) else {
                return challenges;
            };
            // The first of two counts: a later one may have been put in by someone else.
            challenge
                .parameters
                .entry(word.to_ascii_lowercase())
                .or_insert(value);
            rest = after;
            continue;
        }
        challenges.push(Challenge {
            scheme: word.to_ascii_lowercase(),
            parameters: BTreeMap::new(),
        });
        rest = after_token68(after);
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Passes over credentials that are no list of parameters, such as `Negotiate YII=`.
fn after_token68(text: &str) -> &str {
    let trimmed = text.trim_start_matches(' ');
    let is_68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
    let end = trimmed.find(|c| !is_68(c)).unwrap_or(trimmed.len());
    let after = trimmed[end..].trim_start_matches('=');
    let ends = after.trim_start().is_empty() || after.trim_start().starts_with(',');
    if end > 0 && ends { after } else { text }
}

/// A token or a quoted string, and what follows.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Registries leave addresses without quotes now and then.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn challenge(scheme: &str, parameters: &[(&str, &str)]) -> Challenge {
        Challenge {
            scheme: scheme.into(),
            parameters: parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[rstest]
    #[case::token(
        r#"Bearer realm="https://auth.example.com/token",service="registry.example.com",scope="repository:a/b:pull,push""#,
        &[challenge("bearer", &[
            ("realm", "https://auth.example.com/token"),
            ("service", "registry.example.com"),
            ("scope", "repository:a/b:pull,push"),
        ])]
    )]
    #[case::basic(r#"Basic realm="a \"b\" c""#, &[challenge("basic", &[("realm", r#"a "b" c"#)])])]
    #[case::two(
        r#"Negotiate, Basic realm="x", charset="UTF-8" , Bearer realm=https://a/b"#,
        &[
            challenge("negotiate", &[]),
            challenge("basic", &[("realm", "x"), ("charset", "UTF-8")]),
            challenge("bearer", &[("realm", "https://a/b")]),
        ]
    )]
    #[case::token68("Negotiate YIIabc==, BASIC Realm = x", &[
        challenge("negotiate", &[]),
        challenge("basic", &[("realm", "x")]),
    ])]
    #[case::the_first_counts(r#"Bearer realm="a", realm="b""#, &[challenge("bearer", &[("realm", "a")])])]
    #[case::unended(r#"Bearer realm="a", scope="b"#, &[challenge("bearer", &[("realm", "a")])])]
    #[case::nothing("", &[])]
    #[case::nonsense("=,=", &[])]
    fn challenges_are_read(#[case] header: &str, #[case] expected: &[Challenge]) {
        assert_eq!(parse(header), expected);
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in "[a-zA-Z \",=\\\\:/]{0,80}|\\PC{0,80}") {
            let found = parse(&header);
            prop_assert!(found.len() <= header.len());
        }

        #[test]
        fn a_written_challenge_reads_back(realm in "\\PC{1,30}", scope in "[a-z:/,]{1,30}") {
            let escaped = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{escaped}\",scope=\"{scope}\"");
            prop_assert_eq!(
                parse(&header),
                [challenge("bearer", &[("realm", &realm), ("scope", &scope)])]
            );
        }
    }
}
