//! What containers ask of their node beside CPU, memory and disk.

use rstest::rstest;

use super::{ResourceRequirements, Source, Volume, after};
use crate::v1::EmptyDirVolumeSource;

fn amounts(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let pairs = pairs
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned()));
    pairs.collect()
}

/// What is wrong with a container that asks for this.
#[test]
fn a_limit_that_is_no_amount_is_told_once() {
    let found = asking(&[("memory", "64MB")], &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("spec.containers[0].resources.limits[memory]: \"64MB\" has an unknown unit"),
        "{found:?}"
    );
}

fn asking(limits: &[(&str, &str)], requests: &[(&str, &str)]) -> Vec<String> {
    after(|spec| {
        spec.containers[0].resources = Some(ResourceRequirements {
            limits: amounts(limits),
            requests: amounts(requests),
        });
    })
}

#[rstest]
#[case::two("vendor.com/gpu=0", "2", "must be \"1\", but is \"2\"")]
#[case::no_amount("vendor.com/gpu=0", "all", "must be \"1\", but is \"all\"")]
#[case::no_class("vendor.com=0", "1", "must be a device such as \"vendor.com/class=name\"")]
#[case::no_vendor("/gpu=0", "1", "the vendor \"\" must consist of")]
#[case::a_number_as_class("vendor.com/9=0", "1", "the class \"9\" must consist of")]
#[case::no_device("vendor.com/gpu=", "1", "the device \"\" must consist of")]
#[case::a_path("vendor.com/gpu=../x", "1", "the device \"../x\" must consist of")]
fn what_is_no_device_is_refused_by_its_path(#[case] name: &str, #[case] amount: &str, #[case] problem: &str) {
    let found = asking(&[(name, amount)], &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    let path = format!("spec.containers[0].resources.limits[{name}]: ");
    let described = found[0].strip_prefix(&path);
    assert!(
        described.is_some_and(|text| text.starts_with(problem)),
        "{found:?}"
    );
}

#[test]
fn a_device_is_named_among_the_limits_alone() {
    let device = [("vendor.com/gpu=0:1", "1")];
    assert_eq!(asking(&device, &[]), [] as [&str; 0]);
    let found = asking(&[], &device);
    assert_eq!(
        found,
        [
            "spec.containers[0].resources.requests[vendor.com/gpu=0:1]: a device is named among the limits alone"
        ]
    );
}

#[test]
fn devices_are_at_most_as_many_as_a_container_can_need() {
    let names: Vec<_> = (0..33).map(|number| format!("vendor.com/gpu={number}")).collect();
    let devices: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(asking(&devices[..32], &[]), [] as [&str; 0]);
    let found = asking(&devices, &[]);
    assert!(found[0].contains("at most 32 devices, but names 33"), "{found:?}");
}

const PAGES: &str = "hugepages-2Mi";

#[rstest]
#[case::limit_alone(&[(PAGES, "4Mi"), ("memory", "1Mi")], &[], &[])]
#[case::two_sizes(&[(PAGES, "4Mi"), ("hugepages-1Gi", "0"), ("cpu", "1")], &[], &[])]
#[case::with_a_request_of_cpu(&[(PAGES, "4Mi")], &[("cpu", "1")], &[])]
#[case::alone(&[(PAGES, "4Mi")], &[], &["limits[hugepages-2Mi]: needs cpu or memory beside it"])]
#[case::half_a_page(&[(PAGES, "3Mi"), ("cpu", "1")], &[(PAGES, "3Mi")], &[
    "limits[hugepages-2Mi]: must be a whole number of pages of 2Mi, but is \"3Mi\"",
    "requests[hugepages-2Mi]: must be a whole number of pages of 2Mi, but is \"3Mi\"",
])]
#[case::less(&[(PAGES, "4Mi"), ("cpu", "1")], &[(PAGES, "2Mi")],
    &["requests[hugepages-2Mi]: must equal the limit (4Mi), but is \"2Mi\""])]
#[case::no_limit(&[("cpu", "1")], &[(PAGES, "2Mi")],
    &["requests[hugepages-2Mi]: must be among the limits too, with the same amount"])]
#[case::no_size(&[("hugepages-3Mi", "3Mi"), ("cpu", "1")], &[("hugepages-3Mi", "3Mi")], &[
    "limits[hugepages-3Mi]: must name a size of pages, a power of two in the largest unit that fits, such as \"hugepages-2Mi\"",
    "requests[hugepages-3Mi]: must name a size of pages, a power of two in the largest unit that fits, such as \"hugepages-2Mi\"",
])]
fn huge_pages_are_asked_for_as_in_kubernetes(
    #[case] limits: &[(&str, &str)],
    #[case] requests: &[(&str, &str)],
    #[case] expected: &[&str],
) {
    let found = asking(limits, requests);
    let expected: Vec<_> = expected
        .iter()
        .map(|text| format!("spec.containers[0].resources.{text}"))
        .collect();
    assert_eq!(found, expected);
}

#[rstest]
#[case::the_only_size("HugePages", &[(PAGES, "2Mi")], None)]
#[case::by_its_name("HugePages-2Mi", &[(PAGES, "2Mi"), ("hugepages-1Gi", "1Gi")], None)]
#[case::of_two("HugePages", &[(PAGES, "2Mi"), ("hugepages-1Gi", "1Gi")],
    Some("must say of which of the pod's sizes it is, such as \"HugePages-2Mi\", but is \"HugePages\""))]
#[case::of_none("HugePages", &[],
    Some("is \"HugePages\", but no container has huge pages among its limits, such as hugepages-2Mi"))]
#[case::of_no_pages("HugePages", &[(PAGES, "0")],
    Some("is \"HugePages\", but no container has huge pages among its limits, such as hugepages-2Mi"))]
#[case::of_another("HugePages-1Gi", &[(PAGES, "2Mi")],
    Some("is \"HugePages-1Gi\", but no container has hugepages-1Gi among its limits"))]
#[case::no_size("HugePages-big", &[(PAGES, "2Mi")],
    Some("must name a size of pages such as \"HugePages-2Mi\", but is \"HugePages-big\""))]
#[case::a_typo("Hugepages", &[(PAGES, "2Mi")],
    Some("must be \"Memory\" or \"HugePages\", but is \"Hugepages\"; did you mean \"HugePages\"?"))]
fn a_volume_of_huge_pages_is_of_a_size_that_the_pod_has(
    #[case] medium: &str,
    #[case] pages: &[(&str, &str)],
    #[case] problem: Option<&str>,
) {
    let found = after(|spec| {
        let mut limits = amounts(pages);
        limits.insert("cpu".to_owned(), "1".to_owned());
        spec.containers[0].resources = Some(ResourceRequirements {
            limits,
            ..ResourceRequirements::default()
        });
        spec.volumes = vec![Volume {
            name: "pages".to_owned(),
            source: Some(Source::EmptyDir(EmptyDirVolumeSource {
                medium: medium.to_owned(),
                ..EmptyDirVolumeSource::default()
            })),
        }];
    });
    let expected: Vec<_> = problem
        .iter()
        .map(|text| format!("spec.volumes[0].emptyDir.medium: {text}"))
        .collect();
    assert_eq!(found, expected);
}
