//! The client against a registry that misbehaves.

#[path = "../../../tests/faulty/mod.rs"]
mod faulty;

use std::{fs, path::Path, time::Duration};

use futures::TryStreamExt as _;
use reqwest::Url;
use rstest::rstest;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use self::faulty::{Answer, Faulty};
use super::*;
use crate::images::{config::Descriptor, progress::Pulls};

/// Far more than anything here takes on a busy machine.
const LONG: Duration = Duration::from_mins(1);

fn registries(hosts_dir: &Path, silence_limit: Duration) -> Registries {
    clone8s_daemon::process::install_tls_provider();
    let config = ImagesConfig {
        hosts_dir: hosts_dir.to_owned(),
        silence_limit,
        ..ImagesConfig::default()
    };
    Registries::new(&config, BTreeSet::new())
}

fn open(registry: &Faulty, auth: Option<&cri::AuthConfig>) -> Arc<Repository> {
    open_with(Path::new("/nonexistent"), &registry.image("team/app:1"), auth)
}

fn open_with(hosts_dir: &Path, image: &str, auth: Option<&cri::AuthConfig>) -> Arc<Repository> {
    let reference = Reference::parse(image).unwrap();
    registries(hosts_dir, LONG).open(&reference, auth).unwrap()
}

fn tag() -> Version {
    Version::Tag("1".into())
}

fn blob(length: usize) -> (Vec<u8>, Descriptor) {
    let bytes: Vec<u8> = (0..251).cycle().take(length).collect();
    let descriptor = Descriptor::new("", Digest::of(&bytes), length as u64);
    (bytes, descriptor)
}

/// The bytes from `offset` on, or what is told to the person who asked.
async fn fetch(repository: &Arc<Repository>, blob: &Descriptor, offset: u64) -> Result<Vec<u8>, ImageError> {
    let pulls = Pulls::default();
    let pull = pulls.begin("app");
    let layer = pull.add(blob);
    let (stream, tale) = repository.blob(blob, offset, &[], &layer);
    let parts = timeout(LONG, stream.try_collect::<Vec<_>>())
        .await
        .expect("it ends");
    match parts {
        Ok(parts) => {
            assert_eq!(pulls.now()[0].bytes, blob.size, "progress is told");
            Ok(parts.concat())
        }
        Err(_) => Err(lock(&tale).error.take().expect("a reason")),
    }
}

#[tokio::test]
async fn a_blob_that_breaks_off_goes_on_where_it_broke() {
    let (bytes, descriptor) = blob(100_000);
    let content = bytes.clone();
    let registry = Faulty::start(move |seen| match seen.nth {
        0 => Answer::part(seen, &content).cut(40_000),
        1 => Answer::new(503),
        2 => Answer::part(seen, &content).cut(10_000),
        _ => Answer::part(seen, &content),
    });
    assert_eq!(
        fetch(&open(&registry, None), &descriptor, 0).await.unwrap(),
        bytes
    );
    let starts: Vec<_> = registry.seen().iter().map(faulty::Seen::range_start).collect();
    assert_eq!(starts, [0, 40_000, 40_000, 50_000]);
}

#[tokio::test]
async fn a_registry_without_ranges_still_gives_the_rest_of_a_blob() {
    let (bytes, descriptor) = blob(100_000);
    let content = bytes.clone();
    let registry = Faulty::start(move |seen| {
        let whole = Answer::ok(content.clone());
        if seen.nth == 0 { whole.cut(60_000) } else { whole }
    });
    let rest = fetch(&open(&registry, None), &descriptor, 30_000).await.unwrap();
    assert_eq!(rest, bytes[30_000..]);
    assert_eq!(registry.seen().len(), 2);
}

#[rstest]
#[case::more_than_said(Answer::ok(vec![7; 2000]), "sends more of")]
#[case::another_part(
    Answer::new(206).header("content-range", "bytes 5-999/1000").body(vec![7; 995]),
    "another part"
)]
#[case::absent(Answer::new(404), "has no blob")]
#[case::endless_redirects(Answer::new(307).header("location", "?again"), "redirects more than")]
#[case::nowhere(Answer::new(307).header("location", "ftp://a/b"), "redirects to nowhere")]
#[tokio::test]
async fn a_lie_about_a_blob_ends_it(#[case] answer: Answer, #[case] told: &str) {
    let registry = Faulty::start(move |_| answer.clone());
    let (_, descriptor) = blob(1000);
    let error = fetch(&open(&registry, None), &descriptor, 0)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(told) && error.contains(&registry.image("team/app:1")),
        "{error}"
    );
}

