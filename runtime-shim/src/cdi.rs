//! Devices that vendors describe in files: the Container Device Interface (CDI 1.0, SPEC.md).
//!
//! A file says what a container needs to use a device: nodes, mounts, variables, hooks. A container names devices as
//! `vendor/class=device`, in its config or in annotations that begin with `cdi.k8s.io/`. The files are read when a
//! container asks, so that what a driver has just written counts.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use clone8s::cri;
use serde::Deserialize;

use crate::{
    devices,
    error::{Error, Result},
    oci::{GrantedDevice, Hook, Hooks, HostDevice, not_a_plain_path},
};

const ANNOTATION: &str = "cdi.k8s.io/";
const FIELD: &str = "config.CDI_devices";

/// What devices add to a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Edits {
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    pub(crate) devices: Vec<GrantedDevice>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: Hooks,
    pub(crate) groups: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mount {
    pub(crate) host_path: String,
    pub(crate) container_path: String,
    #[serde(default)]
    pub(crate) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<String>,
}

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    kind: String,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: RawEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: RawEdits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEdits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<RawHook>,
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    #[serde(default)]
    host_path: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    major: Option<u32>,
    #[serde(default)]
    minor: Option<u32>,
    #[serde(default)]
    file_mode: Option<u32>,
    #[serde(default)]
    permissions: String,
    #[serde(default)]
    uid: Option<u32>,
    #[serde(default)]
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    timeout: Option<i64>,
}

/// The devices that a container names, each once.
pub(crate) fn requested(config: &cri::ContainerConfig) -> Vec<String> {
    let annotated = config
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .flat_map(|(_, value)| value.split(','))
        .map(|name| name.trim().to_owned());
    let mut seen = BTreeSet::new();
    let named = config.cdi_devices.iter().map(|device| device.name.clone());
    named
        .chain(annotated)
        .filter(|name| seen.insert(name.clone()))
        .collect()
}

/// What the named devices add up to. Files in a later folder come before those of the same device in an earlier one.
pub(crate) fn resolve(dirs: &[PathBuf], names: &[String]) -> Result<Edits> {
    if names.is_empty() {
        return Ok(Edits::default());
    }
    for name in names {
        let parts = name.split_once('=').and_then(|(kind, device)| {
            let (vendor, class) = kind.split_once('/')?;
            Some([vendor, class, device])
        });
        if parts.is_none_or(|parts| {
            parts
                .iter()
                .any(|part| part.is_empty() || part.contains(['/', '=', ' ']))
        }) {
            return Err(Error::invalid(
                FIELD,
                format!("{name:?} is not of the form vendor/class=device"),
            ));
        }
    }
    let specs = read_all(dirs);
    let mut edits = Edits::default();
    let mut applied = BTreeSet::new();
    for name in names {
        let matches: Vec<_> = specs
            .iter()
            .enumerate()
            .flat_map(|(index, found)| {
                let devices = found.spec.devices.iter();
                devices.map(move |device| (index, found, device))
            })
            .filter(|(_, found, device)| *name == format!("{}={}", found.spec.kind, device.name))
            .collect();
        let first = matches.iter().map(|(_, found, _)| found.priority).max();
        let best: Vec<_> = matches
            .into_iter()
            .filter(|(_, found, _)| Some(found.priority) == first)
            .collect();
        let (index, found, device) = match best.as_slice() {
            [one] => *one,
            [] => {
                let searched: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
                return Err(Error::invalid(
                    FIELD,
                    format!("{name}: no such device in {}", searched.join(", ")),
                ));
            }
            several => {
                let files: Vec<_> = several
                    .iter()
                    .map(|(_, found, _)| found.path.display().to_string())
                    .collect();
                return Err(Error::unmet(
                    FIELD,
                    format!("{name} is described more than once: {}", files.join(", ")),
                ));
            }
        };
        let bad =
            |problem: String| Error::unmet(FIELD, format!("{name} of {}: {problem}", found.path.display()));
        if applied.insert(index) {
            add(&mut edits, &found.spec.container_edits).map_err(bad)?;
        }
        add(&mut edits, &device.container_edits).map_err(bad)?;
    }
    edits.groups.sort_unstable();
    edits.groups.dedup();
    Ok(edits)
}

