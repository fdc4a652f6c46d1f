//! Where in an object something stands: `spec.containers[0].image`, `metadata.labels[app]`.

use std::{fmt, str::FromStr};

/// One step into an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// A field of a message, by its JSON name.
    Field(String),
    /// An element of a list.
    Index(usize),
    /// An entry of a map.
    Key(String),
}

/// The way from an object to a value in it. Empty for the object itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    pub fn root() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.then(Segment::Field(name.to_owned()))
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.then(Segment::Index(index))
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.then(Segment::Key(key.to_owned()))
    }

    #[must_use]
    pub fn join(&self, rest: &Self) -> Self {
        Self(self.0.iter().chain(&rest.0).cloned().collect())
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    fn then(&self, segment: Segment) -> Self {
        let mut segments = Vec::with_capacity(self.0.len() + 1);
        segments.extend_from_slice(&self.0);
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if position == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

/// Text that is not a field path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a field path such as spec.containers[0].image")]
pub struct BadPath(String);

impl FromStr for FieldPath {
    type Err = BadPath;

    /// Reads what `Display` writes. A key that holds "]" cannot be told from its end and is refused.
    fn from_str(text: &str) -> Result<Self, BadPath> {
        let bad = || BadPath(text.to_owned());
        let mut segments = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let (key, after) = inner.split_once(']').ok_or_else(bad)?;
                segments.push(match key.parse() {
                    Ok(index) => Segment::Index(index),
                    Err(_) => Segment::Key(key.to_owned()),
                });
                rest = after;
                continue;
            }
            let name = if segments.is_empty() {
                rest
            } else {
                rest.strip_prefix('.').ok_or_else(bad)?
            };
            let end = name.find(['.', '[']).unwrap_or(name.len());
            if end == 0 {
                return Err(bad());
            }
            segments.push(Segment::Field(name[..end].to_owned()));
            rest = &name[end..];
        }
        Ok(Self(segments))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("")]
    #[case("metadata")]
    #[case("spec.containers[0].image")]
    #[case("metadata.labels[app.kubernetes.io/name]")]
    #[case("items[3].spec.containers[0].resources.limits[cpu]")]
    fn a_path_reads_what_it_writes(#[case] text: &str) {
        assert_eq!(text.parse::<FieldPath>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case("spec..image")]
    #[case("spec[0")]
    #[case("spec[0]image")]
    #[case(".spec")]
    fn a_broken_path_is_refused(#[case] text: &str) {
        assert!(text.parse::<FieldPath>().is_err());
    }
}
