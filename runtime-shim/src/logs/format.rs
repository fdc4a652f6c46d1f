//! CRI's log format: `<RFC 3339 time, nanoseconds> stdout|stderr F|P <content>` a line (Kubernetes, "CRI container log
//! format"). `P` marks a part of a line, `F` its end.

use std::{io::Write as _, time::SystemTime};

/// The longest content of one entry; longer lines are written in parts.
const MAX_CONTENT: usize = 16 << 10;

/// Which of a container's streams a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Cuts one stream into entries.
#[derive(Debug)]
pub(super) struct Entries {
    stream: Stream,
    /// The start of a line whose end has not come yet, shorter than [`MAX_CONTENT`].
    pending: Vec<u8>,
}

impl Entries {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Appends the entries of `input` to `log`, and keeps the start of an unfinished line.
    pub(super) fn push(&mut self, input: &[u8], now: SystemTime, log: &mut Vec<u8>) {
        let time = timestamp(now);
        let mut rest = input;
        while !rest.is_empty() {
            let room = MAX_CONTENT - self.pending.len();
            let window = &rest[..rest.len().min(room)];
            match window.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    self.entry(&time, b'F', &rest[..end], log);
                    rest = &rest[end + 1..];
                }
                // A line that is exactly as long as an entry may be ends in it.
                None if window.len() == room && rest.get(room) == Some(&b'\n') => {
                    self.entry(&time, b'F', window, log);
                    rest = &rest[room + 1..];
                }
                None if window.len() == room && rest.len() > room => {
                    self.entry(&time, b'P', window, log);
                    rest = &rest[room..];
                }
                None if window.len() == room => {
                    self.entry(&time, b'P', window, log);
                    rest = &[];
                }
                None => {
                    self.pending.extend_from_slice(window);
                    rest = &[];
                }
            }
        }
    }

    /// Writes the start of an unfinished line as a part.
    pub(super) fn flush(&mut self, now: SystemTime, log: &mut Vec<u8>) {
        if self.is_pending() {
            self.entry(&timestamp(now), b'P', b"", log);
        }
    }

    fn entry(&mut self, time: &str, tag: u8, content: &[u8], log: &mut Vec<u8>) {
        let stream = match self.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        // Writing to memory cannot fail.
        let _ = write!(log, "{time} {stream} {} ", char::from(tag));
        log.append(&mut self.pending);
        log.extend_from_slice(content);
        log.push(b'\n');
    }
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

    fn log_of(stream: Stream, parts: &[&[u8]]) -> String {
        let mut entries = Entries::new(stream);
        let mut log = Vec::new();
        for part in parts {
            entries.push(part, now(), &mut log);
        }
        entries.flush(now(), &mut log);
        String::from_utf8(log).unwrap()
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
            let mut entries = Entries::new(Stream::Stdout);
            let mut log = Vec::new();
            for part in output.chunks(cut) {
                entries.push(part, now(), &mut log);
            }
            entries.flush(now(), &mut log);
            let mut joined = Vec::new();
            let head = AT.len() + " stdout ".len();
            for line in log.split_inclusive(|&byte| byte == b'\n') {
                let (tag, content) = (line[head], &line[head + 2..line.len() - 1]);
                prop_assert!(content.len() <= MAX_CONTENT);
                joined.extend_from_slice(content);
                if tag == b'F' {
                    joined.push(b'\n');
                }
            }
            prop_assert_eq!(joined, output);
        }
    }
}
