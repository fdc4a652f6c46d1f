//! Network configuration lists (CNI specification 1.1, §1).

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Version;

/// A configuration is written by a person; more is a mistake, and is read at each pod's start.
const MOST_BYTES: u64 = 1 << 20;

/// A network: its plugins in the order in which they add to a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::network) struct NetworkList {
    #[serde(rename = "cniVersion", default = "unnamed")]
    version: Version,
    name: String,
    #[serde(rename = "disableCheck", default, skip_serializing_if = "is_false")]
    disable_check: bool,
    #[serde(rename = "disableGC", default, skip_serializing_if = "is_false")]
    disable_gc: bool,
    plugins: Vec<Plugin>,
}

/// One plugin's configuration; fields other than these are the plugin's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plugin {
    #[serde(rename = "type")]
    program: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    capabilities: BTreeMap<String, bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The configuration in force.
#[derive(Debug)]
pub(in crate::network) struct Configured {
    pub(in crate::network) list: NetworkList,
    /// Files before it that are none.
    broken: Vec<ConfError>,
}

/// Why there is no usable network configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfError {
    #[error("read CNI configuration {path}: {cause}", path = .path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("CNI configuration {path}: {problem}; correct or remove it", path = .path.display())]
    Parse { path: PathBuf, problem: String },
    #[error("{}", listed(.0))]
    AllBroken(Vec<Self>),
}

fn listed(errors: &[ConfError]) -> String {
    errors.iter().fold(String::new(), |mut list, error| {
        let separator = if list.is_empty() { "" } else { ". " };
        let _ = write!(list, "{separator}{error}");
        list
    })
}

