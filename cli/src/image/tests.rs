use std::{collections::BTreeMap, fs, io::Read as _, path::Path};

use clap::Parser;
use serde_json::Value;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    image: ImageArgs,
}

fn pack(words: &[&str]) -> Result<String> {
    let line = Line::try_parse_from(["image", "pack"].iter().chain(words))?;
    let mut out = Vec::new();
    run(&line.image, &mut out)?;
    Ok(String::from_utf8(out)?)
}

/// Every file of a tar archive by its path.
fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if let Some(target) = entry.link_name().unwrap() {
            bytes = target.to_string_lossy().into_owned().into_bytes();
        }
        files.insert(path, bytes);
    }
    files
}

fn demo(dir: &Path, output: &str) -> Vec<u8> {
    let www = dir.join("www");
    fs::create_dir_all(www.join("deep")).unwrap();
    fs::write(www.join("index.html"), "hello").unwrap();
    fs::write(www.join("deep/page.html"), "deeper").unwrap();
    let output = dir.join(output);
    let file = format!("{}:/srv/www", www.display());
    pack(&[
        "--name",
        "localhost/web:1",
        "--file",
        &file,
        "--link",
        "/srv/home:www/index.html",
        "--env",
        "A=b",
        "--output",
        output.to_str().unwrap(),
        "--",
        "/bin/serve",
        "-f",
    ])
    .unwrap();
    fs::read(output).unwrap()
}

fn json_at(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap();
    let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
    assert_eq!(descriptor["size"].as_u64().unwrap(), bytes.len() as u64);
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn an_archive_holds_the_files_at_their_places_and_says_what_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let files = unpacked(&demo(dir.path(), "a.tar"));
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let described = &index["manifests"][0];
    assert_eq!(
        described["annotations"]["io.containerd.image.name"],
        "localhost/web:1"
    );
    let manifest = json_at(&files, described);
    let config = json_at(&files, &manifest["config"]);
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/bin/serve", "-f"])
    );
    assert_eq!(config["config"]["Env"], serde_json::json!(["A=b"]));
    // An uncompressed layer is its own diff.
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([layer]));
    let layer = unpacked(&files[&format!("blobs/{}", layer.replace(':', "/"))]);
    assert_eq!(layer["srv/www/index.html"], b"hello");
    assert_eq!(layer["srv/www/deep/page.html"], b"deeper");
    assert_eq!(layer["srv/home"], b"www/index.html");
    assert!(layer.contains_key("srv"), "{:?}", layer.keys());
}

#[test]
fn the_same_files_give_the_same_archive() {
    let dir = tempfile::tempdir().unwrap();
    let first = demo(dir.path(), "a.tar");
    // Written anew: other times, other inodes.
    fs::remove_dir_all(dir.path().join("www")).unwrap();
    assert!(first == demo(dir.path(), "b.tar"));
}

#[test]
fn a_missing_file_is_named_and_leaves_no_archive() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("a.tar");
    let words = [
        "--name",
        "x:1",
        "--file",
        "/nowhere/at:/all",
        "-o",
        output.to_str().unwrap(),
        "--",
        "/x",
    ];
    let error = format!("{:#}", pack(&words).unwrap_err());
    assert!(error.starts_with("--file /nowhere/at: No such file"), "{error}");
    assert!(!output.exists());
}

#[test]
fn a_relative_place_is_refused() {
    let words = [
        "--name",
        "x:1",
        "--file",
        "/bin/sh:bin/sh",
        "-o",
        "/tmp/never.tar",
        "--",
        "/x",
    ];
    assert!(
        pack(&words)
            .unwrap_err()
            .to_string()
            .contains("must be an absolute path")
    );
    assert!(
        pack(&[
            "--name",
            "x:1",
            "--file",
            "/bin/sh",
            "-o",
            "/tmp/never.tar",
            "--",
            "/x"
        ])
        .is_err()
    );
}
