use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|&(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
const WEBSOCKET: [(&str, &str); 4] = [
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[test]
fn the_client_s_first_known_protocol_is_spoken() {
    let mut wanted = headers(&SPDY);
    for name in ["v9.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"] {
        wanted.append(STREAM_PROTOCOL, HeaderValue::from_static(name));
    }
    let v4 = Some("v4.channel.k8s.io");
    assert_eq!(Protocol::agree(&wanted, false), Ok(Protocol::Spdy { name: v4 }));

    let mut wanted = headers(&WEBSOCKET);
    wanted.insert(
        "sec-websocket-protocol",
        HeaderValue::from_static("v5.channel.k8s.io, v4.channel.k8s.io"),
    );
    let v5 = Some("v5.channel.k8s.io");
    assert_eq!(
        Protocol::agree(&wanted, false),
        Ok(Protocol::WebSocket { name: v5 })
    );
}

#[test]
fn a_client_that_names_no_protocol_speaks_the_oldest() {
    assert_eq!(
        Protocol::agree(&headers(&SPDY), false),
        Ok(Protocol::Spdy { name: None })
    );
    assert_eq!(
        Protocol::agree(&headers(&WEBSOCKET), false),
        Ok(Protocol::WebSocket { name: None })
    );
}

#[test]
fn a_port_forward_is_spdy_bare_or_in_a_websocket() {
    let mut wanted = headers(&SPDY);
    wanted.insert(STREAM_PROTOCOL, HeaderValue::from_static(port_forward::PROTOCOL));
    assert!(matches!(
        Protocol::agree(&wanted, true),
        Ok(Protocol::Spdy { name: Some(_) })
    ));
    let mut wanted = headers(&WEBSOCKET);
    wanted.insert(
        "sec-websocket-protocol",
        HeaderValue::from_static(port_forward::TUNNEL),
    );
    assert_eq!(Protocol::agree(&wanted, true), Ok(Protocol::Tunnel));
    assert!(matches!(
        Protocol::agree(&headers(&WEBSOCKET), true),
        Err(Refusal::NoProtocol(_))
    ));
}

#[test]
fn what_is_refused_says_what_would_do() {
    assert_eq!(Protocol::agree(&HeaderMap::new(), false), Err(Refusal::NoUpgrade));
    let http2 = headers(&[("connection", "Upgrade"), ("upgrade", "h2c")]);
    assert_eq!(Protocol::agree(&http2, false), Err(Refusal::NoUpgrade));
    let mut unknown = headers(&SPDY);
    unknown.insert(STREAM_PROTOCOL, HeaderValue::from_static("v9.channel.k8s.io"));
    let refusal = Protocol::agree(&unknown, false).unwrap_err();
    let response = refusal.response();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let accepted: Vec<_> = response.headers().get_all(ACCEPTED_PROTOCOLS).iter().collect();
    assert_eq!(accepted, remote_command::PROTOCOLS);
    let mut old = headers(&WEBSOCKET);
    old.insert("sec-websocket-version", HeaderValue::from_static("8"));
    assert!(matches!(
        Protocol::agree(&old, false),
        Err(Refusal::BadWebSocket(_))
    ));
}
