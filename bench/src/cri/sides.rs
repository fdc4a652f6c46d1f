//! Where the two sides come from: given sockets, or servers that the bench starts.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;
use clone8s::cri;
use clone8s_integration::{
    Containerd, Image, Process, Sandbox, command, containerd::CriPlugin, programs::program, wait,
};

use super::{account::Account, client::Side};

const IMAGE: &str = "localhost/bench:1";
const PAUSE: &str = "localhost/pause:1";
/// Where Linux distributions and Kubernetes put CNI plugins.
const CNI_FOLDERS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// The two sides, and what was started for them.
#[derive(Debug)]
pub(super) struct Pair {
    // Dropped in this order: the shim before the containerd that it uses, the cgroups last.
    shim: Option<Process>,
    ours: Option<Containerd>,
    peer: Option<Containerd>,
    bridges: Vec<String>,
    sides: [Side; 2],
}

impl Pair {
    pub(super) async fn given(
        sandbox: &Sandbox,
        socket: &Path,
        versus: &Path,
        image: &str,
    ) -> anyhow::Result<Self> {
        let mut sides = Vec::new();
        for (number, socket) in [socket, versus].into_iter().enumerate() {
            let id = format!("{}-{number}", sandbox.id());
            let account = Account::of_socket(&id, socket).await?;
            let logs = sandbox.make_dir(&format!("logs-{number}"));
            let mut side = Side::new("", socket, image, &logs, account);
            side.name = side
                .version()
                .await
                .with_context(|| format!("is {} a CRI socket?", socket.display()))?;
            sides.push(side);
        }
        let sides = sides.try_into().map_err(|_| anyhow::anyhow!("two sides"))?;
        Ok(Self {
            shim: None,
            ours: None,
            peer: None,
            bridges: Vec::new(),
            sides,
        })
    }

    /// The same containerd twice: with our shim, and with its own CRI plugin; each with its default network.
    pub(super) async fn started(sandbox: &Sandbox, programs: Option<&Path>) -> anyhow::Result<Self> {
        let number = u16::from_str_radix(&sandbox.id()[..4], 16)?;
        // Two networks that nothing else on the machine is likely to have.
        let subnet = |offset: u16| {
            format!(
                "10.{}.{}.0/22",
                128 + (number >> 8) % 126 + offset,
                (number & 0xff) & !3
            )
        };
        let bridges = ["a", "b"].map(|side| format!("c8b{}{side}", sandbox.id()));
        let archive = sandbox.dir().join("image.tar");
        Image::busybox().write_archive(&archive, IMAGE)?;

        let ours = Containerd::launch(sandbox, "ours", CriPlugin::Off).await;
        let dir = sandbox.make_dir("shim");
        let socket = dir.join("shim.sock");
        let runtime_shim =
            programs.map_or_else(|| program("runtime-shim"), |folder| folder.join("runtime-shim"));
        let shim = sandbox
            .process("runtime-shim", runtime_shim)
            .arg("--containerd")
            .arg(ours.socket())
            .arg("--listen")
            .arg(&socket)
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--root-dir")
            .arg(dir.join("root"))
            .arg("--cni-conf-dir")
            .arg(dir.join("net.d"))
            .args(["--bridge-name", &bridges[0], "--pod-cidr", &subnet(0)])
            .arg("--archive")
            .arg(&archive)
            .started();
        let account = Account::make(&format!("{}-a", sandbox.id()), &[shim.pid(), ours.process.pid()])?;
        let logs = sandbox.make_dir("logs-ours");
        let first = Side::new("Clone8s", &socket, IMAGE, &logs, account);

        let pause = sandbox.dir().join("pause.tar");
        Image::busybox().write_archive(&pause, PAUSE)?;
        let peer = Containerd::launch_with(
            sandbox,
            "peer",
            CriPlugin::On,
            &peer_config(sandbox, &bridges[1], &subnet(1))?,
        )
        .await;
        for archive in [&archive, &pause] {
            peer.ctr("k8s.io", &["images", "import", &archive.display().to_string()])?;
        }
        let account = Account::make(&format!("{}-b", sandbox.id()), &[peer.process.pid()])?;
        let logs = sandbox.make_dir("logs-peer");
        let second = Side::new("containerd's CRI", peer.socket(), IMAGE, &logs, account);

        let pair = Self {
            shim: Some(shim),
            ours: Some(ours),
            peer: Some(peer),
            bridges: bridges.to_vec(),
            sides: [first, second],
        };
        for side in pair.sides() {
            side.ready().await;
        }
        Ok(pair)
    }

    pub(super) fn sides(&self) -> [&Side; 2] {
        let [first, second] = &self.sides;
        [first, second]
    }

    /// The containerd below our shim, where the bench has started it.
    pub(super) fn containerd(&self) -> Option<&Containerd> {
        self.ours.as_ref()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.shim = None;
        self.ours = None;
        self.peer = None;
        for bridge in &self.bridges {
            if Path::new("/sys/class/net").join(bridge).exists() {
                // It is of no use without its containerd; what stays is seen by whoever lists links.
                let _ = command::run(Command::new("ip").args(["link", "delete", bridge]));
            }
        }
    }
}

/// The peer's own network: the bridge plugin, with addresses by host-local.
fn peer_config(sandbox: &Sandbox, bridge: &str, subnet: &str) -> anyhow::Result<String> {
    let conf = sandbox.make_dir("peer-net.d");
    let network = format!(
        r#"{{"cniVersion": "0.4.0", "name": "{bridge}", "plugins": [
  {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipMasq": true,
    "ipam": {{"type": "host-local", "dataDir": "{data}", "ranges": [[{{"subnet": "{subnet}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        data = sandbox.make_dir("peer-leases").display(),
    );
    fs::write(conf.join("10-bench.conflist"), network)?;
    let plugins = CNI_FOLDERS
        .into_iter()
        .find(|folder| Path::new(folder).join("bridge").exists())
        .context("no CNI plugins in /opt/cni/bin or /usr/lib/cni; install containernetworking-plugins")?;
    // A user without CAP_SYS_RESOURCE cannot lower an out-of-memory score: the plugin's own switch for that.
    Ok(format!(
        r#"[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{conf}"
"#,
        conf = conf.display(),
    ))
}

impl Side {
    async fn version(&self) -> anyhow::Result<String> {
        let request = cri::VersionRequest {
            version: String::new(),
        };
        let reply = self.runtime().version(request).await?.into_inner();
        Ok(format!("{} {}", reply.runtime_name, reply.runtime_version))
    }

    async fn ready(&self) {
        wait::until(&format!("{} is ready and has the image", self.name), || async {
            let request = cri::StatusRequest { verbose: false };
            let status = self
                .runtime()
                .status(request)
                .await?
                .into_inner()
                .status
                .context("a status")?;
            anyhow::ensure!(
                status.conditions.iter().all(|condition| condition.status),
                "{:?}",
                status.conditions
            );
            self.has_image().await
        })
        .await;
    }
}
