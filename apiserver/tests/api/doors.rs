//! The other ways in: gRPC-Web, reflection, health, and the metrics' own address.

use clone8s::v1::*;
use clone8s_integration::wait;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::*;

#[tokio::test]
async fn a_browser_calls_by_grpc_web_over_http_1() {
    let server = Server::start().await;
    let created = create_pod(&server.root(), pod("web")).await;
    let body = GetPodRequest {
        name: "web".into(),
        ..GetPodRequest::default()
    }
    .encode_to_vec();
    let mut request = format!(
        "POST /clone8s.v1.PodService/GetPod HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
        body.len() + 5
    )
    .into_bytes();
    request.push(0);
    request.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    request.extend(body);
    let mut socket = UnixStream::connect(server.file("run/api.sock")).await.unwrap();
    socket.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("grpc-status:0"), "{text}");
    assert!(text.contains(&created.metadata.unwrap().uid), "{text}");
    server.stop().await;
}

/// What reflection answers to one question.
async fn reflected(server: &Server, question: MessageRequest) -> Option<MessageResponse> {
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let mut answers = ServerReflectionClient::new(server.root())
        .server_reflection_info(futures::stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    answers.message().await.unwrap().unwrap().message_response
}

#[tokio::test]
async fn reflection_lists_every_service_that_is_served_and_no_other() {
    let server = Server::start().await;
    let answer = reflected(&server, MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("not a list: {answer:?}");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "clone8s.v1.ConfigMapService",
            "clone8s.v1.EventService",
            "clone8s.v1.LeaseService",
            "clone8s.v1.LimitRangeService",
            "clone8s.v1.MaintenanceService",
            "clone8s.v1.NamespaceService",
            "clone8s.v1.NodeService",
            "clone8s.v1.PodService",
            "clone8s.v1.PriorityClassService",
            "clone8s.v1.RegistrationService",
            "clone8s.v1.ResourceQuotaService",
            "clone8s.v1.SecretService",
            "clone8s.v1.ServiceAccountService",
            "clone8s.v1.TunnelService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn reflection_describes_the_details_of_errors() {
    let server = Server::start().await;
    for message in [
        "BadRequest",
        "ErrorInfo",
        "PreconditionFailure",
        "ResourceInfo",
        "RetryInfo",
    ] {
        let symbol = format!("google.rpc.{message}");
        let answer = reflected(&server, MessageRequest::FileContainingSymbol(symbol)).await;
        assert!(
            matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))),
            "{message}: {answer:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn calls_are_counted_where_prometheus_reads() {
    let server = Server::start().await;
    create_pod(&server.root(), pod("web")).await;
    get_pod(&server.root(), "missing").await.unwrap_err();
    let watch = pods(&server.root())
        .watch_pods(WatchPodsRequest::default())
        .await
        .unwrap();
    let expected = [
        r#"grpc_server_handled_total{grpc_service="clone8s.v1.PodService",grpc_method="CreatePod",grpc_code="Ok"} 1"#,
        r#"grpc_server_handled_total{grpc_service="clone8s.v1.PodService",grpc_method="GetPod",grpc_code="NotFound"} 1"#,
        r#"grpc_server_open_calls{grpc_service="clone8s.v1.PodService",grpc_method="WatchPods"} 1"#,
    ];
    // A call is counted when the server is done with it, which may be after its caller has the answer.
    wait::until("the calls are counted", || async {
        let mut socket = TcpStream::connect(server.metrics_address).await?;
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        for line in expected {
            anyhow::ensure!(text.contains(line), "{line} is missing in {text}");
        }
        Ok(())
    })
    .await;
    drop(watch);
    server.stop().await;
}

#[tokio::test]
async fn the_metrics_address_serves_nothing_else() {
    let server = Server::start().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.metrics_address))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let error = get_pod(&channel, "web").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    server.stop().await;
}

#[tokio::test]
async fn a_call_that_is_not_there_is_told_so_to_an_administrator() {
    let server = Server::start().await;
    let channel = server.root();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<GetPodRequest, GetPodResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/clone8s.v1.PodService/FlyPod");
    let error = grpc
        .unary(tonic::Request::new(GetPodRequest::default()), path, codec)
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    server.stop().await;
}
