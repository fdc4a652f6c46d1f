//! Text to values, held to what a manifest may be: each key once and a string, no tags, bounded in size and depth.

use std::{fmt, path::Path};

use serde::{
    Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{
    Segment,
    error::{Finding, ManifestError, ManifestErrors, Position, Target},
    locate::{Format, Source},
};
use crate::path::FieldPath;

/// The most values of one text, after its aliases are followed: a small text can name very many.
const MAX_VALUES: usize = 500_000;
/// The most bytes of strings of one text, after its aliases are followed.
const MAX_TEXT_BYTES: usize = 2 * super::MAX_MANIFEST_BYTES;
const MAX_DOCUMENTS: usize = 10_000;
/// The most brackets that may be open at once. The YAML parser's time grows with their square, and it reads a whole
/// document before it refuses its depth. Brackets in strings count too: nobody leaves so many open.
const MAX_OPEN_BRACKETS: usize = 2_000;

/// The documents of a text up to the first that cannot be read.
pub(super) struct Read {
    /// Each with its number from 1; empty ones are left out.
    pub(super) documents: Vec<(usize, Value)>,
    pub(super) error: ManifestErrors,
}

pub(super) fn read<'a>(name: &'a str, text: &'a str) -> (Source<'a>, Read) {
    let json = Source::new(name, text, Format::Json);
    if json.text.trim_start().starts_with('{') {
        let read = read_json(&json);
        // Braces also begin YAML, which a name ending in ".json" excludes.
        let is_json = Path::new(name)
            .extension()
            .is_some_and(|extension| extension == "json");
        if read.error.errors().is_empty() || is_json {
            return (json, read);
        }
    }
    let yaml = Source::new(name, text, Format::Yaml);
    if let Err(error) = check_brackets(yaml.text.as_bytes()) {
        let read = Read {
            documents: Vec::new(),
            error: ManifestErrors::whole(name, format!("the manifest {error}")),
        };
        return (yaml, read);
    }
    (yaml, read_yaml(&yaml))
}

/// A text that a YAML parser would take very long to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has more than {MAX_OPEN_BRACKETS} brackets open at once")]
pub struct TooManyBrackets;

/// Refuses a text before the YAML parser's time for it grows beyond what its size is worth.
pub fn check_brackets(text: &[u8]) -> Result<(), TooManyBrackets> {
    let mut open = 0_usize;
    for byte in text {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_OPEN_BRACKETS {
            return Err(TooManyBrackets);
        }
    }
    Ok(())
}

/// A value that is part of another document.
pub(super) fn convert(value: serde_yaml::Value) -> Result<Value, Finding> {
    let mut reader = Reader::default();
    reader
        .read(value)
        .map_err(|error| reader.finding(&error.to_string()))
}

fn read_json(source: &Source<'_>) -> Read {
    let mut reader = Reader::default();
    let mut documents = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(source.text);
    for index in 1..=MAX_DOCUMENTS {
        if deserializer.end().is_ok() {
            break;
        }
        match reader.read(&mut deserializer) {
            Ok(value) => documents.push((index, value)),
            Err(error) => {
                let finding = reader.finding(&without_place(&error.to_string()));
                let position = Position {
                    line: error.line().max(1),
                    column: error.column().max(1),
                };
                let error = stopped(source, index, Some(position), finding);
                return Read { documents, error };
            }
        }
    }
    Read {
        documents,
        error: ManifestErrors::none(),
    }
}

fn read_yaml(source: &Source<'_>) -> Read {
    let mut reader = Reader::default();
    let mut documents = Vec::new();
    for (number, deserializer) in serde_yaml::Deserializer::from_str(source.text).enumerate() {
        let index = number + 1;
        if index > MAX_DOCUMENTS {
            let message = format!("the manifest has more than {MAX_DOCUMENTS} documents");
            let error = ManifestErrors::whole(source.name, message);
            return Read { documents, error };
        }
        match reader.read(deserializer) {
            Ok(Value::Null) => {}
            Ok(value) => documents.push((index, value)),
            // The rest of the text cannot be told apart into documents any more.
            Err(error) => {
                let position = error.location().map(|location| Position {
                    line: location.line(),
                    column: location.column(),
                });
                let words = in_plain_words(source.text, position, &without_place(&error.to_string()));
                let error = stopped(source, index, position, reader.finding(&words));
                return Read { documents, error };
            }
        }
    }
    Read {
        documents,
        error: ManifestErrors::none(),
    }
}

/// The YAML parser's words, and what to do about the two mistakes that it names by their consequences.
fn in_plain_words(text: &str, position: Option<Position>, words: &str) -> String {
    const MISPLACED: [&str; 3] = [
        "mapping values are not allowed",
        "did not find expected key",
        "did not find expected '-' indicator",
    ];
    let line = position.and_then(|position| text.lines().nth(position.line.saturating_sub(1)));
    let starts_with_tab = |line: &str| line.trim_start_matches(' ').starts_with('\t');
    if line.is_some_and(starts_with_tab) {
        return "the line begins with a tab; indent with spaces".to_owned();
    }
    if MISPLACED.iter().any(|misplaced| words.contains(misplaced)) {
        return format!("{words}; see how far this line and those before it are indented");
    }
    words.to_owned()
}

