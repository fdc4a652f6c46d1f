//! Times that lines of a log are wanted since.

use jiff::{SignedDuration, Timestamp};

/// A time span back from now, as a person writes it.
pub(super) fn ago(text: &str) -> Result<SignedDuration, String> {
    match text.parse::<SignedDuration>() {
        Ok(span) if span.is_negative() => Err("it must not be negative".to_owned()),
        Ok(span) => Ok(span),
        Err(_) => Err("write how long ago, such as 90s, 10m or \"1h 30m\"".to_owned()),
    }
}

/// Whole seconds, of which a part counts as one.
pub(super) fn seconds(ago: SignedDuration) -> i64 {
    ago.as_secs().saturating_add(i64::from(ago.subsec_nanos() > 0))
}

pub(super) fn timestamp(time: Timestamp) -> pbjson_types::Timestamp {
    pbjson_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("90s", 90)]
    #[case("10m", 600)]
    #[case("1h30m", 5_400)]
    #[case("1h 30m", 5_400)]
    #[case("0s", 0)]
    fn spans_are_written_with_their_units(#[case] text: &str, #[case] seconds: i64) {
        assert_eq!(ago(text).unwrap().as_secs(), seconds);
    }

    #[rstest]
    #[case("10")]
    #[case("-5m")]
    #[case("soon")]
    fn anything_else_is_refused(#[case] text: &str) {
        ago(text).unwrap_err();
    }

    #[test]
    fn a_part_of_a_second_counts_as_one() {
        assert_eq!(seconds(ago("500ms").unwrap()), 1);
        assert_eq!(seconds(ago("2s").unwrap()), 2);
        assert_eq!(seconds(SignedDuration::MAX), i64::MAX);
    }
}
