//! Which users of the host a pod's users are (user_namespaces(7); CRI v1, UserNamespace).

use std::fmt::Write as _;

use clone8s::cri::{self, NamespaceMode};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The kernel's limit of lines in a map.
const MAX_RANGES: usize = 340;

/// Users and groups of a user namespace, as ranges of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMappings {
    pub(crate) uids: Vec<IdRange>,
    pub(crate) gids: Vec<IdRange>,
}

/// `length` ids in the namespace, from `inside` on, are those of the host from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRange {
    pub(crate) inside: u32,
    pub(crate) outside: u32,
    pub(crate) length: u32,
}

impl IdMappings {
    /// Those that a sandbox asks for; none for the host's users.
    pub(crate) fn of_sandbox(options: &cri::NamespaceOption) -> Result<Option<Self>> {
        const FIELD: &str = "config.linux.security_context.namespace_options.userns_options";
        let Some(user) = &options.userns_options else {
            return Ok(None);
        };
        match user.mode() {
            NamespaceMode::Node if user.uids.is_empty() && user.gids.is_empty() => Ok(None),
            NamespaceMode::Node => Err(Error::invalid(
                FIELD,
                "mappings are for mode POD; the mode is NODE",
            )),
            NamespaceMode::Pod => Self::new(FIELD, &user.uids, &user.gids).map(Some),
            mode @ (NamespaceMode::Container | NamespaceMode::Target) => Err(Error::invalid(
                format!("{FIELD}.mode"),
                format!("{} is not possible; use POD or NODE", mode.as_str_name()),
            )),
        }
    }

    pub(crate) fn new(field: &str, uids: &[cri::IdMapping], gids: &[cri::IdMapping]) -> Result<Self> {
        let all = Self {
            uids: ranges(field, "uids", uids)?,
            gids: ranges(field, "gids", gids)?,
        };
        Ok(all)
    }

    pub(crate) fn uid_lines(&self) -> String {
        lines(&self.uids)
    }

    pub(crate) fn gid_lines(&self) -> String {
        lines(&self.gids)
    }

    /// The host's user and group that are root inside.
    pub(crate) fn root(&self) -> Option<(u32, u32)> {
        Some((self.uid(0)?, self.gid(0)?))
    }

    /// The host's user that is this one inside.
    pub(crate) fn uid(&self, inside: u32) -> Option<u32> {
        outside(&self.uids, inside)
    }

    /// The host's group that is this one inside.
    pub(crate) fn gid(&self, inside: u32) -> Option<u32> {
        outside(&self.gids, inside)
    }
}

fn ranges(field: &str, kind: &str, given: &[cri::IdMapping]) -> Result<Vec<IdRange>> {
    let refuse = |problem: &str| Err(Error::invalid(format!("{field}.{kind}"), problem));
    if given.is_empty() {
        return refuse("no mappings");
    }
    if given.len() > MAX_RANGES {
        return refuse("the kernel takes 340 ranges at most");
    }
    let ranges: Vec<_> = given
        .iter()
        .map(|range| IdRange {
            inside: range.container_id,
            outside: range.host_id,
            length: range.length,
        })
        .collect();
    let ends = |start: u32, length: u32| start.checked_add(length).is_some();
    if ranges.iter().any(|range| {
        range.length == 0 || !ends(range.inside, range.length) || !ends(range.outside, range.length)
    }) {
        return refuse("a range is empty or ends beyond the last id");
    }
    let overlap = |a: u32, b: u32, a_length: u32, b_length: u32| a < b + b_length && b < a + a_length;
    for (index, a) in ranges.iter().enumerate() {
        for b in &ranges[..index] {
            if overlap(a.inside, b.inside, a.length, b.length)
                || overlap(a.outside, b.outside, a.length, b.length)
            {
                return refuse("two ranges overlap");
            }
        }
    }
    // Without a root nothing can be set up inside.
    if outside(&ranges, 0).is_none() {
        return refuse("id 0 of the containers is not mapped");
    }
    Ok(ranges)
}

fn outside(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.length).then(|| range.outside + offset)
    })
}

/// As `/proc/<pid>/uid_map` takes it.
fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.length);
        text
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn mapping(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
        cri::IdMapping {
            host_id,
            container_id,
            length,
        }
    }

    #[test]
    fn an_id_inside_is_the_hosts_of_its_range() {
        let all = [mapping(0, 100_000, 1000), mapping(5000, 7, 1)];
        let mappings = IdMappings::new("f", &all, &all[..1]).unwrap();
        assert_eq!(mappings.root(), Some((100_000, 100_000)));
        assert_eq!(
            (mappings.uid(999), mappings.uid(1000), mappings.uid(5000)),
            (Some(100_999), None, Some(7))
        );
        assert_eq!(mappings.gid(5000), None);
        assert_eq!(mappings.uid_lines(), "0 100000 1000\n5000 7 1\n");
    }

    #[rstest]
    #[case::none(vec![])]
    #[case::empty(vec![mapping(0, 100_000, 0)])]
    #[case::past_the_end(vec![mapping(0, u32::MAX, 2)])]
    #[case::without_root(vec![mapping(1, 100_000, 10)])]
    #[case::twice_inside(vec![mapping(0, 100_000, 10), mapping(9, 200_000, 10)])]
    #[case::twice_outside(vec![mapping(0, 100_000, 10), mapping(20, 100_009, 10)])]
    fn ranges_that_the_kernel_would_refuse_are_refused_by_their_field(#[case] ranges: Vec<cri::IdMapping>) {
        let good = [mapping(0, 100_000, 10)];
        let error = IdMappings::new("f", &good, &ranges).unwrap_err().to_string();
        assert!(error.starts_with("f.gids: "), "{error}");
        let error = IdMappings::new("f", &ranges, &good).unwrap_err().to_string();
        assert!(error.starts_with("f.uids: "), "{error}");
    }
}
