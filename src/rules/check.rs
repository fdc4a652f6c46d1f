//! Collects violations while a check walks an object.

use std::{collections::HashSet, hash::Hash, net::IpAddr};

use super::Violation;
use crate::{names, path::FieldPath};

/// The most violations that are reported: more help nobody, and an object can have very many.
const MAX_VIOLATIONS: usize = 100;

/// What was found so far, and where the walk stands.
#[derive(Debug, Default)]
pub(super) struct Check {
    here: FieldPath,
    found: Vec<Violation>,
}

impl Check {
    pub(super) fn finish(self) -> Vec<Violation> {
        self.found
    }

    /// Checks a field of the message here.
    pub(super) fn field(&mut self, name: &str, check: impl FnOnce(&mut Self)) {
        self.within(self.here.field(name), check);
    }

    /// Checks each element of a list, of which there may be `limit`.
    pub(super) fn list<'a, T>(
        &mut self,
        name: &str,
        items: &'a [T],
        limit: usize,
        mut check: impl FnMut(&mut Self, &'a T),
    ) {
        self.field(name, |c| {
            if items.len() > limit {
                c.wrong(format!(
                    "must have at most {limit} entries, but has {}",
                    items.len()
                ));
            }
            for (index, item) in items.iter().take(limit).enumerate() {
                c.within(c.here.index(index), |c| check(c, item));
            }
        });
    }

    /// Checks each entry of a map.
    pub(super) fn map<'a, V: 'a>(
        &mut self,
        name: &str,
        entries: impl IntoIterator<Item = (&'a String, V)>,
        mut check: impl FnMut(&mut Self, &str, V),
    ) {
        self.field(name, |c| {
            for (key, value) in entries {
                c.within(c.here.key(key), |c| check(c, key, value));
            }
        });
    }

    /// Reports what is wrong here.
    pub(super) fn wrong(&mut self, description: impl Into<String>) {
        if self.found.len() < MAX_VIOLATIONS {
            self.found.push(Violation {
                field: self.here.to_string(),
                description: description.into(),
            });
        }
    }

    /// Reports a check's error here.
    pub(super) fn ok(&mut self, outcome: Result<(), names::NameError>) {
        if let Err(error) = outcome {
            self.wrong(error.to_string());
        }
    }

    pub(super) fn not_empty(&mut self, text: &str) {
        if text.is_empty() {
            self.wrong("must not be empty");
        }
    }

    pub(super) fn at_most(&mut self, text: &str, limit: usize) {
        if text.len() > limit {
            self.wrong(format!("must have at most {limit} bytes, but has {}", text.len()));
        }
    }

    /// A word of a closed set, as Kubernetes spells it.
    pub(super) fn one_of(&mut self, word: &str, allowed: &[&str]) {
        if allowed.contains(&word) {
            return;
        }
        let mut description = format!("must be {}, but is {word:?}", either(allowed));
        if let Some(near) = names::nearest(word, allowed.iter().copied()) {
            description = format!("{description}; did you mean {near:?}?");
        }
        self.wrong(description);
    }

    pub(super) fn port(&mut self, port: i32) {
        if !(1..=65535).contains(&port) {
            self.wrong(format!("must be a port from 1 to 65535, but is {port}"));
        }
    }

    /// An address that something can have.
    pub(super) fn ip(&mut self, text: &str) {
        match text.parse::<IpAddr>() {
            Err(_) => self.wrong(format!(
                "must be an IP address such as \"10.1.2.3\", but is {text:?}"
            )),
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                self.wrong(format!("must be the address of one interface, but is {text:?}"));
            }
            Ok(_) => {}
        }
    }

    /// A path from the root, without steps back.
    pub(super) fn absolute_path(&mut self, text: &str) {
        self.not_empty(text);
        self.at_most(text, 4096);
        if text.contains('\0') {
            self.wrong("must not contain a zero byte");
        }
        if !text.is_empty() && !text.starts_with('/') {
            self.wrong(format!(
                "must be an absolute path, but is {text:?}; write \"/{text}\""
            ));
        }
        if text.split('/').any(|part| part == "..") {
            self.wrong(format!("must not contain \"..\", but is {text:?}"));
        }
    }

    pub(super) fn not_negative(&mut self, number: i32) {
        if number < 0 {
            self.wrong(format!("must not be negative, but is {number}"));
        }
    }

    /// Reports an update that changed what cannot change.
    pub(super) fn unchanged<T: PartialEq + ?Sized>(&mut self, new: &T, old: &T, way: &str) {
        if new != old {
            self.wrong(format!("cannot be changed; {way}"));
        }
    }

    fn within(&mut self, path: FieldPath, check: impl FnOnce(&mut Self)) {
        let outside = std::mem::replace(&mut self.here, path);
        check(self);
        self.here = outside;
    }
}

/// Tells which values were there before.
#[derive(Debug)]
pub(super) struct Seen<T>(HashSet<T>);

impl<T: Hash + Eq> Seen<T> {
    pub(super) fn new() -> Self {
        Self(HashSet::new())
    }

    pub(super) fn again(&mut self, value: T) -> bool {
        !self.0.insert(value)
    }
}

/// `"a", "b" or "c"`, without the empty word.
fn either(words: &[&str]) -> String {
    let quoted: Vec<_> = words
        .iter()
        .filter(|word| !word.is_empty())
        .map(|word| format!("{word:?}"))
        .collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.join(""),
    }
}