struct Found {
    path: PathBuf,
    priority: usize,
    spec: Spec,
}

/// A file that cannot be read concerns only those who name its devices; they are told that there are none.
fn read_all(dirs: &[PathBuf]) -> Vec<Found> {
    let mut all = Vec::new();
    for (priority, dir) in dirs.iter().enumerate() {
        let mut paths: Vec<_> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        for path in paths {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if !matches!(extension, Some("json" | "yaml" | "yml")) {
                continue;
            }
            match read(&path) {
                Ok(spec) => all.push(Found { path, priority, spec }),
                Err(problem) => {
                    tracing::warn!(file = %path.display(), %problem, "passed over a CDI file");
                }
            }
        }
    }
    all
}

fn read(path: &Path) -> Result<Spec, String> {
    /// Far more than any driver writes.
    const MAX: u64 = 4 << 20;
    let text = fs::metadata(path)
        .and_then(|found| {
            if found.len() <= MAX {
                fs::read_to_string(path)
            } else {
                Err(io::Error::other("larger than 4 MiB"))
            }
        })
        .map_err(|error| error.to_string())?;
    serde_yaml::from_str(&text).map_err(|error| error.to_string())
}

fn add(edits: &mut Edits, raw: &RawEdits) -> Result<(), String> {
    for entry in &raw.env {
        if entry.split_once('=').is_none_or(|(name, _)| name.is_empty()) || entry.contains('\0') {
            return Err(format!("{entry:?} is no variable"));
        }
        edits.env.push(entry.clone());
    }
    for node in &raw.device_nodes {
        edits.devices.push(device(node)?);
    }
    for mount in &raw.mounts {
        for path in [&mount.host_path, &mount.container_path] {
            if let Some(problem) = not_a_plain_path(path) {
                return Err(format!("mount path {path:?} {problem}"));
            }
        }
        edits.mounts.push(mount.clone());
    }
    for hook in &raw.hooks {
        if let Some(problem) = not_a_plain_path(&hook.path) {
            return Err(format!("hook path {:?} {problem}", hook.path));
        }
        let list = edits
            .hooks
            .of(&hook.hook_name)
            .ok_or_else(|| format!("there is no hook {:?}", hook.hook_name))?;
        list.push(Hook {
            path: hook.path.clone(),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout,
        });
    }
    edits
        .groups
        .extend(raw.additional_gids.iter().filter(|gid| **gid != 0));
    Ok(())
}

