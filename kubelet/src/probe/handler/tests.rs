//! Questions to real servers on the loopback.

use std::{net::SocketAddr, sync::Arc};

use clone8s::v1::HttpHeader;
use rstest::rstest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    clock::Clock,
    runtime::fake::{CommandBehavior, FakeRuntime},
};

fn place(port: u16) -> Place {
    Place {
        run: ContainerId::new("c1"),
        address: Some("127.0.0.1".to_owned()),
        ports: vec![("web".to_owned(), port.into())],
    }
}

fn probe(handler: Handler) -> Probe {
    Probe {
        handler: Some(handler),
        timeout_seconds: 1,
        ..Default::default()
    }
}

fn http(path: &str) -> HttpGetAction {
    HttpGetAction {
        path: path.to_owned(),
        port: "web".to_owned(),
        scheme: "HTTP".to_owned(),
        ..Default::default()
    }
}

async fn ask_for(handler: Handler, port: u16) -> Answer {
    let runtime = FakeRuntime::new(Clock::Wall);
    ask(&runtime, &place(port), &probe(handler)).await
}

/// Answers every request with what its path asks for, until the servers are dropped.
async fn serve(servers: &mut JoinSet<()>, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    servers.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                None => answer(stream).await,
                Some(tls) => answer(tls.accept(stream).await.unwrap()).await,
            }
        }
    });
    port
}

async fn answer(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut request = vec![0; 4096];
    let mut length = 0;
    while !request[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[length..]).await {
            Ok(0) | Err(_) => return,
            Ok(read) => length += read,
        }
    }
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let reply = match path {
        "/good" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "/bad" => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\nwarming up".to_owned(),
        "/moved" => "HTTP/1.1 302 Found\r\nLocation: bad\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "/away" => {
            "HTTP/1.1 302 Found\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
        "/loop" => "HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "/header" if request.contains("X-Probe: yes\r\n") || request.contains("x-probe: yes\r\n") => {
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
        "/silent" => return std::future::pending().await,
        _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
    };
    let _ = stream.write_all(reply.as_bytes()).await;
    let _ = stream.shutdown().await;
}

#[rstest]
#[case::success("/good", "")]
#[case::failure("/bad", "HTTP status 503: warming up")]
#[case::redirect_within("/moved", "HTTP status 503: warming up")]
#[case::redirect_away("/away", "")]
#[case::redirects_without_end("/loop", "more than 10 redirects")]
#[case::no_answer("/silent", "no answer within 1 s")]
#[tokio::test]
async fn an_http_status_is_the_answer(#[case] path: &str, #[case] expected: &str) {
    let mut servers = JoinSet::new();
    let port = serve(&mut servers, None).await;
    let expected = match expected {
        "" => Answer::Good,
        why => Answer::Bad(why.to_owned()),
    };
    assert_eq!(ask_for(Handler::HttpGet(http(path)), port).await, expected);
}

#[tokio::test]
async fn headers_are_sent_and_any_certificate_will_do() {
    let mut servers = JoinSet::new();
    let certified = rcgen::generate_simple_self_signed(["nobody".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let port = serve(&mut servers, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let get = HttpGetAction {
        scheme: "HTTPS".to_owned(),
        http_headers: vec![HttpHeader {
            name: "X-Probe".to_owned(),
            value: "yes".to_owned(),
        }],
        ..http("/header")
    };
    assert_eq!(ask_for(Handler::HttpGet(get.clone()), port).await, Answer::Good);
    let plain = HttpGetAction {
        http_headers: Vec::new(),
        ..get
    };
    assert!(matches!(
        ask_for(Handler::HttpGet(plain), port).await,
        Answer::Bad(_)
    ));
}

#[tokio::test]
async fn a_port_that_is_open_is_the_answer() {
    let ask_at = async |address: SocketAddr| {
        let port = address.port();
        let socket = TcpSocketAction {
            port: port.to_string(),
            host: String::new(),
        };
        ask_for(Handler::TcpSocket(socket), port).await
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_eq!(ask_at(listener.local_addr().unwrap()).await, Answer::Good);
    // Taken, so that nobody else gets it, and nobody listens.
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = ask_at(silent.local_addr().unwrap()).await;
    assert!(
        matches!(&closed, Answer::Bad(why) if why.contains("refused")),
        "{closed:?}"
    );
}

#[tokio::test]
async fn the_health_service_is_the_answer() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("up", tonic_health::ServingStatus::Serving)
        .await;
    reporter
        .set_service_status("down", tonic_health::ServingStatus::NotServing)
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    let grpc = |service: &str| {
        Handler::Grpc(GrpcAction {
            port: port.into(),
            service: service.to_owned(),
        })
    };
    assert_eq!(ask_for(grpc("up"), port).await, Answer::Good);
    let down = ask_for(grpc("down"), port).await;
    assert_eq!(down, Answer::Bad("the service is NOT_SERVING".to_owned()));
    let unknown = ask_for(grpc("unknown"), port).await;
    assert!(
        matches!(&unknown, Answer::Bad(why) if why.contains("Health/Check")),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn without_an_address_or_a_runtime_nothing_is_learnt() {
    let runtime = FakeRuntime::new(Clock::Wall);
    runtime.set_command("web", "check", CommandBehavior::default());
    let nowhere = Place {
        address: None,
        ..place(1)
    };
    let asked = ask(&runtime, &nowhere, &probe(Handler::HttpGet(http("/")))).await;
    assert_eq!(
        asked,
        Answer::Nothing("the pod's address is not known".to_owned())
    );
    let exec = Handler::Exec(ExecAction {
        command: vec!["check".to_owned()],
    });
    let gone = ask(&runtime, &place(1), &probe(exec)).await;
    assert!(matches!(gone, Answer::Nothing(_)), "{gone:?}");
}
