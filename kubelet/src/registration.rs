//! How the node gets its way to the apiserver, and keeps it.
//!
//! ```text
//! no certificate ──token──► joining ──certificate on disk──► joined ──2/3 of its life──► renewing ──► joined
//!       │                   │     ▲                                                        │  ▲
//!       └ no token: ends    │     └── not reachable yet: tries on                          └──┘ tries on
//!                           └── refused, or another cluster: ends, with the reason
//! ```
//! The root-only socket of an apiserver on the same machine needs none of this.

mod address;
mod channel;
#[cfg(test)]
mod fixtures;
mod handshake;
mod identity;
mod node;
mod token;

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clone8s::v1::{
    RegisterNodeRequest, RenewNodeCertificateRequest, registration_service_client::RegistrationServiceClient,
};
use clone8s_daemon::{Shutdown, backoff, channel::Channel, clock, supervisor::chain, unix};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Status};

use self::{
    address::Address,
    identity::{Identity, Keyring},
    token::Token,
};
pub use self::{
    address::AddressError,
    channel::ChannelError,
    handshake::HandshakeError,
    identity::IdentityError,
    node::{EtcdError, NodeReporter},
    token::TokenError,
};
use crate::{
    Config,
    config::{Apiserver, JoinToken},
    outage::Outage,
};

const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// The clock may jump: look at it this often while waiting for the day of a renewal.
const LOOK_AT_CLOCK: Duration = Duration::from_hours(1);

/// Joins, and renews, for as long as the kubelet runs.
#[derive(Debug)]
pub struct Registration {
    way: Way,
    api: watch::Sender<Option<Channel>>,
}

#[derive(Debug)]
enum Way {
    Socket(PathBuf),
    Tls(Member),
}

/// A node that reaches its apiserver with TLS, or is about to.
#[derive(Debug)]
struct Member {
    node: String,
    address: Address,
    keyring: Keyring,
    token: Option<JoinToken>,
    ca_file: Option<PathBuf>,
    outage: Outage,
}

/// Why a node cannot become or stay a member. None of these goes away by waiting.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("this node has no certificate{}; make a join token for it (CreateJoinToken) and start it with the token", .expired.map_or(String::new(), |at| format!(" that is still good (the last one ended at {at})")))]
    NoToken { expired: Option<jiff::Timestamp> },
    #[error("cannot read the join token from {path}", path = .path.display())]
    ReadToken {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the join token {0}")]
    Token(#[from] TokenError),
    #[error(
        "the join token does not pin the cluster's root CA; use the whole token, or give the CA's certificate as a file"
    )]
    NoTrust,
    #[error("cannot read the root CA from {path}", path = .path.display())]
    ReadCa {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the apiserver refuses to register node {node:?}: {reason}; {next_step}")]
    Refused {
        node: String,
        reason: String,
        next_step: &'static str,
    },
    #[error("{path} is the certificate of node {found:?}, but this node is {node:?}; start it under that name, or remove the folder and join anew", path = .path.display())]
    OtherNode {
        path: PathBuf,
        found: String,
        node: String,
    },
}

impl RegistrationError {
    fn is_missing_token_file(&self) -> bool {
        matches!(self, Self::ReadToken { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }
}

/// How one attempt to join ended, when not well.
enum Attempt {
    TryAgain(String),
    GiveUp(RegistrationError),
}

impl<E: Into<RegistrationError>> From<E> for Attempt {
    fn from(error: E) -> Self {
        Self::GiveUp(error.into())
    }
}

impl Registration {
    /// None for a node without an apiserver. `api` is told each new way to it.
    pub fn new(
        config: &Config,
        api: watch::Sender<Option<Channel>>,
    ) -> Result<Option<Self>, RegistrationError> {
        let way = match &config.apiserver {
            None => return Ok(None),
            Some(Apiserver::Socket(path)) => Way::Socket(path.clone()),
            Some(Apiserver::Url(url)) => Way::Tls(Member {
                node: config.node_name.clone(),
                address: Address::parse(url)?,
                keyring: Keyring::open(config.data_dir.join("pki"))?,
                token: config.join_token.clone(),
                ca_file: config.apiserver_ca.clone(),
                outage: Outage::new("registration with the apiserver"),
            }),
        };
        Ok(Some(Self { way, api }))
    }

    /// Ends early only with an error that no waiting mends.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RegistrationError> {
        match self.way {
            Way::Socket(path) => {
                self.api.send_replace(Some(unix::channel(path).into()));
                shutdown.cancelled().await;
                Ok(())
            }
            Way::Tls(mut member) => tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                ended = member.stay(&self.api) => ended,
            },
        }
    }
}

impl Member {
    async fn stay(&mut self, api: &watch::Sender<Option<Channel>>) -> Result<(), RegistrationError> {
        let mut identity = match self.kept_identity()? {
            Some(identity) if !identity.is_expired(clock::now()) => identity,
            expired => self.join(expired.as_ref()).await?,
        };
        loop {
            let channel = channel::mutual(&self.address, &identity)?;
            api.send_replace(Some(channel.clone()));
            identity = self.renewed(&identity, channel).await?;
            tracing::info!(node = self.node, until = %time(identity.not_after), "the node's certificate was renewed");
        }
    }

    fn kept_identity(&self) -> Result<Option<Identity>, RegistrationError> {
        let kept = self.keyring.load()?;
        match kept {
            Some(identity) if identity.node != self.node => Err(RegistrationError::OtherNode {
                path: self.keyring.path().to_owned(),
                found: identity.node,
                node: self.node.clone(),
            }),
            kept => Ok(kept),
        }
    }

