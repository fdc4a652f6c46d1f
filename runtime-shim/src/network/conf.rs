//! Network configuration lists (CNI specification 1.0, §1).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A network: its plugins in the order in which they add to a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkList {
    #[serde(rename = "cniVersion", default = "oldest_version")]
    cni_version: String,
    pub(super) name: String,
    pub(super) plugins: Vec<Plugin>,
}

/// One plugin's configuration; fields other than these are the plugin's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plugin {
    #[serde(rename = "type")]
    pub(super) program: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    capabilities: BTreeMap<String, bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Why there is no usable network configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfError {
    #[error("read CNI configuration {path}: {cause}", path = .path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("CNI configuration {path}: {problem}; correct or remove it", path = .path.display())]
    Parse { path: PathBuf, problem: String },
}

/// The version of a configuration that names none (CNI specification 0.1).
fn oldest_version() -> String {
    "0.1.0".into()
}

/// The first configuration of a folder in the order of file names, or none when the folder has none.
pub(super) fn load(dir: &Path) -> Result<Option<NetworkList>, ConfError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => {
            return Err(ConfError::Read {
                path: dir.to_owned(),
                cause,
            });
        }
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|ext| ["conflist", "conf", "json"].iter().any(|&e| ext == e))
        })
        .collect();
    files.sort();
    let Some(path) = files.into_iter().next() else {
        return Ok(None);
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) => return Err(ConfError::Read { path, cause }),
    };
    parse(&text)
        .map(Some)
        .map_err(|problem| ConfError::Parse { path, problem })
}

/// A list, or a single plugin's configuration, which is a list of one.
fn parse(text: &str) -> Result<NetworkList, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let value = if value.get("plugins").is_some() {
        value
    } else {
        json!({
            "cniVersion": value.get("cniVersion").cloned().unwrap_or_else(|| oldest_version().into()),
            "name": value.get("name").cloned().unwrap_or(Value::Null),
            "plugins": [value],
        })
    };
    let list: NetworkList = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if list.plugins.is_empty() {
        return Err("has no plugins".into());
    }
    for plugin in &list.plugins {
        if plugin.program.is_empty() || plugin.program.contains('/') {
            return Err(format!(
                "plugin type {:?} is not the name of a program",
                plugin.program
            ));
        }
    }
    Ok(list)
}

