//! A cluster that moves between stores by `c8s migrate`, `c8s backup` and `c8s restore`: the same objects, and revisions
//! that never go back.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use clone8s::{
    client::{From, Query, Resource},
    object::Object as _,
    v1::{
        BatchWriteConfigMapsRequest, ConfigMap, ConfigMapWrite, CreateConfigMapRequest, Namespace,
        ObjectMeta, Pod, Secret, WatchEventType, config_map_service_client::ConfigMapServiceClient,
        config_map_write::Write,
    },
};
use clone8s_daemon::unix;
use clone8s_integration::{Etcd, Process, Sandbox, command, pki::Ca, pods, programs::program, wait};
use etcd_client::{EventType, GetOptions, WatchOptions};
use tonic::{Code, transport::Channel};

/// Objects that take a move long enough to be killed in the middle of it.
const MANY: usize = 10_000;
const OF_A_CALL: usize = 500;

/// An apiserver on the embedded store or on an etcd.
struct Server {
    process: Process,
    data_dir: PathBuf,
    socket: PathBuf,
}

impl Server {
    async fn start(sandbox: &Sandbox, name: &str, etcd: Option<&Etcd>) -> Self {
        let mut server = Self::on(sandbox, name, sandbox.make_dir(name), etcd);
        server.process.start().unwrap();
        server.ready().await;
        server
    }

    fn on(sandbox: &Sandbox, name: &str, data_dir: PathBuf, etcd: Option<&Etcd>) -> Self {
        let socket = sandbox.dir().join(format!("{name}.sock"));
        Self {
            process: sandbox
                .process(name, program("apiserver"))
                .arg("--data-dir")
                .arg(&data_dir)
                .arg("--socket")
                .arg(&socket)
                .args(etcd.map(etcd_flags).unwrap_or_default()),
            data_dir,
            socket,
        }
    }

    async fn ready(&mut self) {
        let channel = self.channel();
        wait::until("the apiserver answers", || {
            let alive = self.process.check_running();
            let channel = channel.clone();
            async move {
                alive?;
                Namespace::list_all(&channel, &Query::default()).await?;
                Ok(())
            }
        })
        .await;
    }

    fn channel(&self) -> Channel {
        unix::channel(&self.socket)
    }

    fn c8s(&self, args: &[&str]) -> command::Output {
        let server = format!("unix://{}", self.socket.display());
        let mut c8s = Command::new(program("c8s"));
        command::output(c8s.args(["--server", &server]).args(args)).unwrap()
    }
}

fn etcd_flags(etcd: &Etcd) -> Vec<OsString> {
    flags(etcd, &etcd.ca().certificate_file())
}

fn flags(etcd: &Etcd, ca: &Path) -> Vec<OsString> {
    let pair = etcd.client_pair();
    vec![
        "--etcd".into(),
        etcd.endpoint().into(),
        "--etcd-ca".into(),
        ca.into(),
        "--etcd-cert".into(),
        pair.certificate_file.clone().into(),
        "--etcd-key".into(),
        pair.key_file.clone().into(),
    ]
}

/// `c8s migrate` or `c8s restore` to its end.
fn moved(args: &[&str], etcd: Vec<OsString>) -> command::Output {
    let mut c8s = Command::new(program("c8s"));
    command::output(c8s.args(args).args(etcd)).unwrap()
}

fn succeeded(output: &command::Output, says: &str) {
    assert!(output.success, "{}", output.stderr);
    assert!(output.stdout.contains(says), "{}", output.stdout);
}

fn refused(output: &command::Output, because: &str) {
    assert_eq!(output.code, Some(1), "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(because), "{}", output.stderr);
}

/// All objects, but for the revisions of their last writes, and those revisions.
#[derive(Debug, PartialEq)]
struct Objects {
    namespaces: Vec<Namespace>,
    pods: Vec<Pod>,
    config_maps: Vec<ConfigMap>,
    secrets: Vec<Secret>,
}

struct State {
    objects: Objects,
    oldest: i64,
    /// Of the store, when the last kind was read.
    newest: i64,
}

impl State {
    async fn of(server: &Server) -> Self {
        let channel = server.channel();
        let mut revisions = Vec::new();
        let (namespaces, _) = without_revisions::<Namespace>(&channel, &mut revisions).await;
        let (pods, _) = without_revisions::<Pod>(&channel, &mut revisions).await;
        let (config_maps, _) = without_revisions::<ConfigMap>(&channel, &mut revisions).await;
        let (secrets, newest) = without_revisions::<Secret>(&channel, &mut revisions).await;
        Self {
            objects: Objects {
                namespaces,
                pods,
                config_maps,
                secrets,
            },
            oldest: *revisions.iter().min().unwrap(),
            newest,
        }
    }

    /// The same objects, whose revisions are all later.
    fn went_on_from(&self, before: &Self) {
        assert_eq!(self.objects, before.objects);
        assert!(
            self.oldest > before.newest,
            "{} after {}",
            self.oldest,
            before.newest
        );
    }
}

async fn without_revisions<O: Resource>(channel: &Channel, revisions: &mut Vec<i64>) -> (Vec<O>, i64) {
    let (mut objects, revision) = O::list_all(channel, &Query::default()).await.unwrap();
    for object in &mut objects {
        revisions.push(std::mem::take(&mut object.metadata_mut().resource_version));
    }
    (objects, revision)
}

#[allow(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn meta(name: &str) -> Option<ObjectMeta> {
    Some(ObjectMeta {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        ..ObjectMeta::default()
    })
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: meta(name),
        data: [("key".to_owned(), name.repeat(10))].into(),
        ..ConfigMap::default()
    }
}

