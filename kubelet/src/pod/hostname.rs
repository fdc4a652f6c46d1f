//! What a pod is called, by itself and by others. Pure.

use clone8s::v1::PodSpec;

use crate::desired::DesiredPod;

/// The longest name that the kernel takes (uname(2), __NEW_UTS_LEN).
const MAX_BYTES: usize = 64;

/// The pod's name within its domain.
pub fn short(pod: &DesiredPod) -> &str {
    let spec = pod.spec();
    if !spec.hostname.is_empty() {
        return &spec.hostname;
    }
    let name = pod
        .pod
        .metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str());
    // A label's limit; a pod's name may be longer, and ends in letters or digits then too.
    let end = name.len().min(63);
    name[..end].trim_end_matches(['-', '.'])
}

/// The pod's name with its domain; None for a pod without a subdomain.
pub fn full(pod: &DesiredPod, cluster_domain: &str) -> Option<String> {
    let subdomain = &pod.spec().subdomain;
    let namespace = pod.key().namespace;
    (!subdomain.is_empty()).then(|| {
        let domain = format!("{subdomain}.{namespace}.svc.{cluster_domain}");
        format!("{}.{}", short(pod), domain.trim_end_matches('.'))
    })
}

/// Whether the pod's processes see its full name.
pub fn shows_full(spec: &PodSpec) -> bool {
    spec.set_hostname_as_fqdn == Some(true) && !spec.subdomain.is_empty()
}

/// The name that the pod's processes see.
pub fn seen(pod: &DesiredPod, cluster_domain: &str) -> Result<String, String> {
    let full = full(pod, cluster_domain).filter(|_| shows_full(pod.spec()));
    let Some(full) = full else {
        return Ok(short(pod).to_owned());
    };
    if full.len() > MAX_BYTES {
        return Err(format!(
            "setHostnameAsFQDN: {full:?} has {} characters, and the kernel takes {MAX_BYTES}: shorten hostname or \
             subdomain",
            full.len()
        ));
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rstest::rstest;

    use super::*;
    use crate::pod::testing::{container, pod};

    fn edited(name: &str, edit: impl FnOnce(&mut PodSpec)) -> DesiredPod {
        let mut pod = pod(name, vec![container("a", "a:1")]);
        edit(Arc::make_mut(&mut pod.pod).spec.get_or_insert_default());
        pod
    }

    #[test]
    fn a_long_name_makes_a_hostname_that_the_kernel_takes() {
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(60));
        assert_eq!(short(&edited(&long, |_| {})), "a".repeat(62));
    }

    #[rstest]
    #[case::its_name("", "", None, "web", None)]
    #[case::another("db", "", None, "db", None)]
    #[case::with_a_domain("db", "sub", None, "db", Some("db.sub.default.svc.cluster.local"))]
    #[case::seen_in_full(
        "",
        "sub",
        Some(true),
        "web.sub.default.svc.cluster.local",
        Some("web.sub.default.svc.cluster.local")
    )]
    #[case::without_a_domain_there_is_no_more("", "", Some(true), "web", None)]
    fn a_pod_is_called(
        #[case] hostname: &str,
        #[case] subdomain: &str,
        #[case] as_full: Option<bool>,
        #[case] expected: &str,
        #[case] expected_full: Option<&str>,
    ) {
        let pod = edited("web", |spec| {
            spec.hostname = hostname.into();
            spec.subdomain = subdomain.into();
            spec.set_hostname_as_fqdn = as_full;
        });
        assert_eq!(seen(&pod, "cluster.local").unwrap(), expected);
        assert_eq!(full(&pod, "cluster.local").as_deref(), expected_full);
    }

    #[test]
    fn a_full_name_that_the_kernel_does_not_take_is_an_error() {
        let pod = edited("web", |spec| {
            spec.subdomain = "s".repeat(40);
            spec.set_hostname_as_fqdn = Some(true);
        });
        let error = seen(&pod, "cluster.local").unwrap_err();
        assert!(error.contains("has 70 characters"), "{error}");
    }
}
