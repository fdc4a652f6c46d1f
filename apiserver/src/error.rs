//! Why the API did not do what it was asked, and the one place where that becomes a gRPC status.
//!
//! Every status carries a `google.rpc.ErrorInfo` with the domain "clone8s.io" and a reason in UPPER_SNAKE_CASE,
//! which programs may rely on; the message is for people.

mod size;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use clone8s::{rules::Violation, v1::CallError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    fields::Conflict,
    store::{Revision, StoreError},
};

/// The domain of every ErrorInfo.
pub const ERROR_DOMAIN: &str = "clone8s.io";

/// How long a caller should wait before it tries again when something behind the API is away.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The reason where an apply would change what another manager has.
const FIELD_CONFLICT: &str = "FIELD_CONFLICT";

/// Names an object in an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectName {
    pub(crate) kind: &'static str,
    /// Empty for a kind without namespaces.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// What kept a request from being done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{what} is not valid: {}", join(.violations))]
    Invalid {
        what: String,
        violations: Vec<Violation>,
    },
    #[error("{0} not found")]
    NotFound(ObjectName),
    #[error("{0} exists already")]
    Exists(ObjectName),
    #[error("{object} has changed since resource_version {seen}: get it again and repeat the change")]
    Stale { object: ObjectName, seen: i64 },
    /// Others keep changing the object faster than this write could be placed.
    #[error("{0} keeps changing: try again")]
    Contended(ObjectName),
    #[error("{object}: {description}")]
    WrongState {
        object: ObjectName,
        /// As in ErrorInfo.
        reason: &'static str,
        description: String,
    },
    #[error("{object}: {}: apply with force to take over", join_conflicts(.conflicts))]
    FieldConflicts {
        object: ObjectName,
        /// One at least.
        conflicts: Vec<Conflict>,
    },
    #[error("{object} is {bytes} bytes, more than the {limit} that an object may have")]
    TooLarge {
        object: ObjectName,
        bytes: usize,
        limit: usize,
    },
    #[error("{object} exceeds {}", join_quotas(.quotas))]
    QuotaExceeded {
        object: ObjectName,
        /// What is exceeded of each.
        quotas: BTreeMap<String, String>,
    },
    #[error("the page token is not one that this list has given: {0}")]
    PageToken(&'static str),
    #[error(
        "revision {asked} is no longer kept (the oldest is {oldest}): list again and watch from the list's revision"
    )]
    Compacted { asked: Revision, oldest: Revision },
    #[error(
        "revision {asked} has not happened yet (the newest is {newest}), as after a restore: list again and watch \
         from the list's revision"
    )]
    Future { asked: Revision, newest: Revision },
    #[error(
        "this watch is read too slowly: what comes after revision {told} is no longer in memory; watch again from there"
    )]
    TooSlow { told: Revision },
    #[error("nothing of the backup was read for a minute: take it again, to a place that is quick enough")]
    BackupStalled,
    #[error("no client certificate: {0}")]
    Unauthenticated(&'static str),
    #[error("{caller} may not {action}: {why}")]
    Forbidden {
        caller: String,
        action: String,
        why: &'static str,
    },
    #[error("join token {id} {refusal}")]
    JoinRefused { id: String, refusal: JoinRefusal },
    #[error(
        "{0} belongs to another node already: choose another name, or make a join token for this name alone"
    )]
    NameTaken(ObjectName),
    #[error("there are {limit} {what} already")]
    TooMany { what: &'static str, limit: usize },
    #[error("node {node} is not connected to this apiserver, so it cannot be asked")]
    NodeNotConnected { node: String },
    #[error("node {node} is asked too much at once: try again")]
    NodeBusy { node: String },
    /// What a node answered to a call relayed to it.
    #[error("node {node}: {message}")]
    NodeAnswered {
        node: String,
        code: Code,
        message: String,
    },
    #[error("node {node} was lost: {what}")]
    NodeLost { node: String, what: &'static str },
    #[error("a newer stream of node {node} takes its calls: is another kubelet running under its name?")]
    LineReplaced { node: String },
    #[error("no such call is waiting: its caller has gone, or it was answered already")]
    NoSuchCall,
    #[error("the apiserver is stopping: call again")]
    Stopping,
    #[error("the store is not available: try again; the apiserver's log says why")]
    StoreUnavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A bug or broken data. The caller learns no more than that; the log has it all.
    #[error("internal error: {context}")]
    Internal {
        context: String,
        #[source]
        cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// Why a join token did not buy a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinRefusal {
    /// A wrong secret is told no more than a wrong id.
    Unknown,
    Expired,
    OtherNode,
    OtherCluster,
}

impl JoinRefusal {
    fn code(self) -> Code {
        match self {
            Self::Unknown | Self::Expired => Code::Unauthenticated,
            Self::OtherNode => Code::PermissionDenied,
            Self::OtherCluster => Code::InvalidArgument,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "JOIN_TOKEN_UNKNOWN",
            Self::Expired => "JOIN_TOKEN_EXPIRED",
            Self::OtherNode => "JOIN_TOKEN_FOR_OTHER_NODE",
            Self::OtherCluster => "JOIN_TOKEN_OF_OTHER_CLUSTER",
        }
    }
}

impl std::fmt::Display for JoinRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "is not known: it was used already, or it was never made here",
            Self::Expired => "has expired: make a new one",
            Self::OtherNode => "is for a node of another name",
            Self::OtherCluster => "is of another cluster: its root CA is not this one's",
        })
    }
}

