//! Sets of fields: which fields somebody has named, as a tree whose leaves are the fields.
//!
//! Written as text they are short, because what fields have in common is written once:
//! `metadata(labels([app],[tier])),spec(containers([web](image,name)),nodeName)`.

use std::{collections::BTreeMap, fmt};

/// One step into an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A field, by its JSON name.
    Field(String),
    /// An entry of a map, or an element of a list by its name.
    Key(String),
}

/// Fields of an object, or of what is at some place in it. One without anything inside is a leaf: the place itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    inner: BTreeMap<Step, FieldSet>,
}

/// Deeper than any object is.
const DEEPEST: usize = 32;

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    pub(super) fn get(&self, step: &Step) -> Option<&Self> {
        self.inner.get(step)
    }

    pub(super) fn insert(&mut self, step: Step, inner: Self) {
        self.inner.insert(step, inner);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Step, &Self)> {
        self.inner.iter()
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (step, theirs) in &other.inner {
            self.inner.entry(step.clone()).or_default().add(theirs);
        }
    }

    /// Takes away what the other set holds, and places in which nothing is left.
    pub(super) fn remove(&mut self, other: &Self) {
        self.inner.retain(|step, own| {
            let Some(theirs) = other.inner.get(step) else {
                return true;
            };
            if own.is_empty() {
                return !theirs.is_empty();
            }
            if theirs.is_empty() {
                return false;
            }
            own.remove(theirs);
            !own.is_empty()
        });
    }

    /// The paths that both sets hold, such as "spec.containers[web].image".
    pub(super) fn common(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_common(other, "", &mut found);
        found
    }

    fn collect_common(&self, other: &Self, path: &str, found: &mut Vec<String>) {
        for (step, own) in &self.inner {
            let Some(theirs) = other.inner.get(step) else {
                continue;
            };
            let here = match step {
                Step::Field(name) if path.is_empty() => name.clone(),
                Step::Field(name) => format!("{path}.{name}"),
                Step::Key(key) => format!("{path}[{key}]"),
            };
            match (own.is_empty(), theirs.is_empty()) {
                (true, _) => found.push(here),
                // They hold that the place is there, and it stays so.
                (false, true) => {}
                (false, false) => own.collect_common(theirs, &here, found),
            }
        }
    }

    /// Reads what `Display` writes; None for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader { rest: text };
        if text.is_empty() {
            return Some(Self::default());
        }
        let set = reader.set(DEEPEST)?;
        reader.rest.is_empty().then_some(set)
    }
}

impl fmt::Display for FieldSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (step, inner)) in self.inner.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            match step {
                Step::Field(name) => f.write_str(name)?,
                Step::Key(key) if is_plain(key) => write!(f, "[{key}]")?,
                Step::Key(key) => write!(f, "[{}]", serde_json::Value::from(key.as_str()))?,
            }
            if !inner.is_empty() {
                write!(f, "({inner})")?;
            }
        }
        Ok(())
    }
}

/// Needs no quotes.
fn is_plain(key: &str) -> bool {
    !key.is_empty() && !key.contains(['[', ']', '"'])
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn set(&mut self, depth: usize) -> Option<FieldSet> {
        let mut set = FieldSet::default();
        loop {
            let step = self.step()?;
            let mut inner = FieldSet::default();
            if self.take("(") {
                inner = self.set(depth.checked_sub(1)?)?;
                self.take(")").then_some(())?;
            }
            set.insert(step, inner);
            if !self.take(",") {
                return Some(set);
            }
        }
    }

    fn step(&mut self) -> Option<Step> {
        if !self.take("[") {
            let end = self.rest.find(['(', ')', ',', '[']).unwrap_or(self.rest.len());
            let (name, rest) = self.rest.split_at(end);
            self.rest = rest;
            return (!name.is_empty()).then(|| Step::Field(name.to_owned()));
        }
        let key = if self.rest.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
            let key = values.next()?.ok()?;
            let end = values.byte_offset();
            self.rest = &self.rest[end..];
            key
        } else {
            let (key, _) = self.rest.split_once(']')?;
            let key = key.to_owned();
            self.rest = &self.rest[key.len()..];
            key
        };
        self.take("]").then_some(Step::Key(key))
    }

    fn take(&mut self, token: &str) -> bool {
        let after = self.rest.strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }
}

#[cfg(test)]
mod tests;