async fn write_some(server: &Server) {
    let channel = server.channel();
    for name in ["web", "job"] {
        let pod = pods::pod(name, &[("main", "registry.invalid/none:1")]);
        let mut pod = Pod::create(&channel, pod).await.unwrap();
        let labels = &mut pod.metadata.as_mut().unwrap().labels;
        labels.insert("app".to_owned(), name.to_owned());
        Pod::update(&channel, pod).await.unwrap();
    }
    ConfigMap::create(&channel, config_map("settings")).await.unwrap();
    let secret = Secret {
        metadata: meta("key"),
        data: [("password".to_owned(), Bytes::from_static(b"\0hunter2"))].into(),
        ..Secret::default()
    };
    Secret::create(&channel, secret).await.unwrap();
}

async fn write_many(server: &Server) {
    let mut service = ConfigMapServiceClient::new(server.channel());
    let names: Vec<_> = (0..MANY).map(|number| format!("settings-{number}")).collect();
    for names in names.chunks(OF_A_CALL) {
        let writes = names.iter().map(|name| ConfigMapWrite {
            write: Some(Write::Create(CreateConfigMapRequest {
                config_map: Some(config_map(name)),
                ..CreateConfigMapRequest::default()
            })),
        });
        let request = BatchWriteConfigMapsRequest {
            writes: writes.collect(),
        };
        let answer = service.batch_write_config_maps(request).await.unwrap();
        let mut results = answer.into_inner().results.into_iter();
        assert!(results.all(|result| result.error.is_none()));
    }
}

