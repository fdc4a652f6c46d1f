//! Tells systemd how far we are (sd_notify(3), Type=notify). Without NOTIFY_SOCKET nobody listens.

use std::{
    env,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use anyhow::{Context as _, Result};

#[derive(Debug)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
}

impl Notifier {
    pub(super) fn from_environment() -> Result<Self> {
        let Ok(path) = env::var("NOTIFY_SOCKET") else {
            return Ok(Self { socket: None });
        };
        Self::to(&path).with_context(|| format!("NOTIFY_SOCKET={path}"))
    }

    fn to(path: &str) -> Result<Self> {
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        // Whoever listens must not be able to hold us up.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Self { socket: Some(socket) })
    }

    pub(super) fn ready(&self) {
        self.send("READY=1\nSTATUS=ready");
    }

    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping; pods run on");
    }

    pub(super) fn status(&self, text: &str) {
        self.send(&format!("STATUS={text}"));
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            tracing::warn!(%error, "cannot tell the service manager");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_reaches_the_service_manager() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        Notifier::to(path.to_str().unwrap()).unwrap().ready();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"READY=1\n"));
    }
}
