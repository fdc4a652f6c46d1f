use std::sync::atomic::Ordering;

use tokio::{task::JoinSet, time::timeout};

use super::{
    fixtures::{Ca, Clerk, any_port, serve, silent_port},
    *,
};

const SOON: Duration = Duration::from_secs(20);

struct Node {
    dir: tempfile::TempDir,
    api: watch::Receiver<Option<Channel>>,
    shutdown: Shutdown,
    tasks: JoinSet<Result<(), RegistrationError>>,
}

impl Node {
    fn start(dir: tempfile::TempDir, url: &str, token: Option<&str>) -> Self {
        Self::start_as("node-1", dir, url, token)
    }

    fn start_as(name: &str, dir: tempfile::TempDir, url: &str, token: Option<&str>) -> Self {
        let token = token.map(|token| JoinToken::Literal(token.to_owned()));
        Self::start_with(name, dir, url, token)
    }

    fn start_with(name: &str, dir: tempfile::TempDir, url: &str, token: Option<JoinToken>) -> Self {
        let mut config = Config::new(name);
        config.data_dir = dir.path().to_owned();
        config.apiserver = Some(Apiserver::Url(url.to_owned()));
        config.join_token = token;
        let (sender, api) = watch::channel(None);
        let registration = Registration::new(&config, sender).unwrap().unwrap();
        let shutdown = Shutdown::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(registration.run(shutdown.clone()));
        Self {
            dir,
            api,
            shutdown,
            tasks,
        }
    }

    async fn joined(&mut self) -> Channel {
        let joined = self.api.wait_for(Option::is_some);
        timeout(SOON, joined)
            .await
            .expect("joins")
            .unwrap()
            .clone()
            .unwrap()
    }

    async fn stop(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
        self.dir
    }

    /// Why the program ends.
    async fn end(mut self) -> String {
        let ended = timeout(SOON, self.tasks.join_next()).await.expect("ends");
        ended.unwrap().unwrap().unwrap_err().to_string()
    }
}

fn new_dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

async fn served(tasks: &mut JoinSet<()>, clerk: &Clerk) -> String {
    format!("https://{}", serve(tasks, clerk, any_port().await).await)
}

#[tokio::test]
async fn a_node_joins_once_and_a_restart_needs_no_token() {
    let mut servers = JoinSet::new();
    let clerk = Clerk::new(Ca::new("ours"));
    let url = served(&mut servers, &clerk).await;
    let token = clerk.ca.token();
    let mut node = Node::start(new_dir(), &url, Some(&token));
    node.joined().await;
    let dir = node.stop().await;

    let mut node = Node::start(dir, &url, None);
    let channel = node.joined().await;
    assert_eq!(clerk.registered.load(Ordering::SeqCst), 1);
    // The certificate reaches the apiserver: it answers only nodes that show one.
    let request = node_request(&node);
    RegistrationServiceClient::new(channel)
        .renew_node_certificate(request)
        .await
        .unwrap();
}

fn node_request(node: &Node) -> RenewNodeCertificateRequest {
    let keyring = Keyring::open(node.dir.path().join("pki")).unwrap();
    RenewNodeCertificateRequest {
        certificate_request: keyring.request("node-1").unwrap().pem,
    }
}

#[tokio::test]
async fn a_token_file_that_comes_later_is_waited_for() {
    let mut servers = JoinSet::new();
    let clerk = Clerk::new(Ca::new("ours"));
    let url = served(&mut servers, &clerk).await;
    let dir = new_dir();
    let file = dir.path().join("join-token");
    let mut node = Node::start_with("node-1", dir, &url, Some(JoinToken::File(file.clone())));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.api.borrow().is_none() && node.tasks.try_join_next().is_none());
    fs::write(file, clerk.ca.token()).unwrap();
    node.joined().await;
}

