//! What etcd keeps under a key of Clone8s: the value, and where its put was not the last of its transaction, how far from
//! that.
//!
//! ```text
//! the value                       of a last put
//! 00 distance, the value          of another; and of a last one whose value begins with 00
//! ```
//! No message of protobuf begins with 00, so that what people find in etcd are mostly the objects as they are.

/// A transaction has so many puts at most.
pub const MOST_PUTS: u8 = 100;
/// Begins what is not the value as it is.
const MARKED: u8 = 0;

/// With so many puts after it in its transaction.
pub fn stored(value: &[u8], distance: u8) -> Vec<u8> {
    if distance == 0 && value.first() != Some(&MARKED) {
        return value.to_vec();
    }
    let mut stored = Vec::with_capacity(2 + value.len());
    stored.extend_from_slice(&[MARKED, distance]);
    stored.extend_from_slice(value);
    stored
}

/// The value, and its distance. What no apiserver can have stored is a value as it is.
pub fn read(stored: &[u8]) -> (&[u8], u8) {
    match stored {
        [MARKED, distance, value @ ..] if *distance < MOST_PUTS => (value, *distance),
        value => (value, 0),
    }
}

/// All that is kept of values at a distance is greater than the first of these and less than the second; but for
/// an empty value, which is never kept at a distance.
pub fn bounds(distance: u8) -> [[u8; 2]; 2] {
    [[MARKED, distance], [MARKED, distance + 1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_were_stored() {
        for value in [&b""[..], b"\0", b"\0\x05a", b"\n\x03pod", b"\xff"] {
            for distance in [0, 1, 99] {
                let stored = stored(value, distance);
                assert_eq!(read(&stored), (value, distance));
            }
        }
        assert_eq!(stored(b"\n\x03pod", 0), b"\n\x03pod");
        assert_eq!(read(b"\0\xffforeign"), (&b"\0\xffforeign"[..], 0));
    }

    #[test]
    fn bounds_hold_what_is_at_a_distance_and_nothing_else() {
        for value in [&b"\0"[..], b"\xff\xff", b"\n\x03pod"] {
            let [over, under] = bounds(7);
            let is_within = |stored: &[u8]| stored > &over[..] && stored < &under[..];
            assert!(is_within(&stored(value, 7)));
            assert!([0, 6, 8].iter().all(|other| !is_within(&stored(value, *other))));
        }
    }
}
