//! Pulling from registries (OCI distribution spec 1.1), into containerd's content store.
//!
//! ```text
//! manifest (of an index: the host's) ─► configuration and layers, three at a time ─► publish
//! ```

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use clone8s::cri;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use oci_client::{
    Client, Reference,
    client::{BlobResponse, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::OciDescriptor,
    secrets::RegistryAuth,
};

use super::{
    ImageError, ImageName, Images, NamedImage, Result,
    config::{self, Descriptor, Index, Manifest},
    parse, sha256,
};
use crate::{
    containerd::{BlobStream, NewBlob},
    ids::LeaseId,
    steps::timed,
};

/// How many blobs of an image come at a time.
const AT_ONCE: usize = 3;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a registry may send nothing.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);
const MANIFESTS: [&str; 4] = [
    config::OCI_INDEX,
    config::DOCKER_LIST,
    config::OCI_MANIFEST,
    config::DOCKER_MANIFEST,
];

/// What one pull talks to.
struct Source {
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    /// For errors.
    image: String,
}

impl Images {
    /// Pulls an image and names it by its tag and by its digest.
    pub(crate) async fn pull(&self, reference: &str, auth: Option<&cri::AuthConfig>) -> Result<NamedImage> {
        let parsed = ImageName::reference(reference)?;
        let name = ImageName::from(&parsed);
        let source = Source {
            client: self.registry_client(parsed.registry())?,
            auth: credentials(reference, auth)?,
            image: name.to_string(),
            reference: parsed,
        };
        let flight = self.flight(&format!("pull {name}"));
        let _alone = flight.lock().await;
        let lease = self.containerd.create_lease().await?;
        let pulled = self.pull_under(&source, &name, &lease).await;
        self.containerd.delete_lease(&lease).await?;
        pulled
    }

    async fn pull_under(&self, source: &Source, name: &ImageName, lease: &LeaseId) -> Result<NamedImage> {
        let (target, document) = timed("manifest", source.manifest(&source.reference)).await?;
        self.write_document(&target, document.clone(), lease).await?;
        let manifest_document = match serde_json::from_slice::<Index>(&document) {
            Ok(index) => {
                let ours = index
                    .for_host()
                    .ok_or_else(|| ImageError::no_platform(&source.image))?;
                let by_digest = source.reference.clone_with_digest(ours.digest.clone());
                let (descriptor, document) = source.manifest(&by_digest).await?;
                self.write_document(&descriptor, document.clone(), lease).await?;
                document
            }
            Err(_) => document,
        };
        let manifest: Manifest = parse(&source.image, &manifest_document)?;
        let mut fetches = Vec::with_capacity(1 + manifest.layers.len());
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            fetches.push(self.fetch(source, blob, lease));
        }
        let all = stream::iter(fetches)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>();
        timed("blobs", all).await?;