#[tokio::test]
async fn an_apiserver_that_starts_later_is_waited_for() {
    let mut servers = JoinSet::new();
    let clerk = Clerk::new(Ca::new("ours"));
    let port = silent_port();
    let at = port.local_addr().unwrap();
    let mut node = Node::start(new_dir(), &format!("https://{at}"), Some(&clerk.ca.token()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.api.borrow().is_none() && node.tasks.try_join_next().is_none());
    serve(&mut servers, &clerk, port.listen(16).unwrap()).await;
    node.joined().await;
}

#[tokio::test]
async fn another_clusters_ca_ends_the_program_before_the_token_is_shown() {
    let mut servers = JoinSet::new();
    let clerk = Clerk::new(Ca::new("theirs"));
    let url = served(&mut servers, &clerk).await;
    let reason = Node::start(new_dir(), &url, Some(&Ca::new("ours").token()))
        .end()
        .await;
    assert!(reason.contains("belongs to another cluster"), "{reason}");
    assert!(!reason.contains("secret"), "{reason}");
    assert_eq!(clerk.registered.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn each_refusal_ends_the_program_with_the_reason_and_the_next_step() {
    let cases = [
        (
            Status::unauthenticated("the token was used"),
            "the token was used",
            "make a new join token",
        ),
        (
            Status::permission_denied("the token is expired"),
            "the token is expired",
            "make a new join token",
        ),
        (
            Status::already_exists("node-1 is taken"),
            "node-1 is taken",
            "choose another name",
        ),
    ];
    for (status, reason, next_step) in cases {
        let mut servers = JoinSet::new();
        let clerk = Clerk::new(Ca::new("ours"));
        *clerk.refusal.lock().unwrap() = Some(status);
        let url = served(&mut servers, &clerk).await;
        let words = Node::start(new_dir(), &url, Some(&clerk.ca.token())).end().await;
        assert!(words.contains(reason) && words.contains(next_step), "{words}");
    }
}

#[tokio::test]
async fn an_apiserver_in_trouble_is_asked_again() {
    let mut servers = JoinSet::new();
    let clerk = Clerk::new(Ca::new("ours"));
    *clerk.refusal.lock().unwrap() = Some(Status::unavailable("no store yet"));
    let url = served(&mut servers, &clerk).await;
    let mut node = Node::start(new_dir(), &url, Some(&clerk.ca.token()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.api.borrow().is_none());
    *clerk.refusal.lock().unwrap() = None;
    node.joined().await;
}

#[tokio::test]
async fn a_certificate_past_two_thirds_of_its_life_is_renewed() {
    let mut servers = JoinSet::new();
    let mut clerk = Clerk::new(Ca::new("ours"));
    clerk.life = Duration::from_secs(5);
    let url = served(&mut servers, &clerk).await;
    let mut node = Node::start(new_dir(), &url, Some(&clerk.ca.token()));
    node.joined().await;
    let first = std::fs::read_to_string(node.dir.path().join("pki/node.pem")).unwrap();
    node.api.mark_unchanged();
    timeout(SOON, node.api.changed())
        .await
        .expect("a new channel")
        .unwrap();
    assert!(clerk.renewed.load(Ordering::SeqCst) >= 1);
    assert_ne!(
        std::fs::read_to_string(node.dir.path().join("pki/node.pem")).unwrap(),
        first
    );
}

#[tokio::test]
async fn a_node_without_a_token_and_without_a_certificate_says_what_it_needs() {
    let reason = Node::start(new_dir(), "https://127.0.0.1:1", None).end().await;
    assert!(reason.contains("make a join token"), "{reason}");
}

#[tokio::test]
async fn a_data_folder_of_another_node_is_refused() {
    let mut servers = JoinSet::new();
    let clerk = Clerk::new(Ca::new("ours"));
    let url = served(&mut servers, &clerk).await;
    let mut node = Node::start(new_dir(), &url, Some(&clerk.ca.token()));
    node.joined().await;
    let dir = node.stop().await;
    let reason = Node::start_as("node-2", dir, &url, None).end().await;
    assert!(
        reason.contains("\"node-1\"") && reason.contains("\"node-2\""),
        "{reason}"
    );
}

#[tokio::test]
async fn a_token_without_a_pin_needs_the_ca_as_a_file() {
    let mut servers = JoinSet::new();
    let clerk = Clerk::new(Ca::new("ours"));
    let url = served(&mut servers, &clerk).await;
    let reason = Node::start(new_dir(), &url, Some("id.secret")).end().await;
    assert!(reason.contains("does not pin"), "{reason}");

    let dir = new_dir();
    let ca = dir.path().join("given-ca.crt");
    std::fs::write(&ca, &clerk.ca.pem).unwrap();
    let mut config = Config::new("node-1");
    config.data_dir = dir.path().to_owned();
    config.apiserver = Some(Apiserver::Url(url));
    config.apiserver_ca = Some(ca);
    config.join_token = Some(JoinToken::Literal("id.secret".to_owned()));
    let (sender, mut api) = watch::channel(None);
    let registration = Registration::new(&config, sender).unwrap().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(registration.run(Shutdown::new()));
    timeout(SOON, api.wait_for(Option::is_some))
        .await
        .expect("joins")
        .unwrap();
}
