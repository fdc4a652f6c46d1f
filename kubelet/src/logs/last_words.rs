//! What a container wrote last: why it ended, more often than not.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use super::join::Joiner;

/// As much as a person reads in a status.
const LINES: usize = 10;
const BYTES: usize = 1024;
/// What is read of the file: entries carry times and tags beside their content.
const TAIL: u64 = 16 * 1024;

/// The last lines of a log file; empty when there are none, or no file. Blocks.
pub(crate) fn last_words(path: &Path) -> String {
    tail(path).map_or_else(|_| String::new(), |tail| words(&tail))
}

/// The end of the file, from the beginning of an entry on.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let skipped = size.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    if skipped > 0 {
        let first = bytes.iter().position(|byte| *byte == b'\n');
        bytes.drain(..first.map_or(bytes.len(), |newline| newline + 1));
    }
    Ok(bytes)
}

fn words(entries: &[u8]) -> String {
    let mut joiner = Joiner::new(false);
    let mut joined = Vec::new();
    for entry in entries
        .split(|byte| *byte == b'\n')
        .filter(|entry| !entry.is_empty())
    {
        joiner.push(entry, &mut joined);
    }
    let text = String::from_utf8_lossy(&joined);
    let lines: Vec<_> = text.trim_end().lines().collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
    let cut = last.len().saturating_sub(BYTES);
    last[last.ceil_char_boundary(cut)..].to_owned()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn log(lines: &[&str]) -> tempfile::NamedTempFile {
        let mut text = String::new();
        for line in lines {
            let _ = writeln!(text, "2026-01-31T12:00:00.000000000Z stderr F {line}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_last_lines_are_what_the_container_wrote() {
        let file = log(&["starting", "panic: no such file"]);
        assert_eq!(last_words(file.path()), "starting\npanic: no such file");
        assert_eq!(last_words(Path::new("/nowhere/0.log")), "");
        assert_eq!(last_words(log(&[]).path()), "");
    }

    #[test]
    fn no_more_than_a_person_reads() {
        let long = "x".repeat(600);
        let many: Vec<_> = (0..100).map(|line| format!("{line} {long}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let found = last_words(log(&many).path());
        assert!(
            found.len() <= BYTES && found.ends_with('x') && found.contains("99 "),
            "{found}"
        );
        let short: Vec<_> = (0..100).map(|line| line.to_string()).collect();
        let short: Vec<_> = short.iter().map(String::as_str).collect();
        let found = last_words(log(&short).path());
        assert_eq!((found.lines().count(), found.lines().next()), (LINES, Some("90")));
    }

    #[test]
    fn letters_of_several_bytes_are_not_cut() {
        let text = "ü".repeat(BYTES);
        let found = last_words(log(&[&text]).path());
        assert!(found.chars().all(|letter| letter == 'ü'), "{found}");
    }
}
