//! Getting what a registry asks for: a password shown, or a token from its token server (distribution's token
//! authentication; OAuth 2.0 for identity tokens).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;

use super::{
    challenge::{self, Challenge},
    credentials::Credentials,
    failure::Failure,
    hosts,
};

/// What a token server sends is a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;
const CLIENT_ID: &str = "clone8s";

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// The header that meets a registry's challenges; none when there are none that it could meet.
pub(super) async fn meet(
    client: &Client,
    headers: &[String],
    registry: &Url,
    repository: &str,
    credentials: &Credentials,
) -> Result<Option<HeaderValue>, Failure> {
    let challenges: Vec<_> = headers
        .iter()
        .flat_map(|header| challenge::parse(header))
        .collect();
    let by_scheme = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
    if let Credentials::Bearer(token) = credentials {
        return Ok(secret(&format!("Bearer {}", token.reveal())));
    }
    if let Some(bearer) = by_scheme("bearer") {
        let token = token(client, bearer, registry, repository, credentials).await?;
        return Ok(secret(&format!("Bearer {token}")));
    }
    match (by_scheme("basic"), credentials) {
        (Some(_), Credentials::Basic { .. }) => Ok(basic(credentials)),
        _ => Ok(None),
    }
}

async fn token(
    client: &Client,
    challenge: &Challenge,
    registry: &Url,
    repository: &str,
    credentials: &Credentials,
) -> Result<String, Failure> {
    let realm = challenge
        .parameter("realm")
        .and_then(|realm| Url::parse(realm).ok())
        .filter(|realm| matches!(realm.scheme(), "http" | "https"))
        .ok_or_else(|| Failure::Wrong("names no token server that could be asked".into()))?;
    let is_private = realm.scheme() == "https" || realm.host_str().is_some_and(hosts::is_loopback);
    // A registry without TLS has been listed as such by the host's administrator; its token server is no worse.
    if *credentials != Credentials::Anonymous && !is_private && registry.scheme() == "https" {
        return Err(Failure::Wrong(format!(
            "sends to a token server without TLS, {}, which gets no credentials",
            hosts::authority(&realm)
        )));
    }
    let service = challenge.parameter("service");
    let own_scope = format!("repository:{repository}:pull");
    let scope = challenge.parameter("scope").unwrap_or(&own_scope);
    let request = if let Credentials::Refresh(token) = credentials {
        let fields = [
            ("grant_type", Some("refresh_token")),
            ("service", service),
            ("scope", Some(scope)),
            ("client_id", Some(CLIENT_ID)),
            ("refresh_token", Some(token.reveal())),
        ];
        client
            .post(realm.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(&realm, &fields))
    } else {
        let mut address = realm.clone();
        {
            let mut query = address.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for scope in scope.split(' ').filter(|scope| !scope.is_empty()) {
                query.append_pair("scope", scope);
            }
        }
        let request = client.get(address);
        match basic(credentials) {
            Some(header) => request.header(AUTHORIZATION, header),
            None => request,
        }
    };
    let answer = request.send().await.map_err(|error| via(&realm, error.into()))?;
    read(answer, *credentials != Credentials::Anonymous)
        .await
        .map_err(|failure| via(&realm, failure))
}

async fn read(answer: Response, shown: bool) -> Result<String, Failure> {
    let status = answer.status();
    if matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
    ) {
        return Err(Failure::Refused {
            shown,
            problem: format!("the token server answers {}", status.as_u16()),
        });
    }
    if !status.is_success() {
        return Err(super::endpoint::unexpected(status, answer.headers()));
    }
    let body = super::endpoint::body(answer, MAX_ANSWER).await?;
    // Without the parser's words: they may repeat a token.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| Failure::Wrong("its token server does not answer with a token".into()))?;
    [answer.token, answer.access_token]
        .into_iter()
        .find(|token| !token.is_empty())
        .ok_or_else(|| Failure::Wrong("its token server answers without a token".into()))
}

/// Says that it was the token server.
fn via(realm: &Url, failure: Failure) -> Failure {
    let at = hosts::authority(realm);
    match failure {
        Failure::Unreachable { problem, next_step } => Failure::Unreachable {
            problem: format!("its token server {at}: {problem}"),
            next_step,
        },
        Failure::Tls { problem, next_step } => Failure::Tls {
            problem: format!("its token server {at}: {problem}"),
            next_step,
        },
        other => other,
    }
}

/// As HTML forms are written.
fn form(realm: &Url, fields: &[(&str, Option<&str>)]) -> String {
    let present = fields.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    // An address's query has the same form.
    let mut carrier = realm.clone();
    carrier.query_pairs_mut().clear().extend_pairs(present);
    carrier.query().unwrap_or_default().to_owned()
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    match credentials {
        Credentials::Basic { user, password } => {
            let pair = STANDARD.encode(format!("{user}:{}", password.reveal()));
            secret(&format!("Basic {pair}"))
        }
        _ => None,
    }
}

/// None for what no header can carry.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
