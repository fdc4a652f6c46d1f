//! CRI's list filters: everything that a filter names must match.

use std::collections::BTreeMap;

use clone8s::cri;

/// Whether an id is the filter's, or begins so; an empty filter matches all.
fn id_matches(id: &str, wanted: &str) -> bool {
    id.starts_with(wanted)
}

fn labels_match(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(crate) fn sandbox(filter: &cri::PodSandboxFilter, sandbox: &cri::PodSandbox) -> bool {
    id_matches(&sandbox.id, &filter.id)
        && filter
            .state
            .as_ref()
            .is_none_or(|wanted| wanted.state == sandbox.state)
        && labels_match(&sandbox.labels, &filter.label_selector)
}

pub(crate) fn container(filter: &cri::ContainerFilter, container: &cri::Container) -> bool {
    id_matches(&container.id, &filter.id)
        && id_matches(&container.pod_sandbox_id, &filter.pod_sandbox_id)
        && filter
            .state
            .as_ref()
            .is_none_or(|wanted| wanted.state == container.state)
        && labels_match(&container.labels, &filter.label_selector)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[rstest]
    #[case::everything("", None, "", true)]
    #[case::its_id("abc123", None, "", true)]
    #[case::a_beginning_of_its_id("abc", None, "", true)]
    #[case::another_id("abd", None, "", false)]
    #[case::its_state("", Some(0), "", true)]
    #[case::another_state("", Some(1), "", false)]
    #[case::some_of_its_labels("", None, "app=web", true)]
    #[case::another_value("", None, "app=db", false)]
    #[case::a_label_that_it_has_not("", None, "app=web,tier=front", false)]
    #[case::all_must_match("abc", Some(1), "app=web", false)]
    fn a_sandbox_matches(
        #[case] id: &str,
        #[case] state: Option<i32>,
        #[case] selector: &str,
        #[case] expected: bool,
    ) {
        let item = cri::PodSandbox {
            id: "abc123".into(),
            labels: labels("app=web,x=y"),
            ..Default::default()
        };
        let filter = cri::PodSandboxFilter {
            id: id.into(),
            state: state.map(|state| cri::PodSandboxStateValue { state }),
            label_selector: labels(selector),
        };
        assert_eq!(sandbox(&filter, &item), expected);
    }

    #[test]
    fn a_container_matches_by_its_sandbox_too() {
        let item = cri::Container {
            id: "c1".into(),
            pod_sandbox_id: "s1".into(),
            ..Default::default()
        };
        let of = |sandbox: &str| cri::ContainerFilter {
            pod_sandbox_id: sandbox.into(),
            ..Default::default()
        };
        assert!(container(&of("s1"), &item));
        assert!(!container(&of("s2"), &item));
        assert!(container(&of(""), &item));
    }
}
