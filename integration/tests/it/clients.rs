//! Clients in other languages, generated from `proto/` by `clients/run`.

use std::{path::Path, process::Command};

use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, command};
use rstest::rstest;

#[rstest]
#[case::in_python("python")]
#[case::in_go("go")]
#[case::in_typescript("typescript")]
#[tokio::test]
async fn a_generated_client_makes_a_pod_watches_it_to_running_reads_its_log_and_deletes_it(
    #[case] language: &'static str,
) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "worker").await;
    node.join(&plane, None).await;
    plane.node_ready("worker").await;

    let socket = format!("unix://{}", plane.socket().display());
    for (name, server) in [("by-socket", socket), ("by-tls", plane.url())] {
        let mut example = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/run"));
        example
            .args([language, "--name", name, "--image", &registry.image("busybox:1")])
            .env("CLONE8S_SERVER", server)
            .env("CLONE8S_CA", plane.ca().certificate_file())
            .env("CLONE8S_CERT", &plane.admin().certificate_file)
            .env("CLONE8S_KEY", &plane.admin().key_file);
        let output = tokio::task::spawn_blocking(move || command::run(&mut example))
            .await
            .unwrap()
            .unwrap();
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(lines.first(), Some(&format!("created default/{name}").as_str()));
        let log = format!("log hello from {language}");
        assert!(lines.contains(&"phase Running"), "{output}");
        assert!(lines.contains(&log.as_str()), "{output}");
        assert_eq!(lines.last(), Some(&"deleted"), "{output}");
        assert!(plane.pod(name).await.is_err());
    }
}
