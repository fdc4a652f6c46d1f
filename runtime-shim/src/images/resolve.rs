//! From a name's target to the one manifest that this host runs.

use std::{collections::BTreeSet, future::Future};

use bytes::Bytes;

use super::{
    ImageError, Result,
    config::{Descriptor, Document, MAX_DOCUMENT, Manifest},
    digest::Digest,
    platform::Host,
};

/// How deep indexes may be nested: one of indexes by build, each of platforms, is the deepest in use.
const MAX_DEPTH: usize = 4;
/// How many documents are read before it is clear that someone is being played with.
const MAX_DOCUMENTS: usize = 64;

/// Where documents are: a registry, containerd's content store or an archive.
pub(super) trait Documents {
    /// A document; none when it is not there.
    fn document(&self, descriptor: &Descriptor) -> impl Future<Output = Result<Option<Bytes>>> + Send;
}

/// What a target stands for on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// From the target over all indexes to the manifest.
    pub(super) path: Vec<Descriptor>,
    pub(super) manifest: Manifest,
}

/// Follows indexes, the best platform first, until there is a manifest.
pub(super) async fn resolve(
    source: &impl Documents,
    what: &str,
    target: &Descriptor,
    host: Host,
) -> Result<Found> {
    // The next one to look at is the last.
    let mut open = vec![vec![target.clone()]];
    let mut seen: BTreeSet<Digest> = BTreeSet::new();
    let mut platforms = BTreeSet::new();
    let mut first_error = None;
    while let Some(mut path) = open.pop() {
        let Some(last) = path.last_mut() else { continue };
        if !seen.insert(last.digest.clone()) {
            continue;
        }
        if seen.len() > MAX_DOCUMENTS {
            return Err(ImageError::malformed(
                what,
                &format!(
                    "is an index of more than {MAX_DOCUMENTS} documents that do not tell their platform"
                ),
            ));
        }
        if last.size > MAX_DOCUMENT {
            return Err(ImageError::malformed(&last.digest, "is larger than 8 MiB"));
        }
        let Some(bytes) = source.document(last).await? else {
            continue;
        };
        if bytes.len() as u64 != last.size {
            let problem = format!(
                "has {} bytes, not the {} that refer to it",
                bytes.len(),
                last.size
            );
            return Err(ImageError::malformed(&last.digest, &problem));
        }
        let index = match Document::read(what, &bytes) {
            Ok((Document::Manifest(manifest), media_type)) => {
                last.media_type = media_type;
                return Ok(Found { path, manifest });
            }
            Ok((Document::Index(index), media_type)) => {
                last.media_type = media_type;
                index
            }
            Err(error) => {
                // One that says nothing of itself need not be an image.
                first_error.get_or_insert(error);
                continue;
            }
        };
        if path.len() >= MAX_DEPTH {
            let problem = format!("has indexes within indexes, more than {MAX_DEPTH} deep");
            return Err(ImageError::malformed(what, &problem));
        }
        match index.choices(host) {
            Ok(choices) => open.extend(choices.into_iter().rev().map(|choice| {
                let mut path = path.clone();
                path.push(choice.clone());
                path
            })),
            Err(_) => platforms.extend(index.platforms()),
        }
    }
    Err(first_error.unwrap_or_else(|| ImageError::NoPlatform {
        what: what.to_owned(),
        platforms: platforms.into_iter().collect(),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{
        super::config::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST},
        *,
    };

    #[derive(Default)]
    struct Store(HashMap<Digest, Bytes>);

    impl Documents for Store {
        async fn document(&self, descriptor: &Descriptor) -> Result<Option<Bytes>> {
            Ok(self.0.get(&descriptor.digest).cloned())
        }
    }

    impl Store {
        fn add(&mut self, document: &Value) -> Value {
            let bytes = Bytes::from(document.to_string());
            let digest = Digest::of(&bytes);
            let descriptor =
                json!({"digest": digest, "size": bytes.len(), "mediaType": document["mediaType"]});
            self.0.insert(digest, bytes);
            descriptor
        }

        fn manifest(&mut self, tag: u64) -> Value {
            self.add(&json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(b""), "size": tag},
                "layers": [],
            }))
        }

        fn index(&mut self, manifests: &[Value]) -> Value {
            self.add(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}))
        }

        fn resolve(&self, target: Value) -> Result<Found> {
            let target: Descriptor = serde_json::from_value(target).unwrap();
            futures::executor::block_on(resolve(self, "app:1", &target, Host::here()))
        }
    }

    fn on(mut descriptor: Value, platform: &str) -> Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        descriptor["platform"] = json!({"os": os, "architecture": architecture});
        descriptor
    }

    #[test]
    fn the_hosts_image_is_found_in_an_index_of_indexes() {
        let mut store = Store::default();
        let here = Host::here().to_string();
        let ours = on(store.manifest(1), &here);
        let other = on(store.manifest(2), "linux/s390x");
        let bare = store.manifest(3);
        let foreign = store.index(&[other]);
        let inner = store.index(&[ours]);
        let target = store.index(&[bare, foreign, inner]);
        let found = store.resolve(target).unwrap();
        assert_eq!(found.manifest.config.size, 1);
        assert_eq!(found.path.len(), 3);
    }

    #[test]
    fn what_there_is_instead_is_told() {
        let mut store = Store::default();
        let one = on(store.manifest(1), "linux/s390x");
        let two = on(store.manifest(2), "windows/amd64");
        let attestation = on(store.manifest(3), "unknown/unknown");
        let target = store.index(&[one, two, attestation]);
        let error = store.resolve(target).unwrap_err().to_string();
        assert!(
            error.contains("app:1") && error.contains("only: linux/s390x, windows/amd64"),
            "{error}"
        );
        assert!(error.contains(&Host::here().to_string()), "{error}");
    }

    #[test]
    fn nesting_and_numbers_have_bounds() {
        let mut store = Store::default();
        let mut target = store.manifest(1);
        for _ in 0..MAX_DEPTH {
            target = store.index(&[target]);
        }
        let error = store.resolve(target).unwrap_err().to_string();
        assert!(error.contains("deep"), "{error}");
        let empty: Vec<_> = (0..100)
            .map(|n| store.add(&json!({"mediaType": OCI_INDEX, "manifests": [], "n": n})))
            .collect();
        let target = store.index(&empty);
        let error = store.resolve(target).unwrap_err().to_string();
        assert!(error.contains("more than 64 documents"), "{error}");
    }

    #[test]
    fn a_lie_about_a_size_is_found() {
        let mut store = Store::default();
        let mut target = store.manifest(1);
        target["size"] = json!(3);
        let error = store.resolve(target).unwrap_err().to_string();
        assert!(error.contains("not the 3"), "{error}");
    }

    proptest! {
        /// Documents that refer to any others, themselves too: a store that lies about digests.
        #[test]
        fn cycles_end(edges in prop::collection::vec(prop::collection::vec(0_u8..12, 0..5), 12)) {
            let name = |node: u8| Digest::of(&[node]);
            let mut store = Store::default();
            for (node, targets) in (0_u8..).zip(&edges) {
                // All of one size, so that a reference need not know what it refers to.
                let document = |targets: &[Value]| {
                    json!({"mediaType": OCI_INDEX, "manifests": targets}).to_string()
                };
                let targets: Vec<_> = targets
                    .iter()
                    .map(|&to| json!({"digest": name(to), "size": 2000, "mediaType": OCI_INDEX}))
                    .collect();
                store.0.insert(name(node), format!("{:<2000}", document(&targets)).into());
            }
            let target = json!({"digest": name(0), "size": 2000, "mediaType": OCI_INDEX});
            prop_assert!(store.resolve(target).is_err());
        }
    }
}
