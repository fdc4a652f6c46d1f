//! Clients that write and read pods at random through all apiservers, and keep a record of what they were told.
//!
//! What a client's nth call is comes from the seed alone; only what it has seen by then depends on the run.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use clone8s::v1::{
    ApplyPodRequest, CreatePodRequest, DeletePodRequest, GetPodRequest, ListPodsRequest, Pod, PodStatus,
    UpdatePodRequest, UpdatePodStatusRequest, pod_service_client::PodServiceClient,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    Clock,
    history::{
        COLOR, Outcome, Read, Refusal, Revision, Selector, Shown, Span, TOKEN, Version, Write, WriteKind,
    },
};
use crate::pods;

/// Few, so that clients meet.
const NAMES: usize = 8;
pub(super) const COLORS: [&str; 3] = ["red", "green", "blue"];

/// Shorter than the apiserver's patience with its store, so that some calls end before they are answered.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often a call with a request_id is sent.
const TRIES: usize = 4;
const PAGE: i32 = 3;

/// One client.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) seed: u64,
    pub(super) channels: Vec<Channel>,
    pub(super) clock: Clock,
    /// The last revision that it has seen of each pod.
    seen: HashMap<String, Revision>,
    record: Record,
}

/// What a client did.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) writes: Vec<Write>,
    pub(super) reads: Vec<Read>,
}

impl Client {
    pub(super) fn new(number: usize, seed: u64, channels: Vec<Channel>, clock: Clock) -> Self {
        Self {
            number,
            seed,
            channels,
            clock,
            seen: HashMap::new(),
            record: Record::default(),
        }
    }

    /// One call after another until a moment.
    pub(super) async fn run(mut self, until: Instant) -> Record {
        let mut count = 0;
        while Instant::now() < until {
            let mut rng = rng(self.seed, self.number, count);
            sleep(Duration::from_millis(rng.random_range(0..60))).await;
            match rng.random_range(0..100) {
                0..65 => self.write(&mut rng, count).await,
                65..85 => self.get(&mut rng).await,
                _ => self.list(&mut rng).await,
            }
            count += 1;
        }
        self.record
    }

    async fn write(&mut self, rng: &mut StdRng, count: u64) {
        let kinds = [
            WriteKind::Create,
            WriteKind::Create,
            WriteKind::Update,
            WriteKind::Update,
            WriteKind::UpdateStatus,
            WriteKind::Apply,
            WriteKind::Delete,
        ];
        let kind = kinds[rng.random_range(0..kinds.len())];
        let name = pod_name(rng);
        let careful = rng.random_bool(0.5) && kind != WriteKind::Create;
        let writes_color = matches!(kind, WriteKind::Create | WriteKind::Update | WriteKind::Apply);
        let color = COLORS[rng.random_range(0..COLORS.len())];
        let mut write = Write {
            kind,
            token: format!("{}-{count}", self.number),
            color: if writes_color { color } else { "" }.to_owned(),
            seen: self.seen.get(&name).copied().filter(|_| careful),
            span: self.clock.instant(),
            named: rng.random_bool(0.4),
            outcome: Outcome::Unknown,
            name,
        };
        let tries = if write.named { TRIES } else { 1 };
        for number in 0..tries {
            let channel = self.channel(rng);
            let answer = timeout(PATIENCE, send(&write, channel)).await;
            write.outcome = match answer.map(|answer| answer.map_err(|status| refusal(&status))) {
                Ok(Ok(pod)) => {
                    let revision = Version::of(&pod).revision;
                    self.seen.insert(write.name.clone(), revision);
                    // A repetition is answered with the object as it is by then.
                    if number == 0 {
                        Outcome::Done(revision)
                    } else {
                        Outcome::DoneSometime
                    }
                }
                // What was sent before may be on its way still.
                Ok(Err(Some(_))) if number > 0 => break,
                Ok(Err(Some(refusal))) => Outcome::Refused(refusal),
                Ok(Err(None)) | Err(_) => Outcome::Unknown,
            };
            if write.outcome != Outcome::Unknown {
                break;
            }
            sleep(Duration::from_millis(rng.random_range(50..400))).await;
        }
        write.span.ended = self.clock.now();
        self.record.writes.push(write);
    }

    async fn get(&mut self, rng: &mut StdRng) {
        let name = pod_name(rng);
        let begun = self.clock.now();
        let request = GetPodRequest {
            namespace: "default".to_owned(),
            name: name.clone(),
        };
        let mut service = PodServiceClient::new(self.channel(rng));
        let Ok(answer) = timeout(PATIENCE, service.get_pod(request)).await else {
            return;
        };
        let shown = match answer {
            Ok(response) => {
                let version = response.into_inner().pod.as_ref().map(Version::of);
                let revision = version.as_ref().map_or(0, |version| version.revision);
                self.seen.insert(name.clone(), revision);
                Shown::Object { name, version }
            }
            Err(status) => match refusal(&status) {
                Some(Refusal::NotFound) => Shown::Object { name, version: None },
                Some(other) => Shown::Failed(format!("{other:?}")),
                None => return,
            },
        };
        self.shown(begun, shown);
    }

