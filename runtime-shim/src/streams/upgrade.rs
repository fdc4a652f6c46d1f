//! What a request's headers come to: the protocol that both speak, or why none is.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{port_forward, remote_command, websocket};

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";

/// What is spoken after the upgrade; the name is none where the client has named none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Spdy {
        name: Option<&'static str>,
    },
    WebSocket {
        name: Option<&'static str>,
    },
    /// A port-forward's SPDY in a WebSocket.
    Tunnel,
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    NoUpgrade,
    /// With those that would do.
    NoProtocol(Vec<&'static str>),
    BadWebSocket(&'static str),
    NoTicket,
}

impl Protocol {
    pub(super) fn agree(headers: &HeaderMap, is_forward: bool) -> Result<Self, Refusal> {
        let upgrades: Vec<_> = words(headers, header::UPGRADE.as_str()).collect();
        let asks = |name: &str| upgrades.iter().any(|upgrade| upgrade.eq_ignore_ascii_case(name));
        let is_upgrade =
            words(headers, header::CONNECTION.as_str()).any(|word| word.eq_ignore_ascii_case("upgrade"));
        if !is_upgrade {
            return Err(Refusal::NoUpgrade);
        }
        if asks("websocket") {
            check_websocket(headers)?;
            let known: &[&str] = if is_forward {
                &[port_forward::TUNNEL]
            } else {
                &websocket::PROTOCOLS
            };
            let name = choose(words(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str()), known)?;
            return match (is_forward, name) {
                (true, Some(_)) => Ok(Self::Tunnel),
                (true, None) => Err(Refusal::NoProtocol(known.to_vec())),
                (false, name) => Ok(Self::WebSocket { name }),
            };
        }
        if !asks("SPDY/3.1") {
            return Err(Refusal::NoUpgrade);
        }
        let known: &[&str] = if is_forward {
            &[port_forward::PROTOCOL]
        } else {
            &remote_command::PROTOCOLS
        };
        let name = choose(words(headers, STREAM_PROTOCOL), known)?;
        Ok(Self::Spdy { name })
    }

    pub(super) fn response(self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let (upgrade, named, name) = match self {
            Self::Spdy { name } => ("SPDY/3.1", STREAM_PROTOCOL, name),
            Self::WebSocket { name } => ("websocket", header::SEC_WEBSOCKET_PROTOCOL.as_str(), name),
            Self::Tunnel => (
                "websocket",
                header::SEC_WEBSOCKET_PROTOCOL.as_str(),
                Some(port_forward::TUNNEL),
            ),
        };
        headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
        if let Some(name) = name {
            headers.insert(named, HeaderValue::from_static(name));
        }
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        if let (true, Some(key)) = (upgrade == "websocket", key)
            && let Ok(accept) = derive_accept_key(key.as_bytes()).parse()
        {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

impl Refusal {
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let (status, text) = match self {
            Self::NoUpgrade => (
                StatusCode::BAD_REQUEST,
                "this address speaks only SPDY/3.1 and WebSocket: send Connection: Upgrade and Upgrade: SPDY/3.1 or \
                 websocket\n"
                    .to_owned(),
            ),
            Self::BadWebSocket(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")),
            // As Kubernetes' servers answer, whose clients then try another protocol.
            Self::NoProtocol(known) => (
                StatusCode::FORBIDDEN,
                format!("none of the client's protocols is spoken here; these are: {}\n", known.join(", ")),
            ),
            Self::NoTicket => (
                StatusCode::NOT_FOUND,
                "this URL is unknown, used already, or older than a minute: ask the runtime for another\n".to_owned(),
            ),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Self::NoProtocol(known) = self {
            for name in known {
                response
                    .headers_mut()
                    .append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
            }
        }
        response
    }
}

/// RFC 6455, 4.2.1.
fn check_websocket(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Refusal::BadWebSocket("Sec-WebSocket-Version must be 13"));
    }
    if !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return Err(Refusal::BadWebSocket("Sec-WebSocket-Key is missing"));
    }
    Ok(())
}

/// The first of the client's names that is known; none where it has named none.
fn choose<'a>(
    offered: impl Iterator<Item = &'a str>,
    known: &[&'static str],
) -> Result<Option<&'static str>, Refusal> {
    let mut has_any = false;
    for name in offered {
        has_any = true;
        if let Some(known) = known.iter().find(|known| **known == name) {
            return Ok(Some(known));
        }
    }
    if has_any {
        return Err(Refusal::NoProtocol(known.to_vec()));
    }
    Ok(None)
}

/// A header's values, given once each or in a list.
fn words<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests;