fn device(node: &Node) -> Result<GrantedDevice, String> {
    if let Some(problem) = not_a_plain_path(&node.path) {
        return Err(format!("device path {:?} {problem}", node.path));
    }
    let host_path = match node.host_path.as_str() {
        "" => node.path.as_str(),
        path => path,
    };
    let known = match (node.kind.as_deref(), node.major, node.minor) {
        (Some(kind @ ("c" | "u" | "b")), Some(major), Some(minor)) => HostDevice {
            path: host_path.into(),
            kind: if kind == "b" { 'b' } else { 'c' },
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        },
        _ => devices::node(Path::new(host_path))
            .map_err(|error| format!("{host_path}: {error}"))?
            .ok_or_else(|| format!("{host_path} is no device"))?,
    };
    let access = match node.permissions.as_str() {
        "" => "rwm",
        given if given.contains(|c| !"rwm".contains(c)) => {
            return Err(format!("permissions {given:?} of {}", node.path));
        }
        given => given,
    };
    Ok(GrantedDevice {
        device: HostDevice {
            mode: node.file_mode.map_or(known.mode, |mode| mode & 0o777),
            uid: node.uid.unwrap_or(known.uid),
            gid: node.gid.unwrap_or(known.gid),
            ..known
        },
        path: node.path.clone().into(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENDOR: &str = r#"{
        "cdiVersion": "0.6.0",
        "kind": "example.com/gpu",
        "containerEdits": {"env": ["DRIVER=1"], "additionalGids": [44, 44, 0]},
        "devices": [
            {"name": "0", "containerEdits": {
                "env": ["GPU=0"],
                "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw", "uid": 7}],
                "mounts": [{"hostPath": "/usr/lib/gpu", "containerPath": "/usr/lib/gpu", "options": ["ro"]}],
                "hooks": [{"hookName": "createContainer", "path": "/usr/bin/hook", "args": ["hook", "0"]}]
            }},
            {"name": "1", "containerEdits": {"deviceNodes": [
                {"path": "/dev/gpu1", "type": "c", "major": 195, "minor": 1}]}}
        ]
    }"#;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn devices_add_their_edits_and_those_of_their_file_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("vendor.json"), VENDOR).unwrap();
        let names = strings(&["example.com/gpu=0", "example.com/gpu=1"]);
        let edits = resolve(&[dir.path().to_owned()], &names).unwrap();
        assert_eq!(edits.env, ["DRIVER=1", "GPU=0"]);
        assert_eq!(edits.groups, [44]);
        let [first, second] = edits.devices.as_slice() else {
            panic!("{edits:?}")
        };
        assert_eq!(
            (first.device.major, first.device.minor, first.device.uid),
            (1, 3, 7)
        );
        assert_eq!(
            (first.path.as_path(), first.access.as_str()),
            (Path::new("/dev/gpu0"), "rw")
        );
        assert_eq!((second.device.major, second.access.as_str()), (195, "rwm"));
        assert_eq!(edits.mounts[0].options, ["ro"]);
        assert_eq!(edits.hooks.create_container[0].args, ["hook", "0"]);
    }

    #[test]
    fn a_later_folder_wins_and_two_files_of_one_do_not_agree() {
        let (etc, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spec = |value: &str| {
            format!(
                "cdiVersion: '0.5.0'\nkind: example.com/nic\ndevices:\n- name: a\n  containerEdits:\n    env: [WHO={value}]\n"
            )
        };
        fs::write(etc.path().join("nic.yaml"), spec("etc")).unwrap();
        fs::write(run.path().join("nic.yaml"), spec("run")).unwrap();
        fs::write(run.path().join("broken.json"), "{").unwrap();
        let dirs = [etc.path().to_owned(), run.path().to_owned()];
        let names = strings(&["example.com/nic=a"]);
        assert_eq!(resolve(&dirs, &names).unwrap().env, ["WHO=run"]);
        fs::write(run.path().join("nic2.yaml"), spec("run")).unwrap();
        let error = resolve(&dirs, &names).unwrap_err().to_string();
        assert!(
            error.contains("more than once") && error.contains("nic2.yaml"),
            "{error}"
        );
    }

    #[test]
    fn names_come_from_the_config_and_from_annotations_each_once() {
        let config = cri::ContainerConfig {
            cdi_devices: vec![cri::CdiDevice { name: "a/b=c".into() }],
            annotations: [
                ("cdi.k8s.io/x".to_owned(), "a/b=c, d/e=f".to_owned()),
                ("other".to_owned(), "g/h=i".to_owned()),
            ]
            .into(),
            ..Default::default()
        };
        assert_eq!(requested(&config), ["a/b=c", "d/e=f"]);
    }

    #[test]
    fn what_is_not_there_or_no_name_is_refused() {
        for name in ["gpu", "a/b", "a/b=", "/b=c", "a/b=c/d"] {
            let error = resolve(&[], &strings(&[name])).unwrap_err().to_string();
            assert!(error.contains("vendor/class=device"), "{error}");
        }
        let error = resolve(&["/nonexistent".into()], &strings(&["a/b=c"])).unwrap_err();
        assert!(
            error.to_string().contains("no such device in /nonexistent"),
            "{error}"
        );
    }
}
