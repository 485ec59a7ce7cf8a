//! The accept loop: what axum's own lacks (h2 keep-alive, a limit on slow headers, an end with a deadline).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpConnectInfo;
use tower::ServiceExt;

use super::{
    leftover,
    linger::Lingering,
    stall::{self, Watch},
};
use crate::config::{RequestLimits, seconds};

/// Most bytes that a connection or an h2 stream keeps of what its client does not take.
const SEND_BUFFER: usize = 16 * 1024;
/// An h2 client that is silent this long is pinged.
const PING_AFTER: Duration = Duration::from_secs(20);
/// An h2 client that does not answer a ping for this long is gone.
const PING_TIME: Duration = Duration::from_secs(10);
/// Most headers of an h1 request.
const MAX_HEADERS: usize = 64;
/// How long the rest of HTTP/2's first bytes is waited for at a time.
const HALF_A_PREFACE: Duration = Duration::from_millis(20);
/// After a failed accept (no file descriptors left): time for others to go.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves a listener until `closing`; then lets running requests finish for at most `grace`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    stalls: Arc<Watch>,
    (limits, connections): (RequestLimits, Arc<Semaphore>),
    closing: CancellationToken,
    grace: Duration,
) {
    let header_time = seconds(limits.header_seconds);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_time)
        .max_headers(MAX_HEADERS)
        .max_buf_size((limits.max_header_bytes as usize).max(SEND_BUFFER));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams_per_connection)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIME)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buf_size(SEND_BUFFER);
    let graceful = GracefulShutdown::new();
    loop {
        let accept = async {
            // First, so that who cannot be served yet waits in the kernel's queue and costs nothing here.
            let place = Arc::clone(&connections).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, (stream, peer)) = tokio::select! {
            () = closing.cancelled() => break,
            (place, accepted) = accept => (place, match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            }),
        };
        // Latency matters more than a few packets; a failure here only costs that.
        let _ = stream.set_nodelay(true);
        let local_addr = stream.local_addr().ok();
        let stalled = CancellationToken::new();
        let (stalls, cut) = (Arc::clone(&stalls), stalled.clone());
        let service = router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            // What tonic calls the peer's address.
            request.extensions_mut().insert(TcpConnectInfo { local_addr, remote_addr: Some(peer) });
            request.map(Body::new)
        });
        let unread = Arc::new(AtomicBool::new(false));
        let marked = Arc::clone(&unread);
        let service = service.map_response(move |response| {
            if leftover::is_told(&response) {
                marked.store(true, Ordering::Relaxed);
            }
            stall::guard(response, &stalls, &cut)
        });
        let (builder, watcher, closing) = (builder.clone(), graceful.watcher(), closing.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                speaks = speaks(&stream, header_time) => if !speaks {
                    return;
                },
                () = closing.cancelled() => return,
            }
            let stream = TokioIo::new(Lingering::new(stream, unread));
            let connection = builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(service));
            let connection = watcher.watch(connection.into_owned());
            tokio::select! {
                // A client that goes away is no news.
                _ = connection => {}
                () = stalled.cancelled() => tracing::info!(%peer, "closed a connection whose reader took nothing"),
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(grace, graceful.shutdown()).await;
}

/// Waits until a client has said which HTTP it speaks; false where that takes too long. That version is read without a limit
/// by what comes behind.
async fn speaks(stream: &TcpStream, time: Duration) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let told = async {
        let mut bytes = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut bytes).await {
                Ok(0) | Err(_) => return false,
                Ok(count) if count == PREFACE.len() || bytes[..count] != PREFACE[..count] => return true,
                // What is there already would be told again at once.
                Ok(_) => tokio::time::sleep(HALF_A_PREFACE).await,
            }
        }
    };
    tokio::time::timeout(time, told).await.unwrap_or(false)
}