fn stopped(
    source: &Source<'_>,
    document: usize,
    position: Option<Position>,
    finding: Finding,
) -> ManifestErrors {
    ManifestErrors::one(ManifestError {
        source: source.name.to_owned(),
        document,
        position,
        field: finding.path.to_string(),
        message: finding.message,
    })
}

/// A parser's words without the place at their end, which is told in front of them.
fn without_place(words: &str) -> String {
    words.split(" at line ").next().unwrap_or(words).to_owned()
}

/// Reads values and counts them.
#[derive(Default)]
struct Reader {
    values: usize,
    bytes: usize,
    path: Vec<Segment>,
    /// What we, not the parser, found wrong.
    problem: Option<String>,
}

impl Reader {
    fn read<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<Value, D::Error> {
        self.path.clear();
        Seed(self).deserialize(deserializer)
    }

    /// What ended the reading, in our words where they are ours.
    fn finding(&mut self, parser: &str) -> Finding {
        let path = self
            .path
            .iter()
            .fold(FieldPath::root(), |path, segment| match segment {
                Segment::Index(index) => path.index(*index),
                Segment::Field(name) | Segment::Key(name) => path.field(name),
            });
        match self.problem.take() {
            Some(message) => Finding {
                path,
                target: Target::Key,
                message,
            },
            None => Finding::at(&FieldPath::root(), format!("cannot be read: {parser}")),
        }
    }

    fn fail<E: Error>(&mut self, problem: String) -> E {
        let error = E::custom(&problem);
        self.problem.get_or_insert(problem);
        error
    }

    fn count<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.values += 1;
        self.bytes += bytes;
        if self.values > MAX_VALUES || self.bytes > MAX_TEXT_BYTES {
            return Err(self.fail("the manifest is too large once its aliases are followed".to_owned()));
        }
        Ok(())
    }
}

struct Seed<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list, a string, a number, true, false or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.0.count(0)?;
        Ok(Value::Null)
    }

    /// What an empty document reads as.
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.0.count(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.0.count(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.0.count(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.0.count(0)?;
        match Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(self
                .0
                .fail(format!("{value} is not a number that a field can have"))),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.0.count(value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.0.count(0)?;
        let mut items = Vec::new();
        loop {
            self.0.path.push(Segment::Index(items.len()));
            let Some(item) = list.next_element_seed(Seed(self.0))? else {
                break;
            };
            self.0.path.pop();
            items.push(item);
        }
        self.0.path.pop();
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.0.count(0)?;
        let mut fields = Map::new();
        let mut merged = Vec::new();
        while let Some(key) = map.next_key_seed(Key {
            reader: self.0,
            taken: &fields,
        })? {
            self.0.path.push(Segment::Field(key.clone()));
            let value = map.next_value_seed(Seed(self.0))?;
            if key == "<<" {
                merge::<A::Error>(self.0, value, &mut merged)?;
            } else {
                fields.insert(key, value);
            }
            self.0.path.pop();
        }
        // What is written here wins over what is merged, and what is merged first over what comes later.
        for (key, value) in merged {
            fields.entry(key).or_insert(value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self
            .0
            .fail("YAML tags such as \"!tag\" mean nothing here; remove it".to_owned()))
    }
}

/// YAML's merge key takes a mapping, or several.
fn merge<E: Error>(reader: &mut Reader, value: Value, merged: &mut Vec<(String, Value)>) -> Result<(), E> {
    match value {
        Value::Object(fields) => merged.extend(fields),
        Value::Array(items) if items.iter().all(Value::is_object) => {
            for item in items {
                merge::<E>(reader, item, merged)?;
            }
        }
        _ => return Err(reader.fail("must be a mapping to merge, or a list of them".to_owned())),
    }
    Ok(())
}

/// A key, which must be a string that its mapping does not have yet.
struct Key<'a> {
    reader: &'a mut Reader,
    taken: &'a Map<String, Value>,
}

impl Key<'_> {
    fn not_a_string<E: Error>(self, key: impl fmt::Display) -> Result<String, E> {
        Err(self
            .reader
            .fail(format!("the key {key} must be a string; quote it: \"{key}\"")))
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        self.reader.count(key.len())?;
        if self.taken.contains_key(key) {
            self.reader.path.push(Segment::Field(key.to_owned()));
            return Err(self
                .reader
                .fail("the key is written twice in the same mapping".to_owned()));
        }
        Ok(key.to_owned())
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<String, E> {
        self.not_a_string(key)
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<String, E> {
        self.not_a_string(key)
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<String, E> {
        self.not_a_string(key)
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<String, E> {
        self.not_a_string(key)
    }

    fn visit_unit<E: Error>(self) -> Result<String, E> {
        self.not_a_string("null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(self
            .reader
            .fail("a key must be a string, but is a list".to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(self
            .reader
            .fail("a key must be a string, but is a mapping".to_owned()))
    }
}
