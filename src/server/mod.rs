//! One router (REST, gRPC, gRPC-Web), its layers, its listeners, and their end.

mod accept;
mod access;
mod doors;
mod leftover;
mod linger;
mod record;
mod signals;
mod stall;

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, Method},
    middleware::{self, Next},
    response::Response,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};

pub use signals::Stop;

use crate::{
    config::{Config, RequestLimits, seconds},
    domain::OpenCode,
    grpc,
    requests::Counts,
    rest,
};

/// Longest that connections get for what is left to say once every stream has ended.
const CONNECTION_GRACE: Duration = Duration::from_secs(2);

/// A server that has its ports and answers as soon as it runs.
pub struct Server {
    domain: OpenCode,
    router: Router,
    listeners: Vec<TcpListener>,
    stalls: Arc<stall::Watch>,
    limits: RequestLimits,
    drain: Duration,
}

impl Server {
    /// Opens the domain, which closes what a crash left open, and then binds. The error is a sentence.
    pub async fn bind(config: Config) -> Result<Self, String> {
        let domain = OpenCode::open(config.settings()?).await.map_err(|error| error.to_string())?;
        match begin(&domain, &config).await {
            Ok((listeners, router)) => {
                let (workspace, data_dir) = domain.folders();
                tracing::info!(workspace = %workspace.display(), data_dir = %data_dir.display(), "ready");
                let stalls = stall::Watch::new(seconds(config.stall_seconds));
                let drain = config.lifecycle.drain();
                Ok(Self { domain, router, listeners, stalls, limits: config.requests, drain })
            }
            Err(sentence) => {
                // What it has begun, such as the look at the workspace, ends in order and without words.
                domain.shutdown(Duration::ZERO).await;
                Err(sentence)
            }
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok())
    }

    /// Serves until `stop` is done; then drains: the running turn has its time, and streams and connections end.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { domain, router, listeners, stalls, limits, drain } = self;
        let connections = Arc::new(Semaphore::new(most_connections(&limits)));
        domain.warm_up();
        let closing = CancellationToken::new();
        let watching = tokio::spawn(Arc::clone(&stalls).run(closing.clone()));
        let serving: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let limits = (limits.clone(), Arc::clone(&connections));
                let (router, stalls, closing) = (router.clone(), Arc::clone(&stalls), closing.clone());
                tokio::spawn(accept::serve(listener, router, stalls, limits, closing, CONNECTION_GRACE))
            })
            .collect();
        stop.await;
        tracing::info!("stopping; a second signal ends the process at once");
        // First the turn and the streams, which tell their clients; then the connections, which have no more to say.
        domain.shutdown(drain).await;
        closing.cancel();
        for task in serving {
            let _ = task.await;
        }
        let _ = watching.await;
    }
}

/// Listens, and begins the turns that wait, which a start that cannot listen leaves as they are.
async fn begin(domain: &OpenCode, config: &Config) -> Result<(Vec<TcpListener>, Router), String> {
    let listeners = listen(config).await?;
    let ports = listeners.iter().filter_map(|listener| Some(listener.local_addr().ok()?.port())).collect();
    let router = router(domain, config, ports)?;
    domain.load_queue().await.map_err(|error| error.to_string())?;
    Ok((listeners, router))
}

/// Connections may take most of the file descriptors that there are, and leave some for files.
fn most_connections(limits: &RequestLimits) -> usize {
    const FOR_FILES: u64 = 128;
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = descriptors.saturating_sub(FOR_FILES).max(FOR_FILES / 2).min(u64::from(limits.max_connections));
    usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

/// Binds the ports. The error is a sentence that names the setting.
async fn listen(config: &Config) -> Result<Vec<TcpListener>, String> {
    let mut ports = vec![("GRPC_PORT", config.grpc_port), ("HTTP_PORT", config.http_port)];
    ports.dedup_by_key(|(_, port)| *port);
    let mut listeners = Vec::new();
    for (setting, port) in ports {
        let address = SocketAddr::new(config.host, port);
        let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => format!("{address} is taken by another program; set {setting} to another port"),
            ErrorKind::AddrNotAvailable => {
                format!("{} is no address of this machine; set OPENCODE_HOST to one of its own", config.host)
            }
            _ => format!("cannot listen on {address}: {error}"),
        });
        listeners.push(listener?);
    }
    Ok(listeners)
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
fn router(domain: &OpenCode, config: &Config, ports: Vec<u16>) -> Result<Router, String> {
    let guard = Arc::new(access::Guard::new(domain.clone(), config, ports)?);
    let (stall, counts) = (seconds(config.stall_seconds), Counts::default());
    let rest = rest::router(domain.clone(), config.requests.max_body_bytes, stall, counts.clone());
    let grpc = grpc::router(domain.clone(), config.requests.max_body_bytes);
    let mut app = doors::router(rest, grpc)
        .layer(middleware::from_fn_with_state(guard, access::admit))
        .layer(CatchPanicLayer::custom(rest::error::panicked))
        .layer(middleware::from_fn(rest::error::finish));
    if let Some(cors) = cors(&config.cors_origins)? {
        app = app.layer(cors);
    }
    Ok(app
        .layer(middleware::from_fn(leftover::tell))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(middleware::from_fn_with_state(counts, record::keep))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(middleware::from_fn(sane_request_id)))
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

/// An origin as browsers send it. Any other text would never match, and nobody would know why.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let own = url::Url::parse(text).map(|url| url.origin()).ok().filter(url::Origin::is_tuple);
    match own.map(|origin| origin.ascii_serialization()) {
        Some(own) if own == text => HeaderValue::try_from(own).map_err(|error| error.to_string()),
        Some(own) => Err(format!("OPENCODE_CORS_ORIGINS has \"{text}\"; the origin is written {own}")),
        None => Err(format!("OPENCODE_CORS_ORIGINS has \"{text}\", which is no origin such as https://example.org")),
    }
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
        let parsed: Result<Vec<HeaderValue>, String> = origins.iter().map(|text| origin(text)).collect();
        AllowOrigin::list(parsed?)
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
                "idempotency-key",
                "prefer",
                "cache-control",
                "x-request-id",
                "x-reply-token",
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
                "idempotent-replayed",
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