        let by_digest = name.with_digest(&target.digest);
        let names: Vec<_> = name
            .is_tagged()
            .then(|| name.to_string())
            .into_iter()
            .chain(by_digest)
            .collect();
        let image = self.publish(&names, &target, lease).await?;
        let (tags, digests) = names.into_iter().partition(|name| !name.contains('@'));
        Ok(NamedImage { image, tags, digests })
    }

    async fn write_document(&self, descriptor: &Descriptor, document: Bytes, lease: &LeaseId) -> Result<()> {
        let flight = self.flight(&descriptor.digest);
        let _alone = flight.lock().await;
        if self.held(&descriptor.digest, lease).await? {
            return Ok(());
        }
        self.containerd.abort_blob(&descriptor.digest).await?;
        let data = stream::iter([Ok(document)]).boxed();
        Ok(self
            .containerd
            .write_blob(new_blob(descriptor, 0, lease), data)
            .await?)
    }

    /// A configuration or layer, going on where a broken-off pull stopped.
    async fn fetch(&self, source: &Source, blob: &Descriptor, lease: &LeaseId) -> Result<()> {
        let flight = self.flight(&blob.digest);
        let _alone = flight.lock().await;
        if self.held(&blob.digest, lease).await? {
            return Ok(());
        }
        let partial = self.containerd.partial_blob(&blob.digest).await?;
        let resumable = if partial < blob.size { partial } else { 0 };
        let (offset, data) = source.blob(blob, resumable).await?;
        if offset != partial {
            self.containerd.abort_blob(&blob.digest).await?;
        }
        Ok(self
            .containerd
            .write_blob(new_blob(blob, offset, lease), data)
            .await?)
    }

    /// Whether a blob is here already; if so, the lease keeps it.
    async fn held(&self, digest: &str, lease: &LeaseId) -> Result<bool> {
        if !self.containerd.blob_exists(digest).await? {
            return Ok(false);
        }
        self.containerd.hold_blob(lease, digest).await?;
        Ok(true)
    }

    fn registry_client(&self, registry: &str) -> Result<Client> {
        let plain = is_loopback(registry) || self.plain_http.contains(registry);
        let config = ClientConfig {
            protocol: if plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: Some(SILENCE_LIMIT),
            user_agent: concat!("clone8s/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        // One for each pull: a client remembers one set of credentials for a registry, and pulls bring their own.
        Client::try_from(config).map_err(|error| ImageError::Registry {
            image: String::new(),
            registry: registry.to_owned(),
            problem: error.to_string(),
        })
    }
}

impl Source {
    async fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Bytes)> {
        let pulled = self
            .client
            .pull_manifest_raw(reference, &self.auth, &MANIFESTS)
            .await;
        let (document, _) = pulled.map_err(|error| self.explain(error))?;
        let digest = sha256(&document);
        if let Some(expected) = reference.digest()
            && expected != digest
        {
            return Err(self.registry_problem(format!("sent a manifest {digest} for {expected}")));
        }
        let size = document.len() as u64;
        Ok((Descriptor::new(&media_type(&document), digest, size), document))
    }

    /// The blob's bytes from `offset` on, or all of them where the registry does not send parts.
    async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<(u64, BlobStream)> {
        let descriptor = OciDescriptor {
            digest: blob.digest.clone(),
            size: blob.size.cast_signed(),
            ..Default::default()
        };
        let explain = |error| self.explain(error);
        if offset == 0 {
            let stream = self
                .client
                .pull_blob_stream(&self.reference, &descriptor)
                .await
                .map_err(explain)?;
            return Ok((0, stream.stream));
        }
        let partial = self
            .client
            .pull_blob_stream_partial(&self.reference, &descriptor, offset, None)
            .await;
        Ok(match partial.map_err(explain)? {
            BlobResponse::Partial(part) => (offset, part.stream),
            BlobResponse::Full(all) => (0, all.stream),
        })
    }

    /// What the person who asked for the image can do about a failure.
    fn explain(&self, error: OciDistributionError) -> ImageError {
        let image = self.image.clone();
        let registry = self.reference.registry().to_owned();
        match error {
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => {
                ImageError::NotInRegistry { image, registry }
            }
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => {
                ImageError::Unauthenticated { image, registry }
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let has =
                    |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
                if has(&[
                    OciErrorCode::ManifestUnknown,
                    OciErrorCode::NameUnknown,
                    OciErrorCode::NotFound,
                ]) {
                    ImageError::NotInRegistry { image, registry }
                } else if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    ImageError::Unauthenticated { image, registry }
                } else {
                    self.registry_problem(envelope.to_string())
                }
            }
            OciDistributionError::ServerError {
                code: code @ 500..,
                message,
                ..
            } => ImageError::Unreachable {
                image,
                registry,
                problem: format!("it answers {code}: {message}"),
            },
            OciDistributionError::RequestError(error) => {
                // Without the address: it may carry a token.
                let error = error.without_url();
                ImageError::Unreachable {
                    image,
                    registry,
                    problem: clone8s_daemon::supervisor::chain(&error),
                }
            }
            other => self.registry_problem(other.to_string()),
        }
    }

    fn registry_problem(&self, problem: String) -> ImageError {
        ImageError::Registry {
            image: self.image.clone(),
            registry: self.reference.registry().to_owned(),
            problem,
        }
    }
}

