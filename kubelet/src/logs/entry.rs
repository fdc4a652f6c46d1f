//! One line of a log file in CRI's format: `<RFC 3339 time> <stdout|stderr> <P|F>[:<tags>] <content>`.

/// Which of a container's outputs an entry is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    pub(super) const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// A line that a container wrote, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) time: &'a [u8],
    pub(crate) output: Output,
    /// False when the line goes on in the next entry of the same output.
    pub(crate) ends_line: bool,
    pub(crate) content: &'a [u8],
}

/// None for what is not in the format. `line` is without its newline.
pub(crate) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = parts
        .next()
        .filter(|time| time.len() >= 20 && time[0].is_ascii_digit())?;
    let output = match parts.next()? {
        b"stdout" => Output::Stdout,
        b"stderr" => Output::Stderr,
        _ => return None,
    };
    let tags = parts.next()?;
    let ends_line = match tags.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Entry {
        time,
        output,
        ends_line,
        // An empty line may come without the space after its tag.
        content: parts.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_has_a_time_an_output_a_tag_and_whatever_the_container_wrote() {
        let entry = parse(b"2026-01-02T03:04:05.678901234Z stderr F a b  c").unwrap();
        assert_eq!(entry.time, b"2026-01-02T03:04:05.678901234Z");
        assert_eq!(
            (entry.output, entry.ends_line, entry.content),
            (Output::Stderr, true, &b"a b  c"[..])
        );
        let part = parse(b"2026-01-02T03:04:05Z stdout P:x half").unwrap();
        assert_eq!((part.ends_line, part.content), (false, &b"half"[..]));
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F").unwrap().content, b"");
    }

    #[test]
    fn anything_else_is_no_entry() {
        for line in [
            &b""[..],
            b"hello",
            b"2026-01-02T03:04:05Z stdin F x",
            b"2026-01-02T03:04:05Z stdout Q x",
        ] {
            assert_eq!(parse(line), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_stop_the_reader(line: Vec<u8>) {
            parse(&line);
        }
    }
}
