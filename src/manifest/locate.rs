//! Finds the line and column of a field: walks the text again along the path and fails on purpose where it ends,
//! for a deserializer tells the place of an error exactly.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::error::{Position, Target};
use crate::path::{FieldPath, Segment};

/// A text and how to read it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    /// Without a byte order mark.
    pub(super) text: &'a str,
    pub(super) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str, format: Format) -> Self {
        Self {
            name,
            text: text.strip_prefix('\u{feff}').unwrap_or(text),
            format,
        }
    }

    /// For a text that was read before: JSON where it is well-formed JSON, else YAML.
    pub(super) fn guess(name: &'a str, text: &'a str) -> Self {
        let source = Self::new(name, text, Format::Json);
        let mut values = serde_json::Deserializer::from_str(source.text).into_iter::<IgnoredAny>();
        if source.text.trim_start().starts_with('{') && values.all(|value| value.is_ok()) {
            return source;
        }
        Self::new(name, text, Format::Yaml)
    }
}

/// The place of a field, or of what holds it where the field itself is not written.
pub(super) fn position(
    source: &Source<'_>,
    document: usize,
    path: &FieldPath,
    target: Target,
) -> Option<Position> {
    let mut segments = path.segments();
    let mut target = target;
    loop {
        if let Some(position) = exact(source, document, segments, target) {
            return Some(position);
        }
        // A missing field is wherever its parent is.
        segments = segments.split_last()?.1;
        target = Target::Value;
    }
}

fn exact(source: &Source<'_>, document: usize, segments: &[Segment], target: Target) -> Option<Position> {
    let mut arrived = false;
    let walk = Walk {
        segments,
        target,
        arrived: &mut arrived,
    };
    let position = match source.format {
        Format::Yaml => {
            let deserializer =
                serde_yaml::Deserializer::from_str(source.text).nth(document.checked_sub(1)?)?;
            let location = walk.deserialize(deserializer).err()?.location()?;
            Position {
                line: location.line(),
                column: location.column(),
            }
        }
        Format::Json => {
            let mut deserializer = serde_json::Deserializer::from_str(source.text);
            for _ in 1..document {
                serde::de::Deserialize::deserialize(&mut deserializer)
                    .map(|IgnoredAny| ())
                    .ok()?;
            }
            let error = walk.deserialize(&mut deserializer).err()?;
            Position {
                line: error.line(),
                // serde_json tells the last character that it read.
                column: error.column().max(1),
            }
        }
    };
    arrived.then_some(position)
}

struct Walk<'a> {
    segments: &'a [Segment],
    target: Target,
    arrived: &'a mut bool,
}

impl Walk<'_> {
    fn arrive<E: Error>(&mut self) -> E {
        *self.arrived = true;
        E::custom("here")
    }

    /// True when the path ends here, at the value.
    fn is_here(&self) -> bool {
        self.segments.is_empty()
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        if self.is_here() {
            return Err(self.arrive());
        }
        let (first, rest) = (&self.segments[0], &self.segments[1..]);
        let wanted = match first {
            Segment::Field(name) | Segment::Key(name) => name.clone(),
            // A key of digits reads as an index.
            Segment::Index(index) => index.to_string(),
        };
        loop {
            let key = Key {
                wanted: &wanted,
                stop: (rest.is_empty() && self.target == Target::Key).then_some(&mut *self.arrived),
            };
            match map.next_key_seed(key)? {
                None => return Ok(()),
                Some(true) => {
                    let target = self.target;
                    let arrived = &mut *self.arrived;
                    map.next_value_seed(Walk {
                        segments: rest,
                        target,
                        arrived,
                    })?;
                }
                Some(false) => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        if self.is_here() {
            return Err(self.arrive());
        }
        let Segment::Index(wanted) = self.segments[0] else {
            return Ok(());
        };
        for _ in 0..wanted {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        list.next_element_seed(Walk {
            segments: &self.segments[1..],
            target: self.target,
            arrived: self.arrived,
        })?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        if self.is_here() {
            return Err(self.arrive());
        }
        Ok(())
    }
}

/// Compares a key, and stops at it when the key is what is looked for.
struct Key<'a> {
    wanted: &'a str,
    stop: Option<&'a mut bool>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        let found = key == self.wanted;
        match self.stop {
            Some(arrived) if found => {
                *arrived = true;
                Err(E::custom("here"))
            }
            _ => Ok(found),
        }
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }
}
