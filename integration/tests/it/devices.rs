//! Devices that vendors describe by CDI, from a pod's spec to what its container has.

use std::fs;

use anyhow::ensure;
use clone8s::{client::Resource as _, v1::Pod};
use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, command, pods, wait};

fn asking_for(name: &str, device: &str, image: &str) -> Pod {
    pods::from_yaml(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: app\n    image: {image}\n    command: [/bin/sh, -c, \"echo $LINE_KIND $LINE `cat /line/greeting` `head -c 3 \
         /dev/line | wc -c`; while true; do sleep 1; done\"]\n    resources: {{limits: {{{device}: 1}}}}\n"
    ))
}

#[tokio::test]
async fn a_container_has_what_the_file_of_its_device_says() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let (files, line) = (sandbox.make_dir("cdi"), sandbox.make_dir("line"));
    fs::write(line.join("greeting"), "hello\n").unwrap();
    let described = format!(
        "cdiVersion: 0.6.0\nkind: clone8s.test/line\ncontainerEdits:\n  env: [LINE_KIND=test]\ndevices:\n- name: zero\n  \
         containerEdits:\n    env: [LINE=zero]\n    deviceNodes:\n    - {{path: /dev/line, hostPath: /dev/zero, permissions: \
         r}}\n    mounts:\n    - {{hostPath: {}, containerPath: /line, options: [ro, rbind]}}\n",
        line.display()
    );
    fs::write(files.join("line.yaml"), described).unwrap();
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "devices").await;
    node.shim.stop().unwrap();
    node.shim.args_mut().extend(["--cdi-dir".into(), files.into()]);
    node.shim.start().unwrap();
    node.shim_ready().await;
    node.join(&plane, None).await;
    plane.node_ready("devices").await;

    plane
        .create(asking_for("line", "clone8s.test/line=zero", &image))
        .await;
    plane.running("line").await;
    wait::until("the container has its device", || async {
        let said = command::run(&mut plane.c8s(&["logs", "line"]))?;
        ensure!(said == "test zero hello 3\n", "{said}");
        Ok(())
    })
    .await;

    plane
        .create(asking_for("none", "clone8s.test/line=one", &image))
        .await;
    wait::until("the pod says which device its node does not have", || async {
        let told = pods::waiting(&plane.pod("none").await?);
        ensure!(told.contains("clone8s.test/line=one"), "{told}");
        Ok(())
    })
    .await;

    let refused = Pod::create(&plane.channel(), asking_for("bad", "clone8s.test=zero", &image)).await;
    let refused = refused.unwrap_err();
    let path = "spec.containers[0].resources.limits[clone8s.test=zero]";
    assert!(refused.message().contains(path), "{refused}");
    for name in ["line", "none"] {
        plane.delete(name).await;
        plane.gone(name).await;
    }
}