impl NetworkList {
    /// A bridge whose address is the pods' gateway, so that the host reaches its pods and they the world.
    pub(super) fn builtin(bridge: &str, pods: Ipv4Net, leases: &Path) -> Self {
        let plugin = |program: &str, capability: &str, rest: Value| Plugin {
            program: program.to_owned(),
            capabilities: [(capability.to_owned(), true)].into(),
            rest: match rest {
                Value::Object(fields) => fields,
                _ => Map::new(),
            },
        };
        let bridge_fields = json!({
            "bridge": bridge,
            "isGateway": true,
            "ipMasq": true,
            // A pod may reach itself by a host port.
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": pods.to_string()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": leases,
            },
        });
        Self {
            cni_version: "1.0.0".into(),
            name: format!("clone8s-{bridge}"),
            plugins: vec![
                plugin("bridge", "ips", bridge_fields),
                plugin("portmap", "portMappings", json!({"snat": true})),
            ],
        }
    }

    /// Without portmap where no port is mapped: it would be started only to do nothing.
    pub(super) fn fitted(mut self, maps_ports: bool) -> Self {
        if !maps_ports {
            self.plugins.retain(|plugin| plugin.program != "portmap");
        }
        self
    }

    pub(super) fn programs(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.program.as_str())
    }

    pub(super) fn has_capability(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.has(name))
    }

    /// What one plugin reads on standard input (CNI specification 1.0, §"Deriving execution configuration").
    pub(super) fn plugin_conf(
        &self,
        plugin: &Plugin,
        capabilities: &BTreeMap<String, Value>,
        previous: Option<&Value>,
    ) -> Value {
        let mut conf = plugin.rest.clone();
        conf.insert("type".into(), plugin.program.as_str().into());
        conf.insert("cniVersion".into(), self.cni_version.as_str().into());
        conf.insert("name".into(), self.name.as_str().into());
        let runtime: Map<_, _> = capabilities
            .iter()
            .filter(|(name, _)| plugin.has(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !runtime.is_empty() {
            conf.insert("runtimeConfig".into(), runtime.into());
        }
        if let Some(previous) = previous {
            conf.insert("prevResult".into(), previous.clone());
        }
        conf.into()
    }
}

impl Plugin {
    fn has(&self, capability: &str) -> bool {
        self.capabilities.get(capability).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builtin() -> NetworkList {
        NetworkList::builtin(
            "c8s0",
            "10.88.0.0/16".parse().unwrap(),
            Path::new("/var/lib/leases"),
        )
    }

    #[test]
    fn a_plugin_reads_only_the_capabilities_that_it_declares() {
        let list = builtin();
        let capabilities = BTreeMap::from([
            ("ips".to_owned(), json!(["10.88.0.9"])),
            ("portMappings".to_owned(), json!([{"hostPort": 80}])),
        ]);
        let bridge = list.plugin_conf(&list.plugins[0], &capabilities, None);
        assert_eq!(bridge["runtimeConfig"], json!({"ips": ["10.88.0.9"]}));
        assert_eq!(bridge["ipam"]["ranges"], json!([[{"subnet": "10.88.0.0/16"}]]));
        let portmap = list.plugin_conf(&list.plugins[1], &capabilities, Some(&json!({"ips": []})));
        assert_eq!(
            portmap["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 80}]})
        );
        assert_eq!(portmap["prevResult"], json!({"ips": []}));
        assert_eq!(portmap["cniVersion"], "1.0.0");
    }

    #[test]
    fn portmap_is_left_out_where_no_port_is_mapped() {
        assert_eq!(builtin().fitted(false).programs().collect::<Vec<_>>(), ["bridge"]);
        assert_eq!(
            builtin().fitted(true).programs().collect::<Vec<_>>(),
            ["bridge", "portmap"]
        );
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list =
            parse(r#"{"cniVersion": "0.4.0", "name": "lan", "type": "macvlan", "master": "eth1"}"#).unwrap();
        let conf = list.plugin_conf(&list.plugins[0], &BTreeMap::new(), None);
        assert_eq!(
            conf,
            json!({"cniVersion": "0.4.0", "name": "lan", "type": "macvlan", "master": "eth1"})
        );
    }

    #[test]
    fn a_list_survives_being_stored() {
        let stored = serde_json::to_string(&builtin()).unwrap();
        assert_eq!(serde_json::from_str::<NetworkList>(&stored).unwrap(), builtin());
    }

    #[test]
    fn the_first_configuration_by_name_is_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("20-late.conf"),
            r#"{"name": "late", "type": "bridge"}"#,
        )
        .unwrap();
        fs::write(
            dir.path().join("10-early.conflist"),
            r#"{"name": "early", "plugins": [{"type": "ptp"}]}"#,
        )
        .unwrap();
        fs::write(dir.path().join("00-notes.txt"), "not a configuration").unwrap();
        assert_eq!(load(dir.path()).unwrap().unwrap().name, "early");
    }

    #[test]
    fn no_configuration_is_not_an_error_but_a_broken_one_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(&dir.path().join("absent")).unwrap(), None);
        assert_eq!(load(dir.path()).unwrap(), None);
        let path = dir.path().join("10-broken.conflist");
        for (text, problem) in [
            ("{", "not JSON"),
            (r#"{"name": "x", "plugins": []}"#, "has no plugins"),
            (
                r#"{"name": "x", "plugins": [{"type": "../../bin/sh"}]}"#,
                "not the name of a program",
            ),
            (r#"{"type": "bridge"}"#, "invalid type: null"),
        ] {
            fs::write(&path, text).unwrap();
            let error = load(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains("10-broken.conflist") && error.contains(problem),
                "{text}: {error}"
            );
        }
    }
}