fn unnamed() -> Version {
    Version::UNNAMED
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Configured {
    /// The files that were passed over, and why; empty for none.
    pub(in crate::network) fn passed_over(&self) -> String {
        match listed(&self.broken) {
            list if list.is_empty() => list,
            list => format!("passed over: {list}"),
        }
    }
}

/// The first configuration of a folder, in the order of file names, that is one; none when the folder has no file.
pub(super) fn load(dir: &Path) -> Result<Option<Configured>, ConfError> {
    let mut broken = Vec::new();
    for path in files(dir, &["conflist", "conf", "json"])? {
        match read(&path) {
            Ok(list) => return Ok(Some(Configured { list, broken })),
            Err(error) => broken.push(error),
        }
    }
    if broken.is_empty() {
        Ok(None)
    } else {
        Err(ConfError::AllBroken(broken))
    }
}

fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, ConfError> {
    let cannot_read = |cause| ConfError::Read {
        path: dir.to_owned(),
        cause,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(cannot_read(cause)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(cannot_read)?.path();
        let matches = path
            .extension()
            .is_some_and(|ext| extensions.iter().any(|&e| ext == e));
        if matches && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<NetworkList, ConfError> {
    let wrong = |problem| ConfError::Parse {
        path: path.to_owned(),
        problem,
    };
    let cannot_read = |cause| ConfError::Read {
        path: path.to_owned(),
        cause,
    };
    if fs::metadata(path).map_err(cannot_read)?.len() > MOST_BYTES {
        return Err(wrong(format!("larger than {MOST_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(cannot_read)?;
    let (mut list, only_inlined) = parse(&text).map_err(wrong)?;
    // First of all: the name is also that of a folder.
    validate_name(&list.name).map_err(wrong)?;
    if !only_inlined {
        // CNI 1.1: further plugins from files in a folder of the network's name.
        let folder = path.parent().unwrap_or(Path::new("")).join(&list.name);
        for file in files(&folder, &["conf"])? {
            list.plugins.push(read_plugin(&file)?);
        }
    }
    validate(&list).map_err(wrong)?;
    Ok(list)
}

fn read_plugin(path: &Path) -> Result<Plugin, ConfError> {
    let text = fs::read_to_string(path).map_err(|cause| ConfError::Read {
        path: path.to_owned(),
        cause,
    })?;
    serde_json::from_str(&text).map_err(|error| ConfError::Parse {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

/// A list, or a single plugin's configuration, which is a list of one; and whether it is all there is.
fn parse(text: &str) -> Result<(NetworkList, bool), String> {
    let mut value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    if !value.is_object() {
        return Err("not a JSON object".into());
    }
    let versions = value
        .as_object_mut()
        .and_then(|fields| fields.remove("cniVersions"));
    if let Some(best) = best_of(versions.as_ref())? {
        value["cniVersion"] = best.name().into();
    }
    let only_inlined = value["loadOnlyInlinedPlugins"].as_bool().unwrap_or(false);
    let is_list = value.get("plugins").is_some();
    let value = if is_list {
        value
    } else {
        json!({
            "cniVersion": value.get("cniVersion").cloned().unwrap_or_else(|| Version::UNNAMED.name().into()),
            "name": value.get("name").cloned().unwrap_or(Value::Null),
            "plugins": [value],
        })
    };
    if !value["name"].is_string() {
        return Err("has no name".into());
    }
    let list: NetworkList = serde_json::from_value(value).map_err(|error| error.to_string())?;
    Ok((list, only_inlined || !is_list))
}

/// Of the versions that a configuration offers, the newest that is known here (CNI 1.1, `cniVersions`).
fn best_of(versions: Option<&Value>) -> Result<Option<Version>, String> {
    let Some(versions) = versions.and_then(Value::as_array) else {
        return Ok(None);
    };
    let known = versions
        .iter()
        .filter_map(|version| Version::parse(version.as_str()?));
    match known.max() {
        None if !versions.is_empty() => Err(format!(
            "none of its cniVersions is known; known are {}",
            Version::ALL.map(Version::name).join(", ")
        )),
        best => Ok(best),
    }
}

fn validate_name(name: &str) -> Result<(), String> {
    let mut chars = name.chars();
    let starts_well = chars.next().is_some_and(|first| first.is_ascii_alphanumeric());
    if !starts_well || !chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        return Err(format!(
            "name {name:?}: must be letters, digits, '_', '.' and '-', and begin with a letter or digit"
        ));
    }
    Ok(())
}

fn validate(list: &NetworkList) -> Result<(), String> {
    if list.plugins.is_empty() {
        return Err("has no plugins".into());
    }
    if list.plugins.len() > 1 && !list.version.has_chains() {
        return Err(format!(
            "version {} knows no chain of plugins; use 0.3.0 or later",
            list.version
        ));
    }
    for plugin in &list.plugins {
        if plugin.program.is_empty() || plugin.program.contains('/') || plugin.program.starts_with('.') {
            return Err(format!(
                "plugin type {:?} is not the name of a program",
                plugin.program
            ));
        }
    }
    Ok(())
}

impl NetworkList {
    pub(in crate::network) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn plugins(&self) -> impl DoubleEndedIterator<Item = &Plugin> {
        self.plugins.iter()
    }

    pub(super) fn disables_check(&self) -> bool {
        self.disable_check
    }

    pub(super) fn disables_gc(&self) -> bool {
        self.disable_gc
    }

    pub(super) fn has_capability(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.has(name))
    }

    /// What one plugin reads on standard input (CNI specification 1.1, §"Deriving execution configuration").
    pub(super) fn plugin_conf(
        &self,
        plugin: &Plugin,
        capabilities: &BTreeMap<String, Value>,
        previous: Option<&Value>,
    ) -> Value {
        let mut conf = plugin.rest.clone();
        conf.insert("type".into(), plugin.program.as_str().into());
        conf.insert("cniVersion".into(), self.version.name().into());
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
    pub(super) fn program(&self) -> &str {
        &self.program
    }

    fn has(&self, capability: &str) -> bool {
        self.capabilities.get(capability).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn list() -> NetworkList {
        parse(
            r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [
                {"type": "bridge", "bridge": "b0", "capabilities": {"ips": true}},
                {"type": "portmap", "capabilities": {"portMappings": true, "ips": false}}
            ]}"#,
        )
        .unwrap()
        .0
    }

    fn write(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn a_plugin_reads_only_the_capabilities_that_it_declares() {
        let list = list();
        let capabilities = BTreeMap::from([
            ("ips".to_owned(), json!(["10.88.0.9"])),
            ("portMappings".to_owned(), json!([{"hostPort": 80}])),
        ]);
        let bridge = list.plugin_conf(&list.plugins[0], &capabilities, None);
        assert_eq!(
            bridge,
            json!({
                "type": "bridge", "bridge": "b0", "cniVersion": "1.0.0", "name": "net",
                "runtimeConfig": {"ips": ["10.88.0.9"]},
            })
        );
        let portmap = list.plugin_conf(&list.plugins[1], &capabilities, Some(&json!({"ips": []})));
        assert_eq!(
            portmap["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 80}]})
        );
        assert_eq!(portmap["prevResult"], json!({"ips": []}));
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let text = r#"{"cniVersion": "0.4.0", "name": "lan", "type": "macvlan", "master": "eth1"}"#;
        let (list, _) = parse(text).unwrap();
        let conf = list.plugin_conf(&list.plugins[0], &BTreeMap::new(), None);
        assert_eq!(
            conf,
            json!({"cniVersion": "0.4.0", "name": "lan", "type": "macvlan", "master": "eth1"})
        );
    }

    #[test]
    fn a_list_survives_being_stored() {
        let stored = serde_json::to_string(&list()).unwrap();
        assert_eq!(serde_json::from_str::<NetworkList>(&stored).unwrap(), list());
    }

    #[test]
    fn the_first_valid_configuration_by_name_is_used_and_those_passed_over_are_named() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "20-late.conf",
            r#"{"name": "late", "type": "bridge"}"#,
        );
        write(
            dir.path(),
            "10-early.conflist",
            r#"{"name": "early", "plugins": [{"type": "ptp"}]}"#,
        );
        write(dir.path(), "00-notes.txt", "not a configuration");
        write(dir.path(), "05-broken.conflist", "{");
        fs::create_dir(dir.path().join("00-folder.conf")).unwrap();
        let found = load(dir.path()).unwrap().unwrap();
        assert_eq!(found.list.name, "early");
        let passed_over = found.passed_over();
        assert!(
            passed_over.contains("05-broken.conflist") && !passed_over.contains("notes"),
            "{passed_over}"
        );
    }

    #[test]
    fn the_newest_version_of_those_offered_is_spoken() {
        let version = |text: &str| parse(text).map(|(list, _)| list.version);
        let offered =
            r#"{"name": "n", "cniVersions": ["0.4.0", "1.1.0", "9.0.0"], "plugins": [{"type": "ptp"}]}"#;
        assert_eq!(version(offered).unwrap(), Version::V1_1_0);
        let unknown = r#"{"name": "n", "cniVersions": ["9.0.0"], "plugins": [{"type": "ptp"}]}"#;
        assert!(version(unknown).unwrap_err().contains("cniVersions"));
        assert_eq!(
            version(r#"{"name": "n", "type": "ptp"}"#).unwrap(),
            Version::V0_1_0
        );
    }

    #[test]
    fn plugins_of_a_folder_of_the_networks_name_are_added_unless_it_says_no() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        write(&dir.path().join("net"), "10.conf", r#"{"type": "tuning"}"#);
        let programs = |more: &str| {
            let text =
                format!(r#"{{"cniVersion": "1.1.0", "name": "net", {more} "plugins": [{{"type": "ptp"}}]}}"#);
            write(dir.path(), "10-net.conflist", &text);
            let list = load(dir.path()).unwrap().unwrap().list;
            list.plugins
                .iter()
                .map(|plugin| plugin.program.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(programs(""), ["ptp", "tuning"]);
        assert_eq!(programs(r#""loadOnlyInlinedPlugins": true,"#), ["ptp"]);
    }

    #[test]
    fn no_configuration_is_not_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(&dir.path().join("absent")).unwrap().is_none());
        assert!(load(dir.path()).unwrap().is_none());
    }

    #[rstest]
    #[case("{", "not JSON")]
    #[case("[]", "not a JSON object")]
    #[case(r#"{"name": "x", "plugins": []}"#, "has no plugins")]
    #[case(
        r#"{"name": "x", "plugins": [{"type": "../../bin/sh"}]}"#,
        "not the name of a program"
    )]
    #[case(r#"{"name": "../x", "plugins": [{"type": "ptp"}]}"#, "name \"../x\"")]
    #[case(r#"{"type": "bridge"}"#, "has no name")]
    #[case(
        r#"{"cniVersion": "2.0.0", "name": "x", "type": "ptp"}"#,
        "\"2.0.0\" is not known"
    )]
    #[case(
        r#"{"cniVersion": "0.2.0", "name": "x", "plugins": [{"type": "a"}, {"type": "b"}]}"#,
        "no chain"
    )]
    #[case(r#"{"name": "x", "plugins": [{"kind": "ptp"}]}"#, "missing field `type`")]
    fn a_folder_of_broken_files_names_file_and_reason(#[case] text: &str, #[case] problem: &str) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("net.d");
        fs::create_dir(&folder).unwrap();
        // Where a name that is a path would lead.
        write(dir.path(), "x", "not a folder");
        write(&folder, "10-broken.conflist", text);
        let error = load(&folder).unwrap_err().to_string();
        assert!(
            error.contains("10-broken.conflist") && error.contains(problem),
            "{text}: {error}"
        );
    }
}