    /// All pages, each from whatever apiserver.
    async fn list(&mut self, rng: &mut StdRng) {
        let selector = selector(rng);
        let begun = self.clock.now();
        let mut request = ListPodsRequest {
            namespace: "default".to_owned(),
            page_size: PAGE,
            ..selector.request()
        };
        let mut revision = None;
        let mut items = Vec::new();
        loop {
            let mut service = PodServiceClient::new(self.channel(rng));
            let Ok(answer) = timeout(PATIENCE, service.list_pods(request.clone())).await else {
                return;
            };
            let page = match answer.map_err(|status| refusal(&status)) {
                Ok(response) => response.into_inner(),
                Err(Some(other)) => return self.shown(begun, Shown::Failed(format!("{other:?}"))),
                Err(None) => return,
            };
            let first = *revision.get_or_insert(page.resource_version);
            if page.resource_version != first || page.pods.len() > 3 {
                let wrong = format!(
                    "a page of {} pods at {}, not {first}",
                    page.pods.len(),
                    page.resource_version
                );
                return self.shown(begun, Shown::Failed(wrong));
            }
            items.extend(page.pods.iter().map(named_version));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                let revision = first;
                return self.shown(
                    begun,
                    Shown::List {
                        selector,
                        revision,
                        items,
                    },
                );
            }
        }
    }

    fn shown(&mut self, begun: Duration, shown: Shown) {
        let ended = self.clock.now();
        self.record.reads.push(Read {
            span: Span { begun, ended },
            shown,
        });
    }

    fn channel(&self, rng: &mut StdRng) -> Channel {
        self.channels[rng.random_range(0..self.channels.len())].clone()
    }
}

impl Selector {
    pub(super) fn request(&self) -> ListPodsRequest {
        let (label_selector, field_selector) = match self {
            Self::All => Default::default(),
            Self::Color(color) => (format!("{COLOR}={color}"), String::new()),
            Self::NotColor(color) => (format!("{COLOR}!={color}"), String::new()),
            Self::Name(name) => (String::new(), format!("metadata.name={name}")),
        };
        ListPodsRequest {
            label_selector,
            field_selector,
            ..ListPodsRequest::default()
        }
    }
}

pub(super) fn selector(rng: &mut StdRng) -> Selector {
    let color = COLORS[rng.random_range(0..COLORS.len())];
    match rng.random_range(0..4) {
        0 => Selector::All,
        1 => Selector::Color(color),
        2 => Selector::NotColor(color),
        _ => Selector::Name(pod_name(rng)),
    }
}

/// The choices of one client's nth step: how often others had to be repeated does not change them.
pub(super) fn rng(seed: u64, client: usize, count: u64) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(client as u64).to_le_bytes());
    bytes[16..24].copy_from_slice(&count.to_le_bytes());
    StdRng::from_seed(bytes)
}

fn pod_name(rng: &mut StdRng) -> String {
    format!("pod-{}", rng.random_range(0..NAMES))
}

pub(super) fn named_version(pod: &Pod) -> (String, Version) {
    let name = pod.metadata.as_ref().map(|meta| meta.name.clone());
    (name.unwrap_or_default(), Version::of(pod))
}

async fn send(write: &Write, channel: Channel) -> Result<Pod, Status> {
    let mut service = PodServiceClient::new(channel);
    let request_id = if write.named {
        write.token.clone()
    } else {
        String::new()
    };
    let pod = Some(pod(write));
    let answered = match write.kind {
        WriteKind::Create => {
            let request = CreatePodRequest {
                pod,
                request_id,
                ..CreatePodRequest::default()
            };
            service.create_pod(request).await?.into_inner().pod
        }
        WriteKind::Update => {
            let request = UpdatePodRequest {
                pod,
                request_id,
                ..UpdatePodRequest::default()
            };
            service.update_pod(request).await?.into_inner().pod
        }
        WriteKind::UpdateStatus => {
            let request = UpdatePodStatusRequest {
                pod,
                request_id,
                ..UpdatePodStatusRequest::default()
            };
            service.update_pod_status(request).await?.into_inner().pod
        }
        WriteKind::Apply => {
            let request = ApplyPodRequest {
                pod,
                request_id,
                field_manager: "robustness".to_owned(),
                force: true,
                ..ApplyPodRequest::default()
            };
            service.apply_pod(request).await?.into_inner().pod
        }
        WriteKind::Delete => {
            let request = DeletePodRequest {
                namespace: "default".to_owned(),
                name: write.name.clone(),
                resource_version: write.seen.unwrap_or(0),
                request_id,
                ..DeletePodRequest::default()
            };
            service.delete_pod(request).await?.into_inner().pod
        }
    };
    answered.ok_or_else(|| Status::invalid_argument("the answer holds no pod"))
}

fn pod(write: &Write) -> Pod {
    let mut pod = pods::pod(&write.name, &[("main", "registry.invalid/none:1")]);
    if let Some(meta) = &mut pod.metadata {
        meta.resource_version = write.seen.unwrap_or(0);
        meta.annotations = BTreeMap::from([(TOKEN.to_owned(), write.token.clone())]);
        meta.labels = BTreeMap::from([(COLOR.to_owned(), write.color.clone())]);
    }
    if write.kind == WriteKind::UpdateStatus {
        pod.status = Some(PodStatus {
            phase: "Pending".to_owned(),
            message: write.token.clone(),
            ..PodStatus::default()
        });
    }
    pod
}

/// None where nobody can say whether the call was done.
pub(super) fn refusal(status: &Status) -> Option<Refusal> {
    let reason = status.get_details_error_info().map(|info| info.reason);
    match status.code() {
        Code::AlreadyExists => Some(Refusal::Exists),
        Code::NotFound => Some(Refusal::NotFound),
        Code::Aborted => Some(Refusal::Stale),
        Code::Unavailable | Code::DeadlineExceeded => None,
        // Without details it is the connection's end, as the library tells it.
        Code::Cancelled | Code::Unknown | Code::Internal if reason.is_none() => None,
        code => Some(Refusal::Other(format!(
            "{code:?} {reason:?}: {}",
            status.message()
        ))),
    }
}
