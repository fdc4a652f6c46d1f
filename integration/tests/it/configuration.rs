//! Config maps and secrets in real containers: of the API, and of a node's own folder.

use anyhow::ensure;
use clone8s::{
    client::{From, Query, Resource},
    v1::{ConfigMap, ObjectMeta, Secret},
};
use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, pods, wait};
use tonic::Code;

/// Tells its settings when it is asked, by variables and by files.
fn manifest(image: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: told
  labels:
    tier: front
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - name: reader
      image: {image}
      envFrom:
        - prefix: MY_
          configMapRef:
            name: settings
      env:
        - name: PASSWORD
          valueFrom:
            secretKeyRef:
              name: login
              key: password
        - name: URL
          value: "$(MY_COLOR)/$(PASSWORD)"
        - name: POD
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
      volumeMounts:
        - name: told
          mountPath: /told
  volumes:
    - name: told
      projected:
        defaultMode: 0440
        sources:
          - configMap:
              name: settings
          - secret:
              name: login
              items:
                - key: password
                  path: secrets/password
          - downwardAPI:
              items:
                - path: labels
                  fieldRef:
                    fieldPath: metadata.labels
"#
    )
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: name.into(),
        ..ObjectMeta::default()
    }
}

fn settings(color: &str) -> ConfigMap {
    ConfigMap {
        metadata: Some(named("settings")),
        data: [("COLOR".to_owned(), color.to_owned())].into(),
        ..ConfigMap::default()
    }
}

fn login() -> Secret {
    Secret {
        metadata: Some(named("login")),
        data: [("password".to_owned(), "hush".into())].into(),
        ..Secret::default()
    }
}

/// What a shell in the pod's container writes.
async fn shell(node: &Node, line: &str) -> anyhow::Result<String> {
    node.shell("told", "reader", line).await
}

async fn until_told(node: &Node, line: &str, expected: &str) {
    wait::until(&format!("{line} tells {expected:?}"), || async {
        let told = shell(node, line).await?;
        ensure!(told == expected, "{told:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_is_told_its_configuration_and_its_node_reads_nothing_else() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "teller").await;
    node.join(&plane, None).await;
    plane.node_ready("teller").await;
    plane
        .create(pods::from_yaml(&manifest(&registry.image("busybox:1"))))
        .await;

    wait::until("it waits for its objects, and says so", || async {
        let pod = plane.pod("told").await?;
        let waiting = pods::waiting(&pod);
        ensure!(waiting.contains("settings not found"), "{waiting}");
        Ok(())
    })
    .await;
    ConfigMap::create(&plane.channel(), settings("blue"))
        .await
        .unwrap();
    Secret::create(&plane.channel(), login()).await.unwrap();
    plane.running("told").await;
    let told = shell(&node, "echo $MY_COLOR $PASSWORD $URL $POD").await.unwrap();
    assert_eq!(told, "blue hush blue/hush told");
    until_told(
        &node,
        "cd /told && cat COLOR secrets/password labels",
        "bluehushtier=\"front\"",
    )
    .await;
    assert_eq!(shell(&node, "stat -L -c %a /told/COLOR").await.unwrap(), "440");
    assert_eq!(
        shell(&node, "touch /told/x 2>/dev/null || echo no")
            .await
            .unwrap(),
        "no"
    );

    // Files follow, variables do not, and nothing restarts: not for a kubelet that was away, either.
    let runs = node.runs().await.unwrap();
    ConfigMap::update(&plane.channel(), settings("green"))
        .await
        .unwrap();
    until_told(&node, "cat /told/COLOR", "green").await;
    assert_eq!(shell(&node, "echo $MY_COLOR").await.unwrap(), "blue");
    node.kubelet.kill();
    ConfigMap::update(&plane.channel(), settings("red"))
        .await
        .unwrap();
    node.kubelet.start().unwrap();
    until_told(&node, "cat /told/COLOR", "red").await;
    assert_eq!(node.runs().await.unwrap(), runs);

    // The node itself may read what its pod names, and no other.
    let other = Secret {
        metadata: Some(named("other")),
        ..login()
    };
    Secret::create(&plane.channel(), other).await.unwrap();
    let as_node = plane.channel_as("system:node:teller", "system:nodes");
    Secret::get(&as_node, "default", "login").await.unwrap();
    let denied = Secret::get(&as_node, "default", "other").await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let all = Secret::watch(&as_node, &Query::default(), From::InitialState).await;
    assert_eq!(all.unwrap_err().code(), Code::PermissionDenied);
    let listed = Secret::list_all(&as_node, &Query::default()).await.unwrap_err();
    assert_eq!(listed.code(), Code::PermissionDenied);

    // No secret is left on the node.
    plane.delete("told").await;
    plane.gone("told").await;
    node.runs_exactly(&[]).await;
}

#[tokio::test]
async fn a_node_alone_has_a_folder_of_config_maps_and_secrets() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let mut node = Node::start(&sandbox, "alone").await;
    let objects = node.dir().join("objects");
    node.write_manifest("told.yaml", &manifest(&registry.image("busybox:1")));
    node.start_kubelet([
        std::ffi::OsString::from("--config-objects"),
        objects.clone().into(),
    ]);
    wait::until("the folder is there", || async {
        ensure!(objects.is_dir());
        Ok(())
    })
    .await;
    // Whole, by a rename: a half would be read as what it says.
    let write = |content: &str| {
        let hidden = objects.join(".all.yaml.tmp");
        std::fs::write(&hidden, content).unwrap();
        std::fs::rename(hidden, objects.join("all.yaml")).unwrap();
    };
    let write_color = |color: &str| {
        write(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  COLOR: {color}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata:\n  name: login\nstringData:\n  password: hush\n"
        ));
    };
    write_color("blue");
    node.runs_exactly(&[("told", "reader")]).await;
    until_told(&node, "echo $URL; cat /told/COLOR", "blue/hush\nblue").await;
    write_color("green");
    until_told(&node, "cat /told/COLOR", "green").await;

    // A file that cannot be read leaves what it said.
    write("kind: ConfigMap\n");
    wait::until("the log tells of the file", || async {
        let log = node.kubelet.log();
        ensure!(
            log.contains("all.yaml") && log.contains("cannot be used"),
            "{log}"
        );
        Ok(())
    })
    .await;
    assert_eq!(shell(&node, "cat /told/COLOR").await.unwrap(), "green");
    node.remove_manifest("told.yaml");
    node.runs_exactly(&[]).await;
}
