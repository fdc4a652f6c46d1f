//! Which paths lead to something in objects of a kind.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::{
    error::{Finding, ManifestErrors},
    shape::{self, known_fields},
};
use crate::path::{FieldPath, Segment};

/// Where a path has come to.
enum Place {
    Message(MessageDescriptor),
    List(FieldDescriptor),
    /// With the field of its values.
    Map(FieldDescriptor),
    /// With what it is where a document does not name it.
    Scalar(Option<String>),
}

impl Place {
    fn of(field: &FieldDescriptor) -> Self {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => Self::Map(entry.map_entry_value_field()),
            _ if field.is_list() => Self::List(field.clone()),
            Kind::Message(_) => Self::of_one(field),
            _ if field.supports_presence() => Self::Scalar(None),
            kind => Self::Scalar(Some(match kind {
                Kind::Bool => "false".to_owned(),
                Kind::String | Kind::Bytes => String::new(),
                Kind::Enum(values) => values.default_value().name().to_owned(),
                _ => "0".to_owned(),
            })),
        }
    }

    /// One of a list or of a map.
    fn of_one(field: &FieldDescriptor) -> Self {
        match field.kind() {
            // Times and durations are written as text.
            Kind::Message(message) if !message.full_name().starts_with("google.protobuf.") => {
                Self::Message(message)
            }
            _ => Self::Scalar(None),
        }
    }
}

/// Refuses a path to what no object of the kind has, and says what is near it.
pub fn check_path(kind: &str, path: &FieldPath) -> Result<(), ManifestErrors> {
    walk(kind, path).map(drop)
}

/// What an object of the kind has at a path that its document does not name, while it names what that is in: None where that is
/// nothing. Refuses a path to what is more than one value.
pub fn unset_value(kind: &str, path: &FieldPath) -> Result<Option<String>, ManifestErrors> {
    let message = match walk(kind, path)? {
        Place::Scalar(unset) => return Ok(unset),
        Place::Message(message) => format!("has fields: name one of {}", known_fields(&message).join(", ")),
        Place::List(_) => ONE_OF_A_LIST.to_owned(),
        Place::Map(_) => "is a mapping: write which one, as in [key]".to_owned(),
    };
    Err(ManifestErrors::unlocated(vec![Finding::at(path, message)]))
}

const ONE_OF_A_LIST: &str = "is a list: write which one, as in [0]";

fn walk(kind: &str, path: &FieldPath) -> Result<Place, ManifestErrors> {
    let mut place = Place::Message(shape::descriptor(kind));
    let mut here = FieldPath::root();
    for segment in path.segments() {
        let finding = |message: &str| {
            let message = message.to_owned();
            Err(ManifestErrors::unlocated(vec![Finding::at(&here, message)]))
        };
        let (inside, next) = match (&place, segment) {
            (Place::Message(message), Segment::Field(name)) => {
                let Some(field) = message.get_field_by_json_name(name) else {
                    let known = known_fields(message);
                    let known: Vec<_> = known.iter().map(String::as_str).collect();
                    let unknown = Finding::unknown_field(&here, name, &known);
                    return Err(ManifestErrors::unlocated(vec![unknown]));
                };
                (Place::of(&field), here.field(name))
            }
            (Place::List(field), Segment::Index(index)) => (Place::of_one(field), here.index(*index)),
            (Place::List(_), _) => return finding(ONE_OF_A_LIST),
            (Place::Map(values), Segment::Key(key) | Segment::Field(key)) => {
                (Place::of_one(values), here.key(key))
            }
            // A key may be a number.
            (Place::Map(values), Segment::Index(index)) => (Place::of_one(values), here.index(*index)),
            (Place::Message(_), _) => return finding("has fields, which are written after a dot"),
            (Place::Scalar(_), _) => return finding("has nothing inside"),
        };
        (place, here) = (inside, next);
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("spec.nodeName")]
    #[case("status.conditions[0].status")]
    #[case("metadata.labels[app.kubernetes.io/name]")]
    #[case("metadata.labels.app")]
    #[case("metadata.labels[0]")]
    #[case("status.startTime")]
    #[case("status.containerStatuses[1].state.running")]
    fn what_objects_have_can_be_reached(#[case] path: &str) {
        check_path("Pod", &path.parse().unwrap()).unwrap();
    }

    #[rstest]
    #[case("status.phse", "status.phse: unknown field; did you mean \"phase\"?")]
    #[case(
        "status.conditions.status",
        "status.conditions: is a list: write which one, as in [0]"
    )]
    #[case("status.phase.x", "status.phase: has nothing inside")]
    #[case("status.startTime.seconds", "status.startTime: has nothing inside")]
    #[case("status[0]", "status: has fields, which are written after a dot")]
    fn what_they_do_not_have_is_told(#[case] path: &str, #[case] expected: &str) {
        let error = check_path("Pod", &path.parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[rstest]
    #[case("spec.unschedulable", Some("false"))]
    #[case("status.nodeInfo.kernelVersion", Some(""))]
    #[case("metadata.labels[a]", None)]
    #[case("metadata.creationTimestamp", None)]
    fn what_a_document_leaves_out_has_a_value(#[case] path: &str, #[case] expected: Option<&str>) {
        let unset = unset_value("Node", &path.parse().unwrap()).unwrap();
        assert_eq!(unset.as_deref(), expected);
    }

    #[rstest]
    #[case("spec", "spec: has fields: name one of ")]
    #[case("status.conditions", "status.conditions: is a list")]
    #[case("metadata.labels", "metadata.labels: is a mapping")]
    fn more_than_one_value_is_refused(#[case] path: &str, #[case] expected: &str) {
        let error = unset_value("Node", &path.parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
