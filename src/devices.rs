//! Devices of a node that vendors describe in files (Container Device Interface, CDI 1.0), as containers ask for them.
//!
//! A container names each among its limits, `vendor.com/class=name: 1`: what Podman reads from the same manifests.

use crate::v1::Container;

/// Whether the name of a resource is that of a device. No other resource has a "=".
pub fn is_device(resource: &str) -> bool {
    resource.contains('=')
}

impl Container {
    /// The full names of the devices that it asks for.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        let limits = self
            .resources
            .iter()
            .flat_map(|resources| resources.limits.keys());
        limits.map(String::as_str).filter(|name| is_device(name))
    }
}
