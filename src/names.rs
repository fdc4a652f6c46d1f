//! The syntax of names: DNS labels and subdomains (RFC 1123), label keys and values, variable names.
//!
//! Every check answers with a sentence that says what is wrong with the value, fit to follow "field: ".

/// The most that a DNS label may have.
pub const MAX_LABEL: usize = 63;
/// The most that a DNS subdomain may have.
pub const MAX_SUBDOMAIN: usize = 253;
const MAX_UID: usize = 128;

/// What is wrong with a name, as a sentence without the field's path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

/// A DNS label: lowercase letters, digits and "-", starting and ending with a letter or digit, 63 at most.
pub fn check_dns_label(name: &str) -> Result<(), NameError> {
    not_empty(name)?;
    at_most(name, MAX_LABEL)?;
    if is_label(name) {
        return Ok(());
    }
    Err(with_suggestion(
        name,
        "lowercase letters, digits and \"-\", starting and ending with a letter or digit",
        &slug(name),
    ))
}

/// A DNS subdomain: DNS labels joined by dots, 253 at most.
pub fn check_dns_subdomain(name: &str) -> Result<(), NameError> {
    not_empty(name)?;
    at_most(name, MAX_SUBDOMAIN)?;
    if name.split('.').all(is_label) {
        return Ok(());
    }
    Err(with_suggestion(
        name,
        "lowercase letters, digits, \"-\" and \".\", each part starting and ending with a letter or digit",
        &slug(name),
    ))
}

/// A qualified name: "name" or "prefix/name", the prefix a DNS subdomain; label and annotation keys, finalizers.
pub fn check_qualified_name(key: &str) -> Result<(), NameError> {
    not_empty(key)?;
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, name)) => {
            if let Err(error) = check_dns_subdomain(prefix) {
                return Err(NameError(format!("the part before \"/\" {error}")));
            }
            name
        }
    };
    not_empty(name)?;
    at_most(name, MAX_LABEL)?;
    if is_word(name) {
        return Ok(());
    }
    Err(NameError(format!(
        "must consist of letters, digits, \"-\", \"_\" and \".\", starting and ending with a letter or digit, \
         after an optional DNS name and \"/\"; is {name:?}"
    )))
}

/// A label's value: empty, or a word of 63 letters, digits, "-", "_" and "." at most.
pub fn check_label_value(value: &str) -> Result<(), NameError> {
    at_most(value, MAX_LABEL)?;
    if value.is_empty() || is_word(value) {
        return Ok(());
    }
    Err(NameError(format!(
        "must consist of letters, digits, \"-\", \"_\" and \".\", starting and ending with a letter or digit; \
         is {value:?}"
    )))
}

/// A uid: a word of 128 letters, digits, "-", "_" and "." at most. It becomes the name of folders and cgroups.
pub fn check_uid(uid: &str) -> Result<(), NameError> {
    not_empty(uid)?;
    at_most(uid, MAX_UID)?;
    if is_word(uid) {
        return Ok(());
    }
    Err(NameError(format!(
        "must consist of letters, digits, \"-\", \"_\" and \".\", starting and ending with a letter or digit; is {uid:?}"
    )))
}

/// The name of an environment variable: letters, digits, "-", "_" and ".", not starting with a digit.
pub fn check_env_name(name: &str) -> Result<(), NameError> {
    not_empty(name)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(allowed) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(NameError(format!(
            "must consist of letters, digits, \"-\", \"_\" and \".\", not starting with a digit; is {name:?}"
        )));
    }
    Ok(())
}

/// A key of a config map or a secret, which can become a file's name.
pub fn check_data_key(key: &str) -> Result<(), NameError> {
    not_empty(key)?;
    at_most(key, MAX_SUBDOMAIN)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !key.chars().all(allowed) {
        return Err(NameError(format!(
            "must consist of letters, digits, \"-\", \"_\" and \".\"; is {key:?}"
        )));
    }
    if key.starts_with("..") || key == "." {
        return Err(NameError(format!(
            "must not be \".\" or start with \"..\"; is {key:?}"
        )));
    }
    Ok(())
}

/// A port's name: a service name as IANA has them, 15 at most.
pub fn check_port_name(name: &str) -> Result<(), NameError> {
    not_empty(name)?;
    at_most(name, 15)?;
    let has_letter = name.contains(|c: char| c.is_ascii_lowercase());
    if is_label(name) && has_letter && !name.contains("--") {
        return Ok(());
    }
    Err(NameError(format!(
        "must consist of lowercase letters, digits and single \"-\" between them, with a letter; is {name:?}"
    )))
}