impl ApiError {
    /// One bad field.
    pub(crate) fn field(what: impl Into<String>, field: &str, description: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            violations: vec![Violation {
                field: field.to_owned(),
                description: description.into(),
            }],
        }
    }

    pub(crate) fn internal(
        context: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal {
            context: context.into(),
            cause: Some(cause.into()),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::TooLarge { .. } | Self::PageToken(_) => Code::InvalidArgument,
            Self::NotFound(_) | Self::NoSuchCall => Code::NotFound,
            Self::Exists(_) | Self::NameTaken(_) => Code::AlreadyExists,
            Self::Stale { .. } | Self::Contended(_) | Self::LineReplaced { .. } | Self::BackupStalled => {
                Code::Aborted
            }
            Self::WrongState { .. } | Self::FieldConflicts { .. } => Code::FailedPrecondition,
            Self::Compacted { .. } | Self::Future { .. } | Self::TooSlow { .. } => Code::OutOfRange,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::JoinRefused { refusal, .. } => refusal.code(),
            Self::Forbidden { .. } => Code::PermissionDenied,
            Self::NodeBusy { .. } | Self::TooMany { .. } | Self::QuotaExceeded { .. } => {
                Code::ResourceExhausted
            }
            Self::NodeAnswered { code, .. } => *code,
            Self::NodeNotConnected { .. }
            | Self::NodeLost { .. }
            | Self::Stopping
            | Self::StoreUnavailable(_) => Code::Unavailable,
            Self::Internal { .. } => Code::Internal,
        }
    }

    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "INVALID",
            Self::TooLarge { .. } => "OBJECT_TOO_LARGE",
            Self::QuotaExceeded { .. } => "QUOTA_EXCEEDED",
            Self::PageToken(_) => "INVALID_PAGE_TOKEN",
            Self::NotFound(_) => "NOT_FOUND",
            Self::Exists(_) => "ALREADY_EXISTS",
            Self::Stale { .. } => "STALE_RESOURCE_VERSION",
            Self::Contended(_) => "CONTENDED",
            Self::WrongState { reason, .. } => reason,
            Self::FieldConflicts { .. } => FIELD_CONFLICT,
            Self::Compacted { .. } => "REVISION_COMPACTED",
            Self::Future { .. } => "REVISION_IN_FUTURE",
            Self::TooSlow { .. } => "WATCH_TOO_SLOW",
            Self::BackupStalled => "BACKUP_STALLED",
            Self::Unauthenticated(_) => "NO_CLIENT_CERTIFICATE",
            Self::JoinRefused { refusal, .. } => refusal.reason(),
            Self::NameTaken(_) => "NODE_NAME_TAKEN",
            Self::TooMany { .. } => "TOO_MANY",
            Self::Forbidden { .. } => "FORBIDDEN",
            Self::NodeBusy { .. } => "NODE_BUSY",
            Self::NodeAnswered { .. } => "NODE_ANSWERED",
            Self::NodeNotConnected { .. } => "NODE_NOT_CONNECTED",
            Self::NodeLost { .. } => "NODE_LOST",
            Self::LineReplaced { .. } => "LINE_REPLACED",
            Self::NoSuchCall => "NO_SUCH_CALL",
            Self::Stopping => "STOPPING",
            Self::StoreUnavailable(_) => "STORE_UNAVAILABLE",
            Self::Internal { .. } => "INTERNAL",
        }
    }

    fn details(&self) -> ErrorDetails {
        let mut metadata = HashMap::new();
        if let Self::Compacted { oldest, .. } = self {
            metadata.insert("oldest_revision".to_owned(), oldest.to_string());
        }
        if let Self::Future { newest, .. } = self {
            metadata.insert("newest_revision".to_owned(), newest.to_string());
        }
        if let Self::TooSlow { told } = self {
            metadata.insert("told_revision".to_owned(), told.to_string());
        }
        if let Self::Forbidden { why, .. } = self {
            metadata.insert("why".to_owned(), (*why).to_owned());
        }
        if let Self::FieldConflicts { conflicts, .. } = self
            && let Some(first) = conflicts.first()
        {
            metadata.insert("field".to_owned(), size::text(&first.field).into_owned());
            metadata.insert("manager".to_owned(), first.manager.clone());
        }
        let mut details = ErrorDetails::with_error_info(self.reason(), ERROR_DOMAIN, metadata);
        match self {
            Self::Invalid { violations, .. } => {
                let violations = size::violations(violations).into_iter();
                let fields = violations.map(|v| FieldViolation::new(v.field, v.description));
                details.set_bad_request(fields.collect::<Vec<_>>());
            }
            Self::QuotaExceeded { quotas, .. } => {
                for (quota, why) in quotas {
                    details.add_quota_failure_violation(quota, why);
                }
            }
            Self::PageToken(why) => {
                details.add_bad_request_violation("page_token", *why);
            }
            Self::NotFound(object)
            | Self::Exists(object)
            | Self::NameTaken(object)
            | Self::Stale { object, .. }
            | Self::TooLarge { object, .. } => {
                details.set_resource_info(object.kind, object.path(), "", self.to_string());
            }
            Self::Contended(object) => {
                details.set_resource_info(object.kind, object.path(), "", self.to_string());
                details.set_retry_info(Some(RETRY_AFTER));
            }
            Self::WrongState {
                object,
                reason,
                description,
            } => {
                let description = size::text(description);
                details.add_precondition_failure_violation(*reason, object.to_string(), description);
            }
            Self::FieldConflicts { conflicts, .. } => {
                let all: Vec<_> = conflicts.iter().map(Violation::from).collect();
                for Violation { field, description } in size::violations(&all) {
                    details.add_precondition_failure_violation(FIELD_CONFLICT, field, description);
                }
            }
            Self::NodeBusy { .. }
            | Self::NodeNotConnected { .. }
            | Self::NodeLost { .. }
            | Self::Stopping
            | Self::StoreUnavailable(_) => {
                details.set_retry_info(Some(RETRY_AFTER));
            }
            Self::Compacted { .. }
            | Self::Future { .. }
            | Self::TooSlow { .. }
            | Self::BackupStalled
            | Self::Unauthenticated(_)
            | Self::Forbidden { .. }
            | Self::JoinRefused { .. }
            | Self::TooMany { .. }
            | Self::LineReplaced { .. }
            | Self::NoSuchCall
            | Self::NodeAnswered { .. }
            | Self::Internal { .. } => {}
        }
        details
    }
}

