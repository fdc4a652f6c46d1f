//! A [`Message`] as AMQP carries it.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{BusError, Message};

/// On disk before it is confirmed.
const PERSISTENT: u8 = 2;

pub(super) fn properties(message: &Message) -> Result<BasicProperties, BusError> {
    let short = |what: &str, text: &str| {
        ShortString::try_new(text)
            .map_err(|_| BusError::Refused(format!("the message's {what} is longer than 255 bytes")))
    };
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        let value = AMQPValue::LongString(value.as_str().into());
        headers.insert(short("header name", name)?, value);
    }
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_headers(headers);
    if !message.message_id.is_empty() {
        properties = properties.with_message_id(short("id", &message.message_id)?);
    }
    if !message.content_type.is_empty() {
        properties = properties.with_content_type(short("content type", &message.content_type)?);
    }
    if !message.kind.is_empty() {
        properties = properties.with_type(short("type", &message.kind)?);
    }
    Ok(properties)
}

pub(super) fn message(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text =
        |property: &Option<ShortString>| property.as_ref().map(ToString::to_string).unwrap_or_default();
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    Message {
        message_id: text(properties.message_id()),
        content_type: text(properties.content_type()),
        kind: text(properties.kind()),
        headers: headers
            .filter_map(|(name, value)| Some((name.to_string(), header(value)?)))
            .collect(),
        body: body.into(),
    }
}

/// Other programs may send any type; lists and tables, which only brokers put there, are left out.
fn header(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(number) => number.to_string(),
        AMQPValue::ShortShortUInt(number) => number.to_string(),
        AMQPValue::ShortInt(number) => number.to_string(),
        AMQPValue::ShortUInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongUInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::Float(number) => number.to_string(),
        AMQPValue::Double(number) => number.to_string(),
        AMQPValue::Timestamp(seconds) => seconds.to_string(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into_owned(),
        AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::Void => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_comes_off_the_wire_as_it_went_on() {
        for message in [
            Message::default(),
            Message {
                message_id: "uid/7".to_owned(),
                content_type: "application/yaml".to_owned(),
                kind: "clone8s.v1.Pod".to_owned(),
                headers: [("verb".to_owned(), "änderung".to_owned())].into(),
                body: Bytes::from_static(b"\0\xff"),
            },
        ] {
            let properties = properties(&message).unwrap();
            assert_eq!(super::message(&properties, message.body.to_vec()), message);
        }
    }

    #[test]
    fn headers_of_other_programs_are_read_as_text() {
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("retries", AMQPValue::LongInt(-3)),
            ("urgent", AMQPValue::Boolean(true)),
            ("raw", AMQPValue::ByteArray(b"abc".as_slice().into())),
            ("x-death", AMQPValue::FieldArray(Vec::new().into())),
        ] {
            headers.insert(name.into(), value);
        }
        let read = message(&BasicProperties::default().with_headers(headers), Vec::new());
        let expected = [("raw", "abc"), ("retries", "-3"), ("urgent", "true")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read.headers, expected.into());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let message = Message {
            message_id: "x".repeat(256),
            ..Message::default()
        };
        let error = properties(&message).unwrap_err().to_string();
        assert!(error.contains("the message's id is longer"), "{error}");
    }
    fn any_message() -> impl Strategy<Value = Message> {
        let text = || "\\PC{0,90}";
        let headers = prop::collection::btree_map(text(), text(), 0..5);
        let body = prop::collection::vec(any::<u8>(), 0..200);
        (text(), text(), text(), headers, body).prop_map(|(message_id, content_type, kind, headers, body)| {
            Message {
                message_id,
                content_type,
                kind,
                headers,
                body: body.into(),
            }
        })
    }

    fn any_value() -> impl Strategy<Value = AMQPValue> {
        let simple = prop_oneof![
            Just(AMQPValue::Void),
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            any::<f64>().prop_map(AMQPValue::Double),
            // Other programs need not send UTF-8.
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|text| AMQPValue::LongString(text.into())),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        ];
        simple.prop_recursive(3, 12, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_map(|values| AMQPValue::FieldArray(values.into()))
        })
    }

    proptest! {
        #[test]
        fn every_message_that_goes_on_the_wire_comes_off_it_the_same(message in any_message()) {
            match properties(&message) {
                Ok(properties) => prop_assert_eq!(super::message(&properties, message.body.to_vec()), message),
                Err(error) => prop_assert!(error.to_string().contains("longer than 255 bytes"), "{}", error),
            }
        }

        #[test]
        fn no_headers_of_other_programs_stop_a_reader(
            values in prop::collection::btree_map("\\PC{0,20}", any_value(), 0..6),
        ) {
            let mut headers = FieldTable::default();
            for (name, value) in &values {
                headers.insert(name.as_str().into(), value.clone());
            }
            let read = message(&BasicProperties::default().with_headers(headers), Vec::new());
            prop_assert!(read.headers.keys().all(|name| values.contains_key(name)));
        }
    }
}
