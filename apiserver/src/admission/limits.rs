//! Limit ranges: what containers get where they ask for nothing, and what they and their pod may ask for.

use std::{collections::BTreeMap, convert::Infallible};

use clone8s::{
    quantity::Quantity,
    rules::Violation,
    v1::{Container, LimitRangeItem, Pod, ResourceRequirements},
};

/// Amounts by resource name.
type Amounts = BTreeMap<String, Quantity>;

pub(super) fn set_defaults(pod: &mut Pod, items: &[LimitRangeItem]) {
    let containers = pod
        .spec
        .iter_mut()
        .flat_map(|spec| spec.init_containers.iter_mut().chain(&mut spec.containers));
    for container in containers {
        for item in items.iter().filter(|item| item.r#type == "Container") {
            if item.default.is_empty() && item.default_request.is_empty() {
                continue;
            }
            let resources = container.resources.get_or_insert_default();
            for (resource, amount) in &item.default {
                resources
                    .limits
                    .entry(resource.clone())
                    .or_insert_with(|| amount.clone());
            }
            for (resource, amount) in &item.default_request {
                resources
                    .requests
                    .entry(resource.clone())
                    .or_insert_with(|| amount.clone());
            }
        }
    }
}

pub(super) fn check(pod: &Pod, items: &[LimitRangeItem]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let spec = pod.spec.clone().unwrap_or_default();
    for (list, containers) in [
        ("initContainers", &spec.init_containers),
        ("containers", &spec.containers),
    ] {
        for (index, container) in containers.iter().enumerate() {
            let (limits, requests) = asked(container);
            let path = format!("spec.{list}[{index}].resources");
            for item in items.iter().filter(|item| item.r#type == "Container") {
                violations.extend(check_item(&path, item, &limits, &requests));
            }
        }
    }
    let total = spec.most_at_once(
        |container| Ok::<_, Infallible>(asked(container)),
        |total, more| {
            add(&mut total.0, more.0);
            add(&mut total.1, more.1);
        },
        |most, other| {
            raise(&mut most.0, other.0);
            raise(&mut most.1, other.1);
        },
    );
    let Ok(total) = total;
    for item in items.iter().filter(|item| item.r#type == "Pod") {
        violations.extend(check_item("spec.containers", item, &total.0, &total.1));
    }
    violations
}

fn check_item(path: &str, item: &LimitRangeItem, limits: &Amounts, requests: &Amounts) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut wrong = |resource: &str, description: String| {
        violations.push(Violation {
            field: path.to_owned(),
            description: format!("{resource}: {description}"),
        });
    };
    for (resource, max) in amounts(&item.max) {
        match limits.get(&resource) {
            None => wrong(
                &resource,
                format!("must have a limit of at most {max}, as the namespace's limit range asks"),
            ),
            Some(limit) if *limit > max => {
                wrong(
                    &resource,
                    format!("the limit must be at most {max}, but is {limit}"),
                );
            }
            Some(_) => {}
        }
    }
    for (resource, min) in amounts(&item.min) {
        match requests.get(&resource) {
            None => wrong(
                &resource,
                format!("must have a request of at least {min}, as the namespace's limit range asks"),
            ),
            Some(request) if *request < min => {
                wrong(
                    &resource,
                    format!("the request must be at least {min}, but is {request}"),
                );
            }
            Some(_) => {}
        }
    }
    for (resource, ratio) in amounts(&item.max_limit_request_ratio) {
        let within = match (limits.get(&resource), requests.get(&resource)) {
            (Some(limit), Some(request)) => limit.is_at_most(*request, ratio),
            _ => false,
        };
        if !within {
            wrong(
                &resource,
                format!("must have a limit of at most {ratio} times its request"),
            );
        }
    }
    violations
}

/// A container's limits and requests.
fn asked(container: &Container) -> (Amounts, Amounts) {
    let none = ResourceRequirements::default();
    let resources = container.resources.as_ref().unwrap_or(&none);
    (amounts(&resources.limits), amounts(&resources.requests))
}

/// What is not a quantity is told of by the pod's own rules.
fn amounts(texts: &BTreeMap<String, String>) -> Amounts {
    let parsed = texts
        .iter()
        .map(|(resource, text)| Some((resource.clone(), text.parse().ok()?)));
    parsed.flatten().collect()
}

fn add(total: &mut Amounts, more: Amounts) {
    for (resource, amount) in more {
        let sum = total.entry(resource).or_insert(Quantity::ZERO);
        *sum = *sum + amount;
    }
}