    /// Tries until the apiserver has answered, be it with a refusal. It may not have started yet: it may even be one
    /// of the pods of this node's own folder.
    async fn join(&mut self, expired: Option<&Identity>) -> Result<Identity, RegistrationError> {
        let mut delays = backoff::reconnect();
        loop {
            let attempt = match self.read_token() {
                Ok(Some(token)) => self.try_to_join(&token).await,
                Ok(None) => {
                    let expired = expired.map(|identity| time(identity.not_after));
                    return Err(RegistrationError::NoToken { expired });
                }
                // Nobody can make a token before the apiserver runs.
                Err(error) if error.is_missing_token_file() => Err(Attempt::TryAgain(chain(&error))),
                Err(error) => return Err(error),
            };
            match attempt {
                Ok(identity) => {
                    self.outage.over();
                    tracing::info!(node = self.node, apiserver = %self.address, until = %time(identity.not_after), "the node has joined");
                    return Ok(identity);
                }
                Err(Attempt::GiveUp(error)) => return Err(error),
                Err(Attempt::TryAgain(reason)) => self.outage.failed(reason),
            }
            sleep(delays.next().unwrap_or(CALL_DEADLINE)).await;
        }
    }

    async fn try_to_join(&self, token: &Token) -> Result<Identity, Attempt> {
        let root = self.trusted_root(token).await?;
        let channel = channel::trusting(&self.address, &root)?;
        let request = self.keyring.request(&self.node)?;
        let call = RegisterNodeRequest {
            token: token.credentials().to_owned(),
            node_name: self.node.clone(),
            certificate_request: request.pem.clone(),
        };
        let mut client = RegistrationServiceClient::new(channel);
        let answer = timeout(CALL_DEADLINE, client.register_node(call))
            .await
            .map_err(|_| Attempt::TryAgain(format!("{} does not answer", self.address)))?
            .map_err(|status| self.judge(&status))?
            .into_inner();
        // The root that was trusted on the way, not the one that the answer names.
        Ok(self.keyring.store(request, answer.certificate, root)?)
    }

    /// The cluster's root CA in PEM: from the file that was given, or found by the token's pin.
    async fn trusted_root(&self, token: &Token) -> Result<String, Attempt> {
        if let Some(path) = &self.ca_file {
            return fs::read_to_string(path).map_err(|cause| {
                let path = path.clone();
                Attempt::GiveUp(RegistrationError::ReadCa { path, cause })
            });
        }
        let pin = token.pin.ok_or(RegistrationError::NoTrust)?;
        match handshake::pinned_root(&self.address, pin, clock::now()).await {
            Ok(root) => Ok(channel::pem(&root)),
            Err(error @ HandshakeError::Unreachable { .. }) => Err(Attempt::TryAgain(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    fn judge(&self, status: &Status) -> Attempt {
        let next_step = match status.code() {
            Code::AlreadyExists => "choose another name, or delete the Node that has it",
            Code::InvalidArgument => "correct what it names",
            Code::Unimplemented => "check that the address is that of a Clone8s apiserver",
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::OutOfRange => "make a new join token for this node and start it with that",
            _ => return Attempt::TryAgain(chain(status)),
        };
        Attempt::GiveUp(RegistrationError::Refused {
            node: self.node.clone(),
            reason: status.message().to_owned(),
            next_step,
        })
    }

    fn read_token(&self) -> Result<Option<Token>, RegistrationError> {
        let text = match &self.token {
            None => return Ok(None),
            Some(JoinToken::Literal(text)) => text.clone(),
            Some(JoinToken::File(path)) => {
                fs::read_to_string(path).map_err(|cause| RegistrationError::ReadToken {
                    path: path.clone(),
                    cause,
                })?
            }
        };
        Ok(Some(text.parse()?))
    }

    /// Returns with the next certificate, when it is time for it and the apiserver has given it. A node goes on with
    /// the one it has for as long as that takes.
    async fn renewed(
        &mut self,
        identity: &Identity,
        channel: Channel,
    ) -> Result<Identity, RegistrationError> {
        while let Ok(left) = identity.renew_at().duration_since(clock::now()) {
            if left.is_zero() {
                break;
            }
            sleep(left.min(LOOK_AT_CLOCK)).await;
        }
        let mut client = RegistrationServiceClient::new(channel);
        let mut delays = backoff::reconnect();
        loop {
            let request = self.keyring.request(&self.node)?;
            let call = RenewNodeCertificateRequest {
                certificate_request: request.pem.clone(),
            };
            match timeout(CALL_DEADLINE, client.renew_node_certificate(call)).await {
                Ok(Ok(answer)) => {
                    self.outage.over();
                    let certificate = answer.into_inner().certificate;
                    return Ok(self.keyring.store(request, certificate, identity.ca.clone())?);
                }
                Ok(Err(status)) => self.outage.failed(chain(&status)),
                Err(_) => self.outage.failed("the apiserver does not answer"),
            }
            if identity.is_expired(clock::now()) && self.read_token().is_ok_and(|token| token.is_some()) {
                return self.join(Some(identity)).await;
            }
            sleep(delays.next().unwrap_or(CALL_DEADLINE)).await;
        }
    }
}

fn time(time: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX)
}

#[cfg(test)]
mod tests;