/// A device's name: "vendor/class=device" (CDI 1.0, SPEC.md, "kind" and "devices").
pub fn check_device_name(name: &str) -> Result<(), NameError> {
    at_most(name, MAX_SUBDOMAIN)?;
    let parts = name.split_once('=').and_then(|(kind, device)| {
        let (vendor, class) = kind.split_once('/')?;
        Some((vendor, class, device))
    });
    let Some((vendor, class, device)) = parts else {
        return Err(NameError(format!(
            "must be a device such as \"vendor.com/class=name\"; is {name:?}"
        )));
    };
    let is_kind = |part: &str| is_word(part) && part.starts_with(|c: char| c.is_ascii_alphabetic());
    for (what, part) in [("vendor", vendor), ("class", class)] {
        if !is_kind(part) {
            return Err(NameError(format!(
                "the {what} {part:?} must consist of letters, digits, \"-\", \"_\" and \".\", starting with a letter and \
                 ending with a letter or digit"
            )));
        }
    }
    // Beside what makes a word, a device may have colons.
    if !is_word(&device.replace(':', "-")) {
        return Err(NameError(format!(
            "the device {device:?} must consist of letters, digits, \"-\", \"_\", \".\" and \":\", starting and ending \
             with a letter or digit"
        )));
    }
    Ok(())
}

/// The nearest DNS label: "dummy pod" becomes "dummy-pod". Empty when nothing of the name can be kept.
pub fn slug(name: &str) -> String {
    let mut label = String::with_capacity(name.len());
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            label.push(c);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(MAX_LABEL);
    label.truncate(label.trim_end_matches('-').len());
    label
}

/// The candidate nearest to a word, when it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_by(word, candidates, |a, b| {
        stem(a, b).or_else(|| typing_errors(a, b))
    })
}

/// The candidate that a word is likely to be with typing errors alone: a Service is no ServiceAccount.
pub fn mistyped<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_by(word, candidates, typing_errors)
}

fn nearest_by<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    distance: impl Fn(&str, &str) -> Option<usize>,
) -> Option<&'a str> {
    let simplified = |s: &str| s.to_lowercase().replace(['_', '-'], "");
    let wanted = simplified(word);
    candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(&wanted, &simplified(candidate))?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How much longer one of two words is that begins with the other.
fn stem(a: &str, b: &str) -> Option<usize> {
    const LONG_STEM: usize = 6;
    let is_stem = a.len().min(b.len()) >= LONG_STEM && (a.starts_with(b) || b.starts_with(a));
    is_stem.then(|| a.len().abs_diff(b.len()))
}

/// Typing errors between two words; None when they are likely to be two different words, such as `initContainers`
/// and `containers`.
fn typing_errors(a: &str, b: &str) -> Option<usize> {
    let shorter = a.len().min(b.len());
    let most = (shorter / 4).max(1);
    // Each letter too many is an error: what is sure to have too many is not compared, as it may be very long.
    if a.chars().count().abs_diff(b.chars().count()) > most {
        return None;
    }
    let errors = strsim::osa_distance(a, b);
    (errors <= most && shorter > 1).then_some(errors)
}

fn is_label(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !part.is_empty()
        && part.len() <= MAX_LABEL
        && part.bytes().all(inner)
        && !part.starts_with('-')
        && !part.ends_with('-')
}

fn is_word(word: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    word.bytes().all(inner)
        && word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn not_empty(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError("must not be empty".to_owned()));
    }
    Ok(())
}

fn at_most(name: &str, limit: usize) -> Result<(), NameError> {
    if name.len() > limit {
        return Err(NameError(format!(
            "must have at most {limit} characters, but has {}",
            name.len()
        )));
    }
    Ok(())
}