/// Who has seen a revision of before is told to begin anew, in a watch as in a write.
async fn before_is_forgotten(server: &Server, before: &State) {
    let channel = server.channel();
    for revision in [before.oldest, before.newest] {
        let error = match Pod::watch(&channel, &Query::default(), From::Revision(revision)).await {
            Ok(mut watch) => watch.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
    }
    let mut pod = Pod::get(&channel, "default", "web").await.unwrap();
    pod.metadata_mut().resource_version = before.newest;
    let error = Pod::update(&channel, pod).await.unwrap_err();
    assert_eq!(error.code(), Code::Aborted, "{error:?}");
}

/// A watch from now on gets what is written now.
async fn goes_on(server: &Server, now: &State) {
    let channel = server.channel();
    let from = From::Revision(now.newest);
    let mut watch = ConfigMap::watch(&channel, &Query::default(), from).await.unwrap();
    ConfigMap::create(&channel, config_map("later")).await.unwrap();
    let event = loop {
        let event = watch.next().await.unwrap().unwrap();
        if event.kind != WatchEventType::Bookmark {
            break event;
        }
    };
    assert_eq!(event.kind, WatchEventType::Added);
    assert_eq!(event.object.unwrap().metadata.unwrap().name, "later");
    assert!(event.revision > now.newest);
    ConfigMap::delete(
        &channel,
        "default",
        "later",
        &clone8s::client::DeleteOptions::default(),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_cluster_moves_into_etcd_and_by_a_backup_into_another() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let (first_etcd, second_etcd) = (Etcd::start(&sandbox).await, Etcd::start(&other).await);
    let mut server = Server::start(&sandbox, "server", None).await;
    write_some(&server).await;
    let embedded = State::of(&server).await;

    let data_dir = server.data_dir.clone();
    let migrate = ["migrate", "--apiserver-dir", data_dir.to_str().unwrap()];
    refused(
        &moved(&migrate, etcd_flags(&first_etcd)),
        "another process has this store open",
    );
    server.process.stop().unwrap();
    let stranger = Ca::new(&sandbox.make_dir("stranger"), "another root").unwrap();
    let not_trusted = flags(&first_etcd, &stranger.certificate_file());
    refused(&moved(&migrate, not_trusted.clone()), "certificate");
    succeeded(&moved(&migrate, etcd_flags(&first_etcd)), "migrated");
    // The one that was left behind is out of the way, so that nothing goes on from it.
    refused(&moved(&migrate, etcd_flags(&second_etcd)), "no embedded store");

    let mut server = Server::on(&sandbox, "migrated", data_dir.clone(), Some(&first_etcd));
    server.process.start().unwrap();
    server.ready().await;
    let migrated = State::of(&server).await;
    migrated.went_on_from(&embedded);
    before_is_forgotten(&server, &embedded).await;
    goes_on(&server, &migrated).await;

    let file = sandbox.dir().join("backup");
    let file = file.to_str().unwrap();
    let at_backup = State::of(&server).await;
    succeeded(&server.c8s(&["backup", file]), "entries at revision");
    ConfigMap::create(&server.channel(), config_map("of-after-the-backup"))
        .await
        .unwrap();
    let at_the_end = State::of(&server).await;
    server.process.stop().unwrap();

    let place = sandbox.make_dir("restored");
    let restore = ["restore", file, "--apiserver-dir", place.to_str().unwrap()];
    refused(&moved(&restore, etcd_flags(&first_etcd)), "holds objects already");
    refused(&moved(&restore, not_trusted), "certificate");
    succeeded(&moved(&restore, etcd_flags(&second_etcd)), "restored");
    let mut server = Server::on(&sandbox, "restored", place, Some(&second_etcd));
    server.process.start().unwrap();
    server.ready().await;
    let restored = State::of(&server).await;
    restored.went_on_from(&at_backup);
    before_is_forgotten(&server, &at_backup).await;
    before_is_forgotten(&server, &at_the_end).await;
    goes_on(&server, &restored).await;

    drop((server, first_etcd, second_etcd));
    sandbox.assert_nothing_left().await;
    other.assert_nothing_left().await;
}

/// Kills a move as soon as etcd has its first objects.
async fn kill_in_the_middle(sandbox: &Sandbox, args: &[&str], etcd: &Etcd) {
    let mut client = etcd.client().await.unwrap();
    let objects = "/clone8s/objects/";
    let options = WatchOptions::new().with_prefix();
    let mut watch = client.watch(objects, Some(options)).await.unwrap();
    let mut c8s = sandbox
        .process(args[0], program("c8s"))
        .args(args)
        .args(etcd_flags(etcd))
        .started();
    let written = async {
        // Not what an earlier try has left there, which goes first.
        let is_put = |event: &etcd_client::Event| event.event_type() == EventType::Put;
        while !watch
            .message()
            .await
            .unwrap()
            .unwrap()
            .events()
            .iter()
            .any(is_put)
        {}
    };
    tokio::time::timeout(wait::BOUND, written).await.unwrap();
    c8s.kill();
    let options = GetOptions::new().with_prefix().with_count_only();
    let count = client.get(objects, Some(options)).await.unwrap().count();
    let there = usize::try_from(count).unwrap();
    assert!(
        (1..MANY).contains(&there),
        "{there} objects are there\n{}",
        c8s.log()
    );

    // A part is not taken for a cluster.
    let mut server = Server::on(sandbox, "too-early", sandbox.make_dir("too-early"), Some(etcd));
    server.process.start().unwrap();
    let ended = server.process.wait(Duration::from_secs(30)).unwrap();
    assert!(!ended.success());
    assert!(
        server.process.log().contains("not finished"),
        "{}",
        server.process.log()
    );
}

#[tokio::test]
async fn a_move_that_is_killed_in_the_middle_is_done_by_the_next_one() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let (first_etcd, second_etcd) = (Etcd::start(&sandbox).await, Etcd::start(&other).await);
    let mut server = Server::start(&sandbox, "server", None).await;
    write_some(&server).await;
    write_many(&server).await;
    let before = State::of(&server).await;
    let file = sandbox.dir().join("backup");
    let file = file.to_str().unwrap();
    succeeded(&server.c8s(&["backup", file]), "entries at revision");
    server.process.stop().unwrap();

    let data_dir = server.data_dir.clone();
    let migrate = ["migrate", "--apiserver-dir", data_dir.to_str().unwrap()];
    let place = sandbox.make_dir("restored");
    let restore = ["restore", file, "--apiserver-dir", place.to_str().unwrap()];
    for (args, etcd, data_dir) in [
        (&migrate[..], &first_etcd, data_dir.clone()),
        (&restore[..], &second_etcd, place.clone()),
    ] {
        for _ in 0..2 {
            kill_in_the_middle(&sandbox, args, etcd).await;
        }
        succeeded(&moved(args, etcd_flags(etcd)), "entries");
        let name = format!("after-{}", args[0]);
        let mut server = Server::on(&sandbox, &name, data_dir, Some(etcd));
        server.process.start().unwrap();
        server.ready().await;
        let now = State::of(&server).await;
        now.went_on_from(&before);
        before_is_forgotten(&server, &before).await;
    }
    drop((server, first_etcd, second_etcd));
    sandbox.assert_nothing_left().await;
    other.assert_nothing_left().await;
}
