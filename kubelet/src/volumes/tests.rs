use std::{collections::BTreeMap, os::unix::fs::symlink};

use clone8s::v1::{
    ConfigMapVolumeSource, DownwardApiProjection, DownwardApiVolumeFile, ImageVolumeSource, KeyToPath,
    ObjectFieldSelector, ProjectedVolumeSource, ResourceRequirements, SecretProjection, SecretVolumeSource,
    VolumeMount, VolumeProjection, volume_projection,
};

use super::*;
use crate::{
    desired::DesiredPod,
    objects::{ObjectKind, Objects},
    pod::{
        downward::Surroundings,
        testing::{container, pod},
    },
    runtime::ImageRef,
};

struct Node {
    dir: tempfile::TempDir,
    volumes: Volumes,
    pod: DesiredPod,
    images: BTreeMap<String, ImageRef>,
}

impl Node {
    fn new(source: Source, sub_path: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut one = container("a", "a:1");
        one.volume_mounts.push(VolumeMount {
            name: "v".into(),
            mount_path: "/v".into(),
            sub_path: sub_path.into(),
            ..Default::default()
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
            images: BTreeMap::new(),
        }
    }

    fn host(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    fn mounts(&self) -> Result<Vec<Mount>, VolumeError> {
        self.mounts_with(&Objects::default())
    }

    fn mounts_with(&self, objects: &Objects) -> Result<Vec<Mount>, VolumeError> {
        let node = Surroundings::default();
        self.volumes
            .mounts(&self.new_container(self.inputs(objects, &node)))
    }

    fn new_container<'a>(&'a self, inputs: Inputs<'a>) -> NewContainer<'a> {
        NewContainer {
            inputs,
            container: &self.pod.spec().containers[0],
            variables: &[],
            images: &self.images,
            has_recursive_read_only: true,
            pod_ip: None,
        }
    }

    fn edit(&mut self, edit: impl FnOnce(&mut VolumeMount)) {
        let spec = std::sync::Arc::make_mut(&mut self.pod.pod).spec.as_mut().unwrap();
        edit(&mut spec.containers[0].volume_mounts[0]);
    }

    fn inputs<'a>(&'a self, objects: &'a Objects, node: &'a Surroundings) -> Inputs<'a> {
        Inputs {
            pod: &self.pod,
            objects,
            node,
        }
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
fn a_volume_of_huge_pages_is_a_file_system_of_pages_of_that_size() {
    let mut node = Node::new(
        Source::EmptyDir(EmptyDirVolumeSource {
            medium: "HugePages".into(),
            size_limit: "4Mi".into(),
        }),
        "",
    );
    let error = node.mounts().unwrap_err().to_string();
    assert!(
        error.starts_with("volume v: its medium is \"HugePages\", but no container"),
        "{error}"
    );
    let spec = std::sync::Arc::make_mut(&mut node.pod.pod).spec.as_mut().unwrap();
    spec.containers[0].resources = Some(ResourceRequirements {
        limits: [("hugepages-2Mi".to_owned(), "4Mi".to_owned())].into(),
        ..Default::default()
    });
    let host_path = node.mounts().unwrap()[0].host_path.clone();
    node.mounts().unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours: Vec<_> = table.lines().filter(|line| line.contains(&host_path)).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert!(
        ours[0].contains(" - hugetlbfs ") && ours[0].contains("pagesize=2M"),
        "{ours:?}"
    );
    let mode = fs::metadata(&host_path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
    node.volumes.clean_up(&node.pod.uid()).unwrap();
    assert!(!Path::new(&host_path).exists());
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
fn a_device_is_of_the_type_that_is_asked_for() {
    let of_type = |kind: &str| {
        Node::new(
            Source::HostPath(HostPathVolumeSource {
                path: "/dev/null".into(),
                r#type: kind.into(),
            }),
            "",
        )
    };
    assert_eq!(of_type("CharDevice").mounts().unwrap()[0].host_path, "/dev/null");
    let error = of_type("BlockDevice").mounts().unwrap_err().to_string();
    assert!(error.contains("/dev/null is not a block device"), "{error}");
}

#[test]
fn a_mount_says_what_passes_through_it_and_what_read_only_means() {
    let mut node = host_volume("DirectoryOrCreate", "");
    node.edit(|mount| mount.mount_propagation = "HostToContainer".into());
    let mount = node.mounts().unwrap().remove(0);
    assert_eq!(mount.propagation(), MountPropagation::PropagationHostToContainer);

    let mut node = host_volume("DirectoryOrCreate", "");
    for (word, has, expected) in [
        ("Enabled", true, Some(true)),
        ("Enabled", false, None),
        ("IfPossible", true, Some(true)),
        ("IfPossible", false, Some(false)),
        ("Disabled", true, Some(false)),
    ] {
        node.edit(|mount| {
            mount.read_only = true;
            mount.recursive_read_only = word.into();
        });
        let (objects, surroundings) = (Objects::default(), Surroundings::default());
        let mut new = node.new_container(node.inputs(&objects, &surroundings));
        new.has_recursive_read_only = has;
        let mounts = node.volumes.mounts(&new).ok();
        let found = mounts.map(|mounts| mounts[0].recursive_read_only);
        assert_eq!(found, expected, "{word} {has}");
    }
}

#[test]
fn a_sub_path_may_be_made_of_variables_that_there_are() {
    let mut node = host_volume("DirectoryOrCreate", "");
    node.edit(|mount| mount.sub_path_expr = "of-$(POD)".into());
    let mounts = |value: &str| {
        let variables = [("POD".to_owned(), value.to_owned())];
        let (objects, surroundings) = (Objects::default(), Surroundings::default());
        let mut new = node.new_container(node.inputs(&objects, &surroundings));
        new.variables = &variables;
        node.volumes.mounts(&new)
    };
    let bound = PathBuf::from(&mounts("p").unwrap()[0].host_path);
    fs::write(bound.join("file"), "x").unwrap();
    assert!(node.host().join("of-p/file").exists());
    assert!(matches!(mounts("/../.."), Err(VolumeError::Escape { .. })));
    let error = node.mounts().unwrap_err().to_string();
    assert!(error.contains("no variable \"POD\""), "{error}");
}

#[test]
fn an_image_is_mounted_by_the_name_that_the_runtime_has_for_it() {
    let image = Source::Image(ImageVolumeSource {
        reference: "data:1".into(),
        pull_policy: "IfNotPresent".into(),
    });
    let mut node = Node::new(image, "part");
    node.images.insert("v".into(), ImageRef::new("sha256:data"));
    let mount = node.mounts().unwrap().remove(0);
    let image = mount.image.unwrap();
    assert_eq!(
        (image.image.as_str(), image.user_specified_image.as_str()),
        ("sha256:data", "data:1")
    );
    assert_eq!(mount.image_sub_path, "part");
    assert!(mount.readonly && mount.host_path.is_empty());
}

#[test]
fn an_empty_dir_keeps_its_files_until_the_pod_is_cleaned_up() {
    let node = Node::new(Source::EmptyDir(EmptyDirVolumeSource::default()), "");
    let path = PathBuf::from(&node.mounts().unwrap()[0].host_path);
    fs::write(path.join("kept"), "x").unwrap();
    node.mounts().unwrap();
    assert!(path.join("kept").exists());
    node.volumes.claim(&node.pod.key(), &node.pod.uid()).unwrap();
    assert_eq!(node.volumes.known().unwrap(), [node.pod.uid()].into());
    assert_eq!(node.volumes.owner(&node.pod.uid()), Some(node.pod.key()));
    node.volumes.clean_up(&node.pod.uid()).unwrap();
    assert!(!path.exists());
    assert_eq!(node.volumes.known().unwrap(), [].into());
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
    let (objects, surroundings) = (Objects::default(), Surroundings::default());
    let mut new = node.new_container(node.inputs(&objects, &surroundings));
    new.pod_ip = Some("10.0.0.7");
    let mounts = node.volumes.mounts(&new).unwrap();
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

fn settings(color: &str) -> Objects {
    Objects::of_api([
        (
            ObjectKind::ConfigMap,
            "settings",
            &[("color", color), ("size", "large")][..],
        ),
        (ObjectKind::Secret, "login", &[("password", "hush")]),
    ])
}

fn config_map(items: Vec<KeyToPath>, optional: bool) -> Source {
    Source::ConfigMap(ConfigMapVolumeSource {
        name: "settings".into(),
        items,
        optional,
        ..Default::default()
    })
}

fn read(mount: &Mount, file: &str) -> String {
    fs::read_to_string(Path::new(&mount.host_path).join(file)).unwrap()
}

#[test]
fn a_config_map_is_files_that_follow_it() {
    let node = Node::new(config_map(Vec::new(), false), "");
    let mounts = node.mounts_with(&settings("blue")).unwrap();
    assert!(mounts[0].readonly);
    assert_eq!(
        (read(&mounts[0], "color"), read(&mounts[0], "size")),
        ("blue".into(), "large".into())
    );

    let (green, surroundings) = (settings("green"), Surroundings::default());
    let changed = node.volumes.refresh(node.inputs(&green, &surroundings)).unwrap();
    assert_eq!(changed, ["v"]);
    assert_eq!(read(&mounts[0], "color"), "green");
    let again = node.volumes.refresh(node.inputs(&green, &surroundings)).unwrap();
    assert!(again.is_empty());
}

#[test]
fn items_are_the_files_that_are_named_with_their_modes() {
    let item = KeyToPath {
        key: "color".into(),
        path: "deep/paint".into(),
        mode: Some(0o400),
    };
    let node = Node::new(config_map(vec![item.clone()], false), "");
    let mounts = node.mounts_with(&settings("blue")).unwrap();
    assert_eq!(read(&mounts[0], "deep/paint"), "blue");
    let path = Path::new(&mounts[0].host_path);
    assert!(!path.join("size").exists());
    let mode = fs::metadata(path.join("deep/paint"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o400);

    let missing = KeyToPath {
        key: "shape".into(),
        ..item
    };
    let node = Node::new(config_map(vec![missing.clone()], false), "");
    let error = node.mounts_with(&settings("blue")).unwrap_err().to_string();
    assert!(error.contains("has no key \"shape\""), "{error}");
    Node::new(config_map(vec![missing], true), "")
        .mounts_with(&settings("blue"))
        .unwrap();
}

#[test]
fn a_secret_is_kept_in_memory_and_a_sub_path_is_one_file_of_it() {
    let secret = Source::Secret(SecretVolumeSource {
        secret_name: "login".into(),
        default_mode: Some(0o440),
        ..Default::default()
    });
    let node = Node::new(secret.clone(), "");
    let mounts = node.mounts_with(&settings("blue")).unwrap();
    let path = Path::new(&mounts[0].host_path);
    assert!(super::mounts::is_mounted(path).unwrap());
    assert_eq!(read(&mounts[0], "password"), "hush");
    node.volumes.clean_up(&node.pod.uid()).unwrap();
    assert!(!path.exists());

    let part = Node::new(secret.clone(), "password");
    let mounts = part.mounts_with(&settings("blue")).unwrap();
    assert_eq!(fs::read_to_string(&mounts[0].host_path).unwrap(), "hush");
    let error = Node::new(secret, "user")
        .mounts_with(&settings("blue"))
        .unwrap_err();
    assert!(error.to_string().contains("no file \"user\""), "{error}");
}

#[test]
fn a_projection_is_of_several_sources() {
    let projection = |source| VolumeProjection { source: Some(source) };
    let node = Node::new(
        Source::Projected(ProjectedVolumeSource {
            sources: vec![
                projection(volume_projection::Source::Secret(SecretProjection {
                    name: "login".into(),
                    ..Default::default()
                })),
                projection(volume_projection::Source::DownwardApi(DownwardApiProjection {
                    items: vec![DownwardApiVolumeFile {
                        path: "name".into(),
                        field_ref: Some(ObjectFieldSelector {
                            field_path: "metadata.name".into(),
                            ..Default::default()
                        }),
                        ..Default::default()
                    }],
                })),
            ],
            default_mode: None,
        }),
        "",
    );
    let mounts = node.mounts_with(&settings("blue")).unwrap();
    assert_eq!(
        (read(&mounts[0], "password"), read(&mounts[0], "name")),
        ("hush".into(), "p".into())
    );
}

#[test]
fn an_optional_object_that_is_not_known_is_waited_for() {
    let node = Node::new(config_map(Vec::new(), true), "");
    let error = node.mounts_with(&Objects::default()).unwrap_err().to_string();
    assert!(error.contains("is not known yet"), "{error}");
}