fn with_suggestion(name: &str, rule: &str, suggestion: &str) -> NameError {
    let mut sentence = format!("must consist of {rule}; is {name:?}");
    if !suggestion.is_empty() {
        sentence = format!("{sentence}, which could be {suggestion:?}");
    }
    NameError(sentence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("dummy pod", "dummy-pod")]
    #[case("  My  App! ", "my-app")]
    #[case("already-fine", "already-fine")]
    #[case("Ünïcode", "n-code")]
    #[case("!!!", "")]
    fn a_slug_is_the_nearest_dns_label(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(slug(name), expected);
    }

    #[test]
    fn a_word_without_end_is_near_to_nothing_and_takes_no_time() {
        let (word, other) = ("a".repeat(1 << 20), "b".repeat(1 << 19));
        assert_eq!(nearest(&word, [other.as_str(), "containers"]), None);
    }

    #[rstest]
    #[case("a", true)]
    #[case("web-0", true)]
    #[case("0web", true)]
    #[case("", false)]
    #[case("-web", false)]
    #[case("web-", false)]
    #[case("Web", false)]
    #[case("web.0", false)]
    #[case("wéb", false)]
    fn dns_labels_follow_rfc_1123(#[case] name: &str, #[case] valid: bool) {
        assert_eq!(check_dns_label(name).is_ok(), valid);
    }

    #[test]
    fn the_longest_label_has_63_characters() {
        assert!(check_dns_label(&"a".repeat(63)).is_ok());
        let error = check_dns_label(&"a".repeat(64)).unwrap_err();
        assert_eq!(error.to_string(), "must have at most 63 characters, but has 64");
    }

    #[test]
    fn a_bad_name_comes_with_a_good_one() {
        let error = check_dns_label("Dummy Pod").unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("is \"Dummy Pod\", which could be \"dummy-pod\""),
            "{error}"
        );
    }

    #[rstest]
    #[case("app", true)]
    #[case("app.kubernetes.io/name", true)]
    #[case("example.com/Some_Key.x", true)]
    #[case("/name", false)]
    #[case("example.com/", false)]
    #[case("a/b/c", false)]
    #[case("UPPER.example/name", false)]
    #[case("_x", false)]
    fn qualified_names_have_an_optional_dns_prefix(#[case] key: &str, #[case] valid: bool) {
        assert_eq!(check_qualified_name(key).is_ok(), valid);
    }

    #[rstest]
    #[case("0d7a5d1c-3c5f-4b53-8c8d-0a8d2c1f4f5e", true)]
    #[case("uid_1.a", true)]
    #[case("", false)]
    #[case("..", false)]
    #[case("../../etc", false)]
    #[case("a/b", false)]
    #[case("a\0b", false)]
    fn a_uid_can_be_the_name_of_a_folder(#[case] uid: &str, #[case] valid: bool) {
        assert_eq!(check_uid(uid).is_ok(), valid);
        assert!(check_uid(&"a".repeat(129)).is_err());
    }

    #[rstest]
    #[case("PATH", true)]
    #[case("my.var-1", true)]
    #[case("1ST", false)]
    #[case("A=B", false)]
    #[case("", false)]
    fn environment_names_cannot_start_with_a_digit_or_hold_an_equals_sign(
        #[case] name: &str,
        #[case] valid: bool,
    ) {
        assert_eq!(check_env_name(name).is_ok(), valid);
    }

    #[rstest]
    #[case("hostnetwork", Some("hostNetwork"))]
    #[case("host_network", Some("hostNetwork"))]
    #[case("imag", Some("image"))]
    #[case("hostNetworking", Some("hostNetwork"))]
    #[case("hsotNetwork", Some("hostNetwork"))]
    #[case("zebra", None)]
    #[case("initContainers", None)]
    #[case("imageFrom", None)]
    #[case("", None)]
    #[case("n", None)]
    fn the_nearest_word_is_offered_only_when_it_is_near(#[case] word: &str, #[case] expected: Option<&str>) {
        assert_eq!(
            nearest(word, ["name", "image", "hostNetwork", "containers"]),
            expected
        );
    }

    #[rstest]
    #[case("pods", Some("Pod"))]
    #[case("ServiceAcount", Some("ServiceAccount"))]
    #[case("Service", None)]
    #[case("services", None)]
    fn a_word_that_another_begins_with_is_not_mistyped(#[case] word: &str, #[case] expected: Option<&str>) {
        assert_eq!(mistyped(word, ["Pod", "ServiceAccount"]), expected);
    }

    proptest! {
        #[test]
        fn every_slug_is_a_dns_label_or_empty_and_its_own_slug(name in ".{0,100}") {
            let label = slug(&name);
            prop_assert!(label.is_empty() || check_dns_label(&label).is_ok());
            prop_assert_eq!(slug(&label), label);
        }
    }
}
