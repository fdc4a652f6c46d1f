//! From entries to the lines that the container wrote: pure.

use super::entry::{self, Output};

/// A longer line is handed on in pieces of this size, as if each were a line.
const LONGEST_LINE: usize = 1 << 20;

/// Puts partial entries together, each output's for itself.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    timestamps: bool,
    unfinished: [Unfinished; 2],
}

#[derive(Debug, Default)]
struct Unfinished {
    time: Vec<u8>,
    content: Vec<u8>,
    begun: bool,
}

impl Joiner {
    /// With `timestamps`, each line begins with the time of its first part.
    pub(crate) fn new(timestamps: bool) -> Self {
        Self {
            timestamps,
            ..Self::default()
        }
    }

    /// Takes one line of the file, without its newline. What it completes is added to `lines`; returns whether it did.
    pub(crate) fn push(&mut self, line: &[u8], lines: &mut Vec<u8>) -> bool {
        let Some(entry) = entry::parse(line) else {
            // Not ours to hide: a person may be looking for just this.
            lines.extend_from_slice(line);
            lines.push(b'\n');
            return true;
        };
        let unfinished = &mut self.unfinished[entry.output.index()];
        if !unfinished.begun {
            unfinished.begun = true;
            unfinished.time.extend_from_slice(entry.time);
        }
        unfinished.content.extend_from_slice(entry.content);
        let ends = entry.ends_line || unfinished.content.len() >= LONGEST_LINE;
        if ends {
            self.finish_line(entry.output, lines);
        }
        ends
    }

    /// Nothing more will come: what is unfinished is all there is of its line.
    pub(crate) fn finish(&mut self, lines: &mut Vec<u8>) {
        for output in Output::ALL {
            if self.unfinished[output.index()].begun {
                self.finish_line(output, lines);
            }
        }
    }

    fn finish_line(&mut self, output: Output, lines: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.unfinished[output.index()]);
        if self.timestamps {
            lines.extend_from_slice(&line.time);
            lines.push(b' ');
        }
        lines.extend_from_slice(&line.content);
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(timestamps: bool, entries: &[&str]) -> String {
        let mut joiner = Joiner::new(timestamps);
        let mut lines = Vec::new();
        for entry in entries {
            joiner.push(entry.as_bytes(), &mut lines);
        }
        joiner.finish(&mut lines);
        String::from_utf8(lines).unwrap()
    }

    const T1: &str = "2026-01-02T03:04:05.000000001Z";
    const T2: &str = "2026-01-02T03:04:05.000000002Z";

    #[test]
    fn parts_of_one_output_are_one_line_although_the_other_speaks_in_between() {
        let entries = [
            format!("{T1} stdout P one "),
            format!("{T1} stderr F oops"),
            format!("{T2} stdout F line"),
        ];
        let entries: Vec<_> = entries.iter().map(String::as_str).collect();
        assert_eq!(joined(false, &entries), "oops\none line\n");
        assert_eq!(joined(true, &entries), format!("{T1} oops\n{T1} one line\n"));
    }

    #[test]
    fn the_last_words_of_a_container_count_without_a_newline() {
        assert_eq!(
            joined(false, &[&format!("{T1} stdout P last words")]),
            "last words\n"
        );
    }

    #[test]
    fn what_is_not_in_the_format_is_shown_as_it_is() {
        assert_eq!(joined(true, &["runtime: disk full"]), "runtime: disk full\n");
    }

    #[test]
    fn a_line_without_an_end_is_handed_on_in_pieces() {
        let part = format!("{T1} stdout P {}", "x".repeat(LONGEST_LINE / 2));
        let mut joiner = Joiner::new(false);
        let mut lines = Vec::new();
        assert!(!joiner.push(part.as_bytes(), &mut lines));
        assert!(joiner.push(part.as_bytes(), &mut lines));
        assert_eq!(lines.len(), LONGEST_LINE + 1);
    }
}
