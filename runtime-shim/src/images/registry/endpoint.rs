//! One place, asked for one repository.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE,
        RETRY_AFTER, WWW_AUTHENTICATE,
    },
};
use serde::Deserialize;

use super::{
    super::{
        config::{DOCKER_LIST, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST},
        digest::Digest,
    },
    credentials::Credentials,
    failure::Failure,
    hosts::{Host, authority},
    token,
};
use crate::table::lock;

const MAX_REDIRECTS: usize = 10;
/// What is read of an answer that is an error.
const MAX_PROBLEM: usize = 64 << 10;
const DIGEST_HEADER: &str = "docker-content-digest";

/// A place with what it takes to be answered there.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: Host,
    client: Client,
    /// Of the repository that is asked for.
    repository: String,
    /// `?ns=`, with which a mirror learns whose repository is meant.
    namespace: Option<String>,
    credentials: Credentials,
    /// What the last challenge was met with.
    authorization: Mutex<Option<HeaderValue>>,
}

/// What to ask for.
#[derive(Debug, Clone, Copy)]
struct Ask<'a> {
    method: &'a Method,
    /// Under the repository.
    path: &'a str,
    /// Whether manifests are accepted, or anything.
    manifests: bool,
    /// The first byte wanted.
    offset: u64,
}

impl Endpoint {
    pub(super) fn new(
        host: Host,
        client: Client,
        registry: &str,
        repository: &str,
        credentials: Credentials,
    ) -> Self {
        let namespace = host.is_mirror.then(|| registry.to_owned());
        // A mirror is trusted with the registry's credentials as containerd trusts it, but not the wire to it.
        let credentials = if host.is_mirror && !host.is_private() {
            Credentials::Anonymous
        } else {
            credentials
        };
        let authorization = match &credentials {
            Credentials::Bearer(token) => token::secret(&format!("Bearer {}", token.reveal())),
            _ => None,
        };
        Self {
            host,
            client,
            repository: repository.to_owned(),
            namespace,
            credentials,
            authorization: Mutex::new(authorization),
        }
    }

    /// The digest and size of a manifest, where the place tells them without sending it.
    pub(super) async fn head(&self, version: &str) -> Result<Option<Digest>, Failure> {
        let path = format!("manifests/{version}");
        let answer = self
            .send(Ask {
                method: &Method::HEAD,
                path: &path,
                manifests: true,
                offset: 0,
            })
            .await?;
        Ok(digest_of(answer.headers()))
    }

    /// A manifest, with the digest of what has come; the one that the place claims is the same.
    pub(super) async fn manifest(&self, version: &str) -> Result<(Digest, Bytes), Failure> {
        let path = format!("manifests/{version}");
        let answer = self
            .send(Ask {
                method: &Method::GET,
                path: &path,
                manifests: true,
                offset: 0,
            })
            .await?;
        let claimed = digest_of(answer.headers());
        let said = kind_of(answer.headers());
        let limit = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
        let document = body(answer, limit).await?;
        if !document.trim_ascii_start().starts_with(b"{") {
            return Err(Failure::Wrong(format!(
                "answers {said} instead of a manifest: a page or a proxy is there, and not this registry"
            )));
        }
        let digest = Digest::of(&document);
        if let Some(claimed) = claimed
            && claimed != digest
        {
            return Err(Failure::Wrong(format!(
                "sent a manifest {digest} that it calls {claimed}"
            )));
        }
        Ok((digest, document))
    }

