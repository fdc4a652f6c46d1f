//! What containers ask of their node beside CPU, memory and disk.

use rstest::rstest;

use super::{ResourceRequirements, after};

fn amounts(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let pairs = pairs
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned()));
    pairs.collect()
}

/// What is wrong with a container that asks for this.
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
