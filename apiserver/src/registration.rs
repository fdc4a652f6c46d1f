//! How a node joins, and stays: join tokens, and the certificates that they buy.
//!
//! ```text
//! (none) ─CreateJoinToken─► live ─RegisterNode─► gone, and a certificate is handed out
//!                             └──── too old ───► gone
//! ```
//! A token is deleted, on the condition that nobody has touched it, before its certificate leaves the apiserver:
//! of two nodes that bring the same token, one is refused. The store keeps a token's hash, never the token.
//!
//! An answer may be lost on its way. A node that asks again with the token that it has joined with, and for the same
//! key, is answered again: nobody else can use what it gets.

mod token;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use clone8s::{
    names,
    object::Object as _,
    v1::{
        CreateJoinTokenRequest, CreateJoinTokenResponse, Node, RegisterNodeRequest, RegisterNodeResponse,
        RenewNodeCertificateResponse,
    },
};
use clone8s_daemon::clock;
use prost::Message as _;

use self::token::{JoinToken, TOKENS_PREFIX, TokenRecord};
use crate::{
    error::{ApiError, JoinRefusal, ObjectName},
    pki::{Authority, CertificateRequestError, Pki},
    registry::Key,
    store::{KeyValue, Page, Precondition, Store, StoreError},
    time::timestamp,
};

/// Who has joined, by node name.
const REGISTRATIONS_PREFIX: &str = "/clone8s/system/registrations/";

const DEFAULT_TTL: i32 = 3_600;
const LONGEST_TTL: i32 = 604_800;
/// How long after it has joined a node may ask for its answer again.
const ANSWER_AGAIN: Duration = Duration::from_hours(1);
/// Live tokens at a time.
const MOST_TOKENS: usize = 1_000;

/// A node's registration as the store keeps it.
#[derive(Clone, PartialEq, prost::Message)]
struct Registration {
    /// SHA-256 of the node's public key.
    #[prost(bytes = "vec", tag = "4")]
    key: Vec<u8>,
    /// SHA-256 of the join token's secret.
    #[prost(bytes = "vec", tag = "5")]
    secret_hash: Vec<u8>,
    /// The id of the join token.
    #[prost(string, tag = "2")]
    token: String,
    /// Seconds since 1970.
    #[prost(uint64, tag = "3")]
    registered_at: u64,
}

/// Makes join tokens and trades them for certificates.
#[derive(Debug)]
pub(crate) struct Registrar {
    store: Arc<dyn Store>,
    pki: Arc<Pki>,
}

impl Registrar {
    pub(crate) fn new(store: Arc<dyn Store>, pki: Arc<Pki>) -> Self {
        Self { store, pki }
    }

    pub(crate) async fn create_token(
        &self,
        request: CreateJoinTokenRequest,
    ) -> Result<CreateJoinTokenResponse, ApiError> {
        let now = clock::now();
        let ttl = match request.ttl_seconds {
            0 => DEFAULT_TTL,
            ttl @ 1..=LONGEST_TTL => ttl,
            ttl => {
                return Err(ApiError::field(
                    "the join token",
                    "ttl_seconds",
                    format!("is {ttl}; it must be 0 to {LONGEST_TTL}"),
                ));
            }
        };
        if !request.node_name.is_empty() {
            check_node_name(&request.node_name)?;
        }
        self.make_room(now).await?;
        let token = JoinToken::random(&self.pki.authority.fingerprint());
        let expires = now + Duration::from_secs(u64::from(ttl.unsigned_abs()));
        let record = token.record(request.node_name, expires);
        self.store
            .put(&token.key(), record.encode_to_vec().into(), Precondition::Absent)
            .await?;
        tracing::info!(token = token.id(), ttl, "made a join token");
        Ok(CreateJoinTokenResponse {
            token: token.reveal(),
            expiration_timestamp: Some(timestamp(expires)),
        })
    }

    /// Deletes the tokens that have expired, and refuses to let live ones pile up.
    async fn make_room(&self, now: SystemTime) -> Result<(), ApiError> {
        let mut live = 0;
        for stored in self.store.list(TOKENS_PREFIX, Page::default(), None).await?.items {
            if TokenRecord::read(&stored)?.is_expired(now) {
                self.consume(&stored).await?;
            } else {
                live += 1;
            }
        }
        if live < MOST_TOKENS {
            Ok(())
        } else {
            Err(ApiError::TooMany {
                what: "join tokens that have not expired",
                limit: MOST_TOKENS,
            })
        }
    }