impl ObjectName {
    fn path(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}

impl From<&Conflict> for Violation {
    fn from(conflict: &Conflict) -> Self {
        Self {
            field: conflict.field.clone(),
            description: conflict.manager.clone(),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let message = match &error {
            ApiError::Internal { .. } => {
                tracing::error!(
                    error = clone8s_daemon::supervisor::chain(&error),
                    "internal error"
                );
                "internal error; the apiserver's log has the details".to_owned()
            }
            ApiError::StoreUnavailable(_) => {
                tracing::warn!(
                    error = clone8s_daemon::supervisor::chain(&error),
                    "store unavailable"
                );
                error.to_string()
            }
            expected => expected.to_string(),
        };
        Status::with_error_details(error.code(), size::message(&message), error.details())
    }
}

/// The error as a part of a response, where a call does several things.
impl From<ApiError> for CallError {
    fn from(error: ApiError) -> Self {
        let reason = error.reason().to_owned();
        let status = Status::from(error);
        Self {
            code: status.code().into(),
            reason,
            message: status.message().to_owned(),
        }
    }
}

/// What a store error means where no more is known about the object; writes map Exists, NotFound and Stale
/// themselves, by what they asked for.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { asked, oldest } => Self::Compacted { asked, oldest },
            StoreError::Future { asked, newest } => Self::Future { asked, newest },
            StoreError::Unavailable(cause) => Self::StoreUnavailable(cause),
            StoreError::Exists { .. }
            | StoreError::NotFound { .. }
            | StoreError::Stale { .. }
            | StoreError::TooLarge { .. }
            | StoreError::Broken(_) => Self::internal("store", error),
        }
    }
}

fn join_conflicts(conflicts: &[Conflict]) -> String {
    conflicts
        .iter()
        .map(|Conflict { field, manager }| format!("{field} is {manager}'s"))
        .collect::<Vec<_>>()
        .join("; ")
}

fn join(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(|v| format!("{}: {}", v.field, v.description))
        .collect::<Vec<_>>()
        .join("; ")
}

fn join_quotas(exceeded: &BTreeMap<String, String>) -> String {
    exceeded
        .iter()
        .map(|(quota, why)| format!("quota {quota}: {why}"))
        .collect::<Vec<_>>()
        .join("; ")
}