    /// A blob's bytes, and where in it they start: at `offset`, or at 0 where the place does not send parts.
    pub(super) async fn blob(&self, digest: &Digest, offset: u64) -> Result<(u64, Response), Failure> {
        let path = format!("blobs/{digest}");
        let answer = self
            .send(Ask {
                method: &Method::GET,
                path: &path,
                manifests: false,
                offset,
            })
            .await?;
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((0, answer));
        }
        let start = answer.headers().get(CONTENT_RANGE).and_then(range_start);
        match start {
            Some(start) if start <= offset => Ok((start, answer)),
            _ => Err(Failure::Wrong(
                "sends another part of a blob than asked for".into(),
            )),
        }
    }

    /// Asks, and shows what the place wants to see when it wants to see something.
    async fn send(&self, ask: Ask<'_>) -> Result<Response, Failure> {
        let shown = lock(&self.authorization).clone();
        let had_shown = shown.is_some();
        let (answer, is_own) = self.follow(ask, shown).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || !is_own {
            return self.check(answer, is_own, had_shown).await;
        }
        let challenges: Vec<String> = answer
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|header| Some(header.to_str().ok()?.to_owned()))
            .collect();
        let met = token::meet(
            &self.client,
            &challenges,
            &self.host.base,
            &self.repository,
            &self.credentials,
        )
        .await?;
        let Some(header) = met else {
            return self.check(answer, is_own, false).await;
        };
        *lock(&self.authorization) = Some(header.clone());
        let (answer, is_own) = self.follow(ask, Some(header)).await?;
        self.check(answer, is_own, true).await
    }

    /// The answer at the end of all redirects, and whether it is the place's own.
    async fn follow(
        &self,
        ask: Ask<'_>,
        mut authorization: Option<HeaderValue>,
    ) -> Result<(Response, bool), Failure> {
        let base = self.host.base.as_str().trim_end_matches('/');
        let address = format!("{base}/{}/{}", self.repository, ask.path);
        let mut url = Url::parse(&address).map_err(|error| Failure::Wrong(error.to_string()))?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        let mut is_own = true;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.request(ask.method.clone(), url.clone());
            if is_own {
                request = request.headers(self.host.headers.clone());
            }
            if let Some(header) = &authorization {
                request = request.header(AUTHORIZATION, header.clone());
            }
            if ask.manifests {
                let accepted = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, "*/*;q=0.1"];
                request = request.header(ACCEPT, accepted.join(", "));
            }
            if ask.offset > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.offset));
            }
            let answer = request.send().await?;
            if !is_redirect(answer.status()) {
                return Ok((answer, is_own));
            }
            let next = answer
                .headers()
                .get(LOCATION)
                .and_then(|location| url.join(location.to_str().ok()?).ok())
                .filter(|next| matches!(next.scheme(), "http" | "https"))
                .ok_or_else(|| Failure::Wrong("redirects to nowhere".into()))?;
            if next.origin() != url.origin() {
                // Another server, such as a blob store, which the address itself lets in.
                is_own = false;
                authorization = None;
            }
            url = next;
        }
        Err(Failure::Wrong(format!(
            "redirects more than {MAX_REDIRECTS} times"
        )))
    }

    /// Good answers, and what the others mean.
    async fn check(&self, answer: Response, is_own: bool, shown: bool) -> Result<Response, Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if !is_own {
            // Where a redirect leads may have expired: the place gives a new one.
            let at = authority(answer.url());
            return Err(Failure::passing(format!(
                "its blob store {at} answers {}",
                status.as_u16()
            )));
        }
        match status {
            StatusCode::NOT_FOUND => Err(Failure::Absent),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Refused {
                // An anonymous token is nothing that the caller has shown.
                shown: shown && self.credentials != Credentials::Anonymous,
                problem: problem(answer).await,
            }),
            _ => {
                let meant = unexpected(status, answer.headers());
                let told = problem(answer).await;
                Err(match meant {
                    Failure::Throttled { wait, .. } => Failure::Throttled { wait, problem: told },
                    Failure::Wrong(_) => Failure::Wrong(format!("answers {told}")),
                    _ => Failure::passing(format!("it answers {told}")),
                })
            }
        }
    }
}

/// What an answer means that is neither good nor a refusal.
pub(super) fn unexpected(status: StatusCode, headers: &HeaderMap) -> Failure {
    let code = status.as_u16();
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Failure::Throttled {
            wait: retry_after(headers),
            problem: code.to_string(),
        };
    }
    if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
        return Failure::passing(format!("it answers {code}"));
    }
    Failure::Wrong(format!("answers {code}"))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    let text = headers.get(DIGEST_HEADER)?.to_str().ok()?;
    Digest::try_from(text.to_owned()).ok()
}

/// The first byte of `bytes 100-199/200`.
fn range_start(header: &HeaderValue) -> Option<u64> {
    let range = header.to_str().ok()?.trim().strip_prefix("bytes")?;
    range.trim_start().split('-').next()?.parse().ok()
}

/// Seconds, or a date (RFC 9110, §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(
        date.duration_since(clone8s_daemon::clock::now())
            .unwrap_or_default(),
    )
}

/// What an answer says that it is.
fn kind_of(headers: &HeaderMap) -> String {
    let said = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    said.map_or_else(|| "something".to_owned(), |kind| kind.chars().take(100).collect())
}

/// A whole body, refused over `limit`.
pub(super) async fn body(mut answer: Response, limit: usize) -> Result<Bytes, Failure> {
    let mut body = bytes::BytesMut::new();
    while let Some(part) = answer.chunk().await? {
        if body.len() + part.len() > limit {
            return Err(Failure::Wrong(format!(
                "sends a document of more than {limit} bytes"
            )));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

#[derive(Deserialize)]
struct Problems {
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The status, and what the registry says about it (OCI distribution spec, "Error Codes"), on one short line.
async fn problem(answer: Response) -> String {
    let code = answer.status().as_u16();
    let said = body(answer, MAX_PROBLEM)
        .await
        .ok()
        .and_then(|body| serde_json::from_slice::<Problems>(&body).ok())
        .and_then(|problems| problems.errors.into_iter().next())
        .map(|problem| format!("{} {}", problem.code, problem.message));
    let said: String = said
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect();
    format!("{code} {}", said.trim()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("bytes 100-199/200", Some(100))]
    #[case("bytes 0-0/*", Some(0))]
    #[case("bytes */200", None)]
    #[case("pages 1-2/3", None)]
    #[case("", None)]
    fn a_part_says_where_it_starts(#[case] header: &str, #[case] start: Option<u64>) {
        assert_eq!(range_start(&HeaderValue::from_str(header).unwrap()), start);
    }

    #[test]
    fn a_wait_is_told_in_seconds_or_as_a_date() {
        let wait = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(clone8s_daemon::clock::now() + Duration::from_mins(1));
        assert!(wait(&soon).unwrap() > Duration::from_secs(50));
        assert_eq!(wait("later"), None);
    }
}
