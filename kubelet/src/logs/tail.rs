//! Where the last lines of a log file begin, found from its end.

use std::io::{self, Read, Seek, SeekFrom};

use jiff::Timestamp;

use super::entry::{self, Entry, Output};

const BLOCK: u64 = 64 * 1024;
/// How far before the last lines the beginning of one of them is looked for.
const FARTHEST_BEGINNING: u64 = 2 << 20;

/// Which lines of a log are wanted: of those that were ended since a time, the last so many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// None for all of them.
    pub(crate) lines: Option<usize>,
    /// None for any time.
    pub(crate) since: Option<Timestamp>,
}

impl Wanted {
    /// Lines come in the order of their ends, so those before this one are too old as well.
    fn is_before(self, entry: Entry<'_>) -> bool {
        let time = || std::str::from_utf8(entry.time).ok()?.parse::<Timestamp>().ok();
        self.since
            .is_some_and(|since| time().is_some_and(|time| time < since))
    }
}

/// Where to read from, so that the last lines come whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// Join from here,
    pub(crate) read_from: u64,
    /// and show the lines that end after this.
    pub(crate) show_from: u64,
    /// How many lines that shows, where they were counted.
    pub(crate) lines: usize,
    /// The file has lines that are not wanted.
    pub(crate) leaves_out: bool,
}

/// Finds the last of the lines that are wanted by reading no more of the file than they need.
pub(crate) fn start<F: Read + Seek>(file: &mut F, wanted: Wanted) -> io::Result<Start> {
    if wanted == Wanted::default() {
        return Ok(Start::default());
    }
    let mut entries = Backwards::new(file)?;
    if wanted.lines == Some(0) {
        let end = entries.end;
        return Ok(Start {
            read_from: end,
            show_from: end,
            lines: 0,
            leaves_out: true,
        });
    }
    let mut found = 0;
    // Of each output: whether an entry of it was seen after the present position.
    let mut seen = [false; 2];
    let mut show_from = entries.end;
    loop {
        let Some((at, line)) = entries.previous()? else {
            return Ok(Start {
                lines: found,
                ..Start::default()
            });
        };
        let parsed = entry::parse(&line);
        let ends_line = match parsed {
            None => true,
            Some(entry) => {
                // The last parts of an output may be a line that has not ended.
                let first_seen = !std::mem::replace(&mut seen[entry.output.index()], true);
                entry.ends_line || first_seen
            }
        };
        if ends_line {
            if wanted.lines == Some(found) || parsed.is_some_and(|entry| wanted.is_before(entry)) {
                break;
            }
            found += 1;
        }
        show_from = at;
    }
    Ok(Start {
        read_from: beginning(&mut entries, show_from)?,
        show_from,
        lines: found,
        leaves_out: true,
    })
}

/// The first parts of a line may lie before a line of the other output.
fn beginning<F: Read + Seek>(entries: &mut Backwards<'_, F>, show_from: u64) -> io::Result<u64> {
    let mut read_from = show_from;
    let mut settled = [false; 2];
    // The entry just before `show_from` was read already: begin again with it.
    entries.rewind_to(show_from);
    while let Some((at, line)) = entries.previous()? {
        if let Some(entry) = entry::parse(&line) {
            let settled = &mut settled[entry.output.index()];
            *settled |= entry.ends_line;
            if !*settled {
                read_from = at;
            }
        }
        if Output::ALL.iter().all(|output| settled[output.index()]) || show_from - at > FARTHEST_BEGINNING {
            break;
        }
    }
    Ok(read_from)
}

/// The whole lines of a file, the last first. What follows the last newline is being written, and is left out.
struct Backwards<'a, F> {
    file: &'a mut F,
    /// Just after the last newline.
    end: u64,
    /// The bytes from `block_start` to `position`.
    block: Vec<u8>,
    block_start: u64,
}

