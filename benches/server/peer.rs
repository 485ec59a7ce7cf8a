//! What the server is measured beside: the same crates without it. A bare axum router with `/health` and an event
//! stream that is a `broadcast` channel, and a bare tonic server with the standard health service.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Body,
    extract::State,
    http::header,
    response::IntoResponse,
    routing::{get, patch},
    serve::ListenerExt,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{net::TcpListener, sync::broadcast};

use crate::{Result, process::Process};

/// The argument that makes this binary the peer.
pub(crate) const ARGUMENT: &str = "--peer";
/// Events that the peer keeps for slow readers.
const KEPT: usize = 1024;

/// A running peer.
pub(crate) struct Peer {
    pub(crate) process: Process,
    /// Of axum.
    pub(crate) http: SocketAddr,
    /// Of tonic.
    pub(crate) grpc: SocketAddr,
}

impl Peer {
    pub(crate) fn start() -> Result<Self> {
        let mut process = Process::own(&[ARGUMENT])?;
        let (http, grpc) = (process.address()?, process.address()?);
        Ok(Self { process, http, grpc })
    }
}

/// Is the peer until it is ended.
pub(crate) fn run() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let router = Router::new()
            .route("/health", get(|| async { axum::Json(serde_json::json!({"status": "serving", "version": "0"})) }))
            .route("/events", get(events))
            .route("/session", patch(publish))
            .with_state(broadcast::channel(KEPT).0);
        let loopback = (std::net::Ipv4Addr::LOCALHOST, 0);
        let (http, grpc) = (TcpListener::bind(loopback).await?, TcpListener::bind(loopback).await?);
        println!("listening on http://{}", http.local_addr()?);
        println!("listening on http://{}", grpc.local_addr()?);
        let (_reporter, health) = tonic_health::server::health_reporter();
        let incoming = tonic::transport::server::TcpIncoming::from(grpc).with_nodelay(Some(true));
        let grpc = tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming);
        let http = http.tap_io(|stream| drop(stream.set_nodelay(true)));
        let http = async { axum::serve(http, router).await };
        tokio::select! {
            ended = http => ended?,
            ended = grpc => ended?,
        }
        Ok(())
    })
}

async fn events(State(sender): State<broadcast::Sender<Bytes>>) -> impl IntoResponse {
    let first = futures_util::stream::once(async { Ok(Bytes::from_static(b"id: 0\n\n")) });
    let rest = futures_util::stream::unfold(sender.subscribe(), |mut receiver| async move {
        Some((receiver.recv().await, receiver))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(first.chain(rest)))
}

/// The body of the request is the event.
async fn publish(State(sender): State<broadcast::Sender<Bytes>>, body: Bytes) {
    let event = [b"id: 1\nevent: session_updated\ndata: ", &body[..], b"\n\n"].concat();
    let _ = sender.send(event.into());
}
