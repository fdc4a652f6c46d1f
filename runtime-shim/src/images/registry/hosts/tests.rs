use std::fs;

use proptest::prelude::*;
use rstest::rstest;
use tempfile::TempDir;

use super::*;

const REGISTRY: &str = "r.io:5000";

fn configured(name: &str, text: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(FILE), text).unwrap();
    fs::write(dir.join("ca.pem"), "authority").unwrap();
    fs::write(dir.join("a.cert"), "certificate").unwrap();
    fs::write(dir.join("a.key"), "key").unwrap();
    root
}

fn bases(hosts: &[Host]) -> Vec<String> {
    hosts.iter().map(|host| host.base.to_string()).collect()
}

#[test]
fn mirrors_come_in_the_files_order_and_the_server_last() {
    let root = configured(
        REGISTRY,
        r#"
        server = "https://upstream.io"
        capabilities = ["pull"]
        [host."https://z.io"]
          capabilities = ["pull", "resolve"]
          ca = "ca.pem"
          [host."https://z.io".header]
            x-key = ["one", "two"]
        [host."http://a.io:8080/base"]
          capabilities = ["pull", "push"]
          skip_verify = true
          client = [["a.cert", "a.key"]]
        [host."m.io/api"]
          override_path = true
          ca = ["ca.pem", "a.cert"]
        "#,
    );
    let hosts = load(root.path(), REGISTRY, false).unwrap();
    assert_eq!(
        bases(&hosts),
        [
            "https://z.io/v2",
            "http://a.io:8080/base/v2",
            "https://m.io/api",
            "https://upstream.io/v2"
        ]
    );
    let resolve: Vec<_> = hosts.iter().map(|host| host.capabilities.resolve).collect();
    assert_eq!(resolve, [true, false, true, false]);
    assert_eq!(hosts[0].tls.authorities, [b"authority".to_vec()]);
    let keys: Vec<_> = hosts[0].headers.get_all("x-key").iter().collect();
    assert_eq!(keys, ["one", "two"]);
    assert!(hosts[1].tls.skip_verify);
    assert_eq!(hosts[1].tls.identity.as_deref(), Some(&b"certificate\nkey\n"[..]));
    assert_eq!(hosts[2].tls.authorities.len(), 2);
    assert!(hosts.iter().all(|host| host.is_mirror), "none is {REGISTRY}");
    assert!(!hosts[1].is_private());
}

#[test]
fn a_change_counts_from_the_next_load_on() {
    let root = configured(REGISTRY, "server = \"http://r.io:5000\"");
    let hosts = load(root.path(), REGISTRY, false).unwrap();
    assert_eq!(bases(&hosts), ["http://r.io:5000/v2"]);
    assert!(!hosts[0].is_mirror);
    fs::write(root.path().join(REGISTRY).join(FILE), "[host.\"https://m.io\"]").unwrap();
    let hosts = load(root.path(), REGISTRY, false).unwrap();
    assert_eq!(bases(&hosts), ["https://m.io/v2", "https://r.io:5000/v2"]);
}

#[rstest]
#[case::containerds_name("r.io_5000_", REGISTRY, "https://m.io/v2")]
#[case::default("_default", REGISTRY, "https://m.io/v2")]
#[case::another_registry("x.io", REGISTRY, "https://r.io:5000/v2")]
#[case::docker_hub("docker.io", "docker.io", "https://m.io/v2")]
fn a_registry_has_one_folder(#[case] folder: &str, #[case] registry: &str, #[case] first: &str) {
    let root = configured(folder, "[host.\"https://m.io\"]");
    assert_eq!(bases(&load(root.path(), registry, false).unwrap())[0], first);
}

#[rstest]
#[case("docker.io", false, "https://registry-1.docker.io/v2")]
#[case("r.io", false, "https://r.io/v2")]
#[case("r.io", true, "http://r.io/v2")]
#[case("localhost:5000", false, "http://localhost:5000/v2")]
#[case("127.0.0.1:41234", false, "http://127.0.0.1:41234/v2")]
#[case("[::1]:5000", false, "http://[::1]:5000/v2")]
#[case("localhost.example.com", false, "https://localhost.example.com/v2")]
#[case("10.0.0.1:5000", false, "https://10.0.0.1:5000/v2")]
fn without_configuration_the_registry_itself_is_asked(
    #[case] registry: &str,
    #[case] plain: bool,
    #[case] expected: &str,
) {
    let hosts = load(Path::new("/nonexistent"), registry, plain).unwrap();
    assert_eq!(bases(&hosts), [expected]);
    assert!(!hosts[0].is_mirror);
}

#[test]
fn a_folder_of_certificates_is_enough() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("r.io");
    fs::create_dir(&dir).unwrap();
    for (name, text) in [
        ("a.crt", "one"),
        ("b.crt", "two"),
        ("me.cert", "cert"),
        ("me.key", "key"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let hosts = load(root.path(), "r.io", false).unwrap();
    assert_eq!(hosts[0].tls.authorities, [b"one".to_vec(), b"two".to_vec()]);
    assert_eq!(hosts[0].tls.identity.as_deref(), Some(&b"cert\nkey\n"[..]));
}

#[rstest]
#[case("server = 7", "server")]
#[case("host = 7", "host")]
#[case("[host.\"ftp://a\"]", "must be http")]
#[case("[host.\"https://ann:hunter2@a\"]", "must have no user")]
#[case(
    "[host.\"https://a\"]\ncapabilities = [\"fly\"]",
    "must be pull, resolve or push"
)]
#[case("[host.\"https://a\"]\nca = \"absent.pem\"", "absent.pem: is not there")]
#[case("[host.\"https://a\"]\nca = 1", "ca: must be")]
#[case("[host.\"https://a\"]\nclient = [1]", "client: must be")]
#[case("[host.\"https://a\"]\nskip_verify = \"yes\"", "must be true or false")]
#[case("[host.\"https://a\".header]\n\"a b\" = \"x\"", "is no header's name")]
#[case("[host.\"https://a\".header]\na = \"x\\ny\"", "must be text on one line")]
#[case("server = [", "line 1")]
fn a_mistake_is_told_with_its_place(#[case] text: &str, #[case] told: &str) {
    let root = configured(REGISTRY, text);
    let error = load(root.path(), REGISTRY, false).unwrap_err().to_string();
    assert!(
        error.contains(told) && error.contains("hosts.toml") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn unknown_keys_of_newer_versions_stop_nothing() {
    let text = "dial_timeout = \"1s\"\n[host.\"https://m.io\"]\nfuture = { a = 1 }";
    let root = configured(REGISTRY, text);
    assert_eq!(load(root.path(), REGISTRY, false).unwrap().len(), 2);
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(
        text in "(server|host|ca|\\[host\\.\"[a-z:/@\\[\\]]{0,12}\"\\]|[a-z\"=\\[\\]{}.\\n ,0-9]){0,30}"
    ) {
        let upstream = upstream(REGISTRY, false).unwrap();
        if let Ok(hosts) = parse(&text, Path::new("/nonexistent"), REGISTRY, &upstream) {
            prop_assert!(!hosts.is_empty());
            for host in hosts {
                prop_assert!(matches!(host.base.scheme(), "http" | "https"));
                prop_assert!(host.base.host_str().is_some_and(|host| !host.is_empty()));
            }
        }
    }
}
