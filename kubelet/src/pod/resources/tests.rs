use rstest::rstest;

use super::*;

const GIB: i64 = 1 << 30;

fn asking(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
    let amounts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned()))
            .collect()
    };
    Container {
        resources: Some(ResourceRequirements {
            limits: amounts(limits),
            requests: amounts(requests),
        }),
        ..Default::default()
    }
}

#[rstest]
#[case::nothing(&[], &[], "2 - -")]
#[case::all(&[("cpu", "500m")], &[("cpu", "1"), ("memory", "64Mi")], "512 100000 67108864")]
fn an_allocation_is_the_same_as_text_and_as_the_runtime_tells_it(
    #[case] requests: &[(&str, &str)],
    #[case] limits: &[(&str, &str)],
    #[case] text: &str,
) {
    let container = asking(requests, limits);
    let wanted = Allocation::wanted(&container).unwrap();
    assert_eq!(wanted.to_string(), text);
    assert_eq!(Allocation::parse(text), Some(wanted));
    assert_eq!(Allocation::told(&limits_of(&container)), wanted);
    assert_eq!(Allocation::told(&wanted.to_change()), wanted);
}

#[rstest]
#[case("")]
#[case("- - -")]
#[case("2 1")]
#[case("2 one -")]
fn what_is_no_allocation_is_none(#[case] text: &str) {
    assert_eq!(Allocation::parse(text), None);
}

fn limits_of(container: &Container) -> LinuxContainerResources {
    let spec = PodSpec {
        containers: vec![container.clone()],
        ..Default::default()
    };
    limits(&spec, container, 4 * GIB, &[]).unwrap()
}

#[rstest]
#[case::nothing(&[], &[], QosClass::BestEffort)]
#[case::zero(&[("cpu", "0")], &[], QosClass::BestEffort)]
#[case::limits(&[], &[("cpu", "1"), ("memory", "1Gi")], QosClass::Guaranteed)]
#[case::equal(&[("cpu", "1000m")], &[("cpu", "1"), ("memory", "1Gi")], QosClass::Guaranteed)]
#[case::less(&[("cpu", "1")], &[("cpu", "2"), ("memory", "1Gi")], QosClass::Burstable)]
#[case::memory_alone(&[], &[("memory", "1Gi")], QosClass::Burstable)]
fn a_pod_is_of_the_class_of_what_its_containers_ask_for(
    #[case] requests: &[(&str, &str)],
    #[case] limits: &[(&str, &str)],
    #[case] class: QosClass,
) {
    let mut spec = PodSpec {
        containers: vec![asking(requests, limits)],
        ..Default::default()
    };
    assert_eq!(QosClass::of(&spec), Ok(class));
    if class != QosClass::BestEffort {
        spec.containers.push(Container::default());
        assert_eq!(QosClass::of(&spec), Ok(QosClass::Burstable));
    }
}

#[test]
fn what_a_container_is_held_to_may_differ_from_what_it_asks_for() {
    let container = asking(
        &[("cpu", "50m"), ("memory", "1Mi")],
        &[("cpu", "100m"), ("memory", "2Mi")],
    );
    let wanted = Allocation::wanted(&container).unwrap();
    assert_eq!(in_effect(&container, wanted), container.resources);
    let other = asking(&[("cpu", "30m")], &[("memory", "3Mi")]);
    let has = Allocation::wanted(&other).unwrap();
    let told = in_effect(&container, has).unwrap();
    let amount = |text: &str| text.to_owned();
    assert_eq!(told.limits, [("memory".to_owned(), amount("3Mi"))].into());
    let requests = [
        ("cpu".to_owned(), amount("30m")),
        ("memory".to_owned(), amount("1Mi")),
    ];
    assert_eq!(told.requests, requests.into());
}

fn of_pod(containers: &[(&str, Container)], has: &BTreeMap<String, Allocation>) -> (i64, i64, i64) {
    let containers = containers.iter().map(|(name, container)| Container {
        name: (*name).to_owned(),
        ..container.clone()
    });
    let (init_containers, containers) = containers.partition(|container| container.name == "init");
    let spec = PodSpec {
        init_containers,
        containers,
        ..Default::default()
    };
    let limits = pod_limits(&spec, has, &[]).unwrap();
    (limits.cpu_shares, limits.cpu_quota, limits.memory)
}