impl<'a, F: Read + Seek> Backwards<'a, F> {
    fn new(file: &'a mut F) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        let mut backwards = Self {
            file,
            end: size,
            block: Vec::new(),
            block_start: size,
        };
        loop {
            if let Some(newline) = backwards.block.iter().rposition(|byte| *byte == b'\n') {
                backwards.block.truncate(newline + 1);
                break;
            }
            if !backwards.fill()? {
                backwards.block.clear();
                break;
            }
        }
        backwards.end = backwards.position();
        Ok(backwards)
    }

    fn position(&self) -> u64 {
        self.block_start + self.block.len() as u64
    }

    /// Goes on from an earlier position: a line's beginning.
    fn rewind_to(&mut self, position: u64) {
        self.block.clear();
        self.block_start = position;
    }

    /// The line before the present position, without its newline, and where it begins.
    fn previous(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        if self.position() == 0 {
            return Ok(None);
        }
        loop {
            let without_newline = self.block.len().saturating_sub(1);
            let newline = self.block[..without_newline]
                .iter()
                .rposition(|byte| *byte == b'\n');
            let start = match newline {
                Some(newline) => newline + 1,
                None if self.block.is_empty() || self.block_start > 0 => {
                    if self.fill()? {
                        continue;
                    }
                    0
                }
                None => 0,
            };
            let mut line = self.block.split_off(start);
            line.pop();
            return Ok(Some((self.position(), line)));
        }
    }

    /// Reads the block before; false at the beginning of the file.
    fn fill(&mut self) -> io::Result<bool> {
        let length = self.block_start.min(BLOCK);
        if length == 0 {
            return Ok(false);
        }
        let start = self.block_start - length;
        self.file.seek(SeekFrom::Start(start))?;
        let mut block = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + self.block.len());
        self.file.by_ref().take(length).read_to_end(&mut block)?;
        block.append(&mut self.block);
        self.block = block;
        self.block_start = start;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::logs::join::Joiner;

    const T: &str = "2026-01-02T03:04:05.000000001Z";

    fn file(entries: &[(&str, &str, &str)]) -> Vec<u8> {
        entries
            .iter()
            .flat_map(|(output, tag, text)| format!("{T} {output} {tag} {text}\n").into_bytes())
            .collect()
    }

    /// What a reader shows, beginning at a start.
    fn shown(file: &[u8], start: Start) -> Vec<String> {
        let mut joiner = Joiner::default();
        let mut text = Vec::new();
        let mut position = start.read_from;
        let read_from = usize::try_from(start.read_from).unwrap();
        for line in file[read_from..].split_inclusive(|byte| *byte == b'\n') {
            let mut lines = Vec::new();
            if let Some(line) = line.strip_suffix(b"\n") {
                joiner.push(line, &mut lines);
            }
            position += line.len() as u64;
            if position > start.show_from {
                text.extend(lines);
            }
        }
        joiner.finish(&mut text);
        String::from_utf8(text)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn last(lines: usize) -> Wanted {
        Wanted {
            lines: Some(lines),
            since: None,
        }
    }

    fn tail(file: &[u8], lines: usize) -> Vec<String> {
        shown(file, start(&mut Cursor::new(file), last(lines)).unwrap())
    }

    #[test]
    fn the_last_lines_are_found_whatever_came_before() {
        let log = file(&[
            ("stdout", "F", "one"),
            ("stderr", "F", "two"),
            ("stdout", "F", "three"),
        ]);
        assert_eq!(tail(&log, 0), Vec::<String>::new());
        assert_eq!(tail(&log, 2), ["two", "three"]);
        assert_eq!(tail(&log, 9), ["one", "two", "three"]);
        assert_eq!(tail(b"", 5), Vec::<String>::new());
    }

    #[test]
    fn a_line_in_parts_counts_once_and_comes_whole() {
        let log = file(&[
            ("stdout", "F", "before"),
            ("stdout", "P", "one "),
            ("stderr", "F", "oops"),
            ("stdout", "P", "long "),
            ("stdout", "F", "line"),
        ]);
        assert_eq!(tail(&log, 1), ["one long line"]);
        assert_eq!(tail(&log, 2), ["oops", "one long line"]);
    }

    #[test]
    fn a_line_that_has_not_ended_counts_and_bytes_without_a_newline_do_not() {
        let mut log = file(&[("stdout", "F", "one"), ("stdout", "P", "half")]);
        log.extend_from_slice(b"2026-01-02T03:0");
        assert_eq!(tail(&log, 1), ["half"]);
        assert_eq!(tail(&log, 2), ["one", "half"]);
    }

    #[test]
    fn lines_count_from_the_time_when_they_were_ended() {
        let mut log = Vec::new();
        for (second, output, tag, text) in [
            (1, "stdout", "F", "one"),
            (2, "stdout", "P", "long "),
            (3, "stderr", "F", "three"),
            (4, "stdout", "F", "line"),
        ] {
            log.extend(format!("2026-01-02T05:04:0{second}.5+02:00 {output} {tag} {text}\n").into_bytes());
        }
        for (lines, since, expected, leaves_out) in [
            (None, "00", &["one", "three", "long line"][..], false),
            (None, "01.5", &["one", "three", "long line"], false),
            (None, "02", &["three", "long line"], true),
            (None, "04", &["long line"], true),
            (None, "05", &[], true),
            (Some(1), "02", &["long line"], true),
            (Some(9), "02", &["three", "long line"], true),
        ] {
            let since = Some(format!("2026-01-02T03:04:{since}Z").parse().unwrap());
            let start = start(&mut Cursor::new(&log), Wanted { lines, since }).unwrap();
            assert_eq!(
                (&shown(&log, start)[..], start.leaves_out),
                (
                    &expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                    leaves_out
                )
            );
        }
    }

    #[test]
    fn only_the_end_of_a_large_file_is_read() {
        struct Counting(Cursor<Vec<u8>>, u64);
        impl Read for Counting {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let read = self.0.read(buffer)?;
                self.1 += read as u64;
                Ok(read)
            }
        }
        impl Seek for Counting {
            fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
                self.0.seek(to)
            }
        }
        let line = format!("{T} stdout F {}\n{T} stderr F x\n", "x".repeat(100));
        let mut file = Counting(Cursor::new(line.repeat(100_000).into_bytes()), 0);
        start(&mut file, last(10)).unwrap();
        assert!(file.1 <= 4 * BLOCK, "{} bytes", file.1);
    }

    proptest! {
        #[test]
        fn a_tail_is_the_end_of_all_lines(
            entries in prop::collection::vec(
                (prop::sample::select(vec!["stdout", "stderr"]), prop::sample::select(vec!["F", "P"]), "[a-z]{0,40}"),
                0..60,
            ),
            wanted in 1..20usize,
        ) {
            let mut entries: Vec<_> =
                entries.iter().map(|(output, tag, text)| (*output, *tag, text.as_str())).collect();
            // A line that has not ended is shown last, whatever its place: it has a test of its own.
            entries.extend([("stdout", "F", "end"), ("stderr", "F", "end")]);
            let log = file(&entries);
            let all = shown(&log, Start::default());
            prop_assert_eq!(&tail(&log, wanted)[..], &all[all.len().saturating_sub(wanted)..]);
        }
    }
}
