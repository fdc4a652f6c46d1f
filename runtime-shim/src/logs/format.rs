//! CRI's log format: `<RFC 3339 time, nanoseconds> stdout|stderr F|P <content>` a line (Kubernetes, "CRI container log
//! format"). `P` marks a part of a line, `F` its end.

use std::time::SystemTime;

/// The longest content of one entry; longer lines are written in parts.
const MAX_CONTENT: usize = 16 << 10;

/// Which of a container's streams a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Cuts one stream into entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entries {
    stream: Stream,
}

impl Entries {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// Appends the entries of `input` to `log`, and tells how much of it they hold: all but the start of a line whose
    /// end has not come yet, and of `All` that too.
    pub(super) fn cut(self, input: &[u8], take: Take, now: SystemTime, log: &mut Vec<u8>) -> usize {
        let time = timestamp(now);
        let mut rest = input;
        while !rest.is_empty() {
            // A line that is exactly as long as an entry may be ends in it.
            let window = &rest[..rest.len().min(MAX_CONTENT + 1)];
            match memchr::memchr(b'\n', window) {
                Some(end) => {
                    self.entry(&time, b'F', &rest[..end], log);
                    rest = &rest[end + 1..];
                }
                None if rest.len() > MAX_CONTENT => {
                    self.entry(&time, b'P', &rest[..MAX_CONTENT], log);
                    rest = &rest[MAX_CONTENT..];
                }
                None if take == Take::All => {
                    self.entry(&time, b'P', rest, log);
                    rest = &[];
                }
                None => break,
            }
        }
        input.len() - rest.len()
    }

    /// What of this stream the entries of `log` hold; whatever is not an entry is passed over.
    pub(super) fn joined(self, log: &[u8]) -> Vec<u8> {
        let mut joined = Vec::new();
        for line in log.split_inclusive(|&byte| byte == b'\n') {
            let mut fields = line.splitn(4, |&byte| byte == b' ').skip(1);
            let (Some(stream), Some(tag), Some(content)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Some((b'\n', content)) = content.split_last() else {
                continue;
            };
            if stream == self.name().as_bytes() {
                joined.extend_from_slice(content);
                if tag == b"F" {
                    joined.push(b'\n');
                }
            }
        }
        joined
    }

    fn name(self) -> &'static str {
        match self.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }

    fn entry(self, time: &str, tag: u8, content: &[u8], log: &mut Vec<u8>) {
        for part in [
            time.as_bytes(),
            b" ",
            self.name().as_bytes(),
            b" ",
            &[tag],
            b" ",
            content,
            b"\n",
        ] {
            log.extend_from_slice(part);
        }
    }
}

/// What to do with the start of a line whose end has not come yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    Lines,
    /// It is written as a part.
    All,
}

/// RFC 3339 in UTC with nine digits of a second, so that times sort as text.
fn timestamp(now: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{at:.9}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    const AT: &str = "1970-01-01T00:00:01.000000005Z";

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::new(1, 5)
    }

    /// As the pump does: what is not cut comes again, with what has come since.
    fn cut<'a>(stream: Stream, parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let entries = Entries::new(stream);
        let (mut log, mut head) = (Vec::new(), Vec::new());
        for part in parts {
            head.extend_from_slice(part);
            let used = entries.cut(&head, Take::Lines, now(), &mut log);
            head.drain(..used);
        }
        entries.cut(&head, Take::All, now(), &mut log);
        log
    }

    fn log_of(stream: Stream, parts: &[&[u8]]) -> String {
        String::from_utf8(cut(stream, parts.iter().copied())).unwrap()
    }

    #[test]
    fn a_line_is_an_entry_with_time_stream_and_tag() {
        assert_eq!(
            log_of(Stream::Stdout, &[b"hello\n"]),
            format!("{AT} stdout F hello\n")
        );
        assert_eq!(
            log_of(Stream::Stderr, &[b"a\n\nb\n"]),
            format!("{AT} stderr F a\n{AT} stderr F \n{AT} stderr F b\n")
        );
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_one_entry() {
        assert_eq!(
            log_of(Stream::Stdout, &[b"he", b"llo", b"\n"]),
            format!("{AT} stdout F hello\n")
        );
    }

    #[test]
    fn an_unfinished_line_is_a_part() {
        assert_eq!(log_of(Stream::Stdout, &[b"$ "]), format!("{AT} stdout P $ \n"));
    }

    #[test]
    fn a_long_line_is_written_in_parts_of_16_kib() {
        let mut line = vec![b'x'; MAX_CONTENT + 3];
        line.push(b'\n');
        let log = log_of(Stream::Stdout, &[&line]);
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with(&format!("{AT} stdout P x")));
        assert_eq!(lines[1], format!("{AT} stdout F xxx"));
        let mut line = vec![b'x'; MAX_CONTENT];
        line.push(b'\n');
        assert!(log_of(Stream::Stdout, &[&line]).starts_with(&format!("{AT} stdout F x")));
    }

    proptest! {
        #[test]
        fn joined_entries_give_back_the_output(
            lengths in proptest::collection::vec(
                prop_oneof![0usize..40, MAX_CONTENT - 2..MAX_CONTENT + 3, 2 * MAX_CONTENT..2 * MAX_CONTENT + 9],
                0..5,
            ),
            is_ended in any::<bool>(),
            cut in 1usize..20_000,
        ) {
            let mut output = lengths.iter().map(|&length| vec![b'x'; length]).collect::<Vec<_>>().join(&b'\n');
            if is_ended {
                output.push(b'\n');
            }
            let log = self::cut(Stream::Stdout, output.chunks(cut));
            let head = AT.len() + " stdout F ".len();
            for line in log.split_inclusive(|&byte| byte == b'\n') {
                prop_assert!(line.len() <= head + MAX_CONTENT + 1);
            }
            prop_assert_eq!(Entries::new(Stream::Stderr).joined(&log), b"");
            prop_assert_eq!(Entries::new(Stream::Stdout).joined(&log), output);
        }
    }
}
