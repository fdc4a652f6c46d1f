//! The walk-through of docs/walk-through.md: a cluster that runs itself, from a folder of manifests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clone8s_integration::{
    Foreign, Grpcurl, Image, Node, Registry, Sandbox, command,
    node::Place,
    pki::Pair,
    process::{free_port, write_private},
    programs::program,
    wait,
};
use serde_json::{Value, json};

const NODE: &str = "self-hosted";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/walk-through")
}

/// The ports that the walk-through's images are made for, here free ones.
struct Ports {
    apiserver: u16,
    env: Vec<(&'static str, String)>,
}

impl Ports {
    fn free() -> Self {
        let names = [
            "APISERVER_PORT",
            "ETCD_PORT",
            "ETCD_PEER_PORT",
            "AMQP_PORT",
            "EPMD_PORT",
            "DIST_PORT",
        ];
        let ports: Vec<_> = names.iter().map(|_| free_port()).collect();
        Self {
            apiserver: ports[0],
            env: names.into_iter().zip(ports.iter().map(u16::to_string)).collect(),
        }
    }
}

/// Runs the guide's script, as a person does.
fn make_images(registry: &Registry, state: &Path, ports: &Ports, tag: &str) {
    let mut script = Command::new(examples().join("make-images"));
    script.arg(registry.address()).arg(state);
    script
        .env("APISERVER", program("apiserver"))
        .env("APISERVER_ADDRESS", "127.0.0.1")
        .env("TAG", tag);
    script.envs(ports.env.iter().map(|(name, port)| (name, port)));
    command::run(&mut script).unwrap();
}

/// The guide's manifest with this test's registry in it.
fn manifest(file: &str, registry: &Registry) -> String {
    fs::read_to_string(examples().join(file))
        .unwrap()
        .replace("127.0.0.1:5000", registry.address())
}

/// grpcurl as the administrator whose certificate the script has made.
fn admin(state: &Path, ports: &Ports) -> Grpcurl {
    let pki = state.join("pki");
    let pair = Pair {
        certificate_file: pki.join("admin.crt"),
        key_file: pki.join("admin.key"),
        certificate: String::new(),
        key: String::new(),
    };
    Grpcurl::tls(
        &format!("127.0.0.1:{}", ports.apiserver),
        &pki.join("cluster-ca.crt"),
        Some(pair),
    )
}

async fn answers(
    admin: &Grpcurl,
    method: &str,
    request: &Value,
    what: &str,
    good: impl Fn(&Value) -> bool,
) -> Value {
    wait::until(what, || async {
        let answer = admin.call(method, request)?;
        anyhow::ensure!(good(&answer), "{answer}");
        Ok(answer)
    })
    .await
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|list| {
        list.iter()
            .any(|it| it["type"] == "Ready" && it["status"] == "True")
    })
}

