//! One router (REST, gRPC, gRPC-Web), its layers, its listeners, and their end.

mod accept;
mod stall;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, Method},
    middleware::{self, Next},
    response::Response,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::{DefaultOnFailure, TraceLayer},
};
use tracing::Level;

use crate::{config::Config, domain::OpenCode, grpc, rest};

/// Longest that connections get for what is left to say once every stream has ended.
const CONNECTION_GRACE: Duration = Duration::from_secs(2);

/// A server that has its ports and answers as soon as it runs.
pub struct Server {
    domain: OpenCode,
    router: Router,
    listeners: Vec<TcpListener>,
    stalls: Arc<stall::Watch>,
    grace: Duration,
}

impl Server {
    /// Opens the domain, which closes what a crash left open, and then binds. The error is a sentence.
    pub async fn bind(config: Config) -> Result<Self, String> {
        let domain = OpenCode::open(config.settings()?).await.map_err(|error| error.to_string())?;
        let mut ports = vec![config.grpc_port, config.http_port];
        ports.dedup();
        let mut listeners = Vec::new();
        for port in ports {
            let address = SocketAddr::new(config.host, port);
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|error| format!("cannot listen on {address}: {error}"))?);
        }
        let router = router(&domain, &config)?;
        let stalls = stall::Watch::new(Duration::from_secs(config.stall_seconds));
        Ok(Self { domain, router, listeners, stalls, grace: Duration::from_secs(config.grace_seconds) })
    }

    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok())
    }

    /// Serves until `stop` is done; then ends streams and turn, and gives running requests the grace time.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { domain, router, listeners, stalls, grace } = self;
        let closing = CancellationToken::new();
        let watching = tokio::spawn(Arc::clone(&stalls).run(closing.clone()));
        // Its share of the time: turn and streams have theirs first, and then have ended.
        let rest = grace.min(CONNECTION_GRACE);
        let serving: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                tokio::spawn(accept::serve(listener, router.clone(), Arc::clone(&stalls), closing.clone(), rest))
            })
            .collect();
        stop.await;
        tracing::info!("stopping");
        // First the turn and the streams, which tell their clients; then the connections, which have no more to say.
        domain.shutdown(grace).await;
        closing.cancel();
        for task in serving {
            let _ = task.await;
        }
        let _ = watching.await;
    }
}

/// Done when the process is asked to end (SIGTERM, or SIGINT as a terminal sends it).
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::error!(%error, "cannot wait for signals");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

/// Asks the running server for its health: HTTP by hand, so that a probe in a container starts no client.
pub fn healthcheck(config: &Config) -> Result<(), String> {
    use std::io::{Read, Write};
    let host = if config.host.is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { config.host };
    let address = SocketAddr::new(host, config.grpc_port);
    let asked = || -> std::io::Result<String> {
        let patience = Duration::from_secs(3);
        let mut stream = std::net::TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().map_err(|error| format!("no answer from {address}: {error}"))?;
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    Err(format!("{address} does not serve: {}", answer.lines().last().unwrap_or_default()))
}

/// The one router. Both listeners serve clones of it.
fn router(domain: &OpenCode, config: &Config) -> Result<Router, String> {
    let rest = rest::router(domain.clone(), config.max_body_bytes, Duration::from_secs(config.stall_seconds));
    let grpc = grpc::router(domain.clone(), config.max_body_bytes);
    let mut app = rest
        .merge(grpc)
        .fallback(fallback)
        .layer(CatchPanicLayer::custom(rest::error::panicked))
        .layer(middleware::from_fn(rest::error::finish));
    if let Some(cors) = cors(&config.cors_origins)? {
        app = app.layer(cors);
    }
    let trace = TraceLayer::new_for_http()
        .make_span_with(span)
        .on_request(())
        .on_response(tower_http::trace::DefaultOnResponse::new().level(Level::DEBUG))
        .on_failure(DefaultOnFailure::new().level(Level::WARN));
    Ok(app
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(trace)
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(middleware::from_fn(sane_request_id)))
}

/// What no route took: in the language that the client speaks.
async fn fallback(request: Request) -> Response {
    let content_type = request.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.starts_with("application/grpc") {
        return grpc::unknown(request).await;
    }
    rest::error::unknown_path(request.uri().path())
}

fn span(request: &Request) -> tracing::Span {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        request_id = header("x-request-id"),
        traceparent = header("traceparent"),
    )
}

/// Drops a request id that could not be logged and echoed as it is; one is made in its place.
async fn sane_request_id(mut request: Request, next: Next) -> Response {
    let name = HeaderName::from_static("x-request-id");
    let sane = request.headers().get(&name).is_none_or(|value| {
        !value.is_empty() && value.len() <= 128 && value.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    if !sane {
        request.headers_mut().remove(&name);
    }
    next.run(request).await
}

/// CORS for the origins that were named; none without.
fn cors(origins: &[String]) -> Result<Option<CorsLayer>, String> {
    let origins: Vec<&str> = origins.iter().map(|origin| origin.trim()).filter(|origin| !origin.is_empty()).collect();
    if origins.is_empty() {
        return Ok(None);
    }
    let allowed = if origins.contains(&"*") {
        AllowOrigin::any()
    } else {
        let parsed: Result<Vec<HeaderValue>, _> = origins.iter().map(|origin| origin.parse()).collect();
        AllowOrigin::list(parsed.map_err(|_| "OPENCODE_CORS_ORIGINS has a name that is no origin")?)
    };
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let names = |names: &[&'static str]| names.iter().copied().map(HeaderName::from_static).collect::<Vec<_>>();
    Ok(Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods(methods)
            .allow_headers(names(&[
                "authorization",
                "content-type",
                "accept",
                "last-event-id",
                "prefer",
                "cache-control",
                "x-request-id",
                "traceparent",
                "x-grpc-web",
                "x-user-agent",
                "grpc-timeout",
                "if-match",
                "if-none-match",
                "if-modified-since",
                "if-unmodified-since",
                "if-range",
                "range",
            ]))
            .expose_headers(names(&[
                "location",
                "retry-after",
                "x-request-id",
                "event-cursor",
                "preference-applied",
                "grpc-status",
                "grpc-message",
                "grpc-status-details-bin",
                "etag",
                "accept-ranges",
                "content-range",
                "content-disposition",
            ]))
            .max_age(Duration::from_secs(600)),
    ))
}
