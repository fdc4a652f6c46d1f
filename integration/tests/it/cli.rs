//! c8s as a person runs it.

use std::fs;

use clone8s_integration::{ControlPlane, Sandbox, command};

#[tokio::test]
async fn c8s_refuses_bad_manifests_by_file_line_and_field_and_sends_nothing() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let good = "apiVersion: v1\nkind: Pod\nmetadata: {name: good}\nspec:\n  containers:\n    - {name: a, image: i}\n";
    let cases: [(&str, &str, &[&str]); 6] = [
        (
            "malformed",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x\n",
            &["malformed.yaml", "line"],
        ),
        (
            "unknown-kind",
            "apiVersion: v1\nkind: Pd\nmetadata: {name: x}\n",
            &["unknown-kind.yaml", "Pd", "Pod"],
        ),
        (
            "unknown-field",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  contaners:\n    - {name: a, image: i}\n",
            &["unknown-field.yaml", "line 5", "contaners", "containers"],
        ),
        (
            "wrong-type",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  hostNetwork: often\n  containers:\n    - {name: a, image: i}\n",
            &["wrong-type.yaml", "spec.hostNetwork"],
        ),
        (
            "flat-unknown",
            "version: v0\nname: x\nimages: []\ncontainers:\n  - {name: a, image: i}\n",
            &["flat-unknown.yaml", "images"],
        ),
        (
            "flat-twins",
            "version: v0\nname: x\ncontainers:\n  - {name: a, image: i}\n  - {name: a, image: i}\n",
            &["flat-twins.yaml", "containers[1].name"],
        ),
    ];
    for (file, manifest, words) in cases {
        let path = sandbox.dir().join(format!("{file}.yaml"));
        fs::write(&path, format!("{good}---\n{manifest}")).unwrap();
        let output = c8s(&plane, &["apply", "-f", path.to_str().unwrap()]);
        assert!(!output.success, "{file} was applied: {}", output.stdout);
        for word in words {
            // The good document in front moves every line.
            let word = if *word == "line 5" { "line 12" } else { word };
            assert!(
                output.stderr.contains(word),
                "{file}: no {word:?} in {}",
                output.stderr
            );
        }
        plane
            .pod("good")
            .await
            .expect_err("a part of a bad file was applied");
    }
    let path = sandbox.dir().join("good.yaml");
    fs::write(&path, good).unwrap();
    let output = c8s(&plane, &["apply", "-f", path.to_str().unwrap()]);
    assert!(output.success, "{}", output.stderr);
    plane.pod("good").await.unwrap();
    let absent = c8s(&plane, &["get", "pod", "absent"]);
    assert!(
        !absent.success && absent.stderr.contains("absent"),
        "{}",
        absent.stderr
    );
}

fn c8s(plane: &ControlPlane, args: &[&str]) -> command::Output {
    command::output(&mut plane.c8s(args)).unwrap()
}
