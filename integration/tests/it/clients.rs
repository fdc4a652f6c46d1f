//! Clients in other languages, generated from `proto/` by `clients/run`.

use std::{path::Path, process::Command};

use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, command};
use rstest::rstest;

#[rstest]
#[case::in_python("python")]
#[case::in_go("go")]
#[case::in_typescript("typescript")]
#[tokio::test]
async fn a_generated_client_leads_a_pod_through_its_life(#[case] language: &'static str) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "worker").await;
    node.join(&plane, None).await;
    plane.node_ready("worker").await;

    let socket = format!("unix://{}", plane.socket().display());
    // The second watches from a revision that the cluster does not know, and has to begin anew.
    for (name, server, since) in [
        ("by-socket", socket, None),
        ("by-tls", plane.url(), Some("999999999999")),
    ] {
        let mut example = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/run"));
        example
            .args([language, "--name", name, "--image", &registry.image("busybox:1")])
            .args(since.map(|since| ["--since", since]).into_iter().flatten())
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
        for line in [
            "stage production",
            &format!("note from {language}, stage production"),
            "phase Running",
            &format!("log hello from {language}"),
            "exec hello from inside",
        ] {
            assert!(lines.contains(&line), "no {line:?} in {output}");
        }
        let conflict = lines.iter().find(|line| line.starts_with("conflict "));
        let conflict = conflict.unwrap_or_else(|| panic!("no conflict in {output}"));
        assert!(
            conflict.contains("metadata.labels[stage]") && conflict.contains("example"),
            "{conflict}"
        );
        assert_eq!(lines.contains(&"watching anew"), since.is_some(), "{output}");
        assert_eq!(lines.last(), Some(&"deleted"), "{output}");
        assert!(plane.pod(name).await.is_err());
    }
}
