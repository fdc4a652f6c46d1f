//! The tar of a container, fed and read through ExecPod.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use clone8s::v1::ExecPodStart;
use clone8s_daemon::channel::Channel;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::{sync::mpsc, task::spawn_blocking};
use tonic::Status;

use super::{archive, extract};
use crate::{
    exec,
    session::{self, FromPod, ToPod},
};

/// Parts of an archive on their way to what reads it.
const PARTS: usize = 4;
/// What is kept of tar's complaints.
const LONGEST_COMPLAINT: usize = 4 << 10;
/// An archive of nothing: two blocks of zeros.
const EMPTY_ARCHIVE: &[u8] = &[0; 1024];

/// The container that has the tar.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) channel: Channel,
    pub(super) namespace: String,
    pub(super) pod: String,
    /// Empty for the pod's only one.
    pub(super) name: String,
}

/// How tar ended.
struct End {
    code: i32,
    complaint: Vec<u8>,
}

impl Container {
    /// Whether there is such a folder. It takes no other program than tar, which goes into the folder first of all.
    pub(super) async fn has_folder(&self, path: &str) -> Result<bool> {
        let nothing = stream::iter([ToPod::Stdin(Bytes::from_static(EMPTY_ARCHIVE)), ToPod::StdinEnd]);
        let end = self
            .tar(&["-xf", "-", "-C", path], Some(nothing.boxed()), None)
            .await?;
        Ok(end.code == 0)
    }

    /// Copies a file or folder into a folder of the container, under `name`.
    pub(super) async fn put(&self, from: PathBuf, folder: &str, name: String) -> Result<()> {
        let (sender, input) = session::requests();
        let archived = spawn_blocking(move || archive::send(&from, &name, &sender));
        let extracted = self
            .tar(&["-xmf", "-", "-C", folder], Some(input.boxed()), None)
            .await;
        // Of two errors, the one here is the cause, unless it is that tar takes no more.
        match archived.await? {
            Err(error) if !archive::is_refused(&error) => return Err(error),
            _ => {}
        }
        self.check(&extracted?)
    }

    /// Copies a file or folder of the container's folder to `target`.
    pub(super) async fn take(&self, folder: &str, name: &str, target: PathBuf) -> Result<()> {
        let (parts, received) = mpsc::channel(PARTS);
        let whole = name.to_owned();
        let extracted = spawn_blocking(move || extract::all(received, &whole, &target));
        // Not an option, whatever it begins with.
        let name = format!("./{name}");
        let archived = self
            .tar(&["-cf", "-", "-C", folder, &name], None, Some(parts))
            .await;
        extracted.await??;
        self.check(&archived?)
    }

    /// Runs tar to its end. One whose output is not wanted any more is let go.
    async fn tar(
        &self,
        args: &[&str],
        input: Option<BoxStream<'static, ToPod>>,
        output: Option<mpsc::Sender<Bytes>>,
    ) -> Result<End> {
        let command = ["tar"].iter().chain(args).map(|word| (*word).to_owned());
        let start = ExecPodStart {
            namespace: self.namespace.clone(),
            name: self.pod.clone(),
            container: self.name.clone(),
            command: command.collect(),
            stdin: input.is_some(),
            ..ExecPodStart::default()
        };
        let input = input.unwrap_or_else(|| stream::pending().boxed());
        let failed = |status: Status| self.explain(&status);
        let mut responses = exec::open(&self.channel, start, input).await.map_err(failed)?;
        let mut complaint = Vec::new();
        let mut code = None;
        while let Some(response) = responses.message().await.map_err(failed)? {
            match exec::told(response) {
                Some(FromPod::Stdout(bytes)) => {
                    if let Some(output) = &output
                        && output.send(bytes).await.is_err()
                    {
                        break;
                    }
                }
                Some(FromPod::Stderr(bytes)) => {
                    let room = LONGEST_COMPLAINT.saturating_sub(complaint.len());
                    complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Some(FromPod::ExitCode(exit)) => code = Some(exit),
                Some(FromPod::Started) | None => {}
            }
        }
        let code = code.ok_or_else(|| anyhow!("pod/{}: the end of tar was not told", self.pod))?;
        Ok(End { code, complaint })
    }

    fn check(&self, end: &End) -> Result<()> {
        if end.code == 0 {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&end.complaint);
        bail!(
            "pod/{}: tar in the container ended with exit code {}: {}",
            self.pod,
            end.code,
            complaint.trim()
        )
    }

    fn explain(&self, status: &Status) -> anyhow::Error {
        // As runc and crun say it.
        if status.message().contains("executable file") && status.message().contains("not found") {
            return anyhow!(
                "pod/{}: its image has no tar, which c8s cp needs in it: add tar to the image, or pass the file \
                 through a program that is there, as with c8s exec -i POD -- sh -c 'cat >FILE'",
                self.pod
            );
        }
        session::failed(&self.pod, status)
    }
}
