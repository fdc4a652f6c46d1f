//! Routing patterns of topic exchanges (AMQP 0-9-1, §3.1.3.3).

/// True when a key of words between dots matches a pattern, in which `*` stands for one word and `#` for any
/// number of words.
pub(crate) fn matches(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = key.split('.').collect();
    // The classic walk over a glob with one point to come back to: after the last `#`.
    let (mut p, mut k) = (0, 0);
    let mut last_hash: Option<(usize, usize)> = None;
    while k < key.len() {
        match pattern.get(p) {
            Some(&"#") => {
                last_hash = Some((p + 1, k));
                p += 1;
            }
            Some(&word) if word == "*" || word == key[k] => {
                p += 1;
                k += 1;
            }
            _ => match last_hash {
                Some((after_hash, swallowed)) => {
                    p = after_hash;
                    k = swallowed + 1;
                    last_hash = Some((after_hash, k));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|word| *word == "#")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::matches;

    #[rstest]
    #[case("pods.added.default.web", "pods.added.default.web", true)]
    #[case("pods.*.default.web", "pods.deleted.default.web", true)]
    #[case("pods.*", "pods.added.default", false)]
    #[case("pods.#", "pods", true)]
    #[case("pods.#", "pods.added.default.web", true)]
    #[case("#", "", true)]
    #[case("#", "nodes.added.-.alpha", true)]
    #[case("#.web", "pods.added.default.web", true)]
    #[case("#.default.#", "pods.added.default.web", true)]
    #[case("#.default.#", "pods.added.other.web", false)]
    #[case("*.#.web", "web", false)]
    #[case("pods.#.a.*", "pods.a.b.a.c", true)]
    #[case("", "pods", false)]
    fn a_pattern_matches_as_amqp_says(#[case] pattern: &str, #[case] key: &str, #[case] expected: bool) {
        assert_eq!(matches(pattern, key), expected);
    }
}
