//! What of a container's OCI specification matters here.

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;

use crate::failure::{Failure, Result};

/// Whose value several containers of one pod share: the first that is there.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    annotations: HashMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<Namespace>,
    cgroups_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

impl Spec {
    pub(crate) fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let bytes = fs::read(&path).map_err(Failure::file("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|error| Failure::Invalid {
            field: "config.json",
            problem: error.to_string(),
        })
    }

    /// The pod that the container belongs to, if it says so.
    pub(crate) fn group(&self) -> Option<&str> {
        GROUPS
            .iter()
            .find_map(|name| self.annotations.get(*name))
            .map(String::as_str)
    }

    /// Whether the end of the container's first process is the end of all, by the kernel's hand.
    pub(crate) fn has_own_processes(&self) -> bool {
        self.linux
            .namespaces
            .iter()
            .any(|namespace| namespace.kind == "pid" && namespace.path.is_empty())
    }

    /// Its cgroup, absolute in each hierarchy; none where systemd or the OCI runtime chooses the place.
    pub(crate) fn cgroup(&self) -> Option<&str> {
        Some(self.linux.cgroups_path.as_str()).filter(|path| path.starts_with('/') && !path.contains(':'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_and_its_namespaces_are_found_in_the_specification() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"ociVersion": "1.0.2", "process": {"args": ["a"]},
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod", "x": "y"},
            "linux": {"cgroupsPath": "/pods/a", "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}]}}"#;
        fs::write(dir.path().join("config.json"), text).unwrap();
        let spec = Spec::read(dir.path()).unwrap();
        assert_eq!(spec.group(), Some("pod"));
        assert_eq!(spec.cgroup(), Some("/pods/a"));
        assert!(spec.has_own_processes());
    }

    #[test]
    fn processes_of_a_shared_or_missing_namespace_are_not_the_containers_own() {
        let shared = r#"{"linux": {"cgroupsPath": "system.slice:a:b", "namespaces": [{"type": "pid", "path": "/p"}]}}"#;
        let spec: Spec = serde_json::from_str(shared).unwrap();
        assert!(!spec.has_own_processes());
        assert_eq!((spec.cgroup(), spec.group()), (None, None));
        assert!(!serde_json::from_str::<Spec>("{}").unwrap().has_own_processes());
    }
}
