//! gRPC over unix sockets: serve on one, and connect to one.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint};

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{path}: another process is serving this socket; stop it or choose another path", path = .0.display())]
    InUse(PathBuf),
    #[error("{path}: exists and is not a socket; remove it or choose another path", path = .0.display())]
    NotASocket(PathBuf),
    #[error("cannot listen on {path}", path = .path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// Listens on a socket that only its owner may use (mode 0600), making its folder (mode 0700) where it is missing
/// and taking the place of a socket that a dead process left.
pub async fn listen(path: &Path) -> Result<UnixListenerStream, ListenError> {
    let failed = |cause| ListenError::Io {
        path: path.to_owned(),
        cause,
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent).map_err(failed)?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(ListenError::InUse(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(UnixListenerStream::new(listener))
}

/// A channel to the server on a unix socket, connected on first use and again after every break.
pub fn channel(path: impl Into<PathBuf>) -> Channel {
    connect(&endpoint(), path.into())
}

/// The same for one call alone, which has at most so many bytes on their way here that nobody has read.
pub fn channel_of_window(path: impl Into<PathBuf>, bytes: u32) -> Channel {
    let endpoint = endpoint()
        .initial_stream_window_size(bytes)
        .initial_connection_window_size(bytes);
    connect(&endpoint, path.into())
}

/// The name is never resolved: [`connect`] ignores it.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://localhost")
}

fn connect(endpoint: &Endpoint, path: PathBuf) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let connected = UnixStream::connect(&path).await.map(TokioIo::new);
            // The caller knows what it asked for, and not where.
            connected.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_its_owner_alone_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/api.sock");
        drop(listen(&path).await.unwrap());
        let _again = listen(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_socket_in_use_is_refused_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let _first = listen(&path).await.unwrap();
        let error = listen(&path).await.unwrap_err();
        assert!(error.to_string().contains("api.sock: another process"), "{error}");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "keep me").unwrap();
        assert!(matches!(
            listen(&path).await.unwrap_err(),
            ListenError::NotASocket(_)
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "keep me");
    }
}
