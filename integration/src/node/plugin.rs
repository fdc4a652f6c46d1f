//! A containerd that serves CRI itself, with a pause image that is built here: no registry is asked for one.

use std::{fs, path::Path};

use crate::{Containerd, Image, Sandbox, containerd::CriPlugin};

const PAUSE: &str = "localhost/pause:1";

/// Pods get no network of their own: the tests' pods are on the node's.
pub(super) async fn launch(sandbox: &Sandbox, name: &str, dir: &Path) -> Containerd {
    let conf = dir.join("net.d");
    fs::create_dir_all(&conf).expect("a folder");
    // Without any network the plugin's node is never ready.
    let loopback = r#"{"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "loopback"}]}"#;
    fs::write(conf.join("10-none.conflist"), loopback).expect("a file");
    // A user without CAP_SYS_RESOURCE cannot lower an out-of-memory score: the plugin's own switch for that.
    let more = format!(
        r#"[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{}"
"#,
        conf.display()
    );
    let containerd = Containerd::launch_with(sandbox, name, CriPlugin::On, &more).await;
    let archive = dir.join("pause.tar");
    // It sleeps, as a pause does.
    Image::busybox()
        .write_archive(&archive, PAUSE)
        .expect("an archive");
    containerd
        .ctr("k8s.io", &["images", "import", &archive.display().to_string()])
        .expect("the pause image is imported");
    containerd
}