#[tokio::test]
async fn a_content_length_that_lies_is_a_broken_connection() {
    let (bytes, descriptor) = blob(1000);
    let content = bytes.clone();
    let registry = Faulty::start(move |seen| match seen.nth {
        0 => Answer::ok(content.clone()).header("content-length", "600"),
        1 => Answer::part(seen, &content).header("content-length", "100000"),
        _ => Answer::part(seen, &content),
    });
    assert_eq!(
        fetch(&open(&registry, None), &descriptor, 0).await.unwrap(),
        bytes
    );
}

#[tokio::test]
async fn a_registry_that_falls_silent_bounds_the_fetch() {
    let registry = Faulty::start(|_| Answer::hang());
    let (_, descriptor) = blob(1000);
    let limit = Duration::from_millis(500);
    let reference = Reference::parse(&registry.image("team/app:1")).unwrap();
    let repository = registries(Path::new("/nonexistent"), limit).open(&reference, None);
    let began = Instant::now();
    let error = fetch(&repository.unwrap(), &descriptor, 0).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("sent nothing"), "{error}");
    assert!(began.elapsed() > limit);
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_when_it_says() {
    let registry = Faulty::start(|seen| match seen.nth {
        0 => Answer::new(429).header("retry-after", "1"),
        1 => Answer::new(502),
        _ => Answer::ok("{}"),
    });
    let began = Instant::now();
    let (_, document) = open(&registry, None).manifest(&tag()).await.unwrap();
    assert_eq!(document, "{}");
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_limit_for_hours_is_told_at_once() {
    let registry = Faulty::start(|_| {
        Answer::new(429)
            .header("retry-after", "3600")
            .body(r#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "pull rate limit"}]}"#)
    });
    let error = open(&registry, None).manifest(&tag()).await.unwrap_err();
    assert!(matches!(error, ImageError::Throttled { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("pull rate limit") && error.contains("3600"),
        "{error}"
    );
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn a_document_is_what_its_digest_says() {
    let registry = Faulty::start(|seen| {
        let answer = Answer::ok("{}");
        if seen.path.ends_with("/1") {
            answer.header("docker-content-digest", &Digest::of(b"other"))
        } else {
            answer
        }
    });
    let repository = open(&registry, None);
    for version in [tag(), Version::Digest(Digest::of(b"other"))] {
        let error = repository.manifest(&version).await.unwrap_err().to_string();
        assert!(error.contains(Digest::of(b"{}").as_str()), "{error}");
    }
    let right = Version::Digest(Digest::of(b"{}"));
    assert!(repository.manifest(&right).await.is_ok());
}

#[tokio::test]
async fn a_page_in_place_of_a_manifest_is_told_as_such() {
    let registry = Faulty::start(|_| {
        Answer::ok("<html>please log in</html>").header("content-type", "text/html; charset=utf-8")
    });
    let error = open(&registry, None).manifest(&tag()).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("text/html") && error.contains("not this registry"),
        "{error}"
    );
    assert!(!error.contains("please"), "{error}");
}

#[tokio::test]
async fn a_document_without_end_is_left() {
    let registry = Faulty::start(|_| Answer::ok(vec![b' '; 9 << 20]));
    let error = open(&registry, None)
        .manifest(&tag())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("document of more than"), "{error}");
}

fn hosts(registry: &str, text: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(registry);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("hosts.toml"), text).unwrap();
    root
}

#[tokio::test]
async fn mirrors_are_asked_first_and_told_whose_images_are_meant() {
    let content = || Answer::ok("{}");
    let broken = Faulty::start(|_| Answer::new(500));
    let empty = Faulty::start(|_| Answer::new(404));
    let full = Faulty::start(move |_| content());
    let root = hosts(
        "r.io",
        &format!(
            "[host.\"http://{}\"]\n[host.\"http://{}\"]\nheader = {{ x-key = \"k\" }}\n[host.\"http://{}\"]\n",
            broken.address(),
            empty.address(),
            full.address()
        ),
    );
    let repository = open_with(root.path(), "r.io/team/app:1", None);
    assert_eq!(repository.manifest(&tag()).await.unwrap().1, "{}");
    let asked = "/v2/team/app/manifests/1?ns=r.io";
    for mirror in [&broken, &empty, &full] {
        assert_eq!(mirror.seen().len(), 1);
        assert_eq!(mirror.seen()[0].path, asked);
    }
    assert_eq!(empty.seen()[0].header("x-key"), Some("k"));
    assert_eq!(full.seen()[0].header("x-key"), None);
}

#[tokio::test]
async fn a_mirror_without_the_capability_is_not_asked_what_a_tag_means() {
    let mirror = Faulty::start(|_| Answer::ok(r#"{"is": "stale"}"#));
    let server = Faulty::start(|_| Answer::ok(r#"{"is": "fresh"}"#));
    let registry = server.address();
    let root = hosts(
        &registry,
        &format!(
            "[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
            mirror.address()
        ),
    );
    let repository = open_with(root.path(), &server.image("team/app:1"), None);
    let fresh = repository.manifest(&tag()).await.unwrap().1;
    assert_eq!(fresh, r#"{"is": "fresh"}"#);
    let stale = Version::Digest(Digest::of(br#"{"is": "stale"}"#));
    let stale = repository.manifest(&stale).await.unwrap().1;
    assert_eq!(stale, r#"{"is": "stale"}"#);
}

#[tokio::test]
async fn what_no_place_has_is_told_with_every_place() {
    let mirror = Faulty::start(|_| Answer::new(404));
    let server = Faulty::start(|_| Answer::new(404));
    let root = hosts(
        &server.address(),
        &format!("[host.\"http://{}\"]\n", mirror.address()),
    );
    let image = server.image("team/app:1");
    let error = open_with(root.path(), &image, None)
        .manifest(&tag())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::NotInRegistry { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains(&image) && error.contains(&mirror.address()),
        "{error}"
    );
}

#[tokio::test]
async fn a_half_sent_blob_is_finished_by_the_next_place() {
    let (bytes, descriptor) = blob(100_000);
    let (one, two) = (bytes.clone(), bytes.clone());
    let mirror = Faulty::start(move |seen| match seen.nth {
        0 => Answer::part(seen, &one).cut(70_000),
        _ => Answer::new(404),
    });
    let server = Faulty::start(move |seen| Answer::part(seen, &two));
    let root = hosts(
        &server.address(),
        &format!("[host.\"http://{}\"]\n", mirror.address()),
    );
    let repository = open_with(root.path(), &server.image("team/app:1"), None);
    assert_eq!(fetch(&repository, &descriptor, 0).await.unwrap(), bytes);
    assert_eq!(server.seen()[0].range_start(), 70_000);
}

fn password(password: &str) -> cri::AuthConfig {
    cri::AuthConfig {
        username: "ann".into(),
        password: password.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn credentials_go_to_the_registry_and_to_nobody_it_redirects_to() {
    let (bytes, descriptor) = blob(1000);
    let store = Faulty::start(move |seen| Answer::part(seen, &bytes));
    let elsewhere = format!("http://{}/blob?signature=x", store.address());
    let registry = Faulty::start(move |seen| match seen.header("authorization") {
        None => Answer::new(401).header("www-authenticate", "Basic realm=\"r\""),
        Some(_) => Answer::new(307).header("location", &elsewhere),
    });
    let root = hosts(
        &registry.address(),
        &format!(
            "server = \"http://{}\"\n[header]\nx-secret = \"k\"\n",
            registry.address()
        ),
    );
    let auth = password("s3cret");
    let repository = open_with(root.path(), &registry.image("team/app:1"), Some(&auth));
    fetch(&repository, &descriptor, 0).await.unwrap();
    let shown: Vec<_> = registry
        .seen()
        .iter()
        .map(|seen| seen.header("authorization").map(str::to_owned))
        .collect();
    // ann:s3cret
    assert_eq!(shown, [None, Some("Basic YW5uOnMzY3JldA==".to_owned())]);
    assert!(
        registry
            .seen()
            .iter()
            .all(|seen| seen.header("x-secret") == Some("k"))
    );
    assert_eq!(store.seen()[0].header("authorization"), None);
    assert_eq!(store.seen()[0].header("x-secret"), None);
}

/// A registry that wants a token of a token server that wants to know from whom.
fn with_tokens(
    token: &'static str,
    admits: impl Fn(&faulty::Seen) -> bool + Send + Sync + 'static,
) -> Faulty {
    Faulty::start(move |seen| {
        if seen.path.starts_with("/token") {
            return if admits(seen) {
                Answer::ok(format!(r#"{{"access_token": "{token}", "expires_in": 60}}"#))
            } else {
                Answer::new(401).body("no s3cret here")
            };
        }
        if seen.header("authorization") == Some(&format!("Bearer {token}")) {
            return Answer::ok("{}");
        }
        let host = seen.header("host").unwrap_or_default();
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"s v\",scope=\"repository:team/app:pull\""
        );
        Answer::new(401).header("www-authenticate", &challenge)
    })
}

#[tokio::test]
async fn a_token_is_got_for_a_password() {
    let registry = with_tokens("t0ken", |seen| {
        seen.method == "GET" && seen.header("authorization") == Some("Basic YW5uOnMzY3JldA==")
    });
    let repository = open(&registry, Some(&password("s3cret")));
    repository.manifest(&tag()).await.unwrap();
    // Kept for what follows.
    repository.manifest(&tag()).await.unwrap();
    let tokens = registry.seen_for("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].path,
        "/token?service=s+v&scope=repository%3Ateam%2Fapp%3Apull"
    );

    let wrong = open(&registry, Some(&password("wrong")))
        .manifest(&tag())
        .await
        .unwrap_err();
    assert!(matches!(wrong, ImageError::WrongCredentials { .. }), "{wrong}");
    let none = open(&registry, None).manifest(&tag()).await.unwrap_err();
    assert!(matches!(none, ImageError::NeedsCredentials { .. }), "{none}");
    for error in [wrong.to_string(), none.to_string()] {
        assert!(!error.contains("s3cret") && !error.contains("wrong)"), "{error}");
    }
}

#[tokio::test]
async fn a_token_is_got_without_credentials_and_for_an_identity_token() {
    let anonymous = with_tokens("t", |seen| seen.header("authorization").is_none());
    open(&anonymous, None).manifest(&tag()).await.unwrap();

    let registry = with_tokens("t", |seen| {
        seen.method == "POST"
            && seen.body.contains("grant_type=refresh_token")
            && seen.body.contains("refresh_token=i%26d")
            && seen.body.contains("scope=repository%3Ateam%2Fapp%3Apull")
    });
    let auth = cri::AuthConfig {
        identity_token: "i&d".into(),
        ..Default::default()
    };
    open(&registry, Some(&auth)).manifest(&tag()).await.unwrap();
    assert!(registry.seen().iter().all(|seen| !seen.path.contains("i%26d")));
}

#[tokio::test]
async fn a_registry_token_is_shown_as_it_is() {
    let registry = with_tokens("given", |_| false);
    let auth = cri::AuthConfig {
        registry_token: "given".into(),
        ..Default::default()
    };
    open(&registry, Some(&auth)).manifest(&tag()).await.unwrap();
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn a_token_server_on_a_listened_to_wire_gets_no_password() {
    clone8s_daemon::process::install_tls_provider();
    let client = reqwest::Client::new();
    let challenge = ["Bearer realm=\"http://192.0.2.1/token\"".to_owned()];
    let registry = Url::parse("https://r.io/v2").unwrap();
    let credentials = credentials::Credentials::Basic {
        user: "ann".into(),
        password: "s3cret".into(),
    };
    let refused = token::meet(&client, &challenge, &registry, "app", &credentials).await;
    assert!(matches!(refused, Err(Failure::Wrong(problem)) if problem.contains("without TLS")));
}

#[rstest]
#[case::text("not json", 200)]
#[case::no_token("{}", 200)]
#[case::broken("", 500)]
#[tokio::test]
async fn a_token_server_that_gives_no_token_is_named(#[case] body: &'static str, #[case] status: u16) {
    let registry = Faulty::start(move |seen| {
        if seen.path.starts_with("/token") {
            return Answer::new(status).body(body);
        }
        let host = seen.header("host").unwrap_or_default();
        Answer::new(401).header("www-authenticate", &format!("Bearer realm=http://{host}/token"))
    });
    let error = open(&registry, None)
        .manifest(&tag())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("token server"), "{error}");
}

#[tokio::test]
async fn what_does_not_speak_tls_is_told_as_such() {
    let server = Faulty::start(|_| Answer::ok("{}"));
    let registry = server.address();
    let root = hosts(&registry, &format!("server = \"https://{registry}\"\n"));
    let error = open_with(root.path(), &server.image("app:1"), None)
        .manifest(&tag())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("as http://"), "{error}");
}

#[tokio::test]
async fn a_forbidden_image_is_told_in_the_registrys_words() {
    let registry = Faulty::start(|seen| match seen.header("authorization") {
        None => Answer::new(401).header("www-authenticate", "Basic realm=r"),
        Some(_) => {
            Answer::new(403).body("{\"errors\": [{\"code\": \"DENIED\", \"message\": \"not\\u0007 yours\"}]}")
        }
    });
    let error = open(&registry, Some(&password("s3cret")))
        .manifest(&tag())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::WrongCredentials { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("DENIED not  yours") && !error.contains("s3cret"),
        "{error}"
    );
}