    pub(crate) async fn register(
        &self,
        request: RegisterNodeRequest,
    ) -> Result<RegisterNodeResponse, ApiError> {
        let now = clock::now();
        let node = request.node_name;
        let token = JoinToken::parse(&request.token)
            .ok_or_else(|| ApiError::field("the registration", "token", "is not a join token"))?;
        check_node_name(&node)?;
        let refused = |refusal| ApiError::JoinRefused {
            id: token.id().to_owned(),
            refusal,
        };
        if !token.pins(&self.pki.authority.fingerprint()) {
            return Err(refused(JoinRefusal::OtherCluster));
        }
        let (Some(stored), _) = self.store.get(&token.key()).await? else {
            return match self
                .answer_again(&token, &node, &request.certificate_request, now)
                .await?
            {
                Some(answer) => Ok(answer),
                None => Err(refused(JoinRefusal::Unknown)),
            };
        };
        let record = TokenRecord::read(&stored)?;
        if !record.matches(&token) {
            return Err(refused(JoinRefusal::Unknown));
        }
        if record.is_expired(now) {
            return Err(refused(JoinRefusal::Expired));
        }
        let reserved = !record.node_name.is_empty();
        if reserved && record.node_name != node {
            return Err(refused(JoinRefusal::OtherNode));
        }
        if !reserved {
            self.check_free(&node).await?;
        }
        // Before the token is spent: a request that cannot be signed does not cost it.
        let certificate = self.sign(&request.certificate_request, &node, now)?;
        if !self.consume(&stored).await? {
            return Err(refused(JoinRefusal::Unknown));
        }
        let registration = Registration {
            key: requested_key(&request.certificate_request, &node)?,
            secret_hash: record.secret_hash().to_vec(),
            token: token.id().to_owned(),
            registered_at: now
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        };
        // With a token that is not for this name alone, the name must still be free.
        let claim = if reserved {
            Precondition::Any
        } else {
            Precondition::Absent
        };
        match self
            .store
            .put(&key(&node), registration.encode_to_vec().into(), claim)
            .await
        {
            Ok(_) => {}
            Err(StoreError::Exists { .. }) => return Err(name_taken(&node)),
            Err(error) => return Err(error.into()),
        }
        tracing::info!(node, token = token.id(), "a node has joined");
        Ok(RegisterNodeResponse {
            certificate,
            ca_certificate: self.pki.authority.certificate().to_owned(),
        })
    }

    /// The answer that a node did not get, for a token that is spent; None when it was not this node that spent it.
    async fn answer_again(
        &self,
        token: &JoinToken,
        node: &str,
        certificate_request: &str,
        now: SystemTime,
    ) -> Result<Option<RegisterNodeResponse>, ApiError> {
        let (Some(stored), _) = self.store.get(&key(node)).await? else {
            return Ok(None);
        };
        let registration = Registration::decode(stored.value)
            .map_err(|cause| ApiError::internal(format!("{}: not a registration", stored.key), cause))?;
        let joined_at = SystemTime::UNIX_EPOCH + Duration::from_secs(registration.registered_at);
        let is_the_same = registration.token == token.id()
            && token.has_secret(&registration.secret_hash)
            && registration.key == requested_key(certificate_request, node)?
            && now < joined_at + ANSWER_AGAIN;
        if !is_the_same {
            return Ok(None);
        }
        let certificate = self.sign(certificate_request, node, now)?;
        tracing::info!(
            node,
            token = token.id(),
            "a node that has joined is answered again"
        );
        Ok(Some(RegisterNodeResponse {
            certificate,
            ca_certificate: self.pki.authority.certificate().to_owned(),
        }))
    }

    /// A new certificate for a node that proves with its present one who it is.
    pub(crate) async fn renew(
        &self,
        node: &str,
        certificate_request: &str,
    ) -> Result<RenewNodeCertificateResponse, ApiError> {
        let (registration, _) = self.store.get(&key(node)).await?;
        if registration.is_none() {
            return Err(ApiError::Forbidden {
                caller: format!("node {node}"),
                action: "renew its certificate".into(),
                why: "it is no longer registered: join again with a token",
            });
        }
        Ok(RenewNodeCertificateResponse {
            certificate: self.sign(certificate_request, node, clock::now())?,
            ca_certificate: self.pki.authority.certificate().to_owned(),
        })
    }

    fn sign(&self, request: &str, node: &str, now: SystemTime) -> Result<String, ApiError> {
        self.pki
            .authority
            .sign_node(request, node, now)
            .map_err(|error| bad_request(node, &error))
    }

    /// A name belongs to whoever has registered it, or made its Node by another way.
    async fn check_free(&self, node: &str) -> Result<(), ApiError> {
        let (registration, _) = self.store.get(&key(node)).await?;
        let (object, _) = self.store.get(&Key::<Node>::parse("", node)?.path()).await?;
        if registration.is_none() && object.is_none() {
            Ok(())
        } else {
            Err(name_taken(node))
        }
    }

    /// True for the one caller that has deleted the token.
    async fn consume(&self, stored: &KeyValue) -> Result<bool, ApiError> {
        match self
            .store
            .delete(&stored.key, Precondition::Revision(stored.revision))
            .await
        {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. } | StoreError::Stale { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The store's key of a node's registration.
pub(crate) fn key(node: &str) -> String {
    format!("{REGISTRATIONS_PREFIX}{node}")
}

fn requested_key(request: &str, node: &str) -> Result<Vec<u8>, ApiError> {
    Authority::requested_key(request).map_err(|error| bad_request(node, &error))
}

fn bad_request(node: &str, error: &CertificateRequestError) -> ApiError {
    ApiError::field(format!("Node {node}"), "certificate_request", error.to_string())
}

fn name_taken(node: &str) -> ApiError {
    ApiError::NameTaken(ObjectName {
        kind: Node::KIND,
        namespace: String::new(),
        name: node.to_owned(),
    })
}

fn check_node_name(name: &str) -> Result<(), ApiError> {
    names::check_dns_label(name)
        .map_err(|error| ApiError::field(format!("Node {name:?}"), "node_name", error.to_string()))
}
