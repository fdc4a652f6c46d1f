//! Times that lines of a log are wanted since.

use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};

/// A time span back from now, as a person writes it.
pub(super) fn ago(text: &str) -> Result<SignedDuration, String> {
    match text.parse::<SignedDuration>() {
        Ok(span) if span.is_negative() => Err("it must not be negative".to_owned()),
        Ok(span) => Ok(span),
        Err(_) => Err("write how long ago, such as 90s, 10m or \"1h 30m\"".to_owned()),
    }
}

/// None where that is before all time.
pub(super) fn before(now: SystemTime, ago: SignedDuration) -> Option<pbjson_types::Timestamp> {
    let now = Timestamp::try_from(now).ok()?;
    now.checked_sub(ago).ok().map(timestamp)
}

pub(super) fn timestamp(time: Timestamp) -> pbjson_types::Timestamp {
    pbjson_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn a_span_goes_back_from_now_and_not_beyond_all_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(90_500);
        let since = before(now, SignedDuration::from_secs(60)).unwrap();
        assert_eq!((since.seconds, since.nanos), (30, 500_000_000));
        assert_eq!(before(now, SignedDuration::MAX), None);
    }
}
