//! What does not change while the machine is up.

use std::{env::consts, fs, net::IpAddr};

use clone8s::v1::{NodeAddress, NodeSystemInfo, ObjectMeta};

/// The machine and its system.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) hostname: String,
    pub(super) address: Option<IpAddr>,
    pub(super) machine_id: String,
    pub(super) boot_id: String,
    pub(super) kernel: String,
    pub(super) os_image: String,
}

impl Facts {
    /// What cannot be read stays empty.
    pub(super) fn read() -> Self {
        Self {
            hostname: line("/proc/sys/kernel/hostname"),
            address: Some(crate::address::host_ip()),
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: pretty_name(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        }
    }

    pub(super) fn addresses(&self, name: &str) -> Vec<NodeAddress> {
        let address = |kind: &str, address: String| NodeAddress {
            r#type: kind.to_owned(),
            address,
        };
        let hostname = if self.hostname.is_empty() {
            name
        } else {
            &self.hostname
        };
        self.address
            .map(|ip| address("InternalIP", ip.to_string()))
            .into_iter()
            .chain([address("Hostname", hostname.to_owned())])
            .collect()
    }

    pub(super) fn system_info(&self, runtime: &str) -> NodeSystemInfo {
        NodeSystemInfo {
            machine_id: self.machine_id.clone(),
            boot_id: self.boot_id.clone(),
            kernel_version: self.kernel.clone(),
            os_image: self.os_image.clone(),
            container_runtime_version: runtime.to_owned(),
            kubelet_version: format!("v{}", env!("CARGO_PKG_VERSION")),
            operating_system: consts::OS.to_owned(),
            architecture: architecture().to_owned(),
        }
    }
}

/// A Node's name, and the labels that its node keeps right, whatever else its labels say.
pub(super) fn metadata(name: &str) -> ObjectMeta {
    let labels = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", consts::OS),
        ("kubernetes.io/arch", architecture()),
    ];
    ObjectMeta {
        name: name.to_owned(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..ObjectMeta::default()
    }
}

/// As container images name it.
fn architecture() -> &'static str {
    match consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// os-release(5).
fn pretty_name(text: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches(['"', '\''])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_name_is_read_without_its_quotes() {
        assert_eq!(pretty_name("ID=debian\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(pretty_name(""), "Linux");
    }

    #[test]
    fn this_machine_has_a_kernel_a_boot_and_an_address() {
        let facts = Facts::read();
        assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty());
        assert_eq!(facts.addresses("node-1").len(), 2);
    }
}