fn new_blob<'a>(descriptor: &'a Descriptor, offset: u64, lease: &'a LeaseId) -> NewBlob<'a> {
    NewBlob {
        digest: &descriptor.digest,
        size: descriptor.size,
        offset,
        labels: HashMap::new(),
        lease,
    }
}

/// What a manifest says that it is, or looks like.
fn media_type(document: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(document).unwrap_or_default();
    match value["mediaType"].as_str() {
        Some(named) => named.to_owned(),
        None if value["manifests"].is_array() => config::OCI_INDEX.to_owned(),
        None => config::OCI_MANIFEST.to_owned(),
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// CRI, AuthConfig: a registry token, a user with a password, or both in base64.
fn credentials(image: &str, auth: Option<&cri::AuthConfig>) -> Result<RegistryAuth> {
    let Some(auth) = auth else {
        return Ok(RegistryAuth::Anonymous);
    };
    let refuse = |problem: &str| {
        Err(ImageError::BadCredentials {
            image: image.to_owned(),
            problem: problem.to_owned(),
        })
    };
    if !auth.registry_token.is_empty() {
        return Ok(RegistryAuth::Bearer(auth.registry_token.clone()));
    }
    if !auth.username.is_empty() {
        return Ok(RegistryAuth::Basic(auth.username.clone(), auth.password.clone()));
    }
    if !auth.auth.is_empty() {
        let decoded = STANDARD
            .decode(auth.auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        return match pair {
            // Some encoders pad the password with zero bytes.
            Some((user, password)) => Ok(RegistryAuth::Basic(
                user.to_owned(),
                password.trim_end_matches('\0').to_owned(),
            )),
            None => refuse("`auth` must be user:password in base64"),
        };
    }
    match auth.identity_token.as_str() {
        "" => Ok(RegistryAuth::Anonymous),
        _ => refuse("identity tokens are not implemented; give a user and a password"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("localhost:5000", true)]
    #[case("127.0.0.1:41234", true)]
    #[case("[::1]:5000", true)]
    #[case("docker.io", false)]
    #[case("localhost.example.com", false)]
    #[case("10.0.0.1:5000", false)]
    fn loopback_registries_are_plain_http(#[case] registry: &str, #[case] expected: bool) {
        assert_eq!(is_loopback(registry), expected);
    }

    #[test]
    fn credentials_come_in_any_of_cris_forms() {
        let of = |auth: cri::AuthConfig| credentials("app", Some(&auth));
        let basic = RegistryAuth::Basic("ann".into(), "s:ecret".into());
        let pair = cri::AuthConfig {
            username: "ann".into(),
            password: "s:ecret".into(),
            ..Default::default()
        };
        assert_eq!(of(pair).unwrap(), basic);
        let encoded = cri::AuthConfig {
            auth: STANDARD.encode("ann:s:ecret"),
            ..Default::default()
        };
        assert_eq!(of(encoded).unwrap(), basic);
        let token = cri::AuthConfig {
            registry_token: "t".into(),
            ..Default::default()
        };
        assert_eq!(of(token).unwrap(), RegistryAuth::Bearer("t".into()));
        assert_eq!(of(cri::AuthConfig::default()).unwrap(), RegistryAuth::Anonymous);
        assert_eq!(credentials("app", None).unwrap(), RegistryAuth::Anonymous);
    }

    #[test]
    fn broken_credentials_are_refused_without_being_repeated() {
        let auth = cri::AuthConfig {
            auth: "c2VjcmV0".into(),
            ..Default::default()
        };
        let error = credentials("app", Some(&auth)).unwrap_err().to_string();
        assert!(
            error.contains("app") && !error.contains("secret") && !error.contains("c2VjcmV0"),
            "{error}"
        );
    }
}