fn raise(most: &mut Amounts, other: Amounts) {
    for (resource, amount) in other {
        let known = most.entry(resource).or_insert(Quantity::ZERO);
        *known = amount.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use clone8s::v1::PodSpec;

    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    type Texts<'a> = &'a [(&'a str, &'a str)];

    /// Of containers with these limits and requests.
    fn pod(containers: &[(Texts<'_>, Texts<'_>)]) -> Pod {
        let containers = containers.iter().map(|(limits, requests)| Container {
            resources: Some(ResourceRequirements {
                limits: texts(limits),
                requests: texts(requests),
            }),
            ..Container::default()
        });
        Pod {
            spec: Some(PodSpec {
                containers: containers.collect(),
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    fn item(kind: &str) -> LimitRangeItem {
        LimitRangeItem {
            r#type: kind.into(),
            ..LimitRangeItem::default()
        }
    }

    fn fields(violations: &[Violation]) -> Vec<&str> {
        violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect()
    }

    #[test]
    fn a_container_that_asks_for_nothing_gets_the_defaults_and_another_keeps_its_own() {
        let items = [LimitRangeItem {
            default: texts(&[("cpu", "1")]),
            default_request: texts(&[("cpu", "100m"), ("memory", "64Mi")]),
            ..item("Container")
        }];
        let mut pod = pod(&[(&[], &[]), (&[("cpu", "2")], &[("cpu", "2")])]);
        set_defaults(&mut pod, &items);
        let resources = |index: usize| {
            pod.spec.as_ref().unwrap().containers[index]
                .resources
                .clone()
                .unwrap()
        };
        assert_eq!(resources(0).limits, texts(&[("cpu", "1")]));
        assert_eq!(
            resources(0).requests,
            texts(&[("cpu", "100m"), ("memory", "64Mi")])
        );
        assert_eq!(resources(1).limits, texts(&[("cpu", "2")]));
        assert_eq!(resources(1).requests, texts(&[("cpu", "2"), ("memory", "64Mi")]));
    }

    #[test]
    fn each_container_and_the_pod_as_a_whole_are_held_to_their_ranges() {
        let container = LimitRangeItem {
            max: texts(&[("cpu", "1")]),
            min: texts(&[("cpu", "100m")]),
            max_limit_request_ratio: texts(&[("cpu", "4")]),
            ..item("Container")
        };
        let whole = LimitRangeItem {
            max: texts(&[("cpu", "1500m")]),
            ..item("Pod")
        };
        let fits = pod(&[(&[("cpu", "1")], &[("cpu", "250m")])]);
        assert_eq!(check(&fits, &[container.clone(), whole.clone()]), []);
        let too_much = pod(&[(&[("cpu", "2")], &[("cpu", "1")])]);
        assert_eq!(
            fields(&check(&too_much, std::slice::from_ref(&container))),
            ["spec.containers[0].resources"]
        );
        let too_little = pod(&[(&[("cpu", "100m")], &[("cpu", "50m")])]);
        assert_eq!(
            fields(&check(&too_little, std::slice::from_ref(&container))),
            ["spec.containers[0].resources"]
        );
        let too_steep = pod(&[(&[("cpu", "1")], &[("cpu", "200m")])]);
        assert_eq!(
            fields(&check(&too_steep, std::slice::from_ref(&container))),
            ["spec.containers[0].resources"]
        );
        let together = pod(&[
            (&[("cpu", "1")], &[("cpu", "1")]),
            (&[("cpu", "1")], &[("cpu", "1")]),
        ]);
        assert_eq!(
            fields(&check(&together, std::slice::from_ref(&whole))),
            ["spec.containers"]
        );
    }
    #[test]
    fn init_containers_are_held_to_ranges_and_count_for_the_pod_as_they_run() {
        let mut pod = pod(&[(&[("cpu", "1")], &[])]);
        let container = |cpu: &str, restart_policy: &str| Container {
            restart_policy: restart_policy.into(),
            resources: Some(ResourceRequirements {
                limits: texts(&[("cpu", cpu)]),
                ..ResourceRequirements::default()
            }),
            ..Container::default()
        };
        let spec = pod.spec.as_mut().unwrap();
        spec.init_containers = vec![container("2", ""), container("1", "Always")];
        let at_most = |kind: &str, cpu: &str| LimitRangeItem {
            max: texts(&[("cpu", cpu)]),
            ..item(kind)
        };
        assert_eq!(check(&pod, &[at_most("Pod", "2"), at_most("Container", "2")]), []);
        let found = check(&pod, &[at_most("Pod", "1500m"), at_most("Container", "1")]);
        assert_eq!(
            fields(&found),
            ["spec.initContainers[0].resources", "spec.containers"]
        );

        set_defaults(
            &mut pod,
            &[LimitRangeItem {
                default_request: texts(&[("memory", "64Mi")]),
                ..item("Container")
            }],
        );
        let first = &pod.spec.unwrap().init_containers[0];
        assert_eq!(
            first.resources.as_ref().unwrap().requests,
            texts(&[("memory", "64Mi")])
        );
    }
}
