//! A blob as one stream, from however many connections it takes.

use std::{
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use reqwest::Response;

use super::{Repository, failure::Failure, rounds::Rounds};
use crate::{
    containerd::BlobStream,
    images::{ImageError, config::Descriptor, progress::Layer},
    table::lock,
};

/// What a stream has to tell besides its bytes.
#[derive(Debug, Default)]
pub(in crate::images) struct Tale {
    /// Why it broke off, for the person who asked.
    pub(in crate::images) error: Option<ImageError>,
    /// The places that its bytes came from, by their place in the list of hosts.
    pub(in crate::images) served_by: Vec<usize>,
}

struct Reader {
    repository: Arc<Repository>,
    blob: Descriptor,
    progress: Arc<Layer>,
    tale: Arc<Mutex<Tale>>,
    rounds: Rounds,
    /// The next byte wanted.
    at: u64,
    connection: Option<Connection>,
}

struct Connection {
    place: usize,
    answer: Response,
    /// Bytes that were not asked for, and come first.
    skip: u64,
}

impl Repository {
    /// The bytes of a blob from `offset` on, from any place but `except`. A broken connection goes on where it broke.
    pub(in crate::images) fn blob(
        self: &Arc<Self>,
        blob: &Descriptor,
        offset: u64,
        except: &[usize],
        progress: &Arc<Layer>,
    ) -> (BlobStream, Arc<Mutex<Tale>>) {
        let tale = Arc::new(Mutex::new(Tale::default()));
        let places = self.places(|host| host.capabilities.pull);
        let reader = Reader {
            repository: Arc::clone(self),
            blob: blob.clone(),
            progress: Arc::clone(progress),
            tale: Arc::clone(&tale),
            rounds: Rounds::new(
                places
                    .into_iter()
                    .filter(|place| !except.contains(place))
                    .collect(),
            ),
            at: offset,
            connection: None,
        };
        progress.reach(offset);
        let stream = stream::try_unfold(reader, |mut reader| async {
            let part = reader.next().await?;
            Ok(part.map(|part| (part, reader)))
        });
        (stream.boxed(), tale)
    }
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.at < self.blob.size {
            if self.connection.is_none() {
                self.connect().await?;
            }
            let Some(connection) = &mut self.connection else {
                continue;
            };
            let failure = match connection.answer.chunk().await {
                Ok(Some(mut part)) => {
                    let skipped = connection.skip.min(part.len() as u64);
                    connection.skip -= skipped;
                    let part = part.split_off(usize::try_from(skipped).unwrap_or(part.len()));
                    if part.is_empty() {
                        continue;
                    }
                    if part.len() as u64 > self.blob.size - self.at {
                        Failure::Wrong(format!(
                            "sends more of {} than the {} bytes that the manifest tells",
                            self.blob.digest, self.blob.size
                        ))
                    } else {
                        self.at += part.len() as u64;
                        self.progress.reach(self.at);
                        self.rounds.got_on();
                        return Ok(Some(part));
                    }
                }
                Ok(None) => Failure::passing(format!(
                    "the connection ended after {} of {} bytes",
                    self.at, self.blob.size
                )),
                Err(error) => Failure::from(error),
            };
            let place = connection.place;
            self.connection = None;
            self.broken(place, failure);
        }
        Ok(None)
    }

    /// Opens a connection to the first place that gives one.
    async fn connect(&mut self) -> io::Result<()> {
        while let Some(place) = self.rounds.next().await {
            let endpoint = &self.repository.endpoints[place];
            match endpoint.blob(&self.blob.digest, self.at).await {
                Ok((start, answer)) => {
                    let mut tale = lock(&self.tale);
                    if !tale.served_by.contains(&place) {
                        tale.served_by.push(place);
                    }
                    self.connection = Some(Connection {
                        place,
                        answer,
                        skip: self.at - start,
                    });
                    return Ok(());
                }
                Err(Failure::Absent) => {
                    let missing = format!("has no blob {}, which its manifest refers to", self.blob.digest);
                    self.broken(place, Failure::Wrong(missing));
                }
                Err(failure) => self.broken(place, failure),
            }
        }
        let rounds = std::mem::replace(&mut self.rounds, Rounds::new(Vec::new()));
        let error = self.repository.explain(rounds.into_failures());
        let told = error.to_string();
        lock(&self.tale).error = Some(error);
        Err(io::Error::other(told))
    }

    fn broken(&mut self, place: usize, failure: Failure) {
        tracing::debug!(
            image = self.repository.image,
            host = self.repository.endpoints[place].host.name(),
            blob = %self.blob.digest,
            at = self.at,
            problem = failure.brief(),
            "blob broke off"
        );
        self.rounds.failed(place, failure);
    }
}
