//! What the URLs that callers are given stand for: each is good once, and for a minute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::Instant;

use super::attach::Wanted;
use crate::{
    container::Container,
    error::{Error, Result},
    exec::Command,
    sandbox::Sandbox,
    table::lock,
};

/// As long as kubelets' servers keep theirs.
const LIFE: Duration = Duration::from_mins(1);
/// More at a time are refused: someone asks for URLs and does not use them.
const MOST: usize = 1000;

/// A session that somebody may have.
#[derive(Debug)]
pub(super) enum Ticket {
    Exec {
        container: Arc<Container>,
        command: Command,
        wanted: Wanted,
    },
    Attach {
        container: Arc<Container>,
        wanted: Wanted,
        /// What the client takes the container for: it opens its streams accordingly.
        tty: bool,
    },
    PortForward(Arc<Sandbox>),
}

impl Ticket {
    /// The first part of its URL's path, as in kubelets' servers.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Tickets {
    open: Mutex<HashMap<String, (Ticket, Instant)>>,
}

impl Tickets {
    /// Keeps the ticket; its path.
    pub(super) fn issue(&self, ticket: Ticket) -> Result<String> {
        let now = Instant::now();
        let mut open = lock(&self.open);
        if open.len() >= MOST {
            open.retain(|_, (_, ends)| *ends > now);
        }
        if open.len() >= MOST {
            return Err(Error::Exhausted {
                what: "streaming URLs",
                most: MOST,
                next_step: "use those that were given, or wait a minute for them to end",
            });
        }
        let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let path = format!("/{}/{token}", ticket.path());
        open.insert(path.clone(), (ticket, now + LIFE));
        Ok(path)
    }

    /// The ticket of a path, which is good no more.
    pub(super) fn take(&self, path: &str) -> Option<Ticket> {
        let (ticket, ends) = lock(&self.open).remove(path)?;
        (ends > Instant::now()).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use clone8s::cri;

    use super::*;
    use crate::{
        container::state::State,
        record::{ContainerDetail, ContainerRecord},
    };

    fn ticket() -> Ticket {
        let record = ContainerRecord {
            id: "c1".into(),
            config: cri::ContainerConfig::default(),
            detail: ContainerDetail::for_tests("s1"),
            resources: None,
            started_at: None,
            exit: None,
        };
        Ticket::Attach {
            container: Arc::new(Container::from_record(record, State::Created)),
            wanted: Wanted {
                stdin: false,
                stdout: true,
                stderr: true,
            },
            tty: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_once_and_for_a_minute() {
        let tickets = Tickets::default();
        let path = tickets.issue(ticket()).unwrap();
        assert!(path.starts_with("/attach/") && path.len() > 40, "{path}");
        assert!(tickets.take("/attach/guess").is_none());
        assert!(tickets.take(&path.replace("attach", "exec")).is_none());
        assert!(tickets.take(&path).is_some());
        assert!(tickets.take(&path).is_none());

        let late = tickets.issue(ticket()).unwrap();
        tokio::time::advance(LIFE).await;
        assert!(tickets.take(&late).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_tickets_is_refused_until_they_end() {
        let tickets = Tickets::default();
        for _ in 0..MOST {
            tickets.issue(ticket()).unwrap();
        }
        let refused = tickets.issue(ticket()).unwrap_err();
        assert!(matches!(refused, Error::Exhausted { .. }), "{refused}");
        tokio::time::advance(LIFE).await;
        tickets.issue(ticket()).unwrap();
    }
}