#[tokio::test]
async fn a_folder_with_etcd_and_the_apiserver_becomes_a_cluster_that_runs_pods() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let ports = Ports::free();
    let state = sandbox.make_dir("walk-through");
    make_images(&registry, &state, &ports, "1");
    let amqp = fs::read_to_string(state.join("amqp-url")).unwrap();

    let mut node = Node::start(&sandbox, NODE).await;
    for file in ["etcd.yaml", "apiserver.yaml", "dummy-pod.yaml"] {
        node.write_manifest(file, &manifest(file, &registry));
    }
    let token_file = state.join("join-token");
    let server = format!("https://127.0.0.1:{}", ports.apiserver);
    node.start_kubelet([
        "--apiserver",
        &server,
        "--join-token-file",
        token_file.to_str().unwrap(),
        "--amqp",
        &amqp,
    ]);
    let own = [
        ("etcd", "etcd"),
        ("apiserver", "rabbitmq"),
        ("apiserver", "apiserver"),
        ("dummy-pod", "waits"),
    ];

    // Both come up on the host network; until etcd and the broker answer, the apiserver may start more than once.
    let admin = admin(&state, &ports);
    answers(
        &admin,
        "grpc.health.v1.Health/Check",
        &json!({}),
        "the apiserver serves",
        |answer| answer["status"] == "SERVING",
    )
    .await;
    let before = node.runs_exactly(&own).await;

    // The kubelet joins the apiserver that it has started, verified against the root CA that the token pins.
    let token = admin
        .call(
            "clone8s.v1.RegistrationService/CreateJoinToken",
            &json!({ "nodeName": NODE }),
        )
        .unwrap();
    write_private(&token_file, token["token"].as_str().unwrap()).unwrap();
    answers(
        &admin,
        "clone8s.v1.NodeService/GetNode",
        &json!({ "name": NODE }),
        "the node is ready",
        |answer| is_ready(&answer["node"]["status"]),
    )
    .await;

    // The API shows the pods that the node has from its folder, also those that serve it.
    for mirror in [
        "etcd-self-hosted",
        "apiserver-self-hosted",
        "dummy-pod-self-hosted",
    ] {
        answers(
            &admin,
            "clone8s.v1.PodService/GetPod",
            &json!({ "name": mirror }),
            "the folder's pod is shown",
            |answer| is_ready(&answer["pod"]["status"]),
        )
        .await;
    }

    // A pod created by grpcurl reaches the kubelet through RabbitMQ, and runs.
    Foreign::bind(&amqp, "audit", "clone8s.nodes", NODE).await;
    let hello = json!({ "pod": {
        "metadata": { "name": "hello" },
        "spec": {
            "nodeName": NODE,
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": registry.image("busybox:1") }],
        },
    }});
    admin.call("clone8s.v1.PodService/CreatePod", &hello).unwrap();
    let foreign = Foreign::connect(&amqp).await.unwrap();
    wait::until("the broker carries the pod to the node", || async {
        let message = foreign.take("audit").await?;
        anyhow::ensure!(
            message.is_some_and(|it| it.message_id.contains('/') && it.routing_key == NODE),
            "not yet"
        );
        Ok(())
    })
    .await;
    foreign.close().await;
    let get_hello = json!({ "name": "hello" });
    answers(
        &admin,
        "clone8s.v1.PodService/GetPod",
        &get_hello,
        "hello runs",
        |answer| is_ready(&answer["pod"]["status"]),
    )
    .await;
    let with_hello: Vec<_> = own.iter().copied().chain([("hello", "main")]).collect();
    node.runs_exactly(&with_hello).await;

    // A changed file restarts what changed, and nothing else; the cluster comes back with all that it knew.
    Image::busybox()
        .env("VERSION", "2")
        .push(&registry, "dummy:2")
        .unwrap();
    let running = node.runs().await.unwrap();
    node.write_manifest(
        "dummy-pod.yaml",
        &manifest("dummy-pod.yaml", &registry).replace("dummy:1", "dummy:2"),
    );
    copy_image(&registry, "apiserver:1", "apiserver:2");
    node.write_manifest(
        "apiserver.yaml",
        &manifest("apiserver.yaml", &registry).replace("apiserver:1", "apiserver:2"),
    );
    let changed = [place("apiserver", "apiserver"), place("dummy-pod", "waits")];
    wait::until("what changed runs anew, and the rest as it was", || async {
        let now = node.runs().await?;
        anyhow::ensure!(now.len() == running.len(), "{now:?}");
        for (place, run) in &running {
            let same = now.get(place) == Some(run);
            anyhow::ensure!(
                same != changed.contains(place),
                "{place:?}: {run:?} became {:?}",
                now.get(place)
            );
        }
        Ok(())
    })
    .await;
    assert_eq!(running[&place("etcd", "etcd")], before[&place("etcd", "etcd")]);
    answers(
        &admin,
        "clone8s.v1.PodService/GetPod",
        &get_hello,
        "the new apiserver knows hello",
        |answer| is_ready(&answer["pod"]["status"]),
    )
    .await;

    // A removed file stops its pod; a deleted pod stops too.
    node.remove_manifest("dummy-pod.yaml");
    admin.call("clone8s.v1.PodService/DeletePod", &get_hello).unwrap();
    node.runs_exactly(&own[..3]).await;
    node.remove_manifest("apiserver.yaml");
    node.remove_manifest("etcd.yaml");
    node.runs_exactly(&[]).await;
    drop(node);
    sandbox.assert_nothing_left().await;
}

fn place(pod: &str, container: &str) -> Place {
    Place {
        pod: pod.into(),
        container: container.into(),
    }
}

/// The same image under another tag.
fn copy_image(registry: &Registry, from: &str, to: &str) {
    let mut skopeo = Command::new("skopeo");
    skopeo.args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]);
    skopeo
        .arg(format!("docker://{}", registry.image(from)))
        .arg(format!("docker://{}", registry.image(to)));
    command::run(&mut skopeo).unwrap();
}
