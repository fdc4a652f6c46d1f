//! Huge pages as a resource: "hugepages-2Mi", of which a container has bytes in whole pages, and what is made of them
//! (Kubernetes, "Manage HugePages").

use std::collections::BTreeMap;

use crate::{
    quantity::{self, Quantity, QuantityError},
    v1::{Container, PodSpec},
};

const RESOURCE: &str = "hugepages-";
const MEDIUM: &str = "HugePages";
const SIZED_MEDIUM: &str = "HugePages-";

/// The size of a page in bytes, a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageSize(u64);

impl PageSize {
    /// None for a size that no page has.
    pub fn new(bytes: u64) -> Option<Self> {
        const SMALLEST: u64 = 8 << 10;
        // What a quantity can hold.
        const LARGEST: u64 = 1 << 62;
        (bytes.is_power_of_two() && (SMALLEST..=LARGEST).contains(&bytes)).then_some(Self(bytes))
    }

    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Such as "hugepages-2Mi".
    pub fn resource(self) -> String {
        format!("{RESOURCE}{}", self.quantity())
    }

    /// As the kernel names it in the files of its cgroups, and CRI and OCI with it: "2MB".
    pub fn cgroup_name(self) -> String {
        let (shift, unit) = match self.0 {
            size if size >= 1 << 30 => (30, "GB"),
            size if size >= 1 << 20 => (20, "MB"),
            _ => (10, "KB"),
        };
        format!("{}{unit}", self.0 >> shift)
    }

    /// Such as "2Mi".
    pub fn quantity(self) -> Quantity {
        Quantity::from_bytes(i64::try_from(self.0).unwrap_or(i64::MAX))
    }

    /// Of the text behind a name's beginning, in the one way of writing it.
    fn parse(text: &str) -> Option<Self> {
        let bytes = u64::try_from(quantity::bytes(text).ok()?).ok()?;
        Self::new(bytes).filter(|size| size.quantity().to_string() == text)
    }
}

/// Whether a resource is one of huge pages, of whatever size.
pub fn is_huge_pages(resource: &str) -> bool {
    resource.starts_with(RESOURCE)
}

/// The size of the pages that a resource is of; None for another resource, and for a size that there is not.
pub fn page_size(resource: &str) -> Option<PageSize> {
    resource.strip_prefix(RESOURCE).and_then(PageSize::parse)
}

impl Container {
    /// The bytes of each size of huge pages that it may have.
    pub fn huge_pages(&self) -> Result<BTreeMap<PageSize, u64>, QuantityError> {
        let limits = self.resources.iter().flat_map(|resources| &resources.limits);
        let pages = limits.filter_map(|(name, amount)| Some((page_size(name)?, amount)));
        pages
            .map(|(size, amount)| Ok((size, u64::try_from(quantity::bytes(amount)?).unwrap_or(0))))
            .collect()
    }
}

/// The size of the pages that an emptyDir of this medium is made of: the one that it names, or else the only one that the
/// pod has. None for a medium that is not of huge pages; an error says what is wrong with it in this pod.
pub fn of_medium(medium: &str, spec: &PodSpec) -> Result<Option<PageSize>, String> {
    let named = match medium.strip_prefix(SIZED_MEDIUM) {
        Some(text) => Some(PageSize::parse(text).ok_or_else(|| {
            format!("must name a size of pages such as \"HugePages-2Mi\", but is {medium:?}")
        })?),
        None if medium == MEDIUM => None,
        None => return Ok(None),
    };
    // An amount that is no quantity is told where it stands.
    let all = spec
        .all_containers()
        .filter_map(|container| container.huge_pages().ok());
    let mut sizes: Vec<_> = all
        .flat_map(|pages| pages.into_iter().filter(|(_, bytes)| *bytes > 0))
        .map(|(size, _)| size)
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    match (named, sizes.as_slice()) {
        (Some(size), sizes) if sizes.contains(&size) => Ok(Some(size)),
        (Some(size), _) => Err(format!(
            "is {medium:?}, but no container has {} among its limits",
            size.resource()
        )),
        (None, [only]) => Ok(Some(*only)),
        (None, []) => Err(format!(
            "is {medium:?}, but no container has huge pages among its limits, such as hugepages-2Mi"
        )),
        (None, [first, ..]) => Err(format!(
            "must say of which of the pod's sizes it is, such as \"{SIZED_MEDIUM}{}\", but is {medium:?}",
            first.quantity()
        )),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("hugepages-64Ki", Some("64KB"))]
    #[case("hugepages-2Mi", Some("2MB"))]
    #[case("hugepages-1Gi", Some("1GB"))]
    #[case("hugepages-16Gi", Some("16GB"))]
    #[case::another_way_to_write_it("hugepages-2048Ki", None)]
    #[case::no_power_of_two("hugepages-3Mi", None)]
    #[case::decimal("hugepages-2M", None)]
    #[case::too_small("hugepages-4Ki", None)]
    #[case::nothing("hugepages-", None)]
    #[case::negative("hugepages--2Mi", None)]
    #[case::too_large("hugepages-8Ei", None)]
    #[case::another_resource("memory", None)]
    fn a_resource_names_a_size_of_pages_in_one_way(#[case] name: &str, #[case] cgroup: Option<&str>) {
        let size = page_size(name);
        assert_eq!(size.map(PageSize::cgroup_name).as_deref(), cgroup);
        if let Some(size) = size {
            assert_eq!(size.resource(), name);
        }
    }
}
