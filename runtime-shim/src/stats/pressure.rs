//! Pressure stall information of a cgroup (kernel documentation, accounting/psi.rst). Only cgroup v2 has it.

use std::{fs, path::Path};

use clone8s::cri;

/// How long the tasks of a cgroup had to wait for each resource; none where the kernel does not say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pressures {
    pub(super) cpu: Option<cri::PsiStats>,
    pub(super) memory: Option<cri::PsiStats>,
    pub(super) io: Option<cri::PsiStats>,
}

impl Pressures {
    pub(super) fn read(dir: &Path) -> Self {
        // Reading fails where the kernel was started with psi=0, although the file is there.
        let read = |file: &str| {
            fs::read_to_string(dir.join(file))
                .ok()
                .and_then(|text| parse(&text))
        };
        Self {
            cpu: read("cpu.pressure"),
            memory: read("memory.pressure"),
            io: read("io.pressure"),
        }
    }
}

/// Totals stay in microseconds, as the kernel has them and as other runtimes pass them on.
fn parse(text: &str) -> Option<cri::PsiStats> {
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |key: &str| {
            line.split(' ')
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        Some(cri::PsiData {
            total: value("total")?.parse().ok()?,
            avg10: value("avg10")?.parse().ok()?,
            avg60: value("avg60")?.parse().ok()?,
            avg300: value("avg300")?.parse().ok()?,
        })
    };
    Some(cri::PsiStats {
        some: Some(line("some ")?),
        // Kernels before 5.13 have none for the CPU.
        full: line("full "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_of_a_pressure_file_are_read() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.05 total=2000000\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=70\n";
        let stats = parse(text).unwrap();
        let some = stats.some.unwrap();
        assert_eq!(some.total, 2_000_000);
        assert!((some.avg10 - 1.5).abs() < 1e-9 && (some.avg300 - 0.05).abs() < 1e-9);
        assert_eq!(stats.full.unwrap().total, 70);
    }

    #[test]
    fn a_kernel_without_a_full_line_still_tells_what_some_waited() {
        let stats = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n").unwrap();
        assert_eq!(stats.some.unwrap().total, 5);
        assert_eq!(stats.full, None);
        assert_eq!(parse(""), None);
    }
}
