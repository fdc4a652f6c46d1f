use std::os::unix::fs::symlink;

use super::*;
use crate::pod::testing::{container, pod};

struct Node {
    dir: tempfile::TempDir,
    volumes: Volumes,
    pod: DesiredPod,
}

impl Node {
    fn new(source: Source, sub_path: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut one = container("a", "a:1");
        one.volume_mounts.push(VolumeMount {
            name: "v".into(),
            mount_path: "/v".into(),
            sub_path: sub_path.into(),
            read_only: false,
        });
        let mut pod = pod("p", vec![one]);
        let spec = std::sync::Arc::make_mut(&mut pod.pod).spec.as_mut().unwrap();
        spec.volumes.push(Volume {
            name: "v".into(),
            source: Some(source),
        });
        Self {
            volumes: Volumes::new(dir.path()),
            dir,
            pod,
        }
    }

    fn host(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    fn mounts(&self) -> Result<Vec<Mount>, VolumeError> {
        self.volumes
            .mounts(&self.pod, &self.pod.spec().containers[0], None)
    }
}

/// A mount that a failing test leaves would outlive its folder.
impl Drop for Node {
    fn drop(&mut self) {
        let _ = mounts::unmount_below(self.dir.path());
    }
}

fn host_path(node: &Node, kind: &str) -> Source {
    Source::HostPath(HostPathVolumeSource {
        path: node.host().to_string_lossy().into_owned(),
        r#type: kind.into(),
    })
}

fn host_volume(kind: &str, sub_path: &str) -> Node {
    let mut node = Node::new(Source::EmptyDir(EmptyDirVolumeSource::default()), sub_path);
    let source = host_path(&node, kind);
    let spec = std::sync::Arc::make_mut(&mut node.pod.pod).spec.as_mut().unwrap();
    spec.volumes[0].source = Some(source);
    node
}

fn memory(limit: &str) -> Source {
    Source::EmptyDir(EmptyDirVolumeSource {
        medium: "Memory".into(),
        size_limit: limit.into(),
    })
}

#[test]
fn a_folder_or_create_is_made_and_a_folder_is_not() {
    let node = host_volume("Directory", "");
    let error = node.mounts().unwrap_err().to_string();
    assert!(error.contains("cannot look at"), "{error}");
    let node = host_volume("DirectoryOrCreate", "");
    assert_eq!(node.mounts().unwrap()[0].host_path, node.host().to_str().unwrap());
    assert!(node.host().is_dir());
}

#[test]
fn a_path_of_the_wrong_type_is_refused_by_name() {
    let node = host_volume("Socket", "");
    fs::write(node.host(), "x").unwrap();
    let error = node.mounts().unwrap_err().to_string();
    assert!(
        error.starts_with("volume v: ") && error.contains("is not a socket"),
        "{error}"
    );
}

#[test]
fn an_empty_dir_keeps_its_files_until_the_pod_is_cleaned_up() {
    let node = Node::new(Source::EmptyDir(EmptyDirVolumeSource::default()), "");
    let path = PathBuf::from(&node.mounts().unwrap()[0].host_path);
    fs::write(path.join("kept"), "x").unwrap();
    node.mounts().unwrap();
    assert!(path.join("kept").exists());
    node.volumes.claim(&node.pod.key(), &node.pod.uid()).unwrap();
    assert_eq!(
        node.volumes.known().unwrap(),
        [(node.pod.uid(), Some(node.pod.key()))]
    );
    node.volumes.clean_up(&node.pod.uid()).unwrap();
    assert!(!path.exists());
    assert_eq!(node.volumes.known().unwrap(), []);
}

#[test]
fn a_memory_volume_is_a_tmpfs_of_its_size_and_goes_with_the_pod() {
    let node = Node::new(memory("64Ki"), "");
    let path = PathBuf::from(&node.mounts().unwrap()[0].host_path);
    fs::write(path.join("small"), vec![0; 4 << 10]).unwrap();
    // A second container mounts the same volume: nothing is mounted over what is there.
    node.mounts().unwrap();
    assert!(path.join("small").exists());
    fs::write(path.join("large"), vec![0; 128 << 10]).unwrap_err();
    node.volumes.clean_up(&node.pod.uid()).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_sub_path_shows_only_its_part_of_the_volume() {
    let node = host_volume("DirectoryOrCreate", "inner/deep");
    let bound = PathBuf::from(&node.mounts().unwrap()[0].host_path);
    fs::write(bound.join("file"), "x").unwrap();
    assert!(node.host().join("inner/deep/file").exists());
    node.mounts().unwrap();
    assert!(bound.join("file").exists());
    node.volumes.clean_up(&node.pod.uid()).unwrap();
    assert!(
        node.host().join("inner/deep/file").exists(),
        "the host's file is not the pod's to remove"
    );
}

#[test]
fn a_sub_path_can_be_a_file() {
    let node = host_volume("DirectoryOrCreate", "settings.yaml");
    fs::create_dir(node.host()).unwrap();
    fs::write(node.host().join("settings.yaml"), "a: 1").unwrap();
    let bound = PathBuf::from(&node.mounts().unwrap()[0].host_path);
    assert_eq!(fs::read_to_string(bound).unwrap(), "a: 1");
}

#[test]
fn a_sub_path_that_leads_out_of_the_volume_is_refused() {
    for sub_path in ["../x", "/etc", "a/../../x"] {
        let node = host_volume("DirectoryOrCreate", sub_path);
        assert!(
            matches!(node.mounts(), Err(VolumeError::Escape { .. })),
            "{sub_path}"
        );
    }
    let node = host_volume("DirectoryOrCreate", "link/passwd");
    fs::create_dir(node.host()).unwrap();
    symlink("/etc", node.host().join("link")).unwrap();
    assert!(matches!(node.mounts(), Err(VolumeError::Escape { .. })));
    let node = host_volume("DirectoryOrCreate", "link/made");
    fs::create_dir(node.host()).unwrap();
    symlink("../..", node.host().join("link")).unwrap();
    assert!(matches!(node.mounts(), Err(VolumeError::Escape { .. })));
}

#[test]
fn a_pod_with_its_own_address_gets_its_own_hosts_file() {
    let node = Node::new(Source::EmptyDir(EmptyDirVolumeSource::default()), "");
    let container = &node.pod.spec().containers[0];
    let mounts = node
        .volumes
        .mounts(&node.pod, container, Some("10.0.0.7"))
        .unwrap();
    let hosts = mounts
        .iter()
        .find(|mount| mount.container_path == "/etc/hosts")
        .unwrap();
    let text = fs::read_to_string(&hosts.host_path).unwrap();
    assert!(text.ends_with("10.0.0.7\tp\n"), "{text}");
}

#[test]
fn containers_that_are_made_side_by_side_share_one_memory_volume() {
    let node = Node::new(memory(""), "");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| node.mounts().unwrap());
        }
    });
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_node = table
        .lines()
        .filter(|line| line.contains(node.dir.path().to_str().unwrap()));
    assert_eq!(of_node.count(), 1);
}