#[test]
fn a_pod_is_held_to_the_sum_of_limits_where_every_container_has_one() {
    let none = BTreeMap::new();
    let a = asking(&[("cpu", "500m")], &[("cpu", "1"), ("memory", "1Gi")]);
    let b = asking(&[], &[("memory", "2Gi")]);
    let init = asking(&[], &[("cpu", "2"), ("memory", "5Gi")]);
    assert_eq!(of_pod(&[("a", a.clone())], &none), (512, 100_000, GIB));
    let both = [("a", a), ("b", b)];
    assert_eq!(of_pod(&both, &none), (512, -1, 3 * GIB));
    let [a, b] = both;
    assert_eq!(of_pod(&[a, b, ("init", init)], &none), (2_048, -1, 5 * GIB));
    assert_eq!(of_pod(&[("a", Container::default())], &none), (2, -1, -1));
}

#[test]
fn huge_pages_are_those_that_are_asked_for_and_of_the_nodes_other_sizes_none() {
    let node = [1 << 30, 2 << 20].map(|bytes| PageSize::new(bytes).unwrap());
    let pages = |amount: &str| asking(&[], &[("cpu", "1"), ("hugepages-2Mi", amount)]);
    let container = pages("6Mi");
    let spec = PodSpec {
        init_containers: vec![pages("20Mi")],
        containers: vec![container.clone(), pages("8Mi"), Container::default()],
        ..Default::default()
    };
    let told = |container: &Container| {
        let limits = limits(&spec, container, 4 * GIB, &node).unwrap().hugepage_limits;
        limits
            .into_iter()
            .map(|limit| (limit.page_size, limit.limit))
            .collect::<Vec<_>>()
    };
    let of = |two: u64| vec![("2MB".to_owned(), two), ("1GB".to_owned(), 0)];
    assert_eq!(told(&container), of(6 << 20));
    assert_eq!(told(&Container::default()), of(0));
    let of_pod = pod_limits(&spec, &BTreeMap::new(), &node).unwrap().huge_pages;
    assert_eq!(of_pod, of(20 << 20).into_iter().collect());
    // A size that the node does not have is the runtime's to refuse.
    let other = asking(&[], &[("cpu", "1"), ("hugepages-64Ki", "64Ki")]);
    let told = limits(&spec, &other, 4 * GIB, &[]).unwrap().hugepage_limits;
    assert_eq!((told[0].page_size.as_str(), told[0].limit), ("64KB", 64 << 10));
}

#[test]
fn a_pod_is_held_to_no_less_than_its_containers_still_have() {
    let wanted = asking(&[], &[("cpu", "1"), ("memory", "1Gi")]);
    let before = asking(&[], &[("cpu", "2"), ("memory", "512Mi")]);
    let has = [("a".to_owned(), Allocation::wanted(&before).unwrap())].into();
    assert_eq!(of_pod(&[("a", wanted.clone())], &has), (1_024, 200_000, GIB));
    let free = [("a".to_owned(), Allocation::wanted(&Container::default()).unwrap())].into();
    assert_eq!(of_pod(&[("a", wanted)], &free), (1_024, -1, -1));
}

#[rstest]
#[case::nothing(&[], &[], (2, 0, 0, 0, 1_000))]
#[case::guaranteed(&[("cpu", "1"), ("memory", "64Mi")], &[("cpu", "1"), ("memory", "64Mi")],
    (1_024, 100_000, 100_000, 64 << 20, -997))]
#[case::limits_alone_are_requests(&[], &[("cpu", "250m"), ("memory", "1Gi")], (256, 25_000, 100_000, GIB, -997))]
#[case::burstable(&[("cpu", "500m"), ("memory", "1Gi")], &[], (512, 0, 0, 0, 750))]
#[case::tiny(&[], &[("cpu", "1m")], (2, 1_000, 100_000, 0, 999))]
fn quantities_become_cgroup_values(
    #[case] requests: &[(&str, &str)],
    #[case] limits: &[(&str, &str)],
    #[case] expected: (i64, i64, i64, i64, i64),
) {
    let found = limits_of(&asking(requests, limits));
    let values = (
        found.cpu_shares,
        found.cpu_quota,
        found.cpu_period,
        found.memory_limit_in_bytes,
        found.oom_score_adj,
    );
    assert_eq!(values, expected);
}
