//! The cluster's own programs, on a real etcd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::ensure;
use clone8s::{
    client::{DeleteOptions, Query, Resource as _},
    v1::{
        CreateJoinTokenRequest, Node, Pod, node_service_client::NodeServiceClient,
        pod_service_client::PodServiceClient, registration_service_client::RegistrationServiceClient,
    },
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    Etcd, Grpcurl, Process, Sandbox,
    pki::{Ca, Pair},
    pods,
    process::free_port,
    programs::program,
    wait,
};

/// An apiserver and the controllers, on an etcd with TLS and, where there is one, a broker.
#[derive(Debug)]
pub struct ControlPlane {
    pub controllers: Process,
    pub apiserver: Process,
    pub etcd: Etcd,
    ca: Ca,
    admin: Pair,
    socket: PathBuf,
    address: String,
}

impl ControlPlane {
    /// With the broker at an `amqp://` address, or none.
    pub async fn start(sandbox: &Sandbox, amqp: Option<&str>) -> Self {
        let etcd = Etcd::start(sandbox).await;
        let ca = Ca::new(&sandbox.make_dir("pki"), "cluster root").expect("a CA");
        let admin = ca
            .issue_for("admin", Some("system:masters"))
            .expect("a certificate");
        let socket = sandbox.dir().join("api.sock");
        let address = format!("127.0.0.1:{}", free_port());
        let mut apiserver = sandbox
            .process("apiserver", program("apiserver"))
            .arg("--data-dir")
            .arg(sandbox.make_dir("apiserver"))
            .arg("--socket")
            .arg(&socket)
            .args(["--listen", &address])
            .arg("--ca-cert")
            .arg(ca.certificate_file())
            .arg("--ca-key")
            .arg(ca.key_file())
            .args(["--etcd", etcd.endpoint()])
            .arg("--etcd-ca")
            .arg(etcd.ca().certificate_file())
            .arg("--etcd-cert")
            .arg(&etcd.client_pair().certificate_file)
            .arg("--etcd-key")
            .arg(&etcd.client_pair().key_file);
        if let Some(amqp) = amqp {
            apiserver = apiserver.args(["--amqp", amqp]);
        }
        let controllers = sandbox
            .process("controllers", program("controllers"))
            .arg("--server")
            .arg(format!("unix://{}", socket.display()));
        let mut plane = Self {
            controllers: controllers.started(),
            apiserver: apiserver.started(),
            etcd,
            ca,
            admin,
            socket,
            address,
        };
        plane.ready().await;
        plane
    }

    /// The root-only socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `127.0.0.1:<port>`, with TLS.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The cluster's root CA.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// An administrator's certificate.
    pub fn admin(&self) -> &Pair {
        &self.admin
    }

    /// A new connection over the socket.
    pub fn channel(&self) -> Channel {
        clone8s_daemon::unix::channel(&self.socket)
    }

    /// A new connection over TLS, as what the certificate of this name and organization makes of its holder.
    pub fn channel_as(&self, common_name: &str, organization: &str) -> Channel {
        let pair = self
            .ca
            .issue_for(common_name, Some(organization))
            .expect("a certificate");
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.ca.certificate()))
            .identity(Identity::from_pem(pair.certificate, pair.key))
            .domain_name("localhost");
        Endpoint::from_shared(self.url())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .expect("an address and TLS")
            .connect_lazy()
    }

    pub fn pods(&self) -> PodServiceClient<Channel> {
        PodServiceClient::new(self.channel())
    }

    pub fn nodes(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel())
    }

    pub fn registration(&self) -> RegistrationServiceClient<Channel> {
        RegistrationServiceClient::new(self.channel())
    }

    /// grpcurl through the socket.
    pub fn grpcurl(&self) -> Grpcurl {
        Grpcurl::unix(&self.socket)
    }

    /// grpcurl over TLS as an administrator.
    pub fn grpcurl_tls(&self) -> Grpcurl {
        Grpcurl::tls(
            &self.address,
            &self.ca.certificate_file(),
            Some(self.admin.clone()),
        )
    }

    pub async fn ready(&mut self) {
        let channel = self.channel();
        wait::until("the apiserver answers", || {
            let alive = self.apiserver.check_running();
            let channel = channel.clone();
            async move {
                alive?;
                Node::list_all(&channel, &Query::default()).await?;
                Ok(())
            }
        })
        .await;
    }

    /// Starts the apiserver after it was stopped or killed.
    pub async fn start_apiserver(&mut self) {
        self.apiserver.start().expect("the apiserver starts");
        self.ready().await;
    }

    /// A join token for one name, or for any with "".
    pub async fn join_token(&self, node: &str, ttl_seconds: i32) -> String {
        let request = CreateJoinTokenRequest {
            node_name: node.to_owned(),
            ttl_seconds,
        };
        let answer = self.registration().create_join_token(request).await;
        answer.expect("a join token").into_inner().token
    }

    pub async fn create(&self, pod: Pod) -> Pod {
        Pod::create(&self.channel(), pod)
            .await
            .expect("the pod is created")
    }

    pub async fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        Ok(Pod::get(&self.channel(), "default", name).await?)
    }

    /// Changes the pod as it is now, again where the scheduler or its kubelet wrote in between.
    pub async fn change(&self, name: &str, change: impl Fn(&mut Pod)) -> Pod {
        wait::until(&format!("pod {name} is changed"), || async {
            let mut pod = self.pod(name).await?;
            change(&mut pod);
            Ok(Pod::update(&self.channel(), pod).await?)
        })
        .await
    }

    pub async fn delete(&self, name: &str) {
        let options = DeleteOptions::default();
        Pod::delete(&self.channel(), "default", name, &options)
            .await
            .expect("the pod is deleted");
    }

    /// A call of `c8s` by root on the machine, with nothing to read.
    pub fn c8s(&self, args: &[&str]) -> Command {
        let mut c8s = Command::new(program("c8s"));
        c8s.arg("--server")
            .arg(format!("unix://{}", self.socket.display()));
        c8s.args(args).stdin(Stdio::null());
        c8s
    }

    /// Waits until the pod says that it runs and is ready.
    pub async fn running(&self, name: &str) -> Pod {
        wait::until(&format!("pod {name} runs and is ready"), || async {
            let pod = self.pod(name).await?;
            pods::check_ready(&pod)?;
            Ok(pod)
        })
        .await
    }

    /// Waits until the object is gone.
    pub async fn gone(&self, name: &str) {
        wait::until(&format!("pod {name} is gone"), || async {
            match Pod::get(&self.channel(), "default", name).await {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                other => anyhow::bail!("{other:?}"),
            }
        })
        .await;
    }

    /// Waits until the node says that it is ready.
    pub async fn node_ready(&self, name: &str) -> Node {
        wait::until(&format!("node {name} is ready"), || async {
            let node = Node::get(&self.channel(), "", name).await?;
            let status = node.status.clone().unwrap_or_default();
            let ready = status
                .conditions
                .iter()
                .any(|it| it.r#type == "Ready" && it.status == "True");
            ensure!(ready, "conditions: {:?}", status.conditions);
            Ok(node)
        })
        .await
    }

    /// Where the apiserver keeps what is its own.
    pub fn remove_data(sandbox: &Sandbox) -> std::io::Result<()> {
        fs::remove_dir_all(sandbox.dir().join("apiserver"))
    }
}
